//! Taking on what managers assign.

use std::collections::{BTreeSet, btree_map};
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_planning::node::fencing;
use shoal_agent_planning::overlay::OverlayView;
use shoal_agent_planning::payload::HeldPayloads;
use shoal_agent_planning::task::{Found, Machine, TaskRecord, refusal, stand_in};
use shoal_types::assignment::{AssignedTask, AssignmentChange, NodeAssignment, Rejection};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;
use shoal_types::level::Level;
use tokio::sync::oneshot;

use super::WorkerError;
use super::applied::Mark;
use super::event::Event;
use super::state::{Entry, State};
use crate::ledger::{LedgerError, Term};
use crate::told::Source;

/// How long after the disk refused the networks it is asked again.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

impl State {
    pub(super) fn assign_all(
        &mut self,
        assignment: NodeAssignment,
        mark: Mark,
        dirty: &mut BTreeSet<TaskId>,
    ) {
        if !self.listens_to(&mark) {
            return;
        }
        let overlay = OverlayView::of(mark.node, &assignment);
        let overlay = OverlayView { revision: self.overlay.revision, ..overlay };
        if *self.overlay != overlay {
            self.learn_overlay(overlay);
        }
        // Also where it is what was known: from now on it is of this boot.
        self.keep_told(&mark);
        self.payloads = HeldPayloads::of(&assignment);
        dirty.extend(&self.lacking);
        let NodeAssignment { tasks, networks, rejected, .. } = assignment;
        if *self.networks != networks {
            self.networks = Arc::new(networks);
            self.networks_have_changed();
        }
        for (id, entry) in &mut self.entries {
            if !tasks.contains_key(id) && !rejected.contains_key(id) {
                entry.machine.drop_it();
                dirty.insert(*id);
            }
        }
        let mut new = BTreeSet::new();
        for (_, task) in tasks {
            new.extend(self.assign(task, dirty));
        }
        for (id, rejection) in rejected {
            new.extend(self.reject(id, rejection, dirty));
        }
        self.applied.take(mark, new);
    }

