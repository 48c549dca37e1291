//! The supervisor's side of its socket: a listener for agents to come, and one connection or several.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::protocol::{Hello, LINE_MAX, Message, Request};

/// Connections at the same time at most: an agent, its successor, and a person looking. Whoever comes
/// then takes the place of who has been there longest: it is the next agent that must not be kept out.
const CONNECTIONS_MAX: usize = 8;

/// One agent.
#[derive(Debug)]
struct Connection {
    key: u32,
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// All agents.
#[derive(Debug)]
pub struct Control {
    listener: Option<UnixListener>,
    connections: Vec<Connection>,
    last_key: u32,
}

impl Control {
    /// Starts with the connection that was inherited, if any.
    #[must_use]
    pub fn new(inherited: Option<OwnedFd>) -> Self {
        let mut control = Self { listener: None, connections: Vec::new(), last_key: 0 };
        if let Some(fd) = inherited {
            control.add(fd);
        }
        control
    }

    /// Listens at a path relative to the working directory (an absolute one may be too long for a
    /// socket).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn listen(&mut self, name: &str) -> io::Result<()> {
        let listener = UnixListener::bind(name)?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Descriptors to wait for, the listener's (if any) first.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.listener.iter().map(AsFd::as_fd);
        listener.chain(self.connections.iter().map(|c| c.fd.as_fd()))
    }

    fn add(&mut self, fd: OwnedFd) -> Option<u32> {
        rustix::io::ioctl_fionbio(&fd, true).ok()?;
        self.last_key += 1;
        self.connections.push(Connection { key: self.last_key, fd, buffer: Vec::new() });
        Some(self.last_key)
    }

    /// Takes whoever is waiting, if it is root or ourselves, and greets; gives the new connections' keys.
    pub fn accept(&mut self) -> Vec<u32> {
        let mut new = Vec::new();
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let own = rustix::process::geteuid();
            let trusted = socket_peercred(&stream).is_ok_and(|c| c.uid.is_root() || c.uid == own);
            if !trusted {
                continue;
            }
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            if let Some(key) = self.add(stream.into()) {
                self.say(key, &Message::Hello(Hello::OURS));
                new.push(key);
            }
        }
        new
    }

    /// Reads what has come, and who asked. Connections that ended or misbehaved are dropped.
    pub fn requests(&mut self) -> Vec<(u32, Request)> {
        let mut out = Vec::new();
        self.connections.retain_mut(|c| receive(c, &mut out));
        out
    }

    /// Says something to one connection. One that does not read is dropped: it would come back and
    /// ask.
    pub fn say(&mut self, key: u32, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        self.connections.retain(|c| {
            let flags = SendFlags::NOSIGNAL;
            c.key != key || send(&c.fd, &line, flags).is_ok_and(|n| n == line.len())
        });
    }

    /// Says something to all.
    pub fn say_all(&mut self, message: &Message) {
        let keys: Vec<u32> = self.connections.iter().map(|c| c.key).collect();
        keys.into_iter().for_each(|key| self.say(key, message));
    }
}

/// Whether the connection goes on.
fn receive(c: &mut Connection, out: &mut Vec<(u32, Request)>) -> bool {
    let mut chunk = [0u8; 4096];
    loop {
        match recv(&c.fd, &mut chunk, RecvFlags::empty()) {
            Ok((_, 0)) => return false,
            Ok((_, n)) => c.buffer.extend_from_slice(&chunk[..n]),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
        if c.buffer.len() > LINE_MAX {
            return false;
        }
    }
    while let Some(end) = c.buffer.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = c.buffer.drain(..=end).collect();
        match Request::read(&line) {
            Ok(request) => out.push((c.key, request)),
            Err(_) => return false,
        }
    }
    true
}
