//! The guard of a supervisor: a fork of it that does nothing but wait for its end, and then kills what
//! is in the container's control groups.
//!
//! A container's first process asks to die with its parent, but the kernel forgets that when the
//! process changes its user, as `su`, `gosu` or `setpriv` as the program of a container do. Nobody but
//! the kernel would notice when agent and supervisor are both killed; the guard does. It keeps nothing
//! open but the groups and a descriptor of the supervisor, and shares its memory until it writes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, waitpid,
};

use super::children::poll_in;
use crate::ContainerId;
use crate::cgroup::Cgroup;
use crate::sys;
use crate::sys::process::{Fork, exit_now, fork_single_threaded};

/// What a guard is called, where processes are listed.
pub const NAME: &str = "shoal-guard";

/// A guard at its post.
#[derive(Debug)]
pub struct Guard(Pid);

impl Guard {
    /// Forks a guard for this process, which must have only one thread, and for what will be in a
    /// container's groups.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn post(cgroup: &Cgroup, id: &ContainerId) -> io::Result<Self> {
        let me = pidfd_open(getpid(), PidfdFlags::empty())?;
        match fork_single_threaded(None)? {
            Fork::Parent(pid) => {
                Pid::from_raw(pid).map(Self).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Fork::Child => {
                watch(&me, cgroup, id);
                exit_now(0)
            }
        }
    }

    /// Ends it: there is nothing to guard any more.
    pub fn dismiss(&self) {
        // Nobody else waits for it but to collect it after its end, and then it is not ours to kill:
        // a process id is not given again before its owner has been waited for.
        if matches!(waitpid(Some(self.0), WaitOptions::NOHANG), Ok(None)) {
            let _ = kill_process(self.0, Signal::KILL);
            let _ = waitpid(Some(self.0), WaitOptions::empty());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// The guard's whole life.
fn watch(supervisor: &OwnedFd, cgroup: &Cgroup, id: &ContainerId) {
    let _ = rustix::thread::set_name(c"shoal-guard");
    // Whoever looks for supervisors must not find, and end, their guards as well.
    let _ = rename(id);
    let kept: Vec<BorrowedFd<'_>> =
        cgroup.descriptors().into_iter().chain([supervisor]).map(AsFd::as_fd).collect();
    if sys::process::close_others(&kept).is_err() {
        // The agent would take its open socket for a living supervisor.
        return;
    }
    while !poll_in(&[supervisor.as_fd()], None) {}
    // What would not die within that time is left to the next agent.
    let _ = cgroup.kill();
}

/// Overwrites the arguments, where `ps` reads them.
fn rename(id: &ContainerId) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    // Fields 48 and 49 of proc(5); the third is the first after the name.
    let mut fields = fields.into_iter().flatten().skip(45).filter_map(|n| n.parse::<u64>().ok());
    let (Some(start), Some(end)) = (fields.next(), fields.next()) else { return Ok(()) };
    let room = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut text = format!("{NAME}\0{id}").into_bytes();
    text.resize(room.max(1), 0);
    // Also when it is cut: strings end with a zero.
    if let Some(last) = text.last_mut() {
        *last = 0;
    }
    let memory = fs::File::options().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&text, start)
}
