//! Choosing subnets and addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

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

/// The first subnet of the pools that overlaps none of `used`.
#[must_use]
pub fn choose_subnet(pools: &[AddressPool], used: &[Ipv4Net]) -> Option<Ipv4Net> {
    pools
        .iter()
        .filter_map(|pool| pool.base.subnets(pool.size).ok())
        .flatten()
        .find(|candidate| used.iter().all(|other| !overlap(candidate, other)))
}

/// Whether two networks share an address.
#[must_use]
pub fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first usable address of a subnet, `None` when it has no room for a gateway and one more
/// (a /31 or a /32).
#[must_use]
pub fn first_usable(subnet: &Ipv4Net) -> Option<Ipv4Addr> {
    (subnet.prefix_len() <= 30).then(|| next(subnet.network()))
}

/// Whether an address of the subnet can be given to an interface: neither the network's own nor
/// the broadcast address.
#[must_use]
pub fn is_usable(subnet: &Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

/// The next free address of `range` after `last`, going round once.
///
/// Not the lowest: an address just given back is the last to be given again, so that packets on
/// their way to its former holder do not reach a stranger.
#[must_use]
pub fn choose_address(
    subnet: &Ipv4Net,
    range: &Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let (low, high) = (range.network().to_bits(), range.broadcast().to_bits());
    let start = last
        .filter(|last| range.contains(last))
        .map_or(low, |last| if last.to_bits() == high { low } else { last.to_bits() + 1 });
    (start..=high)
        .chain(low..start)
        .map(Ipv4Addr::from_bits)
        .find(|address| is_usable(subnet, *address) && !taken.contains(address))
}

fn next(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_avoid_what_is_in_use() {
        let pools = default_pools();
        let check = |used: &[&str], expect: &str| {
            let used: Vec<_> = used.iter().map(|text| net(text)).collect();
            assert_eq!(choose_subnet(&pools, &used), Some(net(expect)), "{used:?}");
        };
        check(&[], "172.20.0.0/24");
        check(&["172.20.0.0/24"], "172.20.1.0/24");
        check(&["172.20.0.128/25"], "172.20.1.0/24");
        check(&["172.20.0.0/16"], "172.21.0.0/24");
        check(&["10.0.0.0/8", "172.20.1.0/24"], "172.20.0.0/24");
    }

    #[test]
    fn an_exhausted_pool_gives_nothing() {
        let pools = [AddressPool { base: net("10.1.0.0/23"), size: 24 }];
        assert_eq!(choose_subnet(&pools, &[net("10.1.0.0/24"), net("10.1.1.7/32")]), None);
        let inverted = [AddressPool { base: net("10.1.0.0/24"), size: 16 }];
        assert_eq!(choose_subnet(&inverted, &[]), None);
    }

    #[test]
    fn addresses_go_round() {
        let subnet = net("10.0.0.0/29");
        let taken = BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.3")]);
        let check = |last: Option<&str>, expect: &str| {
            let chosen = choose_address(&subnet, &subnet, &taken, last.map(ip));
            assert_eq!(chosen, Some(ip(expect)), "{last:?}");
        };
        check(None, "10.0.0.2");
        check(Some("10.0.0.2"), "10.0.0.4");
        check(Some("10.0.0.6"), "10.0.0.2");
        check(Some("10.0.0.7"), "10.0.0.2");
        check(Some("192.168.0.1"), "10.0.0.2");
    }

    #[test]
    fn first_usable_addresses() {
        assert_eq!(first_usable(&net("10.0.0.0/24")), Some(ip("10.0.0.1")));
        assert_eq!(first_usable(&net("10.0.0.4/30")), Some(ip("10.0.0.5")));
        assert_eq!(first_usable(&net("10.0.0.4/31")), None);
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
                    Ipv4Net::new_assert(address, len).trunc()
                })
                .collect();
            if let Some(chosen) = choose_subnet(&default_pools(), &used) {
                for other in &used {
                    // Independent judge: compare the ranges as numbers.
                    let apart = chosen.broadcast() < other.network()
                        || other.broadcast() < chosen.network();
                    prop_assert!(apart, "{chosen} and {other}");
                }
            }
        }

        #[test]
        fn every_address_is_given_before_one_is_refused(len in 24u8..=30, start in any::<u8>()) {
            let subnet = Ipv4Net::new_assert(ip("10.9.8.0"), len);
            let mut taken = BTreeSet::new();
            let mut last = Some(Ipv4Addr::new(10, 9, 8, start));
            while let Some(address) = choose_address(&subnet, &subnet, &taken, last) {
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), subnet.hosts().count());
        }
    }
}
