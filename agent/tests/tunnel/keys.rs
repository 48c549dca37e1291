//! Keys that change while packets go both ways, on hosts that insist on one way for both directions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use shoal_agent_planning::tunnel::crossing::Crossing;
use shoal_agent_planning::tunnel::{Desired, MTU, PORT, Side, TunnelPeer};
use shoal_agent_tunnel::{Tunnel as _, TunnelConfig, Tunnels};
use shoal_types::assignment::{Peer, PeerKeys};
use shoal_types::id::NodeId;
use shoal_types::object::{TunnelEnd, TunnelEpochs};

use crate::lab::{Host, able, block_on, until, wire};

const EPOCHS: TunnelEpochs = TunnelEpochs { present: 1, former: Some(0) };
const NODE: u128 = 7;

/// A host with both interfaces.
struct Both {
    host: Host,
    second: Tunnels,
    crossing: Crossing,
}

impl Both {
    fn new(number: u8) -> Self {
        let host = Host::new(number);
        host.space.run("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=1"]);
        let config = TunnelConfig {
            ifname: Side::Second.ifname("sh"),
            side: Side::Second,
            run_dir: host.config.run_dir.join("second"),
            ..host.config.clone()
        };
        let second = host.space.enter(|| Tunnels::open(config).unwrap());
        Self { host, second, crossing: Crossing::default() }
    }

    fn tunnel(&self, side: Side) -> &Tunnels {
        match side {
            Side::First => &self.host.tunnel,
            Side::Second => &self.second,
        }
    }

    fn ensure(&self, side: Side, other: &Self) {
        let peer = TunnelPeer {
            endpoint: SocketAddr::from((other.host.outer(), side.port(PORT))),
            allowed: [IpAddr::from(other.host.inner()).into()].into(),
            keepalive: Some(Duration::from_secs(25)),
        };
        let key = other.tunnel(side).key().unwrap().public_key;
        let desired = Desired {
            listen_port: side.port(PORT),
            mtu: MTU,
            address: Some(self.host.inner()),
            peers: [(key, peer)].into(),
        };
        block_on(self.tunnel(side).ensure(desired)).unwrap();
    }

    fn lead(&self, side: Side, other: &Self) {
        let (to, by) = (format!("{}/32", other.host.inner()), side.ifname("sh"));
        self.host.space.run("ip", &["route", "replace", &to, "dev", &by, "scope", "link"]);
    }

    /// Whether packets to the other one have to go by the first interface still.
    fn lags(&mut self, other: &Self) -> bool {
        let end = |side: Side| {
            let key = other.tunnel(side).key()?;
            let port = side.port(PORT);
            Some(TunnelEnd { epoch: key.epoch, public_key: key.public_key, port })
        };
        let (first, second) = (end(Side::First), end(Side::Second).unwrap());
        let node_id = NodeId::from(NODE);
        let peer = Peer {
            node_id,
            public_key: second.public_key,
            addr: other.host.outer().into(),
            port: second.port,
            tunnel_address: None,
            keys: PeerKeys { epoch: Some(1), other: first, cluster: None },
        };
        let [former, present] = Side::ALL.map(|side| {
            let seen = block_on(self.tunnel(side).observe()).unwrap();
            seen.map(|seen| seen.device)
        });
        let lagging = self.crossing.lagging(EPOCHS, [&peer], present.as_ref(), former.as_ref());
        !lagging.is_empty()
    }
}

/// Numbers that go from one host to another, until somebody says that it is enough.
struct Flow {
    enough: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    sends: thread::JoinHandle<u64>,
    takes: thread::JoinHandle<Vec<u64>>,
}

/// Sent and not come, at most.
const UNDER_WAY: u64 = 100;

/// The last one: nothing comes after it.
const END: u64 = u64::MAX;

impl Flow {
    fn begin(from: &Both, to: &Both, port: u16) -> Self {
        let (source, sink) = (from.host.socket(port), to.host.socket(port));
        let at = SocketAddr::from((to.host.inner(), port));
        let (enough, taken) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, come) = (enough.clone(), taken.clone());
        let sends = thread::spawn(move || {
            let mut sent: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                // What waits to be encrypted goes with its interface, so on a slow machine there is less of it than comes
                // before that is deleted.
                if sent.saturating_sub(come.load(Ordering::Relaxed)) < UNDER_WAY {
                    sent += 1;
                    source.send_to(&sent.to_be_bytes(), at).unwrap();
                }
            }
            // What is before it may take another way.
            thread::sleep(Duration::from_millis(500));
            source.send_to(&END.to_be_bytes(), at).unwrap();
            sent
        });
        let count = taken.clone();
        let takes = thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 8]);
            loop {
                sink.recv(&mut buffer).unwrap();
                match u64::from_be_bytes(buffer) {
                    END => return all,
                    number => all.push(number),
                }
                count.store(all.len() as u64, Ordering::Relaxed);
            }
        });
        Self { enough, taken, sends, takes }
    }

    /// Waits until many more have come.
    fn goes_on(&self) {
        let begun = self.taken.load(Ordering::Relaxed);
        until("many more come", || {
            (self.taken.load(Ordering::Relaxed) > begun + 200).then_some(())
        });
    }

    /// All have come, once.
    fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sends.join().unwrap();
        let mut taken = self.takes.join().unwrap();
        taken.sort_unstable();
        let before = std::iter::once(&0).chain(&taken);
        let after = taken.iter().chain(std::iter::once(&END));
        let others: Vec<_> = before.zip(after).filter(|(one, next)| **one + 1 != **next).collect();
        // But for the end, where nothing comes.
        assert_eq!(others, [(&sent, &END)], "numbers that do not follow each other");
    }
}

#[test]
fn keys_change_under_packets() {
    if !able() {
        return;
    }
    let (mut one, mut two) = (Both::new(1), Both::new(2));
    wire(&one.host, &two.host);
    for (own, other) in [(&one, &two), (&two, &one)] {
        own.ensure(Side::First, other);
        own.lead(Side::First, other);
    }
    let flows = [Flow::begin(&one, &two, 9001), Flow::begin(&two, &one, 9002)];
    let go_on = || flows.iter().for_each(Flow::goes_on);
    go_on();

    // Each has a key for the next epoch. The second one does not know of the first one's for a while.
    for both in [&one, &two] {
        block_on(both.second.turn(1)).unwrap();
    }
    one.ensure(Side::Second, &two);
    go_on();
    assert!(one.lags(&two) && two.lags(&one), "nobody has agreed on keys");
    two.ensure(Side::Second, &one);
    until("the first one may go over", || (!one.lags(&two)).then_some(()));
    one.lead(Side::Second, &two);
    go_on();
    // One direction goes by each.
    until("the second one may go over", || (!two.lags(&one)).then_some(()));
    two.lead(Side::Second, &one);
    go_on();
    // Nobody uses the first ones any more.
    for both in [&one, &two] {
        block_on(both.host.tunnel.forget()).unwrap();
        assert!(!both.host.links().contains(&Side::First.ifname("sh")));
        go_on();
    }
    flows.into_iter().for_each(Flow::end);
    for both in [&one, &two] {
        block_on(both.second.forget()).unwrap();
        assert_eq!(both.host.links(), ["lo", "up0"]);
    }
}
