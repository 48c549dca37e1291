//! The API that `shoalctl` calls: receive, convert, validate, ask the state or propose, answer.

mod cluster;
mod error;
mod networks;
mod nodes;
mod services;
mod stacks;
mod tasks;
mod usage;
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

use crate::broker::Broker;
use crate::cluster::Cluster;

pub use error::{invalid, unresolved, violations};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `Control`.
pub struct ControlService {
    cluster: Cluster,
    broker: Arc<Broker>,
    node_id: NodeId,
}

impl ControlService {
    /// The API of the manager on node `node_id`.
    #[must_use]
    pub fn new(cluster: Cluster, broker: Arc<Broker>, node_id: NodeId) -> Self {
        Self { cluster, broker, node_id }
    }

    /// What this manager has applied so far, for reading back what was just written.
    fn written(&self) -> Arc<ClusterState> {
        self.cluster.view()
    }
}

macro_rules! unary {
    ($($method:ident $module:ident $request:ident $response:ident;)*) => {
        #[tonic::async_trait]
        impl Control for ControlService {
            $(
                async fn $method(
                    &self,
                    request: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    $module::$method(self, request.into_inner()).await.map(Response::new)
                }
            )*

            type WatchStream = Answers<pb::WatchResponse>;

            async fn watch(
                &self,
                request: Request<pb::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                watch::watch(self, request.get_ref()).map(Response::new)
            }

            type ServiceLogsStream = Answers<pb::ServiceLogsResponse>;

            async fn service_logs(
                &self,
                request: Request<pb::ServiceLogsRequest>,
            ) -> Result<Response<Self::ServiceLogsStream>, Status> {
                let view = self.cluster.read().await?;
                self.broker.service_logs(&view, request.get_ref()).map(Response::new)
            }

            type ExecStream = Answers<pb::ExecOutput>;

            async fn exec(
                &self,
                request: Request<Streaming<pb::ExecInput>>,
            ) -> Result<Response<Self::ExecStream>, Status> {
                let view = self.cluster.read().await?;
                self.broker.exec(&view, request.into_inner()).await.map(Response::new)
            }
        }
    };
}

unary! {
    get_version cluster GetVersionRequest GetVersionResponse;
    get_cluster cluster GetClusterRequest GetClusterResponse;
    get_join_token cluster GetJoinTokenRequest GetJoinTokenResponse;
    rotate_join_token cluster RotateJoinTokenRequest RotateJoinTokenResponse;
    list_nodes nodes ListNodesRequest ListNodesResponse;
    get_node nodes GetNodeRequest GetNodeResponse;
    update_node nodes UpdateNodeRequest UpdateNodeResponse;
    remove_node nodes RemoveNodeRequest RemoveNodeResponse;
    create_service services CreateServiceRequest CreateServiceResponse;
    list_services services ListServicesRequest ListServicesResponse;
    get_service services GetServiceRequest GetServiceResponse;
    update_service services UpdateServiceRequest UpdateServiceResponse;
    remove_service services RemoveServiceRequest RemoveServiceResponse;
    get_deployment services GetDeploymentRequest GetDeploymentResponse;
    list_tasks tasks ListTasksRequest ListTasksResponse;
    get_task tasks GetTaskRequest GetTaskResponse;
    list_networks networks ListNetworksRequest ListNetworksResponse;
    get_network networks GetNetworkRequest GetNetworkResponse;
    create_network networks CreateNetworkRequest CreateNetworkResponse;
    remove_network networks RemoveNetworkRequest RemoveNetworkResponse;
    apply_stack stacks ApplyStackRequest ApplyStackResponse;
    roll_back_stack stacks RollBackStackRequest ApplyStackResponse;
    list_stacks stacks ListStacksRequest ListStacksResponse;
    get_stack stacks GetStackRequest GetStackResponse;
    remove_stack stacks RemoveStackRequest RemoveStackResponse;
    list_volumes volumes ListVolumesRequest ListVolumesResponse;
    remove_volume volumes RemoveVolumeRequest RemoveVolumeResponse;
    get_usage usage GetUsageRequest GetUsageResponse;
    get_disk_usage volumes GetDiskUsageRequest GetDiskUsageResponse;
    prune_nodes volumes PruneNodesRequest PruneNodesResponse;
}
