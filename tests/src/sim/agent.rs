//! A fake node: a host with containers, an agent process with a ledger, a network link.

use std::collections::BTreeMap;

use shoal_agent_planning::task::refusal;
use shoal_types::assignment::{AssignedTask, AssignmentChange, NodeAssignment};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::{NodeDescription, TaskStatus};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::context::Context;
use super::queue::Event;
use super::wire::Up;

/// A container that exists, so something of its task runs.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) number: u64,
}

/// A task that the agent holds. Survives the agent process; it is in the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) task: AssignedTask,
    pub(crate) since: Timestamp,
    pub(crate) status: TaskStatus,
    /// What the leader has confirmed to know.
    pub(crate) acknowledged: Option<TaskStatus>,
    /// Not assigned any more: what is left of it is to go.
    pub(crate) dropped: bool,
    pub(crate) container: Option<Container>,
    /// How the container ended while nobody looked.
    pub(crate) exit: Option<i32>,
}

/// One fake node.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) description: NodeDescription,
    /// Whether the host runs, its network works, the agent process runs.
    pub(crate) power: bool,
    pub(crate) link: bool,
    pub(crate) process: bool,
    /// Counts agent processes: events of an earlier one are void.
    pub(crate) life: u64,
    pub(crate) session: Option<u64>,
    pub(crate) sequence: Option<u64>,
    pub(crate) assigned: NodeAssignment,
    pub(crate) held: BTreeMap<TaskId, Held>,
    /// Told that it does not belong to the cluster any more.
    pub(crate) removed: bool,
    /// How many times slower than others it is.
    pub(crate) slowness: u64,
    flushing: bool,
}

impl Agent {
    pub(crate) fn new(node: NodeId, description: NodeDescription) -> Self {
        Self {
            node,
            description,
            power: true,
            link: true,
            process: true,
            life: 0,
            session: None,
            sequence: None,
            assigned: NodeAssignment::default(),
            held: BTreeMap::new(),
            removed: false,
            slowness: 1,
            flushing: false,
        }
    }

    /// Whether a message can come in or go out.
    pub(crate) fn is_connected(&self) -> bool {
        self.power && self.link && self.process
    }

    pub(crate) fn is_alive(&self, life: u64) -> bool {
        self.power && self.process && self.life == life
    }

    /// Starts the agent process: it reads its ledger and looks at its containers.
    pub(crate) fn start(&mut self, ctx: &mut Context) {
        self.process = true;
        self.life += 1;
        self.session = None;
        self.sequence = None;
        self.flushing = false;
        let tasks: Vec<TaskId> = self.held.keys().copied().collect();
        for id in tasks {
            self.recover(id, ctx);
            self.work_soon(id, ctx);
        }
        let delay = ctx.random.millis(10, 300);
        ctx.queue.after(delay, Event::Beat(self.node, self.life));
    }

    /// The host lost power: every container is gone.
    pub(crate) fn lose_power(&mut self) {
        self.power = false;
        self.process = false;
        self.held.values_mut().for_each(|held| held.container = None);
    }

    fn recover(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let started = (TaskState::Starting..=TaskState::Draining).contains(&held.status.state);
        if !started || held.container.is_some() {
            return;
        }
        let wanted = held.task.desired_state == DesiredState::Running && !held.dropped;
        if let Some(code) = held.exit.take() {
            self.ended(id, code, ctx);
        } else if wanted && held.status.state <= TaskState::Running && ctx.random.chance(50) {
            // Brought back from the ledger, before any manager answers.
            self.start_container(id, ctx);
        } else {
            let state = if held.task.desired_state > DesiredState::Running || held.dropped {
                TaskState::Shutdown
            } else {
                TaskState::Failed
            };
            self.enter(id, state, "its host was started again", ctx);
        }
    }

    /// All that the node is to hold.
    pub(crate) fn obey_all(&mut self, sequence: u64, wanted: NodeAssignment, ctx: &mut Context) {
        self.sequence = Some(sequence);
        let gone: Vec<TaskId> =
            self.held.keys().filter(|id| !wanted.tasks.contains_key(id)).copied().collect();
        for id in gone {
            self.drop_task(id, ctx);
        }
        for task in wanted.tasks.values() {
            self.hold(task.clone(), ctx);
        }
        self.assigned = wanted;
    }

