//! What agents say of themselves and of their tasks, as far as this manager and its cluster can take it.
//!
//! Agents may be newer than their managers. What cannot be read, or is more than the cluster's level
//! has, is left out: refused as a whole it would come again, with all that came along, for as long as
//! the node lives.

use shoal_manager_planning::words;
use shoal_proto::convert::InvalidMessage;
use shoal_proto::v1 as pb;
use shoal_types::error_chain::chain;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{NodeDescription, TaskStatus, TroubledLinks, TunnelDescription};
use shoal_types::resources::GenericResource;
use shoal_types::spec::PortConfig;
use tonic::Status;

use crate::api::invalid;

/// What a node says of itself.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is nothing, or it makes no sense.
pub(super) fn description(
    node: NodeId,
    said: Option<pb::NodeDescription>,
    level: Level,
) -> Result<NodeDescription, Status> {
    let mut said = said.ok_or_else(|| Status::invalid_argument("description: is required"))?;
    if let Some(resources) = &mut said.resources {
        let left_out = keep_readable::<_, GenericResource>(&mut resources.generic_resources);
        if let Some(why) = left_out {
            tracing::warn!(%node, why, "a node has a resource that this manager cannot read");
        }
    }
    let said: NodeDescription =
        said.try_into().map_err(|e: InvalidMessage| invalid(&e.under("description")))?;
    Ok(words::description(said.within(level)))
}

/// Links of a node that not everything passes; nothing if that cannot be read.
pub(super) fn links(node: NodeId, said: pb::TroubledLinks) -> Option<TroubledLinks> {
    match said.try_into() {
        Ok(links) => Some(links),
        Err(error) => {
            let error: InvalidMessage = error;
            tracing::warn!(%node, error = %chain(&error), "cannot read what a node says of its links");
            None
        }
    }
}

/// A node's end of the tunnels; nothing if that cannot be read.
pub(super) fn tunnel(node: NodeId, said: pb::TunnelDescription) -> Option<TunnelDescription> {
    match said.try_into() {
        Ok(tunnel) => Some(tunnel),
        Err(error) => {
            let error: InvalidMessage = error;
            tracing::warn!(%node, error = %chain(&error), "cannot read what a node says of its tunnel");
            None
        }
    }
}

/// What has become of a node's tasks.
pub(super) fn statuses(
    node: NodeId,
    said: Vec<pb::TaskStatusUpdate>,
    level: Level,
) -> Vec<(TaskId, TaskStatus)> {
    let (mut statuses, mut left_out) = (Vec::with_capacity(said.len()), Vec::new());
    for mut update in said {
        let task = update.task_id.clone();
        let ports = update.status.as_mut().map(|status| &mut status.port_status);
        left_out.extend(ports.and_then(keep_readable::<_, PortConfig>));
        match update.try_into() {
            Ok((task, status)) => {
                let status: TaskStatus = status;
                match status.within(level) {
                    Some(status) => statuses.push((task, words::status(status))),
                    None => left_out.push(format!("{task}: is above feature level {level}")),
                }
            }
            Err(error) => {
                let error: InvalidMessage = error;
                left_out.push(format!("{}: {}", words::text(&task), chain(&error)));
            }
        }
    }
    // In one line, however many there are: nobody fills the log with it.
    if let Some(first) = left_out.first() {
        let count = left_out.len();
        tracing::warn!(%node, count, first, "statuses have parts that this manager cannot take");
    }
    statuses
}

/// Leaves out what cannot be read; why not, of the first one.
fn keep_readable<W, T>(all: &mut Vec<W>) -> Option<String>
where
    W: Clone,
    T: TryFrom<W, Error = InvalidMessage>,
{
    let mut first = None;
    all.retain(|one| match T::try_from(one.clone()) {
        Ok(_) => true,
        Err(error) => {
            first.get_or_insert_with(|| chain(&error).to_string());
            false
        }
    });
    first
}
