//! An agent is killed at every step of a change of keys, and begun anew: all hosts get there, and each of them has packets
//! go by links on which keys were agreed on, all the time.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::AtomicU64;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Desired, Device};
use shoal_agent_tunnel::{Comparison, EpochKey, Seen, TunnelState};
use shoal_types::assignment::PeerKeys;
use tokio::task::JoinHandle;

use super::*;

/// How often is looked at everything.
const TICK: Duration = Duration::from_millis(200);
/// How long two that know each other take to agree on keys.
const AGREE: Duration = Duration::from_secs(3);
/// How often they do again.
const AGAIN: Duration = Duration::from_secs(120);
/// How long an agent that was killed is away.
const AWAY: Duration = Duration::from_secs(1);
/// Looks between what agents say, all at the same time.
const HEARTBEAT: u64 = 5;
/// How long a change takes at the most.
const BOUND: Duration = Duration::from_secs(60);

/// Counts what is done, and from some time on lets nobody go on after it.
struct Gate {
    passed: AtomicU64,
    closed_at: AtomicU64,
}

impl Gate {
    fn open() -> Arc<Self> {
        Arc::new(Self { passed: AtomicU64::new(0), closed_at: AtomicU64::new(u64::MAX) })
    }

    fn close_after(&self, steps: u64) {
        self.passed.store(0, Ordering::Relaxed);
        self.closed_at.store(steps, Ordering::Relaxed);
    }

    fn has_stopped(&self) -> bool {
        self.passed.load(Ordering::Relaxed) > self.closed_at.load(Ordering::Relaxed)
    }

    async fn pass(&self) {
        if self.passed.fetch_add(1, Ordering::Relaxed) >= self.closed_at.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }
}

struct Gated {
    tunnel: Arc<FakeTunnel>,
    gate: Arc<Gate>,
}

impl Gated {
    fn through<'a, T: Send + 'a>(&'a self, call: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        async move {
            let came = call.await;
            self.gate.pass().await;
            came
        }
        .boxed()
    }
}

impl Tunnel for Gated {
    fn key(&self) -> Option<EpochKey> {
        self.tunnel.key()
    }

    fn turn(&self, epoch: u64) -> BoxFuture<'_, Result<EpochKey, TunnelError>> {
        self.through(self.tunnel.turn(epoch))
    }

    fn forget(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        self.through(self.tunnel.forget())
    }

    fn ensure(&self, desired: Desired) -> BoxFuture<'_, Result<TunnelState, TunnelError>> {
        self.through(self.tunnel.ensure(desired))
    }

    fn observe(&self) -> BoxFuture<'_, Result<Option<Seen>, TunnelError>> {
        self.through(async { self.tunnel.observe().await }.boxed())
    }

    fn compare(&self, desired: Desired) -> BoxFuture<'_, Result<Comparison, TunnelError>> {
        self.through(self.tunnel.compare(desired))
    }

    fn wires(&self, to: BTreeSet<IpAddr>) -> BoxFuture<'_, Result<BTreeSet<u32>, TunnelError>> {
        self.through(self.tunnel.wires(to))
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        self.through(self.tunnel.remove())
    }
}

struct Agent {
    runs: JoinHandle<()>,
    handle: OverlayHandle,
}

/// What outlives its agent: the interfaces, and where packets are led.
struct Host {
    number: u8,
    tunnels: Sides<Arc<FakeTunnel>>,
    networks: Arc<FakeNetworks>,
    agent: Option<Agent>,
    /// What managers will have told it, and when.
    told: VecDeque<(Instant, Arc<OverlayView>)>,
    /// What they know of it.
    said: Option<TunnelDescription>,
}

impl Host {
    fn new(number: u8) -> Self {
        let tunnel = |side, byte| Arc::new(FakeTunnel::new(key(byte), TunnelKind::Kernel, side));
        let first = tunnel(Side::First, 10 + number);
        let second = tunnel(Side::Second, 110 + number);
        let networks = Arc::default();
        let tunnels = Sides { first, second };
        Self { number, tunnels, networks, agent: None, told: VecDeque::new(), said: None }
    }

    fn id(&self) -> NodeId {
        u128::from(self.number).into()
    }

    /// Of its task and of its own.
    fn addresses(&self) -> [IpAddr; 2] {
        [[10, 0, 0, self.number].into(), [10, 9, 0, self.number].into()]
    }

