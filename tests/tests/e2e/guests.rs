//! A host is a guest's house: what it was before `init`, it is after `leave`, and meanwhile it does
//! for others what it did before.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shoal_tests::cluster::busybox_image;
use shoal_tests::eventually::eventually;
use shoal_tests::host::{Host, REGISTRY, inside, succeed};
use shoal_tests::skip::skip;

use crate::identities::Hosts;
use crate::world::{PATIENCE, page, service};

/// The host's address on a second wire, and that of the stranger at its other end.
const HERE: &str = "10.98.0.1";
const FAR: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
const PORT: u16 = 7000;
/// How long something that was deleted may be away.
const BACK: Duration = Duration::from_secs(2);
/// How long a connection that must not come about is waited for.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// Somebody on a second wire of a host, who serves a port.
struct Stranger {
    netns: String,
}

impl Stranger {
    fn new(hosts: &Hosts, host: &Host) -> Self {
        let netns = format!("{}-far", hosts.lab.name);
        let (home, switch) = (host.netns(), hosts.lab.switch());
        let stranger = Self { netns: netns.clone() };
        for words in [
            format!("netns add {netns}"),
            format!("-n {home} link add eth1 type veth peer name eth1 netns {netns}"),
            format!("-n {home} addr add {HERE}/24 dev eth1"),
            format!("-n {netns} addr add {FAR}/24 dev eth1"),
            format!("-n {home} link set eth1 up"),
            format!("-n {netns} link set eth1 up"),
            format!("-n {netns} route add default via {HERE}"),
            format!("-n {switch} route add 10.98.0.0/24 via {}", host.address),
        ] {
            succeed(Command::new("ip").args(words.split_whitespace()), PATIENCE).unwrap();
        }
        let listener = inside(&netns, || Ok(TcpListener::bind((FAR, PORT))?)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is its own affair.
                let _ = stream.and_then(|mut stream| stream.write_all(b"far"));
            }
        });
        stranger
    }

    /// Asked from where the host's first wire leads.
    fn answers(&self, hosts: &Hosts) -> bool {
        let ask = || {
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::from((FAR, PORT)), IMPATIENCE)?;
            stream.set_read_timeout(Some(IMPATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer == "far", "{answer:?}");
            Ok(())
        };
        hosts.lab.inside(ask).is_ok()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Not asserted: a panic here would hide the one that is under way.
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// Somebody who asks from the lab's switch without a pause, until dropped.
struct Asker {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Asker {
    /// Each connection is given so much time.
    fn new(netns: String, to: SocketAddr, patience: Duration) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let ask = move || {
            while !stopped.load(Ordering::Relaxed) {
                if TcpStream::connect_timeout(&to, patience).is_ok() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok(())
        };
        let thread = std::thread::spawn(move || inside(&netns, ask).unwrap());
        Self { stop, answers, thread: Some(thread) }
    }

    fn count(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a distribution's firewall loads, which begins with removing everything.
pub(crate) const FIREWALL: &str = "flush ruleset
table inet filter {
  map published_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain input { type filter hook input priority 0; policy accept; ct state invalid drop; }
  chain forward { type filter hook forward priority 10; policy accept; }
}
";

/// What restarting the nftables service of a host does, while people use what runs there and somebody
/// knows the way to what is not published.
#[test]
fn a_flush_of_the_packet_filter_is_mended_and_opens_nothing() {
    if skip() {
        return;
    }
    let hosts = Hosts::start(1);
    let [host] = &hosts.lab.hosts[..] else { panic!("one host") };
    hosts.init("one", host);
    hosts.lab.inside(|| busybox_image()?.build()?.push(REGISTRY, "busybox", "1")).unwrap();
    let file = hosts.lab.dir.join("stack.yaml");
    let yaml = service(
        "web",
        &format!("{}\nports: [{{target: 8080, published: 8081, mode: host}}]", page("hello")),
    );
    std::fs::write(&file, yaml.replace("REGISTRY", REGISTRY)).unwrap();
    hosts.ok("one", host, &["stack", "deploy", "-c", &file.to_string_lossy(), "shop"]);
    let ask = |words: &[&str]| {
        let mut command = host.command(words[0]).unwrap();
        succeed(command.args(&words[1..]), PATIENCE).unwrap()
    };
    // Where the container is: from the map of published ports.
    let map = ask(&["nft", "list", "map", "inet", "shoal", "published_any"]);
    let target = map.split("8081 : ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let target: Ipv4Addr = target.unwrap_or_default().parse().unwrap_or_else(|_| panic!("{map}"));
    let switch = hosts.lab.switch();
    let way = format!("-n {switch} route add 172.16.0.0/12 via {}", host.address);
    succeed(Command::new("ip").args(way.split_whitespace()), PATIENCE).unwrap();
    let published = format!("{}:8081", host.address).parse().unwrap();
    let user = Asker::new(switch.clone(), published, Duration::from_millis(200));
    let attacker = Asker::new(switch, SocketAddr::from((target, 8080)), Duration::from_millis(10));
    let firewall = hosts.lab.dir.join("nftables.conf");
    std::fs::write(&firewall, FIREWALL).unwrap();
    let firewall = firewall.to_string_lossy();
    let port = ask(&["ip", "-o", "link", "show", "type", "veth"]);
    let port = port.split([':', '@']).map(str::trim).find(|name| name.starts_with("shv")).unwrap();
    let before = ask(&["ip", "-o", "link", "show", "type", "bridge"]);
    let flush: &[&str] = &["nft", "-f", &firewall];
    let harms = [flush, flush, &["ip", "link", "del", port], &["ip", "rule", "flush"], flush];
    let rules = ask(&["ip", "rule"]);
    for (n, harm) in harms.into_iter().enumerate() {
        ask(harm);
        if harm[1] == "rule" {
            // Who flushes rules puts those of the kernel back.
            for (priority, table) in [("32766", "main"), ("32767", "default")] {
                ask(&["ip", "rule", "add", "pref", priority, "lookup", table]);
            }
        }
        let (began, served) = (std::time::Instant::now(), user.count());
        let answers = || if user.count() > served + 1 { Ok(()) } else { Err("it does not answer") };
        eventually(&format!("{harm:?} is mended"), PATIENCE, answers);
        // What two have to be taken away at once for is not asked: rules and tables stand in for each other.
        let stand =
            || if ask(&["ip", "rule"]) == rules { Ok(()) } else { Err("rules are missing") };
        eventually(&format!("{harm:?} is mended"), PATIENCE, stand);
        assert!(began.elapsed() < BACK, "{harm:?} took {:?}", began.elapsed());
        assert_eq!(attacker.count(), 0, "{harm:?} ({n}) let somebody in");
    }
    let theirs = ask(&["nft", "list", "table", "inet", "filter"]);
    assert!(theirs.contains("ct state invalid drop") && !theirs.contains("shoal"), "{theirs}");
    assert_eq!(ask(&["ip", "-o", "link", "show", "type", "bridge"]), before);
    let tasks = hosts.ok("one", host, &["service", "ps", "shop_web"]);
    assert_eq!(tasks.lines().filter(|line| line.contains("shop_web")).count(), 1, "{tasks}");
    drop((user, attacker));
    hosts.ok("one", host, &["leave", "--force"]);
}

/// What a host is like: settings, rules, links, addresses, routes, mounts; by name.
fn house(host: &Host) -> Result<BTreeMap<String, String>> {
    let ask = |words: &str| {
        let mut words = words.split_whitespace();
        let mut command = host.command(words.next().unwrap_or_default())?;
        succeed(command.args(words), PATIENCE)
    };
    let mut house = BTreeMap::new();
    for words in [
        "nft -s list ruleset",
        "ip -br link",
        "ip -4 -br address",
        "ip -6 -br address",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
    ] {
        house.insert(words.to_owned(), ask(words)?);
    }
    let mounts = ask("cat /proc/self/mountinfo")?;
    let place = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    // Other tests come and go meanwhile, with network namespaces and directories of their own.
    let temporary = std::env::temp_dir().join(".tmp").display().to_string();
    let of_others = ["/run/netns/shoallab", &temporary];
    let mut mounts: Vec<String> = mounts.lines().filter_map(place).collect();
    mounts.retain(|place| !of_others.iter().any(|other| place.starts_with(other)));
    mounts.sort();
    house.insert("mounts".to_owned(), mounts.join("\n"));
    // Not those that only some can read.
    for line in ask("find /proc/sys/net -type f -perm -044")?.lines() {
        // It counts by itself.
        if line.ends_with("nf_conntrack_count") {
            continue;
        }
        let read = || Ok(std::fs::read_to_string(line).unwrap_or_default());
        house.insert(line.to_owned(), inside(&host.netns(), read)?);
    }
    Ok(house)
}

/// The kernel asks whether anybody else has a new IPv6 address (RFC 4862, 5.4), and makes a route to it
/// when nobody answers.
fn settled(host: &Host) -> Result<()> {
    let mut command = host.command("ip")?;
    let asked = succeed(command.args(["-6", "address", "show", "tentative"]), PATIENCE)?;
    ensure!(asked.trim().is_empty(), "{asked}");
    Ok(())
}

fn as_before(before: &BTreeMap<String, String>, host: &Host) -> Result<()> {
    let after = house(host)?;
    for (name, value) in before {
        let now = after.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(now == value, "{name} was\n{value}\nand is\n{now}");
    }
    let more: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    ensure!(more.is_empty(), "there are new settings: {more:?}");
    Ok(())
}

#[test]
fn a_host_that_leaves_is_what_it_was() {
    if skip() {
        return;
    }
    let hosts = Hosts::start(1);
    let [host] = &hosts.lab.hosts[..] else { panic!("one host") };
    let stranger = Stranger::new(&hosts, host);
    assert!(!stranger.answers(&hosts), "the host does not forward");
    eventually("IPv6 knows its addresses", PATIENCE, || settled(host));
    let before = house(host).unwrap();
    hosts.init("one", host);
    hosts.lab.inside(|| busybox_image()?.build()?.push(REGISTRY, "busybox", "1")).unwrap();
    let file = hosts.lab.dir.join("stack.yaml");
    let lines = format!(
        "{}\nports: [{{target: 8080, published: 8080, mode: host}}]\nnetworks: [front, closed]",
        page("hello")
    );
    let yaml = service("web", &lines) + "networks: {front: {}, closed: {internal: true}}\n";
    std::fs::write(&file, yaml.replace("REGISTRY", REGISTRY)).unwrap();
    hosts.ok("one", host, &["stack", "deploy", "-c", &file.to_string_lossy(), "shop"]);

    let address = format!("{}:8080", host.address);
    eventually("the published port answers", PATIENCE, || {
        hosts.lab.inside(|| Ok(TcpStream::connect(&address)?)).map(drop)
    });
    let forward =
        inside(&host.netns(), || Ok(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?));
    assert_eq!(forward.unwrap(), "1\n");
    assert!(!stranger.answers(&hosts), "the host forwards for containers only");

    hosts.ok("one", host, &["leave", "--force"]);
    eventually("everything is as it was", PATIENCE, || as_before(&before, host));
    assert!(!stranger.answers(&hosts));
}
