//! The loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_planning::health::{Health, HealthConfig, HealthStep, Probe, Verdict};
use shoal_agent_planning::overlay::OverlayView;
use shoal_agent_planning::payload::HeldPayloads;
use shoal_agent_planning::prune::Holding;
use shoal_agent_planning::task::{Boot, Fact, Machine, Moment, Step, TaskRecord, Tell, Telling};
use shoal_agent_planning::zone::{Roll, Speaker};
use shoal_types::assignment::AssignedTask;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::Network;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::applied::{Applied, Mark};
use super::beside::Sharers;
use super::event::Event;
use super::ops::{Context, Volumes, forget, remove_given};
use super::order::Order;
use super::steps::lost;
use super::{TaskSummary, WorkerError, health, task_id};
use crate::ledger::Term;
use crate::reporter::Reporter;
use crate::told::Told;
use shoal_agent_runtime::{ContainerId, Exit};

/// Events that are taken in one go before anything is planned.
const DRAIN_MAX: usize = 1024;

/// One task.
pub(super) struct Entry {
    pub(super) task: Arc<AssignedTask>,
    pub(super) machine: Machine,
    pub(super) health: Option<(Health, Telling)>,
    pub(super) cancel: CancellationToken,
}

impl Entry {
    pub(super) fn new(task: AssignedTask, boot: &Boot, now: Moment) -> Self {
        let machine = Machine::new(&task, boot, now);
        let cancel = CancellationToken::new();
        Self { task: Arc::new(task), machine, health: None, cancel }
    }

    pub(super) fn rejected(task: AssignedTask, why: String, boot: &Boot, now: Moment) -> Self {
        let machine = Machine::rejected(&task, why, boot, now);
        let cancel = CancellationToken::new();
        Self { task: Arc::new(task), machine, health: None, cancel }
    }

    /// Takes over which networks it has, and what it needs for that; nothing else of it changes.
    pub(super) fn join(&mut self, new: AssignedTask) {
        if self.task.networks == new.networks {
            return;
        }
        let task = Arc::make_mut(&mut self.task);
        (task.networks, task.level) = (new.networks, new.level);
        self.machine.joins_others();
    }

    pub(super) fn resumed(record: TaskRecord, machine: Machine) -> Self {
        let cancel = CancellationToken::new();
        Self { task: Arc::new(record.task), machine, health: None, cancel }
    }
}

/// What an earlier worker left, put in order.
pub(super) struct Held {
    pub entries: BTreeMap<TaskId, Entry>,
    /// Accepted tasks of which nothing more is known.
    pub lost: BTreeSet<TaskId>,
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// Whom the node obeys.
    pub term: Option<Term>,
    /// What is told of overlay networks is kept there.
    pub told: Told,
    /// And was kept over a reboot.
    pub known: Option<OverlayView>,
}

/// Everything that this node holds. Dropping it cuts every operation off.
pub(super) struct State {
    pub(super) context: Arc<Context>,
    pub(super) entries: BTreeMap<TaskId, Entry>,
    /// Which of them share the networks of which others.
    pub(super) sharers: Sharers,
    pub(super) lost: BTreeSet<TaskId>,
    pub(super) networks: Arc<BTreeMap<NetworkId, Arc<Network>>>,
    /// Secrets and configs: nowhere else but in the files of containers.
    pub(super) payloads: HeldPayloads,
    /// Tasks that wait for one.
    pub(super) lacking: BTreeSet<TaskId>,
    /// What the driver was told of overlay networks.
    pub(super) overlay: Arc<OverlayView>,
    /// Who is known under which names.
    pub(super) roll: Roll,
    /// The newest leader that is obeyed, as it is on disk.
    pub(super) term: Option<Term>,
    /// Keeps what managers say of overlay networks over a reboot.
    pub(super) told: Told,
    pub(super) applied: Applied,
    reporter: Reporter,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) operations: JoinSet<()>,
    /// What is being put in order on the node.
    pub(super) order: Order,
    /// By the steady clock.
    deadlines: BTreeSet<(Timestamp, TaskId)>,
    /// Whether the host stops: nothing is taken on.
    pub(super) halted: bool,
    /// Who waits for nothing to run.
    halting: Vec<oneshot::Sender<()>>,
    /// Who waits for the node to be empty; while there is anybody, nothing is taken on.
    pub(super) leaving: Vec<oneshot::Sender<Result<(), WorkerError>>>,
}

