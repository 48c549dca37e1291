//! Stacks.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{NetworkSpec, ServiceSpec, VolumeSpec};

/// A set of objects that are applied together. Keys are the names of the file; the specs inside
/// carry the full names, mostly `STACK_NAME`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StackSpec {
    /// Unique in the cluster.
    pub name: String,
    /// Services.
    pub services: BTreeMap<String, ServiceSpec>,
    /// Networks.
    pub networks: BTreeMap<String, NetworkSpec>,
    /// Volumes.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Full names of the secrets that belong to it. What is in them is never part of a stack or of its history.
    pub secrets: BTreeMap<String, String>,
    /// Full names of configs, likewise.
    pub configs: BTreeMap<String, String>,
}
