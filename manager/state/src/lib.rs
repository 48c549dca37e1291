//! The replicated state machine of a shoal cluster.
//!
//! [`ClusterState`] holds every object of the cluster; [`Command`] is everything that can be done
//! to it. Every manager applies the same commands in the same order and so has the same state.
//! The crate is pure: applying reads no clock, draws no random number and has no side effect, and
//! what a command did is returned as [`Event`]s.

mod addresses;
mod apply;
mod cluster_state;
mod command;
mod credentials;
mod event;
mod index;
pub mod invariant;
mod level;
mod members;
mod payload;
pub mod permission;
mod ports;
#[cfg(test)]
mod property_tests;
mod query;
mod reach;
mod rejected;
#[cfg(test)]
mod scale_tests;
mod snapshot;
mod stored;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod usage;

pub use apply::apply;
pub use cluster_state::ClusterState;
pub use command::{
    Command, JoinSecret, Outcome, PredefinedIds, StackIds, StackOutcome, StackPayloads, UpdateKind,
};
pub use credentials::ServiceCredentials;
pub use event::{Action, Event, ObjectKind, ObjectRef};
pub use query::Unresolved;
pub use reach::Reach;
pub use rejected::{
    AddressProblem, ConnectionRefused, PayloadRefused, Rejected, RejectedCode, SharingRefused,
    SubnetHolder,
};
pub use snapshot::ImportError;
pub use usage::NodeUsage;
