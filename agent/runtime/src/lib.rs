//! Running containers: what the worker asks for, without saying how it is done.
//!
//! [`Runtime`] is the contract. `fake::FakeRuntime` is a scripted stand-in for tests of the
//! worker; the real one owns a supervisor process per container.
//!
//! A container's life here: `prepare` (supervisor, root file system, network namespace; the agent
//! then moves interfaces into the namespace of [`Prepared::supervisor_pid`]), `start`, an [`Exit`] on
//! the stream of [`Runtime::take_exits`], `remove`. Every call may be repeated, and `remove` may come
//! at any point, also for a container nobody has heard of.

#[cfg(any(test, feature = "fake"))]
pub mod contract;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod io;
pub mod oci;
#[cfg(feature = "testing")]
pub mod testing;
mod words;

pub use shoal_agent_container::{
    ContainerId, ContainerStats, ExitStatus, InvalidContainerId, Layers, LogLimits, NetworkMode,
    RuntimeError, Stream, TermSize,
};
pub use words::{
    ContainerDisk, ContainerSpec, ExecSession, ExecSpec, Exit, LINE_MAX, LogLine, LogQuery,
    LogStream, Observed, ObservedState, Prepared, Started, Trace,
};

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

/// The answer to a call: dyn-compatible, so that the worker can hold an `Arc<dyn Runtime>`.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// Runs containers on this host.
pub trait Runtime: Send + Sync + 'static {
    /// Finds what an earlier agent left: containers that live on are taken over (same processes,
    /// their exits arrive on the exit stream), those that ended meanwhile report their exit too.
    ///
    /// Call it once, before anything else.
    fn adopt(&self) -> Answer<'_, Vec<Observed>>;

    /// Every container of which there is anything on the host: directories, control groups. Also one that is
    /// being made or removed at that moment, and such as this runtime has not made.
    fn traces(&self) -> Answer<'_, Vec<Trace>>;

    /// The exit of every container that was started, once each. `None` when already taken.
    ///
    /// Also reported: a container whose supervisor died, with a message that says so.
    fn take_exits(&self) -> Option<mpsc::UnboundedReceiver<Exit>>;

    /// Which containers have supervisors that cannot be talked to, and why: those go on, their logs can be
    /// read, they can be stopped and removed; what else can be done shows when it is asked for.
    fn unheard(&self) -> watch::Receiver<BTreeMap<ContainerId, String>>;

    /// Makes everything a container needs short of running it. One that was released is made anew under
    /// its name, and its log goes on.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyExists`] when the id is in use; whatever failed leaves nothing behind but
    /// the log that was there.
    fn prepare<'a>(&'a self, id: &'a ContainerId, spec: ContainerSpec) -> Answer<'a, Prepared>;

    /// Starts a prepared container; returns once its program has been executed.
    ///
    /// # Errors
    /// [`RuntimeError::CommandNotFound`] and [`RuntimeError::CommandNotExecutable`] name the command.
    fn start<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Started>;

    /// The process in whose network namespace a container is that is there, running or prepared.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::NotRunning`].
    fn supervisor<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Prepared>;

    /// Sends a signal (its Linux number) to the container's first process.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when there is none to receive it.
    fn signal<'a>(&'a self, id: &'a ContainerId, signal: i32) -> Answer<'a, ()>;

    /// Stops whatever still runs and removes every trace: processes, mounts, namespaces, control
    /// groups, directories (with the log). Unknown ids are fine. Goes on after an error and reports
    /// all of them; call it again until it succeeds.
    fn remove<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()>;

    /// As [`Runtime::remove`], but the log stays, to be read until the container is removed, and with
    /// it the record of how the container ended. For a container that was started.
    fn release<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()>;

    /// Runs a further process in a running container, under the container's confinement.
    ///
    /// # Errors
    /// As [`Runtime::start`], and [`RuntimeError::NotRunning`].
    fn exec<'a>(&'a self, id: &'a ContainerId, spec: ExecSpec) -> Answer<'a, ExecSession>;

    /// Reads the container's log, also after its exit and until it is removed.
    fn logs<'a>(&'a self, id: &'a ContainerId, query: LogQuery) -> Answer<'a, LogStream>;

    /// What the container uses now.
    fn stats<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerStats>;

    /// How much of the disk it takes, also after its end.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`].
    fn disk<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerDisk>;
}
