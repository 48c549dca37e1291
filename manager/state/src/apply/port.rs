//! Published ports of services: their numbers are part of the command that makes or updates the service.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use shoal_types::id::{ServiceId, StackId};
use shoal_types::object::{Endpoint, Service};
use shoal_types::spec::{PortConfig, Protocol, PublishMode, ServiceSpec, StackSpec};

use crate::cluster_state::ClusterState;
use crate::rejected::Rejected;

/// Numbers for ports that are to answer on every node and do not say at which number. As in Swarm; below those
/// from which Linux takes numbers for outgoing connections.
const AUTOMATIC: RangeInclusive<u16> = 30_000..=32_767;

/// For whom ports are chosen.
pub(super) struct For<'a> {
    pub(super) id: ServiceId,
    pub(super) spec: &'a ServiceSpec,
    pub(super) old: Option<&'a Endpoint>,
    /// Its stack, if that is applied: what its services take from each other is looked at when all are.
    pub(super) stack: Option<StackId>,
}

/// The ports of a service, those with a number of their own choice first held by it before. A port in mode host
/// without a number gets one from each node.
pub(super) fn of_service(state: &ClusterState, who: &For<'_>) -> Result<Vec<PortConfig>, Rejected> {
    let For { id, spec, old, stack } = who;
    let mut ports: Vec<PortConfig> =
        spec.endpoint_spec.as_ref().map(|e| e.ports.clone()).unwrap_or_default();
    let others = |service: ServiceId| {
        let in_stack = || state.service(service).is_some_and(|s| s.stack_id == *stack);
        service != *id && !(stack.is_some() && in_stack())
    };
    refuse_if_held(state, &spec.name, &ports, others)?;
    let numbered = ports.iter().filter(|port| port.published_port != 0);
    let mut own: BTreeSet<(Protocol, u16)> =
        numbered.map(|port| (port.protocol, port.published_port)).collect();
    let mut had: Vec<&PortConfig> = old.map(automatic).unwrap_or_default();
    let automatic = |port: &&mut PortConfig| {
        port.published_port == 0 && port.publish_mode == PublishMode::Ingress
    };
    for port in ports.iter_mut().filter(automatic) {
        let (protocol, target) = (port.protocol, port.target_port);
        let at = had.iter().position(|p| (p.protocol, p.target_port) == (protocol, target));
        let had = at.map(|at| had.remove(at).published_port).filter(|number| {
            let mut holders = state.indexes.ports.holders(PublishMode::Ingress, protocol, *number);
            !own.contains(&(protocol, *number)) && holders.all(|(holder, _)| holder == *id)
        });
        let free = || {
            let also = |number| !own.contains(&(protocol, number));
            state.indexes.ports.free(protocol, AUTOMATIC, begin(*id), also)
        };
        let none =
            || Rejected::NoFreePort { service: spec.name.clone(), protocol, range: AUTOMATIC };
        port.published_port = had.or_else(free).ok_or_else(none)?;
        own.insert((protocol, port.published_port));
    }
    Ok(ports)
}

/// Where the search for a number begins: another place for each service, so that a number that has just become free
/// is not somebody else's at once.
fn begin(id: ServiceId) -> u16 {
    let count = u128::from(AUTOMATIC.end() - AUTOMATIC.start()) + 1;
    let place = u16::try_from(id.bits() % count).unwrap_or_default();
    AUTOMATIC.start() + place
}

/// The ports whose numbers were chosen.
fn automatic(endpoint: &Endpoint) -> Vec<&PortConfig> {
    let wanted = endpoint.spec.iter().flat_map(|spec| &spec.ports);
    let both = wanted.zip(&endpoint.ports);
    let chosen = both.filter(|(wanted, port)| wanted.published_port != port.published_port);
    chosen.map(|(_, port)| port).collect()
}

/// Refuses ports of a service that one of `others` has, too, where only one can have them.
fn refuse_if_held(
    state: &ClusterState,
    service: &str,
    ports: &[PortConfig],
    others: impl Fn(ServiceId) -> bool,
) -> Result<(), Rejected> {
    for port in ports.iter().filter(|port| port.published_port != 0) {
        let (mode, protocol, number) = (port.publish_mode, port.protocol, port.published_port);
        let mut holders = state.indexes.ports.holders(mode, protocol, number);
        let Some((holder, held)) = holders.find(|(holder, _)| others(*holder)) else { continue };
        let name = state.service(holder).map(|s| s.spec.name.clone());
        return Err(Rejected::PortInUse {
            service: service.to_owned(),
            port: number,
            protocol,
            mode,
            holder: name.unwrap_or_else(|| holder.to_string()),
            held,
        });
    }
    Ok(())
}

/// Refuses if services of a stack, all of which are as they are to be, have ports that others have.
pub(super) fn refuse_if_shared(state: &ClusterState, stack: &StackSpec) -> Result<(), Rejected> {
    let services = stack.services.values().filter_map(|s| state.service_by_name(&s.name));
    let refuse = |service: &Service| {
        let others = |holder| holder != service.id;
        refuse_if_held(state, &service.spec.name, &service.endpoint.ports, others)
    };
    services.map(AsRef::as_ref).try_for_each(refuse)
}
