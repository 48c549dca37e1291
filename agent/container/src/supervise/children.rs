//! Waiting: for descriptors, and for child processes.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

/// How long killing children may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether it can be read, or (a process) has ended.
pub(super) fn readable(fd: &impl AsFd) -> bool {
    poll_in(&[fd.as_fd()], Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
}

/// Waits until any of them can be read, or has ended; `false` when the time is over.
pub(super) fn poll_in(fds: &[BorrowedFd<'_>], timeout: Option<Timespec>) -> bool {
    let mut fds: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0)
}

/// Waits for one child.
pub(super) fn wait_for(pid: i32) -> Option<WaitStatus> {
    let pid = Pid::from_raw(pid)?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(found) => return found.map(|(_, status)| status),
            Err(_) => return None,
        }
    }
}

/// Collects the children that have ended; how `init` did, if it is among them.
pub(super) fn reap_around(init: i32) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == init {
            found = Some(status);
        }
    }
    found
}

/// Kills every child, with what becomes one meanwhile: what libcontainer has left of a container that
/// was not finished. One that cannot be killed now is not waited for longer than [`PATIENCE`], and holds
/// up none of the others.
pub(super) fn kill_children() {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        for pid in children() {
            let _ = kill_process(pid, Signal::KILL);
        }
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There is none.
                Err(_) => return,
            }
        }
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mine = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(me.as_str())
    };
    pids.filter(mine).filter_map(Pid::from_raw).collect()
}

/// Collects children that have ended.
pub(super) fn reap() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}
