//! A manager that writes down what it hears and says what the test wants.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::v1;
use shoal_proto::v1::ca_server::{Ca, CaServer};
use shoal_proto::v1::dispatcher_server::{Dispatcher, DispatcherServer};
use shoal_proto::v1::session_message::Message;
use shoal_transport::{ConnectInfo, IncomingLimits, Peer, Role, incoming, server_builder};
use shoal_types::id::NodeId;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::TestCa;

type Out<T> = mpsc::Sender<Result<T, Status>>;

/// Both ends of an exec, as a manager has them.
pub(crate) struct ExecSide {
    pub(crate) output: Streaming<v1::ExecStreamMessage>,
    pub(crate) input: Out<v1::ExecInput>,
}

/// What the manager has heard, and what it is to say.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sessions: Vec<Out<v1::SessionMessage>>,
    pub(crate) hostnames: Vec<String>,
    /// What was asked for: sessions and tasks.
    pub(crate) withdrawals: Vec<(String, String)>,
    /// Of each session: whether the node said that it has a tunnel.
    pub(crate) tunnels: Vec<bool>,
    pub(crate) assignments: Vec<Out<v1::AssignmentsMessage>>,
    pub(crate) heartbeats: usize,
    /// In which it leads, from the next session on.
    pub(crate) term: u64,
    /// The terms that agents said they have obeyed.
    pub(crate) obeyed: Vec<u64>,
    /// Sessions and what they have applied.
    pub(crate) acknowledged: Vec<(String, u64)>,
    pub(crate) statuses: Vec<v1::TaskStatusUpdate>,
    /// Why the agent cannot take its assignment, as each session and heartbeat said.
    pub(crate) unable: Vec<String>,
    pub(crate) logs: Vec<v1::PublishLogsMessage>,
    pub(crate) logs_ended: usize,
    pub(crate) answers: Vec<v1::AnswerMessage>,
    pub(crate) answers_ended: usize,
    pub(crate) execs: Vec<ExecSide>,
    pub(crate) joined: Vec<String>,
    /// Nodes that said farewell.
    pub(crate) left: Vec<String>,
    /// How far a node that drains itself is said to be; nobody has drained if absent.
    pub(crate) drained: Option<v1::DrainNodeResponse>,
    /// How often nodes have asked to be managers no more, and whether that was forced.
    pub(crate) stepped: Vec<bool>,
    /// Why the managers of nodes are needed, unless they are not.
    pub(crate) needed: Option<Status>,
    /// Session and task of each question for a credential.
    pub(crate) auths_asked: Vec<(String, String)>,
    /// The answer to them; that of an older manager if absent.
    pub(crate) auth: Option<Result<Option<v1::RegistryAuth>, Status>>,
    /// The answer to every session, instead of one.
    pub(crate) refuse: Option<Status>,
    /// The role of those who join.
    pub(crate) role: Option<Role>,
    /// How often nodes are to be heard of. Twice that, and at least a second, is how long they wait for an
    /// answer.
    pub(crate) period: Period,
}

/// Short, where nothing else is said.
#[derive(Clone, Copy)]
pub(crate) struct Period(pub(crate) Duration);

impl Default for Period {
    fn default() -> Self {
        Self(Duration::from_millis(60))
    }
}

impl Period {
    fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).expect("short")
    }
}

/// In a runtime of its own, so that dropping it ends its connections as a crash would.
pub(crate) struct FakeManager {
    pub(crate) address: SocketAddr,
    pub(crate) ca: Arc<TestCa>,
    seen: Arc<Mutex<Seen>>,
    runtime: Option<Runtime>,
}

impl Drop for FakeManager {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeManager {
    pub(crate) async fn start(ca: Arc<TestCa>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let service = Service { ca: ca.clone(), seen: seen.clone() };
        let credentials = ca.live(1, Role::Manager);
        let (tell, bound) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            tell.send(listener.local_addr().expect("address")).expect("test waits");
            let connections = incoming(listener, credentials, IncomingLimits::default());
            server_builder()
                .add_service(DispatcherServer::new(service.clone()))
                .add_service(CaServer::new(service))
                .serve_with_incoming(connections)
                .await
                .expect("serves");
        });
        let address = bound.await.expect("bound");
        Self { address, ca, seen, runtime: Some(runtime) }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something on the newest session.
    pub(crate) async fn say(&self, message: Message) {
        let to = self.seen().sessions.last().expect("a session").clone();
        to.send(Ok(v1::SessionMessage { message: Some(message) })).await.expect("open");
    }

