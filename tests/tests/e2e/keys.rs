//! Keys of the tunnel that change under traffic: nothing is lost, and nothing comes twice.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::world::World;

/// A service with a container on each host, and one whose port is led there by all of them. What comes and goes there
/// does so by sockets of the test's own in their namespaces: whatever is executed in a container ends with its agent.
const STACK: &str = "services:\n  web:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    \
    command: [sleep, '1000']\n    networks: [back]\n    \
    deploy: {mode: global, update_config: {monitor: 1s}}\n  \
    asked:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    \
    command: [sleep, '1000']\n    networks: [back]\n    ports: ['9100:9100/udp', '9101:9101/udp']\n    \
    deploy: {placement: {constraints: [node.hostname == h1]}, update_config: {monitor: 1s}}\n\
    networks:\n  back: {driver: overlay, enable_ipv6: true}\n";

/// The last number: nothing comes after it.
const END: u64 = u64::MAX;
/// For all that is sent to a socket, in bytes, with what the kernel has beside each.
const BUFFER: usize = 32 << 20;
/// How often each flow sends: all of a link together less than fills a queue while a busy machine has no turn for who
/// empties it.
const PACE: Duration = Duration::from_millis(4);
/// How long a socket waits.
const SILENCE: Duration = Duration::from_secs(40);

