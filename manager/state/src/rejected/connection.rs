//! Why a task cannot be connected to a network, or disconnected.

use shoal_types::task_state::{DesiredState, TaskState};

use super::RejectedCode;

/// Why a task cannot be connected to a network, or disconnected. Tasks are called `service.slot`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionRefused {
    /// A task is not connected to a network any more, or never will be.
    #[error(
        "task {task} is {state}, desired {desired}: expected one that has not ended and is not to stop"
    )]
    NotWanted {
        /// Name of the task.
        task: String,
        /// Its state.
        state: TaskState,
        /// Its desired state.
        desired: DesiredState,
    },
    /// A network, or one that the task has, excludes all others.
    #[error(
        "task {task} cannot be connected to network {network:?}: {excluding:?} excludes all others"
    )]
    Excluded {
        /// Name of the task.
        task: String,
        /// Name of the network.
        network: String,
        /// Name of that which excludes others.
        excluding: String,
    },
    /// The task has no network of its own.
    #[error(
        "task {task} cannot be connected to network {network:?}: it shares the network of service {service:?}, so \
         connect the task of that one"
    )]
    Shares {
        /// Name of the task.
        task: String,
        /// Name of the network.
        network: String,
        /// Whose network its service shares.
        service: String,
    },
    /// The task has joined the network already.
    #[error("task {task} is connected to network {network:?} already")]
    AlreadyConnected {
        /// Name of the task.
        task: String,
        /// Name of the network.
        network: String,
    },
    /// There is nothing to disconnect.
    #[error("task {task} is not connected to network {network:?}")]
    NotConnected {
        /// Name of the task.
        task: String,
        /// Name of the network.
        network: String,
    },
    /// All tasks of the service join the network.
    #[error(
        "task {task} is on network {network:?} because its service {service:?} names it: take it from the \
         service with shoalctl service update --network-rm {network} {service}"
    )]
    OfService {
        /// Name of the task.
        task: String,
        /// Name of the network.
        network: String,
        /// Name of the service.
        service: String,
    },
}

impl ConnectionRefused {
    /// What the refusal means to whoever sent the command.
    #[must_use]
    pub const fn code(&self) -> RejectedCode {
        match self {
            Self::AlreadyConnected { .. } => RejectedCode::AlreadyExists,
            Self::NotWanted { .. }
            | Self::Excluded { .. }
            | Self::Shares { .. }
            | Self::NotConnected { .. }
            | Self::OfService { .. } => RejectedCode::FailedPrecondition,
        }
    }
}
