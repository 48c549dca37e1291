//! Connecting one task to a further network, and disconnecting it.

use std::net::IpAddr;
use std::sync::Arc;

use shoal_types::id::{NetworkId, TaskId};
use shoal_types::level::{Level, Leveled as _};
use shoal_types::object::{Network, Node, Task, TaskNetwork};
use shoal_types::spec::NetworkKind;

use super::address;
use crate::cluster_state::{ClusterState, Writer};
use crate::command::Outcome;
use crate::rejected::{ConnectionRefused as Refused, Rejected};

pub(super) fn connect(
    w: &mut Writer<'_>,
    id: TaskId,
    network_id: NetworkId,
    aliases: Vec<String>,
    wanted: &[IpAddr],
) -> Result<Outcome, Rejected> {
    let old = w.get::<Task>(id)?;
    let network = w.get::<Network>(network_id)?;
    let (task, name) = (|| old.name(), || network.spec.name.clone());
    if !old.is_wanted() {
        let (state, desired) = (old.status.state, old.desired_state);
        return Err(Refused::NotWanted { task: task(), state, desired }.into());
    }
    if old.on(network_id).is_some() {
        return Err(Refused::AlreadyConnected { task: task(), network: name() }.into());
    }
    if let Some(service) = old.spec.network_of.clone() {
        return Err(Refused::Shares { task: task(), network: name(), service }.into());
    }
    if let Some(excluding) = excluding(w.state, &old, &network) {
        return Err(Refused::Excluded { task: task(), network: name(), excluding }.into());
    }
    let level = old.level.max(Level::DUAL).max(network.spec.level());
    if let Some(node) = old.node_id {
        let description = &w.get::<Node>(node)?.description;
        let has = description.level;
        if has < level {
            return Err(Rejected::NodeTooOld { node, has, needed: level });
        }
        if !description.engine.has_driver(&network.spec.driver) {
            let driver = network.spec.driver.name.clone();
            return Err(Rejected::NoDriver { node, driver });
        }
    }
    let addresses = address::of_connection(w.state, &network, &old, wanted)?;
    let driver_opts = Default::default();
    let joined = TaskNetwork { network_id, aliases, driver_opts, addresses, connected: true };
    let networks: Arc<[TaskNetwork]> = old.networks.iter().cloned().chain([joined]).collect();
    w.update(Task { networks, level, ..Task::clone(&old) });
    Ok(Outcome::Applied)
}

/// The name of the network that keeps a task from being connected to another one, if any does.
fn excluding(state: &ClusterState, task: &Task, network: &Network) -> Option<String> {
    let is_exclusive = |network: &Network| {
        NetworkKind::of(&network.spec.driver).is_some_and(NetworkKind::is_exclusive)
    };
    let own = task.networks.iter().filter_map(|joined| state.network(joined.network_id));
    let mut all = own.map(AsRef::as_ref).chain([network]);
    all.find(|network| is_exclusive(network)).map(|network| network.spec.name.clone())
}

pub(super) fn disconnect(
    w: &mut Writer<'_>,
    id: TaskId,
    network_id: NetworkId,
    force: bool,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Task>(id)?;
    let network = w.get::<Network>(network_id)?;
    let (task, name) = (old.name(), network.spec.name.clone());
    match old.on(network_id) {
        Some(joined) if !joined.connected => {
            let service = String::from(&*old.service_name);
            return Err(Refused::OfService { task, network: name, service }.into());
        }
        _ if force && !old.is_live() => return Ok(Outcome::Unchanged),
        None if force => return Ok(Outcome::Unchanged),
        None => return Err(Refused::NotConnected { task, network: name }.into()),
        Some(_) if !old.is_live() => {
            let (state, desired) = (old.status.state, old.desired_state);
            return Err(Refused::NotWanted { task, state, desired }.into());
        }
        Some(_) => {}
    }
    let networks = old.networks.iter().filter(|joined| joined.network_id != network_id).cloned();
    w.update(Task { networks: networks.collect(), ..Task::clone(&old) });
    Ok(Outcome::Applied)
}
