//! Taking over what an earlier agent left.
//!
//! What is found is never ended because it is not understood: a container ends with its supervisor, and
//! that has ended when its process is gone, for certain. Where that cannot be found out nothing is taken
//! over: the agent does not start, and everything goes on without it. See `docs/compatibility.md`.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::exit;
use shoal_agent_container::supervise::setup::{LOG_DIR, OCI_DIR};
use tokio::task::spawn_blocking;

use super::connection::{PATIENCE, Unheard, connect};
use super::keeper::{Process, Voice};
use super::link::attach;
use super::traces::{grouped, names};
use super::unaided::{self, aftermath, clear_cgroup, unknown_end};
use super::{ContainerId, Inner, Observed, RuntimeError, lock, parent};
use crate::{ExitStatus, ObservedState, Prepared};

/// Containers that are taken over at the same time: one whose supervisor does not answer takes its time,
/// and keeps nobody waiting but those.
const PARALLEL: usize = 32;
/// How long all of them together are waited for as long as one by itself may take, and how long each
/// has after that. Managers give a node up that says nothing for six seconds.
const TOGETHER: Duration = Duration::from_secs(4);
const AT_LEAST: Duration = Duration::from_millis(250);

/// How long the next supervisor is waited for, with so much left of what all have together. Never not at
/// all: one that is well and stands behind many that are not is to be heard.
fn patience(left: Duration) -> Duration {
    left.clamp(AT_LEAST, PATIENCE)
}

pub(super) async fn adopt(inner: Arc<Inner>) -> Result<Vec<Observed>, RuntimeError> {
    let mut ids = names(&inner.config.run_dir)?;
    ids.extend(names(&inner.config.state_dir)?);
    let until = Instant::now() + TOGETHER;
    let each: Vec<_> = ids.iter().map(|id| observe(&inner, id, until)).collect();
    let each = stream::iter(each).buffer_unordered(PARALLEL);
    let mut found: Vec<Observed> = each.try_collect().await?;
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let sweeper = Arc::clone(&inner);
    // Groups of containers that have left no other trace.
    let _ = spawn_blocking(move || sweep(&sweeper, &ids)).await;
    Ok(found)
}

async fn observe(
    inner: &Arc<Inner>,
    id: &ContainerId,
    until: Instant,
) -> Result<Observed, RuntimeError> {
    let state = one(inner, id, until).await.map_err(|e| RuntimeError::Failed {
        id: id.clone(),
        stage: "finding out whether it runs".to_owned(),
        reason: e.to_string(),
    })?;
    Ok(Observed { id: id.clone(), state })
}

/// An error says that it may run or not.
async fn one(inner: &Arc<Inner>, id: &ContainerId, until: Instant) -> io::Result<ObservedState> {
    let left = until.saturating_duration_since(Instant::now());
    let unheard = match connect(inner, id, patience(left)).await {
        Ok((connection, status)) => {
            let supervisor = status.supervisor;
            let voice = Voice::Talking(connection);
            let running = status.init.map(|init| (init.pid, None));
            return Ok(hold(inner, id, voice, supervisor, running));
        }
        Err(unheard) => unheard,
    };
    let (worker, name) = (Arc::clone(inner), id.clone());
    let who = unheard.who();
    let is_over = matches!(unheard, Unheard::Ended);
    let seen = spawn_blocking(move || look(&worker, &name, who, is_over));
    Ok(match seen.await.map_err(io::Error::other)?? {
        Seen::Over(state) => state,
        Seen::Alive { supervisor, first } => {
            let limits = unheard.why();
            let running = Some((first, Some(limits)));
            hold(inner, id, Voice::mute(&unheard), supervisor, running)
        }
    })
}

