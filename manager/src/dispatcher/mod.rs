//! The agents' door: sessions, heartbeats, assignments, statuses.
//!
//! Which node is talking is taken from its certificate. Only the leader serves sessions; when it
//! stops leading, all of them end and the agents look for the new one.

mod assignments;
mod drain;
mod facts;
mod heard;
mod sessions;
mod step_down;
mod wakers;
mod withdrawal;

use std::pin::Pin;
use std::sync::Arc;

use prost::Message as _;
use shoal_manager_planning::credential::registry_auth;
use shoal_manager_planning::liveness;
use shoal_manager_state::{ClusterState, Command};
use shoal_proto::parts::PART_BYTES;
use shoal_proto::v1 as pb;
use shoal_proto::v1::dispatcher_server::Dispatcher;
use shoal_transport::ConnectInfo;
use shoal_types::id::{IdSource as _, NodeId, SessionId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::TaskStatus;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use crate::auth::{audit, member};
use crate::broker::Broker;
use crate::clock::{self, RandomIds};
use crate::cluster::{Cluster, ProposalError};

pub use facts::Telling;
pub use sessions::{Session, Sessions};
use wakers::Wakers;

/// Statuses in one command at the most: what one message brings may be more than a command holds.
const STATUSES_MAX: usize = 200;

/// A stream of messages to an agent.
type ToAgent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `Dispatcher`.
pub struct DispatcherService {
    cluster: Cluster,
    sessions: Arc<Sessions>,
    broker: Arc<Broker>,
    wakers: Arc<Wakers>,
    /// Ends what wakes them with this.
    _ended: DropGuard,
}

impl DispatcherService {
    /// The agents' door to this cluster. Must be called within a runtime.
    #[must_use]
    pub fn new(cluster: Cluster, sessions: Arc<Sessions>, broker: Arc<Broker>) -> Self {
        let (wakers, ended) = (Arc::<Wakers>::default(), CancellationToken::new());
        let events = cluster.feed().follow();
        let waking = wakers::wake(cluster.clone(), events, Arc::clone(&wakers), ended.clone());
        tokio::spawn(waking);
        Self { cluster, sessions, broker, wakers, _ended: ended.drop_guard() }
    }

    /// The session that a request belongs to, if it was opened in the term in which this manager
    /// leads now.
    fn find_session(&self, node: NodeId, id: &str) -> Result<Session, Status> {
        let id: SessionId =
            id.parse().map_err(|e| Status::invalid_argument(format!("session_id: {e}")))?;
        self.sessions.get(node, id, self.cluster.must_lead()?)
    }
}

fn node_of<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let identity = member(request)?;
    identity.node().ok_or_else(|| Status::permission_denied("only nodes have sessions"))
}

/// Time between two heartbeats, in nanoseconds.
fn heartbeat_period(view: &ClusterState) -> u64 {
    u64::try_from(view.spec().heartbeat_period.as_nanos()).unwrap_or(u64::MAX)
}

