//! One container: the process that owns it, and what that process is made of.
//!
//! No async runtime can be named here, neither by this crate nor by what it depends on: a supervisor
//! has one thread, because it forks, and it lives as long as its container does. `make verify` looks at
//! the tree of dependencies. All `unsafe` code of the agent is in [`sys`].
//!
//! What is said to a supervisor and written for it outlives the program that says it: see
//! [`supervise::protocol`].

pub mod cgroup;
mod error;
mod process;
pub mod seccomp;
pub mod supervise;
pub mod sys;
mod words;

pub use error::RuntimeError;
pub use process::ProcessIdentity;
pub use shoal_agent_planning::task::ExitStatus;
pub use words::{
    ContainerId, ContainerStats, InvalidContainerId, Layers, LogLimits, NetworkMode, Stream,
    TermSize,
};
