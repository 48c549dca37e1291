//! The overlay of this host: its tunnel and what is led into it, kept as managers say.
//!
//! One loop owns the tunnel. What is to be done follows from what the node was told ([`Course`]); until
//! managers have said everything, the tunnel stays as an earlier agent left it, so that a restart interrupts
//! nobody. After a reboot of the host there is none, and it is made by what they said before. Which of its two
//! interfaces there are, and by which one packets go, is decided with the epochs of its keys ([`epochs`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_ground::backoff::Backoff;
use shoal_agent_network::{Contested, NetworkDriver, NetworkError};
use shoal_agent_planning::overlay::{Course, Courses, Crowded, OverlayView};
use shoal_agent_planning::tunnel::wide::{asked, fitting, largest};
use shoal_agent_planning::tunnel::{LeftOut, MTU, Side};
use shoal_agent_planning::verify::Known;
use shoal_agent_tunnel::{Tunnel, TunnelError};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::object::{TroubledLinks, TunnelDescription};
use shoal_types::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::comparing::clock;
pub(crate) use self::comparing::{Overseen, SeenFrom, SeenLink};
use self::epochs::Keys;
pub(crate) use self::epochs::Sides;
use self::trying::{Found, Ways};
pub(crate) use self::trying::{Try, with_packets};

/// How long is waited for what comes together.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often is looked whether the tunnel is still as it should be.
const LOOK: Duration = Duration::from_secs(2);
/// How long is waited after what failed.
const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(30) };

/// How long is waited for an answer: what is under way may last longer. A session begins without the tunnel then.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a node that is new waits for its first link.
const MOMENT: Duration = Duration::from_secs(3);
/// Questions under way at most.
const ASKS: usize = 4;
/// How often something is sent to each peer. Much of what is between two hosts (NAT, firewalls) forgets a
/// flow of UDP after 30 seconds of silence, although RFC 4787, 4.3, asks for two minutes.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Where other hosts find this one.
#[derive(Debug, Clone, Copy)]
pub struct DataPath {
    /// The address that they send to; `None`: where this host's sessions come from.
    pub addr: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
}

/// Why the overlay is not as it should be.
#[derive(Debug, thiserror::Error)]
enum OverlayError {
    /// The tunnel is not.
    #[error("cannot set up the tunnel to other hosts")]
    Tunnel(#[from] TunnelError),
    /// What is led into it is not.
    #[error("cannot lead packets to other hosts")]
    Networks(#[from] NetworkError),
}

/// How far this host is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In none, as far as is known: nothing is done, and what an earlier agent left stays.
    Outside,
    /// It is about to have a session.
    Begun,
    /// Managers have said everything.
    Told,
}

/// What the rest of the agent wants.
enum Ask {
    /// A tunnel, and what managers are to be told of it.
    Describe(oneshot::Sender<Option<TunnelDescription>>),
    /// What is not as it should be, and whom the tunnel leads to.
    Compare(oneshot::Sender<Overseen>),
    /// That nothing is left.
    Remove(oneshot::Sender<Result<(), TunnelError>>),
}

/// Asks the loop. Clones ask the same one.
#[derive(Debug, Clone)]
pub(crate) struct OverlayHandle {
    asks: mpsc::Sender<Ask>,
    known: watch::Receiver<Option<TunnelDescription>>,
    found: watch::Receiver<Found>,
}

impl OverlayHandle {
    /// Links to other nodes that not everything passes, as far as that was found out.
    pub(crate) fn troubled_links(&self) -> TroubledLinks {
        self.found.borrow().troubled.clone()
    }

    /// Waits until all links to other nodes were tried: how many there are. A node that is new is told of them a
    /// moment after it was told that there are none.
    pub(crate) async fn tried_links(&self) -> u32 {
        let mut found = self.found.clone();
        let mut settled = async |is_so: fn(u32) -> bool| {
            let found = found.wait_for(|found| found.tried.is_some_and(is_so)).await;
            found.ok().and_then(|found| found.tried)
        };
        let tried = settled(|_| true).await;
        let more = tokio::time::timeout(MOMENT, settled(|count| count > 0));
        match tried {
            Some(0) => more.await.ok().flatten().unwrap_or(0),
            Some(count) => count,
            // The agent ends.
            None => std::future::pending().await,
        }
    }

    /// What managers are to be told of this host's end of the tunnel, which is made if need be; nothing
    /// where it cannot be had within some seconds.
    pub(crate) async fn describe(&self) -> Option<TunnelDescription> {
        self.ask(Ask::Describe).await.flatten()
    }

