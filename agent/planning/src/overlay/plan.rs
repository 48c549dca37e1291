//! What follows on this host from what it knows of overlay networks.

pub(super) mod ingress;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdSet;
use ipnet::IpNet;
use shoal_types::assignment::{ServiceVips, TaskEndpoint, VipNetwork};
use shoal_types::id::NodeId;
use shoal_types::spec::{Affinity, Locality};

use crate::network::ingress::{Ingress, Port};
use crate::network::ruleset::{Vip, Vips, sticky};

/// Addresses that packets are led into the tunnel for. Clones share what they have in common.
pub type Remote = OrdSet<IpAddr>;

/// What this host does about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Course {
    /// What each other node may send from, and what is sent to it: exactly the addresses of its endpoints, and
    /// its own in the tunnel. Nodes without any are left out.
    pub allowed: BTreeMap<NodeId, BTreeSet<IpNet>>,
    /// Addresses that packets are led into the tunnel for.
    pub remote: Remote,
    /// Backends, by the address of their service.
    pub vips: Vips,
    /// Ports that answer on every node.
    pub ingress: Ingress,
    /// Addresses that several nodes claim, for endpoints or for themselves, with these nodes. Nobody else's is led anywhere: who
    /// is right cannot be told here, and managers never give one twice.
    pub contested: BTreeMap<IpAddr, BTreeSet<NodeId>>,
    /// How much has to be remembered of clients that stay with whom they have.
    pub(super) slots: Slots,
}

/// Slots of services and ports whose clients stay with whom they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slots {
    vips: usize,
    vips_v6: usize,
    ports: usize,
}

impl Slots {
    fn of_vip(&mut self, at: IpAddr) -> &mut usize {
        if at.is_ipv6() { &mut self.vips_v6 } else { &mut self.vips }
    }

    pub(super) fn have_vip(&mut self, at: IpAddr, vip: &Vip) {
        *self.of_vip(at) += slots_of(vip);
    }

    pub(super) fn lose_vip(&mut self, at: IpAddr, vip: &Vip) {
        let of = self.of_vip(at);
        *of = of.saturating_sub(slots_of(vip));
    }

    pub(super) fn have_port(&mut self, backends: usize) {
        self.ports += sticky::count(backends);
    }

    pub(super) fn lose_port(&mut self, backends: usize) {
        self.ports = self.ports.saturating_sub(sticky::count(backends));
    }

    fn fit(self) -> bool {
        let Self { vips, vips_v6, ports } = self;
        vips.max(vips_v6) <= sticky::VIP_SLOTS_MAX && ports <= sticky::PORT_SLOTS_MAX
    }
}

fn slots_of(vip: &Vip) -> usize {
    if vip.sticky { sticky::count(vip.backends.len()) } else { 0 }
}

/// Services and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crowded {
    /// By the addresses of services.
    pub vips: BTreeSet<IpAddr>,
    /// By port.
    pub ports: BTreeSet<Port>,
}

impl Crowded {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vips.len() + self.ports.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Course {
    /// What is led to, with clients that stay with whom they have as far as that takes no more than a host can list;
    /// and who they are of whom that is too much.
    #[must_use]
    pub fn bounded(&self) -> (Vips, Ingress, Crowded) {
        let (mut vips, mut ingress) = (self.vips.clone(), self.ingress.clone());
        let mut crowded = Crowded::default();
        if self.slots.fit() {
            return (vips, ingress, crowded);
        }
        let (mut left, mut left_v6) = (sticky::VIP_SLOTS_MAX, sticky::VIP_SLOTS_MAX);
        for (vip, service) in self.vips.iter().filter(|(_, service)| service.sticky) {
            let of_family = if vip.is_ipv6() { &mut left_v6 } else { &mut left };
            if !take(of_family, slots_of(service)) {
                crowded.vips.insert(*vip);
            }
        }
        for vip in &crowded.vips {
            if let Some(service) = vips.get_mut(vip) {
                service.sticky = false;
            }
        }
        let mut left = sticky::PORT_SLOTS_MAX;
        for (port, names) in &self.ingress.sticky {
            if !take(&mut left, sticky::count(names.len())) {
                crowded.ports.insert(*port);
            }
        }
        ingress.sticky.retain(|port, _| !crowded.ports.contains(port));
        (vips, ingress, crowded)
    }

