//! The checksum of IP, TCP and UDP (RFC 1071): the sum of 16-bit words in ones' complement.
//!
//! Words are read as this machine has them, not as the wire does: the sum comes out in the same order, so it is
//! written the same way, and nothing is turned around.

/// Adds bytes to a sum. Only the last piece of what is summed may have an odd length.
#[must_use]
pub(crate) fn sum(bytes: &[u8], start: u64) -> u64 {
    let mut lanes = [0_u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(word.try_into().map_or(0, u32::from_ne_bytes));
        }
    }
    let mut total = lanes.iter().fold(start, |total, lane| add(total, *lane));
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total = add(total, u64::from(word.try_into().map_or(0, u16::from_ne_bytes)));
    }
    if let [last] = words.remainder() {
        total = add(total, u64::from(u16::from_ne_bytes([*last, 0])));
    }
    total
}

fn add(left: u64, right: u64) -> u64 {
    let (total, carried) = left.overflowing_add(right);
    total + u64::from(carried)
}

/// A number of the wire as a part of a sum.
#[must_use]
pub(crate) fn word(value: u16) -> u64 {
    u64::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// What takes a number of the wire away from a sum.
#[must_use]
pub(crate) fn without(value: u16) -> u64 {
    u64::from(!u16::from_ne_bytes(value.to_be_bytes()))
}

/// A sum as the two bytes of the wire, not yet complemented.
#[must_use]
pub(crate) fn fold(total: u64) -> [u8; 2] {
    let mut total = (total >> 32) + (total & 0xffff_ffff);
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    u16::try_from(total).unwrap_or(u16::MAX).to_ne_bytes()
}

/// The checksum that belongs to a sum.
#[must_use]
pub(crate) fn of(total: u64) -> [u8; 2] {
    fold(total).map(|byte| !byte)
}

/// Whether a sum over everything, its checksum included, says that nothing has changed.
#[must_use]
pub(crate) fn is_whole(total: u64) -> bool {
    fold(total) == [0xff, 0xff]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 has it, word by word.
    fn plainly(bytes: &[u8]) -> [u8; 2] {
        let mut total = 0_u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap().to_be_bytes()
    }

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), [0xdd, 0xf2]);
        assert_eq!(of(sum(&bytes, 0)), [0x22, 0x0d]);
    }

    proptest! {
        #[test]
        fn it_is_the_sum_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(sum(&bytes, 0)), plainly(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..100,
        ) {
            let (left, right) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(right, sum(left, 0))), plainly(&bytes));
        }

        #[test]
        fn what_was_added_can_be_taken_away(
            bytes in prop::collection::vec(1_u8.., 1..200), value in any::<u16>(),
        ) {
            let total = sum(&bytes, 0);
            prop_assert_eq!(fold(total + word(value) + without(value)), fold(total));
        }
    }
}
