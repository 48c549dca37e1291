//! Which streams of assignments a change wakes, and what they are to look at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_manager_planning::assignment::{News, news};
use shoal_manager_state::{ClusterState, Event};
use shoal_types::id::NodeId;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::sessions::raise;
use crate::cluster::Cluster;
use crate::feed::Follower;

/// The streams that wait for a change, by their nodes and a number. Each is woken for those that mean
/// something for its node, and for no others: thousands of them would look for nothing.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    streams: Mutex<Streams>,
    /// Up to which index of the log it is known whom a change means something for.
    seen: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Streams {
    waiting: BTreeMap<(NodeId, u64), Arc<Inbox>>,
    /// Numbers given so far.
    count: u64,
}

/// What one stream has still to look at.
#[derive(Debug)]
struct Inbox {
    news: Mutex<Unread>,
    arrived: Notify,
    told: watch::Sender<Option<Told>>,
    /// Up to which message the node has applied what it was told.
    applied: watch::Receiver<u64>,
}

/// News that the stream has not taken yet.
#[derive(Debug, Default)]
struct Unread {
    news: News,
    /// How often there was some so far, what was taken included.
    count: u64,
}

/// How far a stream has told its node of what has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// How often there was news before that.
    pub(super) news: u64,
    /// The number of the last message.
    pub(super) sent: u64,
}

/// A node that has to be told of everything up to some moment.
#[derive(Debug)]
pub(super) struct Telling {
    /// How often there was news by then.
    news: u64,
    told: watch::Receiver<Option<Told>>,
    applied: watch::Receiver<u64>,
}

impl Telling {
    /// Waits until the node has applied all of it; false if its stream ended before.
    pub(super) async fn applied(mut self) -> bool {
        let has_all = |told: &Option<Told>| told.is_some_and(|told| told.news >= self.news);
        let sent = match self.told.wait_for(has_all).await {
            Ok(told) => told.map_or(0, |told| told.sent),
            Err(_) => return false,
        };
        let ended = async { while self.told.changed().await.is_ok() {} };
        tokio::select! {
            applied = self.applied.wait_for(|applied| *applied >= sent) => applied.is_ok(),
            () = ended => false,
        }
    }
}

/// Tells one stream what may have changed of what its node is to hold.
#[derive(Debug)]
pub(super) struct Wakes {
    key: (NodeId, u64),
    inbox: Arc<Inbox>,
    wakers: Arc<Wakers>,
}

impl Drop for Wakes {
    fn drop(&mut self) {
        lock(&self.wakers.streams).waiting.remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    fn new(applied: watch::Receiver<u64>) -> Self {
        let (news, arrived, told) = Default::default();
        Self { news, arrived, told, applied }
    }

    fn add(&self, news: &News) {
        let mut unread = lock(&self.news);
        unread.news.add(news);
        unread.count += 1;
        drop(unread);
        self.arrived.notify_one();
    }
}

impl Wakes {
    /// What has come since this was called last, and how often there was news in all. It is in every view
    /// that is taken afterwards.
    pub(super) fn take(&self) -> (News, u64) {
        let mut unread = lock(&self.inbox.news);
        (std::mem::take(&mut unread.news), unread.count)
    }

    /// Says how far the node is told.
    pub(super) fn told(&self, told: Told) {
        self.inbox.told.send_replace(Some(told));
    }

    /// Waits until there is something to take.
    pub(super) async fn arrived(&self) {
        self.inbox.arrived.notified().await;
    }
}

impl Wakers {
    /// Tells what of what the node is to hold changes after this call, to one that says how much of it is
    /// `applied`.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        node: NodeId,
        applied: watch::Receiver<u64>,
    ) -> Wakes {
        let mut streams = lock(&self.streams);
        streams.count += 1;
        let (key, inbox) = ((node, streams.count), Arc::new(Inbox::new(applied)));
        streams.waiting.insert(key, Arc::clone(&inbox));
        Wakes { key, inbox, wakers: Arc::clone(self) }
    }

    /// Wakes the streams of the nodes for which events mean something, in a view that has them; all, if
    /// some events were missed.
    pub(super) fn wake(&self, events: Option<&[Arc<Event>]>, view: &ClusterState) {
        let seen = match events {
            Some(events) => events.last().map_or(0, |event| event.index),
            None => view.applied_index(),
        };
        let news = events.map(|events| news(events.iter().map(AsRef::as_ref), view));
        let streams = lock(&self.streams);
        match &news {
            None => streams.waiting.values().for_each(|inbox| inbox.add(&News::whole())),
            Some(news) => {
                for (node, news) in news {
                    let inboxes = streams.waiting.range((*node, 0)..=(*node, u64::MAX));
                    inboxes.for_each(|(_, inbox)| inbox.add(news));
                }
            }
        }
        drop(streams);
        self.saw(seen);
    }

    /// Whoever is to hear of changes up to this index has.
    fn saw(&self, index: u64) {
        raise(&self.seen, index);
    }

    /// Waits until all streams that a change up to this index means something for are woken.
    pub(super) async fn have_seen(&self, index: u64) {
        // Never fails: this has the other end.
        let _ = self.seen.subscribe().wait_for(|seen| *seen >= index).await;
    }

