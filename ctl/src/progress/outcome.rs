//! How following deployments ends, in words.

use serde::Serialize;

use crate::error::{CommandError, Kind};

/// How it all ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything runs as it was asked for.
    Converged,
    /// At least one service stopped where it was, or only some of what changed went back.
    Failed(Vec<String>),
    /// All that changed is again what it was, and runs.
    RolledBack(Vec<String>),
    /// Something was to go back and did not come up again.
    RollbackFailed(Vec<String>),
    /// Something newer took over.
    Superseded(Vec<String>),
    /// Somebody removed it.
    Removed(Vec<String>),
}

impl Outcome {
    /// What a command ends with.
    pub(super) fn result(self, states: &[ServiceReport]) -> Result<(), CommandError> {
        let (kind, what, list) = match self {
            Self::Converged => return Ok(()),
            Self::Failed(list) => (Kind::DeploymentFailed, "the deployment failed", list),
            Self::RolledBack(list) => {
                (Kind::RolledBack, "the deployment failed and was rolled back", list)
            }
            Self::RollbackFailed(list) => (Kind::RollbackFailed, "the rollback failed", list),
            Self::Superseded(list) => {
                (Kind::Superseded, "something newer took the place of this deployment", list)
            }
            Self::Removed(list) => (Kind::Removed, "removed in the meantime", list),
        };
        let error = CommandError::new(kind, format!("{what}: {}", list.join("; ")));
        let error = states.iter().fold(error, |e, state| e.detail(state.words()));
        Err(match kind {
            Kind::Superseded | Kind::Removed => error,
            _ => error.hint("shoalctl service ps --no-trunc SERVICE shows all its tasks"),
        })
    }
}

/// What has become of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceReport {
    pub(crate) service: String,
    #[serde(rename = "ServiceID")]
    pub(crate) service_id: String,
    pub(crate) state: &'static str,
    pub(crate) running: u64,
    pub(crate) desired: u64,
    /// Why it is so; may be empty.
    pub(crate) message: String,
}

impl ServiceReport {
    pub(super) fn words(&self) -> String {
        let Self { service, state, running, desired, message, .. } = self;
        let state = state.replace('-', " ");
        let why = if message.is_empty() { String::new() } else { format!(": {message}") };
        match *desired {
            _ if state == "removed" => format!("{service} is removed{why}"),
            _ => format!("{service} is {state}, {running} of {desired} run{why}"),
        }
    }
}
