//! What is said to a userspace device and what it says: the configuration protocol that all implementations
//! of WireGuard share (<https://www.wireguard.com/xplatform/#configuration-protocol>). Lines `key=value`,
//! keys of keys in hexadecimal, an empty line at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use shoal_types::object::TunnelKey;

use super::{AllowedChange, Change, SeenPeer};

/// Asks for everything.
pub const GET: &str = "get=1\n\n";

/// Longest request and longest answer, in bytes: twenty thousand peers with a dozen addresses each.
pub const MESSAGE_MAX: u64 = 16 << 20;

/// What a device says of itself. Its private key is in it, so it cannot be printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Its private key.
    pub private_key: Option<[u8; 32]>,
    /// UDP port on which it listens.
    pub listen_port: Option<u16>,
    /// Whom it knows, and when after the epoch keys were last agreed on. [`SeenPeer::handshake_age`] is not
    /// known here.
    pub peers: BTreeMap<TunnelKey, (SeenPeer, Option<Duration>)>,
}

/// Why an answer is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AnswerError {
    /// With the number of errno(3).
    #[error("the device refuses (error {0})")]
    Errno(i32),
    /// The line is not in it: it may hold a key.
    #[error("line {line} of the device's answer is not understood (key {key:?})")]
    Line { line: usize, key: String },
    #[error("the device's answer is cut off")]
    CutOff,
}

/// The request that carries out a change; `private_key` is that of the host.
#[must_use]
pub fn set(change: &Change, private_key: &[u8; 32]) -> String {
    let mut text = "set=1\n".to_owned();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    };
    if change.key {
        line("private_key", &hex::encode(private_key));
    }
    if let Some(port) = change.listen_port {
        line("listen_port", &port);
    }
    for peer in &change.remove {
        line("public_key", &hex::encode(peer.0));
        line("remove", &true);
    }
    for (peer, change) in &change.peers {
        line("public_key", &hex::encode(peer.0));
        if let Some(endpoint) = change.endpoint {
            line("endpoint", &endpoint);
        }
        if let Some(seconds) = change.keepalive_s {
            line("persistent_keepalive_interval", &seconds);
        }
        let nets = match &change.allowed {
            AllowedChange::Same => continue,
            AllowedChange::Add(nets) => nets,
            AllowedChange::Replace(nets) => {
                line("replace_allowed_ips", &true);
                nets
            }
        };
        for net in nets {
            line("allowed_ip", net);
        }
    }
    text.push('\n');
    text
}

/// Reads what a device says to a request that changes something.
///
/// # Errors
/// It refuses, or says something else.
pub fn done(text: &str) -> Result<(), AnswerError> {
    answer(text).map(|_| ())
}

/// Reads what a device says to [`GET`]. Keys that are not known are passed over: a newer device may say more.
///
/// # Errors
/// It refuses, or says something else.
pub fn answer(text: &str) -> Result<Answer, AnswerError> {
    let mut answer = Answer::default();
    let mut current: Option<TunnelKey> = None;
    for (number, line) in text.lines().enumerate() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let odd = || AnswerError::Line { line: number + 1, key: key.chars().take(40).collect() };
        if key == "errno" {
            return match value.parse().map_err(|_| odd())? {
                0 => Ok(answer),
                errno => Err(AnswerError::Errno(errno)),
            };
        }
        match current {
            _ if key == "public_key" => {
                let peer = TunnelKey(bytes(value).ok_or_else(odd)?);
                answer.peers.entry(peer).or_default();
                current = Some(peer);
            }
            None => of_device(&mut answer, key, value).ok_or_else(odd)?,
            Some(peer) => {
                let (seen, handshake) = answer.peers.entry(peer).or_default();
                of_peer(seen, handshake, key, value).ok_or_else(odd)?;
            }
        }
    }
    Err(AnswerError::CutOff)
}

fn of_device(answer: &mut Answer, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => answer.private_key = Some(bytes(value)?),
        "listen_port" => answer.listen_port = Some(value.parse().ok()?),
        _ => {}
    }
    Some(())
}

fn of_peer(
    seen: &mut SeenPeer,
    handshake: &mut Option<Duration>,
    key: &str,
    value: &str,
) -> Option<()> {
    match key {
        "endpoint" => seen.endpoint = Some(value.parse().ok()?),
        "allowed_ip" => {
            seen.allowed.insert(value.parse().ok()?);
        }
        "persistent_keepalive_interval" => {
            let seconds: u16 = value.parse().ok()?;
            seen.keepalive = (seconds != 0).then(|| Duration::from_secs(u64::from(seconds)));
        }
        "rx_bytes" => seen.rx_bytes = value.parse().ok()?,
        "tx_bytes" => seen.tx_bytes = value.parse().ok()?,
        // Never, if it is 0.
        "last_handshake_time_sec" => {
            let seconds: u64 = value.parse().ok()?;
            *handshake = (seconds != 0).then(|| Duration::from_secs(seconds));
        }
        _ => {}
    }
    Some(())
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
