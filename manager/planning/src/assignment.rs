//! What one node must hold: all tasks placed on it, ended ones too as long as they are remembered,
//! because their logs are; the networks that the live ones need, and the secrets and configs that these are given;
//! where others are reached on overlay networks among these; and where tasks are that publish ports on every node.
//!
//! [`news`] says of which nodes that may have changed, and by which objects; [`Held`] remembers what a
//! node was told, and looks at these objects alone: telling a node costs as much as has changed for it.

mod given;
mod others;
#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod port_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_manager_state::{Action, ClusterState, Event, ObjectRef, Reach};
use shoal_types::assignment::{AssignedTask, AssignmentChange};
use shoal_types::id::{ConfigId, NetworkId, NodeId, SecretId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Config, Network, Secret, Task};

use self::given::Given;
use self::others::{Named, OtherChanges, Others, Turned};
pub use self::others::{is_reachable, listeners};

/// Objects that news names at the most: what waits for an agent that takes nothing has a bound.
const NAMED_MAX: usize = 4096;

/// What may have changed of what one node must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Anything: it is not known what.
    whole: bool,
    tasks: BTreeSet<TaskId>,
    networks: BTreeSet<NetworkId>,
    others: Named,
}

impl News {
    /// All of it may have changed.
    #[must_use]
    pub fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Adds other, later news.
    pub fn add(&mut self, other: &Self) {
        self.tasks.extend(&other.tasks);
        self.networks.extend(&other.networks);
        self.others.add(&other.others);
        let named = self.tasks.len() + self.networks.len() + self.others.len();
        if self.whole || other.whole || named > NAMED_MAX {
            *self = Self::whole();
        }
    }
}

/// For which nodes events mean something, and what, in a view that has them.
#[must_use]
pub fn news<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    view: &ClusterState,
) -> BTreeMap<NodeId, News> {
    let mut found: BTreeMap<NodeId, News> = BTreeMap::new();
    for event in events {
        let mut tell = |node: NodeId| {
            let others = &mut found.entry(node).or_default().others;
            match &event.object {
                ObjectRef::Task(task) => drop(others.endpoints.insert(task.id)),
                ObjectRef::Service(service) => drop(others.vips.insert(service.id)),
                ObjectRef::Node(node) => drop(others.peers.insert(node.id)),
                _ => {}
            }
        };
        // Who has left a network since looks at all of it when it hears that its last task has ended.
        let Reach { networks, ports } = &event.reach;
        networks.iter().flat_map(|network| view.nodes_of_network(*network)).for_each(&mut tell);
        let everywhere = match &event.object {
            _ if !*ports => false,
            // What had its last such task has an event of that, too.
            ObjectRef::Node(node) if !view.publishes(node.id) => {
                tell(node.id);
                view.publishing_nodes().for_each(&mut tell);
                false
            }
            _ => true,
        };
        let able = view.nodes().filter(|node| everywhere && leads_ports(node.description.level));
        able.for_each(|node| tell(node.id));
        match &event.object {
            ObjectRef::Task(task) => {
                if let Some(node) = task.node_id {
                    found.entry(node).or_default().tasks.insert(task.id);
                }
            }
            // A new one is joined by new tasks only.
            ObjectRef::Network(_) if event.action == Action::Create => {}
            ObjectRef::Network(network) => {
                // A task that has ended or gone since has an event of its own.
                for node in view.nodes_of_network(network.id) {
                    found.entry(node).or_default().networks.insert(network.id);
                }
            }
            // Each node is told of its keys' epochs with what it is told of itself.
            ObjectRef::Cluster(_) => {
                for node in view.nodes().filter(|node| leads_ports(node.description.level)) {
                    found.entry(node.id).or_default().others.peers.insert(node.id);
                }
            }
            ObjectRef::Node(_)
            | ObjectRef::Service(_)
            | ObjectRef::Deployment(_)
            | ObjectRef::Stack(_)
            | ObjectRef::User(_)
            // What is in one never changes, and whom it is given to is said by tasks.
            | ObjectRef::Secret(_)
            | ObjectRef::Config(_) => {}
        }
    }
    found
}

