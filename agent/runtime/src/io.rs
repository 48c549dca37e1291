//! Descriptors in the async runtime: pipes, terminals, the kernel's news.
//!
//! Tokio's ends of pipes take any descriptor that can be waited for, and own it, which its general type
//! for descriptors leaves to the caller to promise.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::unix::pipe::{Receiver, Sender};

/// A descriptor to read from.
#[derive(Debug)]
pub(super) struct Readable(Receiver);

impl Readable {
    /// Makes it non-blocking and watches it.
    ///
    /// # Errors
    /// The kernel's answer, such as `EPERM` for a regular file.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Receiver::from_owned_fd_unchecked(fd).map(Self)
    }

    /// Waits until there is something to read. May be cancelled.
    ///
    /// # Errors
    /// When the async runtime ends.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Reads what there is, once there is something. May be cancelled.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            // The kernel is asked until it has nothing: of a terminal, less than was asked for is not
            // all there is.
            match self.0.try_io(|| Ok(rustix::io::read(self.0.as_fd(), &mut *into)?)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// A descriptor to write to.
#[derive(Debug)]
pub(super) struct Writable(Sender);

impl Writable {
    /// Makes it non-blocking and watches it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Sender::from_owned_fd_unchecked(fd).map(Self)
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_io(|| Ok(rustix::io::write(self.0.as_fd(), bytes)?)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(n) => bytes = &bytes[n..],
            }
        }
        Ok(())
    }
}
