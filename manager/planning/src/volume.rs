//! Volumes of many nodes, as the nodes tell of them: where they are, who uses them, and where one may
//! be removed.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::ClusterState;
use shoal_manager_state::permission::sees_task;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::Task;
use shoal_types::question::{NodeVolume, PlacedVolume, Silent};
use shoal_types::spec::{Mount, MountKind, NAMESPACE_LABEL, UserSpec};

/// Names in an error at the most.
const NAMED_MAX: usize = 10;

/// Why a volume is not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRemoved {
    /// Somebody uses it.
    #[error("volume {name} is in use by {by}")]
    InUse {
        /// Its name.
        name: String,
        /// Tasks with their nodes.
        by: String,
    },
    /// No node that answered has it.
    #[error("there is no volume {name}{}", unless(.silent))]
    Unknown {
        /// Its name.
        name: String,
        /// Nodes that did not answer.
        silent: Vec<String>,
    },
}

fn unless(silent: &[String]) -> String {
    match silent {
        [] => String::new(),
        silent => format!(" on the nodes that answered; {} did not", some(silent)),
    }
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The volumes of nodes, by name and host, with the names of who uses them: those that the nodes name,
/// and those that are on their way to the node. A deployer is shown those that a task of its stacks uses
/// or that were made for one of its stacks, and of the users its own tasks.
#[must_use]
pub fn placed(
    view: &ClusterState,
    found: BTreeMap<NodeId, Vec<NodeVolume>>,
    user: Option<&UserSpec>,
) -> Vec<PlacedVolume> {
    let mut all = Vec::new();
    for (node_id, volumes) in found {
        let hostname = view.hostname(node_id);
        let wanted = wanted(view, node_id);
        all.extend(volumes.into_iter().filter_map(|mut volume| {
            let mut users: BTreeSet<String> = volume.users.iter().cloned().collect();
            users.extend(wanted.get(volume.name.as_str()).into_iter().flatten().cloned());
            let task = |user: &String| user.parse::<TaskId>().ok().and_then(|id| view.task(id));
            if let Some(user) = user {
                users.retain(|id| task(id).is_some_and(|task| sees_task(view, user, task)));
                volume.users.retain(|id| users.contains(id));
            }
            let name = |user: &String| task(user).map_or_else(|| user.clone(), |task| task.name());
            let mut used_by: Vec<String> = users.iter().map(name).collect();
            used_by.sort();
            let shown =
                user.is_none_or(|user| !used_by.is_empty() || is_of_stacks(&volume, &user.stacks));
            let hostname = hostname.clone();
            shown.then_some(PlacedVolume { node_id, hostname, volume, used_by })
        }));
    }
    all.sort_by(|a, b| {
        let (of_a, of_b) = ((&a.volume.name, &a.hostname), (&b.volume.name, &b.hostname));
        of_a.cmp(&of_b).then_with(|| a.node_id.cmp(&b.node_id))
    });
    all
}

/// Whether it was made for one of these stacks.
fn is_of_stacks(volume: &NodeVolume, stacks: &[String]) -> bool {
    volume.labels.get(NAMESPACE_LABEL).is_some_and(|stack| stacks.contains(stack))
}

/// Ids of tasks of a node that have not ended, by the volumes that they name.
fn wanted(view: &ClusterState, node: NodeId) -> BTreeMap<&str, Vec<String>> {
    let mut wanted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for task in view.tasks_on_node(node).filter(|task| !task.status.state.is_terminal()) {
        for name in named(task) {
            wanted.entry(name).or_default().push(task.id.to_string());
        }
    }
    wanted
}

fn named(task: &Task) -> impl Iterator<Item = &str> {
    let mounts = task.spec.container().map(|c| c.mounts.as_slice()).unwrap_or_default();
    let named = |m: &&Mount| m.kind == MountKind::Volume && !m.source.is_empty();
    mounts.iter().filter(named).map(|m| m.source.as_str())
}

/// The nodes where a volume is to be removed: all that have it, if nobody uses it on any.
///
/// # Errors
/// [`NotRemoved`].
pub fn removal(
    placed: &[PlacedVolume],
    name: &str,
    silent: &[Silent],
) -> Result<Vec<NodeId>, NotRemoved> {
    let found: Vec<&PlacedVolume> = placed.iter().filter(|v| v.volume.name == name).collect();
    let by: Vec<String> = found
        .iter()
        .flat_map(|v| v.used_by.iter().map(|task| format!("{task} on {}", v.hostname)))
        .collect();
    if !by.is_empty() {
        return Err(NotRemoved::InUse { name: name.to_owned(), by: some(&by) });
    }
    if found.is_empty() {
        let silent = silent.iter().map(|s| s.hostname.clone()).collect();
        return Err(NotRemoved::Unknown { name: name.to_owned(), silent });
    }
    Ok(found.iter().map(|v| v.node_id).collect())
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};
    use shoal_types::spec::{StackSpec, TaskRuntime, UserRole};
    use shoal_types::task_state::TaskState;

    use super::*;

    fn volume(name: &str, users: &[TaskId]) -> NodeVolume {
        let users = users.iter().map(ToString::to_string).collect();
        NodeVolume { name: name.to_owned(), users, ..NodeVolume::default() }
    }

    /// Two nodes; `web` mounts `data`, its first task is on the first node.
    fn cluster() -> (TestCluster, [NodeId; 2], TaskId) {
        let mut cluster = TestCluster::new();
        let nodes = [cluster.add_node("h1"), cluster.add_node("h2")];
        let mut spec = service_spec("web", 9);
        let task = std::sync::Arc::make_mut(&mut spec.task_template);
        let TaskRuntime::Container(container) = &mut task.runtime else { panic!("a container") };
        container.mounts.push(Mount {
            kind: MountKind::Volume,
            source: "data".to_owned(),
            target: "/data".to_owned(),
            read_only: false,
            consistency: String::new(),
            bind_options: None,
            volume_options: None,
            image_options: None,
            tmpfs_options: None,
        });
        let web = cluster.add_service(spec);
        let task = cluster.add_running(web, 1, nodes[0]);
        (cluster, nodes, task)
    }

    fn seen(placed: &[PlacedVolume]) -> Vec<(&str, &str, Vec<&str>)> {
        placed
            .iter()
            .map(|v| {
                let used = v.used_by.iter().map(String::as_str).collect();
                (v.volume.name.as_str(), v.hostname.as_str(), used)
            })
            .collect()
    }

    #[test]
    fn volumes_are_shown_where_they_are_with_the_names_of_who_uses_them() {
        let (mut cluster, [h1, h2], task) = cluster();
        let stranger = TaskId::from(99);
        let answers = || {
            BTreeMap::from([
                (h2, vec![volume("data", &[stranger]), volume("cache", &[])]),
                (h1, vec![volume("data", &[]), volume("logs", &[task])]),
            ])
        };
        let unknown = stranger.to_string();
        let all = placed(&cluster.state, answers(), None);
        assert_eq!(
            seen(&all),
            [
                ("cache", "h2", vec![]),
                // The node has not heard of the task yet, the cluster knows that it comes.
                ("data", "h1", vec!["web.1"]),
                ("data", "h2", vec![&*unknown]),
                ("logs", "h1", vec!["web.1"]),
            ]
        );
        // One that has ended uses what its node says, and no more.
        cluster.report(task, TaskState::Failed);
        let all = placed(&cluster.state, answers(), None);
        assert_eq!(seen(&all)[1], ("data", "h1", vec![]));
        assert_eq!(seen(&all)[3], ("logs", "h1", vec!["web.1"]));
    }

    #[test]
    fn a_deployer_is_shown_the_volumes_of_its_stacks_and_no_other_user_of_them() {
        let mut cluster = TestCluster::new();
        let node = cluster.add_node("h1");
        let mut running = |name: &str| {
            let services = [("web".to_owned(), service_spec(&format!("{name}_web"), 1))].into();
            let stack = StackSpec { name: name.to_owned(), services, ..StackSpec::default() };
            cluster.add_stack(stack);
            let service = cluster.state.service_by_name(&format!("{name}_web")).expect("there").id;
            cluster.add_running(service, 1, node)
        };
        let (own, other) = (running("shop"), running("blog"));
        let of = |stack: &str, volume| {
            let labels = [(NAMESPACE_LABEL.to_owned(), stack.to_owned())].into();
            NodeVolume { labels, ..volume }
        };
        let found = || {
            let all = vec![
                of("shop", volume("shop_left", &[])),
                of("shop", volume("shop_both", &[own, other])),
                of("blog", volume("blog_data", &[other])),
                volume("blog_nameless", &[other, TaskId::from(99)]),
                volume("mine_without_label", &[own]),
                volume("nobodys", &[]),
            ];
            BTreeMap::from([(node, all)])
        };
        let deployer = |stacks: &[&str]| UserSpec {
            role: UserRole::Deployer,
            stacks: stacks.iter().map(|s| (*s).to_owned()).collect(),
            ..UserSpec::default()
        };
        let shown = placed(&cluster.state, found(), Some(&deployer(&["shop"])));
        assert_eq!(
            seen(&shown),
            [
                ("mine_without_label", "h1", vec!["shop_web.1"]),
                ("shop_both", "h1", vec!["shop_web.1"]),
                ("shop_left", "h1", vec![]),
            ]
        );
        let ids: BTreeSet<&String> = shown.iter().flat_map(|v| &v.volume.users).collect();
        assert_eq!(ids, BTreeSet::from([&own.to_string()]), "ids are others', too");
        assert_eq!(placed(&cluster.state, found(), Some(&deployer(&["none"]))), []);
    }

    #[test]
    fn a_volume_is_removed_everywhere_or_nowhere() {
        let (cluster, [h1, h2], task) = cluster();
        let answers = BTreeMap::from([
            (h1, vec![volume("free", &[]), volume("used", &[])]),
            (h2, vec![volume("free", &[]), volume("used", &[task])]),
        ]);
        let all = placed(&cluster.state, answers, None);
        assert_eq!(removal(&all, "free", &[]), Ok(vec![h1, h2]));
        let refused =
            |name, silent: &[Silent]| removal(&all, name, silent).unwrap_err().to_string();
        assert_eq!(refused("used", &[]), "volume used is in use by web.1 on h2");
        assert_eq!(refused("none", &[]), "there is no volume none");
        let hostname = "h3".to_owned();
        let silent = Silent { node_id: NodeId::from(7), hostname, reason: String::new() };
        assert_eq!(
            refused("none", &[silent]),
            "there is no volume none on the nodes that answered; h3 did not"
        );
    }
}
