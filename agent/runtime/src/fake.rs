//! A scripted runtime, for tests of what stands above it.
//!
//! Containers exist in memory only. By default everything succeeds and a started container runs until
//! a test ends it with [`FakeRuntime::exit`], or a SIGTERM or SIGKILL does. [`FakeRuntime::fail`] makes
//! the next call of a kind fail; [`FakeRuntime::crash`] plays the death of the agent: a new
//! [`FakeRuntime`] made from the old one's [`FakeRuntime::host`] adopts what was running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt, future, stream};
use tokio::sync::{mpsc, watch};

use crate::{
    Answer, ContainerDisk, ContainerId, ContainerSpec, ContainerStats, ExecSession, ExecSpec, Exit,
    ExitStatus, LogLine, LogQuery, LogStream, Observed, ObservedState, Prepared, Runtime,
    RuntimeError, Started, Trace,
};

/// A kind of call, for scripting failures and reading the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Runtime::prepare`].
    Prepare,
    /// [`Runtime::start`].
    Start,
    /// [`Runtime::signal`].
    Signal(i32),
    /// [`Runtime::remove`].
    Remove,
    /// [`Runtime::release`].
    Release,
    /// [`Runtime::exec`].
    Exec,
}

/// A container of the fake.
#[derive(Debug, Clone)]
pub struct FakeContainer {
    /// What it was prepared from.
    pub spec: ContainerSpec,
    /// Its made-up supervisor.
    pub supervisor_pid: i32,
    /// Its made-up process, while it runs.
    pub pid: Option<i32>,
    /// Its end.
    pub exited: Option<ExitStatus>,
    /// Its log.
    pub log: Vec<LogLine>,
    /// Whether SIGTERM is ignored.
    pub ignores_term: bool,
    /// Whether nothing but its log is left.
    pub released: bool,
}

/// What lives on when the agent dies.
#[derive(Debug, Default)]
pub struct FakeHost {
    containers: BTreeMap<ContainerId, FakeContainer>,
    calls: Vec<(ContainerId, Call)>,
    failures: Vec<(Option<ContainerId>, Call, RuntimeError)>,
    exec_codes: BTreeMap<Vec<String>, i32>,
    stubborn: BTreeSet<ContainerId>,
    hanging: BTreeSet<ContainerId>,
    begun: BTreeMap<ContainerId, u32>,
    last_pid: i32,
    exits: Option<mpsc::UnboundedSender<Exit>>,
}

/// The fake itself; clones share the same host.
#[derive(Debug, Clone)]
pub struct FakeRuntime {
    host: Arc<Mutex<FakeHost>>,
    exits: Arc<Mutex<Option<mpsc::UnboundedReceiver<Exit>>>>,
    unheard: watch::Sender<BTreeMap<ContainerId, String>>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::on(Arc::default())
    }
}

