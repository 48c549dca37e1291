use std::convert::Infallible;

use proptest::prelude::*;

use super::super::{End, Protocol, PublishedPort, Subnet, SubnetConfig};
use super::*;

fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn ip<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn subnet(text: &str) -> SubnetConfig {
    SubnetConfig::from(net::<IpNet>(text))
}

fn config(id: &str) -> NetworkConfig {
    NetworkConfig { id: id.to_owned(), name: id.to_owned(), ..NetworkConfig::default() }
}

fn request(container: &str, network: &str) -> AttachRequest {
    AttachRequest {
        container: container.to_owned(),
        network: network.to_owned(),
        ..AttachRequest::default()
    }
}

fn port(host_port: u16, target_port: u16) -> PublishedPort {
    let host_ip = Ipv4Addr::UNSPECIFIED.into();
    PublishedPort { host_ip, host_port, protocol: Protocol::Tcp, target_port }
}

/// Of each family the address, the gateway, and whether it is the way out.
fn ends(attached: &Attached) -> Vec<(String, String, bool)> {
    let end = |end: End| (end.address.to_string(), end.gateway.to_string(), end.default_route);
    attached.ends().map(end).collect()
}

fn end(address: &str, gateway: &str, default_route: bool) -> (String, String, bool) {
    (address.to_owned(), gateway.to_owned(), default_route)
}

fn book(networks: &[&str]) -> Leases {
    let mut leases = Leases::default();
    for id in networks {
        leases.ensure_network(&config(id), &Rules::default(), &[]).unwrap();
    }
    leases
}

fn free(_: &PublishedPort) -> Result<(), Refusal<Infallible>> {
    Ok(())
}

#[test]
fn networks_get_their_own_subnets_and_keep_them() {
    let mut leases = book(&["a", "b"]);
    let a = leases.network("a").unwrap().clone();
    let only = Subnet { subnet: net("172.20.0.0/24"), gateway: ip("172.20.0.1") };
    assert_eq!((&*a.subnets, a.mtu), (&[only][..], 1500));
    assert_eq!(leases.network("b").unwrap().subnets[0].subnet, net("172.20.1.0/24"));
    let before = leases.clone();
    // Its own subnet, seen again as a route of the host, is no obstacle.
    let seen = [InUse { subnet: only.subnet, by: "route".to_owned() }];
    assert_eq!(leases.ensure_network(&config("a"), &Rules::default(), &seen).unwrap(), a);
    assert_eq!(leases, before);
}

#[test]
fn contradictory_networks_are_refused() {
    let in_use = [InUse { subnet: net("10.5.0.0/16"), by: "interface `eth9`".to_owned() }];
    let check = |change: &dyn Fn(&mut NetworkConfig), expect: &str| {
        let mut wanted = config("new");
        change(&mut wanted);
        let error = book(&["a"]).ensure_network(&wanted, &Rules::default(), &in_use).unwrap_err();
        assert_eq!(error.to_string(), expect);
    };
    check(
        &|new| new.subnets = vec![subnet("10.1.1.7/24")],
        "subnet 10.1.1.7/24 of network `new` has host bits set, did you mean 10.1.1.0/24?",
    );
    check(
        &|new| new.subnets = vec![subnet("10.1.1.0/31")],
        "subnet 10.1.1.0/31 of network `new` has no room for a gateway and a container",
    );
    check(
        &|new| new.subnets = vec![subnet("10.5.3.0/24")],
        "subnet 10.5.3.0/24 of network `new` overlaps 10.5.0.0/16, used by interface `eth9`",
    );
    check(
        &|new| new.subnets = vec![subnet("172.16.0.0/12")],
        "subnet 172.16.0.0/12 of network `new` overlaps 172.20.0.0/24, used by network `a`",
    );
    check(
        &|new| {
            new.subnets = vec![subnet("10.1.1.0/24")];
            new.subnets[0].gateway = Some(ip("10.1.1.255"));
        },
        "gateway 10.1.1.255 of network `new` is no usable address of subnet 10.1.1.0/24",
    );
    check(
        &|new| new.subnets = vec![subnet("10.1.0.0/16"), subnet("10.1.1.0/24")],
        "subnet 10.1.1.0/24 of network `new` overlaps 10.1.0.0/16, used by network `new` itself",
    );
    check(
        &|new| new.subnets = vec![subnet("fd00:1::/64")],
        "network `new` has a subnet of IPv6, fd00:1::/64, and IPv6 is not enabled on it",
    );
    check(
        &|new| (new.ipv6, new.mtu) = (true, Some(1279)),
        "network `new` has IPv6, which needs an mtu of 1280 bytes at least, and has 1279",
    );
    check(
        &|new| {
            new.subnets = vec![subnet("10.1.1.0/24")];
            new.subnets[0].ip_range = Some(net("10.1.0.0/23"));
        },
        "ip range 10.1.0.0/23 of network `new` is not inside subnet 10.1.1.0/24",
    );
    check(&|new| new.mtu = Some(60), "mtu 60 of network `new` is not between 68 and 65535");
}

