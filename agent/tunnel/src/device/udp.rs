//! The socket of the process, with large datagrams: packets of one length to one host go to the kernel as one,
//! which it or the network card cuts, and come from it as one.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use gotatun::packet::Packet;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_v6only, set_socket_recv_buffer_size_force,
    set_socket_send_buffer_size_force,
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with,
};

use super::ready::wait;

/// Packets in one datagram, at most: UDP_MAX_SEGMENTS of the kernel.
const PIECES_MAX: usize = 64;
/// Bytes in one, at most: what fits a packet of IPv6, and of IPv4.
const DATAGRAM_MAX: usize = 65_535 - 48;
/// Bytes that are received at once, at most.
const RECEIVE_MAX: usize = 64 << 10;
/// Packets taken at once, about; then they are decrypted.
const RECEIVE_PACKETS: usize = 128;
/// One of up to this many bytes is copied, so that it does not hold the memory of a large one.
const SMALL: usize = 4096;
/// Bytes that the kernel keeps for us while we encrypt, each way.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long a packet waits for room in the kernel.
const SEND_PATIENCE: Duration = Duration::from_millis(100);

/// A packet of the wire, and where it goes or comes from.
pub(super) type Addressed = (Packet, SocketAddr);

/// The socket.
pub(super) struct Socket {
    socket: OwnedFd,
    port: u16,
    /// Whether the kernel takes large ones.
    large: AtomicBool,
}

impl Socket {
    /// Listens on a port, by IPv6 and IPv4; 0: on any.
    ///
    /// # Errors
    /// The kernel's answer: `EADDRINUSE` if somebody else does.
    pub(super) fn bind(port: u16) -> io::Result<Self> {
        let socket = match bound(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            // A kernel without IPv6.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                bound(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?
            }
            bound => bound?,
        };
        let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
        // Without the right to more, there is as much as everybody has.
        let _ = set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER);
        let _ = set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER);
        // What is encrypted may be cut on its way, as the kernel's own WireGuard has it: where a router takes less, it
        // would be lost, and mostly nobody would be told.
        let _ = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT);
        // Since Linux 5.0: without it they come one by one.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        // Since Linux 4.18; sending is part of that.
        let large = getsockopt(&socket, sockopt::UdpGroSegment).is_ok();
        Ok(Self { socket, port, large: AtomicBool::new(large) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sends packets, as few datagrams as they can be. What cannot be sent is lost, as on any way.
    pub(super) fn send(&self, packets: &mut Vec<Addressed>) {
        let mut rest = &packets[..];
        while let Some((_, to)) = rest.first() {
            let large = self.large.load(Ordering::Relaxed);
            let (now, later) = rest.split_at(if large { run(rest) } else { 1 });
            rest = later;
            if now.len() > 1 {
                match self.send_as_one(now, *to) {
                    Ok(()) => continue,
                    // The way out has nobody who could add the checksums.
                    Err(nix::Error::EIO) => self.large.store(false, Ordering::Relaxed),
                    // Pieces that do not fit the way there: alone, they are cut once more.
                    Err(_) => {}
                }
            }
            for (packet, to) in now {
                // One that cannot be sent says nothing of the next one, which may be for somebody else.
                let _ = self.message(&[IoSlice::new(packet)], &[], *to);
            }
        }
        packets.clear();
    }

    fn send_as_one(&self, packets: &[Addressed], to: SocketAddr) -> nix::Result<()> {
        let Some((first, _)) = packets.first() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(|_| nix::Error::EMSGSIZE)?;
        let mut parts = [IoSlice::new(&[]); PIECES_MAX];
        for (part, (packet, _)) in parts.iter_mut().zip(packets) {
            *part = IoSlice::new(packet);
        }
        self.message(&parts[..packets.len()], &[ControlMessage::UdpGsoSegments(&size)], to)
    }

    fn message(
        &self,
        parts: &[IoSlice<'_>],
        say: &[ControlMessage<'_>],
        to: SocketAddr,
    ) -> nix::Result<()> {
        let to = SockaddrStorage::from(to);
        loop {
            let flags = MsgFlags::MSG_DONTWAIT;
            match sendmsg(self.socket.as_raw_fd(), parts, say, flags, Some(&to)) {
                // Who waits here reads no more from the interface, so that senders are slowed down.
                Err(nix::Error::EAGAIN) if self.has_room() => {}
                Err(nix::Error::EINTR) => {}
                sent => return sent.map(drop),
            }
        }
    }
}

impl Socket {
    fn has_room(&self) -> bool {
        wait([(self.as_fd(), PollFlags::OUT)], Some(SEND_PATIENCE)) == Ok([true])
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bound(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if at.is_ipv6() {
        set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &at)?;
    Ok(socket)
}

/// How many packets from the first one on can be one datagram: of one length, but for a shorter last one.
fn run(packets: &[Addressed]) -> usize {
    let Some((first, to)) = packets.first() else { return 0 };
    let (size, mut bytes, mut count) = (first.len(), first.len(), 1);
    for (packet, other) in packets.iter().skip(1).take(PIECES_MAX - 1) {
        bytes += packet.len();
        if other != to || packet.len() > size || packet.is_empty() || bytes > DATAGRAM_MAX {
            break;
        }
        count += 1;
        if packet.len() < size {
            break;
        }
    }
    count
}

/// Memory for what comes next.
#[derive(Default)]
pub(super) struct Room {
    bytes: BytesMut,
}

impl Room {
    /// Takes what has come, up to about [`RECEIVE_PACKETS`]; of what was waited for, the first alone, which is not kept
    /// waiting for others.
    ///
    /// # Errors
    /// The kernel's answer; `EAGAIN` when nothing has come.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        waited: bool,
        packets: &mut Vec<Addressed>,
    ) -> nix::Result<()> {
        while packets.is_empty() || (!waited && packets.len() < RECEIVE_PACKETS) {
            match self.datagram(socket, packets) {
                Ok(()) | Err(nix::Error::EINTR) => {}
                // It is asked again, and says the same, once these are on their way.
                Err(_) if !packets.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives one datagram: the packets in it, and from where.
    fn datagram(&mut self, socket: &Socket, packets: &mut Vec<Addressed>) -> nix::Result<()> {
        if self.bytes.len() < RECEIVE_MAX {
            self.bytes = BytesMut::zeroed(RECEIVE_MAX);
        }
        let mut said = nix::cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(&mut self.bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let number = socket.socket.as_raw_fd();
        let got = recvmsg::<SockaddrStorage>(number, &mut parts, Some(&mut said), flags)?;
        let size = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        });
        let (len, from) = (got.bytes, got.address.and_then(|address| plain(&address)));
        let Some(from) = from.filter(|_| len > 0) else { return Ok(()) };
        let size = size.filter(|size| *size > 0).unwrap_or(len);
        if len <= SMALL {
            let copied = self.bytes[..len].chunks(size).map(BytesMut::from);
            packets.extend(copied.map(|bytes| (Packet::from_bytes(bytes), from)));
            return Ok(());
        }
        let mut datagram = self.bytes.split_to(len);
        while !datagram.is_empty() {
            let packet = datagram.split_to(size.min(datagram.len()));
            packets.push((Packet::from_bytes(packet), from));
        }
        Ok(())
    }
}

/// The address; that of IPv4 where IPv6 stands for it.
fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(SocketAddr::from(*address));
    }
    let address = SocketAddr::from(*address.as_sockaddr_in6()?);
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
