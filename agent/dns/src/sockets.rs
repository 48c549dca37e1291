//! Sockets inside a container's network namespace.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ADDRESS;

/// This thread's namespace. Not `/proc/self`, which is that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// What a container asks through.
#[derive(Debug)]
pub struct Sockets {
    /// Bound.
    pub udp: UdpSocket,
    /// Listens.
    pub tcp: TcpListener,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The namespace is gone, or may not be entered.
    #[error("cannot enter the network namespace {}", path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is this process's own, in which nobody may be answered.
    #[error("{} is the host's network namespace, expected a container's", path.display())]
    Host {
        /// Its file.
        path: PathBuf,
    },
    /// The address is taken, or its loopback interface is down.
    #[error("cannot listen on {ADDRESS} in {}", path.display())]
    Listen {
        /// The namespace's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("cannot start a thread that enters {}", path.display())]
    Thread {
        /// The namespace's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Opens the sockets of a container, whose loopback interface is up. Blocks.
///
/// A namespace belongs to a thread, so one of its own enters it and ends; what it has opened stays where
/// it was opened.
///
/// # Errors
/// The namespace cannot be entered or is the caller's own; the address cannot be listened on.
pub fn open(netns: &Path) -> Result<Sockets, SocketError> {
    let path = netns.to_owned();
    let failed = |source| SocketError::Enter { path: path.clone(), source };
    let file = File::open(netns).map_err(failed)?;
    let (own, theirs) = (fs::metadata(OWN).map_err(failed)?, file.metadata().map_err(failed)?);
    if (own.dev(), own.ino()) == (theirs.dev(), theirs.ino()) {
        return Err(SocketError::Host { path });
    }
    let inside = netns.to_owned();
    let enter = move || {
        let kind = Some(LinkNameSpaceType::Network);
        if let Err(errno) = move_into_link_name_space(file.as_fd(), kind) {
            return Err(SocketError::Enter { path: inside, source: errno.into() });
        }
        listen().map_err(|source| SocketError::Listen { path: inside, source })
    };
    let thread = thread::Builder::new().name("netns".to_owned()).spawn(enter);
    let thread = thread.map_err(|source| SocketError::Thread { path: path.clone(), source })?;
    let lost = || SocketError::Thread { path, source: io::Error::other("it panicked") };
    thread.join().unwrap_or_else(|_| Err(lost()))
}

fn listen() -> io::Result<Sockets> {
    let (udp, tcp) = (UdpSocket::bind(ADDRESS)?, TcpListener::bind(ADDRESS)?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok(Sockets { udp, tcp })
}
