//! Resources and host ports of no node are given away twice.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;
use shoal_types::object::{Node, NodeState, Task};
use shoal_types::spec::PublishMode;

use super::Moment;

/// Remembers how much of each node was given away while it was still enough: a node that comes
/// back smaller keeps what it has, but gets nothing more.
#[derive(Debug, Default)]
pub struct Judge {
    fair: BTreeMap<NodeId, (u64, u64)>,
}

impl Judge {
    /// Looks at one moment; says what is wrong with it.
    pub fn look(&mut self, moment: &Moment<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        let in_sight = |node: &&std::sync::Arc<Node>| node.status.state == NodeState::Ready;
        for node in moment.state.nodes().filter(in_sight) {
            let tasks: Vec<&Task> = placed(moment.state, node.id).collect();
            self.resources(node, &tasks, &mut wrong);
            ports(node, &tasks, &mut wrong);
        }
        running_ports(moment, &mut wrong);
        wrong
    }

    fn resources(&mut self, node: &Node, tasks: &[&Task], wrong: &mut Vec<String>) {
        let reserved = |task: &&Task| {
            let resources = task.spec.resources.as_ref()?.reservations.as_ref()?;
            Some((resources.nano_cpus, resources.memory_bytes))
        };
        let (cpus, memory) = tasks
            .iter()
            .filter_map(reserved)
            .fold((0, 0), |(cpus, memory), (c, m)| (cpus + c, memory + m));
        let has = &node.description.resources;
        if cpus <= has.nano_cpus && memory <= has.memory_bytes {
            self.fair.insert(node.id, (has.nano_cpus, has.memory_bytes));
            return;
        }
        // It shrank: what it has left may only become less.
        let (fair_cpus, fair_memory) = self.fair.get(&node.id).copied().unwrap_or_default();
        if cpus > fair_cpus.max(has.nano_cpus) || memory > fair_memory.max(has.memory_bytes) {
            wrong.push(format!(
                "node {} has {has:?} and gave away {cpus} nano CPUs and {memory} bytes",
                node.id
            ));
        } else {
            self.fair.insert(node.id, (cpus.max(has.nano_cpus), memory.max(has.memory_bytes)));
        }
    }
}

/// Tasks that the managers count on the node: placed there, and not known to have ended.
fn placed(state: &ClusterState, node: NodeId) -> impl Iterator<Item = &Task> {
    state
        .tasks()
        .map(AsRef::as_ref)
        .filter(move |task| task.node_id == Some(node) && task.status.state.holds_its_node())
}

fn fixed_ports(task: &Task) -> impl Iterator<Item = String> {
    let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    let fixed = ports.filter(|p| p.publish_mode == PublishMode::Host && p.published_port != 0);
    fixed.map(|p| format!("{}/{} on {:?}", p.published_port, p.protocol.as_str(), p.host_ip))
}

fn ports(node: &Node, tasks: &[&Task], wrong: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for port in tasks.iter().flat_map(|task| fixed_ports(task)) {
        if !seen.insert(port.clone()) {
            wrong.push(format!("port {port} of node {} was given away twice", node.id));
        }
    }
}

/// The same, judged by what really runs; but what the managers have given up is not their doing.
fn running_ports(moment: &Moment<'_>, wrong: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for running in moment.running {
        let task = moment.state.task(running.task).filter(|t| !t.status.state.is_terminal());
        for port in task.into_iter().flat_map(|task| fixed_ports(task)) {
            if !seen.insert((running.node, port.clone())) {
                wrong.push(format!("port {port} of node {} is really used twice", running.node));
            }
        }
    }
}