    /// What has changed of it. False if something in between is missing.
    pub(crate) fn obey(
        &mut self,
        applies_to: u64,
        results_in: u64,
        changes: Vec<AssignmentChange>,
        ctx: &mut Context,
    ) -> bool {
        if self.sequence != Some(applies_to) {
            return false;
        }
        self.sequence = Some(results_in);
        self.assigned.apply(changes.clone());
        for change in changes {
            match change {
                AssignmentChange::UpdateTask(task) => self.hold(task, ctx),
                AssignmentChange::RemoveTask(id) => self.drop_task(id, ctx),
                // Managers of the simulation send everything whole.
                AssignmentChange::RejectTask(..)
                | AssignmentChange::UpdateNetwork(_)
                | AssignmentChange::RemoveNetwork(_) => {}
            }
        }
        true
    }

    /// Told that the node is no member any more: nothing of it may go on.
    pub(crate) fn leave(&mut self, ctx: &mut Context) {
        self.removed = true;
        self.session = None;
        self.obey_all(0, NodeAssignment::default(), ctx);
    }

    fn hold(&mut self, task: AssignedTask, ctx: &mut Context) {
        let id = task.id;
        let held = self.held.entry(id).or_insert_with(|| Held {
            status: TaskStatus::new(TaskState::Assigned, ctx.queue.now, ""),
            task: task.clone(),
            since: ctx.queue.now,
            acknowledged: None,
            dropped: false,
            container: None,
            exit: None,
        });
        // Desired states only climb, so an old message cannot undo a newer one.
        if task.desired_state >= held.task.desired_state {
            held.task = task;
        }
        self.work_soon(id, ctx);
    }

    fn drop_task(&mut self, id: TaskId, ctx: &mut Context) {
        if let Some(held) = self.held.get_mut(&id) {
            held.dropped = true;
            self.work_soon(id, ctx);
        }
    }

