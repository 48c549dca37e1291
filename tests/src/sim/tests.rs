//! The simulation is the same each time, and every judge finds the bug that is planted for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_planning::node::holdings::{self, Action, Assigned, Observed};
use shoal_agent_planning::task::{Boot, Found, Machine, Moment, TaskRecord};
use shoal_manager_planning::assignment::{self, News};
use shoal_manager_planning::{Plan, orchestrator};
use shoal_manager_state::{ClusterState, Command, Event, ObjectKind, ObjectRef, Rejected};
use shoal_types::id::{IdSource, NodeId, SeededIds};
use shoal_types::level::Level;
use shoal_types::object::{Node, Slot, Task, TaskStatus};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{Memory, Mind, Real, run};

mod hosts;

/// Seeds within which a planted bug must show.
const SEEDS: std::ops::Range<u64> = 1..40;

/// Some judge says this under one of the seeds. A planted bug may show in other ways before.
#[track_caller]
fn noticed<M: Mind>(mind: impl Fn() -> M, said: &[&str]) {
    let mut others = Vec::new();
    for failure in SEEDS.filter_map(|seed| run(seed, &mind).err()) {
        assert!(!failure.trace.is_empty(), "the failure says what led to it");
        let wrong = failure.wrong.join("\n");
        if said.iter().any(|text| wrong.contains(text)) {
            return;
        }
        others.push(wrong);
    }
    panic!("no judge says any of {said:?}, but {others:#?}");
}

#[test]
fn one_seed_is_one_story() {
    let stories = [7, 7, 8].map(|seed| run(seed, || Real).map_err(|failure| failure.wrong));
    assert_eq!(stories[0], stories[1]);
    assert_ne!(stories[1], stories[2]);
}

#[test]
fn much_happens_in_a_simulation() {
    let done: Vec<_> = (1..9).filter_map(|seed| run(seed, || Real).ok()).collect();
    assert!(done.iter().all(|s| s.applied > 50), "{done:?}");
    assert!(done.iter().any(|s| s.refused > 0), "plans on old views are refused at times");
}

/// Edits the state behind the back of all checks, as a bug in applying would.
fn forge(state: &ClusterState, task: &Task) -> Option<ClusterState> {
    let index = state.applied_index();
    let mut objects = state.export();
    objects.retain(|o| !matches!(o, ObjectRef::Task(t) if t.id == task.id));
    objects.push(ObjectRef::Task(Arc::new(task.clone())));
    ClusterState::import(index, objects).ok()
}

/// Starts successors without waiting, and applying does not mind.
struct Impatient;

impl Mind for Impatient {
    fn propose(&mut self, _state: &ClusterState, mut planned: Command) -> Command {
        if let Command::CreateTask { desired, .. } = &mut planned {
            *desired = DesiredState::Running;
        }
        planned
    }

    fn refused(
        &mut self,
        state: &ClusterState,
        c: &Command,
        why: &Rejected,
    ) -> Option<ClusterState> {
        let (Rejected::SlotTaken { holder, .. }, Command::CreateTask { id, .. }) = (why, c) else {
            return None;
        };
        let mut twin = Task::clone(state.task(*holder)?);
        twin.spec = Arc::clone(&state.service(twin.service_id)?.spec.task_template);
        twin.spec_version = state.service(twin.service_id)?.meta.spec_version;
        twin.meta.created_at = twin.meta.created_at + Duration::from_nanos(1);
        let status = TaskStatus::new(TaskState::Pending, twin.status.timestamp, "");
        let node_id = match twin.slot {
            Slot::Replica(_) => None,
            Slot::Node(node) => Some(node),
        };
        let desired_state = DesiredState::Running;
        forge(state, &Task { id: *id, status, node_id, desired_state, ..twin })
    }
}

#[test]
fn two_running_tasks_in_a_slot_are_noticed() {
    noticed(|| Impatient, &["runs 2 times"]);
}

/// Makes two tasks wherever one is needed, as if the slot were two.
struct Doubling;

impl Mind for Doubling {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        let mut plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        let twins: Vec<Command> = plan
            .commands
            .iter()
            .filter(|c| matches!(c, Command::CreateTask { node_id: None, .. }))
            .cloned()
            .collect();
        for mut twin in twins {
            if let Command::CreateTask { id, .. } = &mut twin {
                *id = ids.next_id();
            }
            plan.commands.push(twin);
        }
        plan
    }
}

#[test]
fn a_planner_that_fills_a_slot_twice_is_noticed() {
    noticed(|| Doubling, &["runs 2 times"]);
}

/// Applying an assignment does not check what is left of the node.
struct Generous;

