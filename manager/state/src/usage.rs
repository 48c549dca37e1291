//! What the tasks on a node hold there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shoal_types::id::{NetworkId, ServiceId, TaskId};
use shoal_types::object::Task;
use shoal_types::resources::Resources;
use shoal_types::spec::{PortConfig, Protocol, PublishMode};

/// Who holds one port of a node, each on which address; absent is all addresses.
pub type PortHolders = BTreeSet<(Option<IpAddr>, TaskId)>;

/// What the tasks on a node hold there: those that have been assigned and have not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// How many such tasks there are.
    pub tasks: u64,
    /// How many of them are to run, in all and of each service, by its id.
    pub wanted: u64,
    /// See [`NodeUsage::wanted`].
    pub services: Vec<(ServiceId, u64)>,
    /// How many of the tasks join each network, by its id.
    pub networks: Vec<(NetworkId, u64)>,
    /// What they have reserved, in sum.
    pub reserved: Resources,
    /// Host ports they have asked for by number. A port has several holders only when each has
    /// its own address of the host.
    pub host_ports: BTreeMap<(u16, Protocol), PortHolders>,
}

/// The usage of a node that holds nothing.
pub(crate) static NOTHING: NodeUsage = NodeUsage {
    tasks: 0,
    wanted: 0,
    services: Vec::new(),
    networks: Vec::new(),
    reserved: Resources { nano_cpus: 0, memory_bytes: 0, generic_resources: Vec::new() },
    host_ports: BTreeMap::new(),
};

impl Default for NodeUsage {
    fn default() -> Self {
        NOTHING.clone()
    }
}

/// What a task reserves on its node; nothing if it does not say.
#[must_use]
pub fn reservations(task: &Task) -> Option<&Resources> {
    task.spec.resources.as_ref()?.reservations.as_ref()
}

/// The ports that need a number of their own on the task's node. Those whose number the node
/// chooses never clash.
pub fn host_ports(task: &Task) -> impl Iterator<Item = &PortConfig> {
    let fixed = |p: &&PortConfig| p.publish_mode == PublishMode::Host && p.published_port != 0;
    task.ports().iter().filter(fixed)
}

/// The count that stands beside an id in an ordered list.
fn found<K: Ord + Copy>(list: &[(K, u64)], id: K) -> u64 {
    let found = list.binary_search_by_key(&id, |(id, _)| *id);
    found.ok().and_then(|at| list.get(at)).map_or(0, |(_, count)| *count)
}

/// Changes it. Who counts nothing does not stand in the list.
fn tally<K: Ord + Copy>(list: &mut Vec<(K, u64)>, id: K, change: impl Fn(u64) -> u64) {
    let found = list.binary_search_by_key(&id, |(id, _)| *id);
    let at = found.unwrap_or_else(|at| {
        list.insert(at, (id, 0));
        at
    });
    if let Some((_, count)) = list.get_mut(at) {
        *count = change(*count);
        if *count == 0 {
            list.remove(at);
        }
    }
}

impl NodeUsage {
    /// Whether a task holds anything on its node.
    #[must_use]
    pub fn counts(task: &Task) -> bool {
        task.node_id.is_some() && task.status.state.is_placed() && task.is_live()
    }

    /// The task that holds a port, or holds it on an address that cannot be told apart.
    #[must_use]
    pub fn port_holder(&self, port: &PortConfig) -> Option<TaskId> {
        self.host_ports
            .get(&(port.published_port, port.protocol))?
            .iter()
            .find(|(ip, _)| PortConfig::meet(*ip, port.host_ip))
            .map(|(_, task)| *task)
    }

    /// How many tasks of a service are to run there.
    #[must_use]
    pub fn wanted_of(&self, service: ServiceId) -> u64 {
        found(&self.services, service)
    }

    /// Whether a task there joins a network.
    pub(crate) fn joins(&self, network: NetworkId) -> bool {
        found(&self.networks, network) > 0
    }

    /// Counts one more, or one less, of those that are to run, and of those that join its networks.
    fn count(&mut self, task: &Task, change: impl Fn(u64) -> u64) {
        for network in task.networks.iter() {
            tally(&mut self.networks, network.network_id, &change);
        }
        if task.is_wanted() {
            self.wanted = change(self.wanted);
            tally(&mut self.services, task.service_id, &change);
        }
    }

    /// Adds what one more task holds.
    pub fn add(&mut self, task: &Task) {
        self.tasks += 1;
        self.count(task, |n| n + 1);
        if let Some(reserved) = reservations(task) {
            self.reserved.add(reserved);
        }
        for port in host_ports(task) {
            let holders = self.host_ports.entry((port.published_port, port.protocol)).or_default();
            holders.insert((port.host_ip, task.id));
        }
    }

    /// Takes away what a task held that had been added.
    pub fn subtract(&mut self, task: &Task) {
        self.tasks = self.tasks.saturating_sub(1);
        self.count(task, |n| n.saturating_sub(1));
        if let Some(reserved) = reservations(task) {
            self.reserved = self.reserved.saturating_sub(reserved);
        }
        for port in host_ports(task) {
            let key = (port.published_port, port.protocol);
            if let Some(holders) = self.host_ports.get_mut(&key) {
                holders.remove(&(port.host_ip, task.id));
                if holders.is_empty() {
                    self.host_ports.remove(&key);
                }
            }
        }
    }
}
