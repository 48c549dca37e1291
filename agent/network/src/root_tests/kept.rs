//! Whatever of the agent somebody deletes is back within two seconds, under load; nothing of theirs is
//! touched, and what is not published is reachable at no moment.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shoal_agent_ground::testing::skip_without_root;

use super::harms::{Harm, harms};
use super::*;
use crate::keep;

/// How long what was deleted may be away.
const BACK: Duration = Duration::from_secs(2);
/// How long a client waits for one answer.
const ANSWER: Duration = Duration::from_millis(250);

/// Somebody outside who asks without a pause, until dropped.
struct Client {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    fn new(space: &Space, ask: impl Fn() -> bool + Send + 'static) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted, path) = (Arc::clone(&stop), Arc::clone(&answers), space.path());
        let thread = std::thread::spawn(move || {
            lab::move_into(&path);
            while !stopped.load(Ordering::Relaxed) {
                if ask() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { stop, answers, thread: Some(thread) }
    }

    /// By a new connection for each question.
    fn tcp(space: &Space, to: Ipv4Addr, port: u16) -> Self {
        let to = SocketAddr::from((to, port));
        Self::new(space, move || TcpStream::connect_timeout(&to, ANSWER).is_ok())
    }

    /// By one socket for all of them, which makes one flow.
    fn udp(space: &Space, to: Ipv4Addr, port: u16) -> Self {
        let socket = space.udp_client(to, port);
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        let ask = move |socket: &UdpSocket| {
            let _ = socket.send(b"?");
            socket.recv(&mut [0; 64]).is_ok()
        };
        Self::new(space, move || {
            std::thread::sleep(Duration::from_millis(5));
            ask(&socket)
        })
    }

    /// By one datagram after the other, each a flow of its own: what is open for a moment is found.
    fn attacker(space: &Space, to: Ipv4Addr, port: u16) -> Self {
        let to = SocketAddr::from((to, port));
        Self::new(space, move || {
            let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return false };
            let _ = socket.send_to(b"?", to);
            let _ = socket.set_read_timeout(Some(Duration::from_millis(2)));
            socket.recv(&mut [0; 64]).is_ok()
        })
    }

    fn count(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What others have on the host, byte for byte.
fn of_others(host: &Space) -> Vec<String> {
    let mut all = vec![
        host.run("nft", &["list", "table", "inet", "shoal2"]),
        host.run("nft", &["list", "table", "ip", "shoal"]),
        host.run("ip", &["link", "show", "shbridge"]),
        host.run("ip", &["-4", "address", "show", "shbridge"]),
        host.run("ip", &["route", "show", "192.0.2.0/24"]),
    ];
    let rules = host.run("ip", &["rule"]);
    all.extend(rules.lines().filter(|rule| rule.starts_with("1000:")).map(str::to_owned));
    all
}

/// A firewall with the same names in tables of its own, and links and rules that look like ours.
const OTHERS: &str = "
table inet shoal2 {
  map published_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain admit { type filter hook prerouting priority -90; policy accept; }
  chain forward { type filter hook forward priority 10; policy accept; ct state invalid drop; }
}
table ip shoal {
  chain forward { type filter hook forward priority 20; policy accept; counter; }
}
";

fn make_others(lab: &Lab) {
    let file = lab.state.path().join("others.nft");
    std::fs::write(&file, OTHERS.replace("counter;", "")).unwrap();
    lab.host.run("nft", &["-f", &file.to_string_lossy()]);
    lab.host.run("ip", &["link", "add", "shbridge", "type", "bridge"]);
    lab.host.run("ip", &["link", "set", "shbridge", "up"]);
    lab.host.run("ip", &["route", "add", "192.0.2.0/24", "via", &OUTSIDE.to_string()]);
    lab.host.run("ip", &["rule", "add", "pref", "1000", "to", "192.0.2.0/24", "lookup", "main"]);
}

/// The agent's share of the host; `None` while something of it is missing.
fn ours(host: &Space, bridge: &str, port: &str) -> Option<Vec<String>> {
    let rules = host.try_run("ip", &["rule"])?;
    let rules = rules.lines().filter(|rule| rule.starts_with('6'));
    let settings = [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.all.src_valid_mark",
        &format!("net.ipv4.conf.{bridge}.route_localnet"),
        &format!("net.ipv6.conf.{bridge}.disable_ipv6"),
    ];
    let mut found: Vec<String> = rules.map(str::to_owned).collect();
    for setting in settings {
        found.push(host.try_run("sysctl", &[setting])?);
    }
    for family in ["inet", "bridge"] {
        let table = host.try_run("nft", &["-s", "list", "table", family, "shoal"])?;
        found.extend(table.lines().map(str::to_owned));
    }
    // Without the number of the link, which is another one when it is made anew.
    let addresses = host.try_run("ip", &["-4", "-o", "address", "show", "dev", bridge])?;
    found.extend(addresses.split_once(':').map(|(_, rest)| rest.to_owned()));
    found.push(host.try_run("ip", &["route", "show", "table", "all", "dev", bridge])?);
    for file in [format!("{bridge}/address"), format!("{port}/brport/hairpin_mode")] {
        found.push(host.try_run("cat", &[&format!("/sys/class/net/{file}")])?);
    }
    let links = host.try_run("ip", &["-o", "link"])?;
    let state = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let name = words[0].split(['@', ':']).next().unwrap().to_owned();
        name.starts_with("sh").then(|| format!("{name} {}", words[1..].join(" ")))
    };
    let mut links: Vec<String> = links.lines().filter_map(state).collect();
    links.sort();
    // Queues and states that come and go.
    let stays = |line: &String| line.split(" qlen").next().unwrap_or_default().to_owned();
    found.extend(links.iter().map(stays).map(|line| line.replace("NO-CARRIER,", "")));
    Some(found)
}

#[test]
fn whatever_somebody_deletes_is_back_and_nothing_is_open_meanwhile() {
    if !skip_without_root() {
        harmed("0");
    }
}

#[test]
fn it_is_so_on_a_host_that_forwards_for_others() {
    if !skip_without_root() {
        harmed("1");
    }
}

/// Everything is done to a host that forwards already, or not.
fn harmed(forwards: &str) {
    let lab = Lab::new();
    lab.host.run("sysctl", &["-qw", &format!("net.ipv4.ip_forward={forwards}")]);
    make_others(&lab);
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        web.serve(81);
        let dns = PublishedPort { protocol: Protocol::Udp, ..tcp(5353, 80) };
        driver.publish("web".to_owned(), vec![tcp(8080, 80), dns]).await.unwrap();
        keep(&driver).unwrap();
        let connector = reconnect(&driver, &web);
        let port = driver.attachments("web")[0].host_ifname.clone();
        let clients =
            [Client::tcp(&lab.outside, HOST, 8080), Client::udp(&lab.outside, HOST, 5353)];
        // By the route: a port that is not published, and the target of one that is.
        let attackers = [81, 80].map(|port| Client::attacker(&lab.outside, at[0], port));
        let before = ours(&lab.host, &state.bridge, &port);
        let others = of_others(&lab.host);
        for Harm { what, act } in harms(&lab.host, &web, &state.bridge, &port) {
            // Who gives forwarding up for itself has it closed to others from then on.
            if what.contains("net.ipv4.ip_forward=0") && forwards == "1" {
                continue;
            }
            let counts = clients.each_ref().map(Client::count);
            let began = Instant::now();
            act();
            let served = || clients.iter().zip(counts).all(|(client, n)| client.count() > n + 1);
            loop {
                let now = ours(&lab.host, &state.bridge, &port);
                if now == before && served() {
                    break;
                }
                assert!(began.elapsed() < BACK * 4, "{what}: {}", differs(&before, &now));
                std::thread::sleep(Duration::from_millis(10));
            }
            let took = began.elapsed();
            println!("{took:?}: {what}");
            assert!(took < BACK, "{what} took {took:?}");
            let reached = attackers.iter().map(Client::count).sum::<u64>();
            assert_eq!(reached, 0, "{what} let somebody in");
            assert_eq!(of_others(&lab.host), others, "{what}");
        }
        // The container is the same, and so is its address.
        assert_eq!(driver.attachments("web")[0].v4.as_ref().unwrap().address.addr(), at[0]);
        connector.abort();
    });
}

/// What is in one and not in the other.
fn differs(before: &Option<Vec<String>>, now: &Option<Vec<String>>) -> String {
    let (Some(before), Some(now)) = (before, now) else { return "something is missing".to_owned() };
    let less = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>().join("\n")
    };
    format!("gone: {}\nnew: {}", less(before, now), less(now, before))
}

