//! What the process of the tunnel says of itself.

use std::fmt::Write as _;

use shoal_agent_planning::tunnel::uapi::{Answer as Said, answer};

use super::driver::{Answer, BOUNDS, Target, corpus, fuzz};
use super::text::mutated;

const WORDS: [&str; 16] = [
    "=",
    "errno=0",
    "errno=-1",
    "errno=99999999999",
    "public_key=",
    "private_key=0707070707070707070707070707070707070707070707070707070707070707",
    "public_key=0707070707070707070707070707070707070707070707070707070707070707",
    "allowed_ip=0.0.0.0/0",
    "allowed_ip=::/129",
    "endpoint=1.2.3.4:0",
    "last_handshake_time_sec=18446744073709551615",
    "persistent_keepalive_interval=65536",
    "rx_bytes=-1",
    "set=1",
    "\r",
    "é",
];

/// As a device would write it.
fn text(said: &Said) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").unwrap();
    };
    if let Some(key) = said.private_key {
        line("private_key", &hex::encode(key));
    }
    if let Some(port) = said.listen_port {
        line("listen_port", &port);
    }
    for (key, (peer, handshake)) in &said.peers {
        line("public_key", &hex::encode(key.0));
        if let Some(endpoint) = peer.endpoint {
            line("endpoint", &endpoint);
        }
        for net in &peer.allowed {
            line("allowed_ip", net);
        }
        for (key, value) in [
            ("persistent_keepalive_interval", peer.keepalive),
            ("last_handshake_time_sec", *handshake),
        ] {
            line(key, &value.unwrap_or_default().as_secs());
        }
        line("rx_bytes", &peer.rx_bytes);
        line("tx_bytes", &peer.tx_bytes);
    }
    line("errno", &0);
    text
}

#[test]
fn what_the_tunnel_says() {
    let target = Target { name: "tunnel", seeds: corpus("tunnel"), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| mutated(random, corpus, &WORDS),
        |input| {
            let given = String::from_utf8_lossy(input);
            match answer(&given) {
                Ok(said) => {
                    assert!(
                        answer(&text(&said)) == Ok(said.clone()),
                        "written again it is the same"
                    );
                    let nets = said.peers.values().map(|(peer, _)| peer.allowed.len()).max();
                    Answer::Read(format!("{} peers, {nets:?}", said.peers.len()))
                }
                Err(error) => {
                    let text = error.to_string();
                    // The value may be a key.
                    assert!(!text.contains(&"07".repeat(16)), "{text}");
                    Answer::Refused(text)
                }
            }
        },
    );
}
