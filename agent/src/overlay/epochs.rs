//! The two interfaces of the tunnel, and by which one packets go to whom.
//!
//! In each epoch a node has another key, on the interface whose turn it is. While managers name two epochs both interfaces
//! are there, and take what comes; packets go to another node by the former one until keys were agreed on with it on the
//! present one ([`Crossing`]). When managers name the former one no more, nobody uses it, and it goes a little later, so
//! that what is still on its way arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_planning::overlay::{Course, OverlayView, Remote};
use shoal_agent_planning::tunnel::crossing::{Crossing, Lacks, Parting};
use shoal_agent_planning::tunnel::held::{self, Held};
use shoal_agent_planning::tunnel::selftest::End;
use shoal_agent_planning::tunnel::{Desired, LeftOut, Side, peers};
use shoal_agent_tunnel::{EpochKey, TunnelError};
use shoal_types::id::NodeId;
use shoal_types::object::{DescribedKeys, TunnelDescription, TunnelEnd, TunnelEpochs, TunnelKind};
use tokio::time::Instant;

use super::trying::Ways;
use super::{DataPath, KEEPALIVE, Overlay, OverlayError, Phase};

/// How often is looked whether packets can go by the present epoch's links, while some go by the former's.
const HURRY: Duration = Duration::from_millis(500);
/// How long that is so: where packets do not pass by the present one, it may be for ever.
const HURRIED: Duration = Duration::from_secs(60);

/// One for each of the two interfaces.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sides<T> {
    pub(crate) first: T,
    pub(crate) second: T,
}

impl<T> Sides<T> {
    pub(super) const fn of(&self, side: Side) -> &T {
        match side {
            Side::First => &self.first,
            Side::Second => &self.second,
        }
    }

    const fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::First => &mut self.first,
            Side::Second => &mut self.second,
        }
    }
}

/// How far a host is with the epochs of its keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// What managers have said, if they have.
    told: Option<TunnelEpochs>,
    /// Epochs whose links were used since this agent began.
    used: BTreeSet<u64>,
    /// What encrypts on an interface that works, and its name.
    works: Sides<Option<(TunnelKind, String)>>,
    /// Since when nobody uses an interface.
    idle: Sides<Option<Instant>>,
    crossing: Crossing,
    /// By which links packets go, once that was decided.
    parting: Option<Parting>,
    /// When something else than before was last decided.
    decided: Option<Instant>,
    /// What the driver was told last of what goes by the second interface, with success, and what that followed from.
    parted: Option<(u64, Parting, Remote)>,
}

impl Keys {
    /// When the next look is due, if that is sooner than usual.
    pub(super) fn hurry(&self) -> Option<Duration> {
        let is_idle = Side::ALL.iter().any(|side| self.idle.of(*side).is_some());
        // That a key was made is told, and not found out.
        let parting = self.parting.as_ref();
        let waits = parting.is_some_and(|parting| parting.count(Lacks::Agreement) > 0);
        let is_new = self.decided.is_some_and(|then| then.elapsed() < HURRIED);
        (is_idle || waits && is_new).then_some(HURRY)
    }

    /// How many nodes are reached by links of the former epoch.
    pub(super) fn lagging_count(&self) -> u64 {
        self.parting.as_ref().map_or(0, |parting| parting.lagging.len() as u64)
    }

    /// By the links of which epoch packets go to a node: the present one's before anything was decided.
    pub(super) fn epoch_for(&self, node: NodeId, epochs: TunnelEpochs) -> u64 {
        self.parting.as_ref().map_or(epochs.present, |parting| parting.epoch_for(node))
    }
}

/// By which key a node is known whose end is tried, and by which interface.
type Links = BTreeMap<NodeId, (End, String)>;

impl Overlay {
    /// What managers say of epochs; what follows from the keys that there are where they do not, as before a node has told
    /// them of its tunnel.
    pub(super) fn epochs(&self, view: &OverlayView) -> TunnelEpochs {
        let said = view.node_id.and_then(|own| view.peers.get(&own)?.keys.cluster);
        let of_keys = || held::epochs(self.known_keys().map(|(_, key)| key.epoch));
        said.or(self.keys.told).unwrap_or_else(of_keys)
    }