#[test]
fn a_network_in_use_neither_changes_nor_goes() {
    let mut leases = book(&["a"]);
    leases.attach(&request("c", "a"), &Rules::default()).unwrap();
    let changed = NetworkConfig { internal: true, ..config("a") };
    assert!(matches!(
        leases.ensure_network(&changed, &Rules::default(), &[]),
        Err(LeaseError::NetworkChanged { containers: 1, .. })
    ));
    assert!(matches!(
        leases.remove_network("a"),
        Err(LeaseError::NetworkInUse { containers: 1, .. })
    ));
    leases.release("c");
    assert!(leases.ensure_network(&changed, &Rules::default(), &[]).unwrap().internal);
    assert!(leases.remove_network("a").unwrap().is_some());
    assert!(leases.remove_network("a").unwrap().is_none());
}

#[test]
fn attachments_are_found_again() {
    let mut leases = book(&["a", "b"]);
    let rules = Rules::default();
    let first = leases.attach(&request("c", "a"), &rules).unwrap();
    assert_eq!(ends(&first), [end("172.20.0.2/24", "172.20.0.1", true)]);
    assert_eq!(first.ifname, "eth0");
    let second = leases.attach(&request("c", "b"), &rules).unwrap();
    assert_eq!((second.ifname.as_str(), second.is_way_out(Family::V4)), ("eth1", false));
    assert_ne!(first.host_ifname, second.host_ifname);
    assert_eq!(leases.attach(&request("c", "a"), &rules).unwrap(), first);
    assert_eq!(leases.attachments("c"), [first.clone(), second]);

    // An address given back is not the next one given.
    assert_eq!(leases.detach("c", "a"), Some(first));
    assert_eq!(leases.detach("c", "a"), None);
    let again = leases.attach(&request("c", "a"), &rules).unwrap();
    assert_eq!(ends(&again), [end("172.20.0.3/24", "172.20.0.1", false)]);
    assert_eq!(again.ifname, "eth0");
}

#[test]
fn wanted_addresses_are_given_or_refused() {
    let mut leases = book(&["a"]);
    let rules = Rules::default();
    let wanting = |container: &str, address: &str| AttachRequest {
        address: Some(ip(address)),
        ..request(container, "a")
    };
    let got = leases.attach(&wanting("c", "172.20.0.77"), &rules).unwrap();
    assert_eq!(got.address_of(Family::V4), Some(ip::<IpAddr>("172.20.0.77")));
    let mut refused = |container: &str, address: &str, expect: &str| {
        let error = leases.attach(&wanting(container, address), &rules).unwrap_err();
        assert_eq!(error.to_string(), expect);
    };
    refused("d", "172.20.0.77", "address 172.20.0.77 of network `a` is held by container `c`");
    refused("d", "172.20.0.1", "address 172.20.0.1 of network `a` is held by the gateway");
    refused(
        "d",
        "172.20.0.255",
        "address 172.20.0.255 is no usable address of network `a` (172.20.0.0/24)",
    );
    refused("c", "172.20.0.78", "container `c` is on network `a` with address 172.20.0.77 already");
    let lost = leases.attach(&request("d", "nowhere"), &rules).unwrap_err();
    assert_eq!(lost.to_string(), "unknown network `nowhere`");
}