    /// The answer, where it comes within some seconds.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.asks.send(ask(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }

    /// What managers are to be told of the tunnel now, if there is one.
    pub(crate) fn known(&self) -> watch::Receiver<Option<TunnelDescription>> {
        self.known.clone()
    }

    /// What is not as it should be, and whom the tunnel leads to. Nothing is done about it. A note says so where
    /// that does not come within some seconds.
    pub(crate) async fn compare(&self) -> Overseen {
        self.ask(Ask::Compare).await.unwrap_or_else(Overseen::none_in_time)
    }

    /// Waits until there is a tunnel about which managers are to be told something else than was `told`, other than which
    /// keys it has: those go with heartbeats.
    pub(crate) async fn news(&self, told: Option<TunnelDescription>) {
        let mut known = self.known.clone();
        let plain = |said: &TunnelDescription| (said.addr, said.kind);
        let told = told.as_ref().map(plain);
        if known.wait_for(|now| now.is_some() && now.as_ref().map(plain) != told).await.is_err() {
            // The agent ends.
            std::future::pending::<()>().await;
        }
    }

    /// Leaves nothing of the tunnel: this host is in no cluster any more.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub(crate) async fn remove(&self) -> Result<(), TunnelError> {
        let (answer, answered) = oneshot::channel();
        // Fails only when the agent ends.
        let _ = self.asks.send(Ask::Remove(answer)).await;
        answered.await.unwrap_or(Ok(()))
    }
}

/// Keeps the overlay.
pub(crate) struct Overlay {
    tunnels: Sides<Arc<dyn Tunnel>>,
    networks: Arc<dyn NetworkDriver>,
    view: watch::Receiver<Arc<OverlayView>>,
    data_path: DataPath,
    asks: mpsc::Receiver<Ask>,
    phase: Phase,
    /// What managers are to be told, once there is a tunnel.
    known: watch::Sender<Option<TunnelDescription>>,
    /// How often in a row it could not be made as it should be.
    failures: u32,
    /// What could not be done at the last attempt, and since when something cannot.
    errors: (Vec<String>, Option<Timestamp>),
    /// Since when is known what is not as it should be.
    wrong: Known,
    /// What follows from what managers say.
    courses: Courses,
    /// For which addresses and nodes the tunnel was made last, and when.
    ensured: Option<(u64, Arc<OverlayView>, Instant)>,
    /// What was complained of last.
    contested: usize,
    crowded: Crowded,
    /// What the driver was told last of what leads where, with success; and nodes that it was told to leave out.
    led: Option<(Arc<OverlayView>, BTreeSet<Ipv4Addr>)>,
    /// Ports of every node that somebody else on this host has.
    held_by_others: Contested,
    /// Nodes to which there can be no tunnel.
    left_out: BTreeMap<NodeId, LeftOut>,
    /// Whom the tunnel leads to, for whoever tries them.
    ways: watch::Sender<Ways>,
    /// What came of it.
    found: watch::Receiver<Found>,
    /// How large packets may be at the most, as the driver was told last, with success.
    fitted: Option<(u32, BTreeMap<IpAddr, u32>)>,
    /// The largest packet that the tunnel takes, and when was looked what its wires do, for which nodes.
    largest: u32,
    looked: Option<(Arc<OverlayView>, Instant)>,
    /// How far it is with the epochs of its keys.
    keys: Keys,
}

impl Overlay {
    /// Begins to keep it in the background, as long as the driver lives.
    pub(crate) fn start(
        tunnels: Sides<Arc<dyn Tunnel>>,
        networks: Arc<dyn NetworkDriver>,
        view: watch::Receiver<Arc<OverlayView>>,
        data_path: DataPath,
        attempt: Try,
    ) -> OverlayHandle {
        let (overlay, handle) = Self::new(tunnels, networks, view, data_path, attempt);
        tokio::spawn(overlay.run());
        handle
    }

    fn new(
        tunnels: Sides<Arc<dyn Tunnel>>,
        networks: Arc<dyn NetworkDriver>,
        view: watch::Receiver<Arc<OverlayView>>,
        data_path: DataPath,
        attempt: Try,
    ) -> (Self, OverlayHandle) {
        let (ways, tried) = watch::channel(Ways::default());
        let (finds, found) = watch::channel(Found::default());
        // Ends with the overlay.
        tokio::spawn(trying::run(tried, finds, attempt));
        let (ask, asks) = mpsc::channel(ASKS);
        let (known, knows) = watch::channel(None);
        let finding = found.clone();
        let overlay = Self {
            tunnels,
            networks,
            view,
            data_path,
            asks,
            phase: Phase::Outside,
            known,
            failures: 0,
            errors: (Vec::new(), None),
            wrong: Known::default(),
            courses: Courses::default(),
            ensured: None,
            contested: 0,
            crowded: Crowded::default(),
            led: None,
            held_by_others: Contested::new(),
            left_out: BTreeMap::new(),
            ways,
            found,
            fitted: None,
            largest: MTU,
            looked: None,
            keys: Keys::default(),
        };
        (overlay, OverlayHandle { asks: ask, known: knows, found: finding })
    }