    fn known_keys(&self) -> impl Iterator<Item = (Side, EpochKey)> {
        Side::ALL.into_iter().filter_map(|side| Some((side, self.tunnels.of(side).key()?)))
    }

    fn port(&self, side: Side) -> u16 {
        side.port(self.data_path.port)
    }

    /// A tunnel that works is left alone: what else there is to be done about it follows from what managers say. One is
    /// made where there is none, for the first epoch; of which there is, is told then.
    pub(super) async fn begin(&mut self) -> Vec<OverlayError> {
        let mut errors = Vec::new();
        if self.known_keys().next().is_none()
            && let Err(error) = self.tunnels.of(Side::First).turn(0).await
        {
            return vec![error.into()];
        }
        let view = Arc::clone(&self.view.borrow());
        let epochs = self.epochs(&view);
        let mut courses = std::mem::take(&mut self.courses);
        let course = courses.follow(&view);
        for (side, key) in self.known_keys().collect::<Vec<_>>() {
            let tunnel = Arc::clone(self.tunnels.of(side));
            match tunnel.observe().await {
                Ok(Some(seen)) if seen.device.listen_port == Some(self.port(side)) => {
                    let works = self.keys.works.of_mut(side);
                    let name = works.take().map_or_else(String::new, |(_, name)| name);
                    *works = Some((seen.kind, name));
                }
                Ok(_) => {
                    *self.keys.works.of_mut(side) = None;
                    let (desired, _) = self.desired(key, epochs, course, &view);
                    errors.extend(self.ensure_side(side, desired).await.err());
                }
                Err(error) => {
                    *self.keys.works.of_mut(side) = None;
                    errors.push(error.into());
                }
            }
        }
        self.courses = courses;
        self.has();
        errors
    }

    /// Makes both interfaces, or the one that there is, as managers have said, and decides by which one packets go.
    pub(super) async fn ensure(
        &mut self,
        course: &Course,
        view: &OverlayView,
    ) -> Vec<OverlayError> {
        let epochs = self.epochs(view);
        self.keys.told = Some(epochs);
        let mut errors = Vec::new();
        let mut left_out = BTreeMap::new();
        for epoch in epochs.all().collect::<Vec<_>>() {
            match self.turned(epoch).await {
                Ok(Some(key)) => {
                    let (desired, without) = self.desired(key, epochs, course, view);
                    if epoch == epochs.present {
                        left_out = without;
                    }
                    self.keys.used.insert(epoch);
                    errors.extend(self.ensure_side(Side::of(epoch), desired).await.err());
                }
                // It is in use for the one before the former one, for a moment.
                Ok(None) => {}
                Err(error) => errors.push(error.into()),
            }
        }
        errors.extend(self.retire(epochs).await.err().map(OverlayError::from));
        self.note_left_out(left_out);
        errors.extend(self.cross(epochs, course, view).await.err().map(OverlayError::from));
        self.try_links(epochs, course, view);
        errors
    }

    /// The key of an epoch, with which its interface is from now on; none while that still has another one.
    async fn turned(&mut self, epoch: u64) -> Result<Option<EpochKey>, TunnelError> {
        let side = Side::of(epoch);
        let held = self.held(side);
        if held.is_some_and(|held| !held.may_turn(epoch)) {
            return Ok(None);
        }
        if held.is_none_or(|held| held.epoch != epoch) {
            *self.keys.works.of_mut(side) = None;
        }
        *self.keys.idle.of_mut(side) = None;
        self.tunnels.of(side).turn(epoch).await.map(Some)
    }

    fn held(&self, side: Side) -> Option<Held> {
        let epoch = self.tunnels.of(side).key()?.epoch;
        Some(Held { epoch, used: self.keys.used.contains(&epoch) })
    }