fn message(message: pb::session_message::Message) -> pb::SessionMessage {
    pb::SessionMessage { message: Some(message) }
}

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = ToAgent<pb::SessionMessage>;

    async fn session(
        &self,
        request: Request<pb::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        use pb::session_message::Message;
        let node = node_of(&request)?;
        let term = self.cluster.must_lead()?;
        let addr = request.extensions().get::<ConnectInfo>().map(|info| info.address.ip());
        let pb::SessionRequest { description, unable, term: obeyed } = request.into_inner();
        if obeyed > term {
            return Err(Status::unavailable(format!(
                "this node has obeyed a leader of term {obeyed}, and this manager leads in term \
                 {term}: ask another one; if this one was brought back from an old copy of its \
                 disk, stop it and run shoal-manager raise-term --above {obeyed} on its host"
            )));
        }
        let description_bytes = description.as_ref().map_or(0, prost::Message::encoded_len);
        let description = heard::description(node, description, self.cluster.view().level())?;
        let id: SessionId = RandomIds.next_id();
        let started = Message::Started(pb::SessionStarted {
            session_id: id.to_string(),
            heartbeat_period_nanos: heartbeat_period(&self.cluster.view()),
            term,
            level: Level::OWN.number(),
            cluster_level: self.cluster.view().level().number(),
        });
        let (session, messages) =
            self.sessions.open(node, id, term, clock::steady(), message(started));
        self.sessions.may_report(&session, description_bytes).await?;
        let has_tunnel = description.tunnel.is_some();
        let (view, now) = (self.cluster.view(), clock::now());
        if let Some(news) = liveness::heard(&view, node, Some(description), addr, &unable, now) {
            self.cluster.propose(news).await?;
        }
        let view = self.cluster.view();
        if has_tunnel && view.node(node).is_some_and(|node| node.description.tunnel.is_none()) {
            tracing::warn!(
                %node,
                "a node has the tunnel key of another one and counts as without: was one made from a copy \
                 of the other's disk?"
            );
        }
        facts::tell(&view, &session)?;
        tracing::info!(%node, session = %session.id, "session opened");
        Ok(Response::new(Box::pin(sessions::until_ended(session, messages))))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let node = node_of(&request)?;
        let pb::HeartbeatRequest { session_id, unable, troubled_links, tunnel } =
            request.into_inner();
        let session = self.find_session(node, &session_id)?;
        self.sessions.hear(&session, clock::steady());
        let view = self.cluster.view();
        let bytes = unable.len()
            + troubled_links.as_ref().map_or(0, prost::Message::encoded_len)
            + tunnel.as_ref().map_or(0, prost::Message::encoded_len);
        let links = troubled_links.and_then(|said| heard::links(node, said));
        let tunnel = tunnel.and_then(|said| heard::tunnel(node, said));
        let described = liveness::with_ways(&view, node, links, tunnel);
        let news = liveness::heard(&view, node, described, None, &unable, clock::now());
        if let Some(news) = news {
            self.sessions.may_report(&session, bytes).await?;
            self.cluster.propose(news).await?;
        }
        Ok(Response::new(pb::HeartbeatResponse { period_nanos: heartbeat_period(&view) }))
    }

    type AssignmentsStream = ToAgent<pb::AssignmentsMessage>;

    async fn assignments(
        &self,
        request: Request<pb::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let node = node_of(&request)?;
        let pb::AssignmentsRequest { session_id, message_bytes_max } = request.into_inner();
        let session = self.find_session(node, &session_id)?;
        let room = self.sessions.room_for_stream(&session)?;
        let (to, messages) = tokio::sync::mpsc::channel(assignments::QUEUE);
        let (ended, chain) = self.sessions.begin_assignments(&session);
        let sizes = assignments::Sizes::new(PART_BYTES, message_bytes_max);
        let (changes, wakes) =
            (self.cluster.changes(), self.wakers.subscribe(node, chain.applied()));
        tokio::spawn(assignments::pump(node, ended, changes, wakes, to, chain, sizes));
        // The room is the stream's: what is on its way stays until the agent takes it or lets go.
        let messages = ReceiverStream::new(messages).map(move |message| {
            let _ = &room;
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn acknowledge(
        &self,
        request: Request<pb::AcknowledgeRequest>,
    ) -> Result<Response<pb::AcknowledgeResponse>, Status> {
        let node = node_of(&request)?;
        let pb::AcknowledgeRequest { session_id, applied } = request.into_inner();
        let session = self.find_session(node, &session_id)?;
        session.acknowledge(applied)?;
        Ok(Response::new(pb::AcknowledgeResponse {}))
    }

    async fn update_task_status(
        &self,
        request: Request<pb::UpdateTaskStatusRequest>,
    ) -> Result<Response<pb::UpdateTaskStatusResponse>, Status> {
        let node_id = node_of(&request)?;
        let request = request.into_inner();
        let session = self.find_session(node_id, &request.session_id)?;
        self.sessions.may_report(&session, request.encoded_len()).await?;
        let statuses = heard::statuses(node_id, request.updates, self.cluster.view().level());
        let part = |part: &[(TaskId, TaskStatus)]| Command::UpdateTaskStatuses {
            node_id,
            statuses: part.to_vec(),
        };
        let commands = statuses.chunks(STATUSES_MAX).map(part).collect();
        for result in self.cluster.propose_all(commands).await.map_err(ProposalError::from)? {
            result.map_err(ProposalError::from)?;
        }
        Ok(Response::new(pb::UpdateTaskStatusResponse {}))
    }

    async fn get_registry_auth(
        &self,
        request: Request<pb::GetRegistryAuthRequest>,
    ) -> Result<Response<pb::GetRegistryAuthResponse>, Status> {
        let node = node_of(&request)?;
        let request = request.into_inner();
        self.find_session(node, &request.session_id)?;
        let task: TaskId = request
            .task_id
            .parse()
            .map_err(|e| Status::invalid_argument(format!("task_id: {e}")))?;
        let view = self.cluster.view();
        let auth = registry_auth(&view, node, task)
            .inspect_err(|error| tracing::warn!(%error, "refused a credential"))
            .map_err(|error| Status::not_found(error.to_string()))?;
        Ok(Response::new(pb::GetRegistryAuthResponse { auth: auth.map(Into::into) }))
    }

    async fn await_withdrawal(
        &self,
        request: Request<pb::AwaitWithdrawalRequest>,
    ) -> Result<Response<pb::AwaitWithdrawalResponse>, Status> {
        let node = node_of(&request)?;
        let pb::AwaitWithdrawalRequest { session_id, task_id } = request.into_inner();
        let session = self.find_session(node, &session_id)?;
        let task =
            task_id.parse().map_err(|e| Status::invalid_argument(format!("task_id: {e}")))?;
        let waiting = withdrawal::awaited(&self.cluster, &self.wakers, node, task);
        let missing = tokio::select! {
            missing = waiting => missing?,
            () = session.ended.cancelled() => return Err(Status::aborted("the session has ended")),
        };
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        Ok(Response::new(pb::AwaitWithdrawalResponse { missing }))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<pb::PublishLogsMessage>>,
    ) -> Result<Response<pb::PublishLogsResponse>, Status> {
        let node = node_of(&request)?;
        self.broker.publish_logs(node, request.into_inner()).await?;
        Ok(Response::new(pb::PublishLogsResponse {}))
    }

    async fn answer_question(
        &self,
        request: Request<Streaming<pb::AnswerMessage>>,
    ) -> Result<Response<pb::AnswerQuestionResponse>, Status> {
        let node = node_of(&request)?;
        self.broker.answer_question(node, request.into_inner()).await?;
        Ok(Response::new(pb::AnswerQuestionResponse {}))
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveClusterRequest>,
    ) -> Result<Response<pb::LeaveClusterResponse>, Status> {
        let id = node_of(&request)?;
        let entry = audit::Entry::node("/shoal.v1.Dispatcher/Leave", id);
        // It says itself that nothing runs there any more.
        let outcome = self.cluster.propose(Command::RemoveNode { id, force: true }).await;
        let outcome = outcome.map_err(Status::from);
        entry.ended(&outcome);
        outcome?;
        tracing::info!(node = %id, "a node has left");
        Ok(Response::new(pb::LeaveClusterResponse {}))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Result<Response<pb::DrainNodeResponse>, Status> {
        let id = node_of(&request)?;
        drain::drain(&self.cluster, id).await.map(Response::new)
    }

    async fn step_down(
        &self,
        request: Request<pb::StepDownRequest>,
    ) -> Result<Response<pb::StepDownResponse>, Status> {
        let id = node_of(&request)?;
        let force = request.get_ref().force;
        step_down::step_down(&self.cluster, id, force).await.map(Response::new)
    }

    type ExecStreamStream = ToAgent<pb::ExecInput>;

    async fn exec_stream(
        &self,
        request: Request<Streaming<pb::ExecStreamMessage>>,
    ) -> Result<Response<Self::ExecStreamStream>, Status> {
        let node = node_of(&request)?;
        self.broker.exec_stream(node, request.into_inner()).await.map(Response::new)
    }
}
