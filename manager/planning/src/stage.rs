//! A cluster on which plans are carried out, with agents that do as they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};
use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Deployment, NodeState, Task};
use shoal_types::spec::ServiceSpec;
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::{Plan, orchestrator, scheduler};

pub(crate) struct Stage {
    pub(crate) cluster: TestCluster,
    pub(crate) nodes: Vec<NodeId>,
    /// How tasks of a service and spec version end instead of running.
    pub(crate) fate: BTreeMap<(ServiceId, u64), TaskState>,
    /// Whether that happens before they are ready.
    pub(crate) cannot_prepare: bool,
    /// What was placed on nodes, and when.
    pub(crate) placed: Vec<(ServiceId, Timestamp)>,
    wake_at: Option<Timestamp>,
    orchestrator: orchestrator::Memory,
    scheduler: scheduler::Memory,
}

impl Stage {
    pub(crate) fn new(nodes: usize) -> Self {
        let (cluster, nodes) = cluster_with_nodes(nodes);
        let (fate, placed) = (BTreeMap::new(), Vec::new());
        let (orchestrator, scheduler) = Default::default();
        let (cannot_prepare, wake_at) = (false, None);
        Self { cluster, nodes, fate, cannot_prepare, placed, wake_at, orchestrator, scheduler }
    }

    /// Gives all nodes what this version can do.
    pub(crate) fn upgrade(&mut self) {
        for node in self.nodes.clone() {
            self.cluster.set_level(node, Level::OWN);
        }
    }

    pub(crate) fn view(&self) -> &ClusterState {
        &self.cluster.state
    }

    /// One planning round of both planners; what they propose is applied.
    pub(crate) fn plan(&mut self) -> Vec<Command> {
        let plan = self.orchestrate();
        self.wake_at = plan.wake_at;
        let mut commands = plan.commands;
        self.carry_out(&commands);
        let placed = self.schedule();
        self.wake_at = self.wake_at.into_iter().chain(placed.wake_at).min();
        self.carry_out(&placed.commands);
        for command in &placed.commands {
            if let Command::AssignTask { id, .. } = command {
                let task = self.cluster.state.task(*id).expect("it was assigned");
                self.placed.push((task.service_id, self.cluster.now));
            }
        }
        commands.extend(placed.commands);
        commands
    }

    fn hear(&mut self) {
        for event in self.cluster.events() {
            self.orchestrator.hear(&event);
            self.scheduler.hear(&event);
        }
    }

    /// What is planned by what is remembered is what is planned by a look at everything.
    pub(crate) fn orchestrate(&mut self) -> Plan {
        self.hear();
        let (view, now) = (self.cluster.state.clone(), self.cluster.now);
        let mut fresh = orchestrator::Memory::default();
        let whole = orchestrator::plan(&view, &mut fresh, now, &mut self.cluster.ids.clone());
        let plan = orchestrator::plan(&view, &mut self.orchestrator, now, &mut self.cluster.ids);
        assert_eq!(plan.commands, whole.commands);
        assert_eq!(plan.missed, [] as [String; 0]);
        let same = !plan.commands.is_empty() || self.orchestrator.knows_the_same(&fresh);
        assert!(same, "{:#?} {fresh:#?}", self.orchestrator);
        plan
    }

    /// So here, but for what is said of tasks that are left: one look may say it, or the next. Tasks
    /// are placed where a scheduler places them that looks at every node for each.
    fn schedule(&mut self) -> Plan {
        self.hear();
        let (view, now) = (self.cluster.state.clone(), self.cluster.now);
        let mut fresh = scheduler::Memory::default();
        let whole = scheduler::plan(&view, &mut fresh, now);
        let plan = scheduler::plan(&view, &mut self.scheduler, now);
        let assigned = |plan: &Plan| -> Vec<Command> {
            let assigns = |c: &&Command| matches!(c, Command::AssignTask { .. });
            plan.commands.iter().filter(assigns).cloned().collect()
        };
        let plain = scheduler::plain::assignments(&view, now);
        assert_eq!(assigned(&plan), plain);
        assert_eq!(assigned(&whole), plain);
        assert!(self.scheduler.knows_the_same(&fresh), "{:#?} {fresh:#?}", self.scheduler);
        assert!(!plan.commands.is_empty() || whole.commands.is_empty(), "{whole:#?}");
        plan
    }

