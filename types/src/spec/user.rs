//! Users: who may do what by way of the control API.

use std::fmt;

use serde::Serialize;

use super::Labels;
use crate::time::Timestamp;

/// What is wanted of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserSpec {
    /// Unique in the cluster.
    pub name: String,
    /// Labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What the user may do.
    pub role: UserRole,
    /// Names of the stacks that a deployer deploys; they need not exist yet. Empty for other roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<String>,
    /// Whether a deployer's services may reach the host: binds, the host's network, more than the
    /// default capabilities, less than the default confinement, volumes and networks of others.
    /// Whoever may do so is root of every node. False for other roles.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_access: bool,
    /// When it ends: no certificate lives longer, and none is accepted afterwards. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl UserSpec {
    /// Whether such a user may do everything, and for as long as nobody takes that back.
    #[must_use]
    pub fn is_lasting_admin(&self) -> bool {
        self.role == UserRole::Admin && self.expires_at.is_none()
    }
}

/// What a user may do. Each role may do what those before it may, a deployer's part of it within
/// the named stacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// Reads everything but secrets and join tokens; runs nothing.
    #[default]
    Viewer,
    /// Deploys, reads and enters its own stacks; sees nodes and networks, and nothing of other
    /// stacks.
    Deployer,
    /// Everything but users and what makes managers.
    Operator,
    /// Everything.
    Admin,
}

impl UserRole {
    /// All roles, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Deployer, Self::Operator, Self::Admin];

    /// Its name in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for UserRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
