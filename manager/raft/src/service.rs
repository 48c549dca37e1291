//! openraft's incoming calls, over gRPC.

use std::sync::Arc;
use std::time::Duration;

use openraft::Snapshot;
use openraft::error::{Infallible, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use shoal_proto::v1;
use shoal_proto::v1::append_entries_response::Outcome;
use shoal_proto::v1::raft_server::{Raft as RaftRpc, RaftServer};
use shoal_proto::v1::snapshot_chunk::Part;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, InvalidRaftMessage};
use super::network::MAX_MESSAGE_BYTES;
use super::snapshot::{Incoming, SnapshotDir, SnapshotError};
use super::types::{Answer, Raft, RaftId};

/// A sender of a snapshot that is silent for so long is given up.
const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(30);

/// The gRPC service that other members call. Whoever mounts it decides who may call it: only
/// managers of this cluster.
pub struct RaftService<A: Answer> {
    id: RaftId,
    raft: Raft<A>,
    snapshots: SnapshotDir,
    /// One snapshot at a time is received.
    receiving: Arc<Semaphore>,
}

impl<A: Answer> RaftService<A> {
    pub(super) fn server(id: RaftId, raft: Raft<A>, snapshots: SnapshotDir) -> RaftServer<Self> {
        let receiving = Arc::new(Semaphore::new(1));
        RaftServer::new(Self { id, raft, snapshots, receiving })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn check_target(&self, target: RaftId) -> Result<(), Status> {
        if target == self.id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "this is raft member {}, the message is for {target}",
            self.id
        )))
    }

    async fn receive(
        &self,
        mut stream: Streaming<v1::SnapshotChunk>,
    ) -> Result<v1::InstallSnapshotResponse, Status> {
        let Some(Part::Start(start)) = next_part(&mut stream).await? else {
            return Err(Status::invalid_argument("a snapshot stream begins with `start`"));
        };
        self.check_target(start.target)?;
        let vote = convert::required_vote(start.vote.as_ref(), "SnapshotStart.vote")
            .map_err(|error| invalid(&error))?;
        let header = start
            .header
            .ok_or_else(|| invalid(&InvalidRaftMessage { field: "SnapshotStart.header" }))?;
        let mut incoming = self.snapshots.receive(header).map_err(|error| internal(&error))?;
        while let Some(part) = next_part(&mut stream).await? {
            let Part::Data(data) = part else {
                return Err(Status::invalid_argument("a snapshot stream has one `start`"));
            };
            incoming = write(incoming, data).await?;
        }
        let snapshot = tokio::task::spawn_blocking(move || incoming.finish())
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| internal(&error))?;
        let meta = snapshot.meta().clone();
        let snapshot = Snapshot { meta, snapshot: Box::new(snapshot) };
        let response = self
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(v1::InstallSnapshotResponse { vote: Some(convert::vote_to_proto(&response.vote)) })
    }
}

async fn write(mut incoming: Incoming, data: bytes::Bytes) -> Result<Incoming, Status> {
    tokio::task::spawn_blocking(move || incoming.write(&data).map(|()| incoming))
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| internal(&error))
}

async fn next_part(stream: &mut Streaming<v1::SnapshotChunk>) -> Result<Option<Part>, Status> {
    let chunk = tokio::time::timeout(SNAPSHOT_SILENCE_MAX, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no data of the snapshot arrived for 30 s"))??;
    match chunk {
        None => Ok(None),
        Some(v1::SnapshotChunk { part: Some(part) }) => Ok(Some(part)),
        Some(v1::SnapshotChunk { part: None }) => {
            Err(Status::invalid_argument("a message of the snapshot stream is empty"))
        }
    }
}

fn invalid(error: &InvalidRaftMessage) -> Status {
    Status::invalid_argument(error.to_string())
}

fn internal(error: &SnapshotError) -> Status {
    tracing::error!(%error, "cannot take a snapshot");
    Status::internal(error.to_string())
}

fn stopped(error: &RaftError<RaftId, Infallible>) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl<A: Answer> RaftRpc for RaftService<A> {
    async fn append_entries(
        &self,
        request: Request<v1::AppendEntriesRequest>,
    ) -> Result<Response<v1::AppendEntriesResponse>, Status> {
        let request = request.into_inner();
        self.check_target(request.target)?;
        let entries: Result<_, _> =
            request.entries.into_iter().map(convert::entry_from_proto).collect();
        let request = AppendEntriesRequest {
            vote: convert::required_vote(request.vote.as_ref(), "AppendEntriesRequest.vote")
                .map_err(|error| invalid(&error))?,
            prev_log_id: request.prev_log_id.as_ref().map(convert::log_id_from_proto),
            entries: entries.map_err(|error| invalid(&error))?,
            leader_commit: request.leader_commit.as_ref().map(convert::log_id_from_proto),
        };
        let response = self.raft.append_entries(request).await.map_err(|error| stopped(&error))?;
        let outcome = match response {
            AppendEntriesResponse::Success => Outcome::AppendedAll(v1::AppendedAll {}),
            AppendEntriesResponse::PartialSuccess(matching) => {
                let matching = matching.as_ref().map(convert::log_id_to_proto);
                Outcome::AppendedPart(v1::AppendedPart { matching })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(v1::AppendConflict {}),
            AppendEntriesResponse::HigherVote(vote) => {
                Outcome::HigherVote(convert::vote_to_proto(&vote))
            }
        };
        Ok(Response::new(v1::AppendEntriesResponse { outcome: Some(outcome) }))
    }

    async fn request_vote(
        &self,
        request: Request<v1::VoteRequest>,
    ) -> Result<Response<v1::VoteResponse>, Status> {
        let request = request.into_inner();
        self.check_target(request.target)?;
        let request = VoteRequest {
            vote: convert::required_vote(request.vote.as_ref(), "VoteRequest.vote")
                .map_err(|error| invalid(&error))?,
            last_log_id: request.last_log_id.as_ref().map(convert::log_id_from_proto),
        };
        let response = self.raft.vote(request).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(v1::VoteResponse {
            vote: Some(convert::vote_to_proto(&response.vote)),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(convert::log_id_to_proto),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::InstallSnapshotResponse>, Status> {
        let _permit = self
            .receiving
            .try_acquire()
            .map_err(|_| Status::unavailable("another snapshot is being received"))?;
        self.receive(request.into_inner()).await.map(Response::new)
    }

    async fn take_over(
        &self,
        request: Request<v1::TakeOverRequest>,
    ) -> Result<Response<v1::TakeOverResponse>, Status> {
        self.check_target(request.get_ref().target)?;
        let stopped =
            |error: openraft::error::Fatal<RaftId>| Status::unavailable(error.to_string());
        self.raft.trigger().elect().await.map_err(stopped)?;
        Ok(Response::new(v1::TakeOverResponse {}))
    }
}
