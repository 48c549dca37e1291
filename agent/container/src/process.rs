//! Processes that are told apart from later ones with the same number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys;

/// A process, told apart from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Looks a process up, also one that has ended and has not been waited for; `None` when there is
    /// none with this id.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Self::find(pid).ok().flatten()
    }

    /// As [`ProcessIdentity::of`], for whom "could not look" is something else than "there is none".
    ///
    /// # Errors
    /// The kernel's answer, other than that there is none.
    pub fn find(pid: i32) -> io::Result<Option<Self>> {
        Ok(Self::look(pid)?.map(|(process, _)| process))
    }

    /// Whether this very process still runs. That it does not is said only when it is certain: whoever
    /// has no descriptor left to look with does not know.
    #[must_use]
    pub fn exists(self) -> bool {
        match Self::look(self.pid) {
            Ok(found) => found.is_some_and(|(process, runs)| process == self && runs),
            Err(_) => true,
        }
    }

    /// With whether it runs: one that nobody has waited for has ended all the same.
    fn look(pid: i32) -> io::Result<Option<(Self, bool)>> {
        let stat = match fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => String::from_utf8_lossy(&stat).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It has ended between the opening and the reading.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        let found = || {
            // The name, in parentheses, may hold anything; what follows the last one is regular.
            let (_, rest) = stat.rsplit_once(')')?;
            let mut fields = rest.split_whitespace();
            let runs = !matches!(fields.next()?, "Z" | "X" | "x");
            let start_ticks = fields.nth(18)?.parse().ok()?;
            Some((Self { pid, start_ticks }, runs))
        };
        found().map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A descriptor of this very process, which can be read when it has ended; `None` when it has.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn watch(self) -> io::Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // Opened first, then looked at: never is a stranger met that has got its number.
            Ok(pidfd) => Ok(Some(pidfd).filter(|_| self.exists())),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a signal, by number, to this very process; `false` when it has ended.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn signal(self, signal: i32) -> io::Result<bool> {
        let Some(pidfd) = self.watch()? else { return Ok(false) };
        match sys::process::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            other => other.map(|()| true),
        }
    }
}
