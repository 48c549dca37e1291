//! Arbitrary values of domain types, from a seed.
//!
//! A type's table names all its fields, so a field that is added to the type does not compile
//! until it is generated, and so tested, too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use shoal_types::id::{
    ClusterId, ConfigId, DeploymentId, IdSource, NetworkId, NodeId, SecretId, SeededIds, ServiceId,
    StackId, TaskId, UserId, VolumeId,
};
use shoal_types::level::Level;
use shoal_types::time::Timestamp;

/// Where arbitrary values come from.
pub(super) struct Source {
    bits: SeededIds,
    /// Whether everything that may be absent or empty is there.
    full: bool,
}

impl Source {
    pub(super) fn new(seed: u64) -> Self {
        Self { bits: SeededIds::new(seed), full: false }
    }

    pub(super) fn full(seed: u64) -> Self {
        Self { full: true, ..Self::new(seed) }
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.bits.next_bits() % bound as u128) as usize
    }

    pub(super) fn any<T: Arbitrary>(&mut self) -> T {
        T::arbitrary(self)
    }

    fn len(&mut self) -> usize {
        self.below(3).max(usize::from(self.full))
    }
}

pub(super) trait Arbitrary {
    fn arbitrary(source: &mut Source) -> Self;
}

/// A struct whose fields are all arbitrary.
macro_rules! arbitrary {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl crate::convert::tests::arbitrary::Arbitrary for $name {
            fn arbitrary(source: &mut crate::convert::tests::arbitrary::Source) -> Self {
                Self { $($field: source.any()),* }
            }
        }
    };
}

/// One of several expressions, each equally likely.
macro_rules! one_of {
    ($name:ident |$source:ident| { $($value:expr),* $(,)? }) => {
        impl crate::convert::tests::arbitrary::Arbitrary for $name {
            fn arbitrary($source: &mut crate::convert::tests::arbitrary::Source) -> Self {
                type Make = fn(&mut crate::convert::tests::arbitrary::Source) -> $name;
                let choices: &[Make] = &[$(|$source| { let _ = &$source; $value }),*];
                choices[$source.below(choices.len())]($source)
            }
        }
    };
}

pub(super) use {arbitrary, one_of};

impl Arbitrary for bool {
    fn arbitrary(source: &mut Source) -> Self {
        source.full || source.below(2) == 1
    }
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl Arbitrary for $integer {
            fn arbitrary(source: &mut Source) -> Self {
                match source.below(5) {
                    0 if !source.full => 0,
                    1 => 1,
                    2 => Self::MAX,
                    3 if Self::MIN < 0 => Self::MIN,
                    _ => (source.bits.next_bits() as Self) | 1,
                }
            }
        }
    )*};
}

#[allow(unused_comparisons, reason = "the minimum of an unsigned type is not below zero")]
mod integers {
    use super::{Arbitrary, Source};
    use shoal_types::id::IdSource;
    integers!(u8 u16 u32 u64 i32 i64);
}

impl Arbitrary for Level {
    fn arbitrary(source: &mut Source) -> Self {
        Self::new(source.any())
    }
}

impl Arbitrary for f32 {
    fn arbitrary(source: &mut Source) -> Self {
        source.below(1000) as Self / 999.0
    }
}

impl Arbitrary for String {
    fn arbitrary(source: &mut Source) -> Self {
        let texts = ["a", "node.labels.rack", "NAME=worth \u{1f41f}\n", " ", "-1", "z"];
        let text = texts[source.below(texts.len())];
        match source.below(3) {
            0 if !source.full => Self::new(),
            1 => format!("{text}{}", source.below(1000)),
            _ => text.to_owned(),
        }
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(source: &mut Source) -> Self {
        (source.full || source.below(3) > 0).then(|| source.any())
    }
}

impl<T: Arbitrary> Arbitrary for Vec<T> {
    fn arbitrary(source: &mut Source) -> Self {
        (0..source.len()).map(|_| source.any()).collect()
    }
}

impl<T: Arbitrary> Arbitrary for BTreeMap<String, T> {
    fn arbitrary(source: &mut Source) -> Self {
        (0..source.len()).map(|_| (source.any(), source.any())).collect()
    }
}

impl<A: Arbitrary, B: Arbitrary> Arbitrary for (A, B) {
    fn arbitrary(source: &mut Source) -> Self {
        (source.any(), source.any())
    }
}

impl<T: Arbitrary> Arbitrary for Arc<[T]> {
    fn arbitrary(source: &mut Source) -> Self {
        source.any::<Vec<T>>().into()
    }
}

impl Arbitrary for Arc<str> {
    fn arbitrary(source: &mut Source) -> Self {
        source.any::<String>().into()
    }
}

impl<T: Arbitrary> Arbitrary for Arc<T> {
    fn arbitrary(source: &mut Source) -> Self {
        Self::new(source.any())
    }
}

impl Arbitrary for Duration {
    fn arbitrary(source: &mut Source) -> Self {
        Self::from_nanos(source.any())
    }
}

impl Arbitrary for Timestamp {
    fn arbitrary(source: &mut Source) -> Self {
        Self::from_nanos(source.any())
    }
}

impl Arbitrary for SocketAddr {
    fn arbitrary(source: &mut Source) -> Self {
        Self::new(source.any(), source.any())
    }
}

impl Arbitrary for IpAddr {
    fn arbitrary(source: &mut Source) -> Self {
        let bits = source.bits.next_bits();
        match source.below(2) {
            0 => Self::from((bits as u32).to_be_bytes()),
            _ => Self::from(bits.to_be_bytes()),
        }
    }
}

impl Arbitrary for IpNet {
    fn arbitrary(source: &mut Source) -> Self {
        let addr: IpAddr = source.any();
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        Self::new(addr, source.below(longest + 1) as u8).unwrap()
    }
}

impl Arbitrary for Ipv4Net {
    fn arbitrary(source: &mut Source) -> Self {
        let bits = source.bits.next_bits() as u32;
        Self::new(bits.into(), source.below(33) as u8).unwrap()
    }
}

macro_rules! ids {
    ($($id:ident)*) => {$(
        impl Arbitrary for $id {
            fn arbitrary(source: &mut Source) -> Self {
                source.bits.next_id()
            }
        }
    )*};
}

ids!(
    ClusterId NodeId ServiceId TaskId DeploymentId NetworkId VolumeId SecretId ConfigId StackId UserId
);
