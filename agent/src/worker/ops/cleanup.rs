//! Giving back.

use shoal_agent_planning::task::{Fact, TaskRecord};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;

use super::files::ContainerFiles;
use super::{Context, Volumes, networks_of};

/// What stays of a task when it is cleaned up.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Keep {
    /// Its log.
    pub log: bool,
    /// The volumes that were made for it alone: it is made again, and is to find what it wrote.
    pub volumes: bool,
}

/// Gives back everything that a task holds, then writes down `last`, its end, so that it can be
/// reported; unless it has not `ended` yet and this could not end it. Goes on after an error.
pub(in crate::worker) async fn cleanup(
    context: &Context,
    record: TaskRecord,
    keep: Keep,
    ended: bool,
    last: Option<TaskRecord>,
) -> Fact {
    let _permit = context.cleaning.acquire().await;
    let task = &record.task;
    let (container, name) = (task.id.into(), task.id.to_string());
    let runtime = &context.drivers.runtime;
    let mut errors: Vec<String> = Vec::new();
    let mut note = |result: Result<(), &dyn std::error::Error>| {
        errors.extend(result.err().map(|e| chain(e).to_string()));
    };
    // Processes first: nothing else can be taken from under them.
    let gone = if keep.log { runtime.release(&container) } else { runtime.remove(&container) };
    let gone = gone.await;
    if gone.is_ok() {
        context.chooser.let_go(task.id);
    }
    note(gone.as_ref().copied().map_err(|e| e as _));
    if !task.networks.is_empty() {
        let released = context.drivers.networks.release(name).await;
        note(released.as_ref().copied().map_err(|e| e as _));
        for network in networks_of(&record) {
            let left = context.keeper.release(task.id, &network).await;
            note(left.as_ref().copied().map_err(|e| e as _));
        }
    }
    for error in Volumes::new(context, task.id).release(task, keep.volumes).await {
        note(Err(&error));
    }
    let files = ContainerFiles::new(context, task.id).remove().await;
    note(files.as_ref().copied().map_err(|e| e as _));
    // Also where something is left: an end that is reported must not be forgotten.
    let recorded = match last.filter(|_| ended || gone.is_ok()) {
        None => ended || gone.is_ok(),
        Some(last) => {
            let saved = context.ledger.save(&last).await;
            errors.extend(saved.as_ref().err().map(|e| chain(e).to_string()));
            saved.is_ok()
        }
    };
    if errors.is_empty() {
        return Fact::Cleaned;
    }
    let err = errors.join("; ");
    tracing::warn!(task = %task.id, %err, "cleaning up is not complete");
    Fact::CleanupFailed { err, recorded }
}

/// Removes the log and the record of a task.
pub(in crate::worker) async fn forget(context: &Context, id: TaskId) -> Result<(), Fact> {
    let failed = |error: &dyn std::error::Error| {
        let err = chain(error).to_string();
        tracing::warn!(task = %id, %err, "cannot forget a task");
        Fact::ForgetFailed { err }
    };
    context.drivers.runtime.remove(&id.into()).await.map_err(|e| failed(&e))?;
    context.ledger.remove(id).await.map_err(|e| failed(&e))
}