impl State {
    pub(super) fn new(
        context: Arc<Context>,
        held: Held,
        reporter: Reporter,
        events: mpsc::UnboundedSender<Event>,
        applied: watch::Sender<Option<Mark>>,
    ) -> Self {
        let Held { entries, lost, networks, term, told, known } = held;
        let networks = Arc::new(networks);
        let mut roll = Roll::default();
        roll.set_networks(Arc::clone(&networks));
        let mut state = Self {
            term,
            told,
            applied: Applied::new(applied),
            context,
            sharers: Sharers::of(&entries),
            entries,
            lost,
            networks,
            payloads: HeldPayloads::default(),
            lacking: BTreeSet::new(),
            overlay: Arc::default(),
            roll,
            reporter,
            events,
            operations: JoinSet::new(),
            order: Order::default(),
            deadlines: BTreeSet::new(),
            halted: false,
            halting: Vec::new(),
            leaving: Vec::new(),
        };
        if let Some(known) = known {
            tracing::info!(
                endpoints = known.endpoints.len(),
                nodes = known.peers.len(),
                "the host was restarted: overlay networks are as they were told before, until managers answer"
            );
            state.learn_overlay(known);
        }
        state
    }

    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    pub(super) fn now(&self) -> Moment {
        self.context.drivers.clock.now()
    }

