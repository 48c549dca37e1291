//! Choosing subnets and addresses.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use shoal_types::object::{HOST_SUBNETS_MAX, HostSubnet};
use shoal_types::spec::overlap;

/// A range of addresses from which networks without a subnet of their own get one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    /// The whole range.
    pub base: Ipv4Net,
    /// Prefix length of each subnet taken from it.
    pub size: u8,
}

/// The pool of a node that is not told otherwise: 1,024 networks of 253 containers.
#[must_use]
pub fn default_pools() -> Vec<AddressPool> {
    let base = Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 14);
    vec![AddressPool { base, size: 24 }]
}

/// The prefix of a node with these random bits (RFC 4193, 3.1).
#[must_use]
pub fn ula(random: [u8; 5]) -> Ipv6Net {
    let [a, b, c, d, e] = random;
    let address = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ipv6Net::new_assert(address, 48)
}

/// The first subnet of the pools that overlaps none of `used`.
#[must_use]
pub fn choose_subnet(pools: &[AddressPool], used: &[IpNet]) -> Option<Ipv4Net> {
    pools
        .iter()
        .filter_map(|pool| pool.base.subnets(pool.size).ok())
        .flatten()
        .find(|one| used.iter().all(|other| !overlap(&IpNet::from(*one), other)))
}

/// The first subnet of 64 bits of the node's own prefix (RFC 4193) that overlaps none of `used`.
#[must_use]
pub fn choose_v6_subnet(ula: &Ipv6Net, used: &[IpNet]) -> Option<Ipv6Net> {
    let mut candidates = ula.subnets(64).ok()?;
    candidates.find(|one| used.iter().all(|other| !overlap(&IpNet::from(*one), other)))
}

/// Whether a route for so many addresses says only where a host sends what it has no better way for: a default route, or
/// the parts that it is cut into, as with `0.0.0.0/1` and `128.0.0.0/1`, or `2000::/3`.
#[must_use]
pub fn leads_anywhere(subnet: &IpNet) -> bool {
    // All of a private range (RFC 1918, 3; RFC 4193, 3.1) is somewhere.
    subnet.prefix_len() < if subnet.addr().is_ipv4() { 8 } else { 7 }
}

/// What is told of ranges that a host uses: each that no other one contains, and that is of no loopback interface. Of
/// more than are told, the largest ones.
#[must_use]
pub fn largest(mut used: Vec<HostSubnet>) -> Vec<HostSubnet> {
    let bits = |net: &IpNet| net.max_prefix_len() - net.prefix_len();
    used.sort_by_cached_key(|one| (Reverse(bits(&one.subnet)), one.subnet, one.interface.clone()));
    let mut told: Vec<HostSubnet> = Vec::new();
    for one in used {
        let is_known = told.iter().any(|known| known.overlaps(&one.subnet));
        if told.len() < HOST_SUBNETS_MAX && !is_known && !one.subnet.network().is_loopback() {
            told.push(one);
        }
    }
    told
}

/// The first usable address of a subnet, `None` when it has no room for a gateway and one more
/// (a /31 or a /32 of IPv4).
#[must_use]
pub fn first_usable(subnet: &IpNet) -> Option<IpAddr> {
    let room = subnet.max_prefix_len() - subnet.prefix_len() >= 2;
    let first = bits(subnet.network()).wrapping_add(1);
    room.then(|| of_bits(subnet.network(), first))
}

/// Whether an address of the subnet can be given to an interface: neither the network's own (which is all
/// routers' in IPv6: RFC 4291, 2.6.1) nor the broadcast address of IPv4.
#[must_use]
pub fn is_usable(subnet: &IpNet, address: IpAddr) -> bool {
    let is_broadcast = address.is_ipv4() && address == subnet.broadcast();
    subnet.contains(&address) && address != subnet.network() && !is_broadcast
}

