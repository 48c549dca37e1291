//! A connection to a process that answers, as the agent has it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_agent_planning::zone::{Asker, Change, Zone};

use super::Sockets;
use super::words::{Answer, Ask, Packet, packets, receive, send};

/// Whoever does not answer for so long is replaced.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers to one question, each of them a packet: what one that has gone wrong can have this host keep.
const ANSWERS_MAX: usize = 1 << 14;

/// A connection to a process that has said who it is.
pub(crate) struct Line {
    socket: OwnedFd,
    pub(crate) version: String,
    /// Its number, as the kernel says with each of its words: it is killed by that, and what a process
    /// without rights says of itself is no reason for it. The socket does not tell: the kernel says who
    /// listens first, and that was the agent.
    pid: Pid,
    /// Refers to it also when another one has its number.
    process: OwnedFd,
    /// It may not have heard all that it was told.
    pub(crate) behind: bool,
    pub(crate) begun: Instant,
    /// Closed with the line, which ends the watch over it.
    watch: Option<OwnedFd>,
}

pub(crate) fn seqpacket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

fn connected(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_passcred(&socket, true)?;
    Ok(socket)
}

fn is_still(pid: Pid, now: Pid) -> io::Result<()> {
    if pid == now {
        return Ok(());
    }
    let (pid, now) = (pid.as_raw_nonzero(), now.as_raw_nonzero());
    Err(io::Error::other(format!("process {now} answers, expected {pid}")))
}

impl Line {
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        let socket = connected(path)?;
        let (version, pid) = hello(&socket)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // It was its number before, and still is.
        is_still(pid, hello(&socket)?.1)?;
        let (begun, behind) = (Instant::now(), false);
        Ok(Self { socket, version, pid, process, behind, begun, watch: None })
    }

    /// Talks to the same process through a connection of its own, so that what it answers late to what was
    /// asked before is not taken for an answer to what is asked now.
    pub(crate) fn begin_anew(&mut self, path: &Path) -> io::Result<()> {
        // One agent is heard at a time, so the connection before goes first.
        self.socket = connected(path)?;
        is_still(self.pid, hello(&self.socket)?.1)
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
        match heard(&self.socket)?.word {
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

    pub(crate) fn say_changes(&self, changes: Vec<Change>) -> io::Result<()> {
        packets(changes)?.into_iter().try_for_each(|some| self.ask(&Ask::Changes(some)))
    }

    /// Copies of the sockets that it has.
    pub(crate) fn borrow(&self) -> io::Result<BTreeMap<String, (Asker, Sockets)>> {
        let mut all = BTreeMap::new();
        self.answers(&Ask::Lend, |packet| {
            let Answer::Lent(asker) = packet.word else { return Err(strange(&packet.word)) };
            let [udp, tcp] = <[OwnedFd; 2]>::try_from(packet.descriptors)
                .map_err(|_| io::Error::other("it has lent no two sockets"))?;
            let sockets = Sockets { udp: udp.into(), tcp: tcp.into() };
            all.insert(asker.container.clone(), (asker, sockets));
            Ok(())
        })?;
        Ok(all)
    }

    /// What it knows.
    pub(crate) fn zone(&self) -> io::Result<Zone> {
        let mut zone = Zone::default();
        self.answers(&Ask::Tell, |packet| {
            let Answer::Known(changes) = packet.word else { return Err(strange(&packet.word)) };
            changes.into_iter().for_each(|change| zone.take(change));
            Ok(())
        })?;
        Ok(zone)
    }

    /// Asks for something that has many answers, and takes them in until it is done.
    fn answers(
        &self,
        ask: &Ask,
        mut take: impl FnMut(Packet<Answer>) -> io::Result<()>,
    ) -> io::Result<()> {
        send(&self.socket, ask, &[])?;
        for _ in 0..ANSWERS_MAX {
            let packet = heard(&self.socket)?;
            if packet.word == Answer::Done {
                return Ok(());
            }
            take(packet)?;
        }
        Err(io::Error::other(format!("it is not done after {ANSWERS_MAX} answers")))
    }

    /// Has the process end if it does so, and kills it if not.
    pub(crate) fn farewell(&mut self) {
        // That it ends is no surprise, and no death to be counted.
        self.watch = None;
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

fn heard(socket: &OwnedFd) -> io::Result<Packet<Answer>> {
    receive(socket)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn strange(answer: &Answer) -> io::Error {
    io::Error::other(format!("it answers {answer:?}"))
}

/// Its version, and its number from the kernel.
fn hello(socket: &OwnedFd) -> io::Result<(String, Pid)> {
    send(socket, &Ask::Hello, &[])?;
    match heard(socket)? {
        Packet { word: Answer::Hello { version, .. }, sender: Some(pid), .. } => Ok((version, pid)),
        Packet { word: Answer::Hello { .. }, sender: None, .. } => {
            Err(io::Error::other("the kernel does not say who answers"))
        }
        other => {
            Err(io::Error::other(format!("it answers {:?}, expected its version", other.word)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::net::{accept, bind, listen};

    use super::*;

    /// One that says of itself that it is another, and is never done.
    #[test]
    fn what_a_process_says_of_itself_is_not_believed_and_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.sock");
        let listener = seqpacket().unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        let liar = thread::spawn(move || {
            let agent = accept(&listener).unwrap();
            while let Some(packet) = receive::<Ask>(&agent).unwrap() {
                let hello = Answer::Hello { version: "1".to_owned(), pid: 1 };
                let known = Answer::Known(Vec::new());
                let sent = match packet.word {
                    Ask::Hello => send(&agent, &hello, &[]).map(|()| 1),
                    _ => Ok((0..=2 * ANSWERS_MAX)
                        .take_while(|_| send(&agent, &known, &[]).is_ok())
                        .count()),
                };
                assert!(sent.unwrap() <= 2 * ANSWERS_MAX, "it is heard to its end");
            }
        });
        let line = Line::to(&path).unwrap();
        assert_eq!(line.pid, rustix::process::getpid());
        let error = line.zone().unwrap_err();
        assert!(error.to_string().contains("not done after 16384 answers"), "{error}");
        drop(line);
        liar.join().unwrap();
    }
}
