//! Feature levels: what programs of different versions may expect of each other.
//!
//! A program says which level it has, a spec which level it needs, and the cluster has the level of
//! its lowest manager, which people raise when all have been upgraded. What needs a higher level than
//! the cluster's is not accepted, and not scheduled onto a node that has a lower one.

use std::fmt;

use serde::Serialize;

/// What each level brought, the first one first. A line is never changed; a new level is a new line
/// (docs/checklists/level.md).
pub const LEVELS: &[&str] = &[
    // 1
    "services, stacks, bridge and host networks, local volumes, users",
    // 2
    "overlay networks",
    // 3
    "ports published on every node",
    // 4
    "IPv6, several subnets, ranges and fixed addresses of networks",
];

/// One of the [`LEVELS`], or a later one, counted from 1. Who does not say which one is at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Level(u32);

impl Level {
    /// What every program has.
    pub const FIRST: Self = Self(1);

    /// What brought overlay networks.
    pub const OVERLAY: Self = Self(2);

    /// What brought ports that answer on every node.
    pub const INGRESS: Self = Self(3);

    /// What brought names of services, and further ones of them: the same release.
    pub const NAMES: Self = Self::INGRESS;

    /// What brought networks with IPv6, several subnets, and addresses that somebody has chosen.
    pub const DUAL: Self = Self(4);

    /// What brought time to serve what is open before a stop: the same release.
    pub const DRAIN: Self = Self::DUAL;

    /// What brought clients that are led to the same task each time: the same release.
    pub const AFFINITY: Self = Self::DUAL;

    /// What brought clients that are led to tasks of their own node before others: the same release.
    pub const LOCALITY: Self = Self::DUAL;

    /// What brought networks on a wire: the same release.
    pub const WIRE: Self = Self::DUAL;

    /// What brought services that share the network of another one: the same release.
    pub const SHARED: Self = Self::DUAL;

    /// What brought keys of the tunnel that change: the same release.
    pub const KEYS: Self = Self::DUAL;

    /// What brought subnets that hosts have themselves: the same release.
    pub const SUBNETS: Self = Self::DUAL;

    /// What brought secrets and configs: the same release.
    pub const PAYLOADS: Self = Self::DUAL;

    /// What brought several managers: the same release.
    pub const MANAGERS: Self = Self::DUAL;

    /// What this program has.
    #[expect(clippy::cast_possible_truncation, reason = "a table of a few lines")]
    pub const OWN: Self = Self(LEVELS.len() as u32);

    /// The level of this number; the first one for zero.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        if number == 0 { Self::FIRST } else { Self(number) }
    }

    /// Its number, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// What it brought, if this program knows it.
    #[must_use]
    pub fn brought(self) -> Option<&'static str> {
        let at = usize::try_from(self.0).ok()?.checked_sub(1)?;
        LEVELS.get(at).copied()
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that not every program can do.
pub trait Leveled {
    /// The level that is needed for it.
    fn level(&self) -> Level;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_from_one() {
        assert_eq!(Level::new(0), Level::FIRST, "who says nothing is at the first");
        assert_eq!(Level::default(), Level::FIRST);
        assert_eq!(Level::new(7).number(), 7);
        assert!(Level::FIRST.brought().is_some() && Level::OWN.brought().is_some());
        assert_eq!(Level::new(Level::OWN.number() + 1).brought(), None);
        assert!(Level::OWN >= Level::FIRST);
    }
}
