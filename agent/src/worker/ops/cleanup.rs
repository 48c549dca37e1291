//! Giving back.

use std::collections::BTreeSet;

use shoal_agent_planning::task::{Cleaning, Fact, TaskRecord};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;

use super::files::ContainerFiles;
use super::given::GivenFiles;
use super::{Context, Volumes, networks_of};

/// Gives back everything that a task holds, then writes down its end if that is what it has come to, so
/// that it can be reported. Goes on after an error.
pub(in crate::worker) async fn cleanup(
    context: &Context,
    record: TaskRecord,
    cleaning: Cleaning,
) -> Fact {
    let _permit = context.cleaning.acquire().await;
    let task = &record.task;
    let (container, name) = (task.id.into(), task.id.to_string());
    let runtime = &context.drivers.runtime;
    let mut errors: Vec<String> = Vec::new();
    // Processes first: nothing else can be taken from under them.
    let gone = match cleaning.keeps_log {
        true => runtime.release(&container).await,
        false => runtime.remove(&container).await,
    };
    let is_gone = gone.is_ok();
    if is_gone {
        context.chooser.let_go(task.id);
    }
    note(&mut errors, gone);
    if !task.networks.is_empty() {
        // Before the network: its sockets keep its namespace.
        if let Err(error) = context.drivers.names.let_go(name.clone()).await {
            tracing::warn!(task = %task.id, error = %chain(&error), "its network namespace may be kept by the sockets at which it was answered names");
        }
        note(&mut errors, context.drivers.networks.release(name).await);
        // Also what it was to be disconnected from.
        let used = context.keeper.used_by(task.id);
        for network in networks_of(&record).chain(used).collect::<BTreeSet<_>>() {
            note(&mut errors, context.keeper.release(task.id, &network).await);
        }
    }
    for error in Volumes::new(context, task.id).release(task, cleaning.keeps_volumes).await {
        note(&mut errors, Err::<(), _>(error));
    }
    note(&mut errors, ContainerFiles::new(context, task.id).remove().await);
    note(&mut errors, GivenFiles::new(context, task.id).remove().await);
    let saved = match cleaning.end(is_gone) {
        Some(end) => note(&mut errors, context.ledger.save(end).await),
        None => false,
    };
    let fact = cleaning.fact(is_gone, saved, &errors);
    if let Fact::CleanupFailed { err, .. } = &fact {
        tracing::warn!(task = %task.id, %err, "cleaning up is not complete");
    }
    fact
}

/// Whether it went well; what went wrong is noted.
fn note<T, E: std::error::Error>(errors: &mut Vec<String>, result: Result<T, E>) -> bool {
    match result {
        Ok(_) => true,
        Err(e) => {
            errors.push(chain(&e).to_string());
            false
        }
    }
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
