//! The addresses of services (VIPs), and who stands behind each.
//!
//! A packet from a container to such an address goes to the chain `pick_N` of the number of its backends,
//! which draws one of N slots; a slot's address is an element. So a change of one service costs its own
//! elements, and chains do not grow with services: there is one for each number of slots up to
//! [`EXACT_MAX`], and one for each larger power of two, in which backends have several slots each.
//!
//! The same chains draw for ports that answer on every node: for what has come by the mesh, which has the
//! host's address in the tunnel, and for what asks the host by any other address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Ruleset, SetName, Word};
use crate::network::Family;

/// Backends, by the address of their service, which is of the same family. One without any is refused at once.
pub type Vips = BTreeMap<IpAddr, Vec<IpAddr>>;

/// Which backends of which service's address there are no more.
#[must_use]
pub fn withdrawn(before: &Vips, now: &Vips) -> BTreeSet<(IpAddr, IpAddr)> {
    let mut gone = BTreeSet::new();
    for (vip, backends) in before {
        let left = now.get(vip);
        if left == Some(backends) {
            continue;
        }
        let left: BTreeSet<&IpAddr> = left.into_iter().flatten().collect();
        gone.extend(backends.iter().filter(|one| !left.contains(one)).map(|one| (*vip, *one)));
    }
    gone
}

/// Up to so many backends, each has one slot.
const EXACT_MAX: usize = 64;
/// The most slots: their number is one of 16 bits.
const SLOTS_MAX: usize = 1 << 15;
/// Above [`EXACT_MAX`] a backend has this many slots at least: one is drawn at most an eighth more
/// often than another.
const SHARE: usize = 8;

/// How many slots so many backends have.
pub(super) fn slots_of(backends: usize) -> usize {
    if backends <= EXACT_MAX {
        backends
    } else {
        backends.saturating_mul(SHARE).next_power_of_two().min(SLOTS_MAX)
    }
}

/// Numbers of slots that there is a chain for.
fn sizes() -> impl Iterator<Item = usize> {
    let smallest = slots_of(EXACT_MAX + 1);
    let large = std::iter::successors(Some(smallest), |size| Some(size * 2));
    (1..=EXACT_MAX).chain(large.take_while(|size| *size <= SLOTS_MAX))
}

pub(super) fn chain(slots: usize) -> String {
    format!("pick_{slots}")
}

/// The chains that draw.
pub(super) fn chains() -> String {
    let mut text = String::new();
    for size in sizes() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  chain {} {{
    dnat $ip to $ip daddr . numgen random mod {size} map @backends$6
    dnat $ip to $ip daddr . meta l4proto . th dport . numgen random mod {size} map @arrival_slots$6
    dnat $ip to meta l4proto . th dport . numgen random mod {size} map @ingress_slots$6
  }}",
            chain(size)
        );
    }
    text
}

impl Ruleset {
    /// Those of networks that are on this host, whose bridge `bridge_of` says. They lead somewhere for
    /// who comes by that bridge, and for nobody else: what was led once counts as let in.
    pub(super) fn add_vips(&mut self, vips: &Vips, bridge_of: impl Fn(IpAddr) -> Option<String>) {
        for (vip, backends) in vips {
            let Some(bridge) = bridge_of(*vip) else { continue };
            let (key, family) = (|| Word::Bare(vip.to_string()), Family::of(*vip));
            if backends.is_empty() {
                self.add_of(family, SetName::Idle, vec![key()], vec![]);
                continue;
            }
            let slots = slots_of(backends.len());
            let at = vec![Word::Name(bridge), key()];
            self.add_of(family, SetName::Vips, at, vec![Word::Goto(chain(slots))]);
            for (slot, backend) in (0..slots).zip(backends.iter().cycle()) {
                let slot = Word::Number(u16::try_from(slot).unwrap_or(u16::MAX));
                self.add_of(
                    family,
                    SetName::Backends,
                    vec![key(), slot],
                    vec![Word::Bare(backend.to_string())],
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_withdrawn() {
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let before = Vips::from([(at(1), vec![at(2), at(3)]), (at(4), vec![at(5)])]);
        let now = Vips::from([(at(1), vec![at(3), at(6)])]);
        assert_eq!(withdrawn(&before, &now), [(at(1), at(2)), (at(4), at(5))].into());
        assert_eq!(withdrawn(&now, &now), BTreeSet::new());
    }

    #[test]
    fn there_is_a_chain_for_every_number_of_backends() {
        let sizes: BTreeSet<usize> = sizes().collect();
        assert_eq!(sizes.len(), EXACT_MAX + 6);
        for backends in 1..5000 {
            let slots = slots_of(backends);
            assert!(sizes.contains(&slots), "{backends}: {slots}");
            let (fewest, most) = (slots / backends, slots.div_ceil(backends));
            assert!(fewest >= 1 && (backends <= EXACT_MAX || backends > 4096 || fewest >= SHARE));
            assert!(most - fewest <= 1);
        }
    }
}