    /// Until it is shut down.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        mut exits: mpsc::UnboundedReceiver<Exit>,
    ) {
        let mut dirty: BTreeSet<TaskId> = self.entries.keys().copied().collect();
        let mut rounds = tokio::time::interval(self.context.config.round);
        let mut lost = self.context.drivers.networks.lost();
        lost.mark_changed();
        let mut unheard = self.context.drivers.runtime.unheard();
        unheard.mark_changed();
        loop {
            let planned = std::mem::take(&mut dirty);
            let planned = self.with_partners(&planned);
            self.look_for_payloads(&planned);
            self.rejoin(&planned);
            self.plan(&planned);
            self.name(&planned);
            let changed = lost.has_changed().unwrap_or(false);
            // A copy, hardly ever of anything: nothing is asked of the driver while what it says is looked at.
            let now_lost = lost.borrow_and_update().clone();
            self.reconnect(changed, &now_lost, &planned);
            if !self.leaving.is_empty() && self.entries.is_empty() {
                self.left().await;
            }
            if !self.halting.is_empty() && self.entries.values().all(|e| e.machine.is_at_rest()) {
                for answer in self.halting.drain(..) {
                    let _ = answer.send(());
                }
            }
            let wake = self.deadlines.first().map(|(at, _)| at.since(self.now().steady));
            tokio::select! {
                event = inbox.recv() => {
                    // In the order in which they came: what is not taken now is left where it is.
                    let more = std::iter::from_fn(|| inbox.try_recv().ok());
                    for event in event.into_iter().chain(more.take(DRAIN_MAX)) {
                        if let Event::ShutDown(answer) = event {
                            self.operations.shutdown().await;
                            // Nothing may be written when the next worker reads.
                            let _ = self.context.ledger.flush().await;
                            let _ = answer.send(());
                            return;
                        }
                        self.hear(event, &mut dirty);
                    }
                }
                // For the next turn to see.
                Ok(()) = lost.changed() => lost.mark_changed(),
                Ok(()) = unheard.changed() => self.unheard(&unheard.borrow_and_update(), &mut dirty),
                _ = rounds.tick() => self.look_around(),
                Some(exit) = exits.recv() => self.heard_exit(exit, &mut dirty),
                () = sleep(wake), if wake.is_some() => {
                    let now = self.now().steady;
                    let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
                    dirty.extend(due.map(|(_, id)| *id));
                }
            }
            while self.operations.try_join_next().is_some() {}
        }
    }

    fn hear(&mut self, event: Event, dirty: &mut BTreeSet<TaskId>) {
        match event {
            Event::AssignAll(assignment, mark) => self.assign_all(assignment, mark, dirty),
            Event::Change(changes, mark) => self.change(changes, mark, dirty),
            Event::Obey(term, answer) => self.obey(term, answer),
            Event::TermWritten(term, written, answer) => self.term_written(term, written, answer),
            Event::NetworksWritten(count) => self.applied.networks_are_written(count),
            Event::OverlayFollowed(revision) => self.applied.overlay_is_followed(revision),
            Event::NetworksRefused(count) if self.applied.networks_are_at(count) => {
                self.save_networks();
            }
            Event::NetworksRefused(_) => {}
            Event::Fact(id, fact) => self.learn(id, fact, dirty),
            Event::Forgotten(id) => {
                // Whoever assigns it again gets a fresh start: nothing of it is known any more.
                if let Some(entry) = self.entries.remove(&id) {
                    self.sharers.remove(&entry.task);
                    if !entry.machine.is_dropped() {
                        let desired_state = entry.machine.desired();
                        self.assign(AssignedTask { desired_state, ..(*entry.task).clone() }, dirty);
                    }
                }
                self.deadlines.retain(|(_, of)| *of != id);
                self.reporter.forget(id);
                dirty.insert(id);
            }
            Event::Lost(id, operation) => {
                tracing::error!(task = %id, ?operation, "an operation panicked");
                self.learn(id, lost(operation), dirty);
            }
            Event::Probed(id, probe) => self.probed(id, probe, dirty),
            #[cfg(test)]
            Event::Round => self.look_around(),
            Event::Seen(observed) => self.seen(&observed),
            Event::InOrder(actions, failed) => self.in_order(&actions, &failed, dirty),
            Event::Summary(answer) => {
                let _ = answer.send(self.summary());
            }
            Event::Holdings(answer) => {
                let _ = answer.send(self.holdings());
            }
            Event::Differing(answer) => self.differing(answer),
            Event::Halt(answer) => {
                self.halted = true;
                self.halting.push(answer);
                for (id, entry) in &mut self.entries {
                    entry.machine.host_stops();
                    dirty.insert(*id);
                }
            }
            Event::Leave(answer) => {
                self.leaving.push(answer);
                for (id, entry) in &mut self.entries {
                    entry.machine.drop_it();
                    dirty.insert(*id);
                }
            }
            // Handled where the loop can end.
            Event::ShutDown(answer) => drop(answer),
        }
    }

    fn learn(&mut self, id: TaskId, fact: Fact, dirty: &mut BTreeSet<TaskId>) {
        let now = self.now();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.machine.learn(fact, now);
            dirty.insert(id);
        }
    }

    fn heard_exit(&mut self, exit: Exit, dirty: &mut BTreeSet<TaskId>) {
        match task_id(&exit.id) {
            Some(id) => self.learn(id, Fact::Exited(exit.status), dirty),
            None => tracing::warn!(container = %exit.id, "a container of no task ended"),
        }
    }

    /// Some supervisors cannot be talked to, and others can again.
    fn unheard(&mut self, all: &BTreeMap<ContainerId, String>, dirty: &mut BTreeSet<TaskId>) {
        let now = self.now();
        for (id, entry) in &mut self.entries {
            let why = all.get(&ContainerId::from(*id));
            if entry.machine.unheard() == why.map(String::as_str) {
                continue;
            }
            match why {
                Some(why) => tracing::warn!(task = %id, why, "its supervisor does not help"),
                None => tracing::info!(task = %id, "its supervisor helps again"),
            }
            entry.machine.learn(Fact::Unheard(why.cloned()), now);
            dirty.insert(*id);
        }
    }

    fn probed(&mut self, id: TaskId, probe: Probe, dirty: &mut BTreeSet<TaskId>) {
        let now = self.now().steady;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let verdict = entry.health.as_mut().and_then(|(health, _)| health.learn(probe, now));
        dirty.insert(id);
        match verdict {
            Some(Verdict::Healthy) => self.learn(id, Fact::Healthy, dirty),
            Some(Verdict::Unhealthy { output }) => {
                self.learn(id, Fact::Unhealthy { output }, dirty);
            }
            None => {}
        }
    }

    fn summary(&self) -> Vec<TaskSummary> {
        let one = |(id, entry): (&TaskId, &Entry)| {
            let status = entry.machine.status();
            TaskSummary {
                id: *id,
                name: entry.task.name(),
                desired: entry.machine.desired(),
                state: status.map_or(TaskState::Assigned, |s| s.state),
                err: status.map(|s| s.err.clone()).unwrap_or_default(),
            }
        };
        self.entries.iter().map(one).collect()
    }

    fn holdings(&self) -> Vec<Holding> {
        let one = |(id, entry): (&TaskId, &Entry)| Holding {
            id: *id,
            volumes: Volumes::named(&entry.task).collect(),
            ended: entry.machine.status().is_some_and(|status| status.state.is_terminal()),
            released: !entry.machine.holds_resources(),
        };
        self.entries.iter().map(one).collect()
    }

    /// Asks each machine what is next, has it done, and reports.
    fn plan(&mut self, dirty: &BTreeSet<TaskId>) {
        let now = self.now();
        if !dirty.is_empty() && !self.deadlines.is_empty() {
            self.deadlines.retain(|(_, id)| !dirty.contains(id));
        }
        for id in dirty.iter().copied() {
            if self.entries.get(&id).is_none_or(|entry| entry.machine.is_accepted()) {
                self.applied.is_accepted(id);
            }
            if self.order.defers(id) {
                continue;
            }
            let shared = self.is_shared(id);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let step = entry.machine.next(now.steady);
            match step {
                Step::Nothing => {}
                // Its turn comes when they have ended, who are stopped with it.
                Step::Cleanup { .. } if shared => {}
                Step::Wait(at) => {
                    self.deadlines.insert((at, id));
                }
                step => {
                    entry.machine.begin(step, now);
                    self.perform(id, step, now);
                }
            }
            self.look_after(id, now.steady);
            self.tell(id, now);
            if let Some(status) = self.entries.get(&id).and_then(|e| e.machine.status()) {
                self.reporter.report(id, status);
            }
        }
    }

    /// Has these tasks be known under their names as long as they serve.
    fn name(&mut self, dirty: &BTreeSet<TaskId>) {
        let mut news = false;
        for id in dirty {
            let speaker = self.entries.get(id).and_then(|entry| {
                let attached = self.context.drivers.networks.attachments(&id.to_string());
                Speaker::of(&entry.task, attached, entry.machine.is_serving())
            });
            news |= self.roll.set_speaker(*id, speaker);
        }
        if news {
            self.context.drivers.names.tell(self.roll.clone());
        }
    }

    /// Checks the health of a running container when it is time.
    fn look_after(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.machine.is_watched() {
            entry.health = None;
            return;
        }
        if entry.health.is_none() {
            let check = entry.machine.preparation().and_then(|p| p.healthcheck.as_ref());
            // What made no sense was refused when it was prepared.
            let Some(Ok(Some(config))) = check.map(HealthConfig::of) else { return };
            let healthy = entry.machine.is_healthy();
            entry.health = Some((Health::new(config, now, healthy), Telling::new(now)));
        }
        let Some((health, _)) = &mut entry.health else { return };
        match health.next(now) {
            HealthStep::Nothing => {}
            HealthStep::Wait(at) => {
                self.deadlines.insert((at, id));
            }
            HealthStep::Check => {
                health.begin();
                let (config, events) = (health.config().clone(), self.events.clone());
                let runtime = Arc::clone(&self.context.drivers.runtime);
                self.operations.spawn(async move {
                    let probe = health::probe(&*runtime, id, &config).await;
                    let _ = events.send(Event::Probed(id, probe));
                });
            }
        }
    }

    /// Tells which health check a container waits for, and what that says.
    fn tell(&mut self, id: TaskId, now: Moment) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some((health, telling)) = &mut entry.health else { return };
        let Some(doing) = health.doing() else { return };
        match telling.next(&doing, now.steady) {
            Tell::Nothing => {}
            Tell::Wait(at) => {
                self.deadlines.insert((at, id));
            }
            Tell::Now => {
                entry.machine.learn(Fact::Progress(doing.text()), now);
                telling.tell(doing, now.steady);
            }
        }
    }

    /// Nothing is left of any task.
    async fn left(&mut self) {
        self.networks = Arc::default();
        self.payloads = HeldPayloads::default();
        if let Err(error) = remove_given(&self.context) {
            tracing::error!(%error, "cannot take away the memory for secrets and configs");
        }
        self.learn_overlay(OverlayView::default());
        self.told.forget();
        for id in std::mem::take(&mut self.lost) {
            // Its log, and what there is of its record; what cannot be removed is in the agent's log.
            let _ = forget(&self.context, id).await;
        }
        // Sockets keep network namespaces.
        self.context.drivers.names.end().await;
        self.roll = Roll::default();
        for answer in std::mem::take(&mut self.leaving) {
            let networks = self.context.drivers.networks.cleanup_all().await;
            let empty = self.context.ledger.save_networks(&self.networks).await;
            self.term = None;
            let empty = empty.and(self.context.ledger.remove_term().await);
            let result = networks.map_err(WorkerError::Networks).and(empty.map_err(Into::into));
            let _ = answer.send(result);
        }
    }
}

async fn sleep(wake: Option<Duration>) {
    tokio::time::sleep(wake.unwrap_or_default()).await;
}
