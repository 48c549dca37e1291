//! The cluster itself: one object.

use std::fmt;

use serde::Serialize;

use super::{Meta, TunnelKeys};
use crate::id::{ClusterId, NodeId};
use crate::level::Level;
use crate::spec::ClusterSpec;
use crate::time::Timestamp;

/// The cluster itself: one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cluster {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: ClusterId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Settings.
    pub spec: ClusterSpec,
    /// What signs certificates.
    pub root_ca: RootCa,
    /// What lets nodes in; never serialised for people.
    #[serde(skip)]
    pub join_tokens: JoinTokens,
    /// What all of its managers can do, and so may be asked for. People raise it; it never falls.
    pub level: Level,
    /// How far it is with the keys of the tunnels between its nodes.
    pub tunnel_keys: TunnelKeys,
    /// Whose certificates as managers count no more, though they are valid: the oldest first.
    #[serde(skip)]
    pub former_managers: Vec<FormerManager>,
}

impl Cluster {
    /// Since when a node is a manager no more, if it was one and has not become one again.
    #[must_use]
    pub fn dismissed(&self, node: NodeId) -> Option<Timestamp> {
        self.former_managers.iter().find(|former| former.node == node).map(|former| former.since)
    }
}

/// A node that was a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerManager {
    /// Which node, which may have been removed.
    pub node: NodeId,
    /// Since when it is none.
    pub since: Timestamp,
}

impl FormerManager {
    /// So many are remembered. Managers come and go a few times in a year.
    pub const MAX: usize = 1000;
}

/// The root certificate and its key.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootCa {
    /// Certificate, PEM.
    #[serde(rename = "TrustRoot")]
    pub cert_pem: String,
    /// Private key, PKCS #8 PEM; never serialised for people.
    #[serde(skip)]
    pub key_pem: String,
}

impl fmt::Debug for RootCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootCa").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// Secrets of the standing join tokens, 25 base-36 characters each.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinTokens {
    /// Lets an agent in.
    pub agent: String,
    /// Lets a manager in.
    pub manager: String,
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokens { .. }")
    }
}
