//! Secrets, configs and volumes as objects.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Meta, Stack};
use crate::id::{ConfigId, NodeId, SecretId, StackId, VolumeId};
use crate::spec::{
    ConfigSpec, ContainerSpec, Labels, PayloadReference, SecretSpec, StackSpec, VolumeSpec,
};

/// One version of a secret. What is in it never changes: something else is another version, an object
/// of its own under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Secret {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: SecretId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Which version of what has this name, counted from 1.
    #[serde(rename = "Number")]
    pub version: u64,
    /// The stack that it was applied with.
    #[serde(rename = "StackID", skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    /// What the user wants.
    pub spec: SecretSpec,
}

/// One version of a config, as of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: ConfigId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Which version of what has this name, counted from 1.
    #[serde(rename = "Number")]
    pub version: u64,
    /// The stack that it was applied with.
    #[serde(rename = "StackID", skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    /// What the user wants.
    pub spec: ConfigSpec,
}

/// What secrets and configs have in common.
pub trait Payload: Sized + 'static {
    /// Its kind of id.
    type Id: Copy + Ord + 'static;
    /// What users want of it.
    type Spec;

    /// A version of it.
    fn new(
        id: Self::Id,
        meta: Meta,
        version: u64,
        stack_id: Option<StackId>,
        spec: Self::Spec,
    ) -> Self;
    /// Its name.
    fn name(&self) -> &str;
    /// Which version of what has this name.
    fn version(&self) -> u64;
    /// The stack that it was applied with.
    fn stack_id(&self) -> Option<StackId>;
    /// What is in it.
    fn data(&self) -> &[u8];
    /// Its labels.
    fn labels(&self) -> &Labels;
    /// The name in a spec.
    fn name_of(spec: &Self::Spec) -> &str;
    /// Whether another version with this spec would be the same.
    fn is_as(&self, spec: &Self::Spec) -> bool;
    /// Whether a container would be given the same by it.
    fn has_content(&self, spec: &Self::Spec) -> bool;
    /// Those among others.
    fn among(payloads: &Payloads) -> &[Self::Id];
    /// The names of those that belong to a stack, by its keys.
    fn of_stack(spec: &StackSpec) -> &BTreeMap<String, String>;
    /// The names of those that a stack has.
    fn names_of(stack: &Stack) -> &[String];
    /// A container's references to such.
    fn references(container: &ContainerSpec) -> &[PayloadReference];
}

macro_rules! payloads {
    ($($object:ident $id:ident $spec:ident $many:ident;)*) => {$(
        impl Payload for $object {
            type Id = $id;
            type Spec = $spec;

            fn new(
                id: $id,
                meta: Meta,
                version: u64,
                stack_id: Option<StackId>,
                spec: $spec,
            ) -> Self {
                Self { id, meta, version, stack_id, spec }
            }

            fn name(&self) -> &str {
                &self.spec.name
            }

            fn version(&self) -> u64 {
                self.version
            }

            fn stack_id(&self) -> Option<StackId> {
                self.stack_id
            }

            fn data(&self) -> &[u8] {
                &self.spec.data
            }

            fn labels(&self) -> &Labels {
                &self.spec.labels
            }

            fn name_of(spec: &$spec) -> &str {
                &spec.name
            }

            fn is_as(&self, spec: &$spec) -> bool {
                self.spec == *spec
            }

            fn has_content(&self, spec: &$spec) -> bool {
                self.spec.data == spec.data && self.spec.templating == spec.templating
            }

            fn among(payloads: &Payloads) -> &[$id] {
                &payloads.$many
            }

            fn of_stack(spec: &StackSpec) -> &BTreeMap<String, String> {
                &spec.$many
            }

            fn names_of(stack: &Stack) -> &[String] {
                &stack.$many
            }

            fn references(container: &ContainerSpec) -> &[PayloadReference] {
                &container.$many
            }
        }
    )*};
}

payloads! {
    Secret SecretId SecretSpec secrets;
    Config ConfigId ConfigSpec configs;
}

/// Which secrets and configs a container's references mean, each list in the order of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Payloads {
    /// Of its secrets.
    #[serde(rename = "SecretIDs", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretId>,
    /// Of its configs.
    #[serde(rename = "ConfigIDs", skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<ConfigId>,
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