    /// One planning round of which only so many commands of each planner are carried out, if not all.
    pub(crate) fn plan_and_lose(&mut self, carried_out: Option<usize>) {
        for scheduler in [false, true] {
            let plan = if scheduler { self.schedule() } else { self.orchestrate() };
            let all = plan.commands.len();
            self.carry_out(&plan.commands[..all.min(carried_out.unwrap_or(all))]);
        }
        self.cluster.check();
    }

    fn carry_out(&mut self, commands: &[Command]) {
        for command in commands {
            self.cluster.apply(command.clone());
        }
    }

    /// Plans until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        self.settle_within(100);
    }

    /// The same in so many rounds.
    pub(crate) fn settle_within(&mut self, rounds: usize) {
        for _ in 0..rounds {
            if self.plan().is_empty() {
                self.cluster.check();
                return;
            }
        }
        panic!("planning does not come to rest");
    }

    /// Lets every reachable agent do the next thing; true if any did something.
    pub(crate) fn agents(&mut self) -> bool {
        let tasks: Vec<Task> = self.view().tasks().map(|t| Task::clone(t)).collect();
        let mut moved = false;
        for task in tasks {
            let ready = task.node_id.and_then(|id| self.view().node(id));
            let ready = ready.is_some_and(|n| n.status.state == NodeState::Ready);
            if !ready || !task.status.state.holds_its_node() {
                continue;
            }
            let fate = self
                .fate
                .get(&(task.service_id, task.spec_version))
                .copied()
                .unwrap_or(TaskState::Running);
            let next = match task.desired_state {
                DesiredState::Ready if self.cannot_prepare => fate,
                DesiredState::Ready => TaskState::Ready,
                DesiredState::Running => fate,
                DesiredState::Shutdown | DesiredState::Remove => TaskState::Shutdown,
            };
            if task.status.state.may_become(next) {
                self.cluster.report(task.id, next);
                moved = true;
            }
        }
        moved
    }

    /// Planning and agents in turn until all is quiet.
    pub(crate) fn run(&mut self) {
        for _ in 0..100 {
            self.settle();
            if !self.agents() {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Runs, and lets time pass whenever a planner waits for it, for at most `limit`.
    pub(crate) fn run_for(&mut self, limit: Duration) {
        let end = self.cluster.now + limit;
        loop {
            self.run();
            match self.wake_at.filter(|at| *at <= end) {
                Some(at) => self.cluster.now = self.cluster.now.max(at),
                None => break,
            }
        }
        self.cluster.now = end;
        self.run();
    }

    pub(crate) fn service(&mut self, spec: ServiceSpec) -> ServiceId {
        let id = self.cluster.add_service(spec);
        self.run();
        id
    }

    pub(crate) fn tasks(&self, service: ServiceId) -> Vec<Task> {
        let mut tasks: Vec<Task> =
            self.view().tasks_of_service(service).map(|t| Task::clone(t)).collect();
        tasks.sort_by_key(|t| (t.slot, t.meta.created_at, t.meta.version));
        tasks
    }

    pub(crate) fn running(&self, service: ServiceId) -> Vec<Task> {
        let mut tasks = self.tasks(service);
        tasks.retain(|t| t.is_wanted() && t.status.state == TaskState::Running);
        tasks
    }

    pub(crate) fn deployment(&self, service: ServiceId) -> Deployment {
        let service = self.view().service(service).expect("the service exists");
        let id = service.deployment_id;
        Deployment::clone(self.view().deployment(id).expect("the deployment exists"))
    }

    /// How many running tasks of a service each node has, in the order of `nodes`.
    pub(crate) fn spread(&self, service: ServiceId) -> Vec<usize> {
        let running = self.running(service);
        let on = |id: &NodeId| running.iter().filter(|t| t.node_id == Some(*id)).count();
        self.nodes.iter().map(on).collect()
    }

    pub(crate) fn end(&mut self, task: TaskId, state: TaskState) {
        self.cluster.report(task, state);
    }
}
