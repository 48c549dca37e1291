//! The way of a command into the log.
//!
//! One task takes what has been proposed and writes it as one entry: commands that arrive while
//! the disk is busy share the next barrier. Each proposer gets the answer to its own command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::node::{Leader, RaftNode, leader_of};
use super::types::{Answer, Batch};

/// Bounds of the queue and of what goes into one entry.
#[derive(Debug, Clone)]
pub struct ProposeConfig {
    /// Commands that share an entry, at most.
    pub batch_commands: usize,
    /// Bytes of the commands that share an entry, at most; a single command may be larger.
    pub batch_bytes: usize,
    /// Bytes of one command, at most.
    pub command_bytes: usize,
    /// Commands that wait, at most.
    pub queue_commands: usize,
    /// Bytes of the commands that wait, at most.
    pub queue_bytes: usize,
    /// How long a proposer waits for its answer.
    pub patience: Duration,
}

impl Default for ProposeConfig {
    fn default() -> Self {
        Self {
            batch_commands: 1000,
            batch_bytes: 1 << 20,
            command_bytes: 2 << 20,
            queue_commands: 8192,
            queue_bytes: 32 << 20,
            patience: Duration::from_secs(30),
        }
    }
}

/// Why there is no answer to a command. What the state machine refused is no error here: that is
/// an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This manager does not lead. The command was not written.
    #[error("this manager is not the leader")]
    NotLeader {
        /// The leader, when one is known.
        leader: Option<Leader>,
    },
    /// The command was not written, and may be proposed again.
    #[error("the command was not written: {reason}")]
    Unavailable {
        /// What is in the way.
        reason: &'static str,
    },
    /// The command was written here, but it is not known whether a majority has it: it may take
    /// effect later, or never. Read the state before proposing it again.
    #[error("it is unknown whether the command takes effect: {reason}")]
    Unknown {
        /// What happened.
        reason: &'static str,
    },
    /// The command is too large, now and always.
    #[error("the command has {bytes} bytes, at most {max} are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// Where a waiting command stands, so that a proposer that gives up knows what to say.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Stage {
    fn advance(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

struct Proposal<A> {
    command: Bytes,
    stage: Arc<Stage>,
    answer: oneshot::Sender<Result<A, ProposeError>>,
    _space: tokio::sync::OwnedSemaphorePermit,
}

/// Withdraws a command that nobody waits for any more, if it was not taken yet.
struct Withdraw(Arc<Stage>);

impl Drop for Withdraw {
    fn drop(&mut self) {
        self.0.advance(WITHDRAWN);
    }
}

/// Takes commands. Clones share one queue.
pub struct Proposer<A> {
    config: Arc<ProposeConfig>,
    queue: mpsc::Sender<Proposal<A>>,
    space: Arc<Semaphore>,
}

impl<A> Clone for Proposer<A> {
    fn clone(&self) -> Self {
        let Self { config, queue, space } = self;
        Self { config: Arc::clone(config), queue: queue.clone(), space: Arc::clone(space) }
    }
}

impl<A: Answer> Proposer<A> {
    /// A proposer for this member, and the task that works for it until `stop`.
    pub fn new(
        node: RaftNode<A>,
        config: ProposeConfig,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, proposals) = mpsc::channel(config.queue_commands);
        let space = Arc::new(Semaphore::new(config.queue_bytes));
        let config = Arc::new(config);
        let writer = Writer { node, config: Arc::clone(&config), proposals, left_over: None };
        (Self { config, queue, space }, writer.run(stop))
    }

    /// Proposes a command and returns the state machine's answer once it is committed and applied.
    ///
    /// Dropping the future withdraws a command that is still waiting, and nothing else.
    ///
    /// # Errors
    ///
    /// Each says whether the command may have taken effect, see [`ProposeError`].
    pub async fn propose(&self, command: Bytes) -> Result<A, ProposeError> {
        let (bytes, max) = (command.len(), self.config.command_bytes);
        if bytes > max {
            return Err(ProposeError::TooLarge { bytes, max });
        }
        let full = ProposeError::Unavailable { reason: "too many commands are waiting" };
        let permits = u32::try_from(bytes).map_err(|_| ProposeError::TooLarge { bytes, max })?;
        let space =
            Arc::clone(&self.space).try_acquire_many_owned(permits).map_err(|_| full.clone())?;
        let stage = Arc::new(Stage::default());
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal { command, stage: Arc::clone(&stage), answer, _space: space };
        self.queue.try_send(proposal).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full,
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        let withdraw = Withdraw(Arc::clone(&stage));
        match tokio::time::timeout(self.config.patience, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if withdraw.0.advance(WITHDRAWN) => Err(stopping()),
            Ok(Err(_)) => Err(ProposeError::Unknown { reason: "this manager is stopping" }),
            Err(_) if withdraw.0.advance(WITHDRAWN) => {
                let reason = "it waited too long behind other commands";
                Err(ProposeError::Unavailable { reason })
            }
            Err(_) => {
                let reason = "no majority of the managers has confirmed it in time";
                Err(ProposeError::Unknown { reason })
            }
        }
    }
}

