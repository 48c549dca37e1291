//! Of which kind each refusal is.

use super::{AddressProblem, Rejected, RejectedCode};

impl Rejected {
    /// What the refusal means to whoever sent the command.
    #[must_use]
    pub const fn code(&self) -> RejectedCode {
        match self {
            Self::NotFound { .. } => RejectedCode::NotFound,
            Self::ClusterExists { .. } | Self::IdTaken { .. } | Self::NameTaken { .. } => {
                RejectedCode::AlreadyExists
            }
            Self::Connection(refused) => refused.code(),
            Self::Sharing(refused) => refused.code(),
            Self::Payload(refused) => refused.code(),
            Self::OutOfSequence { .. }
            | Self::TunnelEpochs(..)
            | Self::StaleTask { .. }
            | Self::TriedAtOnce { .. } => RejectedCode::Aborted,
            Self::NameImmutable { .. }
            | Self::ModeImmutable { .. }
            | Self::UnknownNetwork { .. }
            | Self::NetworkTwice { .. }
            | Self::ExclusiveNetwork { .. }
            | Self::PortsOnWire { .. }
            | Self::NetworkWithoutAddresses { .. }
            | Self::NoWayInByV4 { .. }
            | Self::NoWayInByV6 { .. }
            | Self::HostNetworkById { .. }
            | Self::SubnetUnusable { .. }
            | Self::AddressUnusable {
                problem:
                    AddressProblem::Local
                    | AddressProblem::Outside { .. }
                    | AddressProblem::Nobodys
                    | AddressProblem::Several,
                ..
            }
            | Self::StackIdMissing { .. }
            | Self::StackNameTwice { .. }
            | Self::SlotMismatch { .. }
            | Self::DesiredAtStart { .. }
            | Self::CredentialsForNothing => RejectedCode::InvalidArgument,
            Self::NoCluster
            | Self::TooNew { .. }
            | Self::ManagerTooOld { .. }
            | Self::LevelBelow { .. }
            | Self::NodeTooOld { .. }
            | Self::NoDriver { .. }
            | Self::PredefinedNetwork { .. }
            | Self::NetworkInUse { .. }
            | Self::NetworkImmutable { .. }
            | Self::SubnetTaken { .. }
            | Self::PoolsExhausted { .. }
            | Self::NoFreeAddress { .. }
            | Self::AddressUnusable { problem: AddressProblem::Taken { .. }, .. }
            | Self::AddressAwaited { .. }
            | Self::PortInUse { .. }
            | Self::NoFreePort { .. }
            | Self::NoRevision { .. }
            | Self::NodeInUse { .. }
            | Self::NodeIsManager { .. }
            | Self::LastManager { .. }
            | Self::LastAdmin { .. }
            | Self::FirstUser { .. }
            | Self::DesiredBackwards { .. }
            | Self::TaskNotPending { .. }
            | Self::TaskNotEnded { .. }
            | Self::WrongNode { .. }
            | Self::NodeTakesNoTasks { .. }
            | Self::NoRoom { .. }
            | Self::PortTaken { .. }
            | Self::SlotTaken { .. }
            | Self::DeploymentEnded { .. } => RejectedCode::FailedPrecondition,
        }
    }
}
