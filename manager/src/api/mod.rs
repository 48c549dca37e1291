//! The API that `shoalctl` calls: receive, convert, validate, ask the state or propose, answer.

mod asked;
mod cluster;
mod connections;
mod credentials;
mod error;
mod networks;
mod nodes;
mod parts;
mod payloads;
mod services;
mod shares;
mod stacks;
mod tasks;
mod trace;
mod usage;
pub(crate) mod users;
mod verify;
mod volumes;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_proto::v1::control_server::Control;
use shoal_types::id::NodeId;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::asked::Asker;
use self::shares::Shares;
use crate::auth::audit;
use crate::broker::Broker;
use crate::cluster::Cluster;
use crate::dispatcher::Sessions;

pub use error::{invalid, unresolved, violations};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `Control`.
pub struct ControlService {
    cluster: Cluster,
    broker: Arc<Broker>,
    sessions: Arc<Sessions>,
    node_id: NodeId,
    watches: Shares,
    questions: Shares,
}

impl ControlService {
    /// The API of the manager on node `node_id`, with these sessions of agents while it leads.
    #[must_use]
    pub fn new(
        cluster: Cluster,
        broker: Arc<Broker>,
        sessions: Arc<Sessions>,
        node_id: NodeId,
    ) -> Self {
        Self {
            cluster,
            broker,
            sessions,
            node_id,
            watches: Shares::new(watch::WATCHES_MAX, "open watches"),
            questions: Shares::new(volumes::QUESTIONS_MAX, "calls that ask nodes under way"),
        }
    }

    /// What this manager has applied so far, for reading back what was just written.
    fn written(&self) -> Arc<ClusterState> {
        self.cluster.view()
    }
}

/// The path of a method, from its own name.
macro_rules! path {
    ($name:ident) => {
        concat!("/shoal.v1.Control/", stringify!($name))
    };
}

/// Serves every method: who asks, whether that is permitted for what is asked, the handler of the
/// module, and a line in the audit. The handlers of the second list have to know who asks; so do those
/// of the third, which answer in parts. Those of the fourth are about one object that the caller refers
/// to, and look for it in the very state in which the caller was permitted to do so: in a later one the
/// reference may lead to something else.
macro_rules! unary {
    ({
        $($method:ident $module:ident $name:ident $request:ident $response:ident;)*
    } asked by {
        $($by_method:ident $by_module:ident $by_name:ident $by_request:ident $by_response:ident;)*
    } in parts {
        $($of_method:ident $of_module:ident $of_name:ident $of_request:ident $of_response:ident
            $of_stream:ident;)*
    } referring {
        $($to_method:ident $to_module:ident $to_name:ident $to_request:ident $to_response:ident;)*
    }) => {
        #[tonic::async_trait]
        impl Control for ControlService {
            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    let asker = Asker::of(&request)?;
                    let message = request.into_inner();
                    let entry = asker.entry(path!($name), &message);
                    let outcome = match self.permit(&asker, path!($name), &message).await {
                        Ok(_) => $module::$method(self, message).await,
                        Err(status) => Err(status),
                    };
                    audit::ended(entry, &outcome);
                    outcome.map(Response::new)
                }
            )*
            $(
                async fn $by_method(
                    &self,
                    request: Request<pb::$by_request>,
                ) -> Result<Response<pb::$by_response>, Status> {
                    let asker = Asker::of(&request)?;
                    let message = request.into_inner();
                    let entry = asker.entry(path!($by_name), &message);
                    let outcome = match self.permit(&asker, path!($by_name), &message).await {
                        Ok(_) => $by_module::$by_method(self, &asker, message).await,
                        Err(status) => Err(status),
                    };
                    audit::ended(entry, &outcome);
                    outcome.map(Response::new)
                }
            )*

            $(
                async fn $to_method(
                    &self,
                    request: Request<pb::$to_request>,
                ) -> Result<Response<pb::$to_response>, Status> {
                    let asker = Asker::of(&request)?;
                    let message = request.into_inner();
                    let entry = asker.entry(path!($to_name), &message);
                    let outcome = match self.permit(&asker, path!($to_name), &message).await {
                        Ok(view) => $to_module::$to_method(self, &asker, &view, message).await,
                        Err(status) => Err(status),
                    };
                    audit::ended(entry, &outcome);
                    outcome.map(Response::new)
                }
            )*

            $(
                type $of_stream = Answers<pb::$of_response>;

                async fn $of_method(
                    &self,
                    request: Request<pb::$of_request>,
                ) -> Result<Response<Self::$of_stream>, Status> {
                    let asker = Asker::of(&request)?;
                    let message = request.into_inner();
                    let entry = asker.entry(path!($of_name), &message);
                    let outcome = match self.permit(&asker, path!($of_name), &message).await {
                        Ok(_) => $of_module::$of_method(self, &asker, message).await,
                        Err(status) => Err(status),
                    };
                    audit::ended(entry, &outcome);
                    outcome.map(Response::new)
                }
            )*

            type WatchStream = Answers<pb::WatchResponse>;

            async fn watch(
                &self,
                request: Request<pb::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                let asker = Asker::of(&request)?;
                self.permit(&asker, path!(Watch), request.get_ref()).await?;
                watch::watch(self, asker, request.get_ref()).map(Response::new)
            }

            type ServiceLogsStream = Answers<pb::ServiceLogsResponse>;

            async fn service_logs(
                &self,
                request: Request<pb::ServiceLogsRequest>,
            ) -> Result<Response<Self::ServiceLogsStream>, Status> {
                let asker = Asker::of(&request)?;
                let view = self.permit(&asker, path!(ServiceLogs), request.get_ref()).await?;
                self.broker.service_logs(&view, request.get_ref()).map(Response::new)
            }

            type ExecStream = Answers<pb::ExecOutput>;

            async fn exec(
                &self,
                request: Request<Streaming<pb::ExecInput>>,
            ) -> Result<Response<Self::ExecStream>, Status> {
                let asker = Asker::of(&request)?;
                let mut input = request.into_inner();
                let start = crate::broker::exec_start(&mut input).await?;
                let entry = asker.entry(path!(Exec), &start);
                let outcome = async {
                    let view = self.permit(&asker, path!(Exec), &start).await?;
                    self.broker.exec(&view, start, input).await
                };
                let outcome = outcome.await;
                audit::ended(entry, &outcome);
                outcome.map(Response::new)
            }
        }
    };
}

