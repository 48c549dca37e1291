//! Which packets pass to other hosts and back: echoes of ICMP from the host's address in the tunnel to theirs,
//! which their kernels answer, with sizes that are never cut on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use nix::libc::IPPROTO_IP;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt as nix_sockopt,
};
use rustix::io::Errno;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use shoal_agent_container::sys::parts::{LARGEST_PART, tell_of_parts};
use shoal_agent_planning::verify::{Search, Tried, counts, echo, echoed};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

/// Hosts that are tried at the same time.
const AT_ONCE: usize = 16;
/// How long the first answer of a host is waited for: the tunnel may have to agree on keys first.
const FIRST: Duration = Duration::from_secs(1);
/// How long at least an answer is waited for once it is known how long one takes.
const LEAST: Duration = Duration::from_millis(200);
/// How often a packet of a size is sent before it counts as one that does not pass, and how often while none of
/// any size has.
const TRIES: usize = 2;
const FIRST_TRIES: usize = 3;
/// The longest packet that is read, in bytes.
const PACKET_MAX: usize = 64 << 10;

/// What came of trying one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// The size of the largest packet that passes, in bytes; zero if none was answered.
    pub passes: u32,
    /// Why it was not found out, or nothing could be sent.
    pub trouble: Option<String>,
}

/// Finds out which packets of up to `full` bytes pass from the host's own address in the tunnel to these, each by the
/// interface that is named beside it; answers may come by any of `ifnames`. Takes no longer than `limit`; who is not done with by then is in trouble. Call it where the
/// interface is.
///
/// # Errors
/// Nothing can be sent at all.
pub async fn reach(
    ifnames: &BTreeSet<String>,
    home: Ipv4Addr,
    others: Vec<(Ipv4Addr, String)>,
    full: u32,
    limit: Duration,
) -> io::Result<BTreeMap<Ipv4Addr, Reached>> {
    let echoes = Echoes::open(ifnames, home)?;
    let end = Instant::now() + limit;
    let one = |(to, by): (Ipv4Addr, String)| {
        let echoes = &echoes;
        async move {
            let mut search = Search::new(full);
            let found = timeout_at(end, echoes.search(to, &by, &mut search)).await;
            let reached = found.unwrap_or_else(|_| Reached {
                passes: search.passed(),
                trouble: Some(format!("not found out within {} s", limit.as_secs())),
            });
            (to, reached)
        }
    };
    let all = futures::stream::iter(others.into_iter().map(one)).buffer_unordered(AT_ONCE);
    tokio::select! {
        all = all.collect() => Ok(all),
        never = hear(&echoes) => match never {},
    }
}

/// Echoes under way.
struct Echoes {
    /// By the interface that they are bound to.
    sockets: BTreeMap<String, UdpSocket>,
    id: u16,
    token: [u8; 16],
    sequence: AtomicU16,
    /// Who waits for an answer from whom, by sequence number.
    waiting: Mutex<BTreeMap<u16, (Ipv4Addr, oneshot::Sender<u32>)>>,
}

impl Echoes {
    fn open(ifnames: &BTreeSet<String>, home: Ipv4Addr) -> io::Result<Self> {
        let mut sockets = BTreeMap::new();
        for ifname in ifnames {
            match Self::socket(ifname, home) {
                Ok(socket) => drop(sockets.insert(ifname.clone(), socket)),
                // The other one is being taken away, or made.
                Err(error) if is_missing(&error) && ifnames.len() > 1 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            sockets,
            id: rand::random(),
            token: rand::random(),
            sequence: AtomicU16::new(0),
            waiting: Mutex::default(),
        })
    }