    fn work_soon(&mut self, id: TaskId, ctx: &mut Context) {
        let delay = ctx.random.millis(5, 400) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::Work(self.node, id, self.life));
    }

    /// Takes a task one step towards what is wanted of it.
    pub(crate) fn work(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(held) = self.held.get(&id) else { return };
        let at = held.status.state;
        let stop = held.dropped || held.task.desired_state > DesiredState::Running;
        if at.is_terminal() {
            if held.dropped && held.container.is_none() {
                self.held.remove(&id);
            }
            return;
        }
        let refused = refusal(&held.task, self.description.level);
        if let Some(why) = refused.filter(|_| at < TaskState::Accepted) {
            self.enter(id, TaskState::Rejected, &why, ctx);
        } else if stop {
            self.stop(id, ctx);
        } else if at < TaskState::Preparing {
            let next =
                if at < TaskState::Accepted { TaskState::Accepted } else { TaskState::Preparing };
            self.enter(id, next, "", ctx);
        } else if at == TaskState::Preparing {
            let fails = !ctx.calm && ctx.random.chance(3);
            let next = if fails { TaskState::Rejected } else { TaskState::Ready };
            self.enter(id, next, "no such image", ctx);
        } else if at == TaskState::Ready {
            if held.task.desired_state < DesiredState::Running || self.port_is_busy(id) {
                return;
            }
            self.start_container(id, ctx);
            self.enter(id, TaskState::Starting, "", ctx);
        } else if at == TaskState::Starting {
            self.enter(id, TaskState::Running, "", ctx);
        } else {
            return;
        }
        self.work_soon(id, ctx);
    }

    fn stop(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(held) = self.held.get_mut(&id) else { return };
        if held.container.is_some() && held.status.state < TaskState::Draining {
            self.enter(id, TaskState::Draining, "", ctx);
        } else {
            held.container = None;
            self.enter(id, TaskState::Shutdown, "", ctx);
            self.retry_ports(ctx);
        }
        self.work_soon(id, ctx);
    }

    /// Whether another container of this host holds a port of the task: it waits for its end.
    fn port_is_busy(&self, id: TaskId) -> bool {
        let Some(mine) = self.held.get(&id) else { return false };
        let taken = |port| {
            let others = self.held.values().filter(|o| o.task.id != id && o.container.is_some());
            others.flat_map(|o| &o.task.ports).any(|o: &shoal_types::spec::PortConfig| o == port)
        };
        mine.task.ports.iter().any(taken)
    }

    fn retry_ports(&mut self, ctx: &mut Context) {
        let waiting: Vec<TaskId> = self
            .held
            .values()
            .filter(|h| h.status.state == TaskState::Ready && !h.task.ports.is_empty())
            .map(|h| h.task.id)
            .collect();
        for id in waiting {
            self.work_soon(id, ctx);
        }
    }

    fn start_container(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let number = ctx.count();
        held.container = Some(Container { number });
        let life = ctx.lifetime(&held.task);
        if let Some(life) = life {
            ctx.queue.after(life, Event::ContainerEnds(self.node, number));
        }
    }

    /// The end of a container. Nobody notices while the agent process does not run.
    pub(crate) fn container_ended(&mut self, number: u64, ctx: &mut Context) {
        let found = self
            .held
            .values_mut()
            .find(|h| h.container.as_ref().is_some_and(|c| c.number == number));
        let Some(held) = found else { return };
        let Some(code) = ctx.exit_code(&held.task) else { return };
        let id = held.task.id;
        held.container = None;
        if self.process {
            self.ended(id, code, ctx);
            self.retry_ports(ctx);
        } else {
            held.exit = Some(code);
        }
    }

    fn ended(&mut self, id: TaskId, code: i32, ctx: &mut Context) {
        let Some(held) = self.held.get(&id) else { return };
        let stopping = held.status.state == TaskState::Draining;
        let state = match code {
            _ if stopping => TaskState::Shutdown,
            0 => TaskState::Complete,
            _ => TaskState::Failed,
        };
        self.enter(id, state, &format!("exit code {code}"), ctx);
        self.work_soon(id, ctx);
    }

    fn enter(&mut self, id: TaskId, state: TaskState, why: &str, ctx: &mut Context) {
        let now = ctx.queue.now;
        ctx.note(|| format!("node {} task {id} is {state} {why}", self.node));
        let Some(held) = self.held.get_mut(&id).filter(|h| h.status.state.may_become(state)) else {
            return;
        };
        held.status = TaskStatus::new(state, now, state.as_str());
        if matches!(state, TaskState::Failed | TaskState::Rejected) {
            why.clone_into(&mut held.status.err);
        }
        if !self.flushing {
            self.flushing = true;
            let delay = ctx.random.millis(5, 200);
            ctx.queue.after(delay, Event::Flush(self.node, self.life));
        }
    }

    /// The message with everything that has not been confirmed; sent again until it is.
    pub(crate) fn report(&mut self, ctx: &mut Context) -> Option<Up> {
        let news: Vec<(TaskId, TaskStatus)> = self
            .held
            .values()
            .filter(|h| h.status.state > TaskState::Assigned)
            .filter(|h| h.acknowledged.as_ref() != Some(&h.status))
            .map(|h| (h.task.id, h.status.clone()))
            .collect();
        self.flushing = !news.is_empty() && !self.removed;
        if self.flushing {
            let delay = ctx.random.millis(500, 1500);
            ctx.queue.after(delay, Event::Flush(self.node, self.life));
        }
        let session = self.session?;
        self.flushing.then_some(Up::Statuses { session, statuses: news })
    }

    /// The leader knows these now.
    pub(crate) fn acknowledged(&mut self, statuses: Vec<(TaskId, TaskStatus)>) {
        for (id, status) in statuses {
            if let Some(held) = self.held.get_mut(&id) {
                held.acknowledged = Some(status);
            }
        }
    }

    /// A new session: what has become of all tasks is told again, as the leader may not know.
    pub(crate) fn opened(&mut self, session: u64, ctx: &mut Context) {
        self.session = Some(session);
        self.sequence = None;
        self.held.values_mut().for_each(|held| held.acknowledged = None);
        self.flushing = true;
        let delay = ctx.random.millis(5, 100);
        ctx.queue.after(delay, Event::Flush(self.node, self.life));
    }
}
