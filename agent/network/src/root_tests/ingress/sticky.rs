//! Ports whose clients are led to the same task each time.

use std::net::UdpSocket;

use super::*;

const BACKENDS: [(u8, &str); 3] = [(0, "a"), (0, "b"), (1, "c")];

/// Tells every host who serves, and that clients stay with whom they have.
fn lead(cluster: &Cluster, backends: &[(u8, &str)]) {
    for host in 0..3 {
        let lab = &cluster.hosts[usize::from(host)];
        lab.block_on(async || {
            let driver = lab.driver();
            let mut ingress = cluster.ingress(host, backends);
            let mut names: Vec<(Backend, String)> = backends
                .iter()
                .map(|(at, name)| (backend(host, *at, name), (*name).to_owned()))
                .collect();
            names.sort();
            let names: Arc<[String]> = names.into_iter().map(|(_, name)| name).collect();
            ingress.sticky = ingress.ports.keys().map(|port| (*port, names.clone())).collect();
            let remote = ingress.peers.keys().copied().map(IpAddr::V4).collect();
            driver.lead(remote, Vips::new(), ingress).await.unwrap();
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "{repaired:?}");
        });
    }
}

/// Who answers each of the client's addresses, whichever host it asks.
fn answering_each(cluster: &Cluster, sources: &[Ipv4Addr]) -> Vec<String> {
    let of = |source: &Ipv4Addr| {
        let ask = |host: u8| {
            let client = cluster.client.enter(|| {
                let socket = UdpSocket::bind((*source, 0)).unwrap();
                socket.connect((outside(host), 8080)).unwrap();
                socket
            });
            ask_once(&client)
        };
        let answers: BTreeSet<String> = (0..9).map(|n| ask(n % 3)).collect();
        assert_eq!(answers.len(), 1, "{source} is answered by {answers:?}");
        answers.into_iter().next().unwrap()
    };
    sources.iter().map(of).collect()
}

#[test]
fn a_client_has_the_same_task_whichever_host_he_asks() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(3);
    let _spaces = BACKENDS.map(|(host, name)| cluster.serve(host, name));
    let sources: Vec<Ipv4Addr> = (0..12).map(|n| Ipv4Addr::new(198, 51, 100, 200 + n)).collect();
    for source in &sources {
        let address = format!("{source}/24");
        cluster.client.run("ip", &["address", "add", &address, "dev", "up0"]);
    }
    lead(&cluster, &BACKENDS);
    let before = answering_each(&cluster, &sources);
    let all: BTreeSet<&String> = before.iter().collect();
    assert_eq!(all.len(), BACKENDS.len(), "{before:?}");
    // One goes: nearly all others stay with whom they have.
    lead(&cluster, &BACKENDS[1..]);
    let now = answering_each(&cluster, &sources);
    let others = || before.iter().zip(&now).filter(|(before, _)| *before != "a");
    let moved = others().filter(|(before, now)| before != now).count();
    assert!(moved <= 2, "{moved} of {} moved: {before:?}, {now:?}", others().count());
    cluster.cleanup();
}