    /// Sends something on the newest stream of assignments.
    pub(crate) async fn assign(
        &self,
        kind: v1::AssignmentsKind,
        applies_to: u64,
        results_in: u64,
        changes: Vec<v1::AssignmentChange>,
    ) {
        let to = self.seen().assignments.last().expect("a stream").clone();
        let (kind, more, term) = (kind.into(), false, self.seen().term);
        let message = v1::AssignmentsMessage { kind, applies_to, results_in, changes, more, term };
        to.send(Ok(message)).await.expect("open");
    }

    /// Sends this on the newest stream of assignments.
    pub(crate) async fn assign_message(&self, message: v1::AssignmentsMessage) {
        let to = self.seen().assignments.last().expect("a stream").clone();
        to.send(Ok(message)).await.expect("open");
    }
}

#[derive(Clone)]
struct Service {
    ca: Arc<TestCa>,
    seen: Arc<Mutex<Seen>>,
}

impl Service {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the real one does it: the certificate decides.
fn check<T>(request: &Request<T>) -> Result<(), Status> {
    match &*request.extensions().get::<ConnectInfo>().expect("our transport").peer {
        Peer::Trusted(_) => Ok(()),
        Peer::Refused(why) => Err(Status::unauthenticated(why.to_string())),
        Peer::Joiner(_) => Err(Status::unauthenticated("join first")),
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>() -> (Out<T>, Response<Answers<T>>) {
    let (to, messages) = mpsc::channel(64);
    (to, Response::new(Box::pin(ReceiverStream::new(messages))))
}

#[tonic::async_trait]
impl Dispatcher for Service {
    async fn leave(
        &self,
        request: Request<v1::LeaveClusterRequest>,
    ) -> Result<Response<v1::LeaveClusterResponse>, Status> {
        check(&request)?;
        if let Peer::Trusted(identity) =
            &*request.extensions().get::<ConnectInfo>().expect("our transport").peer
        {
            let node = identity.node().expect("a node").to_string();
            self.seen().left.push(node);
        }
        Ok(Response::new(v1::LeaveClusterResponse {}))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        check(&request)?;
        let mut seen = self.seen();
        if let Some(status) = seen.refuse.clone() {
            return Err(status);
        }
        let begun = seen.drained.is_none();
        let drained = seen.drained.get_or_insert_default();
        drained.begun = begun;
        Ok(Response::new(drained.clone()))
    }

    async fn step_down(
        &self,
        request: Request<v1::StepDownRequest>,
    ) -> Result<Response<v1::StepDownResponse>, Status> {
        check(&request)?;
        let mut seen = self.seen();
        seen.stepped.push(request.get_ref().force);
        match seen.needed.clone() {
            Some(status) => Err(status),
            // It takes a moment.
            None => Ok(Response::new(v1::StepDownResponse { done: seen.stepped.len() > 2 })),
        }
    }

    type SessionStream = Answers<v1::SessionMessage>;

    async fn session(
        &self,
        request: Request<v1::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        check(&request)?;
        let mut seen = self.seen();
        if let Some(status) = seen.refuse.clone() {
            return Err(status);
        }
        let request = request.into_inner();
        seen.unable.push(request.unable);
        seen.obeyed.push(request.term);
        let description = request.description.unwrap_or_default();
        seen.tunnels.push(description.tunnel.is_some());
        seen.hostnames.push(description.hostname);
        let (to, answer) = stream();
        let started = v1::SessionStarted {
            session_id: format!("session-{}", seen.sessions.len()),
            heartbeat_period_nanos: seen.period.nanos(),
            term: seen.term,
            level: 1,
            cluster_level: 1,
        };
        let message = Some(Message::Started(started));
        to.try_send(Ok(v1::SessionMessage { message })).expect("room");
        seen.sessions.push(to);
        Ok(answer)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let mut seen = self.seen();
        let current = format!("session-{}", seen.sessions.len() - 1);
        if request.get_ref().session_id != current {
            return Err(Status::not_found("another session has begun"));
        }
        seen.heartbeats += 1;
        seen.unable.push(request.into_inner().unable);
        let period_nanos = seen.period.nanos();
        Ok(Response::new(v1::HeartbeatResponse { period_nanos }))
    }

    type AssignmentsStream = Answers<v1::AssignmentsMessage>;

    async fn assignments(
        &self,
        _: Request<v1::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let (to, answer) = stream();
        self.seen().assignments.push(to);
        Ok(answer)
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let v1::AcknowledgeRequest { session_id, applied } = request.into_inner();
        self.seen().acknowledged.push((session_id, applied));
        Ok(Response::new(v1::AcknowledgeResponse {}))
    }

    async fn update_task_status(
        &self,
        request: Request<v1::UpdateTaskStatusRequest>,
    ) -> Result<Response<v1::UpdateTaskStatusResponse>, Status> {
        self.seen().statuses.extend(request.into_inner().updates);
        Ok(Response::new(v1::UpdateTaskStatusResponse {}))
    }

    async fn get_registry_auth(
        &self,
        request: Request<v1::GetRegistryAuthRequest>,
    ) -> Result<Response<v1::GetRegistryAuthResponse>, Status> {
        let request = request.into_inner();
        let mut seen = self.seen();
        seen.auths_asked.push((request.session_id, request.task_id));
        let answer = seen.auth.clone().unwrap_or_else(|| Err(Status::unimplemented("not here")));
        answer.map(|auth| Response::new(v1::GetRegistryAuthResponse { auth }))
    }

    async fn await_withdrawal(
        &self,
        request: Request<v1::AwaitWithdrawalRequest>,
    ) -> Result<Response<v1::AwaitWithdrawalResponse>, Status> {
        let v1::AwaitWithdrawalRequest { session_id, task_id } = request.into_inner();
        self.seen().withdrawals.push((session_id, task_id));
        Ok(Response::new(v1::AwaitWithdrawalResponse { missing: 3 }))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<v1::PublishLogsMessage>>,
    ) -> Result<Response<v1::PublishLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Ok(Some(message)) = messages.message().await {
            self.seen().logs.push(message);
        }
        self.seen().logs_ended += 1;
        Ok(Response::new(v1::PublishLogsResponse {}))
    }

    async fn answer_question(
        &self,
        request: Request<Streaming<v1::AnswerMessage>>,
    ) -> Result<Response<v1::AnswerQuestionResponse>, Status> {
        let mut messages = request.into_inner();
        while let Ok(Some(message)) = messages.message().await {
            self.seen().answers.push(message);
        }
        self.seen().answers_ended += 1;
        Ok(Response::new(v1::AnswerQuestionResponse {}))
    }

    type ExecStreamStream = Answers<v1::ExecInput>;

    async fn exec_stream(
        &self,
        request: Request<Streaming<v1::ExecStreamMessage>>,
    ) -> Result<Response<Self::ExecStreamStream>, Status> {
        let (input, answer) = stream();
        self.seen().execs.push(ExecSide { output: request.into_inner(), input });
        Ok(answer)
    }
}

#[tonic::async_trait]
impl Ca for Service {
    async fn get_root_certificate(
        &self,
        _: Request<v1::GetRootCertificateRequest>,
    ) -> Result<Response<v1::GetRootCertificateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn issue_node_certificate(
        &self,
        request: Request<v1::IssueNodeCertificateRequest>,
    ) -> Result<Response<v1::IssueNodeCertificateResponse>, Status> {
        let peer = request.extensions().get::<ConnectInfo>().expect("our transport").peer.clone();
        let Peer::Joiner(joiner) = &*peer else {
            return Err(Status::failed_precondition("a member already"));
        };
        // As the real one: the id follows from the key.
        let bits = joiner
            .public_key
            .iter()
            .fold(7u128, |id, b| id.wrapping_mul(31).wrapping_add(u128::from(*b)));
        let node = NodeId::from(bits);
        let message = request.into_inner();
        if message.join_token != self.ca.token(7).reveal() {
            return Err(Status::permission_denied("the join token's secret is not valid"));
        }
        let mut seen = self.seen();
        seen.joined.push(node.to_string());
        let role = seen.role.unwrap_or(Role::Agent);
        Ok(Response::new(v1::IssueNodeCertificateResponse {
            certificate: Some(v1::Certificate {
                chain_pem: self.ca.sign(&message.csr_der, node, role),
                root_pem: self.ca.root_pem.clone(),
            }),
            node_id: node.to_string(),
            cluster_id: self.ca.cluster.to_string(),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let peer = request.extensions().get::<ConnectInfo>().expect("our transport").peer.clone();
        let Peer::Trusted(identity) = &*peer else { return Err(Status::unauthenticated("who?")) };
        let node = identity.node().ok_or_else(|| Status::permission_denied("no node"))?;
        let role = self.seen().role.unwrap_or(Role::Agent);
        let chain_pem = self.ca.sign(&request.get_ref().csr_der, node, role);
        let certificate = Some(v1::Certificate { chain_pem, root_pem: self.ca.root_pem.clone() });
        Ok(Response::new(v1::RenewCertificateResponse { certificate }))
    }
}