fn stopping() -> ProposeError {
    ProposeError::Unavailable { reason: "this manager is stopping" }
}

struct Writer<A: Answer> {
    node: RaftNode<A>,
    config: Arc<ProposeConfig>,
    proposals: mpsc::Receiver<Proposal<A>>,
    /// Taken from the queue, but too large for the last batch.
    left_over: Option<Proposal<A>>,
}

impl<A: Answer> Writer<A> {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return,
                batch = self.next_batch() => batch,
            };
            let Some(batch) = batch else { return };
            tokio::select! {
                // Dropping the proposals tells their proposers.
                () = stop.cancelled() => return,
                () = write(&self.node, batch) => {}
            }
        }
    }

    /// Waits for a command and takes what else is waiting. `None`: there are no proposers left.
    async fn next_batch(&mut self) -> Option<Vec<Proposal<A>>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        loop {
            let proposal = match self.left_over.take() {
                Some(proposal) => proposal,
                None if batch.is_empty() => self.proposals.recv().await?,
                None => match self.proposals.try_recv() {
                    Ok(proposal) => proposal,
                    Err(_) => return Some(batch),
                },
            };
            bytes += proposal.command.len();
            if !batch.is_empty() && bytes > self.config.batch_bytes {
                self.left_over = Some(proposal);
                return Some(batch);
            }
            if proposal.stage.advance(TAKEN) {
                batch.push(proposal);
            } else {
                bytes -= proposal.command.len();
            }
            if batch.len() >= self.config.batch_commands {
                return Some(batch);
            }
        }
    }
}

/// Writes one entry and answers its proposers.
async fn write<A: Answer>(node: &RaftNode<A>, proposals: Vec<Proposal<A>>) {
    let batch = Batch::new(proposals.iter().map(|proposal| proposal.command.clone()).collect());
    let appended = batch.appended().clone();
    let error = match node.write(batch).await {
        Ok(answers) if answers.len() == proposals.len() => {
            for (proposal, answer) in proposals.into_iter().zip(answers) {
                // A proposer may have given up.
                let _ = proposal.answer.send(Ok(answer));
            }
            return;
        }
        Ok(_) => ProposeError::Unknown { reason: "the state machine lost the answers" },
        // Once in a log, an entry may survive in any later leader's log.
        Err(_) if appended.is_set() => {
            ProposeError::Unknown { reason: "this manager lost the lead while writing it" }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            let (id, member) = (forward.leader_id, forward.leader_node);
            ProposeError::NotLeader { leader: leader_of(id, member) }
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => {
            ProposeError::Unavailable { reason: "the membership is changing" }
        }
        // The log may hold it: an append that failed half way does not set the flag.
        Err(RaftError::Fatal(_)) => ProposeError::Unknown { reason: "this manager has failed" },
    };
    for proposal in proposals {
        let _ = proposal.answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests;