#[test]
fn a_container_has_one_address_of_each_family() {
    let mut leases = Leases::default();
    let rules = Rules { ula: pool::ula([1, 2, 3, 4, 5]), ..Rules::default() };
    let wanted = NetworkConfig { ipv6: true, ..config("a") };
    let state = leases.ensure_network(&wanted, &rules, &[]).unwrap();
    let subnets: Vec<String> =
        state.subnets.iter().map(|one| one.of_bridge().to_string()).collect();
    assert_eq!(subnets, ["172.20.0.1/24", "fd01:203:405::1/64"]);
    let first = leases.attach(&request("c", "a"), &rules).unwrap();
    let expect = AttachedV6 {
        address: net("fd01:203:405::2/64"),
        gateway: ip("fd01:203:405::1"),
        default_route: true,
        behind_gateway: Vec::new(),
    };
    assert_eq!(first.v6, Some(expect));
    assert_eq!(leases.attach(&request("c", "a"), &rules).unwrap(), first);
    // Its default route of IPv6 is the first that there is.
    let plain = config("plain");
    leases.ensure_network(&plain, &rules, &[]).unwrap();
    assert!(leases.attach(&request("d", "plain"), &rules).unwrap().is_way_out(Family::V4));
    let second = leases.attach(&request("d", "a"), &rules).unwrap();
    let v6 = second.v6.clone().unwrap();
    assert_eq!((second.is_way_out(Family::V4), v6.default_route), (false, true));
    assert_eq!(v6.address, net("fd01:203:405::3/64"));
    let names: BTreeSet<IpAddr> = second.ends().map(|end| end.address.addr()).collect();
    assert_eq!(names, [ip("172.20.0.3"), ip("fd01:203:405::3")].into());
    let wanting = |container: &str, network: &str, address: &str| AttachRequest {
        address_v6: Some(ip(address)),
        ..request(container, network)
    };
    let mut refused = |request: AttachRequest, expect: &str| {
        assert_eq!(leases.attach(&request, &rules).unwrap_err().to_string(), expect);
    };
    let text = "address fd01:203:405::1 of network `a` is held by the gateway";
    refused(wanting("e", "a", "fd01:203:405::1"), text);
    let text = "address fd01:203:405::2 of network `a` is held by container `c`";
    refused(wanting("e", "a", "fd01:203:405::2"), text);
    let text = "address fd00::7 is no usable address of network `a` (fd01:203:405::/64)";
    refused(wanting("e", "a", "fd00::7"), text);
    let text = "address fd00::7 is asked for on network `plain`, which has no IPv6";
    refused(wanting("e", "plain", "fd00::7"), text);
    let text = "container `c` is on network `a` with address fd01:203:405::2 already";
    refused(wanting("c", "a", "fd01:203:405::9"), text);
}

/// A network of IPv6 alone, and one of IPv4 alone beside it.
#[test]
fn a_container_has_no_address_of_a_family_that_the_network_lacks() {
    let mut leases = book(&["plain"]);
    let rules = Rules { ula: pool::ula([1, 2, 3, 4, 5]), ..Rules::default() };
    let six = NetworkConfig { ipv6: true, without_v4: true, ..config("six") };
    let state = leases.ensure_network(&six, &rules, &[]).unwrap();
    let subnets: Vec<String> =
        state.subnets.iter().map(|one| one.of_bridge().to_string()).collect();
    assert_eq!(subnets, ["fd01:203:405::1/64"]);
    let first = leases.attach(&request("c", "six"), &rules).unwrap();
    assert_eq!(ends(&first), [end("fd01:203:405::2/64", "fd01:203:405::1", true)]);
    assert_eq!(leases.attach(&request("c", "six"), &rules).unwrap(), first);
    let wanted = AttachRequest { address: Some(ip("10.0.0.7")), ..request("d", "six") };
    for container in ["c", "d"] {
        let wanted = AttachRequest { container: container.to_owned(), ..wanted.clone() };
        let text = match container {
            "c" => "container `c` is on network `six` with address fd01:203:405::2 already",
            _ => "address 10.0.0.7 is asked for on network `six`, which has no IPv4",
        };
        assert_eq!(leases.attach(&wanted, &rules).unwrap_err().to_string(), text);
    }
    // What is published everywhere is so by the family that there is.
    let local = PublishedPort { host_ip: ip("127.0.0.1"), ..port(80, 80) };
    let error = leases.publish("c", &[local], &rules, free).unwrap_err().to_string();
    let text = "port 127.0.0.1:80->80/tcp is asked for at an address of IPv4, and container `c` has no network with \
         IPv4 that leads out";
    assert_eq!(error, text);
    let six = PublishedPort { host_ip: ip("::"), ..port(81, 80) };
    leases.publish("c", &[port(80, 80), six], &rules, free).unwrap();
    let to = |leases: &Leases, family| -> Vec<Option<IpAddr>> {
        leases.published_to(family).map(|(_, _, to)| to).collect()
    };
    assert_eq!(to(&leases, Family::V4), [None, None]);
    assert_eq!(to(&leases, Family::V6), [Some(ip("fd01:203:405::2")); 2]);
    // Its way out of the other family is by another network, whichever goes.
    let second = leases.attach(&request("c", "plain"), &rules).unwrap();
    assert_eq!(ends(&second), [end("172.20.0.2/24", "172.20.0.1", true)]);
    assert_eq!(to(&leases, Family::V4), [Some(ip("172.20.0.2")); 2]);
    leases.finish("c", "plain");
    leases.detach("c", "six");
    assert_eq!((leases.attachments("c"), leases.unfinished().count()), (vec![second], 0));
}

