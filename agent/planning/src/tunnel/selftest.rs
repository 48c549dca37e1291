//! Which packets pass to other nodes and back: when each link is tried, and what is concluded from what came of it.
//!
//! One failure says little: the other node may not have been told of this one yet, or what is tried first finds no
//! keys agreed on. What two tries in a row say is so; that everything passes, one says. Time is counted from any
//! beginning, by a clock that nobody sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use shoal_types::id::NodeId;
use shoal_types::object::{TROUBLED_LINKS_MAX, TroubledLink, TroubledLinks, TunnelKey};

use super::{LEAST, OVERHEAD, OVERHEAD_V4};

/// Links that are tried at the same time.
const AT_ONCE: usize = 32;
/// Nobody is asked by everybody at once, however many there are: nodes that learn of each other at the same time
/// begin within so much time for each of them, each at a moment of its own. A host answers 200 echoes a second.
const SPREAD: Duration = Duration::from_millis(20);
/// When what a try says is tried again to see whether it stays so.
const AGAIN: Duration = Duration::from_secs(2);
/// When a link is tried again that nothing passes: ever later, up to the last. For each link there is so much time
/// at least.
const FIRST: Duration = Duration::from_secs(4);
const LAST: Duration = Duration::from_secs(60);
const LAST_EACH: Duration = Duration::from_millis(100);
/// The same for one that something passes.
const SELDOM: Duration = Duration::from_mins(10);
const SELDOM_EACH: Duration = Duration::from_secs(1);

/// The smallest packet of IPv6 that is of use, in bytes (RFC 8200, 5): a way that does not take it has to cut it
/// outside.
const LEAST_V6: u32 = 1280;
/// What is encrypted is filled up to a multiple of so many bytes.
const FILLED: u32 = 16;

/// The other end of a link, as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its node's address in the tunnel.
    pub address: Ipv4Addr,
    /// Its key.
    pub key: TunnelKey,
    /// Where it is said to be.
    pub endpoint: SocketAddr,
}

/// What came of trying a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// The largest packet inside that was answered, in bytes; zero if none was.
    pub passes: u32,
    /// The largest packet outside that is not cut on its way there, in bytes, if that is known.
    pub way: Option<u32>,
}

/// What is so of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything passes.
    Whole,
    /// Everything passes, in several parts what is larger than this, in bytes.
    Cut(u32),
    /// What is larger than this is lost, in bytes; something passes.
    Narrow(u32),
    /// Nothing passes.
    Silent,
}

impl Verdict {
    /// Nothing of use passes.
    #[must_use]
    pub const fn is_broken(self) -> bool {
        match self {
            Self::Silent => true,
            Self::Narrow(bytes) => bytes < LEAST,
            Self::Whole | Self::Cut(_) => false,
        }
    }

    /// What two tries say together that do not say the same: by a way that loses some of what it is given, or by
    /// several ways, no two find the same size, and what is smaller than both passes.
    fn both(self, other: Self) -> Option<Self> {
        match (self, other) {
            _ if self.is_broken() || other.is_broken() => None,
            (Self::Narrow(one), Self::Narrow(other)) => Some(Self::Narrow(one.min(other))),
            _ => None,
        }
    }
}

/// What is new of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// To which node.
    pub node: NodeId,
    /// Its end.
    pub end: End,
    /// What is so now.
    pub verdict: Verdict,
}

/// What a node has found out about its links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    full: u32,
    links: BTreeMap<NodeId, Link>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    end: End,
    due: Duration,
    under_way: bool,
    /// How often it was tried.
    tries: u32,
    /// What the last try said.
    said: Option<Verdict>,
    /// Tries in a row that said so.
    times: u32,
    /// What was concluded, if anything was.
    verdict: Option<Verdict>,
}

impl SelfTest {
    /// Of a tunnel that takes packets up to this size in bytes.
    #[must_use]
    pub const fn new(full: u32) -> Self {
        Self { full, links: BTreeMap::new() }
    }

    /// These are the links. Those that are new or lead elsewhere are tried soon; `draw` says when, from 0 to below 1,
    /// for each anew. What was so of one that leads elsewhere holds until something else is concluded.
    pub fn follow(
        &mut self,
        ends: &BTreeMap<NodeId, End>,
        now: Duration,
        mut draw: impl FnMut() -> f64,
    ) {
        self.links.retain(|node, _| ends.contains_key(node));
        let spread = each(SPREAD, ends.len());
        for (node, end) in ends {
            let known = self.links.get(node);
            if known.is_some_and(|link| link.end == *end) {
                continue;
            }
            let verdict = known.and_then(|link| link.verdict);
            let due = now + spread.mul_f64(draw());
            let (said, under_way) = (None, false);
            let link = Link { end: *end, due, under_way, tries: 0, said, times: 0, verdict };
            self.links.insert(*node, link);
        }
    }

    /// Links that are to be tried now. They are under way until [`learn`](Self::learn) is told what came of it.
    pub fn due(&mut self, now: Duration) -> Vec<(NodeId, End)> {
        let room = AT_ONCE.saturating_sub(self.links.values().filter(|l| l.under_way).count());
        let due = self.links.iter().filter(|(_, link)| !link.under_way && link.due <= now);
        let mut due: Vec<(Duration, NodeId)> = due.map(|(node, link)| (link.due, *node)).collect();
        due.sort_unstable();
        due.truncate(room);
        let mut all = Vec::new();
        for (_, node) in due {
            if let Some(link) = self.links.get_mut(&node) {
                link.under_way = true;
                all.push((node, link.end));
            }
        }
        all
    }

