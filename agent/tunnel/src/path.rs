//! How large packets may be on the way to another host, as far as routers tell.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover,
};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long an answer of a router is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Wires of which each takes less than the one before, at most.
const ROUNDS: usize = 4;

/// The largest packet, up to this `largest` one in bytes that the tunnel sends, that is not cut on its way to a host's end of
/// the tunnel. A few datagrams that mean nothing to it are sent there, for routers to say that they are too large; where
/// none says so, what the host's own link takes.
///
/// # Errors
/// There is no way there.
pub async fn uncut(endpoint: SocketAddr, largest: u32) -> io::Result<u32> {
    let v4 = endpoint.is_ipv4();
    let any = match v4 {
        true => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        false => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    match v4 {
        true => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        false => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
    }
    socket.connect(endpoint).await?;
    let headers = if v4 { 20 + 8 } else { 40 + 8 };
    let mut known = u32::MAX;
    for _ in 0..ROUNDS {
        let now = if v4 { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? };
        let now = now.min(largest);
        if now >= known {
            break;
        }
        known = now;
        // The first byte of a message of WireGuard says what it is, and is never zero.
        let junk = vec![0; usize::try_from(known).unwrap_or_default().saturating_sub(headers)];
        // An error is one that a router has told of, or the host itself: the next look says what is known then.
        if socket.send(&junk).await.is_ok() {
            let _ = timeout(PATIENCE, socket.recv(&mut [0; 64])).await;
        }
    }
    Ok(known)
}