#[test]
fn a_network_has_subnets_of_its_families_alone_and_one_of_them() {
    let of = |ipv6, without_v4, text: Option<&str>| {
        let subnets = text.map(subnet).into_iter().collect();
        let config = NetworkConfig { ipv6, without_v4, subnets, ..config("n") };
        let state = Leases::default().ensure_network(&config, &Rules::default(), &[]);
        let families = |state: NetworkState| state.subnets.iter().map(Subnet::family).collect();
        state.map(families).map_err(|error| error.to_string())
    };
    let (v4, v6) = (Some("10.9.0.0/24"), Some("fd00:9::/64"));
    let lacks = |family: &str, net: &str| {
        let text = format!(
            "network `n` has a subnet of {family}, {net}, and {family} is not enabled on it"
        );
        Err(text)
    };
    let neither = "network `n` has neither IPv4 nor IPv6: expected one of them";
    let cases = [
        ((false, false, v4), Ok(vec![Family::V4])),
        ((false, false, v6), lacks("IPv6", "fd00:9::/64")),
        ((true, false, v6), Ok(vec![Family::V4, Family::V6])),
        ((true, true, v6), Ok(vec![Family::V6])),
        ((true, true, None), Ok(vec![Family::V6])),
        ((true, true, v4), lacks("IPv4", "10.9.0.0/24")),
        ((false, true, None), Err(neither.to_owned())),
    ];
    for (case, expected) in cases {
        assert_eq!(of(case.0, case.1, case.2), expected, "{case:?}");
    }
}

/// Those of IPv4 as they have always been: neighbours remember them, and so do frames on the way.
#[test]
fn whoever_gets_an_address_gets_its_hardware_address() {
    for (address, expected) in [
        ("172.20.0.2", "02:73:ac:14:00:02"),
        ("fd01:203:405::2", "06:01:02:03:04:fa"),
        ("fd01:203:405::1:2", "06:01:02:02:04:fa"),
    ] {
        assert_eq!(Mac::of_address(ip(address)).to_string(), expected, "{address}");
    }
}

proptest! {
    /// Neighbours in a subnet of IPv6 are told apart on its bridge.
    #[test]
    fn addresses_that_differ_in_their_last_40_bits_differ_in_hardware(
        network: u64, one in 0..1_u128 << 40, other in 0..1_u128 << 40,
    ) {
        let mac = |last| Mac::of_address(Ipv6Addr::from_bits(u128::from(network) << 64 | last).into());
        prop_assert_eq!(mac(one) == mac(other), one == other);
        prop_assert_eq!(mac(one).0[0], 0x06, "locally administered, of one station");
    }
}

