//! A workload that runs nothing and writes everything down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::{ClusterId, TaskId};
use shoal_types::object::{TaskStatus, TroubledLinks, TunnelDescription};
use shoal_types::question::{self, Question};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::session::{Answer, Workload, WorkloadError};
use crate::worker::Mark;
use shoal_agent_runtime::{
    ContainerId, ExecSession, ExecSpec, ExitStatus, LogLine, LogQuery, LogStream, RuntimeError,
    Stream, TermSize,
};

/// What the session asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    All(NodeAssignment),
    Changes(Vec<AssignmentChange>),
    Question(Question),
    Halt,
    Leave,
}

/// A process that a test plays. Gone when the session lets go of it.
pub(crate) struct ProcessSide {
    pub(crate) spec: ExecSpec,
    pub(crate) stdin: mpsc::Receiver<Bytes>,
    pub(crate) output: mpsc::Sender<(Stream, Bytes)>,
    pub(crate) resize: mpsc::Receiver<TermSize>,
    pub(crate) exit: oneshot::Sender<ExitStatus>,
}

#[derive(Default)]
pub(crate) struct FakeWorkload {
    inner: Mutex<Inner>,
    arrived: Notify,
    /// The last message that was taken, which counts as applied.
    marks: watch::Sender<Option<Mark>>,
    /// This host's end of the tunnel.
    pub(crate) tunnel: watch::Sender<Option<TunnelDescription>>,
    pub(crate) troubled_links: watch::Sender<TroubledLinks>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) asked: Vec<Asked>,
    /// The newest term that was obeyed.
    pub(crate) obeyed: BTreeMap<ClusterId, u64>,
    pub(crate) statuses: BTreeMap<TaskId, TaskStatus>,
    unsent: BTreeSet<TaskId>,
    pub(crate) processes: Vec<ProcessSide>,
    /// Tasks with their lines; those that follow never end.
    pub(crate) logs: BTreeMap<TaskId, Vec<LogLine>>,
    /// The answers to the next questions; one without an answer takes for ever.
    pub(crate) answers: VecDeque<Result<question::Answer, String>>,
    /// The answer to the next leave.
    pub(crate) cannot_leave: Option<String>,
}

impl FakeWorkload {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self, id: TaskId, status: TaskStatus) {
        let mut inner = self.inner();
        inner.statuses.insert(id, status);
        inner.unsent.insert(id);
        drop(inner);
        self.arrived.notify_one();
    }
}

impl Workload for FakeWorkload {
    fn obey(&self, cluster: ClusterId, term: u64) -> Answer<'_, u64> {
        let mut inner = self.inner();
        let known = inner.obeyed.entry(cluster).or_default();
        *known = term.max(*known);
        futures::future::ready(Ok(*known)).boxed()
    }

    fn assign_all(&self, assignment: NodeAssignment, mark: Mark) {
        self.inner().asked.push(Asked::All(assignment));
        self.marks.send_replace(Some(mark));
    }

    fn change(&self, changes: Vec<AssignmentChange>, mark: Mark) {
        self.inner().asked.push(Asked::Changes(changes));
        self.marks.send_replace(Some(mark));
    }

    fn applied<'a>(&'a self, session: &'a str, after: u64) -> BoxFuture<'a, u64> {
        let mut marks = self.marks.subscribe();
        let newer = move |mark: &Option<Mark>| {
            mark.as_ref().is_some_and(|m| &*m.session == session && m.sequence > after)
        };
        async move {
            let mark = marks.wait_for(newer).await.expect("it lives").clone();
            mark.expect("one that fits").sequence
        }
        .boxed()
    }

    fn report_everything(&self) {
        let mut inner = self.inner();
        inner.unsent = inner.statuses.keys().copied().collect();
        drop(inner);
        self.arrived.notify_one();
    }

    fn next_statuses(&self) -> BoxFuture<'_, Vec<(TaskId, TaskStatus)>> {
        async move {
            loop {
                let arrived = self.arrived.notified();
                {
                    let mut inner = self.inner();
                    let unsent = std::mem::take(&mut inner.unsent);
                    let batch: Vec<_> = unsent
                        .iter()
                        .filter_map(|id| inner.statuses.get(id).map(|s| (*id, s.clone())))
                        .collect();
                    if !batch.is_empty() {
                        return batch;
                    }
                }
                arrived.await;
            }
        }
        .boxed()
    }

    fn exec(&self, _: TaskId, spec: ExecSpec) -> Answer<'_, ExecSession> {
        async move {
            if spec.argv[0] == "missing" {
                let command = "missing".to_owned();
                return Err(RuntimeError::CommandNotFound { command }.into());
            }
            let (stdin_tx, stdin) = mpsc::channel(4);
            let (output, output_rx) = mpsc::channel(4);
            let (resize_tx, resize) = mpsc::channel(4);
            let (exit, exited) = oneshot::channel();
            self.inner().processes.push(ProcessSide { spec, stdin, output, resize, exit });
            let wait = async move {
                exited.await.map_err(|_| RuntimeError::Unsupported {
                    field: "exit".to_owned(),
                    reason: "the test has dropped it".to_owned(),
                })
            };
            Ok(ExecSession {
                pid: 1,
                stdin: stdin_tx,
                output: output_rx,
                resize: resize_tx,
                wait: wait.boxed(),
            })
        }
        .boxed()
    }

    fn logs(&self, task: TaskId, query: LogQuery) -> Answer<'_, LogStream> {
        async move {
            let Some(lines) = self.inner().logs.get(&task).cloned() else {
                let id = ContainerId::new(task.to_string()).expect("a name");
                return Err(RuntimeError::NotFound { id }.into());
            };
            let existing = futures::stream::iter(lines.into_iter().map(Ok));
            let stream: LogStream = match query.follow {
                true => existing.chain(futures::stream::pending()).boxed(),
                false => existing.boxed(),
            };
            Ok(stream)
        }
        .boxed()
    }

    fn answer(&self, question: Question) -> Answer<'_, question::Answer> {
        let mut inner = self.inner();
        inner.asked.push(Asked::Question(question));
        let answer = inner.answers.pop_front();
        async move {
            match answer {
                Some(answer) => answer.map_err(WorkloadError::Failed),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn troubled_links(&self) -> TroubledLinks {
        self.troubled_links.borrow().clone()
    }

    fn tried_links(&self) -> BoxFuture<'_, u32> {
        futures::future::ready(self.troubled_links.borrow().count).boxed()
    }

    fn tunnel(&self) -> BoxFuture<'_, Option<TunnelDescription>> {
        futures::future::ready(*self.tunnel.borrow()).boxed()
    }

    fn tunnel_now(&self) -> watch::Receiver<Option<TunnelDescription>> {
        self.tunnel.subscribe()
    }

    fn tunnel_news(&self, told: Option<TunnelDescription>) -> BoxFuture<'_, ()> {
        let mut tunnel = self.tunnel.subscribe();
        async move { drop(tunnel.wait_for(|now| *now != told).await) }.boxed()
    }

    fn task_count(&self) -> Answer<'_, u64> {
        async move { Ok(self.inner().statuses.len() as u64) }.boxed()
    }

    fn halt(&self) -> Answer<'_, ()> {
        self.inner().asked.push(Asked::Halt);
        futures::future::ready(Ok(())).boxed()
    }

    fn leave(&self) -> Answer<'_, ()> {
        async move {
            let mut inner = self.inner();
            inner.asked.push(Asked::Leave);
            inner.cannot_leave.take().map_or(Ok(()), |why| Err(WorkloadError::Failed(why)))
        }
        .boxed()
    }
}
