//! Nodes.

use serde::Serialize;

use super::Labels;

/// What people want of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeSpec {
    /// A name beside the host name; mostly empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Labels, for placement.
    pub labels: Labels,
    /// What it is to be.
    pub role: NodeRole,
    /// Whether it takes tasks.
    pub availability: Availability,
}

/// What a node is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Runs tasks. Docker calls it a worker.
    #[default]
    #[serde(rename = "worker")]
    Agent,
    /// Takes part in Raft, and runs tasks too.
    Manager,
}

impl NodeRole {
    /// Docker's name of the role.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "worker",
            Self::Manager => "manager",
        }
    }
}

/// Whether a node takes tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// It keeps those it has, and takes no new ones.
    Pause,
    /// It gives away those it has.
    Drain,
}

impl Availability {
    /// Docker's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}
