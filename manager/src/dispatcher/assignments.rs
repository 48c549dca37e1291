//! The stream of what one node is to hold.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use shoal_manager_planning::assignment::{Held, News};
use shoal_manager_state::ClusterState;
use shoal_proto::parts::Parts;
use shoal_proto::v1 as pb;
use shoal_types::assignment::{AssignmentChange, Rejection};
use shoal_types::id::NodeId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::sessions::{Chain, Link};
use super::wakers::{Told, Wakes};

/// Messages on their way to one agent; each is a part of bounded size.
pub(super) const QUEUE: usize = 4;

/// Changes that come within this time travel together.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// Bytes that a message has beside its only change, at the most.
const ENVELOPE_BYTES: usize = 64;

/// What an agent that does not say otherwise takes in a message, in bytes.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// How large messages become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of a message, unless a single change has more.
    part: usize,
    /// The most bytes of a single change.
    change_max: usize,
}

impl Sizes {
    /// For an agent that takes messages of at most `message_max` bytes; zero: it does not say.
    pub(super) fn new(part: usize, message_max: u64) -> Self {
        let message_max = match usize::try_from(message_max) {
            Ok(0) | Err(_) => MESSAGE_BYTES_MAX,
            Ok(bytes) => bytes,
        };
        let change_max = message_max.saturating_sub(ENVELOPE_BYTES);
        Self { part: part.min(change_max), change_max }
    }
}

/// Sends everything, then changes, until `ended` is cancelled or the agent goes away.
pub(super) async fn pump(
    node: NodeId,
    ended: CancellationToken,
    states: watch::Receiver<Arc<ClusterState>>,
    wakes: Wakes,
    to: mpsc::Sender<Result<pb::AssignmentsMessage, Status>>,
    chain: Chain,
    sizes: Sizes,
) {
    tokio::select! {
        () = send_all(node, states, wakes, &to, chain, sizes) => return,
        () = ended.cancelled() => {}
    }
    // If nobody takes it, nobody needs it.
    let why = "the session has ended, or another stream of it has begun";
    let _ = to.send(Err(Status::aborted(why))).await;
}

