//! The stream of what one node is to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use shoal_manager_planning::assignment::assignment;
use shoal_manager_state::{Action, ClusterState, Event, ObjectRef};
use shoal_proto::parts::Parts;
use shoal_proto::v1 as pb;
use shoal_types::assignment::{AssignmentChange, NodeAssignment, Rejection};
use shoal_types::id::NodeId;
use shoal_types::object::Task;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::sessions::{Chain, Link};
use crate::cluster::Cluster;
use crate::feed::Follower;

/// Messages on their way to one agent; each is a part of bounded size.
pub(super) const QUEUE: usize = 4;

/// Changes that come within this time travel together.
const DEBOUNCE: Duration = Duration::from_millis(2);

/// The streams that wait for a change. Each is woken for those that name its node, and for no others:
/// thousands of them would look for nothing.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<BTreeMap<NodeId, watch::Sender<()>>>);

/// Tells one stream when something that its node is to hold has changed.
#[derive(Debug)]
pub(super) struct Wakes {
    node: NodeId,
    changes: watch::Receiver<()>,
    wakers: Arc<Wakers>,
}

impl Drop for Wakes {
    /// The last one of a node leaves nothing behind.
    fn drop(&mut self) {
        let mut wakers = self.wakers.lock();
        if wakers.get(&self.node).is_some_and(|waker| waker.receiver_count() <= 1) {
            wakers.remove(&self.node);
        }
    }
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when something that the node is to hold has changed after this call.
    pub(super) fn subscribe(self: &Arc<Self>, node: NodeId) -> Wakes {
        let changes = self.lock().entry(node).or_default().subscribe();
        Wakes { node, changes, wakers: Arc::clone(self) }
    }

    /// Wakes the streams of the nodes for which events mean something, in a view that has them; all, if
    /// some events were missed.
    pub(super) fn wake(&self, events: Option<&[Arc<Event>]>, view: &ClusterState) {
        let nodes = events.map(|events| concerned(events, view));
        let wakers = self.lock();
        match nodes {
            Some(nodes) => nodes.iter().filter_map(|n| wakers.get(n)).for_each(Self::wake_one),
            None => wakers.values().for_each(Self::wake_one),
        }
    }

    fn wake_one(waker: &watch::Sender<()>) {
        waker.send_replace(());
    }
}

/// The nodes for which a change may mean something.
fn concerned(events: &[Arc<Event>], view: &ClusterState) -> BTreeSet<NodeId> {
    let (mut nodes, mut networks) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        match &event.object {
            ObjectRef::Task(task) => nodes.extend(task.node_id),
            // A new one is joined by new tasks only.
            ObjectRef::Network(_) if event.action == Action::Create => {}
            ObjectRef::Network(network) => {
                networks.insert(network.id);
            }
            ObjectRef::Cluster(_)
            | ObjectRef::Node(_)
            | ObjectRef::Service(_)
            | ObjectRef::Deployment(_)
            | ObjectRef::Stack(_)
            | ObjectRef::User(_) => {}
        }
    }
    if !networks.is_empty() {
        // A task that has ended or gone since has an event of its own.
        let joined = |task: &&Arc<Task>| {
            task.is_live() && task.networks.iter().any(|n| networks.contains(&n.network_id))
        };
        nodes.extend(view.tasks().filter(joined).filter_map(|task| task.node_id));
    }
    nodes
}

