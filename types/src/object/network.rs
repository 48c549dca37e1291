//! Networks.

use serde::Serialize;

use super::Meta;
use crate::id::{NetworkId, StackId};
use crate::spec::NetworkSpec;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: NetworkId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: NetworkSpec,
    /// The stack that it was applied with.
    #[serde(rename = "StackID", skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    /// Whether it came with the cluster and cannot be removed.
    pub predefined: bool,
}
