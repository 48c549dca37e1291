//! The stream of what one node is to hold.

use std::sync::Arc;
use std::time::Duration;

use shoal_manager_planning::assignment::assignment;
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::Session;

/// Messages on their way to one agent.
pub(super) const QUEUE: usize = 16;

/// Changes in one message at the most; more follow in the next one.
const CHANGES_MAX: usize = 500;

/// Changes that come within this time travel together.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// Sends everything, then changes, until the session ends or the agent goes away.
pub(super) async fn pump(
    session: Session,
    mut states: watch::Receiver<Arc<ClusterState>>,
    to: mpsc::Sender<Result<pb::AssignmentsMessage, Status>>,
) {
    let mut held = assignment(&states.borrow_and_update(), session.node);
    let mut sequence = 1;
    if to.send(Ok(complete(&held, sequence))).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = to.closed() => return,
            () = session.ended.cancelled() => {
                // If nobody takes it, nobody needs it.
                let _ = to.send(Err(Status::aborted("the session has ended"))).await;
                return;
            }
            changed = states.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(DEBOUNCE).await;
        let wanted = assignment(&states.borrow_and_update(), session.node);
        for changes in held.diff(&wanted).chunks(CHANGES_MAX) {
            if to.send(Ok(incremental(changes, sequence))).await.is_err() {
                return;
            }
            sequence += 1;
        }
        held = wanted;
    }
}

fn complete(held: &NodeAssignment, results_in: u64) -> pb::AssignmentsMessage {
    let changes = NodeAssignment::default().diff(held);
    pb::AssignmentsMessage {
        kind: pb::AssignmentsKind::Complete as i32,
        applies_to: 0,
        results_in,
        changes: changes.iter().map(Into::into).collect(),
    }
}

fn incremental(changes: &[AssignmentChange], applies_to: u64) -> pb::AssignmentsMessage {
    pb::AssignmentsMessage {
        kind: pb::AssignmentsKind::Incremental as i32,
        applies_to,
        results_in: applies_to + 1,
        changes: changes.iter().map(Into::into).collect(),
    }
}