impl FakeRuntime {
    /// A runtime on a host with containers from before, as a restarted agent finds it.
    #[must_use]
    pub fn on(host: Arc<Mutex<FakeHost>>) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        host.lock().unwrap_or_else(PoisonError::into_inner).exits = Some(tx);
        Self { host, exits: Arc::new(Mutex::new(Some(rx))), unheard: watch::Sender::default() }
    }

    /// The host, to hand to the next [`FakeRuntime::on`].
    #[must_use]
    pub fn host(&self) -> Arc<Mutex<FakeHost>> {
        Arc::clone(&self.host)
    }

    fn lock(&self) -> MutexGuard<'_, FakeHost> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a supervisor mute for this reason, or well again.
    pub fn mute(&self, id: &ContainerId, why: Option<&str>) {
        self.unheard.send_modify(|all| match why {
            Some(why) => {
                all.insert(id.clone(), why.to_owned());
            }
            None => {
                all.remove(id);
            }
        });
    }

    /// Makes the next such call fail, for one container or for whichever comes first.
    pub fn fail(&self, id: Option<&ContainerId>, call: Call, error: RuntimeError) {
        self.lock().failures.push((id.cloned(), call, error));
    }

    /// Makes a container that will ignore SIGTERM once prepared.
    pub fn ignore_term(&self, id: &ContainerId) {
        self.lock().stubborn.insert(id.clone());
    }

    /// Makes starts of a container hang, until they go on.
    pub fn hang_start(&self, id: &ContainerId) {
        self.lock().hanging.insert(id.clone());
    }

    /// Lets them go on.
    pub fn go_on(&self, id: &ContainerId) {
        self.lock().hanging.remove(id);
    }

    /// Sets the code that executing exactly this command gives (zero by default).
    pub fn exec_code(&self, argv: &[&str], code: i32) {
        self.lock().exec_codes.insert(argv.iter().map(ToString::to_string).collect(), code);
    }

    /// Ends a running container.
    pub fn exit(&self, id: &ContainerId, status: ExitStatus) {
        self.lock().exit(id, status);
    }

    /// Adds a line to a container's log.
    pub fn log(&self, id: &ContainerId, line: LogLine) {
        if let Some(c) = self.lock().containers.get_mut(id) {
            c.log.push(line);
        }
    }

    /// The containers there are.
    #[must_use]
    pub fn containers(&self) -> BTreeMap<ContainerId, FakeContainer> {
        self.lock().containers.clone()
    }

    /// Every call made so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<(ContainerId, Call)> {
        self.lock().calls.clone()
    }

    /// How often the program of each container was begun.
    #[must_use]
    pub fn begun(&self) -> BTreeMap<ContainerId, u32> {
        self.lock().begun.clone()
    }

    /// Plays a reboot of the host after [`FakeRuntime::crash`]: nothing runs any more, and nobody knows
    /// how it ended.
    pub fn reboot(&self) {
        self.lock().reboot();
    }

    /// Plays the death of the agent: nobody hears of exits until the next [`FakeRuntime::on`].
    pub fn crash(&self) {
        self.lock().exits = None;
    }
}

impl FakeHost {
    fn begin(&mut self, id: &ContainerId, call: Call) -> Result<(), RuntimeError> {
        self.calls.push((id.clone(), call));
        let hit = self.failures.iter().position(|(only, kind, _)| {
            *kind == call && only.as_ref().is_none_or(|only| only == id)
        });
        hit.map_or(Ok(()), |i| Err(self.failures.remove(i).2))
    }