    async fn start(&mut self, gate: &Arc<Gate>) {
        // What was led is led still, and what was told is not known any more.
        let second = self.networks.second().borrow().clone();
        self.networks = Arc::default();
        self.networks.part(second).await.unwrap();
        let gated = |tunnel: &Arc<FakeTunnel>| -> Arc<dyn Tunnel> {
            Arc::new(Gated { tunnel: Arc::clone(tunnel), gate: Arc::clone(gate) })
        };
        let sides =
            Sides { first: gated(&self.tunnels.first), second: gated(&self.tunnels.second) };
        let (networks, view) = (self.networks.clone(), self.networks.overlay());
        let (overlay, handle) = Overlay::new(sides, networks, view, data_path(), whole());
        self.agent = Some(Agent { runs: tokio::spawn(overlay.run()), handle: handle.clone() });
        self.said = handle.describe().await;
        self.told.clear();
    }

    fn kill(&mut self) {
        self.agent.take().unwrap().runs.abort();
    }

    async fn device(&self, side: Side) -> Option<Device> {
        self.tunnels.of(side).observe().await.unwrap().map(|seen| seen.device)
    }

    /// As managers tell others of it.
    fn peer(&self) -> Option<Peer> {
        let said = self.said?;
        let keys = said.keys?;
        Some(Peer {
            node_id: self.id(),
            public_key: said.public_key,
            addr: [192, 0, 2, self.number].into(),
            port: said.port,
            tunnel_address: Some(self.addresses()[1]),
            keys: PeerKeys { epoch: Some(keys.epoch), other: keys.other, cluster: None },
        })
    }
}

/// Whether a device takes from another host, and sends to it, what goes by these two.
fn knows(device: &Device, host: &Host, other: &Device) -> bool {
    let peer = other.key.and_then(|key| device.peers.get(&key));
    peer.is_some_and(|peer| {
        peer.endpoint.map(|at| at.port()) == other.listen_port
            && host.addresses().iter().all(|address| peer.allowed.contains(&(*address).into()))
    })
}

struct World {
    hosts: [Host; 3],
    epochs: TunnelEpochs,
    looks: u64,
    /// How much later than managers each host knows of a change.
    late_ms: [u64; 3],
    /// Since when two hosts know each other's keys, by which interface.
    since: BTreeMap<(u8, u8, Side), Instant>,
}

impl World {
    /// Hosts that have keys of one epoch, and have agreed on some.
    async fn in_epoch(present: u64, late_ms: [u64; 3], gate: &Arc<Gate>) -> Self {
        let mut hosts = [1, 2, 3].map(Host::new);
        for host in &mut hosts {
            host.tunnels.of(Side::of(present)).turn(present).await.unwrap();
            let open = Gate::open();
            host.start(if host.number == 1 { gate } else { &open }).await;
        }
        let epochs = TunnelEpochs { present, former: None };
        let mut world = Self { hosts, epochs, looks: 0, late_ms, since: BTreeMap::new() };
        world.tell_all();
        while world.lost().is_some() || !world.is_settled() {
            world.tick().await;
            assert!(world.looks < 600, "it does not begin: {:?}", world.lost());
        }
        world
    }

    /// What managers say to a host.
    fn view(&self, to: &Host) -> Arc<OverlayView> {
        let mut view = view();
        let one = view.endpoints.values().next().unwrap().clone();
        view.node_id = Some(to.id());
        let endpoint = |host: &Host| {
            let mut task = TaskEndpoint::clone(&one);
            (task.task_id, task.node_id) = (u128::from(host.number).into(), host.id());
            task.networks[0].addresses =
                vec![format!("{}/24", host.addresses()[0]).parse().unwrap()];
            (task.task_id, Arc::new(task))
        };
        view.endpoints = self.hosts.iter().map(endpoint).collect();
        let cluster = |id: NodeId| (id == to.id()).then_some(self.epochs);
        let peers = self.hosts.iter().filter_map(Host::peer).map(|mut peer| {
            peer.keys.cluster = cluster(peer.node_id);
            (peer.node_id, Arc::new(peer))
        });
        view.peers = peers.collect();
        Arc::new(view)
    }

    fn tell(&mut self, host: usize) {
        let at = Instant::now() + Duration::from_millis(self.late_ms[host]);
        let view = self.view(&self.hosts[host]);
        self.hosts[host].told.push_back((at, view));
    }

    fn tell_all(&mut self) {
        (0..self.hosts.len()).for_each(|host| self.tell(host));
    }

