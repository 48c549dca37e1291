//! Which packets pass to other nodes and back: when each link is tried, and what is concluded from what came of it.
//!
//! One failure says little: the other node may not have been told of this one yet, or what is tried first finds no
//! keys agreed on. What two tries in a row say is so; that everything passes, one says. Time is counted from any
//! beginning, by a clock that nobody sets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use shoal_types::id::NodeId;
use shoal_types::object::{TROUBLED_LINKS_MAX, TroubledLink, TroubledLinks, TunnelKey};

use super::wide::usual;
use super::{FILLED, LEAST, MTU, OVERHEAD, OVERHEAD_V4};

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
/// When one is tried again by which more passes than a wire takes as a rule, in bytes outside: nobody says when it is less.
const WIRE: u32 = 1500;
const WATCHED: Duration = Duration::from_secs(30);

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

    /// The largest packet that is sent there, in bytes, where the tunnel takes `full`; `None`: nothing of use passes.
    const fn size(self, full: u32) -> Option<u32> {
        match self {
            _ if self.is_broken() => None,
            Self::Cut(bytes) | Self::Narrow(bytes) => Some(bytes),
            Self::Whole => Some(full),
            Self::Silent => None,
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
    /// Less passes than by any other link.
    pub is_trouble: bool,
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

    /// It takes packets up to this size from now on. All links are tried anew, and what was found out of larger packets
    /// than are usual holds no more; `draw` as with [`follow`](Self::follow).
    pub fn resize(&mut self, full: u32, now: Duration, mut draw: impl FnMut() -> f64) {
        if full == self.full {
            return;
        }
        self.full = full;
        let spread = each(SPREAD, self.links.len());
        for link in self.links.values_mut() {
            link.due = now + spread.mul_f64(draw());
            (link.tries, link.said, link.times) = (0, None, 0);
            link.verdict = link.verdict.filter(|said| {
                *said != Verdict::Whole
                    && said.size(full).is_none_or(|bytes| bytes < link.usual(full))
            });
        }
    }

    /// These are the links. Those that are new or lead elsewhere are tried soon; `draw` says when, from 0 to below 1,
    /// for each anew. What was so of one that leads elsewhere holds until something else is concluded, but for what is larger
    /// than usual to a host that is elsewhere.
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
            let full = self.full;
            let holds = |link: &Link, said: &Verdict| {
                let is_there = link.end.endpoint.ip() == end.endpoint.ip();
                is_there || said.size(full).is_none_or(|bytes| bytes <= link.usual(full))
            };
            let verdict = known.and_then(|link| link.verdict.filter(|said| holds(link, said)));
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
            _ if said.size(full).is_some_and(|bytes| bytes > WIRE) => {
                jitter(WATCHED.max(each(LAST_EACH, count)))
            }
            _ => jitter(SELDOM.max(each(SELDOM_EACH, count))),
        };
        let size = |said: Option<Verdict>| said.and_then(|said| said.size(full)).unwrap_or(0);
        if !is_so {
            // It may be an accident, and waiting for larger packets to get lost costs more than smaller ones do.
            let had = size(link.verdict);
            if had > link.usual(full) && size(Some(said)) < had {
                link.verdict = None;
            }
            return None;
        }
        let before = link.verdict.replace(said);
        let is_news = before.unwrap_or(Verdict::Whole) != said;
        let is_trouble = link.trouble(full).is_some();
        is_news.then_some(News { node, end, verdict: said, is_trouble })
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

    /// Nodes for which packets have another size than to whom nothing was tried ([`usual`]), with that of the largest in
    /// bytes.
    #[must_use]
    pub fn sizes(&self) -> BTreeMap<NodeId, u32> {
        let size = |(node, link): (&NodeId, &Link)| {
            let bytes = link.verdict?.size(self.full)?;
            (bytes != link.usual(self.full)).then_some((*node, bytes))
        };
        self.links.iter().filter_map(size).collect()
    }

    /// Links that not everything passes, those by which least does first.
    #[must_use]
    pub fn troubled(&self) -> TroubledLinks {
        let trouble = |(node, link): (&NodeId, &Link)| {
            let passes_bytes = link.trouble(self.full)?;
            let (node_id, endpoint) = (*node, link.end.endpoint);
            Some(TroubledLink { node_id, endpoint, passes_bytes, full_bytes: self.full.min(MTU) })
        };
        let mut links: Vec<TroubledLink> = self.links.iter().filter_map(trouble).collect();
        let count = u32::try_from(links.len()).unwrap_or(u32::MAX);
        links.sort_by_key(|link| (link.passes_bytes, link.node_id));
        links.truncate(TROUBLED_LINKS_MAX);
        TroubledLinks { count, links }
    }
}

impl Link {
    /// What is sent there before anything was tried.
    const fn usual(&self, full: u32) -> u32 {
        usual(full, self.end.endpoint.ip())
    }

    /// What passes, in bytes, where that is less than by any other link.
    fn trouble(&self, full: u32) -> Option<u32> {
        match self.verdict? {
            Verdict::Whole | Verdict::Cut(_) => None,
            Verdict::Narrow(bytes) => Some(bytes).filter(|bytes| *bytes < self.usual(full)),
            Verdict::Silent => Some(0),
        }
    }
}

impl Came {
    /// What that says of a link to this address, by which up to `full` bytes should pass.
    fn verdict(self, full: u32, to: IpAddr) -> Verdict {
        let overhead = if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD };
        let uncut = self.way.map_or(full, |way| way.saturating_sub(overhead));
        let cut = Verdict::Cut((uncut / FILLED * FILLED).max(LEAST));
        match self.passes {
            0 => Verdict::Silent,
            // Nobody has to have what is larger than usual: where it is cut, smaller is better.
            passes if passes < full && uncut < passes && full > MTU => cut,
            passes if passes < full => Verdict::Narrow(passes),
            _ if uncut >= full => Verdict::Whole,
            _ => cut,
        }
    }
}

fn each(time: Duration, count: usize) -> Duration {
    time.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
