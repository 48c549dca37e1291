//! Networks, and which of them a service joins.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use shoal_types::id::{NetworkId, ServiceId, StackId};
use shoal_types::object::{Meta, Network, Service, Stack, Task, TaskNetwork};
use shoal_types::spec::{NetworkKind, NetworkSpec, ServiceSpec};

use super::address;
use crate::addresses::Family;
use crate::cluster_state::{ClusterState, Writer};
use crate::command::Outcome;
use crate::event::ObjectKind;
use crate::rejected::Rejected;

/// Name and driver of the network that tasks join which name none.
pub(super) const BRIDGE: &str = NetworkKind::Bridge.as_str();
/// Name and driver of the network that is the node's own.
pub(super) const HOST: &str = NetworkKind::Host.as_str();
/// Name and driver of the network with nothing in it.
pub(super) const NONE: &str = NetworkKind::Nothing.as_str();

/// A network as this command makes it.
pub(super) fn new(
    w: &Writer<'_>,
    id: NetworkId,
    spec: NetworkSpec,
    stack_id: Option<StackId>,
    predefined: bool,
) -> Network {
    let (meta, subnets) = (Meta::created(w.index, w.now), Vec::new());
    Network { id, meta, spec, stack_id, predefined, subnets }
}

pub(super) fn create(
    w: &mut Writer<'_>,
    id: NetworkId,
    spec: NetworkSpec,
    stack_id: Option<StackId>,
) -> Result<Outcome, Rejected> {
    w.id_is_free::<Network>(id)?;
    if let Some(other) = w.state.network_by_name(&spec.name) {
        let holder = other.id.to_string();
        return Err(Rejected::NameTaken { kind: ObjectKind::Network, name: spec.name, holder });
    }
    let subnets = address::subnets(w.state, &spec)?;
    w.create(Network { subnets, ..new(w, id, spec, stack_id, false) });
    Ok(Outcome::Applied)
}

pub(super) fn remove(w: &mut Writer<'_>, id: NetworkId) -> Result<Outcome, Rejected> {
    let network = w.get::<Network>(id)?;
    if network.predefined {
        return Err(Rejected::PredefinedNetwork { name: network.spec.name.clone() });
    }
    refuse_if_used(w.state, &network, |_| true, Task::is_live)?;
    if let Some(stack) = network.stack_id.and_then(|id| w.state.stack(id)) {
        let mut stack = Stack::clone(stack);
        stack.networks.remove(&network.spec.name);
        w.update(stack);
    }
    w.remove::<Network>(id);
    Ok(Outcome::Applied)
}

/// Refuses if one of these services, or of these tasks, joins the network. Looks at all of them:
/// networks are removed rarely.
pub(super) fn refuse_if_used(
    state: &ClusterState,
    network: &Network,
    services: impl Fn(&Service) -> bool,
    tasks: impl Fn(&Task) -> bool,
) -> Result<(), Rejected> {
    let joins = |networks: &[TaskNetwork]| networks.iter().any(|n| n.network_id == network.id);
    let service = state.services().find(|s| joins(&s.networks) && services(s));
    let task = || state.tasks().find(|t| joins(&t.networks) && tasks(t));
    let (user_kind, user) = match service {
        Some(service) => (ObjectKind::Service, service.spec.name.clone()),
        None => match task() {
            Some(task) => (ObjectKind::Task, task.name()),
            None => return Ok(()),
        },
    };
    Err(Rejected::NetworkInUse { name: network.spec.name.clone(), user_kind, user })
}