/// Numbers that go from a container to one on another host, as datagrams or as a stream.
struct Flow {
    name: String,
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

/// Each by the next one of some sockets.
fn datagrams(sources: Vec<UdpSocket>, sink: UdpSocket, at: SocketAddr) -> (Send64, Take64) {
    sink.set_read_timeout(Some(SILENCE)).unwrap();
    // What waits for who is slow is not lost.
    set_socket_recv_buffer_size_force(&sink, BUFFER).unwrap();
    let mut turn = 0;
    let send = move |number: u64| {
        turn = (turn + 1) % sources.len();
        sources[turn].send_to(&number.to_be_bytes(), at).unwrap();
    };
    let take = move || {
        let mut bytes = [0; 8];
        sink.recv(&mut bytes).unwrap();
        u64::from_be_bytes(bytes)
    };
    (Box::new(send), Box::new(take))
}

/// A socket for datagrams in the network namespace of a process.
fn bound(pid: u64, at: impl Into<SocketAddr>) -> UdpSocket {
    let at = at.into();
    inside(pid, move || UdpSocket::bind(at).unwrap())
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
    fn begin(name: impl Into<String>, (mut send, mut take): (Send64, Take64)) -> Self {
        let (enough, taken) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, count) = (enough.clone(), taken.clone());
        let sends = std::thread::spawn(move || {
            let mut sent: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                sent += 1;
                send(sent);
                std::thread::sleep(PACE);
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
        Self { name: name.into(), enough, taken, sends, takes }
    }

    fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// Each number has come, once; else what has not.
    fn end(self) -> Option<String> {
        let sent = self.sends.join().unwrap();
        let mut taken = self.takes.join().unwrap();
        // Datagrams may overtake each other while they take two ways.
        taken.sort_unstable();
        let missing: Vec<u64> = (1..=sent).filter(|n| taken.binary_search(n).is_err()).collect();
        let ends = missing.first().zip(missing.last());
        let (name, missing, taken) = (self.name, missing.len(), taken.len());
        assert!(sent > 500, "{name}: {sent} were sent");
        (missing > 0 || taken as u64 != sent).then(|| {
            format!("{name}: {missing} of {sent} are missing ({ends:?}), and {taken} have come")
        })
    }
}

/// Each host sends to the next one, by both families. Who is outside sends to a port of every node, by one without a task
/// of the service: in one flow, and in many that have been quiet for a while.
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
        let addresses = [0, 1].map(|n| {
            let address = at(task, &format!("/NetworksAttachments/0/Addresses/{n}"));
            address.split('/').next().unwrap().parse::<IpAddr>().unwrap()
        });
        assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
        for address in addresses {
            let any: IpAddr = if address.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let name = |kind| format!("{kind} from {} to {address}", from.host);
            flows.push(Flow::begin(
                name("stream"),
                stream(from.pid, to.pid, (address, 9001).into()),
            ));
            let at = SocketAddr::from((address, 9000));
            let source = bound(from.pid, (any, 0));
            flows.push(Flow::begin(
                name("datagrams"),
                datagrams(vec![source], bound(to.pid, at), at),
            ));
        }
    }
    let asked = &world.runs("net_asked", 1)[0];
    let by = world.cluster.named("h2");
    assert_ne!(asked.host, by.name);
    for (port, sockets) in [(9100, 1), (9101, 200)] {
        let outside = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
        let sources = (0..sockets).map(|_| world.cluster.lab.inside(outside).unwrap()).collect();
        let sink = bound(asked.pid, (Ipv4Addr::UNSPECIFIED, port));
        let at = format!("{}:{port}", by.address).parse().unwrap();
        let name = format!("datagrams by {sockets} sockets to port {port}");
        flows.push(Flow::begin(name, datagrams(sources, sink, at)));
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

fn has(host: &Host, ifname: &str) -> bool {
    host.command("ip").unwrap().args(["link", "show", ifname]).output().unwrap().status.success()
}

/// A change under traffic, and something that happens in the middle of it: nothing is lost, and nothing comes twice.
fn change(world: &World, epoch: u64, harm: impl FnOnce()) {
    let flows = begin(world);
    world.ok(&["cluster", "update", "--rotate-tunnel-keys"]);
    world.until(&format!("epoch {epoch} of the keys has begun"), || {
        let now = keys(world)?;
        ensure!(now == (epoch, Some(epoch - 1)), "{now:?}");
        Ok(())
    });
    harm();
    world.until(&format!("epoch {epoch} of the keys is all that there is"), || {
        let now = keys(world)?;
        ensure!(now == (epoch, None), "{now:?}: {}", world.cluster.ctl(&["info"]).both());
        Ok(())
    });
    let mut interfaces = ["shwg0", "shwg1"];
    interfaces.rotate_left(usize::try_from(epoch % 2).unwrap());
    for host in &world.cluster.lab.hosts {
        world.until("the former interface is gone", || {
            ensure!(has(host, interfaces[0]) && !has(host, interfaces[1]));
            Ok(())
        });
    }
    flows.iter().for_each(Flow::stop);
    let lost: Vec<String> = flows.into_iter().filter_map(Flow::end).collect();
    assert!(lost.is_empty(), "epoch {epoch}: {lost:#?}");
}

#[test]
fn keys_of_the_tunnel_change_and_no_packet_is_lost() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", STACK);
    // What comes is dropped if an answer would go elsewhere, where nobody says otherwise.
    for host in &world.cluster.lab.hosts {
        let strict = ["-qw", "net.ipv4.conf.all.rp_filter=1"];
        assert!(host.command("sysctl").unwrap().args(strict).status().unwrap().success());
    }
    assert_eq!(keys(&world).unwrap(), (0, None));
    change(&world, 1, || ());

    // An agent is killed. What its containers send and take goes on, also while another one begins.
    let [first, second] = ["h1", "h2"].map(|name| world.cluster.named(name));
    change(&world, 2, || {
        second.crash(Role::Agent).unwrap();
        assert_eq!(keys(&world).unwrap(), (2, Some(1)), "it is waited for");
        second.start_agent().unwrap();
    });

    // The only manager is killed. The next one, which its agent starts, goes on with what there is.
    let killed = first.the(Role::Manager).unwrap().pid;
    change(&world, 3, || first.crash(Role::Manager).unwrap());
    assert_ne!(first.the(Role::Manager).unwrap().pid, killed);

    // Both on one host, whose manager goes with its agent.
    change(&world, 4, || {
        first.crash(Role::Agent).unwrap();
        first.start_agent().unwrap();
    });

    world.remove("net");
    world.end();
}
