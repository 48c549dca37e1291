//! Secrets, configs and volumes as objects.

use serde::Serialize;

use super::Meta;
use crate::id::{ConfigId, NodeId, SecretId, VolumeId};
use crate::spec::{ConfigSpec, SecretSpec, VolumeSpec};

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Secret {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: SecretId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: SecretSpec,
}

/// A config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: ConfigId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: ConfigSpec,
}

/// A volume. A local one lives on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: VolumeId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: VolumeSpec,
    /// The node that holds it.
    #[serde(rename = "NodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
}
