//! A host of fakes: containers, a disk with the ledger, and operations on them that take time, fail,
//! and are lost in the middle when the agent process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_agent_planning::node::holdings::{Action, Observed};
use shoal_agent_planning::task::{
    Boot, Cleaning, ExitStatus, Fact, Found, Machine, Preparation, Step, TaskRecord,
};
use shoal_agent_planning::zone::Asker;
use shoal_types::assignment::AssignedTask;
use shoal_types::id::{NetworkId, NodeId, TaskId};
use shoal_types::object::Network;
use shoal_types::spec::{PortConfig, PublishMode};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::context::Context;
use super::driver::Networks;
use super::queue::Event;
use super::things::Things;

/// A container and what is left of one.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) task: AssignedTask,
    /// Of this start; no other has it.
    pub(crate) number: u64,
    state: Is,
    /// Whether it takes no notice of being asked to stop.
    stubborn: bool,
}

#[derive(Debug, Clone)]
enum Is {
    Prepared,
    Running,
    Ended(ExitStatus),
}

impl Container {
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, Is::Running)
    }
}

/// Something that the agent does with one task, stage by stage.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) number: u64,
    pub(crate) aborted: bool,
    step: Step,
    stage: u32,
    record: TaskRecord,
    /// What stays when it is cleaned up, and what is written then.
    cleaning: Option<Cleaning>,
    /// The networks that are made for the task.
    networks: BTreeSet<String>,
    /// As whom its container asks for names.
    asker: Option<Asker>,
    errors: Vec<String>,
}

impl Operation {
    pub(crate) fn new(
        number: u64,
        step: Step,
        task: &AssignedTask,
        machine: &Machine,
        (networks, asker): (BTreeSet<String>, Option<Asker>),
        now: Timestamp,
    ) -> Self {
        let cleaning = match step {
            Step::Cleanup { keep_log } => Some(machine.cleaning(keep_log, task, now)),
            _ => None,
        };
        Self {
            number,
            aborted: false,
            step,
            stage: 0,
            record: machine.record(task),
            cleaning,
            networks,
            asker,
            errors: Vec::new(),
        }
    }
}

/// How far an operation is.
pub(crate) enum Done {
    NotYet,
    With(Fact),
    /// Nothing is left of its task.
    Forgotten,
}

/// What lives on when the agent process dies, and its disk, which outlives a boot.
#[derive(Debug)]
pub(crate) struct Host {
    node: NodeId,
    boots: u64,
    pub(crate) boot: Boot,
    containers: BTreeMap<TaskId, Container>,
    ledger: BTreeMap<TaskId, TaskRecord>,
    /// The networks of the ledger.
    pub(crate) networks: BTreeMap<NetworkId, Arc<Network>>,
    pub(crate) things: Things,
    pub(crate) net: Networks,
    /// The changes of [`Things`] that [`Networks`] know of.
    followed: u64,
    /// The newest term that was obeyed, as the ledger has it.
    pub(crate) obeyed: u64,
    /// When the node was first told of a task.
    since: BTreeMap<TaskId, Timestamp>,
}