impl Mind for Generous {
    fn propose(&mut self, state: &ClusterState, planned: Command) -> Command {
        let Command::ExplainTask { id, err } = &planned else { return planned };
        let full = err.contains("insufficient") || err.contains("port");
        // Where nothing fits, the first node has to do.
        let node = state.nodes().find(|n| full && n.takes_tasks()).map(|n| n.id);
        node.map_or(planned.clone(), |node_id| Command::AssignTask {
            id: *id,
            node_id,
            partner: None,
        })
    }

    fn refused(
        &mut self,
        state: &ClusterState,
        c: &Command,
        why: &Rejected,
    ) -> Option<ClusterState> {
        let Command::AssignTask { id, node_id, .. } = c else { return None };
        if !matches!(why, Rejected::NoRoom { .. } | Rejected::PortTaken { .. }) {
            return None;
        }
        let task = Task::clone(state.task(*id)?);
        let status = TaskStatus::new(TaskState::Assigned, task.status.timestamp, "");
        forge(state, &Task { node_id: Some(*node_id), status, ..task })
    }
}

#[test]
fn an_overdrawn_node_is_noticed() {
    noticed(|| Generous, &["gave away", "given away twice"]);
}

/// Gives a new task the address that another one has, as an allocator with a memory of its own might.
struct Forgetful;

impl Mind for Forgetful {
    fn applied(&mut self, state: &ClusterState, command: &Command) -> Option<Task> {
        let Command::CreateTask { id, .. } = command else { return None };
        let new = state.task(*id)?;
        let joins = |task: &Task| task.networks.iter().find(|n| !n.addresses.is_empty()).cloned();
        let own = joins(new)?.network_id;
        let has = |task: &Task| joins(task).is_some_and(|joined| joined.network_id == own);
        let other = state.tasks().find(|t| t.id != *id && t.is_live() && has(t))?;
        Some(Task { networks: Arc::clone(&other.networks), ..Task::clone(new) })
    }
}

#[test]
fn an_address_that_is_given_twice_is_noticed() {
    noticed(|| Forgetful, &["is held twice"]);
}

/// Gives a new node the address of one that is there.
struct Welcoming;

impl Mind for Welcoming {
    fn admitted(&mut self, state: &ClusterState, command: &Command) -> Option<Node> {
        let Command::CreateNode { id, .. } = command else { return None };
        let address = state.nodes().find(|node| node.id != *id)?.tunnel_address;
        Some(Node { tunnel_address: address, ..Node::clone(state.node(*id)?) })
    }
}

#[test]
fn an_address_that_two_nodes_have_is_noticed() {
    noticed(|| Welcoming, &["is held twice: by node"]);
}

/// Tells nodes of their own tasks alone.
struct Aloof;

impl Mind for Aloof {
    fn news(&mut self, events: &[Event], view: &ClusterState) -> BTreeMap<NodeId, News> {
        let alone = |event: &Event| Event { reach: Default::default(), ..event.clone() };
        let events: Vec<Event> = events.iter().map(alone).collect();
        assignment::news(&events, view)
    }
}

#[test]
fn a_node_that_is_not_told_of_others_is_noticed() {
    noticed(|| Aloof, &["was told something else than what it must hold"]);
}

/// The judge says nothing if nobody leads anywhere.
#[test]
fn nodes_lead_ports_to_others_in_a_simulation() {
    let done: Vec<_> = (1..24).filter_map(|seed| run(seed, || Real).ok()).collect();
    let published = done.iter().flat_map(|s| s.state.published_tasks());
    assert!(published.count() > 10);
}

/// The judge says nothing if nobody ever has an address.
#[test]
fn tasks_and_services_have_addresses_in_a_simulation() {
    let done: Vec<_> = (1..24).filter_map(|seed| run(seed, || Real).ok()).collect();
    let tasks = done.iter().flat_map(|s| s.state.tasks());
    let addressed = tasks.filter(|t| t.networks.iter().any(|n| !n.addresses.is_empty())).count();
    let services = done.iter().flat_map(|s| s.state.services());
    let vips = services.filter(|s| !s.endpoint.virtual_ips.is_empty()).count();
    assert!(addressed > 20 && vips > 5, "{addressed} tasks, {vips} services");
}

/// Places tasks on nodes that are too old for them, and applying does not mind.
struct Blind;

impl Mind for Blind {
    fn propose(&mut self, state: &ClusterState, planned: Command) -> Command {
        let Command::ExplainTask { id, err } = &planned else { return planned };
        let node = state.nodes().find(|n| err.contains("too old") && n.takes_tasks());
        node.map_or(planned.clone(), |n| Command::AssignTask {
            id: *id,
            node_id: n.id,
            partner: None,
        })
    }