/// What the worker does: connects again what has lost its links.
fn reconnect(driver: &Arc<BridgeNetworks>, web: &Space) -> tokio::task::JoinHandle<()> {
    let (driver, netns) = (Arc::clone(driver), web.netns());
    tokio::spawn(async move {
        let mut lost = driver.lost();
        while lost.changed().await.is_ok() {
            let all = lost.borrow_and_update().clone();
            for (container, network) in all {
                driver.attach(request(&container, &network), netns.clone()).await.unwrap();
            }
        }
    })
}

/// What restarting the nftables service of a distribution does, which loads its own rules again.
#[test]
fn a_flush_of_everything_leaves_no_gap_and_is_mended() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let file = lab.state.path().join("nftables.conf");
    std::fs::write(&file, format!("flush ruleset\n{OTHERS}").replace("counter;", "")).unwrap();
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        web.serve(81);
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        keep(&driver).unwrap();
        let load = lab.host.run("nft", &["-f", &file.to_string_lossy()]);
        assert_eq!(load, "");
        let published = Client::tcp(&lab.outside, HOST, 8080);
        let attackers = [81, 80].map(|port| Client::attacker(&lab.outside, at[0], port));
        let mut worst = Duration::ZERO;
        for round in 0..6 {
            lab.host.run("nft", &["-f", &file.to_string_lossy()]);
            let others = lab.host.run("nft", &["list", "table", "inet", "shoal2"]);
            let (began, before) = (Instant::now(), published.count());
            while published.count() < before + 2 {
                assert!(began.elapsed() < BACK * 4, "round {round}: it does not answer");
                std::thread::sleep(Duration::from_millis(5));
            }
            let took = began.elapsed();
            assert!(took < BACK, "round {round} took {took:?}");
            worst = worst.max(took);
            assert_eq!(lab.host.run("nft", &["list", "table", "inet", "shoal2"]), others);
            let reached: u64 = attackers.iter().map(Client::count).sum();
            assert_eq!(reached, 0, "round {round} let somebody in");
        }
        println!("answers again after {worst:?} at most");
    });
}

