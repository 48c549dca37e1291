//! The time between the wish that a container starts and the news that it runs, or cannot.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::io::Errno;
use rustix::process::WaitStatus;

use super::children::readable;
use super::create::Creator;
use super::protocol::Failure;
use super::streams;

/// A creator is at work.
pub(super) struct Starting {
    pub creator: Creator,
    pub outcome: Vec<u8>,
    pub executed: Vec<u8>,
    /// Ends that have been seen: of outcome, of executed.
    pub ended: [bool; 2],
    pub console: Option<UnixListener>,
    pub asked: Vec<(u32, u32)>,
}

impl Starting {
    /// Reads what the creator says; gives the terminal when it comes.
    pub(super) fn progress(&mut self) -> Option<io::Result<OwnedFd>> {
        let pipes = [
            (&self.creator.outcome, &mut self.outcome),
            (&self.creator.executed, &mut self.executed),
        ];
        for ((fd, buffer), ended) in pipes.into_iter().zip(&mut self.ended) {
            while !*ended && readable(fd) {
                let mut chunk = [0u8; 1024];
                match rustix::io::read(fd, &mut chunk[..]) {
                    Ok(0) => *ended = true,
                    Ok(n) => buffer.extend_from_slice(&chunk[..n]),
                    Err(Errno::INTR) => {}
                    Err(_) => *ended = true,
                }
            }
        }
        let console = self.console.as_ref()?;
        if !readable(console) {
            return None;
        }
        let terminal = streams::receive_terminal(console);
        self.console = None;
        Some(terminal)
    }

    /// The container's first process, or what went wrong, the closest to the cause.
    pub(super) fn verdict(
        &self,
        creator: Option<WaitStatus>,
        out_of_memory: bool,
    ) -> Result<i32, Failure> {
        if let Ok(failure) = serde_json::from_slice::<Failure>(&self.executed) {
            return Err(failure);
        }
        match serde_json::from_slice::<Result<i32, Failure>>(&self.outcome) {
            Ok(result) if !out_of_memory || result.is_ok() => result,
            _ => {
                let reason = if out_of_memory {
                    "out of memory: its limit is too small to start in".to_owned()
                } else {
                    format!("the creator ended without a word ({creator:?})")
                };
                Err(Failure::Other { stage: "making the container".to_owned(), reason })
            }
        }
    }
}