    fn refused(
        &mut self,
        state: &ClusterState,
        c: &Command,
        why: &Rejected,
    ) -> Option<ClusterState> {
        let Command::AssignTask { id, node_id, .. } = c else { return None };
        if !matches!(why, Rejected::NodeTooOld { .. }) {
            return None;
        }
        let task = Task::clone(state.task(*id)?);
        let status = TaskStatus::new(TaskState::Assigned, task.status.timestamp, "");
        forge(state, &Task { node_id: Some(*node_id), status, ..task })
    }
}

#[test]
fn a_task_on_a_node_that_is_too_old_for_it_is_noticed() {
    noticed(|| Blind, &["needs level 4 and is on"]);
}

/// Nodes of two levels, some of which are upgraded on the way, and services that need either.
#[test]
fn a_mixed_cluster_of_two_levels_converges() {
    let (mut mixed, mut old, mut new, mut waiting) = (0, 0, 0, 0);
    for seed in 1..24 {
        let done = run(seed, || Real).unwrap_or_else(|failure| panic!("{failure}"));
        let level = |node: NodeId| done.state.node(node).map(|n| n.description.level);
        let levels: BTreeSet<_> = done.state.nodes().map(|n| n.description.level).collect();
        mixed += usize::from(levels.len() == 2);
        for task in done.state.tasks().filter(|t| t.is_wanted()) {
            match (task.status.state, task.node_id.and_then(level)) {
                (TaskState::Running, Some(has)) => {
                    assert!(task.level <= has, "seed {seed}: {task:?}");
                    new += usize::from(task.level > Level::FIRST);
                    old += usize::from(has == Level::FIRST);
                }
                (TaskState::Pending, _) if task.status.err.contains("node is too old") => {
                    waiting += 1;
                }
                _ => {}
            }
        }
    }
    let seen = [mixed, old, new, waiting];
    assert!(seen.iter().all(|n| *n > 0), "all of it happens: {seen:?}");
}

/// Says the same of every deployment again and again, in other words.
#[derive(Default)]
struct Talkative(u64);

impl Mind for Talkative {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        let mut plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        self.0 += 1;
        plan.commands.extend(view.deployments().find(|d| d.state.is_final()).map(|d| {
            Command::UpdateDeployment {
                id: d.id,
                state: d.state,
                message: format!("looked at {} times", self.0),
            }
        }));
        plan
    }
}

#[test]
fn a_planner_that_never_rests_is_noticed() {
    noticed(Talkative::default, &["does not come to rest"]);
}

/// Plans a command that cannot be carried out.
struct Careless;

impl Mind for Careless {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        let mut plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        let live = view.tasks().find(|t| t.status.state == TaskState::Running);
        plan.commands.extend(live.map(|t| Command::RemoveTask { id: t.id }));
        plan
    }
}

#[test]
fn a_plan_that_is_refused_is_noticed() {
    noticed(|| Careless, &["was planned and is refused"]);
}

/// Sometimes loses interest.
#[derive(Default)]
struct Lazy(u64);

impl Mind for Lazy {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        self.0 += 1;
        let plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        if self.0 > 100 { Plan::default() } else { plan }
    }
}

#[test]
fn a_cluster_that_does_not_converge_is_noticed() {
    let said = ["replicas", "is not on", "outlives", "to be forgotten", "holds task", "runs, and"];
    noticed(Lazy::default, &said);
}

/// Never does again what ended in one way.
struct Resigned(TaskState);

impl Mind for Resigned {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        let mut plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        plan.commands.retain(|command| {
            let Command::CreateTask { service_id, slot, .. } = command else { return true };
            let last = view.tasks_of_slot(*service_id, *slot).max_by_key(|t| t.meta.created_at);
            last.is_none_or(|task| task.status.state != self.0)
        });
        plan
    }
}

#[test]
fn a_failed_task_without_successor_is_noticed() {
    noticed(|| Resigned(TaskState::Failed), &["replicas", "is not on"]);
}

#[test]
fn a_lost_task_without_successor_is_noticed() {
    noticed(|| Resigned(TaskState::Orphaned), &["replicas", "is not on"]);
}

/// Lets no agent tell those who share the network of a task what that does.
struct Mute;

impl Mind for Mute {
    fn tells_sharers(&mut self) -> bool {
        false
    }
}

#[test]
fn a_task_that_runs_without_its_partner_is_noticed() {
    noticed(|| Mute, &["runs before its partner"]);
}

/// Counts rejections, and does not wait after them.
struct Hasty;

impl Mind for Hasty {
    fn propose(&mut self, _state: &ClusterState, mut planned: Command) -> Command {
        if let Command::CreateTask { start_after, rejections: 1.., .. } = &mut planned {
            *start_after = None;
        }
        planned
    }
}

