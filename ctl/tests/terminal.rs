//! What reaches a terminal when every text that a manager tells is hostile: the program itself, over
//! real TLS, asked everything that it can be asked.

#![allow(clippy::unwrap_used, reason = "a test: panics are its voice")]

#[path = "terminal/lines.rs"]
mod lines;
#[path = "terminal/objects.rs"]
mod objects;
#[path = "terminal/programs.rs"]
mod programs;

use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use shoal_client::context::{Context, Store};
use shoal_manager::ca::CertificateAuthority;
use shoal_manager::clock;
use shoal_proto::v1 as pb;
use shoal_proto::v1::control_server::{Control, ControlServer};
use shoal_transport::{IncomingLimits, LiveCredentials, PeerId, Role, incoming, server_builder};
use shoal_types::id::{
    ClusterId, DeploymentId, NetworkId, NodeId, ServiceId, StackId, TaskId, UserId,
};
use shoal_types::level::Level;
use shoal_types::object::{
    Cluster, Config, Deployment, DeploymentKind, DeploymentState, Endpoint, EngineDescription,
    JoinTokens, Meta, Network, Node, NodeDescription, NodeState, NodeStatus, RootCa, Secret,
    Service, Slot, Stack, StackRevision, Task, TaskStatus, TunnelKeys, User,
};
use shoal_types::question::{
    DiskUsage, Finding, NamedUsage, NodeNetworks, NodeUsage, NodeVolume, PeerReach, PlacedDisk,
    PlacedNetworks, PlacedUsage, PlacedVolume, Pruned, PrunedNode, Silent, TraceStep, Used,
    Verdict,
};
use shoal_types::spec::{
    ClusterSpec, ConfigSpec, ContainerSpec, Driver, Labels, NetworkSpec, NodeSpec, Platform,
    SecretSpec, ServiceMode, ServiceSpec, StackSpec, TaskRuntime, TaskSpec, UserRole, UserSpec,
};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::{Code, Request, Response, Status, Streaming};

