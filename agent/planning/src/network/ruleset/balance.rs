//! The addresses of services (VIPs), and who stands behind each.
//!
//! A packet from a container to such an address goes to the chain `pick_vip`, which draws one of the slots of that
//! address; a slot is an element of a map, and so a change of one service costs its own elements, and chains do not
//! grow with services. Nothing in the kernel looks at the elements of other services meanwhile, as it would if these
//! elements led to chains: then it follows each of them anew to see that no way leads round in a circle.
//!
//! How many slots an address has stands nowhere in the kernel. They are numbered from the power of two that is not
//! less than their count, so that no number belongs to two sizes: the chain tries one size after the other, and what
//! is drawn is there in one size alone. Of the numbers of a size at most half are free; who draws one of these draws
//! again, and after [`TRIES`] draws among those that are never free.
//!
//! Chains like it draw for ports that answer on every node: for what has come by the mesh, which has the host's
//! address in the tunnel, and for what asks the host by any other address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::sticky;

/// Services of networks that span hosts, by their address. Clones share what they have in common.
pub type Vips = OrdMap<IpAddr, Vip>;

/// What leads to the tasks of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vip {
    /// Where they are, by addresses of the same family. Without any, who asks is refused at once.
    pub backends: Arc<[IpAddr]>,
    /// Each client is led to the same one each time.
    pub sticky: bool,
}

impl From<Vec<IpAddr>> for Vip {
    fn from(backends: Vec<IpAddr>) -> Self {
        Self { backends: backends.into(), sticky: false }
    }
}

/// Which backends of which service's address there are no more.
#[must_use]
pub fn withdrawn(before: &Vips, now: &Vips) -> BTreeSet<(IpAddr, IpAddr)> {
    let mut gone = BTreeSet::new();
    for difference in before.diff(now) {
        let (vip, before, left) = match difference {
            DiffItem::Add(..) => continue,
            DiffItem::Remove(vip, before) => (vip, before, &[][..]),
            DiffItem::Update { old: (vip, before), new: (_, now) } => (vip, before, &*now.backends),
        };
        let left: BTreeSet<&IpAddr> = left.iter().collect();
        let of_vip = before.backends.iter().filter(|one| !left.contains(one));
        gone.extend(of_vip.map(|one| (*vip, *one)));
    }
    gone
}

/// The most slots, which are numbered by 16 bits. More backends than these are not drawn.
const SIZE_MAX: u32 = 1 << 15;
/// How often one of the slots of a size is drawn before the lower half, which is never free. In half of the draws at
/// most there is none: so one backend is drawn at most a tenth more often than another.
const TRIES: usize = 4;

/// The slots of so many backends, the first for the first of them.
pub(super) fn slots(backends: usize) -> Range<u32> {
    let count = u32::try_from(backends).unwrap_or(SIZE_MAX).min(SIZE_MAX);
    let size = count.next_power_of_two();
    size..size + count
}

/// What is drawn of each size, one after the other: among how many, and from which on.
fn draws() -> impl Iterator<Item = (u32, u32)> {
    let sizes = (0..=SIZE_MAX.ilog2()).map(|power| 1 << power);
    sizes.flat_map(|size| {
        // One and two are always whole.
        let again = if size > 2 { TRIES } else { 1 };
        let lower = (size > 2).then_some((size / 2, size));
        std::iter::repeat_n((size, size), again).chain(lower)
    })
}

/// The chains that draw, with a `$` where families differ: for addresses of services, for what comes by the mesh, and
/// for ports of the host. Those beside them look up what a client has had before.
pub(super) fn chains() -> String {
    let uses = [
        ("vip", "dnat $ip to $ip daddr", "backends", "$ip daddr @sticky_vips$6"),
        (
            "arrival",
            "dnat $ip to $ip daddr . meta l4proto . th dport",
            "arrival_slots",
            "meta l4proto . th dport @sticky_ports$6",
        ),
        (
            "port",
            "dnat $ip to meta l4proto . th dport",
            "ingress_slots",
            "meta l4proto . th dport @sticky_ports$6",
        ),
    ];
    let mut text = String::new();
    for (chain, rule, map, is_sticky) in uses {
        let sticks = sticky::rules(rule, map);
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "  chain stick_{chain}$6 {{\n{sticks}  }}\n  chain pick_{chain}$6 {{");
        let _ = writeln!(text, "    {is_sticky} goto stick_{chain}$6");
        for (among, from) in draws() {
            let drawn = format!("numgen random mod {among} offset {from}");
            let _ = writeln!(text, "    {rule} . {drawn} map @{map}$6");
        }
        text += "  }\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_withdrawn() {
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let before = Vips::from(vec![(at(1), vec![at(2), at(3)]), (at(4), vec![at(5)])]);
        let now = Vips::from(vec![(at(1), vec![at(3), at(6)])]);
        assert_eq!(withdrawn(&before, &now), [(at(1), at(2)), (at(4), at(5))].into());
        assert_eq!(withdrawn(&now, &now), BTreeSet::new());
    }

    /// As the kernel draws: by each rule in turn, until one finds something.
    #[test]
    fn every_backend_is_drawn_about_as_often_as_another() {
        for backends in (1..300).chain([4095, 4096, 4097, 20_000, 40_000]) {
            let slots = slots(backends);
            assert_eq!(slots.len(), backends.min(SIZE_MAX as usize));
            let (mut shares, mut left) = (vec![0.0; slots.len()], 1.0);
            for (among, from) in draws() {
                let mut found = 0.0;
                for drawn in from..from + among {
                    if slots.contains(&drawn) {
                        let share = left / f64::from(among);
                        shares[(drawn - slots.start) as usize] += share;
                        found += share;
                    }
                }
                left -= found;
            }
            assert!(left.abs() < 1e-9, "{backends}: {left} find nobody");
            let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
            let most = shares.iter().copied().fold(0.0, f64::max);
            assert!(most / least < 1.1, "{backends}: {least} to {most}");
        }
    }
}
