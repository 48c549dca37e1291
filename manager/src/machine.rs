//! The replicated state machine: `shoal-manager-state` behind Raft.

use std::sync::Arc;

use prost::Message as _;
use shoal_manager_state::{
    ClusterState, Event, Outcome, Rejected, RejectedCode, StackOutcome, apply,
};
use shoal_proto::convert::field::{Kind as _, TextMap};
use shoal_proto::v1 as pb;
use tokio::sync::watch;
use tonic::Code;

use crate::clock;
use crate::feed::Feed;
use crate::raft::codec::{decode_command, read_snapshot, write_snapshot};
use crate::raft::{BoxError, Machine, SnapshotEncoder};

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
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, BoxError> {
        // A command that this version cannot read stops the member: going on without it would give
        // it another state than the others have.
        self.bytes += command.len();
        let command = decode_command(command)?;
        let result = apply(&mut self.state, index, command.time, command.command);
        self.events.extend(self.state.take_events());
        Ok(encode_result(result).encode_to_vec())
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
        self.feed.restart(self.state.applied_index(), clock::now());
        Ok(())
    }
}

/// Why a command was rejected, as it came back through Raft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandRejected {
    /// What it means to the caller.
    pub code: Code,
    /// For people.
    pub message: String,
}

fn encode_result(result: Result<Outcome, Rejected>) -> pb::CommandResult {
    use pb::command_result::Result as Wire;
    let result = match result {
        Ok(Outcome::Applied) => Wire::Applied(pb::Nothing {}),
        Ok(Outcome::Unchanged) => Wire::Unchanged(pb::Nothing {}),
        Ok(Outcome::Stack(stack)) => Wire::Stack(pb::StackResult {
            id: stack.id.to_string(),
            created: stack.created,
            updated: stack.updated,
            unchanged: stack.unchanged,
            removed: stack.removed,
            kept: stack.kept,
            spec_version: stack.spec_version,
            deployments: TextMap::write(&stack.deployments),
        }),
        Err(rejected) => Wire::Rejected(pb::CommandRejected {
            code: status_code(rejected.code()) as i32,
            message: rejected.to_string(),
        }),
    };
    pb::CommandResult { result: Some(result) }
}

fn status_code(code: RejectedCode) -> Code {
    match code {
        RejectedCode::NotFound => Code::NotFound,
        RejectedCode::AlreadyExists => Code::AlreadyExists,
        RejectedCode::FailedPrecondition => Code::FailedPrecondition,
        RejectedCode::Aborted => Code::Aborted,
        RejectedCode::InvalidArgument => Code::InvalidArgument,
    }
}

/// Reads what [`ClusterMachine`] answered.
///
/// # Errors
/// The command was rejected.
pub fn decode_result(bytes: &[u8]) -> Result<Outcome, CommandRejected> {
    use pb::command_result::Result as Wire;
    let garbled = || CommandRejected {
        code: Code::Internal,
        message: "the state machine's answer makes no sense".to_owned(),
    };
    let message = pb::CommandResult::decode(bytes).map_err(|_| garbled())?;
    match message.result.ok_or_else(garbled)? {
        Wire::Applied(_) => Ok(Outcome::Applied),
        Wire::Unchanged(_) => Ok(Outcome::Unchanged),
        Wire::Stack(stack) => Ok(Outcome::Stack(StackOutcome {
            id: stack.id.parse().map_err(|_| garbled())?,
            created: stack.created,
            updated: stack.updated,
            unchanged: stack.unchanged,
            removed: stack.removed,
            kept: stack.kept,
            spec_version: stack.spec_version,
            deployments: TextMap::read("deployments", stack.deployments).map_err(|_| garbled())?,
        })),
        Wire::Rejected(rejected) => {
            Err(CommandRejected { code: Code::from_i32(rejected.code), message: rejected.message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_their_encoding() {
        let stack = StackOutcome {
            id: 7.into(),
            created: vec!["a".to_owned()],
            updated: Vec::new(),
            unchanged: vec!["b".to_owned()],
            removed: Vec::new(),
            kept: vec!["c".to_owned()],
            spec_version: 3,
            deployments: [("a".to_owned(), 9.into())].into(),
        };
        for outcome in [Outcome::Applied, Outcome::Unchanged, Outcome::Stack(stack)] {
            let bytes = encode_result(Ok(outcome.clone())).encode_to_vec();
            assert_eq!(decode_result(&bytes), Ok(outcome));
        }
    }
}
