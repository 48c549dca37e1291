//! The supervisor's ends of a container's standard streams.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};

use super::create::ChildStreams;
use crate::Stream;

/// Bytes read at once; also the most one stream gets before the other is looked at.
const CHUNK: usize = 32 * 1024;

/// Outputs to read and an input to keep.
#[derive(Debug, Default)]
pub struct Streams {
    outputs: Vec<(Stream, OwnedFd)>,
    /// Held so that the container does not read end of file, or loses its terminal.
    _stdin: Option<OwnedFd>,
}

/// Pipes for a container without a terminal.
///
/// # Errors
/// The kernel's answer.
pub fn pipes(open_stdin: bool) -> io::Result<(Streams, ChildStreams)> {
    let (out, child_out) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err, child_err) = pipe_with(PipeFlags::CLOEXEC)?;
    let (child_in, stdin) = if open_stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        (read, Some(write))
    } else {
        (open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
    };
    for fd in [&out, &err] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let outputs = vec![(Stream::Stdout, out), (Stream::Stderr, err)];
    let streams = Streams { outputs, _stdin: stdin };
    Ok((streams, ChildStreams { stdin: child_in, stdout: child_out, stderr: child_err }))
}

impl Streams {
    /// For a terminal.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let reader = rustix::io::fcntl_dupfd_cloexec(&master, 3)?;
        Ok(Self { outputs: vec![(Stream::Stdout, reader)], _stdin: Some(master) })
    }

    /// Descriptors to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|(_, fd)| fd.as_fd())
    }

    /// Whether every output has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Reads once from every output that has something.
    pub fn read(&mut self, mut take: impl FnMut(Stream, &[u8])) {
        let mut chunk = vec![0u8; CHUNK];
        self.outputs.retain(|(stream, fd)| match rustix::io::read(fd, &mut chunk[..]) {
            Ok(0) => false,
            Ok(n) => {
                take(*stream, &chunk[..n]);
                true
            }
            // A terminal says EIO when nobody holds its other side any more.
            Err(e) => e == Errno::AGAIN || e == Errno::INTR,
        });
    }
}

/// Takes the terminal that libcontainer sends to a console socket.
///
/// # Errors
/// The kernel's answer, and `InvalidData` when something else comes.
pub fn receive_terminal(console: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = console.accept()?;
    connection.set_nonblocking(false)?;
    let mut name = [0u8; 128];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut name)];
    recvmsg(&connection, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no terminal came with the message"))
}
