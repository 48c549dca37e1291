//! The socket of the process: WireGuard's configuration protocol.

use std::io;
use std::time::{Duration, SystemTime};

use gotatun::device::uapi::command::{self, GetPeer, GetResponse, Request, Set, SetPeer};
use gotatun::x25519::PublicKey;
use ipnet::IpNet;
use rustix::io::Errno;
use shoal_agent_planning::tunnel::uapi::MESSAGE_MAX;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::flow::Device;
use super::table::{Change, Peer};

/// How long somebody who asks may take to do so.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to take somebody in, when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until the device fails for good; why it did.
pub(super) async fn run(
    device: &Device,
    mut ended: mpsc::Receiver<String>,
    listener: UnixListener,
) -> String {
    let ours = rustix::process::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            why = ended.recv() => return why.unwrap_or_else(|| "all of its threads ended".to_owned()),
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
            // One at a time: only the agent asks. One who does not wait for the answer has none.
            let _ = timeout(ASK_PATIENCE, answer(device, stream)).await;
        }
    }
}

/// Answers one request.
async fn answer(device: &Device, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let Some(text) = request(read).await else { return Ok(()) };
    let said = match text.parse() {
        Ok(Request::Get(_)) => tell(device).to_string(),
        Ok(Request::Set(set)) => errno(change(device, set).err()),
        // Why is not told: a key may be in it.
        Err(_) => errno(Some(Errno::INVAL)),
    };
    write.write_all(said.as_bytes()).await?;
    write.write_all(b"\n").await?;
    write.shutdown().await
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

fn errno(error: Option<Errno>) -> String {
    format!("errno={}\n", error.map_or(0, Errno::raw_os_error))
}

/// What the device is like.
fn tell(device: &Device) -> GetResponse {
    let mut said = GetResponse::default();
    said.listen_port = Some(device.socket().map_or(0, |socket| socket.port()));
    let table = device.table();
    said.private_key = table.own().map(|own| own.private().into());
    let now = SystemTime::now();
    said.peers.extend(table.peers().map(|(key, peer)| tell_peer(key, peer, now)));
    said
}

fn tell_peer(key: &PublicKey, peer: &Peer, now: SystemTime) -> GetPeer {
    let link = peer.link();
    let mut config = command::Peer::new(*key.as_bytes());
    config.endpoint = link.endpoint;
    config.persistent_keepalive_interval = link.tunn.persistent_keepalive();
    let nets = link.allowed().filter_map(|net| net.to_string().parse().ok());
    config.allowed_ip = nets.collect();
    let (handshake, tx_bytes, rx_bytes, ..) = link.tunn.stats();
    let handshake = handshake.and_then(|ago| now.checked_sub(ago));
    let handshake = handshake.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut said = GetPeer::builder().peer(config).build();
    said.last_handshake_time_sec = handshake.map(|at| at.as_secs());
    said.last_handshake_time_nsec = handshake.map(|at| at.subsec_nanos());
    (said.rx_bytes, said.tx_bytes) = (u64::try_from(rx_bytes).ok(), u64::try_from(tx_bytes).ok());
    said
}

/// Carries out a request, or nothing of it.
fn change(device: &Device, set: Set) -> Result<(), Errno> {
    // What nobody here asks for is refused rather than passed over.
    let odd = |peer: &SetPeer| peer.update_only || peer.peer.preshared_key.is_some();
    let keyless = set.private_key.is_none() && device.table().own().is_none();
    if set.replace_peers
        || set.fwmark.is_some()
        || set.peers.iter().any(odd)
        || (keyless && !set.peers.is_empty())
    {
        return Err(Errno::INVAL);
    }
    // The one that can fail comes first.
    if let Some(port) = set.listen_port {
        device.listen(port).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    if let Some(key) = set.private_key {
        device.table_mut().set_key(key.0);
    }
    for peer in &set.peers {
        change_peer(device, peer);
    }
    Ok(())
}

fn change_peer(device: &Device, set: &SetPeer) {
    let key = PublicKey::from(set.peer.public_key.0);
    if set.remove {
        device.table_mut().remove(&key);
        return;
    }
    let allowed = set.peer.allowed_ip.iter();
    let allowed = allowed.filter_map(|net| IpNet::new(net.ip(), net.prefix()).ok());
    let change = Change {
        endpoint: set.peer.endpoint,
        keepalive: set.peer.persistent_keepalive_interval,
        replace_allowed: set.replace_allowed_ips,
        allowed: allowed.collect(),
    };
    // Nobody else changes whom the device knows.
    let stranger = device.table().stranger(key);
    let mut table = device.table_mut();
    if let Some(stranger) = stranger {
        table.add(key, stranger);
    }
    table.change(&key, &change);
}
