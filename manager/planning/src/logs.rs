//! Whose logs a reader means, which of its nodes are asked, and what follows when an answer has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_manager_state::{Action, ClusterState, Event, ObjectRef, Unresolved};
use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::object::Task;

/// Tasks that an agent is asked for in one message and answers in one stream; it takes no more than 1024.
pub const TASKS_MAX: usize = 1000;

/// Whose logs are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those of all tasks of a service, also of the ones that come later.
    Service(ServiceId),
    /// Those of one task.
    Task(TaskId),
}

impl Wanted {
    /// What a reference means: a service, or else a task.
    ///
    /// # Errors
    /// It leads to neither; says so of the service, which is what people mean most.
    pub fn resolve(view: &ClusterState, reference: &str) -> Result<Self, Unresolved> {
        let unknown = match view.resolve_service(reference) {
            Ok(service) => return Ok(Self::Service(service.id)),
            Err(unknown) => unknown,
        };
        view.resolve_task(reference).map(|task| Self::Task(task.id)).map_err(|_| unknown)
    }

    /// Whether a task is one of [`Self::tasks`].
    fn has(self, task: &Task) -> bool {
        let named = match self {
            Self::Service(id) => task.service_id == id,
            Self::Task(id) => task.id == id,
        };
        named && task.had_container()
    }

    /// Its tasks that have, or had, a container: nothing else has a log.
    #[must_use]
    pub fn tasks(self, view: &ClusterState) -> Vec<Arc<Task>> {
        let seen = |task: &&Arc<Task>| task.had_container();
        match self {
            Self::Service(id) => view.tasks_of_service(id).filter(seen).cloned().collect(),
            Self::Task(id) => view.task(id).into_iter().filter(seen).cloned().collect(),
        }
    }
}

/// Whose logs a reader was given already.
#[derive(Debug)]
pub struct Asked {
    wanted: Wanted,
    tasks: BTreeSet<TaskId>,
}

impl Asked {
    /// Nobody's yet.
    #[must_use]
    pub const fn new(wanted: Wanted) -> Self {
        Self { wanted, tasks: BTreeSet::new() }
    }

    /// The tasks of which nobody was asked for, of all that there are. Forgets those that are gone.
    pub fn look(&mut self, view: &ClusterState) -> Vec<Arc<Task>> {
        self.tasks.retain(|task| view.task(*task).is_some());
        let mut fresh = self.wanted.tasks(view);
        fresh.retain(|task| self.tasks.insert(task.id));
        fresh
    }

    /// As [`Self::look`], of those that are named in events.
    pub fn hear(&mut self, events: &[Arc<Event>]) -> Vec<Arc<Task>> {
        let mut fresh = BTreeMap::new();
        for event in events {
            let ObjectRef::Task(task) = &event.object else { continue };
            if event.action == Action::Remove {
                self.tasks.remove(&task.id);
                fresh.remove(&task.id);
            } else if self.wanted.has(task) && self.tasks.insert(task.id) {
                fresh.insert(task.id, Arc::clone(task));
            }
        }
        fresh.into_values().collect()
    }
}

/// Tasks by their nodes, as many together as an agent is asked for at once.
#[must_use]
pub fn by_node(tasks: Vec<Arc<Task>>) -> Vec<(NodeId, Vec<Arc<Task>>)> {
    let mut by_node: BTreeMap<NodeId, Vec<Arc<Task>>> = BTreeMap::new();
    for task in tasks {
        let Some(node) = task.node_id else { continue };
        by_node.entry(node).or_default().push(task);
    }
    let mut all = Vec::new();
    for (node, tasks) in by_node {
        all.extend(tasks.chunks(TASKS_MAX).map(|tasks| (node, tasks.to_vec())));
    }
    all
}

/// How a node's answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With all there is, as far as the agent knew.
    Whole,
    /// Before that; or it never began.
    Cut {
        /// Whether it had begun.
        begun: bool,
    },
}

/// What follows the end of a node's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the reader has what there is.
    Done,
    /// The agent is asked again for the tasks that may have more to say once it has gone: one that ends
    /// its session ends its streams too, in the same way as it ends one that is whole.
    AfterSession,
    /// The agent is asked again, after a pause, for all tasks that are still there.
    Again,
}

/// What follows, for a reader who `follows` and has or has not set an end (`bounded`).
#[must_use]
pub const fn after(end: End, follows: bool, bounded: bool) -> Next {
    match end {
        End::Whole if follows && !bounded => Next::AfterSession,
        End::Cut { .. } if follows => Next::Again,
        End::Whole | End::Cut { .. } => Next::Done,
    }
}

/// Whether a reader is to be told that an answer was cut: of a node that stays away only once.
#[must_use]
pub const fn is_news(begun: bool, told: bool) -> bool {
    begun || !told
}

