//! One process: ours, or one that an earlier agent has left.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_durable::write_file;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::{ManagerConfig, ManagerError, RunAs, user};
use crate::identity::ManagerEndpoint;

/// A manager's process. Dropping it leaves the process running.
pub(super) struct Process {
    pid: i32,
    kind: Kind,
}

enum Kind {
    Ours(Child),
    /// Its pidfd, which is no pipe, but is waited for like one.
    Adopted(Receiver),
}

impl Process {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end and says how it came. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.kind {
            Kind::Ours(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("it cannot be waited for: {error}"),
            },
            // Readable when the process has ended (pidfd_open(2)); only its parent learns how.
            Kind::Adopted(fd) => match fd.readable().await {
                Ok(()) => "its exit status went to an earlier agent".to_owned(),
                Err(error) => format!("it cannot be waited for: {error}"),
            },
        }
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let sent = match &self.kind {
            // No id once it has been waited for, so that no other process can be met.
            Kind::Ours(child) => match child.id().and_then(|id| pid_of(i32::try_from(id).ok()?)) {
                Some(pid) => rustix::process::kill_process(pid, signal),
                None => Ok(()),
            },
            Kind::Adopted(fd) => pidfd_send_signal(fd, signal),
        };
        if let Err(error) = sent {
            tracing::debug!(pid = self.pid, %error, "the manager cannot be signalled");
        }
    }
}

fn pid_of(pid: i32) -> Option<Pid> {
    if pid > 1 { Pid::from_raw(pid) } else { None }
}

pub(super) fn spawn(
    config: &ManagerConfig,
    endpoint: &ManagerEndpoint,
    run_as: RunAs,
) -> Result<Process, ManagerError> {
    let program = (config.program)();
    let mut command = Command::new(&program);
    command
        .args(config.arguments(endpoint))
        .uid(run_as.uid)
        .gid(run_as.gid)
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = command.spawn().map_err(|source| ManagerError::Start { program, source })?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
    if let Some(began) = start_time(pid) {
        // Without it the socket still tells which process it is, as soon as it is served.
        let written = write_file(&config.pid_file, format!("{pid} {began}\n").as_bytes(), 0o600);
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write down which process the manager is");
        }
    }
    Ok(Process { pid, kind: Kind::Ours(child) })
}

/// The manager that runs already: who serves its socket, else whom the pid file names.
pub(super) fn find(config: &ManagerConfig) -> Option<Process> {
    let pid = serving(config).or_else(|| written_down(&config.pid_file))?;
    adopt(pid).inspect_err(|error| tracing::warn!(pid, %error, "cannot watch the manager")).ok()
}

pub(super) fn forget(pid_file: &Path) {
    let _ = fs::remove_file(pid_file);
}

fn adopt(pid: i32) -> io::Result<Process> {
    let raw = pid_of(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let fd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
    let fd = Receiver::from_owned_fd_unchecked(fd)?;
    Ok(Process { pid, kind: Kind::Adopted(fd) })
}

/// Who serves the socket, if it is somebody of the manager's user: the socket lies in a directory
/// that is the manager's own.
fn serving(config: &ManagerConfig) -> Option<i32> {
    let stream = UnixStream::connect(config.socket()).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let run_as = user::resolve(&config.user).ok()?;
    (peer.uid.as_raw() == run_as.uid).then(|| peer.pid.as_raw_nonzero().get())
}

fn written_down(pid_file: &Path) -> Option<i32> {
    let text = fs::read_to_string(pid_file).ok()?;
    let (pid, began) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid)? == began.parse::<u64>().ok()?).then_some(pid)
}

/// When a process began, in clock ticks since the boot: field 22 of proc(5)'s stat. `None` if there
/// is none or it has ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may contain anything, brackets too.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_began_at_some_time_and_no_other_did() {
        let me = i32::try_from(std::process::id()).expect("pid");
        assert!(start_time(me).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn a_pid_file_is_believed_only_with_its_start_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("pid");
        let me = i32::try_from(std::process::id()).expect("pid");
        let began = start_time(me).expect("lives");
        let table = [
            (format!("{me} {began}\n"), Some(me)),
            (format!("{me} {}\n", began + 1), None),
            (format!("{me}\n"), None),
            ("nonsense".to_owned(), None),
        ];
        for (text, expected) in table {
            fs::write(&path, &text).expect("write");
            assert_eq!(written_down(&path), expected, "{text:?}");
        }
    }
}
