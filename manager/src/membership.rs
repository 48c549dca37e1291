//! Who belongs to the cluster, over the replicated state.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command};
use shoal_proto::transport::{PeerId, Role};
use shoal_types::error_chain::chain;
use shoal_types::object::NodeDescription;
use shoal_types::spec::{NodeRole, NodeSpec};
use shoal_types::time::Timestamp;
use tonic::{Code, Status};

use crate::auth::{Standing, role_in, standing_in};
use crate::ca::{Admission, CertificateAuthority, ClusterCa, JoinSecrets};
use crate::clock;
use crate::cluster::Cluster;

/// The authority and the join secrets of a state.
///
/// # Errors
/// `UNAVAILABLE` while there is no cluster.
pub fn authority(view: &ClusterState) -> Result<(CertificateAuthority, JoinSecrets), Status> {
    let cluster =
        view.cluster().ok_or_else(|| Status::unavailable("this manager has no cluster yet"))?;
    let broken = |error: &dyn std::error::Error| Status::internal(chain(error).to_string());
    let authority = CertificateAuthority::of_cluster(cluster).map_err(|e| broken(&e))?;
    let secrets = JoinSecrets::of_cluster(&cluster.join_tokens).map_err(|e| broken(&e))?;
    Ok((authority, secrets))
}

/// [`ClusterCa`] over the cluster's state.
#[derive(Clone)]
pub struct StateCa(pub Cluster);

#[tonic::async_trait]
impl ClusterCa for StateCa {
    async fn authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        let (authority, secrets) = authority(&*self.0.read().await?)?;
        Ok((Arc::new(authority), secrets))
    }

    async fn admit(&self, admission: Admission) -> Result<Role, Status> {
        let role = match admission.role {
            Role::Agent => NodeRole::Agent,
            Role::Manager => {
                return Err(Status::unimplemented(
                    "joining as a manager is not supported yet: use the token for workers",
                ));
            }
            Role::User => return Err(Status::permission_denied("a token never makes a user")),
        };
        let id = PeerId::Node(admission.node);
        if let Some(role) = role_in(&*self.0.read().await?, id) {
            return Ok(role);
        }
        let command = Command::CreateNode {
            id: admission.node,
            spec: NodeSpec { role, ..NodeSpec::default() },
            description: NodeDescription { hostname: admission.hostname, ..Default::default() },
        };
        match self.0.propose(command).await.map_err(Status::from) {
            Ok(_) => Ok(admission.role),
            // The same joiner was faster on another connection.
            Err(status) if status.code() == Code::AlreadyExists => {
                role_in(&self.0.view(), id).ok_or(status)
            }
            Err(status) => Err(status),
        }
    }

    async fn standing_of(&self, id: PeerId) -> Result<Option<Standing>, Status> {
        Ok(standing_in(&*self.0.read().await?, id))
    }

    fn now(&self) -> Timestamp {
        clock::now()
    }
}