    pub(super) fn change(
        &mut self,
        changes: Vec<AssignmentChange>,
        mark: Mark,
        dirty: &mut BTreeSet<TaskId>,
    ) {
        if !self.listens_to(&mark) {
            return;
        }
        let mut networks = false;
        let mut new = BTreeSet::new();
        let (mut overlay, mut learned) = (OverlayView::clone(&self.overlay), false);
        for change in changes {
            learned |= overlay.apply(&change);
            if self.payloads.apply(&change) {
                dirty.extend(&self.lacking);
            }
            match change {
                AssignmentChange::UpdateTask(task) => new.extend(self.assign(task, dirty)),
                AssignmentChange::RejectTask(id, rejection) => {
                    new.extend(self.reject(id, rejection, dirty));
                }
                AssignmentChange::RemoveTask(id) => {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.machine.drop_it();
                        dirty.insert(id);
                    }
                }
                AssignmentChange::UpdateNetwork(network) => {
                    Arc::make_mut(&mut self.networks).insert(network.id, network);
                    networks = true;
                }
                AssignmentChange::RemoveNetwork(id) => {
                    Arc::make_mut(&mut self.networks).remove(&id);
                    networks = true;
                }
                AssignmentChange::UpdateSecret(_)
                | AssignmentChange::RemoveSecret(_)
                | AssignmentChange::UpdateConfig(_)
                | AssignmentChange::RemoveConfig(_)
                | AssignmentChange::UpdateEndpoint(_)
                | AssignmentChange::RemoveEndpoint(_)
                | AssignmentChange::UpdateVips(_)
                | AssignmentChange::RemoveVips(_)
                | AssignmentChange::UpdatePeer(_)
                | AssignmentChange::RemovePeer(_) => {}
            }
        }
        // Before anything is begun for the tasks: that is planned when all messages were taken.
        if learned {
            self.learn_overlay(overlay);
            self.keep_told(&mark);
        }
        if networks {
            self.networks_have_changed();
        }
        self.applied.take(mark, new);
    }

    /// Notes what tasks wait for that this node has not got.
    pub(super) fn look_for_payloads(&mut self, planned: &BTreeSet<TaskId>) {
        let now = self.now();
        for id in planned {
            let Some(entry) = self.entries.get_mut(id) else {
                self.lacking.remove(id);
                continue;
            };
            let lacks = self.payloads.lacking(&entry.task);
            let lacked = match lacks {
                Some(_) => !self.lacking.insert(*id),
                None => self.lacking.remove(id),
            };
            if lacked || lacks.is_some() {
                entry.machine.set_lacking(lacks, now);
            }
        }
    }

    /// Hands on what is known of overlay networks.
    pub(super) fn learn_overlay(&mut self, overlay: OverlayView) {
        let revision = self.overlay.revision + 1;
        self.applied.overlay_changes(revision);
        self.overlay = Arc::new(OverlayView { revision, ..overlay });
        self.context.drivers.networks.tell(Arc::clone(&self.overlay));
        self.roll.set_overlay(Arc::clone(&self.overlay));
        self.context.drivers.names.tell(self.roll.clone());
    }

    /// Has it kept over a reboot, in the background: it is stale then anyway.
    fn keep_told(&self, mark: &Mark) {
        let Some(Term { cluster, .. }) = self.term else { return };
        let Mark { term, sequence, .. } = *mark;
        let boot = self.context.config.boot.clone();
        self.told.keep(Source { cluster, term, sequence, boot }, &self.overlay);
    }

    fn networks_have_changed(&mut self) {
        self.roll.set_networks(Arc::clone(&self.networks));
        self.context.drivers.names.tell(self.roll.clone());
        self.save_networks();
    }

    /// Whether what is assigned is taken on: not while everything stops, and not from a leader that has
    /// been replaced by one that was obeyed.
    fn listens_to(&self, mark: &Mark) -> bool {
        if self.halted || !self.leaving.is_empty() {
            return false;
        }
        let obeyed = self.term.map_or(0, |term| term.number);
        let listens = fencing::listens(obeyed, mark.term);
        if !listens {
            tracing::warn!(term = mark.term, obeyed, "what an older leader assigns is passed over");
        }
        listens
    }

    /// A task's spec never changes; what managers want of it does, and which networks it is connected to. The
    /// task, if it is still to be written down.
    pub(super) fn assign(
        &mut self,
        task: AssignedTask,
        dirty: &mut BTreeSet<TaskId>,
    ) -> Option<TaskId> {
        let now = self.now();
        let id = task.id;
        let boot = &self.context.config.boot;
        dirty.insert(id);
        let entry = match self.entries.entry(id) {
            btree_map::Entry::Occupied(known) => {
                let entry = known.into_mut();
                entry.machine.want(task.desired_state);
                entry.join(task);
                entry
            }
            btree_map::Entry::Vacant(vacant) => {
                let entry = if self.lost.remove(&id) {
                    let record = TaskRecord::lost(task, now.wall);
                    let machine = Machine::resume(&record, Found::Absent, boot, now);
                    Entry::resumed(record, machine)
                } else if let Some(why) = refusal(&task, Level::OWN) {
                    tracing::warn!(task = %id, why, "rejecting a task");
                    Entry::rejected(task, why, boot, now)
                } else {
                    Entry::new(task, boot, now)
                };
                self.sharers.add(&entry.task);
                vacant.insert(entry)
            }
        };
        (!entry.machine.is_accepted()).then_some(id)
    }

    /// A task that cannot be taken. One that was accepted before goes on, as is wanted.
    fn reject(
        &mut self,
        id: TaskId,
        rejection: Rejection,
        dirty: &mut BTreeSet<TaskId>,
    ) -> Option<TaskId> {
        let Rejection { why, desired_state } = rejection;
        if self.entries.contains_key(&id) || self.lost.contains(&id) {
            tracing::warn!(task = %id, why, "what is new of a task that is held cannot be read");
            let known = self.entries.get(&id).map(|entry| AssignedTask::clone(&entry.task));
            let known = known.map(|task| AssignedTask { desired_state, ..task });
            let known = known.unwrap_or_else(|| stand_in(id, desired_state));
            return self.assign(known, dirty);
        }
        tracing::warn!(task = %id, why, "rejecting a task");
        let task = stand_in(id, desired_state);
        let entry = Entry::rejected(task, why, &self.context.config.boot, self.now());
        self.entries.insert(id, entry);
        dirty.insert(id);
        Some(id)
    }

    /// From then on nothing is taken from an older leader, also after a crash.
    pub(super) fn obey(&mut self, term: Term, answer: oneshot::Sender<Result<u64, WorkerError>>) {
        let known = self.term.filter(|known| known.cluster == term.cluster);
        let known = known.map_or(0, |known| known.number);
        if !fencing::is_news(known, term.number) {
            let _ = answer.send(Ok(known));
            return;
        }
        let (written, events) = (self.context.ledger.save_term(term), self.events.clone());
        self.operations.spawn(async move {
            let _ = events.send(Event::TermWritten(term, written.await, answer));
        });
    }

    pub(super) fn term_written(
        &mut self,
        term: Term,
        written: Result<(), LedgerError>,
        answer: oneshot::Sender<Result<u64, WorkerError>>,
    ) {
        let result = written.map(|()| term.number).map_err(WorkerError::Term);
        if result.is_ok() {
            self.term = Some(term);
        }
        let _ = answer.send(result);
    }

    /// Before the tasks that need them, since the ledger keeps the order. What the disk refuses is tried
    /// again until it takes it: nothing else would, as long as nothing changes.
    pub(super) fn save_networks(&mut self) {
        let written = self.context.ledger.save_networks(&self.networks);
        let (count, events) = (self.applied.networks_change(), self.events.clone());
        self.operations.spawn(async move {
            match written.await {
                Ok(()) => {
                    let _ = events.send(Event::NetworksWritten(count));
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "cannot write down the networks");
                    tokio::time::sleep(SAVE_PAUSE).await;
                    let _ = events.send(Event::NetworksRefused(count));
                }
            }
        });
    }
}
