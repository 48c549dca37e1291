//! The manager of shoal: the Raft log, the cluster state, the CA, every control loop, the gRPC API.
//!
//! A shell crate: it receives, converts, asks a pure function, performs and reports.
//!
//! - [`raft`], [`machine`]: the replicated log and the state over it
//! - [`cluster`]: the handle through which everything else reads and writes
//! - [`api`]: what `shoalctl` calls; [`dispatcher`]: what agents call; [`broker`]: logs and exec
//! - [`forward`]: calls on their way to the leader; [`leader`]: the control loops; [`managers`]: the managers
//!   beside this one
//! - [`ca`], [`auth`], [`membership`], [`bootstrap`]: who is who

pub mod api;
pub mod auth;
pub mod bootstrap;
pub mod broker;
pub mod ca;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod dispatcher;
pub mod feed;
pub mod forward;
pub mod leader;
pub mod machine;
pub mod managers;
pub mod membership;
pub mod raft;
pub mod removal;
pub mod server;