async fn send_all(
    node: NodeId,
    states: watch::Receiver<Arc<ClusterState>>,
    wakes: Wakes,
    to: &mpsc::Sender<Result<pb::AssignmentsMessage, Status>>,
    mut chain: Chain,
    sizes: Sizes,
) {
    let (mut held, mut news, mut taken) = (Held::new(node), News::whole(), 0);
    loop {
        // Held no longer than this line: whoever applies the log waits for it.
        let view = Arc::clone(&states.borrow());
        let changes = held.catch_up(&view, &news);
        drop(view);
        for message in messages(changes, &mut chain, sizes) {
            if to.send(Ok(message)).await.is_err() {
                return;
            }
        }
        wakes.told(Told { news: taken, sent: chain.sent() });
        tokio::select! {
            () = to.closed() => return,
            () = wakes.arrived() => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
        (news, taken) = wakes.take();
    }
}

/// Changes in parts; the first message of a stream, which there always is, is the COMPLETE one.
fn messages(
    changes: impl Iterator<Item = AssignmentChange>,
    chain: &mut Chain,
    sizes: Sizes,
) -> impl Iterator<Item = pb::AssignmentsMessage> {
    let changes = changes.filter_map(move |change| fitting(&change, sizes.change_max));
    let mut parts = Parts::new(changes, sizes.part);
    std::iter::from_fn(move || {
        let (kind, changes) = match (chain.is_new(), parts.next()) {
            (true, part) => (pb::AssignmentsKind::Complete, part.unwrap_or_default()),
            (false, Some(part)) => (pb::AssignmentsKind::Incremental, part),
            (false, None) => return None,
        };
        let Link { applies_to, results_in } = chain.next();
        Some(pb::AssignmentsMessage {
            kind: kind.into(),
            applies_to: applies_to.unwrap_or_default(),
            results_in,
            changes,
            more: parts.more(),
            term: chain.term,
        })
    })
}

/// A change as it goes to the agent. A task that is larger than the agent takes is one that it
/// rejects: one item must not keep all others from the node.
fn fitting(change: &AssignmentChange, bytes_max: usize) -> Option<pb::AssignmentChange> {
    let message = pb::AssignmentChange::from(change);
    let bytes = message.encoded_len();
    if bytes <= bytes_max {
        return Some(message);
    }
    let why = format!("has {bytes} bytes, and its node takes {bytes_max} in a message");
    match change {
        AssignmentChange::UpdateTask(task) => {
            tracing::warn!(task = %task.id, why, "a task is too large for its node");
            let desired_state = task.desired_state;
            let rejection = Rejection { why: format!("the task {why}"), desired_state };
            Some((&AssignmentChange::RejectTask(task.id, rejection)).into())
        }
        _ => {
            tracing::error!(why, "something that a node is to hold is too large for it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::{cluster_with_nodes, service_spec, with_task};
    use shoal_types::assignment::NodeAssignment;
    use shoal_types::id::SessionId;
    use shoal_types::spec::TaskRuntime;
    use shoal_types::task_state::DesiredState;
    use shoal_types::time::Timestamp;

    use super::super::Sessions;
    use super::super::wakers::Wakers;
    use super::*;

    /// What has lost a node once: 400 tasks of it are more than the 64 MiB of one message.
    const ENVIRONMENT: usize = 190_000;

    /// A node with so many tasks that have an environment of so many bytes each.
    fn crowded(tasks: u64, environment: usize) -> (Arc<ClusterState>, NodeId) {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let spec = with_task(service_spec("big", tasks), |task| {
            if let TaskRuntime::Container(container) = &mut task.runtime {
                container.env = vec![format!("BIG={}", "x".repeat(environment))];
            }
        });
        let service = cluster.add_service(spec);
        for replica in 1..=tasks {
            let task = cluster.add_task(service, replica);
            cluster.apply(Command::AssignTask { id: task, node_id: nodes[0], partner: None });
        }
        (Arc::new(cluster.state), nodes[0])
    }

    async fn received(tasks: u64, environment: usize, sizes: Sizes) -> Vec<pb::AssignmentsMessage> {
        let (state, node) = crowded(tasks, environment);
        let (_states, states) = watch::channel(state);
        let (to, mut messages) = mpsc::channel(QUEUE);
        let (sessions, first) = (Sessions::default(), pb::SessionMessage::default());
        let (session, _) = sessions.open(node, SessionId::from(1), 7, Timestamp::ZERO, first);
        let (ended, chain) = sessions.begin_assignments(&session);
        let wakes = Arc::<Wakers>::default().subscribe(node, chain.applied());
        tokio::spawn(pump(node, ended, states, wakes, to, chain, sizes));
        let mut all: Vec<pb::AssignmentsMessage> = Vec::new();
        while all.last().is_none_or(|last| last.more) {
            all.push(messages.recv().await.expect("open").expect("a message"));
        }
        all
    }

    #[tokio::test]
    async fn no_message_grows_with_the_tasks_of_a_node() {
        let part = shoal_proto::parts::PART_BYTES;
        // The last: each task is more than a part may have, and goes alone.
        for (tasks, environment, bytes) in
            [(400, ENVIRONMENT, part), (400, 1000, 64 << 10), (3, 9000, 4096)]
        {
            let all = received(tasks, environment, Sizes::new(bytes, 0)).await;
            assert!(all.len() > 2, "{} messages", all.len());
            let (mut assignment, mut sequence) = (NodeAssignment::default(), 0);
            for (at, message) in all.into_iter().enumerate() {
                let size = message.encoded_len();
                let bound = if environment > bytes { environment + 4096 } else { bytes };
                assert!(size <= bound, "message {at} of {tasks} tasks has {size} bytes");
                let complete = message.kind == pb::AssignmentsKind::Complete as i32;
                assert_eq!(complete, at == 0, "the others add to the first");
                assert_eq!((message.applies_to, message.results_in), (sequence, sequence + 1));
                assert_eq!(message.term, 7);
                sequence = message.results_in;
                let changes = message.changes.into_iter().map(AssignmentChange::try_from);
                assignment.apply(changes.collect::<Result<_, _>>().expect("valid"));
            }
            let (state, node) = crowded(tasks, environment);
            let mut expected = NodeAssignment::default();
            expected.apply(Held::new(node).catch_up(&state, &News::whole()).collect());
            assert_eq!(expected.tasks.len() as u64, tasks);
            assert!(assignment == expected, "the node knows all of its {tasks} tasks");
        }
    }

    /// Whoever has learned to make larger tasks still serves agents that take no larger messages.
    #[tokio::test]
    async fn a_task_that_is_larger_than_the_agent_takes_is_rejected_and_the_others_come() {
        let large = received(3, 9000, Sizes::new(4096, 5000)).await;
        let mut assignment = NodeAssignment::default();
        for message in large {
            assert!(message.encoded_len() <= 5000, "{} bytes", message.encoded_len());
            let changes = message.changes.into_iter().map(AssignmentChange::try_from);
            assignment.apply(changes.collect::<Result<_, _>>().expect("valid"));
        }
        assert_eq!((assignment.tasks.len(), assignment.rejected.len()), (0, 3));
        for rejection in assignment.rejected.values() {
            assert!(rejection.why.contains("its node takes 4936 in a message"), "{rejection:?}");
            assert_eq!(rejection.desired_state, DesiredState::Running);
        }
        assert_eq!(assignment.networks.len(), 1, "what is small enough comes");
    }

    #[tokio::test]
    async fn a_node_without_tasks_is_told_so() {
        let all = received(0, 0, Sizes::new(1000, 0)).await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].kind, pb::AssignmentsKind::Complete as i32);
        assert_eq!(all[0].changes, []);
    }
}