#[test]
fn addresses_come_from_all_subnets_of_a_network() {
    let mut leases = Leases::default();
    let subnets = vec![subnet("10.0.0.0/30"), subnet("10.9.0.0/29")];
    let wanted = NetworkConfig { subnets, ..config("a") };
    leases.ensure_network(&wanted, &Rules::default(), &[]).unwrap();
    let mut attach = |container: &str| {
        let attached = leases.attach(&request(container, "a"), &Rules::default())?;
        let v4 = attached.v4.unwrap();
        Ok::<_, LeaseError>((v4.address.to_string(), v4.gateway.to_string()))
    };
    let expect = |address: &str, gateway: &str| Ok((address.to_owned(), gateway.to_owned()));
    assert_eq!(attach("c"), expect("10.0.0.2/30", "10.0.0.1"));
    for (container, last) in [("d", 2), ("e", 3), ("f", 4), ("g", 5), ("h", 6)] {
        assert_eq!(attach(container), expect(&format!("10.9.0.{last}/29"), "10.9.0.1"));
    }
    let text = "no free address on network `a` (10.0.0.0/30, 10.9.0.0/29)";
    assert_eq!(attach("i").unwrap_err().to_string(), text);
}

#[test]
fn a_full_range_refuses() {
    let mut leases = Leases::default();
    let only = SubnetConfig {
        ip_range: Some(net("10.0.0.0/30")),
        reserved: [ip("10.0.0.2")].into(),
        ..subnet("10.0.0.0/24")
    };
    let wanted = NetworkConfig { subnets: vec![only], ..config("a") };
    leases.ensure_network(&wanted, &Rules::default(), &[]).unwrap();
    let reserved = AttachRequest { address: Some(ip("10.0.0.2")), ..request("c", "a") };
    let error = leases.attach(&reserved, &Rules::default()).unwrap_err();
    let text = "address 10.0.0.2 of network `a` is held by a reservation";
    assert_eq!(error.to_string(), text);
    leases.attach(&request("c", "a"), &Rules::default()).unwrap();
    let error = leases.attach(&request("e", "a"), &Rules::default()).unwrap_err();
    assert_eq!(error.to_string(), "no free address on network `a` (10.0.0.0/30)");
}

#[test]
fn the_default_route_never_leads_into_an_internal_network() {
    let mut leases = book(&["out"]);
    let inner = NetworkConfig { internal: true, ..config("in") };
    leases.ensure_network(&inner, &Rules::default(), &[]).unwrap();
    assert!(!leases.attach(&request("c", "in"), &Rules::default()).unwrap().is_way_out(Family::V4));
    let error = leases.publish("c", &[port(80, 80)], &Rules::default(), free).unwrap_err();
    assert!(matches!(error, PublishError::Lease(LeaseError::NoWayIn { .. })), "{error}");
    assert!(leases.attach(&request("c", "out"), &Rules::default()).unwrap().is_way_out(Family::V4));
    leases.publish("c", &[port(80, 80)], &Rules::default(), free).unwrap();
}

#[test]
fn ports_at_addresses_of_ipv6_need_a_container_that_has_it() {
    let mut leases = book(&["a"]);
    let rules = Rules::default();
    let both = NetworkConfig { ipv6: true, ..config("b") };
    leases.ensure_network(&both, &rules, &[]).unwrap();
    for (container, network) in [("c", "a"), ("d", "b")] {
        leases.attach(&request(container, network), &rules).unwrap();
    }
    for host_ip in ["::", "fd00::7"].map(ip) {
        let wanted = [port(80, 80), PublishedPort { host_ip, ..port(81, 80) }];
        let error = leases.publish("c", &wanted, &rules, free).unwrap_err();
        let text = format!(
            "port [{host_ip}]:81->80/tcp is asked for at an address of IPv6, and container `c` has no network with \
             IPv6 that leads out"
        );
        assert_eq!((error.to_string(), leases.granted("c")), (text, &[][..]));
        assert_eq!(leases.publish("d", &wanted, &rules, free).unwrap(), wanted);
    }
}