    /// When the next link is to be tried, as far as that can be said while none comes back.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        if self.links.values().filter(|link| link.under_way).count() >= AT_ONCE {
            return None;
        }
        self.links.values().filter(|link| !link.under_way).map(|link| link.due).min()
    }

    /// What came of trying a link, `None` if it could not be tried. Says what is new: that something is so which was
    /// not, but for a link of which nothing was known and that everything passes.
    pub fn learn(
        &mut self,
        node: NodeId,
        end: End,
        came: Option<Came>,
        now: Duration,
        draw: f64,
    ) -> Option<News> {
        let (full, count) = (self.full, self.links.len());
        let link = self.links.get_mut(&node).filter(|link| link.end == end)?;
        (link.under_way, link.tries) = (false, link.tries.saturating_add(1));
        let jitter = |wait: Duration| now + wait.mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0));
        let Some(came) = came else {
            link.due = jitter(FIRST);
            return None;
        };
        let mut said = came.verdict(full, end.endpoint.ip());
        let before = link.said.replace(said);
        let both = before.filter(|_| link.times == 1).and_then(|before| before.both(said));
        link.times = match both {
            _ if before == Some(said) => link.times.saturating_add(1),
            Some(both) => {
                said = both;
                2
            }
            None => 1,
        };
        let passes_all = matches!(said, Verdict::Whole | Verdict::Cut(_));
        let is_so = passes_all || link.times > 1;
        link.due = match said {
            _ if !is_so => jitter(AGAIN),
            _ if said.is_broken() => {
                let doubled = FIRST.saturating_mul(2_u32.saturating_pow(link.times.min(10) - 1));
                jitter(doubled.min(LAST.max(each(LAST_EACH, count))))
            }
            _ => jitter(SELDOM.max(each(SELDOM_EACH, count))),
        };
        if !is_so {
            return None;
        }
        let before = link.verdict.replace(said);
        let is_news = before.unwrap_or(Verdict::Whole) != said;
        is_news.then_some(News { node, end, verdict: said })
    }

    /// Whether something is known of every link, as far as it can be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.links.values().all(|link| link.verdict.is_some() || link.tries > 1)
    }

    /// How many links there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.links.len()).unwrap_or(u32::MAX)
    }

    /// Nodes for which packets have to be smaller than the tunnel takes, with the size in bytes of the largest.
    #[must_use]
    pub fn narrow(&self) -> BTreeMap<NodeId, u32> {
        let narrow = |(node, link): (&NodeId, &Link)| match link.verdict? {
            said if said.is_broken() => None,
            Verdict::Cut(bytes) | Verdict::Narrow(bytes) => Some((*node, bytes)),
            Verdict::Silent | Verdict::Whole => None,
        };
        self.links.iter().filter_map(narrow).collect()
    }

    /// Links that not everything passes, those by which least does first.
    #[must_use]
    pub fn troubled(&self) -> TroubledLinks {
        let trouble = |(node, link): (&NodeId, &Link)| {
            let passes_bytes = match link.verdict? {
                Verdict::Whole | Verdict::Cut(_) => return None,
                Verdict::Narrow(bytes) => bytes,
                Verdict::Silent => 0,
            };
            let (node_id, endpoint) = (*node, link.end.endpoint);
            Some(TroubledLink { node_id, endpoint, passes_bytes, full_bytes: self.full })
        };
        let mut links: Vec<TroubledLink> = self.links.iter().filter_map(trouble).collect();
        let count = u32::try_from(links.len()).unwrap_or(u32::MAX);
        links.sort_by_key(|link| (link.passes_bytes, link.node_id));
        links.truncate(TROUBLED_LINKS_MAX);
        TroubledLinks { count, links }
    }
}

impl Came {
    /// What that says of a link to this address, by which up to `full` bytes should pass.
    fn verdict(self, full: u32, to: IpAddr) -> Verdict {
        let overhead = if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD };
        let uncut = self.way.map_or(full, |way| way.saturating_sub(overhead));
        match self.passes {
            0 => Verdict::Silent,
            passes if passes < full => Verdict::Narrow(passes),
            _ if uncut >= full => Verdict::Whole,
            _ => Verdict::Cut((uncut / FILLED * FILLED).max(LEAST)),
        }
    }
}

/// Of these addresses, those for which packets have to be smaller than the tunnel takes, with the size in bytes of the
/// largest.
#[must_use]
pub fn fitting<'a>(
    narrow: &BTreeMap<NodeId, u32>,
    addresses: impl Fn(&NodeId) -> Option<&'a BTreeSet<IpNet>>,
) -> BTreeMap<IpAddr, u32> {
    let of_node = |(node, bytes): (&NodeId, &u32)| {
        let bytes = *bytes;
        let fit = move |address: IpAddr| match address {
            IpAddr::V4(_) => (address, bytes),
            IpAddr::V6(_) => (address, bytes.max(LEAST_V6)),
        };
        let nets = addresses(node).into_iter().flatten();
        nets.map(move |net| fit(net.addr())).collect::<Vec<_>>()
    };
    narrow.iter().flat_map(of_node).collect()
}

fn each(time: Duration, count: usize) -> Duration {
    time.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
