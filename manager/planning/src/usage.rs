//! What nodes and tasks use, as the nodes tell of it: whom to ask, and whose it is.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::permission::sees_task;
use shoal_manager_state::{ClusterState, Unresolved};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::Task;
use shoal_types::question::{NamedUsage, NodeUsage, PlacedUsage, UsageQuestion, Used};
use shoal_types::spec::UserSpec;

/// Whom to ask for the usage of tasks and services, or of everything on some nodes, and what each: a node
/// is told of its own tasks alone. `nodes` are those that are meant if no task is. For a deployer tasks of
/// its stacks alone are meant, and their nodes.
///
/// # Errors
/// A reference leads to neither a service nor a task.
pub fn asked(
    view: &ClusterState,
    nodes: impl IntoIterator<Item = NodeId>,
    references: &[String],
    without_tasks: bool,
    user: Option<&UserSpec>,
) -> Result<BTreeMap<NodeId, UsageQuestion>, Unresolved> {
    let mut tasks: BTreeMap<NodeId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut add = |task: &Task| {
        let live = !task.status.state.is_terminal() && shown(view, user, task);
        if let Some(node) = task.node_id.filter(|_| live) {
            tasks.entry(node).or_default().insert(task.id);
        }
    };
    if references.is_empty() && user.is_some() {
        view.tasks().for_each(|task| add(task));
    }
    for reference in references {
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
    let everything = references.is_empty() && user.is_none();
    let is_meant = |node: &NodeId| everything || tasks.contains_key(node);
    Ok(nodes.into_iter().filter(is_meant).map(question).collect())
}

fn shown(view: &ClusterState, user: Option<&UserSpec>, task: &Task) -> bool {
    user.is_none_or(|user| sees_task(view, user, task))
}

/// What nodes have told, by host, with the names of the tasks, by name. Left out are tasks that are not
/// the node's, that are not known, or not shown; and for a deployer what the nodes use as a whole.
#[must_use]
pub fn named(
    view: &ClusterState,
    told: BTreeMap<NodeId, NodeUsage>,
    user: Option<&UserSpec>,
) -> Vec<PlacedUsage> {
    let mut all = Vec::new();
    for (node_id, usage) in told {
        let mut tasks: Vec<NamedUsage> = usage
            .tasks
            .iter()
            .filter_map(|told| {
                let task = view.task(told.id).filter(|task| task.node_id == Some(node_id))?;
                shown(view, user, task).then(|| NamedUsage {
                    id: task.id,
                    name: task.name(),
                    service: task.service_name.to_string(),
                    used: told.used,
                })
            })
            .collect();
        tasks.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let hostname = view.hostname(node_id);
        let node = if user.is_some() { Used::default() } else { usage.node };
        let usage = NodeUsage { node, tasks: Vec::new(), ..usage };
        all.push(PlacedUsage { node_id, hostname, usage, tasks });
    }
    all.sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
    all
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};
    use shoal_types::question::TaskUsage;
    use shoal_types::spec::{StackSpec, UserRole};
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
            let asked = asked(&cluster.state, all, &references, false, None)?;
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

    /// Stacks `shop` and `blog`, each with a task on the first node, `blog` with one on the second.
    fn stacks() -> (TestCluster, [NodeId; 2], [TaskId; 3]) {
        let mut cluster = TestCluster::new();
        let [h1, h2] = ["h1", "h2"].map(|name| cluster.add_node(name));
        let mut web = |name: &str| {
            let services = [("web".to_owned(), service_spec(&format!("{name}_web"), 9))].into();
            let name = name.to_owned();
            cluster.add_stack(StackSpec { name: name.clone(), services, ..Default::default() });
            cluster.state.service_by_name(&format!("{name}_web")).expect("there").id
        };
        let (shop, blog) = (web("shop"), web("blog"));
        let own = cluster.add_running(shop, 1, h1);
        let others = [cluster.add_running(blog, 1, h1), cluster.add_running(blog, 2, h2)];
        (cluster, [h1, h2], [own, others[0], others[1]])
    }

    fn deployer(stack: &str) -> UserSpec {
        let stacks = vec![stack.to_owned()];
        UserSpec { role: UserRole::Deployer, stacks, ..UserSpec::default() }
    }

    #[test]
    fn only_what_a_node_may_tell_and_a_user_may_see_is_shown() {
        let (cluster, [h1, _], [one, two, other]) = stacks();
        let told = || {
            let used = |n| Used { pids: n, ..Used::default() };
            let task = |id, n| TaskUsage { id, used: used(n) };
            let tasks = vec![task(two, 2), task(one, 1), task(other, 9), task(TaskId::from(7), 9)];
            BTreeMap::from([(h1, NodeUsage { node: used(50), cpus: 4, tasks })])
        };
        let seen = |user: Option<&UserSpec>| -> (u64, Vec<(String, u64)>) {
            let all = named(&cluster.state, told(), user);
            assert_eq!((all.len(), &*all[0].hostname), (1, "h1"));
            assert!(all[0].usage.tasks.is_empty());
            let tasks = all[0].tasks.iter().map(|t| (t.name.clone(), t.used.pids)).collect();
            (all[0].usage.node.pids, tasks)
        };
        let (shop, blog) = (("shop_web.1".to_owned(), 1), ("blog_web.1".to_owned(), 2));
        assert_eq!(seen(None), (50, vec![blog, shop.clone()]));
        assert_eq!(seen(Some(&deployer("shop"))), (0, vec![shop]));
    }

    #[test]
    fn for_a_deployer_nobody_elses_node_or_task_is_asked() {
        let (cluster, all, [one, two, other]) = stacks();
        let ask = |stack: &str, references: &[String]| {
            let user = deployer(stack);
            let asked = asked(&cluster.state, all, references, false, Some(&user)).expect("known");
            asked.into_iter().map(|(node, q)| (node, q.tasks)).collect::<Vec<_>>()
        };
        assert_eq!(ask("shop", &[]), [(all[0], vec![one])]);
        assert_eq!(ask("blog", &[]), [(all[0], vec![two]), (all[1], vec![other])]);
        assert_eq!(ask("none", &[]), []);
        let named = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        assert_eq!(ask("shop", &named(&["blog_web"])), []);
        assert_eq!(ask("shop", &[one.to_string(), two.to_string()]), ask("shop", &[]));
    }
}
