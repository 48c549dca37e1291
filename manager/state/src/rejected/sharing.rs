//! Why a service, or a task, cannot share the network of another one.

use shoal_types::id::{NodeId, TaskId};

use super::RejectedCode;

/// Why a service, or a task, cannot share the network of another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharingRefused {
    /// There is nobody to share with.
    #[error(
        "service {service:?} shares the network of service {other:?}, which does not exist: make that one first"
    )]
    UnknownService {
        /// Name of the service.
        service: String,
        /// Whose network it is to share.
        other: String,
    },
    /// That one shares the network of a third one.
    #[error(
        "service {service:?} cannot share the network of service {other:?}, which itself shares that of {third:?}: \
         expected {third:?}"
    )]
    Chain {
        /// Name of the service.
        service: String,
        /// Whose network it is to share.
        other: String,
        /// Whose network that one shares.
        third: String,
    },
    /// Others share the network of this one.
    #[error(
        "service {service:?} cannot share the network of service {other:?}: service {sharer:?} shares its own"
    )]
    IsShared {
        /// Name of the service.
        service: String,
        /// Whose network it is to share.
        other: String,
        /// Who shares its network.
        sharer: String,
    },
    /// There is no task for each of its tasks.
    #[error(
        "service {service:?} is {mode} and cannot share the network of service {other:?}, which is {wanted}: expected \
         both to be one of these"
    )]
    OtherMode {
        /// Name of the service.
        service: String,
        /// Its mode.
        mode: &'static str,
        /// Whose network it is to share.
        other: String,
        /// The mode of that one.
        wanted: &'static str,
    },
    /// Who may change the one need not be who may change the other.
    #[error(
        "service {service:?} cannot share the network of service {other:?}, which is of another stack: expected one of {}",
        home(*.in_stack)
    )]
    OtherStack {
        /// Name of the service.
        service: String,
        /// Whose network it is to share.
        other: String,
        /// Whether it is of a stack.
        in_stack: bool,
    },
    /// The task's service shares a network, and nobody says that of which task.
    #[error("task {task} shares the network of service {service:?}, and no task of that is named")]
    NoPartner {
        /// The task.
        task: TaskId,
        /// Whose network its service shares.
        service: String,
    },
    /// The task that is named is none that this one can share a network with, or has ended meanwhile.
    #[error("task {task} cannot share the network of task {partner} on node {node}: {why}")]
    UnfitPartner {
        /// The task.
        task: TaskId,
        /// Whose network it was to share.
        partner: TaskId,
        /// Where.
        node: NodeId,
        /// Why not.
        why: &'static str,
    },
}

const fn home(in_stack: bool) -> &'static str {
    if in_stack { "its own stack" } else { "no stack, as it has none" }
}

impl SharingRefused {
    /// What the refusal means to whoever sent the command.
    #[must_use]
    pub const fn code(&self) -> RejectedCode {
        match self {
            Self::UnknownService { .. }
            | Self::Chain { .. }
            | Self::IsShared { .. }
            | Self::OtherMode { .. }
            | Self::OtherStack { .. } => RejectedCode::InvalidArgument,
            Self::NoPartner { .. } | Self::UnfitPartner { .. } => RejectedCode::FailedPrecondition,
        }
    }
}
