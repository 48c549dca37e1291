//! Stacks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::Meta;
use crate::id::{NetworkId, ServiceId, StackId};
use crate::spec::StackSpec;
use crate::time::Timestamp;

/// A set of objects that are applied together, with what was applied before.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stack {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: StackId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What was applied last.
    pub spec: Arc<StackSpec>,
    /// Its services, by full name. May hold more than the spec: without pruning, a service that
    /// left the file stays.
    pub services: BTreeMap<String, ServiceId>,
    /// Its networks, by full name.
    pub networks: BTreeMap<String, NetworkId>,
    /// Full names of its secrets, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Full names of its configs, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<String>,
    /// Earlier specs, oldest first; at most [`Stack::HISTORY_MAX`].
    pub history: Vec<StackRevision>,
}

impl Stack {
    /// Earlier specs kept.
    pub const HISTORY_MAX: usize = 10;

    /// The earlier version to go back to unless another one is named: the newest that was not
    /// itself left by going back, and that differs from the present one.
    #[must_use]
    pub fn rollback_target(&self) -> Option<&StackRevision> {
        self.good_before(self.meta.spec_version)
    }

    /// The same for a version that has failed, and all that came since, of which it is a part.
    #[must_use]
    pub fn good_before(&self, version: u64) -> Option<&StackRevision> {
        let mut earlier = self.history.iter().rev().filter(|r| r.spec_version < version);
        earlier.find(|r| r.rolled_back.is_none() && r.spec != self.spec)
    }
}

/// A spec that was applied before.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StackRevision {
    /// Spec version of the stack then.
    pub spec_version: u64,
    /// When it was applied.
    pub applied_at: Timestamp,
    /// What was applied.
    pub spec: Arc<StackSpec>,
    /// Why it was left, for people, if the stack went back from it to an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
    /// Whether somebody wanted that, rather than a deployment having failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}
