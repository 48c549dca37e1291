//! The simulation is the same each time, and every judge finds the bug that is planted for it.

use std::sync::Arc;

use shoal_manager_planning::{Plan, orchestrator};
use shoal_manager_state::{ClusterState, Command, ObjectRef, Rejected};
use shoal_types::id::{IdSource, SeededIds};
use shoal_types::object::{Task, TaskStatus};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{Mind, Real, run};

/// Seeds within which a planted bug must show.
const SEEDS: std::ops::Range<u64> = 1..40;

/// What the judges say first under the seeds.
fn verdict<M: Mind>(mind: impl Fn() -> M) -> String {
    let failure = SEEDS.into_iter().find_map(|seed| run(seed, &mind).err());
    let failure = failure.expect("no judge has noticed");
    assert!(!failure.trace.is_empty(), "the failure says what led to it");
    failure.wrong.join("\n")
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
        let twin = Task::clone(state.task(*holder)?);
        let status = TaskStatus::new(TaskState::Pending, twin.status.timestamp, "");
        let (node_id, desired_state) = (None, DesiredState::Running);
        forge(state, &Task { id: *id, status, node_id, desired_state, ..twin })
    }
}

#[test]
fn two_running_tasks_in_a_slot_are_noticed() {
    let wrong = verdict(|| Impatient);
    assert!(wrong.contains("runs 2 times"), "{wrong}");
}

/// Makes two tasks wherever one is needed, as if the slot were two.
struct Doubling;

impl Mind for Doubling {
    fn orchestrate(&mut self, view: &ClusterState, now: Timestamp, ids: &mut SeededIds) -> Plan {
        let mut plan = orchestrator::plan(view, now, ids);
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
    let wrong = verdict(|| Doubling);
    assert!(wrong.contains("runs 2 times"), "{wrong}");
}

/// Applying an assignment does not check what is left of the node.
struct Generous;

impl Mind for Generous {
    fn propose(&mut self, state: &ClusterState, planned: Command) -> Command {
        let Command::ExplainTask { id, err } = &planned else { return planned };
        let full = err.contains("insufficient") || err.contains("port");
        // Where nothing fits, the first node has to do.
        let node = state.nodes().find(|n| full && n.takes_tasks()).map(|n| n.id);
        node.map_or(planned.clone(), |node_id| Command::AssignTask { id: *id, node_id })
    }

    fn refused(
        &mut self,
        state: &ClusterState,
        c: &Command,
        why: &Rejected,
    ) -> Option<ClusterState> {
        let Command::AssignTask { id, node_id } = c else { return None };
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
    let wrong = verdict(|| Generous);
    assert!(wrong.contains("gave away") || wrong.contains("given away twice"), "{wrong}");
}

/// Says the same of every deployment again and again, in other words.
#[derive(Default)]
struct Talkative(u64);

impl Mind for Talkative {
    fn orchestrate(&mut self, view: &ClusterState, now: Timestamp, ids: &mut SeededIds) -> Plan {
        let mut plan = orchestrator::plan(view, now, ids);
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
    let wrong = verdict(Talkative::default);
    assert!(wrong.contains("does not come to rest"), "{wrong}");
}

/// Plans a command that cannot be carried out.
struct Careless;

impl Mind for Careless {
    fn orchestrate(&mut self, view: &ClusterState, now: Timestamp, ids: &mut SeededIds) -> Plan {
        let mut plan = orchestrator::plan(view, now, ids);
        let live = view.tasks().find(|t| t.status.state == TaskState::Running);
        plan.commands.extend(live.map(|t| Command::RemoveTask { id: t.id }));
        plan
    }
}

#[test]
fn a_plan_that_is_refused_is_noticed() {
    let wrong = verdict(|| Careless);
    assert!(wrong.contains("was planned and is refused"), "{wrong}");
}

/// Sometimes loses interest.
#[derive(Default)]
struct Lazy(u64);

impl Mind for Lazy {
    fn orchestrate(&mut self, view: &ClusterState, now: Timestamp, ids: &mut SeededIds) -> Plan {
        self.0 += 1;
        if self.0 > 100 { Plan::default() } else { orchestrator::plan(view, now, ids) }
    }
}

#[test]
fn a_cluster_that_does_not_converge_is_noticed() {
    let wrong = verdict(Lazy::default);
    let said = ["replicas", "is not on", "outlives", "to be forgotten", "holds task", "runs, and"];
    assert!(said.iter().any(|text| wrong.contains(text)), "{wrong}");
}
