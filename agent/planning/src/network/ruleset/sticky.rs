//! Clients who are led to the same backend each time, as long as it is there.
//!
//! Which slot a client has follows from a hash of his address, the same on every node; which backend has a slot, from
//! all of them alone, so that no node has to remember anything. By Maglev's method (Eisenbud et al., NSDI 2016, 3.4):
//! each backend has its own order of all slots, and they take turns in taking the first one that is free. When one
//! goes, six in seven of the others keep their slots at least, and nearly all where there are few.

use std::ops::Range;

/// Slots, by how many backends there are at the most. So many for each that shares differ little, and of so few sizes
/// that they hardly ever change, which leads nearly every client to another backend.
const SIZES: [(usize, u32); 3] = [(16, 256), (128, 2048), (usize::MAX, 1 << 15)];
/// Nobody else's hash, by its odd number: "shoa" in ASCII.
const SEED: u32 = 0x7368_6f61;

/// The rules that find the backend of a client: which one of a size has numbers that no other has.
pub(super) fn rules(rule: &str, map: &str) -> String {
    let of_size = |(_, size): &(usize, u32)| {
        format!(
            "    {rule} . jhash $ip saddr mod {size} seed {SEED:#x} offset {size} map @{map}$6\n"
        )
    };
    SIZES.iter().map(of_size).collect()
}

/// The numbers of the slots among so many backends.
pub(super) fn slots(backends: usize) -> Range<u32> {
    let size = SIZES.iter().find(|(most, _)| backends <= *most).map_or(1 << 15, |(_, size)| *size);
    size..2 * size
}

/// How many slots all services have together at the most, of one family, and all ports: a listing of the tables that
/// has them all has some 50 MiB, and more than 64 are not read. Who comes behind them, in the order of addresses and of
/// ports, is as one without affinity.
pub const VIP_SLOTS_MAX: usize = 1 << 17;
/// The same of ports, of which each is in two maps.
pub const PORT_SLOTS_MAX: usize = 1 << 16;

/// How many slots so many backends have.
#[must_use]
pub fn count(backends: usize) -> usize {
    if backends == 0 { 0 } else { slots(backends).len() }
}

/// Which of these backends has each slot, by what tells each from all others, on whichever node. More than there are
/// slots get none.
pub(super) fn holders(names: &[Vec<u8>]) -> Vec<usize> {
    let size = slots(names.len()).len();
    let mask = size as u64 - 1;
    // Odd steps come by all slots, whose number is a power of two.
    let mut orders: Vec<(&Vec<u8>, usize, u64, u64)> = names
        .iter()
        .enumerate()
        .map(|(backend, name)| (name, backend, hash(name, 0), hash(name, 1) | 1))
        .collect();
    // In whatever order they are told of.
    orders.sort_unstable();
    let mut holders = vec![usize::MAX; size];
    let mut left = size;
    while left > 0 && !names.is_empty() {
        for (_, backend, next, step) in orders.iter_mut().take(left) {
            let free = loop {
                let slot = usize::try_from(*next & mask).unwrap_or_default();
                *next = next.wrapping_add(*step);
                if let Some(holder @ &mut usize::MAX) = holders.get_mut(slot) {
                    break holder;
                }
            };
            *free = *backend;
            left -= 1;
        }
    }
    holders
}

/// FNV-1a with the end of MurmurHash3, which mixes the bits that FNV leaves in order.
fn hash(name: &[u8], salt: u8) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.iter().chain([&salt]) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: impl IntoIterator<Item = u32>) -> Vec<Vec<u8>> {
        all.into_iter().map(|n| n.to_be_bytes().to_vec()).collect()
    }

    #[test]
    fn shares_are_alike() {
        for backends in [1, 2, 3, 7, 16, 17, 128, 129, 1000] {
            let holders = holders(&names(0..backends));
            let mut shares = vec![0; backends as usize];
            holders.iter().for_each(|holder| shares[*holder] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{backends}: {least} to {most}");
        }
    }

    /// Whose backend is still there keeps it, but for a seventh at the most.
    #[test]
    fn few_clients_move_when_a_backend_goes() {
        for backends in [2, 3, 10, 16, 100] {
            let all: Vec<u32> = (0..backends).collect();
            let before = holders(&names(all.clone()));
            for gone in [0, backends / 2, backends - 1] {
                let left: Vec<u32> = all.iter().copied().filter(|one| *one != gone).collect();
                let now = holders(&names(left.clone()));
                let kept = before.iter().zip(&now).filter(|(was, is)| all[**was] == left[**is]);
                let lost = before.iter().filter(|was| all[**was] == gone).count();
                let moved = before.len() - kept.count() - lost;
                assert!(moved * 7 <= before.len(), "{backends} without {gone}: {moved} moved");
            }
        }
    }

    #[test]
    fn the_order_does_not_matter() {
        let (one, other) = (names(0..20), names((0..20).rev()));
        let of = |names: &[Vec<u8>]| -> Vec<Vec<u8>> {
            holders(names).into_iter().map(|holder| names[holder].clone()).collect()
        };
        assert_eq!(of(&one), of(&other));
    }

    #[test]
    fn nobody_has_slots_where_there_are_no_backends() {
        assert!(holders(&[]).iter().all(|holder| *holder == usize::MAX));
    }
}