#[test]
fn ports_are_granted_all_or_none() {
    let mut leases = book(&["a"]);
    let rules = Rules { ports: 40_000..=40_002, ..Rules::default() };
    for container in ["c", "d"] {
        leases.attach(&request(container, "a"), &rules).unwrap();
    }
    let wanted = [port(0, 80), port(40_000, 81)];
    let granted = leases.publish("c", &wanted, &rules, free).unwrap();
    // The named port is served first, the answer keeps the order of the request.
    assert_eq!(granted, [port(40_001, 80), port(40_000, 81)]);
    let never = |_: &PublishedPort| -> Result<(), Refusal<Infallible>> { unreachable!() };
    assert_eq!(leases.publish("c", &wanted, &rules, never).unwrap(), granted);

    let before = leases.clone();
    let mut refused = |wanted: &[PublishedPort], expect: &str| {
        let error = leases.publish("d", wanted, &rules, free).unwrap_err();
        assert_eq!(error.to_string(), expect);
        assert_eq!(leases.containers, before.containers);
    };
    refused(
        &[port(90, 1), port(40_000, 2)],
        "port already in use: 0.0.0.0:40000->2/tcp is published by container `c`",
    );
    refused(
        &[PublishedPort { host_ip: ip("127.0.0.1"), ..port(40_001, 2) }],
        "port already in use: 127.0.0.1:40001->2/tcp is published by container `c`",
    );
    refused(
        &[port(90, 1), port(90, 2)],
        "port 0.0.0.0:90->2/tcp is asked for twice by container `d`",
    );
    refused(&[port(90, 0)], "published port 0.0.0.0:90->0/tcp of container `d` has no target port");
    refused(&[port(0, 1), port(0, 2)], "no free tcp port between 40000 and 40002");
    // Another transport is another port.
    let udp = [PublishedPort { protocol: Protocol::Udp, ..port(40_000, 2) }];
    leases.publish("d", &udp, &rules, free).unwrap();
    assert_eq!(leases.unpublish("c"), granted);
    assert_eq!(leases.unpublish("c"), []);
}

#[test]
fn what_the_host_refuses_is_passed_on() {
    let mut leases = book(&["a"]);
    let rules = Rules { ports: 40_000..=40_002, ..Rules::default() };
    leases.attach(&request("c", "a"), &rules).unwrap();
    let taken = |port: &PublishedPort| {
        if port.host_port == 40_001 { Ok(()) } else { Err(Refusal::Taken("busy")) }
    };
    let granted = leases.publish("c", &[port(0, 80)], &rules, taken).unwrap();
    assert_eq!(granted, [port(40_001, 80)]);
    let error = leases.publish("c", &[port(99, 80)], &rules, taken).unwrap_err();
    assert_eq!(error, PublishError::Host { port: port(99, 80), refusal: "busy" });
    let hopeless = |_: &PublishedPort| Err(Refusal::Hopeless("no such address"));
    let error = leases.publish("c", &[port(0, 80)], &rules, hopeless).unwrap_err();
    assert_eq!(error, PublishError::Host { port: port(0, 80), refusal: "no such address" });
}

#[test]
fn only_the_living_are_retained() {
    let mut leases = book(&["a", "b", "c"]);
    let rules = Rules::default();
    for (container, network) in [("one", "a"), ("two", "b"), ("two", "a")] {
        leases.attach(&request(container, network), &rules).unwrap();
    }
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    leases.retain(&set(&["one"]), &set(&["c"]));
    assert_eq!(leases.ports().count(), 1);
    // `a` connects a container that lives, so it stays though nobody named it.
    let left: Vec<_> = leases.networks().map(|network| network.id.as_str()).collect();
    assert_eq!(left, ["a", "c"]);
}