    /// Hosts that know each other agree on keys.
    async fn agree(&mut self) {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            for side in Side::ALL {
                let (one, other) = (&self.hosts[a], &self.hosts[b]);
                let link = (one.number, other.number, side);
                let both = match (one.device(side).await, other.device(side).await) {
                    (Some(mine), Some(its)) => {
                        let mutual = knows(&mine, other, &its) && knows(&its, one, &mine);
                        mutual.then_some([(one, its.key), (other, mine.key)])
                    }
                    _ => None,
                };
                let Some(ends) = both else {
                    self.since.remove(&link);
                    continue;
                };
                let since = *self.since.entry(link).or_insert_with(Instant::now);
                let Some(good) = since.elapsed().checked_sub(AGREE) else { continue };
                let age = Duration::from_millis(
                    u64::try_from(good.as_millis() % AGAIN.as_millis()).unwrap(),
                );
                for (host, key) in ends {
                    host.tunnels.of(side).break_with(|observed| {
                        let device = observed.device.as_mut().unwrap();
                        device.peers.get_mut(&key.unwrap()).unwrap().handshake_age = Some(age);
                    });
                }
            }
        }
    }

    /// Which host has packets for another one go where keys were not agreed on.
    fn lost(&self) -> Option<String> {
        for from in &self.hosts {
            for to in self.hosts.iter().filter(|to| to.number != from.number) {
                for address in to.addresses() {
                    let second = from.networks.second();
                    let is_second = second.borrow().contains(&address);
                    let side = if is_second { Side::Second } else { Side::First };
                    let link = (from.number.min(to.number), from.number.max(to.number), side);
                    if self.since.get(&link).is_none_or(|since| since.elapsed() < AGREE) {
                        return Some(format!("{} to {address} by {side:?}", from.number));
                    }
                }
            }
        }
        None
    }

    /// What agents say comes, and what follows from it is told.
    fn manage(&mut self) {
        let mut is_news = false;
        if self.looks.is_multiple_of(HEARTBEAT) {
            for host in &mut self.hosts {
                let Some(agent) = &host.agent else { continue };
                let said = *agent.handle.known().borrow();
                is_news |= std::mem::replace(&mut host.said, said) != said;
            }
        }
        let has_followed = |host: &Host| host.said.is_some_and(|s| s.has_followed(self.epochs, 0));
        if self.hosts.iter().all(has_followed)
            && let Some(ended) = self.epochs.ended()
        {
            (self.epochs, is_news) = (ended, true);
        }
        if is_news {
            self.tell_all();
        }
        for host in &mut self.hosts {
            while let Some((_, view)) = host.told.pop_front_if(|(at, _)| *at <= Instant::now()) {
                host.networks.tell(view);
            }
        }
    }

    async fn tick(&mut self) {
        tokio::time::sleep(TICK).await;
        self.looks += 1;
        self.agree().await;
        self.manage();
    }

    /// Whether each host has the one key of the present epoch, by which all packets go.
    fn is_settled(&self) -> bool {
        let Self { epochs, hosts, .. } = self;
        let own = Side::of(epochs.present);
        epochs.former.is_none()
            && hosts.iter().all(|host| {
                let count = host.networks.second().borrow().len();
                host.tunnels.of(own).key().is_some_and(|key| key.epoch == epochs.present)
                    && host.tunnels.of(own.other()).key().is_none()
                    && count == if own == Side::Second { 4 } else { 0 }
            })
    }

    /// Changes the keys; whether the agent of the first host was killed meanwhile.
    async fn change(&mut self, gate: &Gate) -> Result<bool, String> {
        self.epochs = self.epochs.begun().unwrap();
        self.tell_all();
        let (began, mut killed) = (Instant::now(), None);
        while !self.is_settled() {
            self.tick().await;
            if let Some(lost) = self.lost() {
                return Err(lost);
            }
            if began.elapsed() > BOUND {
                return Err(format!("{:?} for ever", self.epochs));
            }
            if killed.is_none() && gate.has_stopped() {
                self.hosts[0].kill();
                killed = Some(Instant::now());
            }
            let is_back = killed.is_some_and(|then: Instant| then.elapsed() >= AWAY);
            if is_back && self.hosts[0].agent.is_none() {
                self.hosts[0].start(&Gate::open()).await;
                self.tell_all();
            }
        }
        Ok(killed.is_some())
    }
}

/// Kills it after the first step of a change from this epoch, after the second one, and so on.
async fn every_step_is_survived(present: u64, late_ms: [u64; 3]) {
    let mut step = 0;
    loop {
        let gate = Gate::open();
        let mut world = World::in_epoch(present, late_ms, &gate).await;
        gate.close_after(step);
        let changed = world.change(&gate).await;
        if !changed.unwrap_or_else(|why| panic!("killed after {step} steps: {why}")) {
            break;
        }
        step += 1;
    }
    assert!(step > 100, "there are more steps than {step}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_may_be_killed_at_every_step_to_the_second_interface() {
    every_step_is_survived(0, [200, 600, 1400]).await;
}

/// And all say their keys before they have heard of another's.
#[tokio::test(start_paused = true)]
async fn an_agent_may_be_killed_at_every_step_to_the_first_interface() {
    every_step_is_survived(1, [600; 3]).await;
}
