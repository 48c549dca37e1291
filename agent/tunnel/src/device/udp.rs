//! The socket of the process, with large datagrams: packets of one length to one host go to the kernel as one,
//! which it or the network card cuts, and come from it as one.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use tokio::io::Interest;

/// Packets that are sent with one look at them, at most.
const SEND_PACKETS: usize = 256;
/// Packets in one datagram, at most: UDP_MAX_SEGMENTS of the kernel.
const PIECES_MAX: usize = 64;
/// Bytes in one, at most: what fits a packet of IPv6, and of IPv4.
const DATAGRAM_MAX: usize = 65_535 - 48;
/// Bytes that are received at once, at most.
const RECEIVE_MAX: usize = 64 << 10;
/// Datagrams taken at once, at most.
const RECEIVE_DATAGRAMS: usize = 8;
/// One of up to this many bytes is copied, so that it does not hold the memory of a large one.
const SMALL: usize = 4096;
/// Bytes that the kernel keeps for us while we encrypt, each way.
const SOCKET_BUFFER: usize = 4 << 20;

/// Makes the sockets.
pub(super) struct Sockets;

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(
        &mut self,
        params: &UdpTransportFactoryParams,
    ) -> io::Result<(Self::Send, Self::Recv)> {
        // It receives large datagrams where the kernel can.
        let (socket, _) = UdpSocketFactory::default().bind(params).await?;
        // Without the right to more, there is as much as everybody has.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER);
        // What is encrypted may be cut on its way, as the kernel's own WireGuard has it: where a router takes less, it
        // would be lost, and mostly nobody would be told.
        let uncut = set_ip_mtu_discover(socket.socket(), Ipv4PathMtuDiscovery::DONT);
        if let Err(error) = uncut {
            tracing::debug!(%error, "packets of the tunnel are not cut on their way");
        }
        // Since Linux 4.18; sending is part of that.
        let large = nix::sys::socket::getsockopt(&socket, sockopt::UdpGsoSegment).is_ok();
        let sender = Sender { socket: socket.clone(), large: Arc::new(AtomicBool::new(large)) };
        Ok((sender, Receiver { socket }))
    }
}

/// Where encrypted packets go.
#[derive(Clone)]
pub(super) struct Sender {
    socket: UdpSocket,
    /// Whether the kernel takes large ones.
    large: Arc<AtomicBool>,
}

impl Sender {
    /// Sends packets as one datagram.
    async fn send_large(&self, packets: &[(Packet, SocketAddr)], to: SocketAddr) -> io::Result<()> {
        let Some((first, _)) = packets.first() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(io::Error::other)?;
        let parts: Vec<IoSlice<'_>> =
            packets.iter().map(|(packet, _)| IoSlice::new(packet)).collect();
        let to = SockaddrStorage::from(to);
        let socket = self.socket.socket();
        let sent = socket.async_io(Interest::WRITABLE, || {
            let say = [ControlMessage::UdpGsoSegments(&size)];
            let flags = MsgFlags::MSG_DONTWAIT;
            Ok(sendmsg(socket.as_raw_fd(), &parts, &say, flags, Some(&to))?)
        });
        sent.await.map(drop)
    }
}

/// How many packets from the first one on can be one datagram: of one length, but for a shorter last one.
fn run(packets: &[(Packet, SocketAddr)]) -> usize {
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

impl UdpSend for Sender {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, to: SocketAddr) -> io::Result<()> {
        self.socket.socket().send_to(&packet, to).await.map(drop)
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        SEND_PACKETS
    }

    async fn send_many_to(
        &self,
        (): &mut (),
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let mut rest = &packets[..];
        while let Some((_, to)) = rest.first() {
            let large = self.large.load(Ordering::Relaxed);
            let (now, later) = rest.split_at(if large { run(rest) } else { 1 });
            rest = later;
            if now.len() > 1 {
                match self.send_large(now, *to).await {
                    Ok(()) => continue,
                    // The way out has nobody who could add the checksums.
                    Err(error) if is(&error, Errno::EIO) => {
                        self.large.store(false, Ordering::Relaxed);
                    }
                    // Pieces that do not fit the way there: alone, they are cut once more.
                    Err(_) => {}
                }
            }
            for (packet, to) in now {
                // One that cannot be sent says nothing of the next one, which may be for somebody else.
                let _ = self.socket.socket().send_to(packet, *to).await;
            }
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        UdpSend::set_fwmark(&self.socket, mark)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// Where encrypted packets come from.
pub(super) struct Receiver {
    socket: UdpSocket,
}

/// Memory for what comes next.
#[derive(Default)]
pub(super) struct Room {
    bytes: BytesMut,
}

impl Room {
    /// Receives one datagram: the packets in it, and from where.
    fn receive(
        &mut self,
        socket: i32,
        pool: &PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> nix::Result<()> {
        if self.bytes.len() < RECEIVE_MAX {
            self.bytes = BytesMut::zeroed(RECEIVE_MAX);
        }
        let mut said = nix::cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(&mut self.bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let got = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut said), flags)?;
        let size = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        });
        let (len, from) = (got.bytes, got.address.and_then(|address| plain(&address)));
        let Some(from) = from.filter(|_| len > 0) else { return Ok(()) };
        let size = size.filter(|size| *size > 0).unwrap_or(len);
        if len <= SMALL {
            for bytes in self.bytes[..len].chunks(size) {
                let mut packet = pool.get();
                packet.buf_mut().clear();
                packet.buf_mut().extend_from_slice(bytes);
                packets.push((packet, from));
            }
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

impl UdpRecv for Receiver {
    type RecvManyBuf = Room;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        UdpRecv::recv_from(&mut self.socket, pool).await
    }

    async fn recv_many_from(
        &mut self,
        room: &mut Room,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let socket = self.socket.socket();
        let number = socket.as_raw_fd();
        while packets.is_empty() {
            // Datagrams without bytes come to nothing, and anybody can send them: others have their turn.
            tokio::task::consume_budget().await;
            socket.readable().await?;
            for _ in 0..RECEIVE_DATAGRAMS {
                let received = socket.try_io(Interest::READABLE, || {
                    room.receive(number, pool, packets)?;
                    Ok(())
                });
                match received {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // It is asked again, and says the same, once these are on their way.
                    Err(_) if !packets.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn enable_udp_gro(&self) -> io::Result<()> {
        self.socket.enable_udp_gro()
    }
}
