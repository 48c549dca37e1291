//! Deployments: one rollout of one spec version, an object of its own so that its progress never
//! counts as a change of the service.

use serde::Serialize;

use super::Meta;
use crate::id::{DeploymentId, ServiceId};
use crate::time::Timestamp;

/// One rollout of one spec version of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Deployment {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: DeploymentId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// The service.
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// The version of its spec that is rolled out.
    pub service_version: u64,
    /// The spec version of the stack that it was begun with, if a stack was applied or put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_version: Option<u64>,
    /// What led to it.
    pub kind: DeploymentKind,
    /// How far it is.
    pub state: DeploymentState,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Why it is where it is, for people.
    pub message: String,
}

/// What led to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentKind {
    /// The service was created.
    Create,
    /// Its spec was updated.
    Update,
    /// Its previous spec was put back.
    Rollback,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentState {
    /// Tasks are being replaced or watched.
    Updating,
    /// All tasks are of its version and have lived through the monitoring time.
    Completed,
    /// It failed and stopped where it was.
    Paused,
    /// It failed and the previous spec was put back by a deployment of its own.
    RolledBack,
    /// A newer one took its place.
    Superseded,
}

impl DeploymentState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Updating)
    }

    /// The name in lower case, as it is serialised.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Completed => "completed",
            Self::Paused => "paused",
            Self::RolledBack => "rolled-back",
            Self::Superseded => "superseded",
        }
    }
}