#[test]
fn names_of_a_network() {
    let mut leases = book(&["a"]);
    for container in ["c", "d"] {
        let aliases = BTreeSet::from(["web".to_owned(), container.to_owned()]);
        let wanted = AttachRequest { aliases, ..request(container, "a") };
        leases.attach(&wanted, &Rules::default()).unwrap();
    }
    let names = leases.names("a");
    assert_eq!(names["web"], BTreeSet::from([ip("172.20.0.2"), ip("172.20.0.3")]));
    assert_eq!(names["c"], BTreeSet::from([ip("172.20.0.2")]));
    assert!(leases.names("b").is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Ensure(u8),
    RemoveNetwork(u8),
    Attach(u8, u8),
    Detach(u8, u8),
    Publish(u8, u8),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (network, container) = (0u8..4, 0u8..6);
    prop_oneof![
        network.clone().prop_map(Step::Ensure),
        network.clone().prop_map(Step::RemoveNetwork),
        (container.clone(), network.clone()).prop_map(|(c, n)| Step::Attach(c, n)),
        (container.clone(), network).prop_map(|(c, n)| Step::Detach(c, n)),
        (container.clone(), 0u8..3).prop_map(|(c, p)| Step::Publish(c, p)),
        container.prop_map(Step::Release),
    ]
}

fn again<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn nothing_is_held_twice(steps in prop::collection::vec(step(), 1..60)) {
        let rules = Rules { ports: 40_000..=40_003, ..Rules::default() };
        let mut leases = Leases::default();
        for step in steps {
            // Refusals are fine; what was granted must stay sound.
            let _ = match step {
                Step::Ensure(n) =>
                    leases.ensure_network(&config(&n.to_string()), &rules, &[]).is_ok(),
                Step::RemoveNetwork(n) => leases.remove_network(&n.to_string()).is_ok(),
                Step::Attach(c, n) =>
                    leases.attach(&request(&c.to_string(), &n.to_string()), &rules).is_ok(),
                Step::Detach(c, n) => leases.detach(&c.to_string(), &n.to_string()).is_some(),
                Step::Publish(c, p) => {
                    let wanted = [port([0, 40_000, 40_001][usize::from(p)], 80)];
                    leases.publish(&c.to_string(), &wanted, &rules, free).is_ok()
                }
                Step::Release(c) => !leases.release(&c.to_string()).is_empty(),
            };
            let ports: Vec<_> = leases.ports().collect();
            let addresses: BTreeSet<_> = ports.iter().map(|port| port.address_of(Family::V4)).collect();
            prop_assert_eq!(addresses.len(), ports.len());
            let ifnames: BTreeSet<_> = ports.iter().map(|port| &port.host_ifname).collect();
            prop_assert_eq!(ifnames.len(), ports.len());
            let inner: BTreeSet<_> =
                ports.iter().map(|port| (&port.container, &port.ifname)).collect();
            prop_assert_eq!(inner.len(), ports.len());
            let published: Vec<_> = leases.published().map(|(_, port)| *port).collect();
            for (at, one) in published.iter().enumerate() {
                prop_assert!(published[at + 1..].iter().all(|other| !one.collides(other)));
            }
            // What is read again is what was written.
            let again = Leases::restore(again(&leases.networks), again(&leases.containers));
            prop_assert_eq!(&again.networks, &leases.networks);
            prop_assert_eq!(&again.containers, &leases.containers);
        }
    }
}

/// Also where the first network was the way out, and another one is left: else it would reach nobody outside.
#[test]
fn the_way_out_goes_over_to_another_network_that_leads_out() {
    let mut leases = book(&["a", "b", "c"]);
    let internal = NetworkConfig { internal: true, ..config("in") };
    leases.ensure_network(&internal, &Rules::default(), &[]).unwrap();
    for network in ["in", "a", "b", "c"] {
        leases.attach(&request("x", network), &Rules::default()).unwrap();
        let of = || [("x".to_owned(), network.to_owned())];
        assert_eq!(leases.unfinished().collect::<Vec<_>>(), of());
        assert!(leases.finish("x", network) && !leases.finish("x", network));
    }
    let unfinished = |leases: &Leases| leases.unfinished().map(|of| of.1).collect::<Vec<_>>();
    let way_out = |leases: &Leases| {
        let all = leases.attachments("x").into_iter().filter(|one| one.is_way_out(Family::V4));
        all.map(|one| one.network).collect::<Vec<_>>()
    };
    assert_eq!(way_out(&leases), ["a"]);
    leases.detach("x", "c");
    assert_eq!(way_out(&leases), ["a"]);
    assert_eq!(unfinished(&leases), [] as [&str; 0]);
    assert!(leases.detach("x", "a").is_some_and(|gone| gone.is_way_out(Family::V4)));
    assert_eq!(way_out(&leases), ["b"]);
    assert_eq!(unfinished(&leases), ["b"], "the container does not know yet");
    leases.detach("x", "b");
    assert_eq!(unfinished(&leases), [] as [&str; 0]);
    assert_eq!(way_out(&leases), [] as [&str; 0], "the rest leads nowhere");
    leases.attach(&request("x", "c"), &Rules::default()).unwrap();
    assert_eq!(way_out(&leases), ["c"]);
}