    /// What follows from the whole.
    #[cfg(test)]
    pub(super) fn of(view: &super::OverlayView) -> Self {
        super::Courses::default().follow(view).clone()
    }
}

/// Takes so many away, if there are so many left.
fn take(left: &mut usize, count: usize) -> bool {
    left.checked_sub(count).map(|less| *left = less).is_some()
}

/// Who is behind one address of a service, of these tasks of it that serve: only those of this node where they are
/// preferred and there are any.
pub(super) fn vip(
    own: Option<NodeId>,
    service: &ServiceVips,
    network: &VipNetwork,
    tasks: &[&Arc<TaskEndpoint>],
) -> Vip {
    let v4 = network.vip.addr().is_ipv4();
    let addresses = |task: &&Arc<TaskEndpoint>| {
        let joined = task.networks.iter().filter(|n| n.network_id == network.network_id);
        let addresses = joined.flat_map(|joined| &joined.addresses).map(IpNet::addr);
        addresses.filter(|one| one.is_ipv4() == v4).collect::<Vec<_>>()
    };
    let near = |task: &&&Arc<TaskEndpoint>| Some(task.node_id) == own;
    let of_near: BTreeSet<IpAddr> = tasks.iter().filter(near).flat_map(addresses).collect();
    let prefers_near = service.locality == Some(Locality::PreferLocal);
    let backends: BTreeSet<IpAddr> = match prefers_near && !of_near.is_empty() {
        true => of_near,
        false => tasks.iter().flat_map(addresses).collect(),
    };
    let backends: Vec<IpAddr> = backends.into_iter().collect();
    Vip { sticky: service.affinity == Some(Affinity::ClientIp), ..backends.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_types::assignment::{
        EndpointNetwork, Peer, PeerKeys, ServiceVips, TaskEndpoint, VipNetwork,
    };
    use shoal_types::id::ServiceId;
    use shoal_types::object::{Slot, TunnelKey};

    use super::super::OverlayView;
    use super::*;

    const OWN: u128 = 1;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn endpoint(task: u128, node: u128, address: &str, serving: bool) -> Arc<TaskEndpoint> {
        let addresses = vec![net(&format!("{address}/24"))];
        let network = EndpointNetwork { network_id: 9.into(), addresses, aliases: Vec::new() };
        Arc::new(TaskEndpoint {
            task_id: task.into(),
            service_id: 7.into(),
            service_name: "web".to_owned(),
            slot: Slot::Replica(1),
            node_id: node.into(),
            networks: vec![network],
            ports: Vec::new(),
            affinity: None,
            locality: None,
            serving,
        })
    }

    fn view(endpoints: &[Arc<TaskEndpoint>]) -> OverlayView {
        let peer = |node: u128| {
            let (public_key, addr) = (TunnelKey([2; 32]), [192, 0, 2, 2].into());
            Arc::new(Peer {
                node_id: node.into(),
                public_key,
                addr,
                port: 51820,
                tunnel_address: None,
                keys: PeerKeys::default(),
            })
        };
        let vip = VipNetwork { network_id: 9.into(), vip: net("10.0.0.9/24"), aliases: Vec::new() };
        let other =
            VipNetwork { network_id: 8.into(), vip: net("10.0.1.9/24"), aliases: Vec::new() };
        let networks = vec![vip, other];
        let service_name = "web".to_owned();
        let vips = ServiceVips {
            service_id: 7.into(),
            service_name,
            networks,
            affinity: None,
            locality: None,
        };
        OverlayView {
            node_id: Some(OWN.into()),
            endpoints: endpoints.iter().map(|one| (one.task_id, Arc::clone(one))).collect(),
            peers: [2, 3].map(|node: u128| (NodeId::from(node), peer(node))).into_iter().collect(),
            vips: std::iter::once((ServiceId::from(7), Arc::new(vips))).collect(),
            ..OverlayView::default()
        }
    }

    #[test]
    fn each_node_speaks_for_its_own_tasks_alone() {
        let course = Course::of(&view(&[
            endpoint(1, OWN, "10.0.0.2", true),
            endpoint(2, 2, "10.0.0.3", true),
            endpoint(3, 2, "10.0.0.4", false),
            endpoint(4, 3, "10.0.0.5", true),
            // Of a node that nobody knows how to reach.
            endpoint(5, 4, "10.0.0.6", true),
        ]));
        let one = [net("10.0.0.3/32"), net("10.0.0.4/32")].into();
        let allowed = BTreeMap::from([(2.into(), one), (3.into(), [net("10.0.0.5/32")].into())]);
        assert_eq!(course.allowed, allowed);
        let remote = [3, 4, 5].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(course.remote, remote.to_vec().into());
        let backends = [2, 3, 5, 6].map(|last| IpAddr::from([10, 0, 0, last])).to_vec();
        let vips = [([10, 0, 0, 9], backends), ([10, 0, 1, 9], vec![])];
        assert_eq!(course.vips, vips.to_vec().into());
        assert_eq!(course.contested, BTreeMap::new());
    }

    #[test]
    fn clients_stay_with_a_task_where_they_are_to() {
        let mut view = view(&[endpoint(1, OWN, "10.0.0.2", true)]);
        let vip = IpAddr::from([10, 0, 0, 9]);
        assert!(!Course::of(&view).vips[&vip].sticky);
        let mut vips = ServiceVips::clone(&view.vips[&ServiceId::from(7)]);
        vips.affinity = Some(Affinity::ClientIp);
        view.vips.insert(vips.service_id, Arc::new(vips));
        assert!(Course::of(&view).vips[&vip].sticky);
    }

    /// Each step: who serves, and whom the node leads to then. Of another family than the address nobody is.
    #[test]
    fn tasks_of_the_node_are_led_to_before_others_where_they_are_preferred() {
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        for (near, far, others, expected) in [
            (true, true, None, vec![2, 3]),
            (true, true, Some(Locality::PreferLocal), vec![2]),
            (false, true, Some(Locality::PreferLocal), vec![3]),
            (true, false, Some(Locality::PreferLocal), vec![2]),
            (false, false, Some(Locality::PreferLocal), vec![]),
        ] {
            let mut view =
                view(&[endpoint(1, OWN, "10.0.0.2", near), endpoint(2, 2, "10.0.0.3", far)]);
            let mut vips = ServiceVips::clone(&view.vips[&ServiceId::from(7)]);
            (vips.locality, vips.affinity) = (others, Some(Affinity::ClientIp));
            view.vips.insert(vips.service_id, Arc::new(vips));
            let vip = Course::of(&view).vips[&at(9)].clone();
            let backends: Vec<IpAddr> = expected.into_iter().map(at).collect();
            assert_eq!(*vip.backends, backends, "near {near}, far {far}, {others:?}");
            assert!(vip.sticky, "among these alone");
            // Who is nowhere is near nobody.
            let nowhere = Course::of(&OverlayView { node_id: None, ..view });
            assert_eq!(nowhere.vips[&at(9)].backends.len(), usize::from(near) + usize::from(far));
        }
    }

    /// What comes first has its slots, and what does not fit is led to as without; smaller ones behind it still fit.
    #[test]
    fn clients_stay_as_far_as_a_host_can_remember() {
        let backend = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0b00_0000 + n));
        let vip = |backends: u32| Vip {
            sticky: true,
            ..(0..backends).map(backend).collect::<Vec<_>>().into()
        };
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        // Four large ones fill it; there is room for none after.
        let vips = (1..=6).map(|n| (at(n), vip(if n < 6 { 129 } else { 1 }))).collect();
        let mut course = Course { vips, ..Course::default() };
        course.vips.insert("fd00::1".parse().unwrap(), vip(129));
        let names: Arc<[String]> = (0..129).map(|n| n.to_string()).collect();
        let few: Arc<[String]> = Arc::from([String::new()]);
        let tcp = |port| (crate::network::Protocol::Tcp, port);
        course.ingress.sticky = [(80, &few), (81, &names), (82, &names), (83, &few)]
            .map(|(p, n)| (tcp(p), n.clone()))
            .into();
        course.vips.iter().for_each(|(at, vip)| course.slots.have_vip(*at, vip));
        course.ingress.sticky.values().for_each(|names| course.slots.have_port(names.len()));
        let (vips, ingress, crowded) = course.bounded();
        let sticky: Vec<IpAddr> =
            vips.iter().filter(|(_, vip)| vip.sticky).map(|(at, _)| *at).collect();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(sticky, [at(1), at(2), at(3), at(4), v6]);
        assert_eq!(crowded.vips, [at(5), at(6)].into());
        let ports: Vec<u16> = ingress.sticky.keys().map(|(_, port)| *port).collect();
        assert_eq!(ports, [80, 81, 83]);
        assert_eq!(crowded.ports, [tcp(82)].into());
        // No state of the cluster makes it more.
        let slots = vips.values().filter(|vip| vip.sticky).map(|vip| vip.backends.len());
        assert!(slots.map(sticky::count).sum::<usize>() <= 2 * sticky::VIP_SLOTS_MAX);
    }

    #[test]
    fn an_address_of_two_nodes_is_nobodys() {
        let course = Course::of(&view(&[
            endpoint(1, OWN, "10.0.0.2", true),
            endpoint(2, 2, "10.0.0.2", true),
            endpoint(3, 2, "10.0.0.3", true),
            endpoint(4, 3, "10.0.0.3", true),
        ]));
        assert_eq!((course.allowed, course.remote), (BTreeMap::new(), Remote::new()));
        let claims = [
            ([10, 0, 0, 2].into(), [OWN.into(), 2.into()].into()),
            ([10, 0, 0, 3].into(), [2.into(), 3.into()].into()),
        ];
        assert_eq!(course.contested, claims.into());
    }

    #[test]
    fn who_knows_nothing_does_nothing() {
        let unknown = OverlayView { node_id: None, ..view(&[endpoint(2, 2, "10.0.0.3", true)]) };
        let course = Course::of(&unknown);
        assert_eq!((course.allowed, course.remote), (BTreeMap::new(), Remote::new()));
    }
}
