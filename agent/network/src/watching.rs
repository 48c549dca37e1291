//! Keeping the host as it should be: hearing that somebody changes it, and looking now and then.

mod heard;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use rustix::io::Errno;
use shoal_agent_ground::backoff::Backoff;
use shoal_agent_planning::node::look::{Look, Pace};
use shoal_types::error_chain::chain;
use shoal_types::time::Timestamp;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use self::heard::{Hearing, Route};
use super::BridgeNetworks;

/// Groups of rtnetlink(7) (linux/rtnetlink.h): links, neighbours (and where the mesh's frames go), addresses of IPv4,
/// its routes and routing rules, the same of IPv6, and settings of interfaces.
const ROUTE_GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 24];
/// The group of nf_tables (linux/netfilter/nfnetlink.h) that hears of every change.
const FILTER_GROUP: u32 = 7;
/// How long is waited for what comes together with what was heard.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often settings are looked at, most of which nobody tells of.
const GLANCE: Duration = Duration::from_secs(1);
/// How often everything is looked at.
const ROUND: Duration = Duration::from_secs(30);
/// How long is waited after a look that failed.
const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), last: ROUND };
/// How many messages are read in a tenth of a second. What is more is lost by the kernel, which says so.
const READS: u32 = 512;
const WINDOW: Duration = Duration::from_millis(100);

/// Begins to keep the host as a driver's book says, as long as the driver lives. Call it inside the
/// runtime, in the network namespace of the driver.
///
/// # Errors
/// There is no netlink.
pub fn keep(networks: &Arc<BridgeNetworks>) -> io::Result<AbortHandle> {
    let ears = Ears::open()?;
    let watch = Watch::new(networks);
    Ok(tokio::spawn(watch.run(ears)).abort_handle())
}

/// The sockets that hear of changes.
struct Ears {
    route: TokioSocket,
    filter: TokioSocket,
}

impl Ears {
    fn open() -> io::Result<Self> {
        Ok(Self {
            route: listen(NETLINK_ROUTE, &ROUTE_GROUPS)?,
            filter: listen(NETLINK_NETFILTER, &[FILTER_GROUP])?,
        })
    }
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

struct Watch {
    networks: Weak<BridgeNetworks>,
    hearing: Hearing,
    /// What is to be looked at, and when.
    look: Look,
    due: Instant,
    pace: Pace,
    started: Instant,
    /// When everything is looked at because something could not be put right, and how often that was
    /// so. What else is heard does not wait for it.
    again: Option<Instant>,
    failures: u32,
    /// What was read since the window began.
    read: u32,
    window: Instant,
}

impl Watch {
    fn new(networks: &Arc<BridgeNetworks>) -> Self {
        let now = Instant::now();
        Self {
            hearing: Hearing::new(networks.prefix(), networks.table_name()),
            networks: Arc::downgrade(networks),
            look: Look::default(),
            due: now,
            pace: Pace::new(Timestamp::ZERO),
            started: now,
            again: None,
            failures: 0,
            read: 0,
            window: now,
        }
    }

    async fn run(mut self, mut ears: Ears) {
        let mut glance = interval_at(self.started + GLANCE, GLANCE);
        let mut round = interval_at(self.started + ROUND, ROUND);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            if now >= self.window {
                (self.read, self.window) = (0, now + WINDOW);
            }
            let listens = self.read < READS;
            tokio::select! {
                heard = ears.route.recv_from_full(), if listens => {
                    let about = |route: Route| {
                        self.networks.upgrade()?.about_route(route.new, route.to, route.whole)
                    };
                    let is_mesh = |index: u32| {
                        self.networks.upgrade().is_some_and(|networks| networks.may_be_mesh(index))
                    };
                    let of_link = |name: &str| self.networks.upgrade()?.about_link(name);
                    let at = |address| self.networks.upgrade()?.about_v6_address(address);
                    let heard = heard
                        .map(|(datagram, _)| {
                            self.hearing.route(&datagram, about, at, is_mesh, of_link)
                        });
                    self.hear(heard, &mut ears.route, NETLINK_ROUTE, &ROUTE_GROUPS);
                }
                heard = ears.filter.recv_from_full(), if listens => {
                    let heard = heard.map(|(datagram, _)| self.hearing.filter(&datagram));
                    self.hear(heard, &mut ears.filter, NETLINK_NETFILTER, &[FILTER_GROUP]);
                }
                () = sleep_until(self.window), if !listens => {}
                () = sleep_until(self.due), if !self.look.is_empty() => {
                    match self.pace.take(self.now()) {
                        Ok(()) => {
                            let look = std::mem::take(&mut self.look);
                            if !self.put_right(look).await {
                                return;
                            }
                        }
                        Err(turn) => self.due = self.started + turn.since(Timestamp::ZERO),
                    }
                }
                () = sleep_until(self.again.unwrap_or(now)), if self.again.is_some() => {
                    self.again = None;
                    self.will_look(Look::everything(), Duration::ZERO);
                }
                _ = round.tick() => self.will_look(Look::everything(), Duration::ZERO),
                _ = glance.tick() => {
                    let Some(networks) = self.networks.upgrade() else { return };
                    let has_networks = networks.has_networks();
                    drop(networks);
                    if has_networks && !self.put_right(Look::settings()).await {
                        return;
                    }
                }
            }
            if self.networks.strong_count() == 0 {
                return;
            }
        }
    }

    /// By a clock that nobody sets.
    fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.started.elapsed()
    }

    fn hear(
        &mut self,
        heard: io::Result<Look>,
        socket: &mut TokioSocket,
        protocol: isize,
        groups: &[u32],
    ) {
        self.read += 1;
        match heard {
            Ok(look) if look.is_empty() => {}
            Ok(look) => self.will_look(look, TOGETHER),
            // Too much to remember for the kernel: anything may have been lost.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                self.will_look(Look::everything(), TOGETHER);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot hear of changes of the host; listening anew");
                match listen(protocol, groups) {
                    Ok(new) => *socket = new,
                    Err(error) => tracing::error!(%error, "cannot listen for them"),
                }
                self.will_look(Look::everything(), GLANCE);
                // Not again and again without a pause.
                self.read = READS;
            }
        }
    }

    fn will_look(&mut self, look: Look, after: Duration) {
        if look.is_empty() {
            return;
        }
        if self.look.is_empty() {
            self.due = Instant::now() + after;
        }
        self.look.merge(look);
    }

    /// Looks and puts right; `false` when the driver is gone.
    async fn put_right(&mut self, look: Look) -> bool {
        let Some(networks) = self.networks.upgrade() else { return false };
        match networks.put_right(&look).await {
            Ok(repaired) => {
                if look == Look::everything() {
                    (self.again, self.failures) = (None, 0);
                }
                if !repaired.is_clean() {
                    tracing::warn!(?repaired, "somebody changed the host; put right");
                }
            }
            // Most likely what is tried again anyway, met by a look at something else.
            Err(error) if self.again.is_some() => {
                tracing::debug!(error = %chain(&error), "still cannot put the host right");
            }
            Err(error) => {
                self.failures += 1;
                tracing::error!(error = %chain(&error), "cannot put the host right yet");
                self.again = Some(Instant::now() + PAUSES.wait(self.failures, 0.0));
            }
        }
        true
    }
}
