//! openraft's outgoing calls, over gRPC.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{Stream, stream};
use openraft::error::{
    Fatal, PayloadTooLarge, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory, Snapshot};
use shoal_proto::v1;
use shoal_proto::v1::append_entries_response::Outcome;
use shoal_proto::v1::raft_client::RaftClient;
use shoal_proto::v1::snapshot_chunk::Part;
use shoal_types::id::NodeId;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::convert::{self, InvalidRaftMessage};
use super::machine::BoxError;
use super::snapshot::SnapshotFile;
use super::types::{Answer, LogId, Member, RaftId, TypeConfig, Vote};

/// Largest message between members. The log store hands out far less at a time.
pub(crate) const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Data in one message of a snapshot stream.
const SNAPSHOT_PIECE_BYTES: usize = 256 << 10;
/// Calls in a row that never ended before the connection is given up as dead.
const UNFINISHED_CALLS_MAX: u32 = 8;

/// Makes authenticated connections to other members.
pub trait PeerConnector: Send + Sync + 'static {
    /// A channel to the member on this node. Must be quick: connect lazily, and check on connecting
    /// that the peer is a manager of this cluster and that very node, so that no other manager
    /// answers for it. The channel needs HTTP/2 keep-alives.
    fn channel<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Channel, BoxError>>;
}

/// When each member has answered last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered(Arc<Mutex<BTreeMap<RaftId, Instant>>>);

impl Answered {
    fn note(&self, member: RaftId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(member, Instant::now());
    }

    /// How long ago each of these has answered last, as far as it has.
    pub(crate) fn ago(&self, members: &BTreeSet<RaftId>) -> BTreeMap<RaftId, Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| members.contains(id));
        known.iter().map(|(id, at)| (*id, at.elapsed())).collect()
    }
}

/// Makes a client per member.
#[derive(Clone)]
pub(crate) struct GrpcNetwork {
    connector: Arc<dyn PeerConnector>,
    heard: Answered,
}

impl GrpcNetwork {
    pub(crate) fn new(connector: Arc<dyn PeerConnector>, heard: Answered) -> Self {
        Self { connector, heard }
    }

    /// The calls to one member, which is on this node and reached there.
    pub(crate) fn peer(&self, target: RaftId, node: NodeId, address: &str) -> PeerClient {
        PeerClient {
            target,
            node,
            address: address.to_owned(),
            connector: Arc::clone(&self.connector),
            heard: self.heard.clone(),
            client: None,
            unfinished: 0,
        }
    }
}

impl<A: Answer> RaftNetworkFactory<TypeConfig<A>> for GrpcNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, node: &Member) -> PeerClient {
        self.peer(target, node.node, &node.address)
    }
}

/// The calls to one member.
pub(crate) struct PeerClient {
    target: RaftId,
    node: NodeId,
    address: String,
    connector: Arc<dyn PeerConnector>,
    heard: Answered,
    client: Option<RaftClient<Channel>>,
    unfinished: u32,
}

/// Why a call to a member did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("connect to manager {address}: {source}")]
    Connect { address: String, source: BoxError },
    #[error("manager {address} answered {code:?}: {message}")]
    Refused { address: String, code: Code, message: String },
    #[error(transparent)]
    Invalid(#[from] InvalidRaftMessage),
}

impl PeerClient {
    async fn client(&mut self) -> Result<RaftClient<Channel>, CallError> {
        // openraft drops calls that take too long, so a dead connection shows only in that.
        if self.unfinished >= UNFINISHED_CALLS_MAX {
            self.client = None;
            self.unfinished = 0;
        }
        self.unfinished += 1;
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let channel = self
            .connector
            .channel(self.node, &self.address)
            .await
            .map_err(|source| CallError::Connect { address: self.address.clone(), source })?;
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(self.client.insert(client).clone())
    }

    fn answered<T>(&mut self, result: Result<tonic::Response<T>, Status>) -> Result<T, CallError> {
        self.unfinished = 0;
        if result.is_ok() {
            self.heard.note(self.target);
        }
        result.map(tonic::Response::into_inner).map_err(|status| CallError::Refused {
            address: self.address.clone(),
            code: status.code(),
            message: status.message().to_owned(),
        })
    }

    /// Has the member stand for election at once.
    pub(crate) async fn take_over(&mut self) -> Result<(), CallError> {
        let request = v1::TakeOverRequest { target: self.target };
        let result = self.client().await?.take_over(request).await;
        self.answered(result).map(|v1::TakeOverResponse {}| ())
    }