/// The next free address after `last` in the ranges of these subnets, all of one family, going round once.
///
/// Not the lowest: an address just given back is the last to be given again, so that packets on
/// their way to its former holder do not reach a stranger.
#[must_use]
pub fn choose_address(
    subnets: &[(IpNet, IpNet)],
    taken: &BTreeSet<IpAddr>,
    last: Option<IpAddr>,
) -> Option<IpAddr> {
    let ends = |range: &IpNet| (bits(range.network()), bits(range.broadcast()));
    let at =
        last.and_then(|last| Some((subnets.iter().position(|(_, r)| r.contains(&last))?, last)));
    let (first, start) = match at {
        None => (0, None),
        Some((at, last)) => (at, Some(bits(last))),
    };
    let turned = subnets.iter().cycle().skip(first).take(subnets.len());
    let whole = turned.enumerate().map(|(n, (subnet, range))| {
        let (low, high) = ends(range);
        // An address that is the last of its range has nobody behind it.
        let low = start.filter(|_| n == 0).map_or(low, |last| last.saturating_add(1));
        (subnet, low, high)
    });
    let rest =
        subnets.get(first).zip(start).map(|((subnet, range), last)| (subnet, ends(range).0, last));
    whole
        .chain(rest)
        .flat_map(|(subnet, low, high)| {
            (low..=high).map(move |n| (subnet, of_bits(subnet.addr(), n)))
        })
        .find(|(subnet, address)| is_usable(subnet, *address) && !taken.contains(address))
        .map(|(_, address)| address)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of the same family as `like` with these bits.
fn of_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        // More bits than an address of IPv4 has are none of its.
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_avoid_what_is_in_use() {
        let pools = default_pools();
        let check = |used: &[&str], expect: &str| {
            let used: Vec<_> = used.iter().map(|text| net(text)).collect();
            assert_eq!(choose_subnet(&pools, &used), Some(v4(expect)), "{used:?}");
        };
        check(&[], "172.20.0.0/24");
        check(&["172.20.0.0/24"], "172.20.1.0/24");
        check(&["172.20.0.128/25"], "172.20.1.0/24");
        check(&["172.20.0.0/16"], "172.21.0.0/24");
        check(&["10.0.0.0/8", "172.20.1.0/24"], "172.20.0.0/24");
    }

    #[test]
    fn an_exhausted_pool_gives_nothing() {
        let pools = [AddressPool { base: v4("10.1.0.0/23"), size: 24 }];
        assert_eq!(choose_subnet(&pools, &[net("10.1.0.0/24"), net("10.1.1.7/32")]), None);
        let inverted = [AddressPool { base: v4("10.1.0.0/24"), size: 16 }];
        assert_eq!(choose_subnet(&inverted, &[]), None);
    }

    #[test]
    fn addresses_go_round() {
        let subnet = net("10.0.0.0/29");
        let taken = BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.3")]);
        let check = |last: Option<&str>, expect: &str| {
            let chosen = choose_address(&[(subnet, subnet)], &taken, last.map(ip));
            assert_eq!(chosen, Some(ip(expect)), "{last:?}");
        };
        check(None, "10.0.0.2");
        check(Some("10.0.0.2"), "10.0.0.4");
        check(Some("10.0.0.6"), "10.0.0.2");
        check(Some("10.0.0.7"), "10.0.0.2");
        check(Some("192.168.0.1"), "10.0.0.2");
    }

    #[test]
    fn addresses_go_round_all_subnets() {
        let (one, other) = (net("10.0.0.0/30"), net("10.9.0.0/29"));
        let subnets = [(one, one), (other, net("10.9.0.4/30"))];
        let taken = BTreeSet::from([ip("10.0.0.1"), ip("10.9.0.5")]);
        let check = |last: Option<&str>, expect: &str| {
            let chosen = choose_address(&subnets, &taken, last.map(ip));
            assert_eq!(chosen, Some(ip(expect)), "{last:?}");
        };
        check(None, "10.0.0.2");
        check(Some("10.0.0.2"), "10.9.0.4");
        check(Some("10.9.0.4"), "10.9.0.6");
        check(Some("10.9.0.6"), "10.0.0.2");
        let all = taken.iter().copied().chain([ip("10.0.0.2"), ip("10.9.0.4"), ip("10.9.0.6")]);
        assert_eq!(choose_address(&subnets, &all.collect(), Some(ip("10.9.0.4"))), None);
        let wide = net("fd00:1::/64");
        let of = |last: Option<&str>| {
            choose_address(&[(wide, wide)], &[ip("fd00:1::1")].into(), last.map(ip))
        };
        assert_eq!(of(None), Some(ip("fd00:1::2")));
        assert_eq!(of(Some("fd00:1::ff")), Some(ip("fd00:1::100")));
        assert_eq!(of(Some("fd00:1::ffff:ffff:ffff:ffff")), Some(ip("fd00:1::2")));
    }

    #[test]
    fn a_node_has_a_prefix_for_its_networks_of_ipv6() {
        let ula = "fd12:3456:789a::/48".parse().unwrap();
        let of = |used: &[&str]| {
            let used: Vec<_> = used.iter().map(|text| net(text)).collect();
            choose_v6_subnet(&ula, &used).map(|subnet| subnet.to_string())
        };
        assert_eq!(of(&["10.0.0.0/8"]).unwrap(), "fd12:3456:789a::/64");
        assert_eq!(of(&["fd12:3456:789a::/64"]).unwrap(), "fd12:3456:789a:1::/64");
        assert_eq!(of(&["fd00::/8"]), None);
    }

    #[test]
    fn what_leads_nearly_everywhere_is_no_subnet_of_the_host() {
        for (text, expected) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("10.0.0.0/8", false),
            ("::/0", true),
            ("2000::/3", true),
            ("fc00::/7", false),
        ] {
            assert_eq!(leads_anywhere(&net(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_largest_ranges_are_told_each_once() {
        let used = |texts: &[(&str, &str)]| -> Vec<HostSubnet> {
            let one = |(subnet, by): &(&str, &str)| HostSubnet {
                subnet: net(subnet),
                interface: (*by).to_owned(),
            };
            texts.iter().map(one).collect()
        };
        let (tables, expected) = (
            used(&[
                ("127.0.0.0/8", "lo"),
                ("192.0.2.7/32", "eth0"),
                ("192.0.2.0/24", "eth1"),
                ("192.0.2.0/24", "eth0"),
                ("10.0.0.0/8", ""),
                ("10.3.0.0/16", "vpn"),
                ("fd00:1::/64", "eth0"),
                ("::1/128", "lo"),
            ]),
            used(&[("fd00:1::/64", "eth0"), ("10.0.0.0/8", ""), ("192.0.2.0/24", "eth0")]),
        );
        assert_eq!(largest(tables), expected);
        let many = |n: u32| HostSubnet {
            subnet: IpNet::new(Ipv4Addr::from_bits(n << 8).into(), 24).unwrap(),
            interface: String::new(),
        };
        let mut all: Vec<HostSubnet> = (1..1000).map(many).collect();
        all.extend(used(&[("192.168.0.0/16", "eth0")]));
        let told = largest(all);
        assert_eq!(told.len(), HOST_SUBNETS_MAX);
        assert_eq!(told.first().map(|one| one.interface.as_str()), Some("eth0"));
    }

    #[test]
    fn first_usable_addresses() {
        assert_eq!(first_usable(&net("10.0.0.0/24")), Some(ip("10.0.0.1")));
        assert_eq!(first_usable(&net("10.0.0.4/30")), Some(ip("10.0.0.5")));
        assert_eq!(first_usable(&net("10.0.0.4/31")), None);
        assert_eq!(first_usable(&net("fd00::/64")), Some(ip("fd00::1")));
        assert_eq!(first_usable(&net("fd00::/127")), None);
    }

    proptest! {
        #[test]
        fn a_chosen_subnet_overlaps_nothing(
            used in prop::collection::vec((any::<u16>(), 16u8..=32), 0..40),
        ) {
            let used: Vec<_> = used
                .into_iter()
                .map(|(low, len)| {
                    let address = Ipv4Addr::from_bits(0xac14_0000 | (u32::from(low) << 2));
                    IpNet::from(Ipv4Net::new_assert(address, len).trunc())
                })
                .collect();
            if let Some(chosen) = choose_subnet(&default_pools(), &used) {
                for other in &used {
                    // Independent judge: compare the ranges as numbers.
                    let apart = IpAddr::from(chosen.broadcast()) < other.network()
                        || other.broadcast() < IpAddr::from(chosen.network());
                    prop_assert!(apart, "{chosen} and {other}");
                }
            }
        }

        #[test]
        fn every_address_is_given_before_one_is_refused(len in 24u8..=30, start in any::<u8>()) {
            let subnet = IpNet::from(Ipv4Net::new_assert([10, 9, 8, 0].into(), len));
            let mut taken = BTreeSet::new();
            let mut last = Some(IpAddr::from([10, 9, 8, start]));
            while let Some(address) = choose_address(&[(subnet, subnet)], &taken, last) {
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), subnet.hosts().count());
        }
    }
}
