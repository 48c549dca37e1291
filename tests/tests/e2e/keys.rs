//! Keys of the tunnel that change under traffic: nothing is lost, and nothing comes twice.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::world::World;

/// A service with a container on each host. What comes and goes there does so by sockets of the test's own in their
/// namespaces: whatever is executed in a container ends with its agent.
const STACK: &str = "services:\n  web:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    \
    command: [sleep, '1000']\n    networks: [back]\n    \
    deploy: {mode: global, update_config: {monitor: 1s}}\nnetworks:\n  back: {driver: overlay}\n";

/// The last number: nothing comes after it.
const END: u64 = u64::MAX;
/// How many packets of a flow may be lost when an agent begins anew.
const SINGLE: usize = 3;
/// How long a socket waits.
const SILENCE: Duration = Duration::from_secs(40);

/// Numbers that go from a container to one on another host, as datagrams or as a stream.
struct Flow {
    enough: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    sends: JoinHandle<u64>,
    takes: JoinHandle<Vec<u64>>,
}

/// Opens a socket in the network namespace of a process.
fn inside<T: Send + 'static>(pid: u64, open: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        let file = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        open()
    };
    std::thread::spawn(work).join().unwrap()
}

type Send64 = Box<dyn FnMut(u64) + Send>;
type Take64 = Box<dyn FnMut() -> u64 + Send>;

fn datagrams(from: u64, to: u64, at: SocketAddr) -> (Send64, Take64) {
    let sink = inside(to, move || UdpSocket::bind(at).unwrap());
    sink.set_read_timeout(Some(SILENCE)).unwrap();
    let source = inside(from, || UdpSocket::bind("0.0.0.0:0").unwrap());
    let send = move |number: u64| {
        source.send_to(&number.to_be_bytes(), at).unwrap();
    };
    let take = move || {
        let mut bytes = [0; 8];
        sink.recv(&mut bytes).unwrap();
        u64::from_be_bytes(bytes)
    };
    (Box::new(send), Box::new(take))
}

fn stream(from: u64, to: u64, at: SocketAddr) -> (Send64, Take64) {
    let sink = inside(to, move || TcpListener::bind(at).unwrap());
    let mut source = inside(from, move || TcpStream::connect_timeout(&at, SILENCE).unwrap());
    let mut sink = sink.accept().unwrap().0;
    sink.set_read_timeout(Some(SILENCE)).unwrap();
    let send = move |number: u64| source.write_all(&number.to_be_bytes()).unwrap();
    let take = move || {
        let mut bytes = [0; 8];
        sink.read_exact(&mut bytes).unwrap();
        u64::from_be_bytes(bytes)
    };
    (Box::new(send), Box::new(take))
}

impl Flow {
    fn begin((mut send, mut take): (Send64, Take64)) -> Self {
        let (enough, taken) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, count) = (enough.clone(), taken.clone());
        let sends = std::thread::spawn(move || {
            let mut sent: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                sent += 1;
                send(sent);
                std::thread::sleep(Duration::from_millis(2));
            }
            // A datagram before it may have taken another way.
            std::thread::sleep(Duration::from_secs(1));
            send(END);
            sent
        });
        let takes = std::thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                match take() {
                    END => return all,
                    number => all.push(number),
                }
                count.store(all.len() as u64, Ordering::Relaxed);
            }
        });
        Self { enough, taken, sends, takes }
    }

    /// Each number has come, once; but for so many that may be missing.
    fn end(self, may_miss: usize) {
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sends.join().unwrap();
        let mut taken = self.takes.join().unwrap();
        // Datagrams may overtake each other while they take two ways.
        taken.sort_unstable();
        let missing: Vec<u64> = (1..=sent).filter(|n| taken.binary_search(n).is_err()).collect();
        assert!(
            sent > 1000 && missing.len() <= may_miss,
            "{} of {sent} are missing: {missing:?}",
            missing.len()
        );
        assert_eq!(taken.len() + missing.len(), usize::try_from(sent).unwrap(), "some came twice");
    }
}