    /// Takes away what is of no epoch any more, when nobody has used it for a while.
    async fn retire(&mut self, epochs: TunnelEpochs) -> Result<(), TunnelError> {
        for side in Side::ALL {
            let Some(held) = self.held(side).filter(|held| held.is_over(epochs)) else { continue };
            let since = *self.keys.idle.of_mut(side).get_or_insert_with(Instant::now);
            if !held.may_go(since.elapsed()) {
                continue;
            }
            self.tunnels.of(side).forget().await?;
            let Held { epoch, used: _ } = held;
            tracing::info!(epoch, "forgot a key of the tunnel, and took its interface away");
            self.keys.used.remove(&epoch);
            (*self.keys.idle.of_mut(side), *self.keys.works.of_mut(side)) = (None, None);
        }
        Ok(())
    }

    /// What the interface of a key should be, and nodes to which there can be no tunnel by it.
    pub(super) fn desired(
        &self,
        key: EpochKey,
        epochs: TunnelEpochs,
        course: &Course,
        view: &OverlayView,
    ) -> (Desired, BTreeMap<NodeId, LeftOut>) {
        let EpochKey { epoch, public_key } = key;
        let at = (epoch, epochs.present);
        let (peers, left_out) =
            peers(public_key, at, &course.allowed, &view.peers, Some(KEEPALIVE));
        let (listen_port, address) = (self.port(Side::of(epoch)), course.ingress.home);
        (Desired { listen_port, mtu: self.largest, address, peers }, left_out)
    }

    async fn ensure_side(&mut self, side: Side, desired: Desired) -> Result<(), OverlayError> {
        let state = self.tunnels.of(side).ensure(desired).await?;
        for action in &state.done {
            tracing::info!(?action, tunnel = state.ifname, "put the tunnel in order");
        }
        *self.keys.works.of_mut(side) = Some((state.kind, state.ifname));
        Ok(())
    }

    fn note_left_out(&mut self, left_out: BTreeMap<NodeId, LeftOut>) {
        if left_out != self.left_out {
            for (node, why) in &left_out {
                tracing::error!(%node, %why, "no tunnel to a node");
            }
            self.left_out = left_out;
        }
    }

    /// Decides to whom packets go by the links of the former epoch.
    async fn cross(
        &mut self,
        epochs: TunnelEpochs,
        course: &Course,
        view: &OverlayView,
    ) -> Result<(), TunnelError> {
        let (mut present, mut former) = (None, None);
        if let Some(epoch) = epochs.former {
            present = self.tunnels.of(Side::of(epochs.present)).observe().await?;
            former = self.tunnels.of(Side::of(epoch)).observe().await?;
        }
        let works = self.keys.works.of(Side::of(epochs.present)).is_some();
        let present = present.filter(|_| works).map(|seen| seen.device);
        let former = former.map(|seen| seen.device);
        let others =
            course.allowed.keys().filter_map(|node| view.peers.get(node)).map(|peer| &**peer);
        let lagging = self.keys.crossing.lagging(epochs, others, present.as_ref(), former.as_ref());
        let now = Some(Parting { epochs, lagging });
        let before = self.keys.lagging_count();
        if now != self.keys.parting {
            (self.keys.parting, self.keys.decided) = (now, Some(Instant::now()));
        }
        let by_former = self.keys.lagging_count();
        if by_former != before {
            let epoch = epochs.present;
            tracing::info!(epoch, by_former, "packets go by links of the present epoch of keys");
        }
        Ok(())
    }

    /// Has packets go by the interface that was decided on; as they did, while nothing was.
    pub(super) async fn part(
        &mut self,
        course: &Course,
        editions: u64,
    ) -> Result<(), OverlayError> {
        let parting = match &self.keys.parting {
            Some(parting) => parting,
            None if course.allowed.is_empty() => &Parting::default(),
            None => return Ok(()),
        };
        let told = self.keys.parted.as_ref();
        if told.is_some_and(|(of, by, _)| (*of, by) == (editions, parting)) {
            return Ok(());
        }
        let parting = parting.clone();
        let is_second = |node: &NodeId| Side::of(parting.epoch_for(*node)) == Side::Second;
        let by_second = course.allowed.iter().filter(|(node, _)| is_second(node));
        let mut second = Remote::new();
        for net in by_second.flat_map(|(_, nets)| nets) {
            second.insert(net.addr());
        }
        let told = self.keys.parted.take();
        if told.is_none_or(|(_, _, told)| told != second) {
            self.networks.part(second.clone()).await?;
        }
        self.keys.parted = Some((editions, parting, second));
        Ok(())
    }