    fn socket(ifname: &str, home: Ipv4Addr) -> io::Result<UdpSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(ipproto::ICMP);
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, protocol)?;
        // Never cut, whatever the kernel has learned of the way: that is what is to be found out.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        // Nor is an answer, which only its reader can tell. A kernel that does not counts all as whole.
        let _ = tell_of_parts(&socket);
        // And by no other way, where the route is missing.
        setsockopt(&socket, nix_sockopt::BindToDevice, &ifname.into())?;
        bind(&socket, &SocketAddrV4::new(home, 0))?;
        // A raw socket sends and receives as one of UDP does; nothing else is asked of it.
        UdpSocket::from_std(socket.into())
    }

    async fn search(&self, to: Ipv4Addr, by: &str, search: &mut Search) -> Reached {
        let mut patience = None;
        loop {
            let size = match search.next() {
                Tried::Ended(passes) => return Reached { passes, trouble: None },
                Tried::Next(size) => size,
            };
            let tries = if patience.is_none() { FIRST_TRIES } else { TRIES };
            let mut answered = false;
            for _ in 0..tries {
                let began = Instant::now();
                match self.try_once(to, by, size, patience.unwrap_or(FIRST)).await {
                    Ok(true) => {
                        let took = began.elapsed();
                        patience = Some((took * 4).clamp(LEAST, FIRST));
                        answered = true;
                        break;
                    }
                    Ok(false) => {}
                    // The interface is for smaller ones.
                    Err(Errno::MSGSIZE) => break,
                    Err(errno) => {
                        let trouble = format!("cannot send to {to}: {}", io::Error::from(errno));
                        return Reached { passes: search.passed(), trouble: Some(trouble) };
                    }
                }
            }
            search.learn(size, answered);
        }
    }

    /// Whether one packet is answered in time.
    async fn try_once(
        &self,
        to: Ipv4Addr,
        by: &str,
        size: u32,
        patience: Duration,
    ) -> Result<bool, Errno> {
        let socket = self.sockets.get(by).ok_or(Errno::NODEV)?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(sequence, (to, answer));
        let packet = echo(size, self.id, sequence, self.token);
        let sent = socket.send_to(&packet, (to, 0)).await;
        let sent = sent.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let heard = match sent {
            // There is room again soon: it counts as lost.
            Ok(_) | Err(Errno::NOBUFS) => Ok(timeout(patience, answered).await),
            Err(errno) => Err(errno),
        };
        self.waiting().remove(&sequence);
        let heard = heard?;
        Ok(matches!(heard, Ok(Ok(answer)) if answer == size))
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u16, (Ipv4Addr, oneshot::Sender<u32>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, packet: &[u8], in_parts: bool) {
        let Some((from, sequence, size)) = echoed(packet, self.id, self.token) else { return };
        if !counts(size, in_parts) {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.get(&sequence).is_some_and(|(to, _)| *to == from)
            && let Some((_, answer)) = waiting.remove(&sequence)
        {
            // Who waited may just have given up.
            let _ = answer.send(size);
        }
    }
}

/// Whether there is no interface of this name.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Takes answers, by whichever interface they come.
async fn hear(echoes: &Echoes) -> Infallible {
    let all: FuturesUnordered<_> =
        echoes.sockets.values().map(|socket| hear_on(echoes, socket)).collect();
    match all.into_future().await.0 {
        Some(never) => match never {},
        None => std::future::pending().await,
    }
}

async fn hear_on(echoes: &Echoes, socket: &UdpSocket) -> Infallible {
    let mut buffer = vec![0; PACKET_MAX];
    loop {
        let number = socket.as_raw_fd();
        let received =
            socket.async_io(Interest::READABLE, || Ok(receive(number, &mut buffer)?)).await;
        match received {
            Ok((length, in_parts)) => echoes.heard(&buffer[..length], in_parts),
            // An error of an earlier packet, which is reported once.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// One packet: its length, and whether it has come in parts.
fn receive(socket: RawFd, buffer: &mut [u8]) -> nix::Result<(usize, bool)> {
    let mut said = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<()>(socket, &mut parts, Some(&mut said), MsgFlags::MSG_DONTWAIT)?;
    let says_so = |message: ControlMessageOwned| match message {
        ControlMessageOwned::Unknown(message) => {
            let header = message.cmsg_header;
            (header.cmsg_level, header.cmsg_type) == (IPPROTO_IP, LARGEST_PART)
        }
        _ => false,
    };
    let in_parts = got.cmsgs()?.any(says_so);
    Ok((got.bytes, in_parts))
}