/// Whether an agent of this level leads published ports to tasks, its own and those of other nodes.
fn leads_ports(level: Level) -> bool {
    level >= Level::INGRESS
}

/// What one node was told to hold. Objects are the state's own: those that it has, too, take no memory
/// beside it.
#[derive(Debug, Clone)]
pub struct Held {
    node: NodeId,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    networks: BTreeMap<NetworkId, Joined>,
    secrets: Given<Secret>,
    configs: Given<Config>,
    /// Of the node's agent, when it was told last.
    level: Level,
    others: Others,
}

/// A network of live tasks.
#[derive(Debug, Clone, Default)]
struct Joined {
    /// How many of them there are.
    tasks: usize,
    /// How many of those that the node was told of before have not ended, nor left it.
    stayed: usize,
    /// What the node was told of it.
    told: Option<Arc<Network>>,
}

/// What a node is to be told.
#[derive(Debug, Default)]
struct Changes {
    networks: Vec<Arc<Network>>,
    tasks: Vec<Arc<Task>>,
    gone_tasks: Vec<TaskId>,
    gone_networks: Vec<NetworkId>,
    secrets: Vec<Arc<Secret>>,
    configs: Vec<Arc<Config>>,
    gone_secrets: Vec<SecretId>,
    gone_configs: Vec<ConfigId>,
    turned: Turned,
    others: OtherChanges,
}