/// Each host sends to the next one.
fn begin(world: &World) -> Vec<Flow> {
    let mut from = world.runs("net_web", 3);
    from.sort_by(|a, b| a.host.cmp(&b.host));
    let mut to = from.clone();
    to.rotate_left(1);
    let all = world.cluster.json(&["service", "ps", "net_web"]).unwrap();
    let mut flows = Vec::new();
    for (from, to) in from.iter().zip(&to) {
        assert_ne!(from.host, to.host);
        let task = all.iter().find(|task| at(task, "/ID") == to.id).unwrap();
        let address = at(task, "/NetworksAttachments/0/Addresses/0").split('/').next().unwrap();
        let address: IpAddr = address.parse().unwrap();
        flows.push(Flow::begin(stream(from.pid, to.pid, (address, 9001).into())));
        flows.push(Flow::begin(datagrams(from.pid, to.pid, (address, 9000).into())));
    }
    for flow in &flows {
        world.until("numbers come", || {
            ensure!(flow.taken.load(Ordering::Relaxed) > 100);
            Ok(())
        });
    }
    flows
}

fn keys(world: &World) -> Result<(u64, Option<u64>)> {
    let cluster = world.cluster.json(&["cluster", "inspect"])?;
    let number = |pointer: &str| cluster[0].pointer(pointer).and_then(Value::as_u64);
    Ok((number("/TunnelKeys/Present").context("no epoch")?, number("/TunnelKeys/Former")))
}

fn rotate(world: &World) {
    world.ok(&["cluster", "update", "--rotate-tunnel-keys"]);
}

fn until_over(world: &World, epoch: u64) {
    world.until(&format!("epoch {epoch} of the keys is all that there is"), || {
        let now = keys(world)?;
        ensure!(now == (epoch, None), "{now:?}: {}", world.ok(&["info"]));
        Ok(())
    });
}

fn has(host: &Host, ifname: &str) -> bool {
    host.command("ip").unwrap().args(["link", "show", ifname]).output().unwrap().status.success()
}

#[test]
fn keys_of_the_tunnel_change_and_no_packet_is_lost() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", STACK);
    let flows = begin(&world);
    let hosts = ["h1", "h2", "h3"].map(|name| world.cluster.named(name));
    // What comes is dropped if an answer would go elsewhere, where nobody says otherwise.
    for host in hosts {
        let strict = ["-qw", "net.ipv4.conf.all.rp_filter=1"];
        assert!(host.command("sysctl").unwrap().args(strict).status().unwrap().success());
    }
    assert_eq!(keys(&world).unwrap(), (0, None));

    rotate(&world);
    until_over(&world, 1);
    for host in hosts {
        world.until("the former interface is gone", || {
            ensure!(has(host, "shwg1") && !has(host, "shwg0"));
            Ok(())
        });
    }
    flows.into_iter().for_each(|flow| flow.end(0));

    // An agent is killed in the middle of it. What its containers send and take goes on. An agent that begins anew puts
    // its tables in place anew, and the kernel may take single packets at that moment for such as belong nowhere.
    let flows = begin(&world);
    let host = world.cluster.named("h2");
    rotate(&world);
    world.until("the next epoch has begun", || {
        let now = keys(&world)?;
        ensure!(now == (2, Some(1)), "{now:?}");
        Ok(())
    });
    host.crash(Role::Agent).unwrap();
    assert_eq!(keys(&world).unwrap(), (2, Some(1)), "it is waited for");
    host.start_agent().unwrap();
    until_over(&world, 2);
    for host in hosts {
        world.until("the former interface is gone", || {
            ensure!(has(host, "shwg0") && !has(host, "shwg1"));
            Ok(())
        });
    }
    flows.into_iter().for_each(|flow| flow.end(SINGLE));

    world.remove("net");
    world.end();
}
