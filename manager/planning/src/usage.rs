//! What nodes and tasks use, as the nodes tell of it: whom to ask, and whose it is.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, Unresolved};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::Task;
use shoal_types::question::{NamedUsage, NodeUsage, PlacedUsage, UsageQuestion};

use crate::volume::Sees;

/// Whom to ask for the usage of tasks and services, or of everything on some nodes, and what each: a node
/// is told of its own tasks alone. `nodes` are those that are meant if no task is.
///
/// # Errors
/// A reference leads to neither a service nor a task.
pub fn asked(
    view: &ClusterState,
    nodes: impl IntoIterator<Item = NodeId>,
    references: &[String],
    without_tasks: bool,
) -> Result<BTreeMap<NodeId, UsageQuestion>, Unresolved> {
    let mut tasks: BTreeMap<NodeId, BTreeSet<TaskId>> = BTreeMap::new();
    for reference in references {
        let mut add = |task: &Task| {
            if let Some(node) = task.node_id.filter(|_| !task.status.state.is_terminal()) {
                tasks.entry(node).or_default().insert(task.id);
            }
        };
        match view.resolve_service(reference) {
            Ok(service) => view.tasks_of_service(service.id).for_each(|task| add(task)),
            Err(unknown) => match view.resolve_task(reference) {
                Ok(task) => add(task),
                Err(_) => return Err(unknown),
            },
        }
    }
    let question = |node: NodeId| {
        let tasks = tasks.get(&node).into_iter().flatten().copied().collect();
        (node, UsageQuestion { without_tasks, tasks })
    };
    let is_meant = |node: &NodeId| references.is_empty() || tasks.contains_key(node);
    Ok(nodes.into_iter().filter(is_meant).map(question).collect())
}

/// What nodes have told, by host, with the names of the tasks, by name. Left out are tasks that are not
/// the node's, that are not known, or not shown.
#[must_use]
pub fn named(
    view: &ClusterState,
    told: BTreeMap<NodeId, NodeUsage>,
    sees: Option<Sees<'_>>,
) -> Vec<PlacedUsage> {
    let mut all = Vec::new();
    for (node_id, usage) in told {
        let mut tasks: Vec<NamedUsage> = usage
            .tasks
            .iter()
            .filter_map(|told| {
                let task = view.task(told.id).filter(|task| task.node_id == Some(node_id))?;
                sees.is_none_or(|sees| sees(task)).then(|| NamedUsage {
                    id: task.id,
                    name: task.name(),
                    service: task.service_name.clone(),
                    used: told.used,
                })
            })
            .collect();
        tasks.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let hostname = view.hostname(node_id);
        let usage = NodeUsage { tasks: Vec::new(), ..usage };
        all.push(PlacedUsage { node_id, hostname, usage, tasks });
    }
    all.sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
    all
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};
    use shoal_types::question::{TaskUsage, Used};
    use shoal_types::task_state::TaskState;

    use super::*;

    #[test]
    fn those_are_asked_who_have_what_is_meant() {
        let mut cluster = TestCluster::new();
        let [h1, h2, h3] = ["h1", "h2", "h3"].map(|name| cluster.add_node(name));
        let (web, db) = (cluster.add_service(service_spec("web", 9)), service_spec("db", 9));
        let db = cluster.add_service(db);
        let one = cluster.add_running(web, 1, h1);
        let two = cluster.add_running(web, 2, h2);
        let gone = cluster.add_running(web, 3, h3);
        cluster.report(gone, TaskState::Failed);
        let other = cluster.add_running(db, 1, h2);
        let all = [h1, h2, h3];
        let ask = |references: &[&str]| {
            let references: Vec<String> = references.iter().map(|r| (*r).to_owned()).collect();
            let asked = asked(&cluster.state, all, &references, false)?;
            Ok::<_, Unresolved>(asked.into_iter().map(|(node, q)| (node, q.tasks)).collect())
        };
        type Each = Result<BTreeMap<NodeId, Vec<TaskId>>, Unresolved>;
        let each = |expected: &[(NodeId, &[TaskId])]| -> Each {
            Ok(expected.iter().map(|(node, tasks)| (*node, tasks.to_vec())).collect())
        };
        assert_eq!(ask(&[]), each(&[(h1, &[]), (h2, &[]), (h3, &[])]));
        // Nobody hears of what others have.
        assert_eq!(ask(&["web"]), each(&[(h1, &[one]), (h2, &[two])]));
        assert_eq!(ask(&["db", &one.to_string()]), each(&[(h1, &[one]), (h2, &[other])]));
        assert!(ask(&["web", "nothing"]).is_err());
    }

    #[test]
    fn only_what_a_node_may_tell_and_a_user_may_see_is_shown() {
        let mut cluster = TestCluster::new();
        let [h1, h2] = ["h1", "h2"].map(|name| cluster.add_node(name));
        let web = cluster.add_service(service_spec("web", 9));
        let (one, two) = (cluster.add_running(web, 1, h1), cluster.add_running(web, 2, h1));
        let other = cluster.add_running(web, 3, h2);
        let told = || {
            let used = |n| Used { pids: n, ..Used::default() };
            let task = |id, n| TaskUsage { id, used: used(n) };
            let tasks = vec![task(two, 2), task(one, 1), task(other, 9), task(TaskId::from(7), 9)];
            BTreeMap::from([(h1, NodeUsage { node: used(50), cpus: 4, tasks })])
        };
        let seen = |sees: Option<Sees<'_>>| -> Vec<(String, u64)> {
            let all = named(&cluster.state, told(), sees);
            assert_eq!((all.len(), &*all[0].hostname, all[0].usage.node.pids), (1, "h1", 50));
            assert!(all[0].usage.tasks.is_empty());
            all[0].tasks.iter().map(|t| (t.name.clone(), t.used.pids)).collect()
        };
        assert_eq!(seen(None), [("web.1".to_owned(), 1), ("web.2".to_owned(), 2)]);
        assert_eq!(seen(Some(&|task| task.id == two)), [("web.2".to_owned(), 2)]);
    }
}