#[test]
fn a_rejected_task_that_is_tried_again_at_once_is_noticed() {
    noticed(|| Hasty, &["after a rejection"]);
}

/// Leaves what runs as it is, whatever its service has become.
struct Conservative;

impl Mind for Conservative {
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        let mut plan = orchestrator::plan(view, &mut memory.orchestrator, now, ids);
        let runs = |task: &Task| {
            let node = task.node_id.and_then(|id| view.node(id));
            task.is_wanted()
                && task.status.state == TaskState::Running
                && node.is_some_and(|node| node.takes_tasks())
        };
        plan.commands.retain(|command| match command {
            Command::SetDesired { id, desired: DesiredState::Shutdown } => {
                !view.task(*id).is_some_and(|task| runs(task))
            }
            Command::CreateTask { service_id, slot, .. } => {
                !view.tasks_of_slot(*service_id, *slot).any(|task| runs(task))
            }
            _ => true,
        });
        plan
    }
}

#[test]
fn an_outdated_task_that_is_not_replaced_is_noticed() {
    noticed(|| Conservative, &["does not end", "is outdated"]);
}

/// Hears nothing of objects of one kind.
struct Deaf(ObjectKind);

impl Mind for Deaf {
    fn hear(&mut self, memory: &mut Memory, event: &Event) {
        if event.object.kind() != self.0 {
            memory.hear(event);
        }
    }
}

#[test]
fn a_planner_that_misses_changes_is_noticed() {
    // Services never change without a deployment of theirs. Who hears of no task makes the same one
    // again and again.
    let forgets = ["forgotten by those who remember", "had changed unnoticed"];
    noticed(|| Deaf(ObjectKind::Node), &forgets);
    noticed(|| Deaf(ObjectKind::Task), &["planning does not come to rest"]);
}

/// Tells nodes nothing of tasks that are to stop.
struct Discreet;

impl Mind for Discreet {
    fn news(&mut self, events: &[Event], view: &ClusterState) -> BTreeMap<NodeId, News> {
        let stops = |o: &ObjectRef| matches!(o, ObjectRef::Task(t) if t.desired_state.is_stop());
        assignment::news(events.iter().filter(|event| !stops(&event.object)), view)
    }
}

#[test]
fn a_node_that_is_not_told_of_a_change_is_noticed() {
    noticed(|| Discreet, &["was told something else than what it must hold"]);
}

/// An agent that runs again what had ended.
struct Undying;

impl Mind for Undying {
    fn resume(&mut self, record: &TaskRecord, found: Found, boot: &Boot, now: Moment) -> Machine {
        if !record.status.state.is_terminal() {
            return Machine::resume(record, found, boot, now);
        }
        let status = TaskStatus::new(TaskState::Accepted, now.wall, "accepted");
        let record = TaskRecord { status, started: None, ..record.clone() };
        Machine::resume(&record, Found::Absent, boot, now)
    }
}

#[test]
fn a_node_that_runs_again_what_had_ended_is_noticed() {
    noticed(|| Undying, &["runs 2 times", "runs, and is not to"]);
}

/// An agent that takes what its host's stop interrupted for ended, and says nothing of it.
struct Silent;

impl Mind for Silent {
    fn resume(&mut self, record: &TaskRecord, found: Found, boot: &Boot, now: Moment) -> Machine {
        let other = record.started.as_ref().is_some_and(|started| started.is_other_than(boot));
        let mut machine = Machine::resume(record, found, boot, now);
        if other && !record.status.state.is_terminal() {
            machine.host_stops();
        }
        machine
    }
}

#[test]
fn a_node_that_brings_nothing_back_and_does_not_say_so_is_noticed() {
    noticed(|| Silent, &["replicas", "is not on"]);
}

/// An agent that leaves whatever there is where it is.
struct Lavish;

impl Mind for Lavish {
    fn order(&mut self, assigned: &Assigned, observed: &Observed) -> Vec<Action> {
        let mut actions = holdings::plan(assigned, observed);
        actions.retain(|action| matches!(action, Action::Connect { .. }));
        actions
    }
}

#[test]
fn a_node_that_keeps_what_belongs_to_nobody_is_noticed() {
    noticed(|| Lavish, &["has volume own-", "has network"]);
}

/// An agent that connects nobody again.
struct Unplugged;

impl Mind for Unplugged {
    fn order(&mut self, assigned: &Assigned, observed: &Observed) -> Vec<Action> {
        let mut actions = holdings::plan(assigned, observed);
        actions.retain(|action| !matches!(action, Action::Connect { .. }));
        actions
    }
}

#[test]
fn a_node_that_leaves_links_lost_is_noticed() {
    noticed(|| Unplugged, &["has lost the link of"]);
}
