//! Typed identifiers: 128 random bits, written as 25 base-36 characters as Docker's swarm objects are.

use std::fmt;
use std::str::FromStr;

/// Characters in the written form: the fewest base-36 digits that hold 128 bits.
pub const ID_LEN: usize = 25;

/// Where fresh ids come from. An argument wherever ids are made, so that decisions repeat exactly.
pub trait IdSource {
    /// The next 128 bits; must not repeat within a cluster's life.
    fn next_bits(&mut self) -> u128;

    /// The next id of the kind wanted.
    fn next_id<T: From<u128>>(&mut self) -> T
    where
        Self: Sized,
    {
        T::from(self.next_bits())
    }
}

/// A reproducible [`IdSource`] for tests and simulation: SplitMix64 over a seed, twice per id.
#[derive(Debug, Clone)]
pub struct SeededIds(u64);

impl SeededIds {
    /// A source whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next_half(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdSource for SeededIds {
    fn next_bits(&mut self) -> u128 {
        (u128::from(self.next_half()) << 64) | u128::from(self.next_half())
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {kind} id: expected {ID_LEN} characters of 0-9 and a-z")]
pub struct InvalidId {
    /// What was being parsed, such as `node`.
    pub kind: &'static str,
    /// The refused text.
    pub value: String,
}

fn write_base36(mut bits: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [b'0'; ID_LEN];
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(bits % 36) as usize];
        bits /= 36;
    }
    text.iter().try_for_each(|b| fmt::Write::write_char(f, char::from(*b)))
}

fn parse_base36(text: &str) -> Option<u128> {
    if text.len() != ID_LEN || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    text.chars()
        .try_fold(0u128, |acc, c| acc.checked_mul(36)?.checked_add(u128::from(c.to_digit(36)?)))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $kind:literal;)*) => {$(
        $(#[$doc])*
        // Aligned as its halves: whatever stands beside millions of ids is padded less.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(Rust, packed(8))]
        pub struct $name(u128);

        impl $name {
            /// The raw bits.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }
        }

        impl From<u128> for $name {
            fn from(bits: u128) -> Self {
                Self(bits)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base36(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base36(self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_base36(text)
                    .map(Self)
                    .ok_or_else(|| InvalidId { kind: $kind, value: text.to_owned() })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )*};
}

ids! {
    /// A cluster; also the organisation in every certificate of it.
    ClusterId "cluster";
    /// A node; also the common name in its certificate.
    NodeId "node";
    /// A user; also the common name in a user's certificate.
    UserId "user";
    /// A service.
    ServiceId "service";
    /// A task: one attempt to fill one slot on one node.
    TaskId "task";
    /// One rollout of one spec version of a service.
    DeploymentId "deployment";
    /// A network.
    NetworkId "network";
    /// A volume.
    VolumeId "volume";
    /// A secret.
    SecretId "secret";
    /// A config.
    ConfigId "config";
    /// A stack.
    StackId "stack";
    /// One connection of an agent to a manager.
    SessionId "session";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_survives_its_written_form() {
        let mut ids = SeededIds::new(7);
        for bits in [0, 1, u128::MAX, ids.next_bits(), ids.next_bits()] {
            let id = TaskId::from(bits);
            assert_eq!(id.to_string().len(), ID_LEN);
            assert_eq!(id.to_string().parse::<TaskId>(), Ok(id));
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let too_big = "z".repeat(ID_LEN);
        for text in ["", "abc", "0000000000000000000000000", "000000000000000000000000A", &too_big]
        {
            let parsed = text.parse::<NodeId>();
            assert_eq!(parsed.is_ok(), text.bytes().all(|b| b == b'0') && text.len() == ID_LEN);
        }
    }

    #[test]
    fn order_of_ids_is_order_of_their_text() {
        let (a, b) = (ServiceId::from(35), ServiceId::from(36));
        assert!(a < b && a.to_string() < b.to_string());
    }
}