impl Host {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            boots: 0,
            boot: Boot::new("0"),
            containers: BTreeMap::new(),
            ledger: BTreeMap::new(),
            networks: BTreeMap::new(),
            things: Things::default(),
            net: Networks::new(node),
            followed: 0,
            obeyed: 0,
            since: BTreeMap::new(),
        }
    }

    pub(crate) fn is_told_of(&mut self, id: TaskId, now: Timestamp) {
        self.since.entry(id).or_insert(now);
    }

    pub(crate) fn since(&self, id: TaskId) -> Timestamp {
        self.since.get(&id).copied().unwrap_or_default()
    }

    /// What really runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().filter(|container| container.runs())
    }

    /// Every task of which anything is left.
    pub(crate) fn tasks(&self) -> BTreeSet<TaskId> {
        self.containers.keys().chain(self.ledger.keys()).copied().collect()
    }

    pub(crate) fn containers(&self) -> BTreeSet<String> {
        self.containers.keys().map(ToString::to_string).collect()
    }

    /// Carries out what puts the host in order.
    pub(crate) fn perform(&mut self, action: &Action) {
        if let Action::RemoveContainer { container, .. } = action
            && let Ok(id) = container.parse()
        {
            self.containers.remove(&id);
        }
        self.things.perform(action);
    }

    /// What there is of networks follows from what tasks have.
    pub(crate) fn follow(&mut self) {
        if self.followed == self.things.changes() {
            return;
        }
        self.followed = self.things.changes();
        let Observed { networks, leases, lost, .. } = self.things.observe();
        self.net.follow(&networks, &leases, &lost);
    }

    /// What an agent process finds when it starts.
    pub(crate) fn adopt(&mut self) -> Vec<(TaskRecord, Found)> {
        self.since.retain(|id, _| self.ledger.contains_key(id));
        let found = |record: &TaskRecord| {
            let found = match self.containers.get(&record.task.id) {
                None => Found::Absent,
                Some(container) => match &container.state {
                    Is::Prepared => Found::Prepared,
                    Is::Running => Found::Running { pid: pid(container.number) },
                    Is::Ended(exit) => Found::Exited(exit.clone()),
                },
            };
            (record.clone(), found)
        };
        self.ledger.values().map(found).collect()
    }

    /// Nothing runs any more, and nobody knows how it ended.
    pub(crate) fn lose_power(&mut self, ctx: &mut Context) {
        self.boots += 1;
        self.boot = Boot::new(self.boots.to_string());
        self.things.lose_power();
        self.net.kernel.boot();
        let message = Some("the host was restarted".to_owned());
        let lost = ExitStatus { message, ..ExitStatus::default() };
        self.containers.retain(|_, container| {
            if matches!(container.state, Is::Ended(_)) {
                return true;
            }
            container.state = Is::Ended(lost.clone());
            // A log, or not even that.
            ctx.random.chance(70)
        });
    }

    /// Takes an operation one stage further.
    pub(crate) fn act(&mut self, operation: &mut Operation, ctx: &mut Context) -> Done {
        let stage = operation.stage;
        let is_structure =
            matches!((&operation.step, stage), (Step::Prepare, 0 | 2) | (Step::Cleanup { .. }, 1));
        if is_structure && self.net.is_busy() {
            return Done::NotYet;
        }
        operation.stage += 1;
        let id = operation.record.task.id;
        match operation.step {
            Step::Accept if fails(ctx, 2) => Done::With(Fact::AcceptFailed { err: full() }),
            Step::Accept => {
                self.ledger.insert(id, operation.record.clone());
                Done::With(Fact::Accepted)
            }
            Step::Prepare => self.prepare(operation, stage, ctx),
            Step::Start => self.start(operation, stage, ctx),
            Step::Withdraw => {
                // A failure keeps nothing from being stopped.
                if !fails(ctx, 3) {
                    self.ledger.insert(id, operation.record.clone());
                }
                Done::With(Fact::Withdrawn)
            }
            Step::Stop { .. } => {
                self.signal(id, false, ctx);
                Done::With(Fact::Stopped)
            }
            Step::Kill => {
                self.signal(id, true, ctx);
                Done::With(Fact::Killed)
            }
            Step::Cleanup { .. } => self.clean(operation, stage, ctx),
            Step::Forget if fails(ctx, 3) => Done::With(Fact::ForgetFailed { err: full() }),
            Step::Forget => {
                self.containers.remove(&id);
                self.ledger.remove(&id);
                self.since.remove(&id);
                Done::Forgotten
            }
            Step::Abort | Step::Wait(_) | Step::Nothing => Done::NotYet,
        }
    }

    fn prepare(&mut self, operation: &Operation, stage: u32, ctx: &mut Context) -> Done {
        let id = operation.record.task.id;
        let fact = match stage {
            _ if operation.aborted => Fact::PrepareAborted,
            0 => {
                for network in &operation.networks {
                    self.things.acquire(id, network);
                }
                return Done::NotYet;
            }
            1 => {
                self.things.mount(id);
                self.things.write_files(id);
                return Done::NotYet;
            }
            2 if operation.networks.iter().any(|network| !self.net.has(network)) => {
                Fact::PrepareFailed { err: "the bridge is gone".to_owned() }
            }
            2 => {
                self.make(&operation.record);
                for network in &operation.networks {
                    self.things.attach(id, network);
                }
                if let Some(asker) = operation.asker.clone() {
                    self.things.answer(&id.to_string(), asker);
                }
                return Done::NotYet;
            }
            _ if fails(ctx, 3) => Fact::PrepareFailed { err: "no such image".to_owned() },
            _ => Fact::Prepared(Preparation { stop_signal: 15, ..Preparation::default() }),
        };
        Done::With(fact)
    }

    /// That it is started is written down before.
    fn start(&mut self, operation: &Operation, stage: u32, ctx: &mut Context) -> Done {
        let id = operation.record.task.id;
        let fact = match stage {
            _ if operation.aborted => Fact::StartAborted,
            0 if self.port_is_busy(id) => {
                let err = "port already in use".to_owned();
                Fact::StartFailed { state: TaskState::Rejected, err, code: None }
            }
            0 if fails(ctx, 2) => {
                Fact::StartFailed { state: TaskState::Failed, err: full(), code: None }
            }
            0 => {
                self.ledger.insert(id, operation.record.clone());
                return Done::NotYet;
            }
            1 => {
                self.run(id, ctx);
                return Done::NotYet;
            }
            _ => {
                let number = self.containers.get(&id).map_or(0, |container| container.number);
                Fact::Started { pid: pid(number), ports: Vec::new() }
            }
        };
        Done::With(fact)
    }

    /// Its end is written down when it is known for certain.
    fn clean(&mut self, operation: &mut Operation, stage: u32, ctx: &mut Context) -> Done {
        let id = operation.record.task.id;
        if stage < 4 {
            if stage > 0 && fails(ctx, 1) {
                operation.errors.push(full());
            } else {
                self.give_back(operation, stage);
            }
            return Done::NotYet;
        }
        let Some(cleaning) = &operation.cleaning else { return Done::With(Fact::Cleaned) };
        let mut saved = false;
        if let Some(end) = cleaning.end(true) {
            saved = !fails(ctx, 1);
            if saved {
                self.ledger.insert(id, end.clone());
            } else {
                operation.errors.push(full());
            }
        }
        Done::With(cleaning.fact(true, saved, &operation.errors))
    }

    /// Processes first: nothing else can be taken from under them.
    fn give_back(&mut self, operation: &mut Operation, stage: u32) {
        let id = operation.record.task.id;
        match stage {
            0 => {
                self.containers.remove(&id);
            }
            1 => {
                self.things.let_go(&id.to_string());
                self.things.release(&id.to_string());
                let kept = self.things.leave_all(id, &operation.networks);
                let in_use = kept.iter().map(|network| format!("network {network} is in use"));
                operation.errors.extend(in_use);
            }
            2 => {
                let keeps = operation.cleaning.as_ref().is_some_and(|c| c.keeps_volumes);
                self.things.unmount(id, keeps);
            }
            _ => self.things.remove_files(id),
        }
    }

    /// Whatever was there under the name makes room.
    fn make(&mut self, record: &TaskRecord) {
        let task = record.task.clone();
        let container = Container { task, number: 0, state: Is::Prepared, stubborn: false };
        self.containers.insert(record.task.id, container);
    }

    fn run(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        if !matches!(container.state, Is::Prepared) {
            return;
        }
        container.number = ctx.count();
        container.state = Is::Running;
        container.stubborn = !ctx.calm && ctx.random.chance(5);
        if let Some(life) = ctx.lifetime(&container.task) {
            ctx.queue.after(life, Event::ContainerEnds(self.node, container.number));
        }
    }

    /// A signal to end it, which takes a moment.
    fn signal(&mut self, id: TaskId, kill: bool, ctx: &mut Context) {
        let Some(container) = self.containers.get_mut(&id).filter(|c| c.runs()) else { return };
        if kill || !container.stubborn {
            let delay = ctx.random.millis(1, 300);
            let number = container.number;
            ctx.queue.after(delay, Event::ContainerStops(self.node, number, kill));
        }
    }

    /// A container ends by itself, if what it is made from ever does.
    pub(crate) fn container_ends(
        &mut self,
        number: u64,
        ctx: &mut Context,
    ) -> Option<(TaskId, ExitStatus)> {
        let code = ctx.exit_code(&self.by_number(number)?.task)?;
        self.end(number, ExitStatus { code: Some(code), ..ExitStatus::default() })
    }

    /// A container ends by a signal.
    pub(crate) fn container_stops(
        &mut self,
        number: u64,
        killed: bool,
    ) -> Option<(TaskId, ExitStatus)> {
        let exit = match killed {
            true => ExitStatus { signal: Some(9), ..ExitStatus::default() },
            false => ExitStatus { code: Some(143), ..ExitStatus::default() },
        };
        self.end(number, exit)
    }

    fn by_number(&mut self, number: u64) -> Option<&mut Container> {
        self.containers.values_mut().find(|c| c.number == number && c.runs())
    }

    fn end(&mut self, number: u64, exit: ExitStatus) -> Option<(TaskId, ExitStatus)> {
        let container = self.by_number(number)?;
        container.state = Is::Ended(exit.clone());
        Some((container.task.id, exit))
    }

    /// Whether another container of this host holds a port of the task that is of this host alone.
    fn port_is_busy(&self, id: TaskId) -> bool {
        let Some(mine) = self.containers.get(&id) else { return false };
        let taken = |port: &PortConfig| {
            let others = self.running().filter(|other| other.task.id != id);
            others.flat_map(|other| &other.task.ports).any(|other| other == port)
        };
        mine.task.ports.iter().filter(|port| port.publish_mode == PublishMode::Host).any(taken)
    }
}

fn pid(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn fails(ctx: &mut Context, percent: u64) -> bool {
    !ctx.calm && ctx.random.chance(percent)
}

fn full() -> String {
    "the disk is full".to_owned()
}