    fn get(&mut self, id: &ContainerId) -> Result<&mut FakeContainer, RuntimeError> {
        self.containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound { id: id.clone() })
    }

    fn running(&mut self, id: &ContainerId) -> Result<&mut FakeContainer, RuntimeError> {
        let c = self.get(id)?;
        match c.pid {
            Some(_) => Ok(c),
            None => Err(RuntimeError::NotRunning { id: id.clone() }),
        }
    }

    fn next_pid(&mut self) -> i32 {
        self.last_pid += 1;
        // Above the kernel's largest process id, so that nobody is hit by accident.
        4_194_304 + self.last_pid
    }

    fn exit(&mut self, id: &ContainerId, status: ExitStatus) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if c.pid.take().is_none() {
            return;
        }
        c.exited = Some(status.clone());
        if let Some(exits) = &self.exits {
            let _ = exits.send(Exit { id: id.clone(), status });
        }
    }

    fn reboot(&mut self) {
        let message = Some("the host was restarted".to_owned());
        let lost = ExitStatus { message, ..ExitStatus::default() };
        for container in self.containers.values_mut().filter(|c| c.exited.is_none()) {
            container.pid = None;
            container.exited = Some(lost.clone());
        }
    }

    fn prepare(&mut self, id: &ContainerId, spec: ContainerSpec) -> Result<Prepared, RuntimeError> {
        self.begin(id, Call::Prepare)?;
        if self.containers.get(id).is_some_and(|known| !known.released) {
            return Err(RuntimeError::AlreadyExists { id: id.clone() });
        }
        let log = self.containers.remove(id).map(|known| known.log).unwrap_or_default();
        let supervisor_pid = self.next_pid();
        let container = FakeContainer {
            spec,
            supervisor_pid,
            pid: None,
            exited: None,
            log,
            ignores_term: self.stubborn.contains(id),
            released: false,
        };
        self.containers.insert(id.clone(), container);
        Ok(Prepared { supervisor_pid })
    }

    fn start(&mut self, id: &ContainerId) -> Result<Started, RuntimeError> {
        self.begin(id, Call::Start)?;
        let pid = self.next_pid();
        let c = self.get(id)?;
        if c.released || c.exited.is_some() {
            return Err(RuntimeError::NotRunning { id: id.clone() });
        }
        let runs = c.pid.is_some();
        let started = Started { pid: *c.pid.get_or_insert(pid) };
        if !runs {
            *self.begun.entry(id.clone()).or_default() += 1;
        }
        Ok(started)
    }

    fn signal(&mut self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        self.begin(id, Call::Signal(signal))?;
        let ignores_term = self.running(id)?.ignores_term;
        let status = |code, signal| ExitStatus { code, signal, ..ExitStatus::default() };
        match signal {
            9 => self.exit(id, status(None, Some(9))),
            15 if !ignores_term => self.exit(id, status(Some(0), None)),
            _ => {}
        }
        Ok(())
    }

    fn exec(&mut self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.begin(id, Call::Exec)?;
        self.running(id)?;
        let code = self.exec_codes.get(&spec.argv).copied().unwrap_or(0);
        let pid = self.next_pid();
        let (stdin, _) = mpsc::channel(1);
        let (_, output) = mpsc::channel(1);
        let (resize, _) = mpsc::channel(1);
        let status = ExitStatus { code: Some(code), ..ExitStatus::default() };
        Ok(ExecSession { pid, stdin, output, resize, wait: future::ready(Ok(status)).boxed() })
    }

    fn release(&mut self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.begin(id, Call::Release)?;
        self.exit(id, killed());
        if let Some(c) = self.containers.get_mut(id) {
            // Of what never ran there is no end, and no process to come.
            c.released = true;
        }
        Ok(())
    }

    fn observed(&self) -> Vec<Observed> {
        let state = |c: &FakeContainer| match (&c.exited, c.pid) {
            (Some(status), _) => ObservedState::Exited(status.clone()),
            (None, Some(pid)) => {
                ObservedState::Running { pid, supervisor_pid: c.supervisor_pid, unheard: None }
            }
            (None, None) => ObservedState::Prepared(Prepared { supervisor_pid: c.supervisor_pid }),
        };
        self.containers.iter().map(|(id, c)| Observed { id: id.clone(), state: state(c) }).collect()
    }
}

fn killed() -> ExitStatus {
    ExitStatus { signal: Some(9), ..ExitStatus::default() }
}

fn ready<'a, T: Send + 'a>(result: Result<T, RuntimeError>) -> Answer<'a, T> {
    future::ready(result).boxed()
}

