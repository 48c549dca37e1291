//! The replicated state machine: `shoal-manager-state` behind Raft.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Event, Outcome, Rejected, apply};
use shoal_types::level::Level;
use tokio::sync::watch;

use crate::clock;
use crate::feed::Feed;
use crate::raft::codec::{decode_command, read_snapshot, write_snapshot};
use crate::raft::{BoxError, Machine, SnapshotEncoder};

/// What came of a command.
pub type Answer = Result<Outcome, Rejected>;

/// The cluster state, and where its newest version is shown to readers.
pub struct ClusterMachine {
    state: ClusterState,
    events: Vec<Event>,
    /// Bytes of the commands that `events` come from.
    bytes: usize,
    published: watch::Sender<Arc<ClusterState>>,
    feed: Feed,
}

/// The cluster has been raised above what this program can do. It cannot go on: of what it does not
/// know it would read, and write into snapshots, only a part.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster has feature level {has}, and this program has {}: start a shoal-manager of level \
     {has} or a later one",
    Level::OWN
)]
pub struct TooOld {
    /// The level of the cluster.
    has: Level,
}

/// That this program can go on with a state. Whatever needs a level comes after it was raised.
fn check_level(state: &ClusterState) -> Result<(), TooOld> {
    match state.level() {
        level if level <= Level::OWN => Ok(()),
        has => Err(TooOld { has }),
    }
}

impl ClusterMachine {
    /// An empty state.
    #[must_use]
    pub fn new(published: watch::Sender<Arc<ClusterState>>, feed: Feed) -> Self {
        Self { state: ClusterState::new(), events: Vec::new(), bytes: 0, published, feed }
    }
}

impl Machine for ClusterMachine {
    type Answer = Answer;

    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Answer, BoxError> {
        // A command that this version cannot read stops the member: going on without it would give
        // it another state than the others have.
        self.bytes += command.len();
        let command = decode_command(command)?;
        let result = apply(&mut self.state, index, command.time, command.command);
        check_level(&self.state)?;
        self.events.extend(self.state.take_events());
        Ok(result)
    }

    fn publish(&mut self) {
        self.published.send_replace(Arc::new(self.state.clone()));
        let (events, bytes) = (std::mem::take(&mut self.events), std::mem::take(&mut self.bytes));
        self.feed.append(self.state.applied_index(), events, bytes);
    }

    fn snapshot(&self) -> SnapshotEncoder {
        let state = self.state.clone();
        Box::new(move || {
            let mut data = Vec::new();
            write_snapshot(&state, &mut data)?;
            Ok(data)
        })
    }

    fn restore(&mut self, mut data: &[u8]) -> Result<(), BoxError> {
        let state = read_snapshot(&mut data)?;
        check_level(&state)?;
        self.state = state;
        self.events.clear();
        self.bytes = 0;
        // In this order: who hears that events are forgotten takes a view that makes up for them.
        self.published.send_replace(Arc::new(self.state.clone()));
        self.feed.restart(self.state.applied_index(), clock::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};
    use shoal_manager_state::{Command, Rejected};
    use shoal_types::object::ManagerStatus;

    use super::*;
    use crate::raft::codec::encode_command;

    const LATER: Level = Level::new(Level::OWN.number() + 1);

    /// What raises a cluster to a level, and the manager's own level before.
    fn raising(cluster: &TestCluster, level: Level) -> [Command; 2] {
        let id = cluster.state.nodes().next().expect("a node").id;
        let status = Some(ManagerStatus { raft_id: 1, addr: "h:1".to_owned(), level });
        [Command::SetManagerStatus { id, status }, Command::RaiseLevel { level }]
    }

    fn machine() -> (ClusterMachine, watch::Receiver<Arc<ClusterState>>) {
        let (published, view) = watch::channel(Arc::default());
        (ClusterMachine::new(published, Feed::default()), view)
    }

    fn snapshot(state: &ClusterState) -> Vec<u8> {
        let mut data = Vec::new();
        write_snapshot(state, &mut data).expect("written");
        data
    }

    #[test]
    fn a_program_that_is_too_old_for_its_cluster_stops_where_that_was_raised() {
        let (cluster, _) = cluster_with_nodes(1);
        let (mut machine, view) = machine();
        machine.restore(&snapshot(&cluster.state)).expect("its own level");
        let before = Arc::clone(&view.borrow());
        let [status, raise] = raising(&cluster, LATER);
        let index = cluster.state.applied_index();
        let mut apply =
            |more, command| machine.apply(index + more, &encode_command(cluster.now, &command));
        apply(1, status).expect("read").expect("accepted");
        // A command that is refused raises nothing.
        let far = Command::RaiseLevel { level: Level::new(LATER.number() + 1) };
        let refused = apply(2, far).expect("read").expect_err("refused");
        assert!(matches!(refused, Rejected::ManagerTooOld { .. }), "{refused}");
        let stopped = apply(3, raise).expect_err("this program cannot know what follows");
        let told = stopped.to_string();
        let own = Level::OWN;
        let expected = format!("the cluster has feature level {LATER}, and this program has {own}");
        assert!(told.starts_with(&expected) && told.contains("shoal-manager"), "{told}");
        assert!(*view.borrow() == before, "nobody sees it");
    }

    #[test]
    fn a_program_that_is_too_old_for_a_snapshot_takes_nothing_of_it() {
        let (mut cluster, _) = cluster_with_nodes(1);
        let (mut machine, view) = machine();
        for command in raising(&cluster, LATER) {
            cluster.apply(command);
        }
        let refused = machine.restore(&snapshot(&cluster.state)).expect_err("too new");
        let expected = format!("has feature level {LATER}");
        assert!(refused.to_string().contains(&expected), "{refused}");
        assert!(view.borrow().cluster().is_none() && machine.state.cluster().is_none());
    }
}
