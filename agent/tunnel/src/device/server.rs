//! The socket of the process: WireGuard's configuration protocol.
//!
//! Changes are carried out here and not by the library's own server, for which a change of a peer is a new
//! peer: the keys agreed on with it would be lost by every address that it gets, and what it sends until it
//! notices.

use std::time::Duration;

use gotatun::device::configure::DeviceWrite;
use gotatun::device::uapi::UapiClient;
use gotatun::device::uapi::command::{Get, Request, Set, SetPeer};
use gotatun::device::{Device, DeviceTransports, Error, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use rustix::io::Errno;
use shoal_agent_planning::tunnel::uapi::MESSAGE_MAX;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long somebody who asks may take to do so.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to take somebody in, when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until the device fails for good; why it did.
pub(super) async fn run<T: DeviceTransports>(
    mut device: Device<T>,
    client: &UapiClient,
    listener: UnixListener,
) -> String {
    let ours = rustix::process::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            () = device.wait() => return "its interface was deleted or its socket failed".to_owned(),
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == ours) {
            // One at a time: only the agent asks.
            let answered = timeout(ASK_PATIENCE, answer(&device, client, stream)).await;
            if let Ok(Err(broken)) = answered {
                return broken;
            }
        }
    }
}

/// Answers one request; the error is that of a device that cannot go on.
async fn answer<T: DeviceTransports>(
    device: &Device<T>,
    client: &UapiClient,
    stream: UnixStream,
) -> Result<(), String> {
    let (read, mut write) = stream.into_split();
    let Some(text) = request(read).await else { return Ok(()) };
    let (said, broken) = match text.parse() {
        Ok(Request::Get(_)) => match client.send(Get::default()).await {
            Ok(response) => (response.to_string(), None),
            Err(_) => (errno(Errno::IO), None),
        },
        Ok(Request::Set(set)) => match change(device, set).await {
            Ok(()) => (errno_of(0), None),
            Err(Refused::Request) => (errno(Errno::INVAL), None),
            // The device believes to listen where it asked to, so there is no second attempt.
            Err(Refused::Device(error)) => (errno(number(&error)), Some(error.to_string())),
        },
        // Why is not told: a key may be in it.
        Err(_) => (errno(Errno::INVAL), None),
    };
    // Somebody who does not wait for the answer has none.
    let _ = write.write_all(said.as_bytes()).await;
    let _ = write.write_all(b"\n").await;
    let _ = write.shutdown().await;
    broken.map_or(Ok(()), Err)
}

/// Everything up to the empty line.
async fn request(read: impl tokio::io::AsyncRead + Unpin) -> Option<String> {
    let mut lines = BufReader::new(read.take(MESSAGE_MAX));
    let mut text = String::new();
    loop {
        let before = text.len();
        if lines.read_line(&mut text).await.ok()? == 0 {
            return None;
        }
        if &text[before..] == "\n" {
            text.truncate(before);
            return Some(text);
        }
    }
}

enum Refused {
    /// It is not one that can be carried out.
    Request,
    Device(Error),
}

async fn change<T: DeviceTransports>(device: &Device<T>, set: Set) -> Result<(), Refused> {
    // What nobody here asks for is refused rather than passed over.
    let odd = |peer: &SetPeer| peer.update_only || peer.peer.preshared_key.is_some();
    if set.replace_peers || set.fwmark.is_some() || set.peers.iter().any(odd) {
        return Err(Refused::Request);
    }
    let changed = device.write(async |device| {
        if let Some(key) = set.private_key {
            device.set_private_key(StaticSecret::from(key.0)).await;
        }
        if let Some(port) = set.listen_port {
            device.set_listen_port(port);
        }
        // The library panics when a peer comes before the key.
        if !set.peers.is_empty() && device.private_key().is_none() {
            return Err(Refused::Request);
        }
        for peer in set.peers {
            change_peer(device, peer).await;
        }
        Ok(())
    });
    changed.await.map_err(Refused::Device)?
}

async fn change_peer<T: DeviceTransports>(device: &mut DeviceWrite<'_, T>, set: SetPeer) {
    let key = PublicKey::from(set.peer.public_key.0);
    if set.remove {
        device.remove_peer(&key).await;
        return;
    }
    let keepalive = set.peer.persistent_keepalive_interval;
    let on = keepalive.filter(|seconds| *seconds != 0);
    let (endpoint, nets) = (set.peer.endpoint, set.peer.allowed_ip);
    let known = device.modify_peer(&key, |peer| {
        if endpoint.is_some() {
            peer.set_endpoint(endpoint);
        }
        if keepalive.is_some() {
            peer.set_keepalive(on);
        }
        if set.replace_allowed_ips {
            peer.clear_allowed_ips();
        }
        peer.add_allowed_ips(nets.iter().copied());
    });
    if !known.await {
        let mut peer = Peer::new(key).with_allowed_ips(nets);
        peer.endpoint = endpoint;
        peer.keepalive = on;
        device.add_peer(peer);
    }
}

fn number(error: &Error) -> Errno {
    let source = match error {
        Error::Bind(source, _) | Error::IoError(source) => source,
        _ => return Errno::IO,
    };
    source.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

fn errno(errno: Errno) -> String {
    errno_of(errno.raw_os_error())
}

fn errno_of(number: i32) -> String {
    format!("errno={number}\n")
}
