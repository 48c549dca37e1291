//! Bridges of others that a host forwards packets for.
//!
//! A host that did not forward before does it for containers alone. Somebody who comes later (Docker,
//! libvirt, Podman, another agent) finds forwarding switched on, and nothing tells the kernel that it
//! needs it, too. What can be seen is its bridge: one that has an address of the host and no wire
//! among its ports leads to guests whose only way out is the host. A bridge with a wire is the host's
//! own connection, and needs nobody who forwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::links::{LinkKind, ObservedLink};
use super::names;

/// A bridge of somebody else with guests behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest {
    /// Name of the bridge.
    pub bridge: String,
    /// What the host's addresses on it belong to.
    pub subnets: BTreeSet<IpNet>,
}

/// The guests of a host whose links are `observed`; `prefix` is of the agent's own.
#[must_use]
pub fn of(observed: &BTreeMap<String, ObservedLink>, prefix: &str) -> BTreeSet<Guest> {
    let wired: BTreeSet<&str> = observed
        .values()
        .filter(|link| link.kind == LinkKind::Other)
        .filter_map(|link| link.bridge.as_deref())
        .collect();
    let is_guest = |name: &str, link: &ObservedLink| {
        link.kind == LinkKind::Bridge
            && !names::is_ours(prefix, name)
            && can_be_quoted(name)
            && link.addresses.iter().any(is_for_others)
            && !wired.contains(name)
    };
    observed
        .iter()
        .filter(|(name, link)| is_guest(name, link))
        .map(|(name, link)| {
            let subnets = link.addresses.iter().copied().filter(is_for_others);
            Guest { bridge: name.clone(), subnets: subnets.collect() }
        })
        .collect()
}

/// Whether nft(8) takes a name in quotes for just this one. The kernel lets links have names that end the quotes, or
/// that stand for others; one of them would have every change of the tables refused.
fn can_be_quoted(name: &str) -> bool {
    !name.contains(['"', '\\', '*'])
}

/// Whether an address is more than one that every link of IPv6 gives itself.
fn is_for_others(address: &IpNet) -> bool {
    match address.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: LinkKind, bridge: Option<&str>, addresses: &[&str]) -> ObservedLink {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let bridge = bridge.map(str::to_owned);
        ObservedLink { up: true, bridge, addresses, ..ObservedLink::plain(kind) }
    }

    #[test]
    fn who_forwards_for_whom_is_seen_by_bridges() {
        let observed = [
            ("docker0", link(LinkKind::Bridge, None, &["172.17.0.1/16"])),
            ("vethabc", link(LinkKind::Veth, Some("docker0"), &[])),
            (
                "virbr0",
                link(LinkKind::Bridge, None, &["192.168.122.1/24", "fd00:7::1/64", "fe80::1/64"]),
            ),
            ("vnet0", link(LinkKind::Tap, Some("virbr0"), &[])),
            // The host's own way out.
            ("br0", link(LinkKind::Bridge, None, &["10.0.0.5/24"])),
            ("eth0", link(LinkKind::Other, Some("br0"), &[])),
            ("vnet1", link(LinkKind::Tap, Some("br0"), &[])),
            // Nobody's gateway.
            ("br1", link(LinkKind::Bridge, None, &[])),
            ("br2", link(LinkKind::Bridge, None, &["fe80::1/64"])),
            // What no rule can name.
            ("br\"", link(LinkKind::Bridge, None, &["10.8.0.1/24"])),
            ("br*", link(LinkKind::Bridge, None, &["10.7.0.1/24"])),
            ("wg0", link(LinkKind::Other, None, &["10.9.0.1/24"])),
            ("shb0000000000", link(LinkKind::Bridge, None, &["172.20.0.1/24"])),
        ];
        let observed = observed.map(|(name, link)| (name.to_owned(), link)).into();
        let found = of(&observed, "sh");
        let names: Vec<&str> = found.iter().map(|guest| guest.bridge.as_str()).collect();
        assert_eq!(names, ["docker0", "virbr0"]);
        let subnets = &found.first().unwrap().subnets;
        assert_eq!(*subnets, BTreeSet::from(["172.17.0.1/16".parse().unwrap()]));
        let both = ["192.168.122.1/24", "fd00:7::1/64"].map(|text| text.parse().unwrap());
        assert_eq!(found.last().unwrap().subnets, both.into());
    }
}