/// Others change their own rules and links without end: that costs next to nothing, and what is ours is
/// mended all the same.
#[test]
fn a_storm_of_others_does_not_make_it_spin() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    make_others(&lab);
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        let looks = driver.looks();
        keep(&driver).unwrap();
        let storm = storm(&lab);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let quiet = driver.looks() - looks;
        // Three glances at settings, perhaps a look because of a lost message.
        assert!(quiet <= 12, "{quiet} looks in three seconds");
        let published = Client::tcp(&lab.outside, HOST, 8080);
        lab.host.run("nft", &["delete", "table", "inet", "shoal"]);
        let (began, before) = (Instant::now(), published.count());
        while published.count() < before + 2 {
            assert!(began.elapsed() < BACK * 4, "it does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(began.elapsed() < BACK, "took {:?}", began.elapsed());
        drop(storm);
    });
}

/// Adds and deletes rules of others, as fast as one program can.
fn storm(lab: &Lab) -> Client {
    let file = lab.state.path().join("storm.nft");
    let mut text = String::new();
    for n in 0..200 {
        text += &format!("add chain ip shoal c{n}\nadd rule ip shoal c{n} counter\n");
    }
    for n in 0..200 {
        text += &format!("flush chain ip shoal c{n}\ndelete chain ip shoal c{n}\n");
    }
    std::fs::write(&file, text).unwrap();
    Client::new(&lab.host, move || {
        std::process::Command::new("nft").arg("-f").arg(&file).status().is_ok_and(|s| s.success())
    })
}
