//! What `shoalctl` on this host can ask of the agent.
//!
//! The socket's mode is the check: whoever can open it is root here.

mod archive;
mod halt;
mod images;
mod init;
mod join;
mod leave;
mod user;

#[cfg(test)]
mod tests;

pub use halt::stop_containers;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use shoal_agent_image::ImageStore;
use shoal_proto::parts::{PART_BYTES, Parts};
use shoal_proto::v1;
use shoal_proto::v1::local_agent_server::{LocalAgent, LocalAgentServer};
use shoal_transport::Role;
use shoal_types::error_chain::chain;
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;
use crate::session::Standing;

/// The longest message in either direction, in bytes: an archive comes in pieces of 1 MiB.
const MAX_MESSAGE: usize = 4 << 20;
/// How long the links to other nodes are waited for until they were tried.
const TRIED_WITHIN: Duration = Duration::from_secs(25);

/// Serves `LocalAgent`.
#[derive(Clone)]
pub struct Local {
    node: Arc<Node>,
    images: ImageStore,
    /// For archives on their way into the store.
    upload_dir: PathBuf,
}

impl Local {
    /// The service, with a directory of its own for archives; what is in there is removed.
    ///
    /// # Errors
    /// The directory cannot be made or emptied.
    pub fn new(node: Arc<Node>, images: ImageStore, upload_dir: PathBuf) -> std::io::Result<Self> {
        archive::prepare(&upload_dir)?;
        Ok(Self { node, images, upload_dir })
    }

    /// For a tonic server.
    #[must_use]
    pub fn into_server(self) -> LocalAgentServer<Self> {
        LocalAgentServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

/// Goes on to the end also when the caller does not wait for it: half a change is worse than one
/// that nobody sees.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map(Response::new),
        Err(_) => Err(Status::internal("the agent broke off; its log says more")),
    }
}

/// An error that is nobody's mistake.
fn internal(error: &dyn std::error::Error) -> Status {
    Status::internal(chain(error).to_string())
}

#[tonic::async_trait]
impl LocalAgent for Local {
    async fn init(
        &self,
        request: Request<v1::InitRequest>,
    ) -> Result<Response<v1::InitResponse>, Status> {
        let node = self.node.clone();
        to_the_end(async move { init::init(&node, request.into_inner()).await }).await
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let node = self.node.clone();
        to_the_end(async move { join::join(&node, request.into_inner()).await }).await
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        let node = self.node.clone();
        to_the_end(async move { leave::leave(&node, request.into_inner()).await }).await
    }

    async fn drain(
        &self,
        _: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        leave::prepare(&self.node).await.map(Response::new)
    }

    async fn stop_containers(
        &self,
        _: Request<v1::StopContainersRequest>,
    ) -> Result<Response<v1::StopContainersResponse>, Status> {
        let node = self.node.clone();
        to_the_end(async move {
            tracing::info!("stopping all containers: the host stops");
            node.workload().halt().await.map_err(|error| internal(&error))?;
            // Nothing runs here any more: to the managers this host is away from now on, and not one
            // on which tasks are.
            node.suspend().await;
            Ok(v1::StopContainersResponse {})
        })
        .await
    }

    async fn await_links(
        &self,
        _: Request<v1::AwaitLinksRequest>,
    ) -> Result<Response<v1::AwaitLinksResponse>, Status> {
        if self.node.member().is_none() {
            return Err(Status::failed_precondition("this host belongs to no cluster"));
        }
        let workload = self.node.workload();
        let tried = tokio::time::timeout(TRIED_WITHIN, workload.tried_links()).await.ok();
        let troubled = Some((&workload.troubled_links()).into());
        Ok(Response::new(v1::AwaitLinksResponse { tried, troubled }))
    }

    async fn get_info(
        &self,
        _: Request<v1::GetInfoRequest>,
    ) -> Result<Response<v1::GetInfoResponse>, Status> {
        let description = self.node.describe().await;
        let (state, message) = match self.node.standing() {
            Standing::Inactive => (v1::MembershipState::Inactive, String::new()),
            Standing::Pending(why) => (v1::MembershipState::Pending, why),
            Standing::Active => (v1::MembershipState::Active, String::new()),
            Standing::Refused(why) => (v1::MembershipState::Error, why),
        };
        let mut info = v1::GetInfoResponse {
            version: description.engine.version,
            hostname: description.hostname,
            state: state.into(),
            message,
            ..Default::default()
        };
        if let Some(member) = self.node.member() {
            let identity = *member.credentials.current().identity();
            info.cluster_id = identity.cluster.to_string();
            info.node_id = identity.node().map(|id| id.to_string()).unwrap_or_default();
            info.role = self.role(identity.role).into();
            info.manager_addrs = member.managers.all().iter().map(ToString::to_string).collect();
            let tasks = self.node.workload().task_count().await;
            info.tasks = tasks.map_err(|error| internal(&error))?;
        }
        Ok(Response::new(info))
    }

    async fn issue_user_certificate(
        &self,
        request: Request<v1::IssueUserCertificateRequest>,
    ) -> Result<Response<v1::IssueUserCertificateResponse>, Status> {
        user::issue(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn load_image(
        &self,
        request: Request<Streaming<v1::LoadImageRequest>>,
    ) -> Result<Response<v1::LoadImageResponse>, Status> {
        let archive = archive::receive(&self.upload_dir, request.into_inner()).await?;
        let images = images::load(&self.images, &archive).await?;
        Ok(Response::new(v1::LoadImageResponse { images }))
    }

    type ListImagesStream = BoxStream<'static, Result<v1::ListImagesResponse, Status>>;

    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let parts = Parts::new(images::list(&self.images), PART_BYTES);
        let parts = parts.map(|images| Ok(v1::ListImagesResponse { images }));
        Ok(Response::new(futures::stream::iter(parts).boxed()))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let images = self.images.clone();
        to_the_end(async move {
            let removed = images::remove(&images, &request.into_inner().reference).await?;
            Ok(v1::RemoveImageResponse { removed })
        })
        .await
    }
}

impl Local {
    /// A host whose manager is its own child is a manager, whatever its agent's certificate says.
    fn role(&self, of_certificate: Role) -> v1::NodeRole {
        let has_manager = self.node.store().cluster().is_ok_and(|file| file.manager.is_some());
        match of_certificate {
            Role::Manager => v1::NodeRole::Manager,
            _ if has_manager => v1::NodeRole::Manager,
            Role::Agent | Role::User => v1::NodeRole::Agent,
        }
    }
}
