//! Who is behind ports that answer on every node.

use std::net::Ipv4Addr;
use std::sync::Arc;

use shoal_types::assignment::{IngressPort, TaskEndpoint};
use shoal_types::id::NodeId;
use shoal_types::spec::{Affinity, Locality};

use super::super::OverlayView;
use crate::network::Protocol;
use crate::network::ingress::{Backend, Port};

/// Which port that is.
pub(in super::super) fn key(port: &IngressPort) -> Port {
    (Protocol::from(port.protocol), port.published_port)
}

/// Who is behind one port.
pub(in super::super) struct Behind {
    pub(in super::super) backends: Arc<[Backend]>,
    /// Their names, where clients stay with whom they have.
    pub(in super::super) names: Option<Arc<[String]>>,
}

/// The same of its tasks; `far` says how other nodes are reached, where they are.
pub(in super::super) fn behind(
    own: NodeId,
    view: &OverlayView,
    far: impl Fn(&NodeId) -> Option<Ipv4Addr>,
    tasks: &[&TaskEndpoint],
) -> Behind {
    let backend = |endpoint: &&TaskEndpoint| {
        let name = endpoint.task_id.to_string();
        if endpoint.node_id == own {
            return Some((Backend::Here(name.clone()), name));
        }
        let node = far(&endpoint.node_id)?;
        Some((view.far(endpoint, node), name))
    };
    let serving = tasks.iter().filter(|endpoint| endpoint.serving);
    let mut backends: Vec<(Backend, String)> = serving.filter_map(backend).collect();
    let prefers_near = tasks.iter().any(|one| one.locality == Some(Locality::PreferLocal));
    let is_near = |(backend, _): &(Backend, String)| backend.far().is_none();
    if prefers_near && backends.iter().any(is_near) {
        backends.retain(is_near);
    }
    // So that the same is drawn from the same, however tasks came.
    backends.sort();
    let sticky = tasks.iter().any(|one| one.affinity == Some(Affinity::ClientIp));
    Behind {
        names: sticky.then(|| backends.iter().map(|(_, name)| name.clone()).collect()),
        backends: backends.into_iter().map(|(one, _)| one).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use shoal_types::assignment::{Peer, PeerKeys};
    use shoal_types::object::{Slot, TunnelKey};
    use shoal_types::spec;

    use super::super::Course;
    use super::*;
    use crate::network::ingress::Ingress;

    const OWN: u128 = 1;

    fn view(tunnels: &[(u128, &str)], tasks: &[(u128, u128, bool)]) -> OverlayView {
        let peer = |(node, tunnel): &(u128, &str)| {
            let node_id = NodeId::from(*node);
            let addr = IpAddr::from([192, 0, 2, u8::try_from(*node).unwrap()]);
            let tunnel_address = tunnel.parse().ok();
            let public_key = TunnelKey([u8::try_from(*node).unwrap(); 32]);
            (
                node_id,
                Arc::new(Peer {
                    node_id,
                    public_key,
                    addr,
                    port: 51820,
                    tunnel_address,
                    keys: PeerKeys::default(),
                }),
            )
        };
        let endpoint = |(task, node, serving): &(u128, u128, bool)| {
            let port = IngressPort { protocol: spec::Protocol::Tcp, published_port: 8080 };
            let endpoint = TaskEndpoint {
                task_id: (*task).into(),
                service_id: 7.into(),
                service_name: "web".to_owned(),
                slot: Slot::Replica(1),
                node_id: (*node).into(),
                networks: Vec::new(),
                ports: vec![port],
                affinity: None,
                locality: None,
                serving: *serving,
            };
            (endpoint.task_id, Arc::new(endpoint))
        };
        OverlayView {
            node_id: Some(OWN.into()),
            peers: tunnels.iter().map(peer).collect(),
            endpoints: tasks.iter().map(endpoint).collect(),
            ..OverlayView::default()
        }
    }

    const PORT: (Protocol, u16) = (Protocol::Tcp, 8080);

    fn at(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, last)
    }

    #[test]
    fn each_serving_task_has_one_part_wherever_it_is() {
        let tunnels = [(OWN, "10.9.0.1"), (2, "10.9.0.2"), (3, "10.9.0.3"), (4, "fd00::4")];
        // Two on the second node; one that does not serve; one on a node without such an address, and one on a
        // node that nobody knows.
        let tasks = [
            (11, OWN, true),
            (12, 2, true),
            (13, 2, true),
            (14, 3, false),
            (15, 4, true),
            (16, 5, true),
        ];
        let course = Course::of(&view(&tunnels, &tasks));
        let Ingress { home, peers, ports, sticky: _ } = &course.ingress;
        assert_eq!(*home, Some(at(1)));
        let outside = |last| Some(IpAddr::from([192, 0, 2, last]));
        assert_eq!(*peers, [(at(2), outside(2)), (at(3), outside(3))].into());
        let own = Backend::Here(shoal_types::id::TaskId::from(11).to_string());
        let far = || Backend::Far(at(2));
        assert_eq!(*ports, vec![(PORT, vec![own, far(), far()])].into());
        // They are let in and led to, and so is the node's own end of whoever leads here.
        let net = |last: u8| ipnet::IpNet::from(IpAddr::from(at(last)));
        let allowed = |node: u128| course.allowed.get(&NodeId::from(node)).cloned();
        assert_eq!(allowed(2), Some([net(2)].into()));
        assert_eq!(allowed(3), Some([net(3)].into()));
        // The other one is of no network here, and nothing is led there.
        let remote = ["10.9.0.2", "10.9.0.3", "fd00::4"].map(|text| text.parse().unwrap());
        assert_eq!((allowed(OWN), course.remote), (None, remote.to_vec().into()));
    }

    #[test]
    fn a_node_without_an_address_in_the_tunnel_leads_to_its_own() {
        let course = Course::of(&view(&[(2, "10.9.0.2")], &[(11, OWN, true), (12, 2, true)]));
        let Ingress { home, peers, ports, sticky: _ } = course.ingress;
        assert_eq!((home, peers.len()), (None, 0));
        assert_eq!(ports[&PORT].len(), 1);
        assert!(course.allowed.is_empty() && course.remote.is_empty());
    }

    #[test]
    fn an_address_of_two_nodes_is_nobodys() {
        let tunnels = [(OWN, "10.9.0.1"), (2, "10.9.0.2"), (3, "10.9.0.2")];
        let course = Course::of(&view(&tunnels, &[(12, 2, true), (13, 3, true)]));
        assert_eq!(course.contested, [(at(2).into(), [2.into(), 3.into()].into())].into());
        assert_eq!(course.ingress.peers.len(), 0);
        assert_eq!(course.ingress.ports, vec![(PORT, vec![])].into(), "it is kept all the same");
        assert!(course.allowed.is_empty());
    }

    /// Each step: who serves, and who is led to. Also where clients stay with whom they have: with one of these.
    #[test]
    fn tasks_of_the_node_are_led_to_before_others_where_they_are_preferred() {
        let tunnels = [(OWN, "10.9.0.1"), (2, "10.9.0.2")];
        let name = |task: u128| shoal_types::id::TaskId::from(task).to_string();
        let (near, far) = (|| Backend::Here(name(11)), || Backend::Far(at(2)));
        for (tasks, expected, names) in [
            ([(11, OWN, true), (12, 2, true)], vec![near()], vec![name(11)]),
            ([(11, OWN, false), (12, 2, true)], vec![far()], vec![name(12)]),
            ([(11, OWN, true), (12, 2, false)], vec![near()], vec![name(11)]),
            ([(11, OWN, false), (12, 2, false)], vec![], vec![]),
        ] {
            let mut view = view(&tunnels, &tasks);
            for (_, endpoint) in view.endpoints.clone() {
                let locality = Some(Locality::PreferLocal);
                let affinity = Some(Affinity::ClientIp);
                let endpoint =
                    TaskEndpoint { affinity, locality, ..TaskEndpoint::clone(&endpoint) };
                view.endpoints.insert(endpoint.task_id, Arc::new(endpoint));
            }
            let ingress = Course::of(&view).ingress;
            assert_eq!(*ingress.ports[&PORT], expected, "{tasks:?}");
            assert_eq!(*ingress.sticky[&PORT], names, "{tasks:?}");
        }
    }

    /// The same names on all nodes, beside the backends that they are of.
    #[test]
    fn tasks_of_ports_that_clients_stay_at_have_names() {
        let tunnels = [(OWN, "10.9.0.1"), (2, "10.9.0.2")];
        let tasks = [(11, 2, true), (12, OWN, true), (13, 2, true)];
        let mut view = view(&tunnels, &tasks);
        assert!(Course::of(&view).ingress.sticky.is_empty());
        for (_, endpoint) in view.endpoints.clone() {
            let affinity = Some(Affinity::ClientIp);
            let endpoint = TaskEndpoint { affinity, ..TaskEndpoint::clone(&endpoint) };
            view.endpoints.insert(endpoint.task_id, Arc::new(endpoint));
        }
        let mut ingress = Course::of(&view).ingress;
        let name = |task: u128| shoal_types::id::TaskId::from(task).to_string();
        assert_eq!(*ingress.sticky[&PORT], [name(12), name(11), name(13)]);
        let own = Backend::Here(name(12));
        assert_eq!(*ingress.ports[&PORT], [own, Backend::Far(at(2)), Backend::Far(at(2))]);
        ingress.leave_out(&[at(2)].into());
        assert_eq!(*ingress.sticky[&PORT], [name(12)]);
    }
}