impl Runtime for FakeRuntime {
    fn adopt(&self) -> Answer<'_, Vec<Observed>> {
        ready(Ok(self.lock().observed()))
    }

    fn traces(&self) -> Answer<'_, Vec<Trace>> {
        let host = self.lock();
        let trace = |(id, container): (&ContainerId, &FakeContainer)| Trace {
            id: id.clone(),
            only_log: container.released,
        };
        ready(Ok(host.containers.iter().map(trace).collect()))
    }

    fn take_exits(&self) -> Option<mpsc::UnboundedReceiver<Exit>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn unheard(&self) -> watch::Receiver<BTreeMap<ContainerId, String>> {
        self.unheard.subscribe()
    }

    fn prepare<'a>(&'a self, id: &'a ContainerId, spec: ContainerSpec) -> Answer<'a, Prepared> {
        ready(self.lock().prepare(id, spec))
    }

    fn start<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Started> {
        let mut host = self.lock();
        if host.hanging.contains(id) {
            host.calls.push((id.clone(), Call::Start));
            return async move {
                while self.lock().hanging.contains(id) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                self.lock().start(id)
            }
            .boxed();
        }
        ready(host.start(id))
    }

    fn supervisor<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Prepared> {
        let supervisor = self.lock().get(id).map(|container| container.supervisor_pid);
        ready(supervisor.map(|supervisor_pid| Prepared { supervisor_pid }))
    }

    fn signal<'a>(&'a self, id: &'a ContainerId, signal: i32) -> Answer<'a, ()> {
        ready(self.lock().signal(id, signal))
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        let mut host = self.lock();
        let begun = host.begin(id, Call::Remove);
        if begun.is_ok() {
            host.exit(id, killed());
            host.containers.remove(id);
        }
        ready(begun)
    }

    fn release<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        ready(self.lock().release(id))
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, spec: ExecSpec) -> Answer<'a, ExecSession> {
        ready(self.lock().exec(id, &spec))
    }

    fn logs<'a>(&'a self, id: &'a ContainerId, query: LogQuery) -> Answer<'a, LogStream> {
        ready(self.lock().get(id).map(|c| {
            let from = query.tail.map_or(0, |n| c.log.len().saturating_sub(n));
            stream::iter(c.log[from..].to_vec()).map(Ok).boxed()
        }))
    }

    fn disk<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerDisk> {
        ready(self.lock().get(id).map(|_| ContainerDisk::default()))
    }

    fn stats<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerStats> {
        ready(self.lock().running(id).map(|_| ContainerStats { pids: 1, ..Default::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layers, LogLimits, NetworkMode};

    fn spec() -> ContainerSpec {
        ContainerSpec {
            oci: oci_spec::runtime::Spec::default(),
            layers: Layers(Vec::new()),
            network: NetworkMode::Own,
            open_stdin: false,
            log: LogLimits::default(),
            user: String::new(),
            labels: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_life_with_a_crash_in_it() {
        let rt = FakeRuntime::default();
        let id = ContainerId::new("t1").unwrap();
        rt.prepare(&id, spec()).await.unwrap();
        let pid = rt.start(&id).await.unwrap().pid;
        assert_eq!(rt.start(&id).await.unwrap().pid, pid, "starting twice is starting once");
        rt.crash();
        let rt = FakeRuntime::on(rt.host());
        let found = rt.adopt().await.unwrap();
        assert!(matches!(found[0].state, ObservedState::Running { pid: p, .. } if p == pid));
        let mut exits = rt.take_exits().unwrap();
        rt.signal(&id, 15).await.unwrap();
        assert_eq!(exits.recv().await.unwrap().status.code, Some(0));
        rt.remove(&id).await.unwrap();
        rt.remove(&id).await.unwrap();
        assert!(rt.containers().is_empty());
    }

    #[tokio::test]
    async fn the_fake_honours_the_contract() {
        let next = |runtime: FakeRuntime| {
            runtime.crash();
            FakeRuntime::on(runtime.host())
        };
        crate::contract::honour(FakeRuntime::default(), spec(), next).await;
    }

    #[tokio::test]
    async fn failures_are_scripted_once() {
        let rt = FakeRuntime::default();
        let id = ContainerId::new("t1").unwrap();
        rt.fail(None, Call::Prepare, RuntimeError::CannotConfine { reason: "x".to_owned() });
        assert!(rt.prepare(&id, spec()).await.is_err());
        assert!(rt.prepare(&id, spec()).await.is_ok());
        assert!(matches!(rt.prepare(&id, spec()).await, Err(RuntimeError::AlreadyExists { .. })));
    }
}
