//! The interface of the process, with large packets: cut here before they are encrypted, and joined again after.

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};

use bytes::BytesMut;
use gotatun::packet::Packet;
use rustix::event::PollFlags;
use rustix::io::Errno;
use shoal_agent_container::sys::tun::{self, offload};
use shoal_agent_planning::segment::{Header, Merger, Offload, split};

use super::ready::wait;

/// The longest that comes at once: a header and a packet.
const READ_MAX: usize = Header::LEN + (64 << 10);
/// Packets taken at once, about; then they are encrypted.
const READ_PACKETS: usize = 128;
/// Packets that wait in the kernel to be read, at most.
const QUEUE: u16 = 4096;
/// What is encrypted is padded to a multiple of so many bytes: there is room for that behind each packet.
const PADDING: usize = 16;

/// The interface.
pub(super) struct Tun {
    tun: OwnedFd,
    name: CString,
    able: Offload,
}

impl Tun {
    /// Opens the interface. The kernel is asked for as much as it can leave to us.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn open(ifname: &str) -> io::Result<Self> {
        let name = CString::new(ifname)?;
        let tun = tun::open(&name)?;
        // Else it is 500, and a busy host may give this process no turn before so many have come.
        let _ = tun::set_queue(&name, QUEUE);
        let tcp = offload::CHECKSUM | offload::TCP4 | offload::TCP6;
        let able = [
            (tcp | offload::UDP4 | offload::UDP6, Offload::TcpAndUdp),
            (tcp, Offload::Tcp),
            // Whoever had it before may have asked for more.
            (0, Offload::None),
        ];
        let asked = |(what, able)| tun::set_offload(&tun, what).map(|()| able);
        let able = able.into_iter().map(asked).find_map(Result::ok).unwrap_or(Offload::None);
        Ok(Self { tun, name, able })
    }

    /// What the kernel leaves to us.
    pub(super) fn able(&self) -> Offload {
        self.able
    }

    /// Bytes of its largest packet.
    ///
    /// # Errors
    /// The kernel's answer: `ENODEV` once it is deleted.
    pub(super) fn mtu(&self) -> io::Result<u16> {
        Ok(u16::try_from(tun::mtu(&self.name)?).unwrap_or(u16::MAX))
    }
}

/// Takes from the interface what is to be encrypted.
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; READ_MAX] }
    }

    /// Waits for packets, and takes what is there, up to about [`READ_PACKETS`]. One that was waited for is not kept
    /// waiting for others: where there are many, the next time finds them without.
    ///
    /// # Errors
    /// The kernel's answer: `EBADFD` once the interface is deleted.
    pub(super) fn read(&mut self, tun: &Tun, packets: &mut Vec<Packet>) -> Result<(), Errno> {
        let mut waited = false;
        while packets.is_empty() || (!waited && packets.len() < READ_PACKETS) {
            match rustix::io::read(&tun.tun, &mut self.buffer[..]) {
                Ok(len) => self.cut(len, packets),
                Err(Errno::INTR) => {}
                // What has failed is asked again, and says the same, once these are on their way.
                Err(_) if !packets.is_empty() => break,
                Err(Errno::AGAIN) => {
                    wait([(tun.tun.as_fd(), PollFlags::IN)], None)?;
                    waited = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut(&mut self, len: usize, packets: &mut Vec<Packet>) {
        let Some((header, packet)) = self.buffer[..len].split_first_chunk::<{ Header::LEN }>()
        else {
            return;
        };
        // What the kernel was not asked for does not come.
        let Some(header) = Header::parse(*header) else { return };
        let Ok(mut segments) = split(packet, &header) else { return };
        let each = segments.longest().next_multiple_of(PADDING);
        let mut room = BytesMut::zeroed(segments.count() * each);
        while !room.is_empty() {
            let mut out = room.split_to(each.min(room.len()));
            let Some(len) = segments.write_next(&mut out) else { return };
            out.truncate(len);
            packets.push(Packet::from_bytes(out));
        }
    }
}

/// Gives the interface what was decrypted.
pub(super) struct Writer {
    able: Offload,
    merger: Merger,
}

impl Writer {
    pub(super) fn new(tun: &Tun) -> Self {
        Self { able: tun.able, merger: Merger::default() }
    }

    /// Joins packets and gives them to the kernel. One that it does not take is lost, as on any way.
    pub(super) fn write(&mut self, tun: &Tun, packets: &mut Vec<Packet>) {
        self.merger.merge(packets, self.able);
        for run in self.merger.runs() {
            let header = run.header.bytes();
            let parts = self.merger.parts(run, packets).map(IoSlice::new);
            let parts: Vec<IoSlice<'_>> =
                std::iter::once(IoSlice::new(&header)).chain(parts).collect();
            let written = rustix::io::retry_on_intr(|| rustix::io::writev(&tun.tun, &parts));
            // Some kernels of 2024 refuse what is joined rightly: nothing is from now on.
            if run.header.gso.is_some() && written == Err(Errno::INVAL) {
                self.able = Offload::None;
            }
        }
        packets.clear();
    }
}