use self::objects::{
    HOSTILE, cluster, config, deployment, deployment_id, disk, network, networks, node, pruned,
    secret, service, silent, stack, stack_applied, step, summary, summary_of_node, task, text,
    usage, user, volume,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(items: Vec<T>) -> Response<Answers<T>> {
    Response::new(Box::pin(futures::stream::iter(items.into_iter().map(Ok))))
}

/// What becomes of a method from the second time on that it is asked.
#[derive(Clone, Copy)]
enum Later {
    Hangs,
    Refuses(Code),
}

#[derive(Default)]
struct Hostile {
    later: Option<(&'static str, Later)>,
    asked: AtomicU64,
    /// Told when a method hangs.
    hangs: Arc<Notify>,
}

impl Hostile {
    async fn before(&self, method: &str) -> Result<(), Status> {
        let Some((_, later)) = self.later.filter(|(name, _)| *name == method) else {
            return Ok(());
        };
        match later {
            _ if self.asked.fetch_add(1, Ordering::Relaxed) == 0 => Ok(()),
            Later::Hangs => {
                self.hangs.notify_one();
                std::future::pending().await
            }
            Later::Refuses(code) => Err(Status::new(code, "not for you")),
        }
    }
}

macro_rules! hostile {
    ({
        $($method:ident $request:ident $response:ident $answer:expr;)*
    } in parts {
        $($of_method:ident $of_request:ident $of_response:ident $of_stream:ident $of_part:expr;)*
    }) => {
        #[tonic::async_trait]
        impl Control for Hostile {
            $(
                async fn $method(
                    &self,
                    _: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    self.before(stringify!($method)).await?;
                    let answer: Result<pb::$response, Status> = $answer;
                    answer.map(Response::new)
                }
            )*

            $(
                type $of_stream = Answers<pb::$of_response>;

                async fn $of_method(
                    &self,
                    _: Request<pb::$of_request>,
                ) -> Result<Response<Self::$of_stream>, Status> {
                    self.before(stringify!($of_method)).await?;
                    let part: pb::$of_response = $of_part;
                    Ok(answers(vec![part]))
                }
            )*

            type WatchStream = Answers<pb::WatchResponse>;

            async fn watch(
                &self,
                _: Request<pb::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                use pb::watch_event::Object as O;
                use pb::watch_response::Message;
                let objects = [
                    O::Cluster(cluster()), O::Node(node()), O::Service(service()), O::Task(task()),
                    O::Network(network()), O::Stack(stack()), O::Deployment(deployment()),
                    O::User(user()), O::Secret(secret()), O::Config(config()),
                ];
                let started = pb::WatchStarted::default();
                let mut all = vec![pb::WatchResponse { message: Some(Message::Started(started)) }];
                for object in objects {
                    let mut event = pb::WatchEvent { object: Some(object), ..Default::default() };
                    event.index = 1;
                    event.time = 1_000_000_000;
                    event.set_action(pb::EventAction::Update);
                    all.push(pb::WatchResponse { message: Some(Message::Event(event)) });
                }
                Ok(answers(all))
            }

            type ServiceLogsStream = Answers<pb::ServiceLogsResponse>;

            async fn service_logs(
                &self,
                _: Request<pb::ServiceLogsRequest>,
            ) -> Result<Response<Self::ServiceLogsStream>, Status> {
                use pb::service_logs_response::Message;
                let mut line = pb::TaskLogLine {
                    task_id: TaskId::from(1).to_string(),
                    line: b"a line".to_vec(),
                    ..Default::default()
                };
                line.set_stream(pb::OutputStream::Stdout);
                let line = pb::ServiceLogLine {
                    line: Some(line),
                    node_id: NodeId::from(1).to_string(),
                    node_hostname: text(),
                    service_name: text(),
                    slot: Some(pb::Slot { slot: Some(pb::slot::Slot::Replica(1)) }),
                };
                let all = [Message::Warning(text()), Message::Line(line)];
                Ok(answers(all.map(|m| pb::ServiceLogsResponse { message: Some(m) }).to_vec()))
            }

            type ExecStream = Answers<pb::ExecOutput>;

            async fn exec(
                &self,
                _: Request<Streaming<pb::ExecInput>>,
            ) -> Result<Response<Self::ExecStream>, Status> {
                Err(refused())
            }
        }
    };
}

fn refused() -> Status {
    Status::failed_precondition(HOSTILE)
}

hostile! {{
    get_version GetVersionRequest GetVersionResponse
        Ok(pb::GetVersionResponse {
            version: text(),
            node_id: text(),
            manager_addrs: vec![text()],
        });
    get_cluster GetClusterRequest GetClusterResponse
        Ok(pb::GetClusterResponse { cluster: Some(cluster()) });
    update_cluster UpdateClusterRequest UpdateClusterResponse
        Ok(pb::UpdateClusterResponse { cluster: Some(cluster()) });
    get_join_token GetJoinTokenRequest GetJoinTokenResponse
        Ok(pb::GetJoinTokenResponse { token: text(), manager_addrs: vec![text()] });
    rotate_join_token RotateJoinTokenRequest RotateJoinTokenResponse
        Ok(pb::RotateJoinTokenResponse { token: text() });
    raise_level RaiseLevelRequest RaiseLevelResponse
        Ok(pb::RaiseLevelResponse { cluster: Some(cluster()), raised: true });
    trace_network TraceNetworkRequest TraceNetworkResponse
        Ok(pb::TraceNetworkResponse { steps: vec![step()] });
    get_node GetNodeRequest GetNodeResponse Ok(pb::GetNodeResponse { node: Some(summary_of_node()) });
    update_node UpdateNodeRequest UpdateNodeResponse
        Ok(pb::UpdateNodeResponse { node: Some(node()) });
    remove_node RemoveNodeRequest RemoveNodeResponse Err(refused());
    create_service CreateServiceRequest CreateServiceResponse
        Ok(pb::CreateServiceResponse { service: Some(service()), deployment_id: deployment_id() });
    get_service GetServiceRequest GetServiceResponse
        Ok(pb::GetServiceResponse { service: Some(summary()) });
    update_service UpdateServiceRequest UpdateServiceResponse
        Ok(pb::UpdateServiceResponse { service: Some(service()), deployment_id: deployment_id() });
    remove_service RemoveServiceRequest RemoveServiceResponse Err(refused());
    get_deployment GetDeploymentRequest GetDeploymentResponse
        Ok(pb::GetDeploymentResponse { deployment: Some(deployment()) });
    get_task GetTaskRequest GetTaskResponse Ok(pb::GetTaskResponse { task: Some(task()) });
    get_network GetNetworkRequest GetNetworkResponse
        Ok(pb::GetNetworkResponse { network: Some(network()), addresses: None, members: None });
    create_network CreateNetworkRequest CreateNetworkResponse
        Ok(pb::CreateNetworkResponse { network: Some(network()) });
    connect_task ConnectTaskRequest ConnectTaskResponse
        Ok(pb::ConnectTaskResponse { task: Some(task()) });
    disconnect_task DisconnectTaskRequest DisconnectTaskResponse
        Ok(pb::DisconnectTaskResponse { task: Some(task()) });
    remove_network RemoveNetworkRequest RemoveNetworkResponse Err(refused());
    create_secret CreateSecretRequest CreateSecretResponse Ok(pb::CreateSecretResponse {
        secret: Some(secret()),
        unchanged: false,
        deployments: [(text(), deployment_id())].into(),
    });
    get_secret GetSecretRequest GetSecretResponse
        Ok(pb::GetSecretResponse { secret: Some(secret()), services: vec![text()] });
    remove_secret RemoveSecretRequest RemoveSecretResponse
        Ok(pb::RemoveSecretResponse { name: text() });
    create_config CreateConfigRequest CreateConfigResponse Ok(pb::CreateConfigResponse {
        config: Some(config()),
        unchanged: true,
        deployments: [(text(), deployment_id())].into(),
    });
    get_config GetConfigRequest GetConfigResponse
        Ok(pb::GetConfigResponse { config: Some(config()), services: vec![text()] });
    remove_config RemoveConfigRequest RemoveConfigResponse Err(refused());
    apply_stack ApplyStackRequest ApplyStackResponse Ok(stack_applied());
    roll_back_stack RollBackStackRequest ApplyStackResponse Ok(stack_applied());
    get_stack GetStackRequest GetStackResponse Ok(pb::GetStackResponse { stack: Some(stack()) });
    remove_stack RemoveStackRequest RemoveStackResponse
        Ok(pb::RemoveStackResponse { stack_id: text(), removed: vec![text()] });
    create_user CreateUserRequest CreateUserResponse Ok(pb::CreateUserResponse {
        user: Some(user()),
        certificate: Some(pb::Certificate { chain_pem: text(), root_pem: text() }),
        adopted: text(),
    });
    get_user GetUserRequest GetUserResponse Ok(pb::GetUserResponse { user: Some(user()) });
    update_user UpdateUserRequest UpdateUserResponse
        Ok(pb::UpdateUserResponse { user: Some(user()) });
    remove_user RemoveUserRequest RemoveUserResponse Ok(pb::RemoveUserResponse { id: text() });
} in parts {
    list_nodes ListNodesRequest ListNodesResponse ListNodesStream
        pb::ListNodesResponse { nodes: vec![summary_of_node()] };
    list_services ListServicesRequest ListServicesResponse ListServicesStream
        pb::ListServicesResponse { services: vec![summary()] };
    list_tasks ListTasksRequest ListTasksResponse ListTasksStream
        pb::ListTasksResponse { tasks: vec![task()] };
    list_networks ListNetworksRequest ListNetworksResponse ListNetworksStream
        pb::ListNetworksResponse { networks: vec![network()], addresses: Vec::new() };
    list_secrets ListSecretsRequest ListSecretsResponse ListSecretsStream
        pb::ListSecretsResponse { secrets: vec![secret()] };
    list_configs ListConfigsRequest ListConfigsResponse ListConfigsStream
        pb::ListConfigsResponse { configs: vec![config()] };
    list_stacks ListStacksRequest ListStacksResponse ListStacksStream
        pb::ListStacksResponse { stacks: vec![stack()] };
    list_volumes ListVolumesRequest ListVolumesResponse ListVolumesStream
        pb::ListVolumesResponse {
        volumes: vec![volume()], silent: vec![silent()],
    };
    get_disk_usage GetDiskUsageRequest GetDiskUsageResponse GetDiskUsageStream
        pb::GetDiskUsageResponse {
        nodes: vec![disk()], silent: vec![silent()],
    };
    verify_networks VerifyNetworksRequest VerifyNetworksResponse VerifyNetworksStream
        pb::VerifyNetworksResponse {
        nodes: vec![networks()], silent: vec![silent()],
    };
    get_usage GetUsageRequest GetUsageResponse GetUsageStream
        pb::GetUsageResponse {
        nodes: vec![usage()], silent: vec![silent()],
    };
    remove_volume RemoveVolumeRequest RemoveVolumeResponse RemoveVolumeStream
        pb::RemoveVolumeResponse {
        nodes: vec![pruned()], silent: vec![silent()],
    };
    prune_nodes PruneNodesRequest PruneNodesResponse PruneNodesStream
        pb::PruneNodesResponse {
        nodes: vec![pruned()], silent: vec![silent()],
    };
    list_users ListUsersRequest ListUsersResponse ListUsersStream
        pb::ListUsersResponse { users: vec![user()] };
}}

/// A directory with a context for a manager that is served.
async fn served(hostile: Hostile) -> tempfile::TempDir {
    let ca = CertificateAuthority::create(ClusterId::from(1), clock::now()).unwrap();
    let issue = |id, role| ca.issue_credentials(id, role, clock::now()).unwrap();
    let own = LiveCredentials::new(issue(PeerId::Node(NodeId::from(1)), Role::Manager)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![listener.local_addr().unwrap().to_string()];
    tokio::spawn(
        server_builder().add_service(ControlServer::new(hostile)).serve_with_incoming(incoming(
            listener,
            own,
            IncomingLimits::default(),
        )),
    );
    let dir = tempfile::tempdir().unwrap();
    let context = Context { cluster: ca.cluster().to_string(), endpoints, managers: Vec::new() };
    let user = issue(PeerId::User(UserId::from(7)), Role::User);
    Store::at(dir.path().to_owned()).add("mine", context, &user).unwrap();
    dir
}

fn spawn(dir: &Path, format: &str, line: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_shoalctl"))
        .args(["--format", format])
        .args(line.split_whitespace())
        .env("SHOAL_CONFIG", dir)
        .env("SHOAL_AGENT_SOCKET", dir.join("none.sock"))
        .env_remove("SHOAL_CONTEXT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(child: Child) -> Output {
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_hostile_reaches_a_terminal() {
    let dir = served(Hostile::default()).await;
    let (mut said, mut posed) = (String::new(), Vec::new());
    for line in lines::LINES {
        for format in ["table", "json"] {
            let ran = ended(spawn(dir.path(), format, line)).await;
            let all = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
            let raw = all.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(raw, None, "{line} --format {format}: {all:?}");
            if all.lines().any(|l| l.starts_with("hint: run this")) {
                posed.push(format!("{line} --format {format}: {all}"));
            }
            assert!(!all.contains("the answer cannot be understood"), "{line}: {all}");
            said.push_str(&all);
        }
    }
    assert!(posed.is_empty(), "what others wrote poses as ours: {}", posed.join("\n---\n"));
    // It was there, and can be seen.
    assert!(said.matches("\\x1b[2J").count() > 30, "{said}");
    assert!(said.matches("\\u001b[2J").count() > 20, "{said}");
}
