//! Why something about secrets and configs is refused.

use super::RejectedCode;
use crate::event::ObjectKind;

/// Why something about secrets and configs is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadRefused {
    /// A service refers to one that is not there.
    #[error(
        "service {service:?} needs {kind} {name:?}{}, which does not exist: make it first",
        of_version(*.version)
    )]
    Unknown {
        /// Name of the service.
        service: String,
        /// Secret or config.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Which version of it; the latest one if none is said.
        version: Option<u64>,
    },
    /// Somebody has it.
    #[error(
        "{kind} {name:?} is in use by {} {}",
        if .users.len() == 1 { "service" } else { "services" }, .users.join(", ")
    )]
    InUse {
        /// Secret or config.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Names of the services.
        users: Vec<String>,
    },
    /// A service goes over to the new version of which the writer did not know.
    #[error("service {service:?} has come to follow {kind} {name:?} meanwhile: try again")]
    Followed {
        /// Secret or config.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Name of the service.
        service: String,
    },
}

fn of_version(version: Option<u64>) -> String {
    version.map_or_else(String::new, |version| format!(" of version {version}"))
}

impl PayloadRefused {
    pub(super) const fn code(&self) -> RejectedCode {
        match self {
            Self::Unknown { .. } => RejectedCode::InvalidArgument,
            Self::InUse { .. } => RejectedCode::FailedPrecondition,
            Self::Followed { .. } => RejectedCode::Aborted,
        }
    }
}
