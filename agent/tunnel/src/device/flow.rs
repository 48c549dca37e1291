//! The way of a packet: a thread from the interface to the wire, one back, and one that looks at the clock.
//!
//! Each packet is encrypted by the thread that reads it and sent by the same one, a batch at a time: nothing waits for
//! another thread to be woken but what the kernel wakes.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use shoal_agent_planning::segment::Offload;
use tokio::sync::mpsc;

use super::ready::wait;
use super::table::Table;
use super::tun::{Reader, Tun, Writer};
use super::udp::{Addressed, Room, Socket};

/// How often keys, keepalives and what is to be forgotten are looked after.
const TICK: Duration = Duration::from_millis(250);
/// How long the kernel is left alone when it has no memory for us.
const PAUSE: Duration = Duration::from_millis(10);

/// What a thread does until it cannot: why.
type Way = fn(&Device) -> Errno;

/// Goes a way until that cannot go on, and says why. A thread that panics is one of those: what comes from the wire is
/// read there, and a process of which a thread is missing would look alive and carry nothing.
pub(super) fn until_it_cannot(way: impl FnOnce() -> Errno) -> String {
    // Nobody goes on with what it leaves: the process ends.
    match panic::catch_unwind(AssertUnwindSafe(way)) {
        Ok(error) => {
            let error = io::Error::from(error);
            format!("its interface was deleted or its socket failed: {error}")
        }
        Err(_) => "one of its threads panicked".to_owned(),
    }
}

/// What the threads share.
pub(super) struct Device {
    tun: Tun,
    table: RwLock<Table>,
    socket: RwLock<Option<Arc<Socket>>>,
    /// Told when there is another socket.
    moved: OwnedFd,
    /// Bytes of the largest packet.
    mtu: AtomicU16,
}

impl Device {
    /// One that knows nobody and does not listen.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn new(tun: Tun) -> io::Result<Self> {
        let moved = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mtu = AtomicU16::new(tun.mtu()?);
        let (table, socket) = (RwLock::default(), RwLock::default());
        Ok(Self { tun, table, socket, moved, mtu })
    }

    /// Starts the threads: why they cannot go on is sent by the first that cannot, once.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<mpsc::Receiver<String>> {
        let (ended, why) = mpsc::channel(3);
        let ways: [(&str, Way); 3] = [
            ("tunnel-out", Self::outward),
            ("tunnel-in", Self::inward),
            ("tunnel-clock", Self::clock),
        ];
        for (name, way) in ways {
            let (device, ended) = (Arc::clone(self), ended.clone());
            let run = move || {
                // One of the others may have been first.
                let _ = ended.try_send(until_it_cannot(|| way(&device)));
            };
            thread::Builder::new().name(name.to_owned()).spawn(run)?;
        }
        Ok(why)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Listens there from now on.
    ///
    /// # Errors
    /// The kernel's answer; then it listens where it did.
    pub(super) fn listen(&self, port: u16) -> io::Result<()> {
        if self.socket().is_some_and(|socket| socket.port() == port) {
            return Ok(());
        }
        let socket = Arc::new(Socket::bind(port)?);
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        // Who reads the former one is told so.
        rustix::io::write(&self.moved, &1u64.to_ne_bytes())?;
        Ok(())
    }

    /// What the kernel leaves to us.
    pub(super) fn able(&self) -> Offload {
        self.tun.able()
    }

    fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// From the interface to the wire, until one of them is gone.
    fn outward(&self) -> Errno {
        let (mut reader, mut packets, mut sealed) = (Reader::new(), Vec::new(), Vec::new());
        loop {
            if let Err(error) = reader.read(&self.tun, &mut packets) {
                return error;
            }
            self.table().seal(&mut packets, self.mtu(), &mut sealed);
            self.send(&mut sealed);
        }
    }

    fn send(&self, packets: &mut Vec<Addressed>) {
        match self.socket() {
            Some(socket) => socket.send(packets),
            // There is nowhere to send from until it is told where to listen.
            None => packets.clear(),
        }
    }

    /// From the wire to the interface, until one of them is gone.
    fn inward(&self) -> Errno {
        let (mut room, mut writer) = (Room::default(), Writer::new(&self.tun));
        let (mut packets, mut opened) = (Vec::new(), Vec::new());
        let mut waited = false;
        loop {
            let socket = self.socket();
            let received = match &socket {
                Some(socket) => room.receive(socket, waited, &mut packets),
                None => Err(nix::Error::EAGAIN),
            };
            match received {
                Ok(()) => {}
                Err(nix::Error::EAGAIN) => match self.wait(socket.as_deref()) {
                    Ok(()) => {
                        waited = true;
                        continue;
                    }
                    Err(error) => return error,
                },
                Err(nix::Error::ENOBUFS | nix::Error::ENOMEM) => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Errno::from_raw_os_error(error as i32),
            }
            waited = false;
            let (table, mtu) = (self.table(), self.mtu());
            table.open(&mut packets, mtu, &mut opened, |answers| self.send(answers));
            drop(table);
            writer.write(&self.tun, &mut opened);
        }
    }

    /// Waits until something comes, or there is another socket.
    fn wait(&self, socket: Option<&Socket>) -> Result<(), Errno> {
        let moved = (self.moved.as_fd(), PollFlags::IN);
        let ready = match socket {
            Some(socket) => wait([moved, (socket.as_fd(), PollFlags::IN)], None)?,
            None => [wait([moved], None)?[0], false],
        };
        if ready[0] {
            rustix::io::read(&self.moved, &mut [0; 8])?;
        }
        Ok(())
    }

    /// Looks at the clock for all peers, and at the interface.
    fn clock(&self) -> Errno {
        let mut packets = Vec::new();
        loop {
            thread::sleep(TICK);
            // Who has deleted it is noticed by who reads it.
            if let Ok(mtu) = self.tun.mtu() {
                self.mtu.store(mtu, Ordering::Relaxed);
            }
            self.table().tick(&mut packets);
            self.send(&mut packets);
        }
    }
}
