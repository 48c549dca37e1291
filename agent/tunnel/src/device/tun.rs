//! The interface of the process, with large packets: cut here before they are encrypted, and joined again after.

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use rustix::io::Errno;
use shoal_agent_container::sys::tun::{self, offload};
use shoal_agent_planning::segment::{Header, Merger, Offload, split};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

/// The longest that comes at once: a header and a packet.
const READ_MAX: usize = Header::LEN + (64 << 10);
/// Packets taken at once, about; then they are encrypted.
const READ_PACKETS: usize = 128;
/// Packets that are joined at once, at most.
const BATCH: usize = 256;
/// Packets that wait for that, at most.
const QUEUE: usize = 1024;
/// How old what is known of the size of packets may be.
const MTU_AGE: Duration = Duration::from_millis(100);

/// Opens the interface. The kernel is asked for as much as it can leave to us.
pub(super) fn open(ifname: &str) -> io::Result<(Sender, Receiver, Offload)> {
    let name = CString::new(ifname)?;
    let tun = tun::open(&name)?;
    let tcp = offload::CHECKSUM | offload::TCP4 | offload::TCP6;
    let able = [
        (tcp | offload::UDP4 | offload::UDP6, Offload::TcpAndUdp),
        (tcp, Offload::Tcp),
        // Whoever had it before may have asked for more.
        (0, Offload::None),
    ];
    let asked = |(what, able)| tun::set_offload(&tun, what).map(|()| able);
    let able = able.into_iter().map(asked).find_map(Result::ok).unwrap_or(Offload::None);
    let mtu = tun::mtu(&name)?;
    let (told, mtu) = watch::channel(clamp(mtu));
    #[expect(deprecated, reason = "its replacement is unsafe; a descriptor of our own is sound")]
    let tun = Arc::new(AsyncFd::new(tun)?);
    let (packets, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write(Arc::clone(&tun), queue, able));
    let receiver = Receiver {
        tun,
        buffer: vec![0; READ_MAX],
        packets: Vec::new(),
        name,
        told,
        mtu,
        looked: Instant::now(),
    };
    Ok((Sender { packets }, receiver, able))
}

fn clamp(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// Where decrypted packets go.
pub(super) struct Sender {
    packets: mpsc::Sender<Packet<Ip>>,
}

impl IpSend for Sender {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.packets.send(packet).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Joins what has come meanwhile and gives it to the kernel, until nobody sends any more or the interface is gone.
async fn write(
    tun: Arc<AsyncFd<OwnedFd>>,
    mut queue: mpsc::Receiver<Packet<Ip>>,
    mut able: Offload,
) {
    let (mut batch, mut merger) = (Vec::with_capacity(BATCH), Merger::default());
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut packets: Vec<Packet> = batch.drain(..).map(Packet::into_bytes).collect();
        merger.merge(&mut packets, able);
        for run in merger.runs() {
            let header = run.header.bytes();
            let parts = merger.parts(run, &packets).map(IoSlice::new);
            let parts: Vec<IoSlice<'_>> =
                std::iter::once(IoSlice::new(&header)).chain(parts).collect();
            let written =
                tun.async_io(Interest::WRITABLE, |tun| Ok(rustix::io::writev(tun, &parts)?));
            match written.await {
                // Deleted. Whoever reads it sees the same.
                Err(error) if is(&error, Errno::BADFD) => return,
                // Some kernels of 2024 refuse what is joined rightly: nothing is from now on.
                Err(error) if run.header.gso.is_some() && is(&error, Errno::INVAL) => {
                    able = Offload::None;
                }
                // A packet that the kernel does not take is lost, as on any way.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Where packets come from that are to be encrypted.
pub(super) struct Receiver {
    tun: Arc<AsyncFd<OwnedFd>>,
    buffer: Vec<u8>,
    packets: Vec<Packet<Ip>>,
    name: CString,
    told: watch::Sender<u16>,
    mtu: watch::Receiver<u16>,
    looked: Instant,
}

impl Receiver {
    fn cut(&mut self, len: usize, pool: &PacketBufPool) {
        let Some((header, packet)) = self.buffer[..len].split_first_chunk::<{ Header::LEN }>()
        else {
            return;
        };
        // What the kernel was not asked for does not come.
        let Some(header) = Header::parse(*header) else { return };
        let Ok(mut segments) = split(packet, &header) else { return };
        loop {
            let mut out = pool.get();
            if segments.longest() > out.len() {
                out.buf_mut().resize(segments.longest(), 0);
            }
            let Some(len) = segments.write_next(&mut out) else { return };
            out.truncate(len);
            self.packets.extend(out.try_into_ip().ok());
        }
    }

    fn look_at_mtu(&mut self) {
        if self.looked.elapsed() < MTU_AGE {
            return;
        }
        self.looked = Instant::now();
        if let Ok(mtu) = tun::mtu(&self.name) {
            self.told.send_if_modified(|told| std::mem::replace(told, clamp(mtu)) != clamp(mtu));
        }
    }
}

impl IpRecv for Receiver {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let tun = Arc::clone(&self.tun);
        while self.packets.is_empty() {
            // What is read may come to nothing, again and again: others have their turn.
            tokio::task::consume_budget().await;
            let mut ready = tun.readable().await?;
            self.look_at_mtu();
            // What is there already goes with the first.
            while self.packets.len() < READ_PACKETS {
                let read = ready.try_io(|tun| Ok(rustix::io::read(tun, &mut self.buffer[..])?));
                match read {
                    Ok(Ok(len)) => self.cut(len, pool),
                    // It is asked again, and says the same, once these are on their way.
                    Ok(Err(_)) if !self.packets.is_empty() => break,
                    Ok(Err(error)) => return Err(error),
                    // Nothing more.
                    Err(_) => break,
                }
            }
        }
        Ok(self.packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}