/// Keeps a supervisor that lives: of a container that runs, with its first process and what stands in
/// the way, or of one that is prepared.
fn hold(
    inner: &Arc<Inner>,
    id: &ContainerId,
    voice: Voice,
    supervisor: ProcessIdentity,
    running: Option<(i32, Option<String>)>,
) -> ObservedState {
    let process = Process::adopt(supervisor);
    let link = attach(inner, id, voice, supervisor, process, running.is_some());
    lock(&inner.links).insert(id.clone(), link);
    let supervisor_pid = supervisor.pid;
    if let Some((_, unheard)) = &running {
        inner.note_unheard(id, unheard.as_deref());
    }
    match running {
        Some((pid, unheard)) => ObservedState::Running { pid, supervisor_pid, unheard },
        None => ObservedState::Prepared(Prepared { supervisor_pid }),
    }
}

/// What is found of a container whose supervisor cannot be talked to.
enum Seen {
    /// It runs, and its supervisor lives.
    Alive { supervisor: ProcessIdentity, first: i32 },
    /// Nothing of it runs any more.
    Over(ObservedState),
}

fn look(
    inner: &Inner,
    id: &ContainerId,
    who: Option<ProcessIdentity>,
    is_over: bool,
) -> io::Result<Seen> {
    let first = unaided::first_process(inner, id)?;
    let recorded = unaided::supervisor(inner, id)?.or(who);
    // Whoever supervises what runs is there, whatever has become of the record.
    let supervisor = match (recorded, first) {
        (None, Some(_)) => unaided::find_supervisor(inner, id)?,
        (recorded, _) => recorded,
    };
    Ok(match (supervisor.filter(|supervisor| supervisor.exists()), first) {
        (Some(supervisor), Some(first)) if !is_over => Seen::Alive { supervisor, first: first.pid },
        // It lives and has nothing to look after: not yet, or not any more.
        (Some(_), _) => Seen::Over(match record(inner, id)? {
            Some(status) => ObservedState::Exited(status),
            None => broken("its supervisor does not answer, and nothing of it runs"),
        }),
        (None, _) => Seen::Over(without_supervisor(inner, id)?),
    })
}

/// How it ended, if that is recorded.
fn record(inner: &Inner, id: &ContainerId) -> io::Result<Option<ExitStatus>> {
    let unread = |e: io::Error| io::Error::new(e.kind(), format!("its exit record: {e}"));
    exit::read(&inner.state_dir(id)).map_err(unread)
}

fn broken(reason: &str) -> ObservedState {
    ObservedState::Broken { reason: reason.to_owned() }
}

fn without_supervisor(inner: &Inner, id: &ContainerId) -> io::Result<ObservedState> {
    let (run_dir, state_dir) = (inner.run_dir(id), inner.state_dir(id));
    if let Some(status) = record(inner, id)? {
        return Ok(ObservedState::Exited(status));
    }
    if run_dir.join(OCI_DIR).try_exists()? {
        return Ok(ObservedState::Exited(aftermath(inner, id, "while no agent ran")));
    }
    let _ = clear_cgroup(inner, &inner.cgroup(id));
    if !run_dir.try_exists()? && state_dir.join(LOG_DIR).try_exists()? {
        let status = unknown_end("the host was restarted".to_owned());
        // So that the next agent tells the same story, and who follows its log comes to an end.
        let _ = exit::write(&state_dir, &status);
        return Ok(ObservedState::Exited(status));
    }
    Ok(broken("it was not prepared wholly"))
}

fn sweep(inner: &Inner, known: &BTreeSet<ContainerId>) {
    for id in grouped(inner).difference(known) {
        let _ = clear_cgroup(inner, &inner.cgroup(id));
    }
    // Refused while there is any container in it.
    let _ = parent::remove(inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_that_are_silent_are_not_waited_for_one_after_the_other() {
        // As many as there are at a time, until everything has been asked.
        let (mut waited, silent) = (Duration::ZERO, 192);
        for _ in 0..silent / PARALLEL {
            waited += patience(TOGETHER.saturating_sub(waited));
        }
        assert!(waited < Duration::from_secs(6), "{waited:?}");
        assert_eq!(patience(TOGETHER), PATIENCE, "the first have as long as any");
        assert_eq!(patience(Duration::ZERO), AT_LEAST, "and the last a little");
    }
}
