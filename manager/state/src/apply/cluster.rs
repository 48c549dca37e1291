//! The cluster's own object.

use std::sync::Arc;

use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::{Cluster, FormerManager, TunnelEpochs};
use shoal_types::spec::{ClusterSpec, Driver, NetworkScope, NetworkSpec, NodeRole};

use super::{address, network};
use crate::cluster_state::Writer;
use crate::command::{JoinSecret, Outcome, PredefinedIds};
use crate::event::ObjectKind;
use crate::level::lowest_manager;
use crate::rejected::Rejected;

pub(super) fn create(
    w: &mut Writer<'_>,
    new: Cluster,
    ids: PredefinedIds,
) -> Result<Outcome, Rejected> {
    if let Some(cluster) = &w.state.cluster {
        return Err(Rejected::ClusterExists { id: cluster.id.to_string() });
    }
    let twice = if ids.bridge == ids.host { Some(ids.host) } else { None };
    let twice = twice.or((ids.none == ids.bridge || ids.none == ids.host).then_some(ids.none));
    if let Some(id) = twice {
        return Err(Rejected::IdTaken { kind: ObjectKind::Network, id: id.to_string() });
    }
    w.put_cluster(new);
    let predefined = [
        (ids.bridge, network::BRIDGE, NetworkScope::Local),
        (ids.host, network::HOST, NetworkScope::Global),
        (ids.none, network::NONE, NetworkScope::Local),
    ];
    for (id, name, scope) in predefined {
        let driver = Driver { name: name.to_owned(), ..Driver::default() };
        let spec = NetworkSpec {
            name: name.to_owned(),
            driver,
            scope: Some(scope),
            ..NetworkSpec::default()
        };
        w.create(network::new(w, id, spec, None, true));
    }
    Ok(Outcome::Applied)
}

pub(super) fn update(
    w: &mut Writer<'_>,
    expected: u64,
    spec: ClusterSpec,
) -> Result<Outcome, Rejected> {
    let mut cluster = present(w)?;
    let current = cluster.meta.spec_version;
    if expected != current {
        let (kind, id) = (ObjectKind::Cluster, cluster.id.to_string());
        return Err(Rejected::OutOfSequence { kind, id, expected, current });
    }
    cluster.spec = spec;
    cluster.meta.touch_spec(w.index, w.now);
    w.put_cluster(cluster);
    address::of_nodes(w);
    Ok(Outcome::Applied)
}

/// Whoever is raised to a level must have it: a manager that has not would not understand the log.
pub(super) fn raise_level(w: &mut Writer<'_>, level: Level) -> Result<Outcome, Rejected> {
    let mut cluster = present(w)?;
    if level == cluster.level {
        return Ok(Outcome::Unchanged);
    }
    if level < cluster.level {
        return Err(Rejected::LevelBelow { wanted: level, current: cluster.level });
    }
    if let Some((node, has)) = lowest_manager(w.state).filter(|(_, has)| *has < level) {
        let name = node.description.hostname.clone();
        return Err(Rejected::ManagerTooOld { id: node.id, name, has, wanted: level });
    }
    cluster.level = level;
    cluster.meta.touch(w.index, w.now);
    w.put_cluster(cluster);
    address::of_nodes(w);
    Ok(Outcome::Applied)
}

/// Remembers that a node is a manager no more, or forgets that it was none.
pub(super) fn dismissed(w: &mut Writer<'_>, node: NodeId, is_former: bool) {
    let Ok(mut cluster) = present(w) else { return };
    // Managers below that level do not keep it: all of them have to come to the same.
    if cluster.level < Level::MANAGERS || !is_former && cluster.dismissed(node).is_none() {
        return;
    }
    cluster.former_managers.retain(|former| former.node != node);
    if is_former {
        let surplus = (cluster.former_managers.len() + 1).saturating_sub(FormerManager::MAX);
        cluster.former_managers.drain(..surplus);
        cluster.former_managers.push(FormerManager { node, since: w.now });
    }
    cluster.meta.touch(w.index, w.now);
    w.put_cluster(cluster);
}

/// One step at a time, from where the planner has seen the cluster: who leads now may not be who planned it.
pub(super) fn set_tunnel_epochs(
    w: &mut Writer<'_>,
    from: TunnelEpochs,
    to: TunnelEpochs,
    forced: u64,
) -> Result<Outcome, Rejected> {
    let mut cluster = present(w)?;
    let current = cluster.tunnel_keys.epochs;
    let begins = current.begun() == Some(to);
    if from != current || !(begins || current.ended() == Some(to)) {
        return Err(Rejected::TunnelEpochs(to, current));
    }
    cluster.tunnel_keys.epochs = to;
    if begins {
        cluster.tunnel_keys.since = w.now;
        cluster.tunnel_keys.forced = forced;
    }
    cluster.meta.touch(w.index, w.now);
    w.put_cluster(cluster);
    Ok(Outcome::Applied)
}

pub(super) fn rotate_join_token(
    w: &mut Writer<'_>,
    role: NodeRole,
    secret: JoinSecret,
) -> Result<Outcome, Rejected> {
    let mut cluster = present(w)?;
    match role {
        NodeRole::Agent => cluster.join_tokens.agent = secret.0,
        NodeRole::Manager => cluster.join_tokens.manager = secret.0,
    }
    cluster.meta.touch(w.index, w.now);
    w.put_cluster(cluster);
    Ok(Outcome::Applied)
}

fn present(w: &Writer<'_>) -> Result<Cluster, Rejected> {
    w.state.cluster.as_ref().map(|c| Arc::clone(c).as_ref().clone()).ok_or(Rejected::NoCluster)
}
