//! How far a node is on its way out: what has not ended there, and what is to take its place
//! elsewhere.

use std::collections::BTreeMap;

use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::object::{Slot, Task};
use shoal_types::task_state::TaskState;

use crate::orchestrator::{finds_no_place, is_ever_restarted};

/// What a node that is drained waits for.
#[derive(Debug, Default)]
pub struct Departure<'a> {
    /// Tasks of the node that have not ended.
    pub left: Vec<&'a Task>,
    /// Tasks of other nodes, or of none yet, that are to run instead of ones of this node, and do not
    /// yet. If nothing has been planned for a slot so far it is the node's own task.
    pub awaited: Vec<&'a Task>,
    /// The same, but there is no node for them: nobody need wait.
    pub unplaced: Vec<&'a Task>,
}

/// Looks at a node that is drained. A slot whose task here had ended by itself before is not waited for:
/// it was no better off with this node.
#[must_use]
pub fn departure(view: &ClusterState, node: NodeId) -> Departure<'_> {
    let mut found = Departure::default();
    let mut newest: BTreeMap<(ServiceId, Slot), &Task> = BTreeMap::new();
    for task in view.tasks_on_node(node) {
        if task.is_live() {
            found.left.push(task);
        }
        let known = newest.entry((task.service_id, task.slot)).or_insert(task);
        if age(task) > age(known) {
            *known = task;
        }
    }
    for own in newest.into_values().filter(|task| is_replaced(view, task)) {
        let later = || view.tasks_of_slot(own.service_id, own.slot).filter(|t| age(t) > age(own));
        if later().any(|t| matches!(t.status.state, TaskState::Running | TaskState::Complete)) {
            continue;
        }
        match later().max_by_key(|t| age(t)) {
            Some(next) if finds_no_place(next) => found.unplaced.push(next),
            Some(next) => found.awaited.push(next),
            None => found.awaited.push(own),
        }
    }
    found
}

fn age(task: &Task) -> impl Ord + use<> {
    (task.meta.created_at, task.id)
}

/// Whether another node is to run the slot of this task, because it does not do so here any more.
fn is_replaced(view: &ClusterState, task: &Task) -> bool {
    let moved = task.is_live() || task.status.state == TaskState::Shutdown;
    moved
        && matches!(task.slot, Slot::Replica(_))
        && task.desired_state.is_kept()
        && view.service(task.service_id).is_some()
        && is_ever_restarted(task)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_manager_state::Command;
    use shoal_manager_state::testing::{global_spec, service_spec, with_task};
    use shoal_types::spec::{Availability, Placement, RestartCondition, RestartPolicy};

    use super::*;
    use crate::stage::Stage;

    /// Names of what is left, awaited and without a place.
    fn seen(stage: &Stage, node: usize) -> [Vec<String>; 3] {
        let found = departure(stage.view(), stage.nodes[node]);
        [found.left, found.awaited, found.unplaced].map(|tasks| {
            let mut names: Vec<String> = tasks.iter().map(|t| t.name()).collect();
            names.sort();
            names
        })
    }

    fn drained(stage: &mut Stage, node: usize) {
        stage.cluster.set_availability(stage.nodes[node], Availability::Drain);
    }

    #[test]
    fn a_node_has_gone_when_it_is_empty_and_others_run_what_it_ran() {
        let mut stage = Stage::new(2);
        stage.service(service_spec("web", 2));
        stage.service(global_spec("log"));
        stage.run_for(Duration::from_secs(10));
        let node = stage.nodes[1];
        let web = stage.view().tasks_on_node(node).find(|t| &*t.service_name == "web");
        let web = web.expect("one of two").name();
        drained(&mut stage, 1);
        let log = format!("log.{node}");
        // Before anything is planned.
        assert_eq!(seen(&stage, 1), [vec![log.clone(), web.clone()], vec![web.clone()], vec![]]);
        stage.settle();
        assert_eq!(seen(&stage, 1), [vec![log, web.clone()], vec![web.clone()], vec![]]);
        stage.agents();
        assert_eq!(seen(&stage, 1), [vec![], vec![web], vec![]], "it does not run elsewhere yet");
        stage.run_for(Duration::from_secs(10));
        assert_eq!(seen(&stage, 1), [vec![], vec![], vec![]] as [Vec<String>; 3]);
    }

    #[test]
    fn nobody_waits_for_what_no_node_takes_and_what_is_not_begun_again() {
        let mut stage = Stage::new(2);
        let node = stage.nodes[1];
        let here = move |spec| {
            with_task(spec, |task| {
                let constraints = vec![format!("node.id == {node}")];
                task.placement = Some(Placement { constraints, ..Placement::default() });
            })
        };
        stage.service(here(service_spec("pinned", 1)));
        let policy = RestartPolicy { condition: RestartCondition::None, ..Default::default() };
        let once = with_task(service_spec("once", 1), |task| task.restart_policy = Some(policy));
        stage.service(here(once));
        let crashes = stage.cluster.add_service(here(service_spec("crashes", 1)));
        stage.fate.insert((crashes, 1), TaskState::Failed);
        stage.run();
        drained(&mut stage, 1);
        stage.run_for(Duration::from_secs(60));
        let [left, awaited, unplaced] = seen(&stage, 1);
        assert_eq!((left, awaited), (vec![], vec![]));
        assert!(unplaced.contains(&"pinned.1".to_owned()), "{unplaced:?}");
        assert!(!unplaced.contains(&"once.1".to_owned()), "{unplaced:?}");
    }

    #[test]
    fn what_goes_for_good_needs_no_replacement() {
        let mut stage = Stage::new(2);
        let web = stage.service(service_spec("web", 2));
        stage.run_for(Duration::from_secs(10));
        stage.cluster.apply(Command::RemoveService { id: web });
        drained(&mut stage, 1);
        stage.settle();
        let [left, awaited, unplaced] = seen(&stage, 1);
        assert_eq!((left.len(), awaited.len(), unplaced.len()), (1, 0, 0));
    }
}
