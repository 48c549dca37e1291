//! From a step that planning asks for to the operation that takes it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use shoal_agent_planning::task::{Fact, Moment, Operation, Step};
use shoal_types::id::TaskId;
use shoal_types::task_state::TaskState;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::ops;
use super::state::State;

impl State {
    /// Has a step done that takes time.
    pub(super) fn perform(&mut self, id: TaskId, step: Step, now: Moment) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let context = Arc::clone(&self.context);
        let record = entry.machine.record(&entry.task);
        match step {
            Step::Accept => {
                let work = async move { Ok(ops::accept(&context, record).await) };
                self.spawn(id, Operation::Accept, work);
            }
            Step::Prepare => {
                entry.cancel = CancellationToken::new();
                let (task, cancel) = (Arc::clone(&entry.task), entry.cancel.clone());
                let payloads = self.payloads.for_task(&task);
                let partner = task.partner.and_then(|id| self.entries.get(&id));
                let order = ops::Order {
                    partner: partner.map(|partner| Arc::clone(&partner.task)),
                    task,
                    networks: Arc::clone(&self.networks),
                    payloads,
                    cancel,
                    events: self.events.clone(),
                };
                let work = async move { Ok(ops::prepare(&context, order).await) };
                self.spawn(id, Operation::Prepare, work);
            }
            Step::Abort => entry.cancel.cancel(),
            Step::Start => {
                entry.cancel = CancellationToken::new();
                let networks = Arc::clone(&self.networks);
                let cancel = entry.cancel.clone();
                let work =
                    async move { Ok(ops::start(&context, record, &networks, &cancel).await) };
                self.spawn(id, Operation::Start, work);
            }
            Step::Withdraw => {
                let work = async move { Ok(ops::withdraw(&context, record).await) };
                self.spawn(id, Operation::Withdraw, work);
            }
            Step::Stop { signal } => {
                let work = async move { Ok(ops::stop(&context, id, signal).await) };
                self.spawn(id, Operation::Stop, work);
            }
            Step::Kill => {
                let work = async move { Ok(ops::kill(&context, id).await) };
                self.spawn(id, Operation::Kill, work);
            }
            Step::Cleanup { keep_log } => {
                let cleaning = entry.machine.cleaning(keep_log, &entry.task, now);
                let work = async move { Ok(ops::cleanup(&context, record, cleaning).await) };
                self.spawn(id, Operation::Cleanup, work);
            }
            Step::Forget => {
                let work = async move { ops::forget(&context, id).await.map_or_else(Ok, Err) };
                self.spawn(id, Operation::Forget, work);
            }
            Step::Wait(_) | Step::Nothing => {}
        }
    }

    /// `Err(())` is the end of the task itself.
    fn spawn(
        &mut self,
        id: TaskId,
        operation: Operation,
        work: impl Future<Output = Result<Fact, ()>> + Send + 'static,
    ) {
        let events = self.events.clone();
        self.operations.spawn(async move {
            let event = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(fact)) => Event::Fact(id, fact),
                Ok(Err(())) => Event::Forgotten(id),
                Err(_) => Event::Lost(id, operation),
            };
            // The loop may have ended.
            let _ = events.send(event);
        });
    }

    /// Has work done whose end is heard of, also where its code panics: then `otherwise` is.
    pub(super) fn spawn_event(
        &mut self,
        work: impl Future<Output = Event> + Send + 'static,
        otherwise: Event,
    ) {
        let events = self.events.clone();
        self.operations.spawn(async move {
            let event = AssertUnwindSafe(work).catch_unwind().await.unwrap_or(otherwise);
            // The loop may have ended.
            let _ = events.send(event);
        });
    }
}

/// What an operation comes to whose code panicked.
pub(super) fn lost(operation: Operation) -> Fact {
    let err = "internal error of the agent, see its log".to_owned();
    match operation {
        Operation::Accept => Fact::AcceptFailed { err },
        Operation::Prepare => Fact::PrepareFailed { err },
        Operation::Start => Fact::StartFailed { state: TaskState::Failed, err, code: None },
        Operation::Withdraw => Fact::Withdrawn,
        Operation::Stop => Fact::Stopped,
        Operation::Kill => Fact::Killed,
        Operation::Cleanup => Fact::CleanupFailed { err, recorded: false },
        Operation::Forget => Fact::ForgetFailed { err },
    }
}
