//! Stacks.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec, VolumeSpec};

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
    /// Secrets.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// Configs.
    pub configs: BTreeMap<String, ConfigSpec>,
}
