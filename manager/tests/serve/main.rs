//! A whole manager in this process: bootstrap, users, agents, restarts, over real TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test: panics and prints are its voice"
)]

mod credentials;
mod departures;
mod floods;
mod levels;
mod logs;
mod managers;
mod networks;
mod questions;
mod races;
mod settings;
mod sizes;
mod users;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use prost::Message as _;
use shoal_manager::config::{Cli, Command};
use shoal_manager::server;
use shoal_proto::v1 as pb;
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::control_client::ControlClient;
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_transport::{
    Credentials, LiveCredentials, MANAGER_NAME, ManagerAddress, PrivateKey, client_channel,
    is_removed, join, unix_channel,
};
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::join_token::JoinToken;
use shoal_types::object::{NodeDescription, TaskStatus};
use shoal_types::resources::Resources;
use shoal_types::spec::Platform;
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// Everything here takes milliseconds; this is for machines that are very busy.
const PATIENCE: Duration = Duration::from_secs(20);

struct Manager {
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Manager {
    fn start(dir: &Path, address: SocketAddr) -> Self {
        let address = address.to_string();
        let socket = dir.join("manager.sock");
        let parsed = Cli::parse_from([
            "shoal-manager",
            "run",
            "--state-dir",
            dir.to_str().unwrap(),
            "--socket",
            socket.to_str().unwrap(),
            "--listen",
            &address,
            "--advertise",
            &address,
        ]);
        let Command::Run(options) = parsed.command else { panic!("not what was asked for") };
        let stop = CancellationToken::new();
        let serving = server::run(options, stop.clone());
        let running = tokio::spawn(async move {
            let result = serving.await;
            if let Err(error) = &result {
                eprintln!("the manager ended: {error:#}");
            }
            result
        });
        Self { stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn description(hostname: &str) -> NodeDescription {
    NodeDescription {
        hostname: hostname.to_owned(),
        platform: Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() },
        resources: Resources {
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 30,
            ..Default::default()
        },
        ..Default::default()
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer that comes in parts, as one message.
async fn whole<R: prost::Message + Default>(
    call: impl Future<Output = Result<tonic::Response<Streaming<R>>, tonic::Status>>,
) -> Result<R, tonic::Status> {
    let (mut parts, mut whole) = (call.await?.into_inner(), R::default());
    while let Some(part) = parts.message().await? {
        whole.merge(&*part.encode_to_vec()).unwrap();
    }
    Ok(whole)
}

/// A made cluster: its manager, a user's client, an agent's credentials for the first node.
struct Made {
    manager: Manager,
    control: ControlClient<Channel>,
    node: LiveCredentials,
    agent_token: String,
}

async fn bootstrap(dir: &Path, address: SocketAddr) -> Made {
    let manager = Manager::start(dir, address);
    let (node_key, admin_key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let request = pb::BootstrapRequest {
        node_csr_der: node_key.request().unwrap(),
        admin_csr_der: admin_key.request().unwrap(),
        description: Some((&description("first")).into()),
        advertise_addr: address.to_string(),
        ..Default::default()
    };
    let socket = dir.join("manager.sock");
    let made = eventually("bootstrap", || {
        let (request, channel) = (request.clone(), unix_channel(&socket));
        async move { BootstrapClient::new(channel).bootstrap(request).await.ok() }
    })
    .await
    .into_inner();
    // A repeat with the same key goes on where the first attempt broke off.
    let again =
        BootstrapClient::new(unix_channel(&socket)).bootstrap(request.clone()).await.unwrap();
    assert_eq!(again.into_inner().node_id, made.node_id);

    let credentials = |chain: &str, key: &PrivateKey| {
        Credentials::from_pem(chain.to_owned(), key.to_pem(), made.root_pem.clone()).unwrap()
    };
    let admin = credentials(&made.admin_chain_pem, &admin_key);
    let node = credentials(&made.node_chain_pem, &node_key);
    Made {
        manager,
        control: ControlClient::new(channel(address, admin)),
        node: LiveCredentials::new(node).unwrap(),
        agent_token: made.agent_join_token,
    }
}

/// Another node joins: its credentials.
async fn joined(address: SocketAddr, token: &str) -> Credentials {
    let (token, key): (JoinToken, _) = (token.parse().unwrap(), PrivateKey::generate().unwrap());
    let manager: ManagerAddress = address.to_string().parse().unwrap();
    join(manager, &token, &key, pb::NodeHints::default()).await.unwrap()
}

fn channel(address: SocketAddr, credentials: Credentials) -> Channel {
    let live = LiveCredentials::new(credentials).unwrap();
    client_channel(address.to_string().parse().unwrap(), live, MANAGER_NAME).unwrap()
}

/// An agent that holds what it is told and reports what the test says.
struct Agent {
    client: DispatcherClient<Channel>,
    session_id: String,
    session: Streaming<pb::SessionMessage>,
    assignments: Streaming<pb::AssignmentsMessage>,
    held: NodeAssignment,
    /// Its heartbeats, which end with it.
    _beats: Option<AbortOnDropHandle<()>>,
}

impl Agent {
    /// One that keeps its session alive.
    async fn connect(channel: Channel, hostname: &str) -> Self {
        Self::try_connect(channel, hostname).await.unwrap().beating()
    }

    /// It keeps its session alive from now on.
    fn beating(self) -> Self {
        let beats = beat(self.client.clone(), self.session_id.clone());
        Self { _beats: Some(AbortOnDropHandle::new(tokio::spawn(beats))), ..self }
    }

    /// One that does not. Nothing if the manager does not serve sessions yet, or ends this one at once.
    async fn try_connect(channel: Channel, hostname: &str) -> Option<Self> {
        Self::open(channel, (&description(hostname)).into()).await
    }

    /// One that says this of itself.
    async fn open(channel: Channel, description: pb::NodeDescription) -> Option<Self> {
        let mut client = DispatcherClient::new(channel);
        let request = pb::SessionRequest { description: Some(description), ..Default::default() };
        let mut session = client.session(request).await.ok()?.into_inner();
        let first = session.message().await.ok()??.message?;
        let pb::session_message::Message::Started(started) = first else { panic!("{first:?}") };
        let session_id = started.session_id;
        let request =
            pb::AssignmentsRequest { session_id: session_id.clone(), message_bytes_max: 0 };
        let assignments = client.assignments(request).await.ok()?.into_inner();
        let held = NodeAssignment::default();
        Some(Self { client, session_id, session, assignments, held, _beats: None })
    }

    /// Takes the next part of the assignment; its bytes, and whether more belongs to it.
    async fn receive(&mut self) -> (usize, bool) {
        let message = self.assignments.message().await.unwrap().unwrap();
        let (bytes, more) = (message.encoded_len(), message.more);
        if message.kind == pb::AssignmentsKind::Complete as i32 {
            self.held = NodeAssignment::default();
        }
        let changes: Vec<AssignmentChange> =
            message.changes.into_iter().map(|c| c.try_into().unwrap()).collect();
        self.held.apply(changes);
        (bytes, more)
    }

    async fn receive_until(&mut self, what: &str, done: impl Fn(&NodeAssignment) -> bool) {
        let all = async {
            while !done(&self.held) {
                self.receive().await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn report(&mut self, state: TaskState) {
        self.report_saying(state, "reported by a test").await;
    }

    async fn report_saying(&mut self, state: TaskState, message: &str) {
        let updates = self.held.tasks.keys().map(|id| {
            let status = TaskStatus::new(state, Timestamp::from_secs(1), message);
            (&(*id, status)).into()
        });
        let request = pb::UpdateTaskStatusRequest {
            session_id: self.session_id.clone(),
            updates: updates.collect(),
        };
        self.client.update_task_status(request).await.unwrap();
    }
}

async fn beat(mut client: DispatcherClient<Channel>, session_id: String) {
    loop {
        let request = pb::HeartbeatRequest { session_id: session_id.clone(), ..Default::default() };
        let _ = client.heartbeat(request).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn status(node: &pb::NodeSummary) -> &pb::NodeStatus {
    node.node.as_ref().unwrap().status.as_ref().unwrap()
}

fn spec(name: &str, replicas: u64) -> pb::ServiceSpec {
    (&shoal_manager_state::testing::service_spec(name, replicas)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_reaches_an_agent_and_survives_a_restart_of_the_manager() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let reference = "first".to_owned();
    let found = control.get_node(pb::GetNodeRequest { reference }).await.unwrap().into_inner();
    let health = found.node.unwrap().manager.unwrap();
    assert!(health.leader && health.reachability() == pb::Reachability::Reachable, "{health:?}");
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;

    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 3)),
            ..Default::default()
        })
        .await
        .unwrap();
    agent.receive_until("three tasks", |held| held.tasks.len() == 3).await;
    agent.report(TaskState::Running).await;
    let listed =
        whole(control.list_services(pb::ListServicesRequest { stack: None })).await.unwrap();
    let summary = listed.services.first().unwrap();
    assert_eq!((summary.running_tasks, summary.desired_tasks), (3, 3));

    let before = agent.held.clone();
    manager.stop().await;
    let manager = Manager::start(dir.path(), address);
    let reference = "web".to_owned();
    let found = eventually("the restarted manager serves", || {
        let (mut control, reference) = (control.clone(), reference.clone());
        async move { control.get_service(pb::GetServiceRequest { reference }).await.ok() }
    })
    .await;
    assert_eq!(found.into_inner().service.unwrap().running_tasks, 3);
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    agent.receive().await;
    assert_eq!(agent.held, before, "nothing is lost and nothing restarted");

    control.remove_service(pb::RemoveServiceRequest { reference }).await.unwrap();
    let removed = |held: &NodeAssignment| {
        held.tasks.values().all(|t| t.desired_state == DesiredState::Remove)
    };
    agent.receive_until("tasks are to be removed", removed).await;
    agent.report(TaskState::Shutdown).await;
    agent.receive_until("tasks are forgotten", |held| held.tasks.is_empty()).await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_with_a_token_and_takes_over_from_a_silent_one() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, agent_token } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;

    let mut first = Agent::connect(channel(address, node.current()), "first").await;
    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 1)),
            ..Default::default()
        })
        .await
        .unwrap();
    first.receive_until("a task", |held| held.tasks.len() == 1).await;
    first.report(TaskState::Running).await;
    drop(first);

    // The first one is silent from now on.
    let mut second = Agent::connect(channel(address, joined), "second").await;
    second.receive_until("the task comes over", |held| held.tasks.len() == 1).await;
    let nodes = whole(control.list_nodes(pb::ListNodesRequest {})).await.unwrap().nodes;
    let states: Vec<i32> = nodes.iter().map(|n| status(n).state).collect();
    assert!(states.contains(&(pb::NodeState::Down as i32)), "{states:?}");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_hears_it_for_good() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, agent_token, .. } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;
    let reference = joined.identity().node().unwrap().to_string();
    let mut agent = Agent::connect(channel(address, joined.clone()), "second").await;
    let request = pb::RemoveNodeRequest { reference, force: true };
    control.remove_node(request).await.unwrap();

    // What is open ends, and what is opened says why.
    let ends = async {
        while let Ok(Some(_)) = agent.session.message().await {}
        while let Ok(Some(_)) = agent.assignments.message().await {}
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("the streams of a removed node end");
    let request = pb::SessionRequest {
        description: Some((&description("second")).into()),
        ..Default::default()
    };
    let status = agent.client.session(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(is_removed(&status), "{status:?}");

    // Any other refusal is no such word.
    let heartbeat = pb::HeartbeatRequest { session_id: agent.session_id, ..Default::default() };
    let status = agent.client.heartbeat(heartbeat).await.unwrap_err();
    assert!(!is_removed(&status), "{status:?}");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_moved_tells_its_new_address() {
    let (dir, old, new) = (tempfile::tempdir().unwrap(), free_address(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), old).await;
    let tokens = pb::GetJoinTokenRequest { role: pb::NodeRole::Agent as i32 };
    let told = control.get_join_token(tokens).await.unwrap().into_inner();
    assert_eq!(told.manager_addrs, [old.to_string()]);
    manager.stop().await;

    let manager = Manager::start(dir.path(), new);
    eventually("an agent is told the new address", || async {
        let mut agent = Agent::try_connect(channel(new, node.current()), "first").await?;
        let facts = agent.session.message().await.ok()??.message?;
        let pb::session_message::Message::Facts(facts) = facts else { panic!("{facts:?}") };
        (facts.managers.first()?.addr == new.to_string()).then_some(())
    })
    .await;
    let user = &mut control_at(dir.path(), new).await;
    let told = user.get_join_token(tokens).await.unwrap().into_inner();
    assert_eq!(told.manager_addrs, [new.to_string()]);
    manager.stop().await;
}

/// One that is there and cannot take what is assigned to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_take_its_assignment_says_why_and_gets_nothing_more() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let agent = Agent::try_connect(channel(address, node.current()), "first").await;
    let mut agent = agent.unwrap();
    let beat = async |agent: &mut Agent, unable: &str| {
        let (session_id, unable) = (agent.session_id.clone(), unable.to_owned());
        agent
            .client
            .heartbeat(pb::HeartbeatRequest {
                session_id,
                unable,
                troubled_links: None,
                tunnel: None,
            })
            .await
            .unwrap();
    };
    beat(&mut agent, "it is too much").await;
    let reference = "first".to_owned();
    let found = control.get_node(pb::GetNodeRequest { reference }).await.unwrap().into_inner();
    let status = found.node.unwrap().node.unwrap().status.unwrap();
    assert_eq!(status.state, pb::NodeState::Unknown as i32);
    assert_eq!(status.message, "it cannot take its tasks: it is too much");

    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 1)),
            ..Default::default()
        })
        .await
        .unwrap();
    let why = eventually("the task says what it waits for", || {
        let mut control = control.clone();
        async move {
            let request = pb::ListTasksRequest::default();
            let tasks = whole(control.list_tasks(request)).await.unwrap().tasks;
            let status = tasks.into_iter().next()?.status?;
            (!status.err.is_empty()).then_some(status.err)
        }
    });
    assert_eq!(why.await, "no suitable node (node cannot take its tasks on 1 node)");
    beat(&mut agent, "").await;
    agent.receive_until("the task, as all is well", |held| held.tasks.len() == 1).await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_all_their_faults() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut bad = spec("not a name", 1);
    let runtime = bad.task_template.as_mut().unwrap().runtime.as_mut().unwrap();
    let pb::task_spec::Runtime::Container(container) = runtime else { panic!("{runtime:?}") };
    container.dir = "etc".to_owned();
    let status = control
        .create_service(pb::CreateServiceRequest { spec: Some(bad), ..Default::default() })
        .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for path in ["name: \"not a name\"", "task_template.container.dir: \"etc\""] {
        assert!(status.message().contains(path), "{path}: {status}");
    }

