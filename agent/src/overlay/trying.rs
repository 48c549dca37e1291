//! Other nodes are tried: which packets pass to them and back. When, and what follows, is decided by [`SelfTest`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use shoal_agent_planning::tunnel::selftest::{Came, End, News, SelfTest, Verdict};
use shoal_agent_planning::tunnel::{MTU, OVERHEAD};
use shoal_agent_tunnel::{Reached, reach, uncut};
use shoal_types::id::NodeId;
use shoal_types::object::{TroubledLinks, TunnelKey};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long one link is tried at the most.
const LIMIT: Duration = Duration::from_secs(20);
/// How long is waited where nothing is to be tried.
const IDLE: Duration = Duration::from_hours(1);

/// The host's end of the tunnel, and those of the nodes that it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Its interfaces.
    pub(super) ifnames: BTreeSet<String>,
    /// The host's own address in it. Without one nothing is tried.
    pub(super) home: Option<Ipv4Addr>,
    pub(super) ends: BTreeMap<NodeId, End>,
    /// Managers have said which there are.
    pub(super) told: bool,
    /// By which of them each is reached, by its key.
    pub(super) by: BTreeMap<TunnelKey, String>,
    /// The largest packet that they take, in bytes; nothing is known of it while there is none.
    pub(super) full: u32,
}

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Nodes for which packets are not of the usual size, with that of the largest in bytes; `None` before all were
    /// tried: what an earlier agent has found out holds until then.
    pub(super) sizes: Option<BTreeMap<NodeId, u32>>,
    /// Links that not everything passes.
    pub(super) troubled: TroubledLinks,
    /// How many links there are, once all of them were tried.
    pub(super) tried: Option<u32>,
}

/// Tries one link.
pub(crate) type Try = Arc<dyn Fn(&Ways, End) -> BoxFuture<'static, Option<Came>> + Send + Sync>;

/// Sends packets.
pub(crate) fn with_packets() -> Try {
    Arc::new(|ways, end| {
        let (ifnames, home, full) = (ways.ifnames.clone(), ways.home, ways.full);
        let by = ways.by.get(&end.key).cloned();
        async move {
            let inside = reach(&ifnames, home?, vec![(end.address, by?)], full, LIMIT);
            let (inside, outside) = tokio::join!(inside, uncut(end.endpoint, full + OVERHEAD));
            let untried = |why: &dyn Display| {
                tracing::debug!(endpoint = %end.endpoint, %why, "cannot try the tunnel to a node");
            };
            let inside = inside.inspect_err(|error| untried(error)).ok()?.remove(&end.address)?;
            let Reached { passes, trouble } = inside;
            if let Some(trouble) = trouble {
                untried(&trouble);
                return None;
            }
            Some(Came { passes, way: outside.ok() })
        }
        .boxed()
    })
}

/// Tries them as long as somebody says which there are.
pub(super) async fn run(
    mut ways: watch::Receiver<Ways>,
    found: watch::Sender<Found>,
    attempt: Try,
) {
    let began = Instant::now();
    let mut test = SelfTest::new(MTU);
    let mut under_way = FuturesUnordered::new();
    // That there is nobody to try says something only of a host that could.
    let (mut has_home, mut told) = (false, false);
    loop {
        let due = test.due(began.elapsed());
        for (node, end) in due {
            let came = attempt(&ways.borrow(), end);
            under_way.push(came.map(move |came| (node, end, came)));
        }
        let next = test.next().unwrap_or_else(|| began.elapsed() + IDLE);
        tokio::select! {
            changed = ways.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = ways.borrow_and_update();
                (has_home, told) = (now.home.is_some(), now.told);
                let none = BTreeMap::new();
                let ends = if has_home { &now.ends } else { &none };
                test.resize(now.full.max(MTU), began.elapsed(), rand::random);
                test.follow(ends, began.elapsed(), rand::random);
            }
            Some((node, end, came)) = under_way.next() => {
                let news = test.learn(node, end, came, began.elapsed(), rand::random());
                if let Some(news) = news {
                    tell(news);
                }
            }
            () = sleep_until(began + next) => {}
        }
        let all_known = found.borrow().sizes.is_some() || (has_home && test.is_settled());
        let now = Found {
            sizes: all_known.then(|| test.sizes()),
            troubled: test.troubled(),
            tried: (told && test.is_settled()).then(|| test.count()),
        };
        found.send_if_modified(|before| {
            let is_news = *before != now;
            *before = now;
            is_news
        });
    }
}

fn tell(News { node, end, verdict, is_trouble }: News) {
    let End { address, key: _, endpoint } = end;
    match verdict {
        Verdict::Whole => tracing::info!(%node, %endpoint, "all packets pass the tunnel to a node"),
        Verdict::Cut(bytes) => tracing::info!(
            %node,
            %endpoint,
            bytes,
            "larger packets would be cut on the way to a node, so none is sent there by the tunnel"
        ),
        Verdict::Narrow(bytes) if !is_trouble => {
            tracing::info!(%node, %endpoint, bytes, "larger packets do not pass the tunnel to a node");
        }
        Verdict::Narrow(bytes) => tracing::warn!(
            %node,
            %endpoint,
            bytes,
            "larger packets get lost in the tunnel to a node: what is on the way lets nothing pass that was cut"
        ),
        Verdict::Silent => tracing::warn!(
            %node,
            %endpoint,
            %address,
            "no packet passes the tunnel to a node and back: is UDP let through to its port, in both directions, \
             and an echo of ICMP to its address in the tunnel by its own firewall?"
        ),
    }
}