/// The networks that a service joins, looked up, with the addresses that it names there. One that names none joins the
/// predefined bridge, unless it shares the network of another one.
pub(super) fn of_service(
    state: &ClusterState,
    id: ServiceId,
    spec: &ServiceSpec,
) -> Result<Arc<[TaskNetwork]>, Rejected> {
    let find = |target: &str| -> Result<&Arc<Network>, Rejected> {
        state.network_target(target).ok_or_else(|| Rejected::UnknownNetwork {
            service: spec.name.clone(),
            network: target.to_owned(),
        })
    };
    let wanted = &spec.task_template.networks;
    if spec.task_template.network_of.is_some() {
        return Ok([].into());
    }
    refuse_ports_on_wire(state, spec)?;
    refuse_ports_without_family(state, spec)?;
    if wanted.is_empty() {
        let network_id = find(BRIDGE)?.id;
        return Ok([TaskNetwork {
            network_id,
            aliases: Vec::new(),
            driver_opts: Default::default(),
            addresses: Vec::new(),
            connected: false,
        }]
        .into());
    }
    let mut joined = Vec::with_capacity(wanted.len());
    let mut seen = BTreeSet::new();
    for attachment in wanted {
        let network = find(&attachment.target)?;
        let (service, name) = (|| spec.name.clone(), || network.spec.name.clone());
        if !seen.insert(network.id) {
            return Err(Rejected::NetworkTwice { service: service(), network: name() });
        }
        let kind = NetworkKind::of(&network.spec.driver);
        if kind.is_some_and(NetworkKind::is_exclusive) && wanted.len() > 1 {
            return Err(Rejected::ExclusiveNetwork { service: service(), network: name() });
        }
        if kind == Some(NetworkKind::Host) && attachment.target != network.spec.name {
            let network = attachment.target.clone();
            return Err(Rejected::HostNetworkById { service: service(), network });
        }
        joined.push(TaskNetwork {
            network_id: network.id,
            aliases: attachment.aliases.clone(),
            driver_opts: attachment.driver_opts.clone(),
            addresses: address::kept(state, id, spec, network, &attachment.addresses)?,
            connected: false,
        });
    }
    Ok(joined.into())
}

/// Refuses ports of a service whose way out is the wire: nobody leads packets to its tasks there, and what would come in
/// by another network could not be answered by it.
fn refuse_ports_on_wire(state: &ClusterState, spec: &ServiceSpec) -> Result<(), Rejected> {
    if spec.endpoint_spec.as_ref().is_none_or(|endpoint| endpoint.ports.is_empty()) {
        return Ok(());
    }
    let wanted = spec.task_template.networks.iter();
    let networks: Vec<&Network> =
        wanted.filter_map(|one| state.network_target(&one.target)).map(AsRef::as_ref).collect();
    let way_out = networks.iter().find(|network| network.leads_out());
    let wire = way_out.or_else(|| networks.iter().find(|network| network.is_on_wire()));
    match wire.filter(|network| network.is_on_wire()) {
        None => Ok(()),
        Some(network) => Err(Rejected::PortsOnWire {
            service: spec.name.clone(),
            network: network.spec.name.clone(),
            driver: network.spec.driver.name.clone(),
        }),
    }
}

/// Refuses ports at addresses that would lead nowhere: packets keep their family on the way, and on no network of the
/// service has a task an address of it that is its way out. A task on its host's network has those of the host, and one
/// that names none is on the predefined bridge, which has IPv4.
fn refuse_ports_without_family(state: &ClusterState, spec: &ServiceSpec) -> Result<(), Rejected> {
    let wanted = &spec.task_template.networks;
    let leads = |family: Family| {
        let mut networks = wanted.iter().filter_map(|one| state.network_target(&one.target));
        let by_default = wanted.is_empty() && family == Family::V4;
        by_default
            || networks.any(|network| {
                let has = match family {
                    Family::V4 => network.spec.has_ipv4(),
                    Family::V6 => network.spec.enable_ipv6,
                };
                let is_host = NetworkKind::of(&network.spec.driver) == Some(NetworkKind::Host);
                is_host || (has && !network.spec.internal && !network.is_on_wire())
            })
    };
    let ports = spec.endpoint_spec.iter().flat_map(|endpoint| &endpoint.ports);
    let addresses = ports.filter_map(|port| port.host_ip);
    // One that is at all addresses of the host is at those of the family that there is.
    for host_ip in addresses.filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
        let service = || spec.name.clone();
        if host_ip.is_ipv6() && !leads(Family::V6) {
            return Err(Rejected::NoWayInByV6 { service: service(), host_ip });
        }
        // Where there is no way out at all, the node says so.
        if host_ip.is_ipv4() && !leads(Family::V4) && leads(Family::V6) {
            return Err(Rejected::NoWayInByV4 { service: service(), host_ip });
        }
    }
    Ok(())
}