    async fn run(mut self) {
        let mut next = Instant::now() + LOOK;
        loop {
            tokio::select! {
                changed = self.view.changed() => {
                    // The driver is gone, and so is the agent.
                    if changed.is_err() {
                        return;
                    }
                    self.phase = Phase::Told;
                    tokio::time::sleep(TOGETHER).await;
                }
                ask = self.asks.recv() => match ask {
                    Some(Ask::Describe(answer)) => {
                        let _ = answer.send(self.described().await);
                        continue;
                    }
                    // Nobody waits for it any more.
                    Some(Ask::Compare(answer)) if answer.is_closed() => continue,
                    Some(Ask::Compare(answer)) => {
                        let _ = answer.send(self.compared().await);
                        continue;
                    }
                    Some(Ask::Remove(answer)) => {
                        // Who was told that he has left goes on until nothing is led either.
                        if self.phase != Phase::Told || self.view.borrow().node_id.is_some() {
                            self.phase = Phase::Outside;
                        }
                        self.known.send_replace(None);
                        self.ensured = None;
                        let _ = answer.send(self.remove().await);
                        continue;
                    }
                    None => return,
                },
                // It ends after this.
                Ok(()) = self.found.changed() => {}
                () = sleep_until(next) => {}
            }
            let errors = match self.phase {
                Phase::Outside => Vec::new(),
                Phase::Begun => self.begin().await,
                Phase::Told => self.follow().await,
            };
            self.note(&errors);
            let pause = if self.failures == 0 { LOOK } else { PAUSES.wait(self.failures, 0.0) };
            next = Instant::now() + self.keys.hurry().map_or(pause, |soon| soon.min(pause));
        }
    }

    async fn described(&mut self) -> Option<TunnelDescription> {
        if self.phase == Phase::Outside {
            self.phase = Phase::Begun;
        }
        let begun = self.begin().await;
        self.note(&begun);
        self.description()
    }

    /// Makes everything as managers have said. What leads packets goes on although the tunnel cannot be had:
    /// services on this host need it, too. Returns all that could not be done.
    async fn follow(&mut self) -> Vec<OverlayError> {
        let view = Arc::clone(&self.view.borrow_and_update());
        // Of no use to who is cut off meanwhile: it begins anew.
        let mut courses = std::mem::take(&mut self.courses);
        courses.follow(&view);
        let (course, editions) = (courses.course(), courses.editions());
        self.complain(course);
        let has_left = view.node_id.is_none();
        let mut errors = Vec::new();
        if has_left {
            self.ensured = None;
            errors.extend(self.remove().await.err().map(OverlayError::from));
            self.ways.send_if_modified(|ways| std::mem::take(ways) != Ways::default());
        } else {
            errors.extend(self.look_at_wires(&view).await.err());
        }
        // Before the interface takes more: nobody is sent what was not seen to pass.
        errors.extend(self.fit(course, &view).await.err());
        if !has_left && !self.is_ensured(editions, &view) {
            self.ensured = None;
            errors.extend(self.ensure(course, &view).await);
            // While keys change, time alone has something done.
            if errors.is_empty() && self.keys.hurry().is_none() {
                self.ensured = Some((editions, Arc::clone(&view), Instant::now()));
            }
        }
        errors.extend(self.part(course, editions).await.err());
        if !has_left {
            self.has();
        }
        errors.extend(self.lead(course, view).await.err());
        self.courses = courses;
        // The host has left its cluster, and nothing is left to be tried again.
        if has_left && errors.is_empty() {
            self.phase = Phase::Outside;
        }
        errors
    }

    /// Whether the tunnel was made for these nodes and addresses a moment ago: most of what changes is not about it.
    fn is_ensured(&self, editions: u64, view: &OverlayView) -> bool {
        self.ensured.as_ref().is_some_and(|(of, made_for, when)| {
            *of == editions && made_for.peers == view.peers && when.elapsed() < LOOK
        })
    }