    /// Appends nothing behind an entry that the member does not have, by this vote.
    pub(crate) async fn show_vote(
        &mut self,
        vote: &Vote,
        nowhere: &LogId,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError> {
        self.try_append(v1::AppendEntriesRequest {
            target: self.target,
            vote: Some(convert::vote_to_proto(vote)),
            prev_log_id: Some(convert::log_id_to_proto(nowhere)),
            entries: Vec::new(),
            leader_commit: None,
        })
        .await
    }

    async fn try_append(
        &mut self,
        request: v1::AppendEntriesRequest,
    ) -> Result<AppendEntriesResponse<RaftId>, CallError> {
        let mut client = self.client().await?;
        let result = client.append_entries(request).await;
        append_outcome(self.answered(result)?)
    }

    async fn try_vote(
        &mut self,
        request: v1::VoteRequest,
    ) -> Result<VoteResponse<RaftId>, CallError> {
        let mut client = self.client().await?;
        let result = client.request_vote(request).await;
        let response = self.answered(result)?;
        Ok(VoteResponse {
            vote: convert::required_vote(response.vote.as_ref(), "VoteResponse.vote")?,
            vote_granted: response.granted,
            last_log_id: response.last_log_id.as_ref().map(convert::log_id_from_proto),
        })
    }

    async fn try_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotFile,
    ) -> Result<SnapshotResponse<RaftId>, CallError> {
        let mut client = self.client().await?;
        let result = client.install_snapshot(chunks(self.target, &vote, snapshot)).await;
        let response = self.answered(result)?;
        let field = "InstallSnapshotResponse.vote";
        Ok(SnapshotResponse::new(convert::required_vote(response.vote.as_ref(), field)?))
    }
}

fn append_outcome(
    response: v1::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<RaftId>, CallError> {
    let missing = InvalidRaftMessage { field: "AppendEntriesResponse.outcome" };
    Ok(match response.outcome.ok_or(missing)? {
        Outcome::AppendedAll(v1::AppendedAll {}) => AppendEntriesResponse::Success,
        Outcome::AppendedPart(part) => AppendEntriesResponse::PartialSuccess(
            part.matching.as_ref().map(convert::log_id_from_proto),
        ),
        Outcome::Conflict(v1::AppendConflict {}) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(vote) => {
            AppendEntriesResponse::HigherVote(convert::vote_from_proto(&vote))
        }
    })
}

/// The messages of a snapshot stream. A file that can no longer be read ends the stream early,
/// which the receiver notices.
fn chunks(
    target: RaftId,
    vote: &Vote,
    snapshot: SnapshotFile,
) -> impl Stream<Item = v1::SnapshotChunk> + Send + use<> {
    let start = v1::SnapshotStart {
        target,
        vote: Some(convert::vote_to_proto(vote)),
        header: Some(snapshot.header().clone()),
    };
    let start = v1::SnapshotChunk { part: Some(Part::Start(start)) };
    let data = stream::unfold((snapshot, 0), |(snapshot, position)| async move {
        let reader = snapshot.clone();
        let read = move || reader.read_at(position, SNAPSHOT_PIECE_BYTES);
        let piece = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(piece)) if !piece.is_empty() => piece,
            // The end; a panic in the reader ends the stream early, which the receiver notices.
            Ok(Ok(_)) | Err(_) => return None,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the snapshot that is being sent");
                return None;
            }
        };
        let position = position + piece.len() as u64;
        let chunk = v1::SnapshotChunk { part: Some(Part::Data(piece.into())) };
        Some((chunk, (snapshot, position)))
    });
    futures::StreamExt::chain(stream::iter([start]), data)
}

/// Every failure means: later. openraft repeats a call with any other error at once.
fn rpc_error(error: &CallError) -> RPCError<RaftId, Member, RaftError<RaftId>> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn too_large(error: &CallError) -> bool {
    matches!(error, CallError::Refused { code: Code::OutOfRange | Code::ResourceExhausted, .. })
}

impl<A: Answer> RaftNetwork<TypeConfig<A>> for PeerClient {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig<A>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RPCError<RaftId, Member, RaftError<RaftId>>> {
        let count = request.entries.len() as u64;
        let message = v1::AppendEntriesRequest {
            target: self.target,
            vote: Some(convert::vote_to_proto(&request.vote)),
            prev_log_id: request.prev_log_id.as_ref().map(convert::log_id_to_proto),
            entries: request.entries.iter().map(convert::entry_to_proto).collect(),
            leader_commit: request.leader_commit.as_ref().map(convert::log_id_to_proto),
        };
        self.try_append(message).await.map_err(|error| {
            if too_large(&error) && count > 1 {
                RPCError::PayloadTooLarge(PayloadTooLarge::new_entries_hint(count / 2))
            } else {
                rpc_error(&error)
            }
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<RaftId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RPCError<RaftId, Member, RaftError<RaftId>>> {
        let message = v1::VoteRequest {
            target: self.target,
            vote: Some(convert::vote_to_proto(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(convert::log_id_to_proto),
        };
        self.try_vote(message).await.map_err(|error| rpc_error(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig<A>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<RaftId>, StreamingError<TypeConfig<A>, Fatal<RaftId>>> {
        let sending = self.try_snapshot(vote, *snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(option.hard_ttl(), sending) => match sent {
                Ok(sent) => sent.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e))),
                Err(late) => {
                    let error = AnyError::new(&late).add_context(|| "send a snapshot");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            },
        }
    }
}