/// Whether a task is to be asked for again: it is still known, and may have more to say unless `all` are
/// meant, because the answer had not come to its end.
#[must_use]
pub fn goes_on(view: &ClusterState, task: TaskId, all: bool) -> bool {
    view.task(task).is_some_and(|task| all || task.is_live())
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::{TestCluster, cluster_with_nodes, service_spec};
    use shoal_types::task_state::TaskState;

    use super::*;

    #[test]
    fn a_reader_who_follows_is_given_each_task_once_and_only_those_of_the_service() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let web = cluster.add_service(service_spec("web", 3));
        let other = cluster.add_service(service_spec("other", 1));
        let first = cluster.add_running(web, 1, nodes[0]);
        cluster.add_running(other, 1, nodes[0]);
        cluster.events();
        let ids = |tasks: Vec<Arc<Task>>| tasks.iter().map(|t| t.id).collect::<Vec<_>>();
        let mut asked = Asked::new(Wanted::Service(web));
        assert_eq!(ids(asked.look(&cluster.state)), [first]);
        let mut heard = |cluster: &mut TestCluster| {
            let events: Vec<_> = cluster.events().into_iter().map(Arc::new).collect();
            let fresh = ids(asked.hear(&events));
            assert_eq!(ids(asked.look(&cluster.state)), [], "events leave nothing out");
            let known = asked.tasks.iter().all(|task| cluster.state.task(*task).is_some());
            assert!(known, "what is gone is forgotten");
            fresh
        };
        // It is new, and has no log before it has a container.
        let second = cluster.add_task(web, 2);
        cluster.apply(Command::AssignTask { id: second, node_id: nodes[0], partner: None });
        assert_eq!(heard(&mut cluster), []);
        cluster.report(second, TaskState::Running);
        cluster.report(first, TaskState::Failed);
        cluster.add_running(other, 2, nodes[0]);
        assert_eq!(heard(&mut cluster), [second]);
        cluster.apply(Command::RemoveTask { id: first });
        cluster.report(second, TaskState::Failed);
        assert_eq!(heard(&mut cluster), []);
        let short = cluster.add_running(web, 3, nodes[0]);
        cluster.report(short, TaskState::Failed);
        cluster.apply(Command::RemoveTask { id: short });
        assert_eq!(heard(&mut cluster), [], "it has gone already");
    }

    #[test]
    fn a_name_means_a_service_or_else_a_task() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let web = cluster.add_service(service_spec("web", 2));
        let one = cluster.add_running(web, 1, nodes[0]);
        let wanted = |name: &str| Wanted::resolve(&cluster.state, name).ok();
        assert_eq!(wanted("web"), Some(Wanted::Service(web)));
        assert_eq!(wanted(&one.to_string()), Some(Wanted::Task(one)));
        let unknown = Wanted::resolve(&cluster.state, "wbe").unwrap_err();
        assert!(unknown.to_string().contains("service"), "{unknown}");
    }

    #[test]
    fn only_what_had_a_container_has_a_log() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let web = cluster.add_service(service_spec("web", 9));
        let states = [
            (TaskState::Preparing, false),
            (TaskState::Starting, true),
            (TaskState::Running, true),
            (TaskState::Failed, true),
        ];
        let mut expected = vec![];
        for (slot, (state, has_log)) in (1..).zip(states) {
            let id = cluster.add_task(web, slot);
            cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
            cluster.report(id, state);
            expected.extend(has_log.then_some(id));
        }
        cluster.add_task(web, 9);
        let tasks = |wanted: Wanted| -> Vec<TaskId> {
            wanted.tasks(&cluster.state).iter().map(|task| task.id).collect()
        };
        let mut found = tasks(Wanted::Service(web));
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(tasks(Wanted::Task(expected[0])), [expected[0]]);
        assert_eq!(tasks(Wanted::Task(TaskId::from(4711))), [], "it is forgotten");
    }

    #[test]
    fn a_node_is_asked_for_a_bounded_number_at_a_time() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        let web = cluster.add_service(service_spec("web", 9));
        let one = cluster.add_running(web, 1, nodes[0]);
        let other = cluster.add_running(web, 2, nodes[1]);
        let task = |id: TaskId| Arc::clone(cluster.state.task(id).unwrap());
        let many = (0..2 * TASKS_MAX as u128 + 1)
            .map(|n| Arc::new(Task { id: TaskId::from(n), ..Task::clone(&task(one)) }));
        let asked = by_node(many.chain([task(other)]).collect());
        let shape: Vec<(NodeId, usize)> =
            asked.iter().map(|(n, tasks)| (*n, tasks.len())).collect();
        let (a, b) = (nodes[0], nodes[1]);
        assert_eq!(shape, [(a, TASKS_MAX), (a, TASKS_MAX), (a, 1), (b, 1)]);
    }

    #[test]
    fn what_follows_the_end_of_an_answer() {
        let cut = |begun| End::Cut { begun };
        let table = [
            (End::Whole, false, false, Next::Done),
            (End::Whole, true, false, Next::AfterSession),
            (End::Whole, true, true, Next::Done),
            (cut(true), false, false, Next::Done),
            (cut(false), false, false, Next::Done),
            (cut(true), true, false, Next::Again),
            (cut(false), true, false, Next::Again),
            (cut(true), true, true, Next::Again),
        ];
        for (end, follows, bounded, next) in table {
            assert_eq!(after(end, follows, bounded), next, "{end:?} {follows} {bounded}");
        }
        assert!(is_news(true, true) && is_news(false, false) && !is_news(false, true));
    }

    #[test]
    fn what_has_ended_is_asked_for_again_only_if_its_answer_was_cut() {
        let mut cluster = TestCluster::new();
        let host = cluster.add_node("host");
        let web = cluster.add_service(service_spec("web", 2));
        let runs = cluster.add_running(web, 1, host);
        let over = cluster.add_running(web, 2, host);
        cluster.report(over, TaskState::Complete);
        let view = &cluster.state;
        assert!(goes_on(view, runs, false) && goes_on(view, runs, true));
        assert!(!goes_on(view, over, false) && goes_on(view, over, true));
        assert!(!goes_on(view, TaskId::from(4711), true), "it is forgotten");
    }
}
