use ipnet::IpNet;
use proptest::prelude::*;
use shoal_types::assignment::{
    AssignmentChange, EndpointNetwork, IngressPort, Peer, PeerKeys, ServiceVips, TaskEndpoint,
    VipNetwork,
};
use shoal_types::object::{Meta, Slot, TunnelKey};
use shoal_types::spec::{Affinity, Driver, Locality, NetworkSpec, Protocol};

use super::*;

mod whole;

fn net(last: u8) -> IpNet {
    IpNet::from(IpAddr::from([10, 0, 0, last]))
}

fn v6(last: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()])
}

fn network(id: u128, driver: &str) -> Network {
    let driver = Driver { name: driver.to_owned(), ..Driver::default() };
    Network {
        id: id.into(),
        meta: Meta::default(),
        spec: NetworkSpec { driver, ..NetworkSpec::default() },
        stack_id: None,
        predefined: false,
        subnets: Vec::new(),
    }
}

fn on(network: u128, at: IpNet) -> EndpointNetwork {
    EndpointNetwork { network_id: network.into(), addresses: vec![at], aliases: vec![] }
}

/// A task on network 9, of some kinds on network 8, too, and of some on that alone, which has IPv6.
fn endpoint(task: u128, service: u128, node: u128, at: IpNet, kind: u8) -> TaskEndpoint {
    let last = u8::try_from(task % 4).unwrap();
    let further = (kind & 16 != 0).then(|| on(8, IpNet::from(v6(last))));
    let published = 8000 + u16::try_from(service % 1000).unwrap();
    let port = IngressPort { protocol: Protocol::Udp, published_port: published };
    TaskEndpoint {
        task_id: task.into(),
        service_id: service.into(),
        service_name: "web".to_owned(),
        slot: Slot::Replica(1),
        node_id: node.into(),
        networks: Some(on(9, at)).filter(|_| kind & 48 != 48).into_iter().chain(further).collect(),
        ports: if kind & 1 == 0 { vec![port] } else { Vec::new() },
        affinity: (kind & 2 == 0).then_some(Affinity::ClientIp),
        locality: (kind & 4 == 0).then_some(Locality::PreferLocal),
        serving: kind & 8 == 0,
    }
}

fn vips(service: u128, vip: IpNet, kind: u8) -> ServiceVips {
    ServiceVips {
        service_id: service.into(),
        service_name: "web".to_owned(),
        networks: vec![VipNetwork { network_id: 9.into(), vip, aliases: Vec::new() }],
        affinity: (kind & 2 == 0).then_some(Affinity::ClientIp),
        locality: (kind & 4 == 0).then_some(Locality::PreferLocal),
    }
}

fn peer(node: u128, tunnel: Option<IpAddr>) -> Peer {
    let (public_key, addr) = (TunnelKey([1; 32]), [192, 0, 2, 1].into());
    Peer {
        node_id: node.into(),
        public_key,
        addr,
        port: 51820,
        tunnel_address: tunnel,
        keys: PeerKeys::default(),
    }
}

/// What managers may say, whether or not it makes sense: addresses of several nodes, also in the tunnel, tasks of nodes
/// that nobody knows, the node itself that has a place, another one, or none, and networks that come before their tasks or
/// after, on a wire or not.
fn change() -> impl Strategy<Value = AssignmentChange> {
    let (few, kind) = (1..5u128, 0..64u8);
    let at = (2..8u8).prop_map(net);
    let tunnel = prop_oneof![
        3 => (10..14u8).prop_map(|last| Some(net(last).addr())),
        1 => (2..4u8).prop_map(|last| Some(net(last).addr())),
        1 => Just("fd00::1".parse().ok()),
        1 => Just(None),
    ];
    prop_oneof![
        6 => (1..12u128, few.clone(), few.clone(), at.clone(), kind.clone()).prop_map(
            |(task, service, node, at, kind)| {
                AssignmentChange::UpdateEndpoint(endpoint(task, service, node, at, kind).into())
            }
        ),
        2 => (1..12u128).prop_map(|task| AssignmentChange::RemoveEndpoint(task.into())),
        2 => (few.clone(), (40..44u8).prop_map(net), kind).prop_map(|(service, vip, kind)| {
            // Each has its own.
            let vip = net(40 + u8::try_from(service).unwrap() * 4 + (vip_last(vip) % 4));
            AssignmentChange::UpdateVips(vips(service, vip, kind).into())
        }),
        1 => few.clone().prop_map(|service| AssignmentChange::RemoveVips(service.into())),
        3 => (few.clone(), tunnel)
            .prop_map(|(node, tunnel)| AssignmentChange::UpdatePeer(peer(node, tunnel).into())),
        1 => few.prop_map(|node| AssignmentChange::RemovePeer(node.into())),
        2 => (8..10u128, prop_oneof![Just("overlay"), Just("macvlan"), Just("ipvlan")])
            .prop_map(|(id, driver)| AssignmentChange::UpdateNetwork(network(id, driver).into())),
        1 => (8..10u128).prop_map(|id| AssignmentChange::RemoveNetwork(id.into())),
    ]
}

