//! What follows from a host's own containers and networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::element::{Collector, Word};
use super::{HostFacts, SetName};
use crate::network::leases::Leases;
use crate::network::{Attached, Family, NetworkState, Subnet};
use crate::tunnel::Side;

pub(super) fn add(own: &mut Collector, leases: &Leases, host: &HostFacts) {
    add_networks(own, leases, &host.prefix);
    add_ports(own, leases);
    add_holders(own, leases);
}

/// What the host has that the tables have to know; nothing where they are empty.
pub(super) fn add_host(own: &mut Collector, host: &HostFacts) {
    for address in &host.on_no_wire {
        let family = Family::of(*address);
        own.add_of(family, SetName::Anywhere, vec![Word::Address(*address)], vec![]);
    }
    let for_us = host.forwards_for_us || (host.v6 && host.forwards_v6_for_us);
    for guest in host.guests.iter().filter(|_| for_us) {
        own.add(SetName::Guests, vec![Word::Name(guest.clone())], vec![]);
    }
}

fn add_networks(own: &mut Collector, leases: &Leases, prefix: &str) {
    for network in leases.networks() {
        let bridge = || Word::Name(network.bridge.clone());
        own.add(SetName::Bridges, vec![bridge()], vec![]);
        own.add(SetName::SameBridge, vec![bridge(), bridge()], vec![]);
        if network.routed {
            add_tunnels(own, prefix);
        }
        if network.internal {
            own.add(SetName::Internal, vec![bridge()], vec![]);
        }
        own.add(SetName::HeldMacs, vec![Word::Mac(network.mac())], vec![]);
        for one in &network.subnets {
            add_subnet(own, network, one);
        }
    }
}

/// Both interfaces, whether or not there are two now: what comes by either is judged alike at any moment.
pub(super) fn add_tunnels(own: &mut Collector, prefix: &str) {
    for side in Side::ALL {
        own.add(SetName::Tunnels, vec![Word::Name(side.ifname(prefix))], vec![]);
    }
}

fn add_subnet(own: &mut Collector, network: &NetworkState, one: &Subnet) {
    let family = one.family();
    let word = |net: &Subnet| Word::Prefix(net.subnet.network(), net.subnet.prefix_len());
    let bridge = || Word::Name(network.bridge.clone());
    own.add_of(family, SetName::Lan, vec![word(one), bridge()], vec![]);
    own.add_of(family, SetName::Inside, vec![word(one)], vec![]);
    if family == Family::V4 {
        own.add(SetName::HeldAddresses, vec![Word::Address(one.gateway)], vec![]);
    }
    if network.routed {
        for other in network.of_family(family) {
            own.add_of(family, SetName::Across, vec![word(one), word(other)], vec![]);
        }
    }
    if network.internal {
        let gateway = Word::Address(one.gateway);
        own.add_of(family, SetName::Gateways, vec![bridge(), gateway], vec![]);
    } else {
        own.add_of(family, SetName::Subnets, vec![word(one)], vec![]);
    }
}

fn add_ports(own: &mut Collector, leases: &Leases) {
    for family in Family::ALL {
        for (_, port, target) in leases.published_to(family) {
            let Some(target) = target else { continue };
            let to = vec![Word::Address(target), Word::Port(port.target_port)];
            let service = [Word::Protocol(port.protocol), Word::Port(port.host_port)];
            let unspecified = on_all(family);
            if port.answers_at(unspecified) {
                own.add_of(family, SetName::PublishedAny, service.to_vec(), to);
            } else if Family::of(port.host_ip) == family {
                let at = Word::Address(port.host_ip);
                let at = [vec![at], service.to_vec()].concat();
                own.add_of(family, SetName::PublishedAt, at, to);
            }
        }
    }
}

/// Each container may use each of its addresses on each of its ports: which way a packet
/// leaves is its routes' affair.
fn add_holders(own: &mut Collector, leases: &Leases) {
    let mut containers: BTreeMap<&str, Vec<&Attached>> = BTreeMap::new();
    for attached in leases.ports() {
        containers.entry(&attached.container).or_default().push(attached);
    }
    for attachments in containers.values() {
        for attached in attachments {
            own.add(SetName::HeldMacs, vec![Word::Mac(attached.mac)], vec![]);
            let port = || Word::Name(attached.host_ifname.clone());
            match attached.address_of(Family::V4) {
                Some(address) => {
                    own.add(SetName::HeldAddresses, vec![Word::Address(address)], vec![]);
                }
                // Nobody speaks IPv4 there.
                None => own.add(SetName::Strict, vec![port()], vec![]),
            }
            let who = vec![port(), Word::Mac(attached.mac)];
            for end in attachments.iter().flat_map(|other| other.ends()) {
                speak(own, &who, end.address.addr());
            }
            if attached.v6.is_some() {
                speak(own, &who, attached.mac.link_local().into());
            }
            own.add(SetName::OwnMacs, who, vec![]);
            for end in attached.ends().filter(|end| !end.behind_gateway.is_empty()) {
                own.add(SetName::Strict, vec![port()], vec![]);
                let one = || Word::Address(end.address.addr());
                let family = Family::of(end.gateway);
                own.add_of(family, SetName::Selves, vec![one(), one()], vec![]);
            }
        }
    }
}

/// It is said by who speaks so by a bridge port.
fn speak(own: &mut Collector, who: &[Word], address: IpAddr) {
    let key = [who, &[Word::Address(address)]].concat();
    own.add_of(Family::of(address), SetName::Own, key, vec![]);
    if let IpAddr::V6(address) = address
        && own.has_v6()
    {
        own.add(SetName::Targets, [who, &[Word::Raw(address)]].concat(), vec![]);
    }
}

/// All addresses of one family.
fn on_all(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
