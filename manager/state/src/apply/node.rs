//! Nodes.

use std::collections::BTreeSet;

use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::{ManagerStatus, Meta, Node, NodeDescription, NodeStatus, Task};
use shoal_types::spec::{Availability, NodeRole, NodeSpec};

use super::{address, cluster, task};
use crate::cluster_state::Writer;
use crate::command::Outcome;
use crate::rejected::Rejected;

pub(super) fn create(
    w: &mut Writer<'_>,
    id: NodeId,
    spec: NodeSpec,
    description: NodeDescription,
) -> Result<Outcome, Rejected> {
    w.id_is_free::<Node>(id)?;
    let meta = Meta::created(w.index, w.now);
    let status = NodeStatus { since: w.now, ..NodeStatus::default() };
    let description = with_own_key(w, id, description);
    let tunnel_address = address::of_node(w.state, id);
    w.create(Node { id, meta, spec, description, status, manager_status: None, tunnel_address });
    Ok(Outcome::Applied)
}

pub(super) fn update(
    w: &mut Writer<'_>,
    id: NodeId,
    expected: u64,
    spec: NodeSpec,
) -> Result<Outcome, Rejected> {
    let node = w.get::<Node>(id)?;
    w.in_sequence(node.as_ref(), expected)?;
    let demoted = node.spec.role == NodeRole::Manager && spec.role != NodeRole::Manager;
    let another = || w.state.nodes().any(|n| n.id != id && n.spec.role == NodeRole::Manager);
    if demoted && !another() {
        return Err(Rejected::LastManager { id });
    }
    let new = Node { spec, ..Node::clone(&node) };
    remember_manager(w, &node, Some(&new));
    w.update_spec(new);
    Ok(Outcome::Applied)
}

/// Whether the node is to be a manager, or still takes part in Raft.
fn is_manager(node: &Node) -> bool {
    node.spec.role == NodeRole::Manager || node.manager_status.is_some()
}

/// Whoever ceases to be a manager, or becomes one again, is known for it.
fn remember_manager(w: &mut Writer<'_>, old: &Node, new: Option<&Node>) {
    let (was, is) = (is_manager(old), new.is_some_and(is_manager));
    if was != is {
        cluster::dismissed(w, old.id, was);
    }
}

/// The last manager stays, whatever is asked for: with it would go the cluster. One that is up
/// goes on in Raft, so it is not forgotten either.
pub(super) fn remove(w: &mut Writer<'_>, id: NodeId, force: bool) -> Result<Outcome, Rejected> {
    let node = w.get::<Node>(id)?;
    if is_manager(&node) {
        if !w.state.nodes().any(|other| other.id != id && is_manager(other)) {
            return Err(Rejected::LastManager { id });
        }
        if !force || node.is_reachable() {
            return Err(Rejected::NodeIsManager { id });
        }
    } else if !force {
        let drained = node.spec.availability == Availability::Drain
            && w.state.tasks_on_node(id).all(|task| !task.is_live());
        if !(node.is_lost() || drained) {
            return Err(Rejected::NodeInUse { id });
        }
    }
    // What has ended there stays known: how it ended decides whether it is done again elsewhere.
    let live: Vec<_> = w.state.tasks_on_node(id).filter(|t| t.is_live()).cloned().collect();
    for old in live {
        let mut task = Task::clone(&old);
        task::lose(&mut task, w.now, "its node was removed from the cluster");
        w.update(task);
    }
    remember_manager(w, &node, None);
    w.remove::<Node>(id);
    Ok(Outcome::Applied)
}

pub(super) fn report(
    w: &mut Writer<'_>,
    id: NodeId,
    description: Option<NodeDescription>,
    mut status: NodeStatus,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Node>(id)?;
    if status.state == old.status.state {
        status.since = old.status.since;
    }
    let description = match description {
        Some(description) => with_own_key(w, id, description),
        None => old.description.clone(),
    };
    let tunnel_address = old.tunnel_address.or_else(|| address::of_node(w.state, id));
    write_if_changed(w, &old, Node { description, status, tunnel_address, ..Node::clone(&old) })
}

/// What a node says of itself, without its tunnel if that has the key of another node's: others could send to
/// neither of them. The key of a node that is lost is another's who has it now: the host has joined anew.
fn with_own_key(w: &mut Writer<'_>, id: NodeId, new: NodeDescription) -> NodeDescription {
    let Some(tunnel) = new.tunnel else { return new };
    // Managers below that level store what they are told: all of them have to come to the same.
    if w.state.level() < Level::INGRESS {
        return new;
    }
    let others = tunnel.public_keys().flat_map(|key| w.state.nodes_with_key(key));
    let others: BTreeSet<NodeId> = others.filter(|other| *other != id).collect();
    let nodes: Vec<_> = others.iter().filter_map(|other| w.state.node(*other).cloned()).collect();
    if nodes.iter().any(|node| !node.is_lost()) {
        return NodeDescription { tunnel: None, ..new };
    }
    for node in nodes {
        let description = NodeDescription { tunnel: None, ..node.description.clone() };
        w.update(Node { description, ..Node::clone(&node) });
    }
    new
}

pub(super) fn set_manager_status(
    w: &mut Writer<'_>,
    id: NodeId,
    manager_status: Option<ManagerStatus>,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Node>(id)?;
    let new = Node { manager_status, ..Node::clone(&old) };
    remember_manager(w, &old, Some(&new));
    write_if_changed(w, &old, new)
}

fn write_if_changed(w: &mut Writer<'_>, old: &Node, new: Node) -> Result<Outcome, Rejected> {
    if *old == new {
        return Ok(Outcome::Unchanged);
    }
    w.update(new);
    Ok(Outcome::Applied)
}