impl Held {
    /// A node that was told nothing.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self {
            node,
            tasks: BTreeMap::new(),
            networks: BTreeMap::new(),
            secrets: Given::new(),
            configs: Given::new(),
            level: Level::FIRST,
            others: Others::new(node),
        }
    }

    /// What the node is to be told after news, in a view that has what it is about: networks before the
    /// tasks that need them, peers before the endpoints that are theirs, both before these tasks; what goes
    /// in the other order. From now on it counts as told.
    pub fn catch_up(
        &mut self,
        view: &ClusterState,
        news: &News,
    ) -> impl Iterator<Item = AssignmentChange> + use<> {
        let mut changes = Changes::default();
        let (mut networks, mut others) = (news.networks.clone(), news.others.clone());
        let level = view.node(self.node).map(|node| node.description.level).unwrap_or_default();
        let whole = std::mem::replace(&mut self.level, level) != level || news.whole;
        if whole {
            let known = self.tasks.keys().copied();
            let all: BTreeSet<TaskId> =
                known.chain(view.tasks_on_node(self.node).map(|task| task.id)).collect();
            networks.extend(self.networks.keys());
            all.iter().for_each(|id| self.task(view, *id, &mut networks, &mut changes));
        } else {
            news.tasks.iter().for_each(|id| self.task(view, *id, &mut networks, &mut changes));
        }
        networks.into_iter().for_each(|id| self.network(view, id, &mut changes));
        (changes.secrets, changes.gone_secrets) = self.secrets.catch_up(|id| view.secret(id));
        (changes.configs, changes.gone_configs) = self.configs.catch_up(|id| view.config(id));
        if whole {
            changes.turned.unheard.extend(self.others.networks());
            others = Named::default();
        }
        changes.turned.ports = whole.then(|| leads_ports(level));
        changes.others = self.others.catch_up(view, others, &changes.turned);
        changes.in_order()
    }

    /// Looks at one task, and notes the networks that more or fewer tasks need.
    fn task(
        &mut self,
        view: &ClusterState,
        id: TaskId,
        networks: &mut BTreeSet<NetworkId>,
        changes: &mut Changes,
    ) {
        let placed =
            |task: &&Arc<Task>| task.node_id == Some(self.node) && task.status.state.is_placed();
        let new = view.task(id).filter(placed).cloned();
        let old = match &new {
            Some(task) => self.tasks.insert(id, Arc::clone(task)),
            None => self.tasks.remove(&id),
        };
        // Where its networks are others now, it may have left one for a moment.
        let stays = old
            .as_ref()
            .zip(new.as_ref())
            .is_some_and(|(old, new)| new.is_live() && Arc::ptr_eq(&old.networks, &new.networks));
        for (task, is_new) in [(&old, false), (&new, true)] {
            let live = task.iter().filter(|task| task.is_live());
            for task in live.clone().filter(|task| task.is_wanted()) {
                self.secrets.count(task, is_new);
                self.configs.count(task, is_new);
            }
            let joined = live.flat_map(|task| task.networks.iter());
            for network in joined {
                let joined = self.networks.entry(network.network_id).or_default();
                let tasks = &mut joined.tasks;
                *tasks = if is_new { *tasks + 1 } else { tasks.saturating_sub(1) };
                joined.stayed = joined.stayed.saturating_sub(usize::from(!is_new && !stays));
                networks.insert(network.network_id);
            }
        }
        match (old, new) {
            (Some(old), Some(new)) if is_told(&old, &new) => {}
            (_, Some(new)) => changes.tasks.push(new),
            (Some(_), None) => changes.gone_tasks.push(id),
            (None, None) => {}
        }
    }

    /// Looks at one network, after all tasks.
    fn network(&mut self, view: &ClusterState, id: NetworkId, changes: &mut Changes) {
        let Some(joined) = self.networks.get_mut(&id) else { return };
        let new = view.network(id).filter(|_| joined.tasks > 0);
        match (&joined.told, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => {}
            (_, Some(new)) => changes.networks.push(Arc::clone(new)),
            (Some(_), None) => changes.gone_networks.push(id),
            (None, None) => {}
        }
        let is_overlay =
            |network: &Arc<Network>| self.level >= Level::OVERLAY && network.spans_nodes();
        let told = new.is_some_and(is_overlay);
        if told != self.others.knows(id) {
            changes.turned.flipped.insert(id);
        }
        if told && joined.stayed == 0 {
            changes.turned.unheard.insert(id);
        }
        self.others.turn(id, told);
        joined.told = new.cloned();
        joined.stayed = joined.tasks;
        if joined.tasks == 0 {
            self.networks.remove(&id);
        }
    }
}

fn is_told(old: &Arc<Task>, new: &Arc<Task>) -> bool {
    Arc::ptr_eq(old, new) || AssignedTask::is_unchanged(old, new)
}

impl Changes {
    /// One after the other: copies for the wire are made one at a time.
    fn in_order(self) -> impl Iterator<Item = AssignmentChange> + use<> {
        let Self {
            networks,
            tasks,
            gone_tasks,
            gone_networks,
            secrets,
            configs,
            gone_secrets,
            gone_configs,
            turned: _,
            others,
        } = self;
        let (others, gone_others) = others.in_order();
        let networks = networks.into_iter().map(AssignmentChange::UpdateNetwork);
        let tasks = tasks.into_iter().filter_map(|task| AssignedTask::of(&task));
        let gone_networks = gone_networks.into_iter().map(AssignmentChange::RemoveNetwork);
        networks
            .chain(secrets.into_iter().map(AssignmentChange::UpdateSecret))
            .chain(configs.into_iter().map(AssignmentChange::UpdateConfig))
            .chain(others)
            .chain(tasks.map(AssignmentChange::UpdateTask))
            .chain(gone_tasks.into_iter().map(AssignmentChange::RemoveTask))
            .chain(gone_others)
            .chain(gone_secrets.into_iter().map(AssignmentChange::RemoveSecret))
            .chain(gone_configs.into_iter().map(AssignmentChange::RemoveConfig))
            .chain(gone_networks)
    }
}
