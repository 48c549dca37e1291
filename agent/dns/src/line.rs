//! A connection to a process that answers, as the agent has it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_agent_planning::zone::{Asker, Change, Zone};

use super::Sockets;
use super::words::{Answer, Ask, receive, send};

/// Whoever does not answer for so long is replaced.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes in one packet, as many as fit with the longest names there are.
pub(crate) const CHANGES_MAX: usize = 16;

/// A connection to a process that has said who it is.
pub(crate) struct Line {
    socket: OwnedFd,
    pub(crate) version: String,
    /// Refers to it also when another one has its number. The socket does not tell: the kernel says who
    /// listens first, and that was the agent.
    process: OwnedFd,
    pub(crate) begun: Instant,
    /// Closed with the line, which ends the watch over it.
    watch: Option<OwnedFd>,
}

pub(crate) fn seqpacket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

impl Line {
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
        }
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        let (version, pid) = hello(&socket)?;
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("it has no number"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // It was its number before, and still is.
        hello(&socket)?;
        Ok(Self { socket, version, process, begun: Instant::now(), watch: None })
    }

    /// Does something when the process ends, unless the line does before.
    pub(crate) fn when_it_ends(&mut self, act: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (over, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let process = self.process.try_clone()?;
        let watch = move || {
            if ended(&process, &over) {
                act();
            }
        };
        std::thread::Builder::new().name("names-watch".to_owned()).spawn(watch)?;
        self.watch = Some(end);
        Ok(())
    }

    /// Whether the process is still there.
    pub(crate) fn is_alive(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ends = [PollFd::new(&self.process, PollFlags::IN)];
        !matches!(poll(&mut ends, Some(&now)), Ok(1..))
    }

    /// Asks for something and waits until it is done.
    pub(crate) fn ask(&self, what: &Ask) -> io::Result<()> {
        send(&self.socket, what, &[])?;
        self.done()
    }

    fn done(&self) -> io::Result<()> {
        match heard(&self.socket)?.0 {
            Answer::Done => Ok(()),
            Answer::Refused(why) => Err(io::Error::other(why)),
            other => {
                Err(io::Error::other(format!("it answers {other:?}, expected that it is done")))
            }
        }
    }

    pub(crate) fn hello(&self) -> io::Result<()> {
        hello(&self.socket).map(drop)
    }

    /// Has a container answered.
    pub(crate) fn give(&self, asker: &Asker, sockets: &Sockets) -> io::Result<()> {
        let both = [sockets.udp.as_fd(), sockets.tcp.as_fd()];
        send(&self.socket, &Ask::Serve(asker.clone()), &both)?;
        self.done()
    }

    pub(crate) fn say_changes(&self, changes: &[Change]) -> io::Result<()> {
        changes.chunks(CHANGES_MAX).try_for_each(|some| self.ask(&Ask::Changes(some.to_vec())))
    }

    /// Copies of the sockets that it has.
    pub(crate) fn borrow(&self) -> io::Result<BTreeMap<String, (Asker, Sockets)>> {
        send(&self.socket, &Ask::Lend, &[])?;
        let mut all = BTreeMap::new();
        loop {
            match heard(&self.socket)? {
                (Answer::Lent(asker), descriptors) => {
                    let [udp, tcp] = <[OwnedFd; 2]>::try_from(descriptors)
                        .map_err(|_| io::Error::other("it has lent no two sockets"))?;
                    let sockets = Sockets { udp: udp.into(), tcp: tcp.into() };
                    all.insert(asker.container.clone(), (asker, sockets));
                }
                (Answer::Done, _) => return Ok(all),
                (other, _) => return Err(io::Error::other(format!("it answers {other:?}"))),
            }
        }
    }

    /// What it knows.
    pub(crate) fn zone(&self) -> io::Result<Zone> {
        send(&self.socket, &Ask::Tell, &[])?;
        let mut zone = Zone::default();
        loop {
            match heard(&self.socket)?.0 {
                Answer::Known(changes) => changes.into_iter().for_each(|change| zone.take(change)),
                Answer::Done => return Ok(zone),
                other => return Err(io::Error::other(format!("it answers {other:?}"))),
            }
        }
    }

    /// Has the process end if it does so, and kills it if not.
    pub(crate) fn farewell(&self) {
        if self.ask(&Ask::End).is_err() {
            // It may be gone, as it was to be.
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
        }
    }
}

/// Waits for the end of a process, or of who waits for it; whether it was the process.
fn ended(process: &OwnedFd, over: &OwnedFd) -> bool {
    loop {
        let mut ends = [PollFd::new(process, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) => return ends[1].revents().is_empty(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn heard(socket: &OwnedFd) -> io::Result<(Answer, Vec<OwnedFd>)> {
    receive(socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn hello(socket: &OwnedFd) -> io::Result<(String, i32)> {
    send(socket, &Ask::Hello, &[])?;
    match heard(socket)?.0 {
        Answer::Hello { version, pid } => Ok((version, pid)),
        other => Err(io::Error::other(format!("it answers {other:?}, expected its version"))),
    }
}