    /// What there is to tell a node now; nothing if it has no stream.
    pub(super) fn telling(&self, node: NodeId) -> Option<Telling> {
        let streams = lock(&self.streams);
        let (_, inbox) = streams.waiting.range((node, 0)..=(node, u64::MAX)).next_back()?;
        let news = lock(&inbox.news).count;
        Some(Telling { news, told: inbox.told.subscribe(), applied: inbox.applied.clone() })
    }
}

/// Wakes streams whenever something was written, until `ended` is cancelled.
pub(super) async fn wake(
    cluster: Cluster,
    mut events: Follower,
    wakers: Arc<Wakers>,
    ended: CancellationToken,
) {
    // What was written before is in whatever a stream says first.
    wakers.saw(cluster.view().applied_index());
    while ended.run_until_cancelled(events.changed()).await.is_some() {
        let events = events.take();
        wakers.wake(events.as_deref(), &cluster.view());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use shoal_manager_state::testing::{
        TestCluster, cluster_with_nodes, service_spec, with_networks,
    };
    use shoal_manager_state::{Action, Command, ObjectRef};
    use shoal_types::task_state::{DesiredState, TaskState};

    use super::*;

    #[test]
    fn only_who_is_named_in_a_change_is_woken() {
        let (mut cluster, nodes) = cluster_with_nodes(3);
        let network = cluster.add_network("net");
        let web = cluster.add_service(with_networks(service_spec("web", 2), &["net"]));
        let tasks = [1, 2].map(|replica| cluster.add_task(web, replica));
        cluster.apply(Command::AssignTask { id: tasks[0], node_id: nodes[0], partner: None });
        cluster.apply(Command::AssignTask { id: tasks[1], node_id: nodes[1], partner: None });
        cluster.events();
        let wakers = Arc::<Wakers>::default();
        let streams = [0, 1, 2].map(|n| wakers.subscribe(nodes[n], watch::channel(0).1));
        let woken = |streams: &[Wakes; 3]| {
            streams.each_ref().map(|stream| {
                let woken = stream.arrived().now_or_never().is_some();
                assert_eq!(stream.take().0 != News::default(), woken, "it is told what to look at");
                woken
            })
        };
        let woken_by = |streams: &[Wakes; 3], cluster: &mut TestCluster| {
            let events: Vec<_> = cluster.events().into_iter().map(Arc::new).collect();
            wakers.wake(Some(&events), &cluster.state);
            woken(streams)
        };
        assert_eq!(woken_by(&streams, &mut cluster), [false, false, false]);
        cluster.report(tasks[1], TaskState::Running);
        assert_eq!(woken_by(&streams, &mut cluster), [false, true, false]);
        cluster.apply(Command::SetDesired { id: tasks[0], desired: DesiredState::Shutdown });
        let other = cluster.add_network("other");
        cluster.add_task(web, 3);
        assert_eq!(woken_by(&streams, &mut cluster), [true, false, false]);
        cluster.apply(Command::RemoveNetwork { id: other });
        assert_eq!(woken_by(&streams, &mut cluster), [false, false, false], "nobody is on it");
        let object = ObjectRef::Network(Arc::clone(cluster.state.network(network).expect("there")));
        let (index, time) = (cluster.state.applied_index(), cluster.now);
        let labelled = Arc::new(Event {
            index,
            time,
            action: Action::Update,
            object,
            reach: Default::default(),
        });
        wakers.wake(Some(&[labelled]), &cluster.state);
        assert_eq!(woken(&streams), [true, true, false], "those whose tasks have joined it");
        wakers.wake(None, &cluster.state);
        assert_eq!(woken(&streams), [true, true, true], "it may be anything");
        let [first, second, third] = streams;
        drop((second, third));
        assert_eq!(lock(&wakers.streams).waiting.len(), 1, "who has gone is forgotten");
        let second = wakers.subscribe(nodes[0], watch::channel(0).1);
        cluster.report(tasks[0], TaskState::Shutdown);
        let events: Vec<_> = cluster.events().into_iter().map(Arc::new).collect();
        wakers.wake(Some(&events), &cluster.state);
        assert!(first.take().0 == second.take().0, "each of a node's streams is told");
        drop((first, second));
        assert!(lock(&wakers.streams).waiting.is_empty());
    }

    #[tokio::test]
    async fn who_is_told_has_applied_it_when_he_says_so_and_not_when_his_stream_ends() {
        let (wakers, node) = (Arc::<Wakers>::default(), NodeId::from(1));
        assert!(wakers.telling(node).is_none(), "nobody is told anything");
        let (apply, applied) = watch::channel(0);
        let stream = wakers.subscribe(node, applied);
        let telling = || wakers.telling(node).expect("a stream");
        stream.told(Told { news: 0, sent: 3 });
        assert_eq!(telling().applied().now_or_never(), None, "he has not said anything");
        apply.send_replace(3);
        assert_eq!(telling().applied().now_or_never(), Some(true));
        // There is more now, which he has not been told.
        stream.inbox.add(&News::whole());
        let waits = telling();
        assert_eq!(telling().applied().now_or_never(), None);
        let (_, news) = stream.take();
        stream.told(Told { news, sent: 5 });
        assert_eq!(telling().applied().now_or_never(), None, "of that he has applied nothing");
        drop(stream);
        assert!(!waits.applied().await, "he may still do as he was told before");
    }
}