    /// There is a tunnel, if any of its interfaces works.
    pub(super) fn has(&self) {
        let now = self.description();
        if now.is_some() {
            self.known.send_if_modified(|known| std::mem::replace(known, now) != now);
        }
    }

    /// What managers are told of the interfaces that work. While packets do not go as is to be decided, or nobody knows,
    /// they need whatever links there are.
    pub(super) fn description(&self) -> Option<TunnelDescription> {
        let told = self.keys.told.filter(|_| self.phase == Phase::Told);
        let ends = self.known_keys().filter_map(|(side, EpochKey { epoch, public_key })| {
            let (kind, _) = self.keys.works.of(side).as_ref()?;
            Some((*kind, TunnelEnd { epoch, public_key, port: self.port(side) }))
        });
        let (kind, TunnelEnd { epoch, public_key, port }, other) = held::described(told, ends)?;
        let (mut lagging, mut lacking, mut is_parted) = (0, 0, self.known_keys().count() < 2);
        if let Some(parting) = &self.keys.parting {
            [lagging, lacking] = [Lacks::Agreement, Lacks::Key].map(|why| parting.count(why));
            let is_of = told.is_none_or(|told| told == parting.epochs);
            is_parted = is_of && self.keys.parted.is_some();
        }
        lagging = lagging.max(u32::from(!is_parted));
        let DataPath { addr, port: _ } = self.data_path;
        let keys = Some(DescribedKeys { epoch, other, lagging, lacking });
        Some(TunnelDescription { public_key, port, addr, kind, keys })
    }

    /// The other ends of the links that are used, as far as they have an address in the tunnel, and by which interface.
    pub(super) fn links(&self, epochs: TunnelEpochs, course: &Course, view: &OverlayView) -> Links {
        let mut links = Links::new();
        for (node, nets) in &course.allowed {
            let Some(peer) = view.peers.get(node).filter(|_| !nets.is_empty()) else { continue };
            let epoch = self.keys.epoch_for(*node, epochs);
            let Some((_, ifname)) = self.keys.works.of(Side::of(epoch)) else { continue };
            if let (Some(end), Some(IpAddr::V4(address))) =
                (peer.end(epoch, epochs.present), peer.tunnel_address)
                && !self.left_out.contains_key(node)
            {
                let endpoint = (peer.addr, end.port).into();
                links.insert(
                    *node,
                    (End { address, key: end.public_key, endpoint }, ifname.clone()),
                );
            }
        }
        links
    }

    /// Has the links that are used tried.
    fn try_links(&self, epochs: TunnelEpochs, course: &Course, view: &OverlayView) {
        let links = self.links(epochs, course, view);
        let works = Side::ALL.into_iter().filter_map(|side| self.keys.works.of(side).as_ref());
        let now = Ways {
            ifnames: works.map(|(_, ifname)| ifname.clone()).collect(),
            home: course.ingress.home,
            by: links.values().map(|(end, ifname)| (end.key, ifname.clone())).collect(),
            ends: links.into_iter().map(|(node, (end, _))| (node, end)).collect(),
            told: self.phase == Phase::Told,
            full: self.largest,
        };
        self.ways.send_if_modified(|ways| {
            let is_news = *ways != now;
            *ways = now;
            is_news
        });
    }

    /// Leaves nothing of the tunnel but its keys.
    pub(super) async fn remove(&mut self) -> Result<(), TunnelError> {
        self.keys = Keys::default();
        for side in Side::ALL {
            self.tunnels.of(side).remove().await?;
        }
        Ok(())
    }
}