/// Wakes streams whenever something was written, until `ended` is cancelled.
pub(super) async fn wake(
    cluster: Cluster,
    mut events: Follower,
    wakers: Arc<Wakers>,
    ended: CancellationToken,
) {
    while ended.run_until_cancelled(events.changed()).await.is_some() {
        let events = events.take();
        wakers.wake(events.as_deref(), &cluster.view());
    }
}

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
    mut wakes: Wakes,
    to: &mpsc::Sender<Result<pb::AssignmentsMessage, Status>>,
    mut chain: Chain,
    sizes: Sizes,
) {
    let mut held = NodeAssignment::default();
    loop {
        wakes.changes.borrow_and_update();
        // Held no longer than this line: whoever applies the log waits for it.
        let view = Arc::clone(&states.borrow());
        let wanted = assignment(&view, node);
        drop(view);
        let changes = held.diff(&wanted);
        for message in messages(&changes, &mut chain, sizes) {
            if to.send(Ok(message)).await.is_err() {
                return;
            }
        }
        held = wanted;
        tokio::select! {
            () = to.closed() => return,
            changed = wakes.changes.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Changes in parts; the first message of a stream, which there always is, is the COMPLETE one.
fn messages<'a>(
    changes: &'a [AssignmentChange],
    chain: &'a mut Chain,
    sizes: Sizes,
) -> impl Iterator<Item = pb::AssignmentsMessage> + 'a {
    let changes = changes.iter().filter_map(move |change| fitting(change, sizes.change_max));
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
    use shoal_manager_state::testing::{
        TestCluster, cluster_with_nodes, service_spec, with_networks, with_task,
    };
    use shoal_types::id::SessionId;
    use shoal_types::spec::TaskRuntime;
    use shoal_types::task_state::{DesiredState, TaskState};
    use shoal_types::time::Timestamp;

    use super::super::Sessions;
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
            cluster.apply(Command::AssignTask { id: task, node_id: nodes[0] });
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
        let wakes = Arc::<Wakers>::default().subscribe(node);
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
            let expected = super::assignment(&state, node);
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

    #[tokio::test]
    async fn only_who_is_named_in_a_change_is_woken() {
        let (mut cluster, nodes) = cluster_with_nodes(3);
        let network = cluster.add_network("net");
        let web = cluster.add_service(with_networks(service_spec("web", 2), &["net"]));
        let tasks = [1, 2].map(|replica| cluster.add_task(web, replica));
        cluster.apply(Command::AssignTask { id: tasks[0], node_id: nodes[0] });
        cluster.apply(Command::AssignTask { id: tasks[1], node_id: nodes[1] });
        cluster.events();
        let wakers = Arc::<Wakers>::default();
        let mut streams = [0, 1, 2].map(|n| wakers.subscribe(nodes[n]));
        let woken = |streams: &mut [Wakes; 3]| {
            streams.each_mut().map(|stream| {
                let woken = stream.changes.has_changed().expect("open");
                stream.changes.mark_unchanged();
                woken
            })
        };
        let woken_by = |streams: &mut [Wakes; 3], cluster: &mut TestCluster| {
            let events: Vec<_> = cluster.events().into_iter().map(Arc::new).collect();
            wakers.wake(Some(&events), &cluster.state);
            woken(streams)
        };
        assert_eq!(woken_by(&mut streams, &mut cluster), [false, false, false]);
        cluster.report(tasks[1], TaskState::Running);
        assert_eq!(woken_by(&mut streams, &mut cluster), [false, true, false]);
        cluster.apply(Command::SetDesired { id: tasks[0], desired: DesiredState::Shutdown });
        let other = cluster.add_network("other");
        cluster.add_task(web, 3);
        assert_eq!(woken_by(&mut streams, &mut cluster), [true, false, false]);
        cluster.apply(Command::RemoveNetwork { id: other });
        assert_eq!(woken_by(&mut streams, &mut cluster), [false, false, false], "nobody is on it");
        let object = ObjectRef::Network(Arc::clone(cluster.state.network(network).expect("there")));
        let (index, time) = (cluster.state.applied_index(), cluster.now);
        let labelled = Arc::new(Event { index, time, action: Action::Update, object });
        wakers.wake(Some(&[labelled]), &cluster.state);
        assert_eq!(woken(&mut streams), [true, true, false], "those whose tasks have joined it");
        wakers.wake(None, &cluster.state);
        assert_eq!(woken(&mut streams), [true, true, true], "it may be anything");
        let [first, second, third] = streams;
        drop((second, third));
        assert_eq!(wakers.lock().len(), 1, "who has gone is forgotten");
        let second = wakers.subscribe(first.node);
        drop(first);
        assert_eq!(wakers.lock().len(), 1, "another stream of it is there");
        drop(second);
        assert!(wakers.lock().is_empty());
    }
}
