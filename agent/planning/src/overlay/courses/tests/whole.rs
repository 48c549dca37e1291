//! The same decided from the whole each time, which is short and slow.

use super::*;
use crate::network::ingress::Ingress;
use crate::network::ruleset::Vips;

pub(super) fn course(view: &OverlayView) -> Course {
    let mut course = Course { vips: vips(view), ..Course::default() };
    if let Some(own) = view.node_id {
        let owners = owners(view);
        course.ingress = ingress(own, view, &owners);
        for (address, nodes) in owners {
            let mut others = nodes.iter().copied();
            match (others.next(), others.next()) {
                (Some(node), None) if node == own || !view.peers.contains_key(&node) => {}
                (Some(node), None) => {
                    course.allowed.entry(node).or_default().insert(IpNet::from(address));
                    course.remote.insert(address);
                }
                _ => {
                    course.contested.insert(address, nodes);
                }
            }
        }
    }
    course.vips.iter().for_each(|(at, vip)| course.slots.have_vip(*at, vip));
    course.ingress.sticky.values().for_each(|names| course.slots.have_port(names.len()));
    course
}

/// Which nodes have an address, be it an endpoint's or their own in the tunnel. Without one of its own a node has
/// nothing to do with those of others.
fn owners(view: &OverlayView) -> BTreeMap<IpAddr, BTreeSet<NodeId>> {
    let mut owners: BTreeMap<IpAddr, BTreeSet<NodeId>> = BTreeMap::new();
    for endpoint in view.endpoints.values() {
        for address in view.led(endpoint) {
            owners.entry(address).or_default().insert(endpoint.node_id);
        }
    }
    let own = view.node_id.and_then(|own| view.peers.get(&own)?.tunnel_address);
    for peer in view.peers.values().filter(|_| own.is_some()) {
        if let Some(address) = peer.tunnel_address {
            owners.entry(address).or_default().insert(peer.node_id);
        }
    }
    owners
}

fn vips(view: &OverlayView) -> Vips {
    let mut tasks: BTreeMap<ServiceId, Vec<_>> = BTreeMap::new();
    for endpoint in view.endpoints.values().filter(|endpoint| endpoint.serving) {
        tasks.entry(endpoint.service_id).or_default().push(endpoint);
    }
    let none = Vec::new();
    let mut all = Vips::new();
    for service in view.vips.values() {
        let tasks = tasks.get(&service.service_id).unwrap_or(&none);
        for network in &service.networks {
            all.insert(network.vip.addr(), vip(view.node_id, service, network, tasks));
        }
    }
    all
}

/// An address that several claim in `owners` is nobody's.
fn ingress(
    own: NodeId,
    view: &OverlayView,
    owners: &BTreeMap<IpAddr, BTreeSet<NodeId>>,
) -> Ingress {
    let at = |node: &NodeId| -> Option<Ipv4Addr> {
        let IpAddr::V4(address) = view.peers.get(node)?.tunnel_address? else { return None };
        let holders = owners.get(&IpAddr::V4(address))?;
        (holders.len() == 1).then_some(address)
    };
    let home = at(&own);
    let others = view.peers.values().filter(|peer| home.is_some() && peer.node_id != own);
    let peers: BTreeMap<Ipv4Addr, Option<IpAddr>> =
        others.filter_map(|peer| Some((at(&peer.node_id)?, Some(peer.addr)))).collect();
    let far = |node: &NodeId| at(node).filter(|far| peers.contains_key(far));
    let mut tasks: BTreeMap<Port, Vec<&TaskEndpoint>> = BTreeMap::new();
    for endpoint in view.endpoints.values() {
        for port in &endpoint.ports {
            tasks.entry(key(port)).or_default().push(endpoint);
        }
    }
    let mut ingress = Ingress { home, peers: peers.clone(), ..Ingress::default() };
    for (port, tasks) in tasks {
        let Behind { backends, names } = behind(own, view, far, &tasks);
        ingress.ports.insert(port, backends);
        ingress.sticky.extend(names.map(|names| (port, names)));
    }
    ingress
}