    /// Follows what the interfaces take by which packets leave for other nodes. What was so holds while none can be seen.
    async fn look_at_wires(&mut self, view: &Arc<OverlayView>) -> Result<(), OverlayError> {
        let was_looked = |(at, when): &(Arc<OverlayView>, Instant)| {
            at.peers == view.peers && when.elapsed() < LOOK
        };
        if self.looked.as_ref().is_some_and(was_looked) {
            return Ok(());
        }
        let wires = self.tunnels.of(Side::First).wires(asked(view.node_id, &view.peers)).await?;
        self.looked = Some((Arc::clone(view), Instant::now()));
        let now = largest(wires.iter().copied());
        if now != self.largest && !wires.is_empty() {
            tracing::info!(
                bytes = now,
                before = self.largest,
                "the tunnel takes packets of another size"
            );
            (self.largest, self.ensured) = (now, None);
        }
        Ok(())
    }

    /// Lets packets be as large as their ways take.
    async fn fit(&mut self, course: &Course, view: &OverlayView) -> Result<(), OverlayError> {
        let found = self.found.borrow_and_update().sizes.clone();
        // Of usual ones what an earlier agent has found out holds until all was tried.
        let Some(sizes) = found.or_else(|| (self.largest > MTU).then(BTreeMap::new)) else {
            return Ok(());
        };
        let fits = (self.largest, fitting(self.largest, &sizes, &course.allowed, &view.peers));
        if self.fitted.as_ref() != Some(&fits) {
            self.fitted = None;
            self.networks.fit(fits.0, fits.1.clone()).await?;
            self.fitted = Some(fits);
        }
        Ok(())
    }

    /// What is led somewhere is kept by the driver: it is told again only if there is news, or to find out whether
    /// a port that somebody else had is free.
    async fn lead(&mut self, course: &Course, view: Arc<OverlayView>) -> Result<(), OverlayError> {
        let tunnel_of = |node: &NodeId| match view.peers.get(node)?.tunnel_address? {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let left_out: BTreeSet<Ipv4Addr> = self.left_out.keys().filter_map(tunnel_of).collect();
        let told = self.led.as_ref();
        let same =
            told.is_some_and(|(led, without)| Arc::ptr_eq(led, &view) && *without == left_out);
        if same && self.held_by_others.is_empty() {
            return Ok(());
        }
        let (vips, mut ingress, crowded) = course.bounded();
        self.complain_of_crowd(crowded);
        ingress.leave_out(&left_out);
        self.led = None;
        let contested = self.networks.lead(course.remote.clone(), vips, ingress).await?;
        self.networks.has_followed(view.revision);
        self.led = Some((view, left_out));
        self.tell_of(contested);
        Ok(())
    }

    /// Says which published ports are led by others alone, when that changes.
    fn tell_of(&mut self, contested: Contested) {
        for (port, holder) in &contested {
            if self.held_by_others.get(port) != Some(holder) {
                let (protocol, port) = port;
                tracing::error!(
                    port,
                    %protocol,
                    %holder,
                    "a published port is in use on this host: it is not led here before that ends, by \
                     other nodes it is"
                );
            }
        }
        for (protocol, port) in self.held_by_others.keys() {
            if !contested.contains_key(&(*protocol, *port)) {
                tracing::info!(port, %protocol, "a published port is in use by nobody else any more");
            }
        }
        self.held_by_others = contested;
    }

    fn note(&mut self, errors: &[OverlayError]) {
        self.failures = if errors.is_empty() { 0 } else { self.failures + 1 };
        let since = self.errors.1.filter(|_| !errors.is_empty());
        let texts: Vec<String> = errors.iter().map(|error| chain(error).to_string()).collect();
        self.errors = (texts, since.or_else(|| (!errors.is_empty()).then(clock)));
        for error in errors {
            tracing::error!(error = %chain(error), "the overlay is not as it should be");
        }
    }

    fn complain_of_crowd(&mut self, crowded: Crowded) {
        if crowded != self.crowded && !crowded.is_empty() {
            let Crowded { vips, ports } = &crowded;
            tracing::error!(
                ?vips,
                ?ports,
                "clients of these services are led to any task, and not to the same one each time: there are more \
                 such services, with more tasks, than a host remembers"
            );
        }
        self.crowded = crowded;
    }

    fn complain(&mut self, course: &Course) {
        let contested: &BTreeMap<_, _> = &course.contested;
        if contested.len() > self.contested {
            tracing::error!(
                ?contested,
                "addresses are claimed by several nodes, so none gets them"
            );
        }
        self.contested = contested.len();
    }
}

mod comparing;
mod epochs;
#[cfg(test)]
mod tests;
mod trying;