    let request = pb::CreateServiceRequest { spec: Some(spec("web", 1)), ..Default::default() };
    control.create_service(request.clone()).await.unwrap();
    let status = control.create_service(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");

    let reference = "nothing".to_owned();
    let status = control.get_service(pb::GetServiceRequest { reference }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");

    // An agent's certificate opens the agents' door alone.
    let mut as_agent = ControlClient::new(channel(address, node.current()));
    let status = as_agent.create_service(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_every_change_in_order() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let request =
        pb::WatchRequest { kinds: vec![pb::ObjectKind::Service as i32], ..Default::default() };
    let mut watch = control.watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    for name in ["a", "b", "c"] {
        control
            .create_service(pb::CreateServiceRequest {
                spec: Some(spec(name, 0)),
                ..Default::default()
            })
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = watch.message().await.unwrap().unwrap().message.unwrap();
        let pb::watch_response::Message::Event(event) = message else { panic!("{message:?}") };
        let Some(pb::watch_event::Object::Service(service)) = event.object else { panic!() };
        seen.push(service.spec.unwrap().name);
    }
    assert_eq!(seen, ["a", "b", "c"]);
    manager.stop().await;
}

/// A user's client that root of the manager's host makes.
async fn control_at(dir: &Path, address: SocketAddr) -> ControlClient<Channel> {
    ControlClient::new(user_channel(dir, address).await)
}

async fn user_channel(dir: &Path, address: SocketAddr) -> Channel {
    let key = PrivateKey::generate().unwrap();
    let request = pb::IssueUserCertificateRequest { csr_der: key.request().unwrap() };
    let mut client = BootstrapClient::new(unix_channel(&dir.join("manager.sock")));
    let issued = client.issue_user_certificate(request).await.unwrap().into_inner();
    let user = Credentials::from_pem(issued.chain_pem, key.to_pem(), issued.root_pem).unwrap();
    channel(address, user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_of_the_host_gets_a_user_in_again() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let socket = dir.path().join("manager.sock");
    let key = PrivateKey::generate().unwrap();
    let request = |csr_der: Vec<u8>| pb::IssueUserCertificateRequest { csr_der };
    let ask = |csr_der| {
        let mut client = BootstrapClient::new(unix_channel(&socket));
        async move { client.issue_user_certificate(request(csr_der)).await }
    };
    let manager = Manager::start(dir.path(), address);
    let status = eventually("the socket", || {
        let asked = ask(key.request().unwrap());
        async { asked.await.err().filter(|status| !status.message().contains("cannot connect")) }
    });
    let status = status.await;
    assert_eq!(status.code(), Code::Unavailable, "there is no cluster yet: {status}");
    manager.stop().await;

    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let cluster = control.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    let status = ask(vec![1, 2, 3]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("csr_der: "), "{status}");

    let issued = ask(key.request().unwrap()).await.unwrap().into_inner();
    assert_eq!(issued.cluster_id, cluster.cluster.unwrap().id);
    let user = Credentials::from_pem(issued.chain_pem, key.to_pem(), issued.root_pem).unwrap();
    let mut control = ControlClient::new(channel(address, user));
    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 1)),
            ..Default::default()
        })
        .await
        .unwrap();

    // The name that it had is somebody's now who is no admin: it gets another one.
    let update = pb::UpdateUserRequest {
        reference: "root-first".to_owned(),
        expected_version: 1,
        spec: Some(users::user_spec("root-first", pb::UserRole::Viewer, &[])),
    };
    control.update_user(update).await.unwrap();
    let issued = ask(key.request().unwrap()).await.unwrap().into_inner();
    let user = Credentials::from_pem(issued.chain_pem, key.to_pem(), issued.root_pem).unwrap();
    let mut control = ControlClient::new(channel(address, user));
    let own = control.get_user(pb::GetUserRequest::default()).await.unwrap().into_inner();
    let own = own.user.unwrap().spec.unwrap();
    assert_eq!((&*own.name, own.role), ("root-first-2", pb::UserRole::Admin as i32));
    manager.stop().await;
}
