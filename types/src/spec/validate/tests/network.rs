//! Networks.

use crate::spec::{Driver, Ipam, IpamConfig, MTU_OPTION, NetworkScope, NetworkSpec};

/// Subnets of a network, with or without IPv6: what is wrong with them, beside what cannot be done yet.
#[test]
fn what_is_said_of_addresses_is_checked() {
    let config = |subnet: &str, ip_range: &str, gateway: &str, aux: &str| IpamConfig {
        subnet: subnet.to_owned(),
        ip_range: ip_range.to_owned(),
        gateway: gateway.to_owned(),
        aux_addresses: (!aux.is_empty())
            .then(|| ("a".to_owned(), aux.to_owned()))
            .into_iter()
            .collect(),
    };
    let one = |range, gateway, aux| (false, vec![config("10.1.0.0/24", range, gateway, aux)]);
    let two = |one, other| (true, vec![config(one, "", "", ""), config(other, "", "", "")]);
    let six = |subnet| (true, vec![config(subnet, "", "", "")]);
    let many = (0..1025).map(|n| (format!("h{n}"), format!("10.{}.{}.9", n / 256, n % 256)));
    let many = IpamConfig { aux_addresses: many.collect(), ..config("10.0.0.0/8", "", "", "") };
    let cases = [
        (one("10.1.0.0/28", "10.1.0.9", "10.1.0.8"), ""),
        (
            one("10.2.0.0/28", "", ""),
            "ipam.config[0].ip_range: \"10.2.0.0/28\" is not a subnet of 10.1.0.0/24",
        ),
        (
            one("10.1.0.1/32", "", ""),
            "ipam.config[0].ip_range: \"10.1.0.1/32\" leaves no address to containers",
        ),
        (one("10.1.0.7/32", "", "10.1.0.7"), "ip_range: \"10.1.0.7/32\" leaves no address"),
        (
            one("", "", "10.3.0.7"),
            "ipam.config[0].aux_addresses.a: \"10.3.0.7\" is not an address in 10.1.0.0/24",
        ),
        (one("", "", "x"), "aux_addresses.a: \"x\" is not an address in"),
        (
            (false, vec![many]),
            "ipam.config[0].aux_addresses: \"1025\" are too many: expected at most 1024",
        ),
        (
            (false, vec![config("fd00::/64", "", "", "")]),
            "ipam.config[0].subnet: \"fd00::/64\" is IPv6, which the network has not: expected enable_ipv6",
        ),
        (six("fd00::/64"), ""),
        (six("2001:db8::/112"), ""),
        (
            six("fe80::/64"),
            "\"fe80::/64\" is for no network: expected a subnet of fc00::/7 or 2000::/3",
        ),
        (six("::ffff:10.0.0.0/104"), "is for no network"),
        (six("fd00::1/64"), "has host bits set: expected fd00::/64"),
        (two("10.1.0.0/24", "10.2.0.0/24"), ""),
        (
            two("10.1.0.0/24", "10.1.0.128/25"),
            "ipam.config[1].subnet: \"10.1.0.128/25\" overlaps 10.1.0.0/24",
        ),
    ];
    for ((enable_ipv6, config), expected) in cases {
        let ipam = Some(Ipam { driver: Driver::default(), config });
        let spec = NetworkSpec { name: "n".to_owned(), enable_ipv6, ipam, ..Default::default() };
        let found = spec.validate().err().map_or_else(Vec::new, |violations| violations.0);
        let found = found.iter().map(ToString::to_string);
        // Beside what is not there yet.
        let found: Vec<_> = found.filter(|text| !text.contains("not supported yet")).collect();
        let fine =
            if expected.is_empty() { found.is_empty() } else { found.join(" ").contains(expected) };
        assert!(fine, "{:?}: {found:?}, not {expected}", spec.ipam);
    }
}

