//! Which part of the host is to be looked at, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_types::time::Timestamp;

/// More links than this are not looked at one by one.
const LINKS_MAX: usize = 16;

/// Links that have to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookAtLinks {
    /// These, by name.
    Named(BTreeSet<String>),
    /// All that there are.
    All,
}

impl Default for LookAtLinks {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl LookAtLinks {
    /// Nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Named(names), Self::Named(more)) => {
                names.extend(more);
                if names.len() > LINKS_MAX {
                    *self = Self::All;
                }
            }
        }
    }
}

/// The parts of the host that may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Bridges, bridge ports, their addresses and routes.
    pub links: LookAtLinks,
    /// Addresses of the host that are not the agent's.
    pub addresses: bool,
    /// Routing rules.
    pub rules: bool,
    /// The nftables tables.
    pub tables: bool,
    /// Settings of the kernel.
    pub settings: bool,
    /// Routes into the tunnel to other hosts, and the device of the mesh.
    pub remote: bool,
    /// Chains of others that judge what is forwarded.
    pub gates: bool,
}

impl Look {
    /// At everything.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            links: LookAtLinks::All,
            addresses: true,
            rules: true,
            tables: true,
            settings: true,
            remote: true,
            gates: true,
        }
    }

    /// At settings alone, which nobody tells of.
    #[must_use]
    pub fn settings() -> Self {
        Self { settings: true, ..Self::default() }
    }

    /// At routes into the tunnel, and the device of the mesh.
    #[must_use]
    pub fn remote() -> Self {
        Self { remote: true, ..Self::default() }
    }

    /// At one link of the agent.
    #[must_use]
    pub fn link(ifname: impl Into<String>) -> Self {
        Self { links: LookAtLinks::Named([ifname.into()].into()), ..Self::default() }
    }

    /// At nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// At what either is about.
    pub fn merge(&mut self, other: Self) {
        self.links.merge(other.links);
        self.addresses |= other.addresses;
        self.rules |= other.rules;
        self.tables |= other.tables;
        self.settings |= other.settings;
        self.remote |= other.remote;
        self.gates |= other.gates;
    }
}

/// How many looks may follow each other at once before they are spread out.
const BURST: u32 = 4;
/// How often, in the long run, is looked because of what is heard: a quarrel with another program, or
/// a storm of what others do, costs one look in this time.
pub const EVERY: Duration = Duration::from_millis(500);

/// Bounds how often the host is looked at: at once while it is quiet, and once per [`EVERY`] in the
/// long run.
#[derive(Debug, Clone)]
pub struct Pace {
    tokens: u32,
    /// When the last token came.
    since: Timestamp,
}

impl Pace {
    /// Nothing was looked at yet.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { tokens: BURST, since: now }
    }

    /// Takes a look's turn, if there is one; else says when to ask again.
    ///
    /// # Errors
    /// The time of the next turn.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        while self.tokens < BURST && now >= self.since + EVERY {
            self.tokens += 1;
            self.since = self.since + EVERY;
        }
        if self.tokens == BURST {
            self.since = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.since + EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(0) + Duration::from_millis(millis)
    }

    #[test]
    fn a_storm_costs_two_looks_a_second_and_a_single_change_none_of_the_wait() {
        let mut pace = Pace::new(at(0));
        // Asked every ten milliseconds for a minute.
        let taken: Vec<u64> =
            (0..6000).map(|n| n * 10).filter(|ms| pace.take(at(*ms)).is_ok()).collect();
        assert_eq!(taken[..4], [0, 10, 20, 30]);
        assert_eq!(taken.len(), 4 + 119, "{taken:?}");
        let waits = taken.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(waits <= Some(500), "nobody waits longer than that: {waits:?}");
        // After a while of silence it is as in the beginning.
        let later: Vec<bool> = (0..6).map(|n| pace.take(at(70_000 + n)).is_ok()).collect();
        assert_eq!(later, [true, true, true, true, false, false]);
        assert_eq!(pace.take(at(70_100)), Err(at(70_500)));
    }

    #[test]
    fn many_links_are_looked_at_together() {
        let mut look = Look::default();
        assert!(look.is_empty());
        for n in 0..=LINKS_MAX {
            assert!(look.links != LookAtLinks::All);
            look.merge(Look::link(n.to_string()));
        }
        assert_eq!(look.links, LookAtLinks::All);
        look.merge(Look::link("x"));
        look.merge(Look::settings());
        assert_eq!(look.links, LookAtLinks::All);
        assert!(look.settings && !look.tables);
        look.merge(Look::everything());
        assert_eq!(look, Look::everything());
    }
}
