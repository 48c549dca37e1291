//! The replicated state machine: `shoal-manager-state` behind Raft.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Event, Outcome, Rejected, apply};
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
        self.state = read_snapshot(&mut data)?;
        self.events.clear();
        self.bytes = 0;
        // In this order: who hears that events are forgotten takes a view that makes up for them.
        self.published.send_replace(Arc::new(self.state.clone()));
        self.feed.restart(self.state.applied_index(), clock::now());
        Ok(())
    }
}
