//! The gRPC service `Managers`.

use shoal_manager_planning::managers::{NotAnnounced, announced};
use shoal_proto::v1 as pb;
use shoal_proto::v1::managers_server::Managers;
use shoal_transport::ManagerAddress;
use shoal_types::level::Level;
use shoal_types::object::ManagerStatus;
use tonic::{Request, Response, Status};

use crate::auth::member;
use crate::cluster::Cluster;

/// Serves `Managers`. [`crate::auth`] has let the caller through.
pub struct ManagersService(Cluster);

impl ManagersService {
    /// The service.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self(cluster)
    }
}

pub(super) fn refused(error: &NotAnnounced) -> Status {
    let message = error.to_string();
    match error {
        NotAnnounced::Unknown(_) => Status::not_found(message),
        NotAnnounced::Role(_) | NotAnnounced::TooOld { .. } | NotAnnounced::Copy { .. } => {
            Status::failed_precondition(message)
        }
    }
}

#[tonic::async_trait]
impl Managers for ManagersService {
    async fn announce(
        &self,
        request: Request<pb::AnnounceRequest>,
    ) -> Result<Response<pb::AnnounceResponse>, Status> {
        let node = member(&request)?.node();
        let node = node.ok_or_else(|| Status::permission_denied("only nodes have managers"))?;
        let pb::AnnounceRequest { raft_id, addr, level } = request.into_inner();
        let addr: ManagerAddress =
            addr.parse().map_err(|e| Status::invalid_argument(format!("addr: {e}")))?;
        let (addr, level) = (addr.to_string(), Level::new(level));
        let said = ManagerStatus { raft_id, addr, level };
        let view = self.0.read().await?;
        if let Some(command) = announced(&view, node, said).map_err(|error| refused(&error))? {
            self.0.propose(command).await?;
            tracing::info!(%node, raft_id, "a manager has made itself known");
        }
        Ok(Response::new(pb::AnnounceResponse {}))
    }
}