fn vip_last(net: IpNet) -> u8 {
    match net.addr() {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    }
}

proptest! {
    #[test]
    fn what_follows_by_difference_is_what_follows_from_the_whole(
        steps in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..40),
        leaves_at in 0..60usize,
    ) {
        let mut view = OverlayView { node_id: Some(1.into()), ..OverlayView::default() };
        let mut courses = Courses::default();
        for (n, changes) in steps.iter().enumerate() {
            if n == leaves_at {
                view = OverlayView::default();
                prop_assert_eq!(courses.follow(&view), &whole::course(&view));
                view.node_id = Some(2.into());
            }
            let before = (courses.editions(), courses.course().allowed.clone());
            changes.iter().for_each(|change| {
                view.apply(change);
            });
            prop_assert_eq!(courses.follow(&view), &whole::course(&view), "step {}: {:?}", n, changes);
            let (editions, allowed) = before;
            prop_assert!(editions != courses.editions() || allowed == courses.course().allowed);
        }
    }
}

/// So many tasks, ten of each service, on a hundredth as many nodes.
fn large(tasks: u32) -> OverlayView {
    let mut view = OverlayView { node_id: Some(1.into()), ..OverlayView::default() };
    let mut take = |change| {
        view.apply(&change);
    };
    let wide = |first: u32, n: u32| IpAddr::from((first + n).to_be_bytes());
    for node in 1..=u128::from(tasks.div_ceil(100).max(2)) {
        let at = wide(0x0a09_0000, u32::try_from(node).unwrap());
        take(AssignmentChange::UpdatePeer(peer(node, Some(at)).into()));
    }
    for n in 0..tasks {
        let (service, node) = (n / 10 + 1, n % tasks.div_ceil(100).max(2) + 1);
        let at = IpNet::from(wide(0x0a10_0000, n));
        let one = endpoint(u128::from(n + 1), service.into(), node.into(), at, 0);
        take(AssignmentChange::UpdateEndpoint(one.into()));
        let vip = IpNet::from(wide(0x0a20_0000, service));
        take(AssignmentChange::UpdateVips(vips(service.into(), vip, 0).into()));
    }
    view
}

/// How much is looked at for one task that stops to serve, one that comes, one that goes, one that moves, and for a wire
/// with one task.
fn looked_at(tasks: u32) -> [usize; 5] {
    let mut view = large(tasks);
    let wired = endpoint(1 << 41, 1, 2, IpNet::from(IpAddr::from([10, 77, 0, 2])), 16);
    view.apply(&AssignmentChange::UpdateEndpoint(wired.into()));
    let mut courses = Courses::default();
    assert_eq!(courses.follow(&view), &whole::course(&view));
    let of = |id: u128| view.endpoints[&TaskId::from(id)].clone();
    let stops = TaskEndpoint { serving: false, ..TaskEndpoint::clone(&of(3)) };
    let moves = TaskEndpoint { node_id: 2.into(), ..TaskEndpoint::clone(&of(5)) };
    let at = IpNet::from(IpAddr::from([10, 77, 0, 1]));
    let comes = endpoint(1 << 40, 1, 2, at, 0);
    let changes = [
        AssignmentChange::UpdateEndpoint(stops.into()),
        AssignmentChange::UpdateEndpoint(comes.into()),
        AssignmentChange::RemoveEndpoint(4.into()),
        AssignmentChange::UpdateEndpoint(moves.into()),
        AssignmentChange::UpdateNetwork(network(8, "macvlan").into()),
    ];
    changes.map(|change| {
        view.apply(&change);
        courses.looked_at = 0;
        courses.follow(&view);
        assert_eq!(courses.course(), &whole::course(&view));
        let looked_at = courses.looked_at;
        courses.looked_at = 0;
        courses.follow(&view);
        assert_eq!(courses.looked_at, 0, "nothing has changed");
        looked_at
    })
}

#[test]
fn a_change_costs_the_same_however_much_there_is() {
    let (few, many) = (looked_at(10), looked_at(10_000));
    for (few, many) in few.into_iter().zip(many) {
        assert!(many <= few + 4 && many < 60, "{few} of ten, {many} of ten thousand");
    }
}