#[test]
fn what_spans_nodes_has_a_subnet_that_can_be_shared() {
    let spec = |driver: &str, subnet: &str, gateway: &str| {
        let driver = Driver { name: driver.to_owned(), ..Driver::default() };
        let config = IpamConfig {
            subnet: subnet.to_owned(),
            gateway: gateway.to_owned(),
            ..Default::default()
        };
        let ipam = Some(Ipam { driver: Driver::default(), config: vec![config] });
        NetworkSpec { name: "n".to_owned(), driver, ipam, ..Default::default() }
    };
    let overlay = |subnet, gateway| {
        let result = spec("overlay", subnet, gateway).validate();
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for subnet in ["10.1.0.0/31", "10.1.0.0/32", "0.0.0.0/7"] {
        let error = overlay(subnet, "");
        assert!(error.contains("too large or too small: expected a length of 8 to 30"), "{error}");
        assert_eq!(spec("bridge", subnet, "").validate(), Ok(()));
    }
    assert_eq!(overlay("10.1.0.0/24", "10.1.0.9"), "");
    assert_eq!(overlay("10.1.0.0/24", "10.1.0.1"), "");
    assert_eq!(spec("bridge", "10.1.0.0/24", "10.1.0.9").validate(), Ok(()));
}

#[test]
fn a_network_has_one_family_of_addresses_at_least_and_subnets_of_its_own() {
    let of = |enable_ipv4, enable_ipv6, subnet: &str| {
        let config = IpamConfig { subnet: subnet.to_owned(), ..Default::default() };
        let config = if subnet.is_empty() { Vec::new() } else { vec![config] };
        let ipam = Some(Ipam { driver: Driver::default(), config });
        let spec = NetworkSpec {
            name: "n".to_owned(),
            enable_ipv4,
            enable_ipv6,
            ipam,
            ..Default::default()
        };
        spec.validate().err().map(|error| error.to_string()).unwrap_or_default()
    };
    let neither = "enable_ipv4: \"false\" leaves the network without addresses: expected enable_ipv6 beside it";
    let no_v4 = "ipam.config[0].subnet: \"10.1.0.0/24\" is IPv4, which the network has not: expected one of IPv6, or \
         enable_ipv4";
    for (enable_ipv4, enable_ipv6, subnet, expected) in [
        (None, false, "", ""),
        (Some(true), false, "10.1.0.0/24", ""),
        (Some(false), true, "", ""),
        (Some(false), true, "fd00::/64", ""),
        (Some(false), false, "", neither),
        (Some(false), true, "10.1.0.0/24", no_v4),
    ] {
        assert_eq!(of(enable_ipv4, enable_ipv6, subnet), expected, "{enable_ipv4:?} {subnet}");
    }
}

#[test]
fn networks_that_no_node_can_make_are_refused_at_once() {
    let named = || NetworkSpec { name: "n".to_owned(), ..Default::default() };
    let ipam = |options: &[&str]| {
        let option = |name: &&str| ((*name).to_owned(), "1".to_owned());
        let driver = Driver { options: options.iter().map(option).collect(), ..Driver::default() };
        NetworkSpec { ipam: Some(Ipam { driver, config: Vec::new() }), ..named() }
    };
    let scoped = |scope| NetworkSpec { scope: Some(scope), ..named() };
    let of = |driver: &str, scope| {
        let driver = Driver { name: driver.to_owned(), ..Driver::default() };
        NetworkSpec { driver, scope, ..named() }
    };
    let across = |scope| of("overlay", scope);
    let narrow = |enable_ipv6| {
        let options = [("parent", "eth0"), (MTU_OPTION, "1279")];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let driver = Driver { name: "ipvlan".to_owned(), options };
        NetworkSpec { driver, enable_ipv6, ..named() }
    };
    let cases = [
        (ipam(&["foo"]), "ipam.driver.options: not supported yet: driver options"),
        (scoped(NetworkScope::Swarm), "scope: not supported yet: a scope other than the driver's"),
        (scoped(NetworkScope::Global), "scope: not supported yet: a scope other than the driver's"),
        (across(Some(NetworkScope::Local)), "scope: not supported yet: a scope other than"),
        (
            of("weave", None),
            "driver: \"weave\" is not supported yet: expected bridge, overlay, macvlan or ipvlan",
        ),
        (
            of("host", None),
            "driver: \"host\" is not supported yet: expected bridge, overlay, macvlan or ipvlan",
        ),
        (of("macvlan", None), "driver.options.parent: is no interface: expected the one of"),
        (
            narrow(true),
            "driver.options.com.docker.network.driver.mtu: \"1279\" is too small for IPv6: expected 1280 bytes at least",
        ),
    ];
    for (spec, expected) in cases {
        let error = spec.validate().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let overlays = [across(None), across(Some(NetworkScope::Swarm)), narrow(false)];
    for fine in [named(), ipam(&[]), scoped(NetworkScope::Local)].into_iter().chain(overlays) {
        assert_eq!(fine.validate(), Ok(()));
    }
}
