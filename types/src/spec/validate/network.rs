//! Rules for networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use super::cluster::SUBNET_LENGTHS;
use super::{Check, service};
use crate::spec::{
    IpamConfig, MTU_MIN_V6, MTU_OPTION, NetworkKind, NetworkSpec, SubnetPlan, Wire, WireProblem,
    overlap,
};

/// Prefix lengths of IPv6 subnets of networks that span nodes: one larger than what a site is given has no use
/// (RFC 6177), one smaller has no address beside that of the nodes.
const SUBNET_LENGTHS_6: [u8; 2] = [48, 126];

/// How many addresses a subnet can reserve.
const RESERVED_MAX: usize = 1024;

pub(super) fn network(c: &mut Check, spec: &NetworkSpec) {
    c.name(&spec.name);
    service::labels(c, &spec.labels);
    if !spec.has_ipv4() && !spec.enable_ipv6 {
        let text = "leaves the network without addresses: expected enable_ipv6 beside it";
        c.at("enable_ipv4", |c| c.wrong(false, text));
    }
    if let Some(ipam) = &spec.ipam {
        c.at("ipam", |c| c.each("config", &ipam.config, subnet));
        c.at("ipam", |c| c.each("config", &ipam.config, |c, config| family(c, spec, config)));
        c.at("ipam", |c| c.at("config", |c| apart(c, &ipam.config)));
        if NetworkKind::of(&spec.driver).is_some_and(NetworkKind::spans_nodes) {
            c.at("ipam", |c| c.each("config", &ipam.config, overlay));
        }
    }
    match Wire::of(&spec.driver) {
        Some(Err(problems)) => {
            for WireProblem { option, value, problem } in problems {
                c.at(format!("driver.options.{option}"), |c| c.wrong(value, problem));
            }
        }
        Some(Ok(Wire { mtu: Some(mtu), .. })) => {
            let fits = !spec.enable_ipv6 || mtu >= MTU_MIN_V6;
            let expected = format!("is too small for IPv6: expected {MTU_MIN_V6} bytes at least");
            c.at(format!("driver.options.{MTU_OPTION}"), |c| c.that(fits, mtu, &expected));
        }
        Some(Ok(Wire { mtu: None, .. })) | None => {}
    }
}

/// A subnet is of a family that the network has. Docker leaves out one of IPv6 where that is not enabled.
fn family(c: &mut Check, spec: &NetworkSpec, config: &IpamConfig) {
    let Ok(net) = config.subnet.parse::<IpNet>() else { return };
    let (enabled, expected) = match net {
        IpNet::V4(_) => (
            spec.has_ipv4(),
            "is IPv4, which the network has not: expected one of IPv6, or enable_ipv4",
        ),
        IpNet::V6(_) => {
            (spec.enable_ipv6, "is IPv6, which the network has not: expected enable_ipv6 beside it")
        }
    };
    c.at("subnet", |c| c.that(enabled, net, expected));
}

/// No address is in two of the subnets.
fn apart(c: &mut Check, configs: &[IpamConfig]) {
    let subnets: Vec<Option<IpNet>> = configs.iter().map(|c| c.subnet.parse().ok()).collect();
    for (i, subnet) in subnets.iter().enumerate() {
        let Some(subnet) = subnet else { continue };
        if let Some(other) = subnets.iter().take(i).flatten().find(|other| overlap(other, subnet)) {
            let text = format!("overlaps {other}: expected subnets of their own");
            c.at(format!("[{i}].subnet"), |c| c.wrong(subnet, text));
        }
    }
}

/// What holds of a network that spans nodes: each has an address of a subnet, and its containers the others.
fn overlay(c: &mut Check, config: &IpamConfig) {
    let Ok(net) = config.subnet.parse::<IpNet>() else { return };
    let [least, most] = if matches!(net, IpNet::V4(_)) { SUBNET_LENGTHS } else { SUBNET_LENGTHS_6 };
    c.at("subnet", |c| {
        let expected = format!("is too large or too small: expected a length of {least} to {most}");
        c.that((least..=most).contains(&net.prefix_len()), net, &expected);
    });
}

fn subnet(c: &mut Check, config: &IpamConfig) {
    let Ok(net) = config.subnet.parse::<IpNet>() else {
        c.at("subnet", |c| c.wrong(&config.subnet, "is not a subnet: expected ADDRESS/LENGTH"));
        return;
    };
    if net.addr() != net.network() {
        c.at("subnet", |c| c.wrong(net, format!("has host bits set: expected {}", net.trunc())));
    }
    if let IpNet::V6(net) = net {
        let expected = "is for no network: expected a subnet of fc00::/7 or 2000::/3";
        c.at("subnet", |c| c.that(is_for_networks(&net), net, expected));
    }
    let inside = |c: &mut Check, name: &str, text: &str| {
        let ok = text.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip));
        c.at(name, |c| c.that(ok, text, &format!("is not an address in {net}")));
        ok
    };
    let mut fine = config.gateway.is_empty() || inside(c, "gateway", &config.gateway);
    for (name, address) in &config.aux_addresses {
        fine &= inside(c, &format!("aux_addresses.{name}"), address);
    }
    c.at("aux_addresses", |c| {
        let count = config.aux_addresses.len();
        let expected = format!("are too many: expected at most {RESERVED_MAX} addresses");
        c.that(count <= RESERVED_MAX, count, &expected);
    });
    let range = &config.ip_range;
    if !range.is_empty() {
        let inside = range.parse::<IpNet>().is_ok_and(|range| net.contains(&range));
        c.at("ip_range", |c| c.that(inside, range, &format!("is not a subnet of {net}")));
        fine &= inside;
    }
    let limited = !range.is_empty() || !config.aux_addresses.is_empty();
    if fine && limited && SubnetPlan::of(net, Some(config)).is_none() {
        let field = if range.is_empty() { "aux_addresses" } else { "ip_range" };
        let value =
            if range.is_empty() { config.aux_addresses.len().to_string() } else { range.clone() };
        let expected = "leaves no address to containers: expected one beside the subnet's own, the gateway, the last \
             one and those that are reserved";
        c.at(field, |c| c.wrong(value, expected));
    }
}

/// Whether addresses of a subnet are those of single interfaces: unique local ones (RFC 4193), or global unicast ones
/// that are given out (RFC 4291 2.4).
fn is_for_networks(net: &Ipv6Net) -> bool {
    let within = |prefix: [u16; 8], length| {
        Ipv6Net::new(prefix.into(), length).is_ok_and(|all| all.contains(net))
    };
    within([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7) || within([0x2000, 0, 0, 0, 0, 0, 0, 0], 3)
}
