//! What can be done about a container without its supervisor's help: when that does not answer, or
//! speaks a protocol that is not known. Whoever is in a container's control group is of the container,
//! so that nothing here needs anybody's word.

use std::io;
use std::sync::Arc;

use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::cgroup::{Cgroup, CgroupError};
use shoal_agent_container::supervise::protocol::chain;
use shoal_agent_container::supervise::setup::SUPERVISOR_FILE;
use shoal_agent_container::supervise::{exit, file};

use super::{ContainerId, Inner, RuntimeError};
use crate::ExitStatus;
use shoal_agent_container::supervise::log::now;

/// The container's first process, if any of it runs. An error is no answer: it may run.
pub(super) fn first_process(
    inner: &Inner,
    id: &ContainerId,
) -> io::Result<Option<ProcessIdentity>> {
    let first = || match Cgroup::open(&inner.layout, &inner.cgroup(id))? {
        Some(group) => group.first_process(),
        None => Ok(None),
    };
    first().map_err(|e| io::Error::other(chain(&e)))
}

/// Whether no process of the container is left.
pub(super) fn is_empty(inner: &Inner, id: &ContainerId) -> io::Result<bool> {
    let listed = || match Cgroup::open(&inner.layout, &inner.cgroup(id))? {
        Some(group) => Ok(group.processes()?.is_empty()),
        None => Ok(true),
    };
    listed().map_err(|e: CgroupError| io::Error::other(chain(&e)))
}

/// Who supervises the container, by its own record, whether or not that lives. Nobody, where there is no
/// record that can be understood.
pub(super) fn supervisor(inner: &Inner, id: &ContainerId) -> io::Result<Option<ProcessIdentity>> {
    match std::fs::read(inner.run_dir(id).join(SUPERVISOR_FILE)) {
        Ok(bytes) => Ok(file::from_bytes(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A process that was started to supervise the container, by its arguments: where no record says who
/// that is.
pub(super) fn find_supervisor(
    inner: &Inner,
    id: &ContainerId,
) -> io::Result<Option<ProcessIdentity>> {
    let run_dir = inner.run_dir(id);
    let supervises = |pid: i32| -> io::Result<bool> {
        let arguments = match std::fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(arguments) => arguments,
            Err(e) if has_ended(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
        Ok(arguments.next() == Some(b"supervise")
            && arguments.next() == Some(run_dir.as_os_str().as_encoded_bytes()))
    };
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid
            && supervises(pid)?
            && let Some(process) = ProcessIdentity::find(pid)?.filter(|process| process.exists())
        {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Whether a file of a process could not be read because that has ended.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Sends a signal to the container's first process.
pub(super) async fn signal(
    inner: Arc<Inner>,
    id: ContainerId,
    signal: i32,
) -> Result<(), RuntimeError> {
    let name = id.clone();
    let sent = tokio::task::spawn_blocking(move || match first_process(&inner, &id)? {
        Some(first) => first.signal(signal),
        None => Ok(false),
    });
    let id = name;
    match sent.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(RuntimeError::NotRunning { id }),
        Ok(Err(e)) => Err(failed(id, e.to_string())),
        Err(e) => Err(failed(id, e.to_string())),
    }
}

fn failed(id: ContainerId, reason: String) -> RuntimeError {
    RuntimeError::Failed { id, stage: "sending the signal".to_owned(), reason }
}

/// Kills whatever is in a container's control groups.
pub(super) fn kill(inner: &Inner, id: &ContainerId) -> Result<(), String> {
    let text = |e: CgroupError| chain(&e);
    match Cgroup::open(&inner.layout, &inner.cgroup(id)).map_err(text)? {
        Some(group) => group.kill().map_err(text),
        None => Ok(()),
    }
}

/// Kills and removes a container's control groups; how many processes the kernel had killed in it for
/// want of memory.
pub(super) fn clear_cgroup(inner: &Inner, cgroup: &str) -> Result<u64, String> {
    let text = |e: CgroupError| chain(&e);
    let Some(group) = Cgroup::open(&inner.layout, cgroup).map_err(text)? else { return Ok(0) };
    group.kill().map_err(text)?;
    let oom_kills = group.oom_kills();
    group.remove().map_err(text)?;
    Ok(oom_kills)
}

/// The end of a container of which nothing more is known than that.
pub(super) fn unknown_end(message: String) -> ExitStatus {
    ExitStatus { at: Some(now()), message: Some(message), ..ExitStatus::default() }
}

/// What became of a container whose supervisor is gone, for certain: recorded by it, or else ended now.
/// Nobody reads its output any more, or would learn of its end, and the supervisor's guard has the same
/// task.
pub(super) fn aftermath(inner: &Inner, id: &ContainerId, how: &str) -> ExitStatus {
    let state_dir = inner.state_dir(id);
    let recorded = exit::read(&state_dir);
    let cleared = clear_cgroup(inner, &inner.cgroup(id));
    let mut message = format!("its supervisor died ({how}), so it was killed");
    match &recorded {
        Ok(Some(status)) => return status.clone(),
        Ok(None) => {}
        Err(e) => message = format!("{message}; its exit record: {e}"),
    }
    match &cleared {
        Ok(kills) => {
            if let Some(note) = exit::starved(*kills) {
                message = format!("{message}; {note}");
            }
        }
        Err(e) => message = format!("{message}; {e}"),
    }
    let status = unknown_end(message);
    if recorded.is_ok() {
        // So that the next agent tells the same story.
        let _ = exit::write(&state_dir, &status);
    }
    status
}