unary! {{
    get_version cluster GetVersion GetVersionRequest GetVersionResponse;
    get_cluster cluster GetCluster GetClusterRequest GetClusterResponse;
    update_cluster cluster UpdateCluster UpdateClusterRequest UpdateClusterResponse;
    get_join_token cluster GetJoinToken GetJoinTokenRequest GetJoinTokenResponse;
    rotate_join_token cluster RotateJoinToken RotateJoinTokenRequest RotateJoinTokenResponse;
    raise_level cluster RaiseLevel RaiseLevelRequest RaiseLevelResponse;
    get_node nodes GetNode GetNodeRequest GetNodeResponse;
    update_node nodes UpdateNode UpdateNodeRequest UpdateNodeResponse;
    remove_node nodes RemoveNode RemoveNodeRequest RemoveNodeResponse;
    create_service services CreateService CreateServiceRequest CreateServiceResponse;
    get_network networks GetNetwork GetNetworkRequest GetNetworkResponse;
    create_network networks CreateNetwork CreateNetworkRequest CreateNetworkResponse;
    remove_network networks RemoveNetwork RemoveNetworkRequest RemoveNetworkResponse;
    create_secret payloads CreateSecret CreateSecretRequest CreateSecretResponse;
    remove_secret payloads RemoveSecret RemoveSecretRequest RemoveSecretResponse;
    create_config payloads CreateConfig CreateConfigRequest CreateConfigResponse;
    remove_config payloads RemoveConfig RemoveConfigRequest RemoveConfigResponse;
    apply_stack stacks ApplyStack ApplyStackRequest ApplyStackResponse;
} asked by {
    trace_network trace TraceNetwork TraceNetworkRequest TraceNetworkResponse;
    create_user users CreateUser CreateUserRequest CreateUserResponse;
} in parts {
    list_nodes nodes ListNodes ListNodesRequest ListNodesResponse ListNodesStream;
    list_services services ListServices ListServicesRequest ListServicesResponse ListServicesStream;
    list_tasks tasks ListTasks ListTasksRequest ListTasksResponse ListTasksStream;
    list_networks networks ListNetworks ListNetworksRequest ListNetworksResponse ListNetworksStream;
    list_secrets payloads ListSecrets ListSecretsRequest ListSecretsResponse ListSecretsStream;
    list_configs payloads ListConfigs ListConfigsRequest ListConfigsResponse ListConfigsStream;
    list_stacks stacks ListStacks ListStacksRequest ListStacksResponse ListStacksStream;
    list_users users ListUsers ListUsersRequest ListUsersResponse ListUsersStream;
    list_volumes volumes ListVolumes ListVolumesRequest ListVolumesResponse ListVolumesStream;
    remove_volume volumes RemoveVolume RemoveVolumeRequest RemoveVolumeResponse RemoveVolumeStream;
    get_usage usage GetUsage GetUsageRequest GetUsageResponse GetUsageStream;
    get_disk_usage volumes GetDiskUsage GetDiskUsageRequest GetDiskUsageResponse GetDiskUsageStream;
    verify_networks verify VerifyNetworks VerifyNetworksRequest VerifyNetworksResponse
        VerifyNetworksStream;
    prune_nodes volumes PruneNodes PruneNodesRequest PruneNodesResponse PruneNodesStream;
} referring {
    get_service services GetService GetServiceRequest GetServiceResponse;
    update_service services UpdateService UpdateServiceRequest UpdateServiceResponse;
    remove_service services RemoveService RemoveServiceRequest RemoveServiceResponse;
    get_deployment services GetDeployment GetDeploymentRequest GetDeploymentResponse;
    get_secret payloads GetSecret GetSecretRequest GetSecretResponse;
    get_config payloads GetConfig GetConfigRequest GetConfigResponse;
    get_task tasks GetTask GetTaskRequest GetTaskResponse;
    connect_task connections ConnectTask ConnectTaskRequest ConnectTaskResponse;
    disconnect_task connections DisconnectTask DisconnectTaskRequest DisconnectTaskResponse;
    roll_back_stack stacks RollBackStack RollBackStackRequest ApplyStackResponse;
    get_stack stacks GetStack GetStackRequest GetStackResponse;
    remove_stack stacks RemoveStack RemoveStackRequest RemoveStackResponse;
    get_user users GetUser GetUserRequest GetUserResponse;
    update_user users UpdateUser UpdateUserRequest UpdateUserResponse;
    remove_user users RemoveUser RemoveUserRequest RemoveUserResponse;
}}
