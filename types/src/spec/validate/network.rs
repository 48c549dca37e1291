//! Rules for networks.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::cluster::SUBNET_LENGTHS;
use super::{Check, service};
use crate::spec::{IpamConfig, NetworkKind, NetworkSpec};

pub(super) fn network(c: &mut Check, spec: &NetworkSpec) {
    c.name(&spec.name);
    service::labels(c, &spec.labels);
    if let Some(ipam) = &spec.ipam {
        c.at("ipam", |c| c.each("config", &ipam.config, subnet));
        if NetworkKind::of(&spec.driver) == Some(NetworkKind::Overlay) {
            c.at("ipam", |c| c.each("config", &ipam.config, overlay));
        }
    }
}

/// What holds of a network that spans nodes: each has the first address, and its containers the others.
fn overlay(c: &mut Check, config: &IpamConfig) {
    let Ok(IpNet::V4(net)) = config.subnet.parse::<IpNet>() else { return };
    let [least, most] = SUBNET_LENGTHS;
    c.at("subnet", |c| {
        let expected = format!("is too large or too small: expected a length of {least} to {most}");
        c.that((least..=most).contains(&net.prefix_len()), net, &expected);
    });
    let first = net.hosts().next();
    let given = config.gateway.parse::<Ipv4Addr>().ok().filter(|given| net.contains(given));
    if let (Some(first), Some(gateway)) = (first, given.filter(|given| Some(*given) != first)) {
        let expected =
            format!("is not the first address of {net}: expected {first}, as each node has it");
        c.at("gateway", |c| c.wrong(gateway, expected));
    }
}

fn subnet(c: &mut Check, config: &IpamConfig) {
    let Ok(net) = config.subnet.parse::<IpNet>() else {
        c.at("subnet", |c| c.wrong(&config.subnet, "is not a subnet: expected ADDRESS/LENGTH"));
        return;
    };
    if net.addr() != net.network() {
        c.at("subnet", |c| c.wrong(net, format!("has host bits set: expected {}", net.trunc())));
    }
    let inside = |c: &mut Check, name: &str, text: &str| {
        let ok = text.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip));
        c.at(name, |c| c.that(ok, text, &format!("is not an address in {net}")));
    };
    if !config.gateway.is_empty() {
        inside(c, "gateway", &config.gateway);
    }
    for (name, address) in &config.aux_addresses {
        inside(c, &format!("aux_addresses.{name}"), address);
    }
    if !config.ip_range.is_empty() {
        let ok = config.ip_range.parse::<IpNet>().is_ok_and(|range| net.contains(&range));
        c.at("ip_range", |c| c.that(ok, &config.ip_range, &format!("is not a subnet of {net}")));
    }
}
