use std::collections::BTreeSet;

use futures::FutureExt as _;
use shoal_types::id::NodeId;
use shoal_types::task_state::TaskState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn figures() -> Figures {
    let links =
        [(1_u128, Some(Duration::from_millis(1500))), (2, None)].map(|(n, handshake_age)| {
            (NodeId::from(n), Link { handshake_age, rx_bytes: 10 * n as u64, tx_bytes: n as u64 })
        });
    Figures {
        tasks: Some(vec![TaskState::Running, TaskState::Running, TaskState::Failed]),
        ways: Some(Ways {
            wrong: 3,
            tunnel: Some(Tunnel {
                mtu: 1420,
                links: links.into_iter().collect(),
                epoch: 7,
                lagging: 1,
            }),
        }),
        troubled: 1,
        names: Some(true),
    }
}

async fn ask(addr: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn served(source: Source) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, source));
    addr
}

#[test]
fn every_figure_is_in_the_documentation_and_the_other_way_round() {
    let text = figures().text();
    let told: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|l| l.split(' ').next())
        .collect();
    let docs = include_str!("../../../docs/metrics.md");
    let written: BTreeSet<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|l| l.split(['`', '{']).next())
        .collect();
    assert_eq!(told, written);
}

#[test]
fn what_is_told_of_a_host() {
    let text = figures().text();
    let (one, two) = (NodeId::from(1_u128), NodeId::from(2_u128));
    for line in [
        format!("shoal_agent_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "shoal_tasks{state=\"running\"} 2".to_owned(),
        "shoal_tasks{state=\"failed\"} 1".to_owned(),
        "shoal_tasks{state=\"complete\"} 0".to_owned(),
        "shoal_names_up 1".to_owned(),
        "shoal_tunnel_findings 3".to_owned(),
        "shoal_tunnel_troubled_links 1".to_owned(),
        "shoal_tunnel_key_epoch 7".to_owned(),
        "shoal_tunnel_peers_by_former_keys 1".to_owned(),
        "shoal_tunnel_up 1".to_owned(),
        "shoal_tunnel_mtu_bytes 1420".to_owned(),
        "shoal_tunnel_peers 2".to_owned(),
        format!("shoal_tunnel_peer_received_bytes_total{{node=\"{two}\"}} 20"),
        format!("shoal_tunnel_peer_sent_bytes_total{{node=\"{one}\"}} 1"),
        format!("shoal_tunnel_peer_handshake_age_seconds{{node=\"{one}\"}} 1.5"),
        "# EOF".to_owned(),
    ] {
        assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
    }
    let never = format!("shoal_tunnel_peer_handshake_age_seconds{{node=\"{two}\"}}");
    assert!(!text.contains(&never), "{text}");
}

#[test]
fn a_host_without_a_tunnel_says_so() {
    let text = Figures { ways: Some(Ways::default()), ..Figures::default() }.text();
    assert!(text.contains("shoal_tunnel_up 0\n"), "{text}");
    for absent in ["shoal_tunnel_peer", "shoal_tunnel_mtu", "shoal_names", "shoal_tasks"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
}

/// An agent that begins anew beside a tunnel that carries packets has not heard yet whom it leads to.
#[test]
fn what_nobody_knows_of_the_tunnel_is_not_said() {
    let text = Figures::default().text();
    for absent in ["shoal_tunnel_up", "shoal_tunnel_findings", "shoal_tunnel_peers"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
}

#[tokio::test]
async fn who_asks_is_answered_once_in_each_connection() {
    let addr = served(Arc::new(|| async { figures() }.boxed())).await;
    for (request, status, part) in [
        ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", "shoal_tunnel_up 1"),
        ("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", "application/openmetrics-text"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405 Method", "expected GET"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found", "/metrics"),
        ("nonsense\r\n\r\n", "400 Bad Request", ""),
    ] {
        let said = ask(addr, request).await;
        assert!(said.contains(status) && said.contains(part), "{request}: {said}");
    }
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(QUESTION_MAX));
    assert!(ask(addr, &long).await.contains("431 "));
}

/// Whoever says nothing has no place for ever.
#[tokio::test(start_paused = true)]
async fn the_silent_and_the_slow_give_their_places_back() {
    let slow = Arc::new(|| {
        async {
            tokio::time::sleep(PATIENCE / 2).await;
            figures()
        }
        .boxed()
    });
    let addr = served(slow).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let said = ask(addr, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(said.contains("200 OK"), "{said}");
}
