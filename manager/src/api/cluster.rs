//! The cluster itself.

use shoal_manager_planning::reached::reached;
use shoal_manager_state::{ClusterState, Command, Outcome};
use shoal_proto::v1 as pb;
use shoal_types::join_token::JoinSecret;
use shoal_types::level::Level;
use shoal_types::object::Cluster;
use shoal_types::spec::{ClusterSpec, NodeRole};
use tonic::Status;

use super::error::required;
use super::{ControlService, invalid, violations};
use crate::ca::{JoinSecrets, TokenError};
use crate::membership;

pub(super) async fn get_version(
    api: &ControlService,
    _: pb::GetVersionRequest,
) -> Result<pb::GetVersionResponse, Status> {
    Ok(pb::GetVersionResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_id: api.node_id.to_string(),
        manager_addrs: reached(&api.cluster.view()).map(|(_, a)| a.to_owned()).collect(),
    })
}

pub(super) async fn get_cluster(
    api: &ControlService,
    _: pb::GetClusterRequest,
) -> Result<pb::GetClusterResponse, Status> {
    let view = api.cluster.read().await?;
    Ok(pb::GetClusterResponse { cluster: Some((&**cluster(&view)?).into()) })
}

pub(super) async fn update_cluster(
    api: &ControlService,
    request: pb::UpdateClusterRequest,
) -> Result<pb::UpdateClusterResponse, Status> {
    let spec: ClusterSpec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let expected_spec_version = request.expected_version;
    api.cluster.propose(Command::UpdateCluster { expected_spec_version, spec }).await?;
    Ok(pb::UpdateClusterResponse { cluster: Some((&**cluster(&api.written())?).into()) })
}

fn cluster(view: &ClusterState) -> Result<&std::sync::Arc<Cluster>, Status> {
    view.cluster().ok_or_else(|| Status::failed_precondition("there is no cluster yet"))
}

fn role(wire: i32) -> Result<NodeRole, Status> {
    let refused = || Status::invalid_argument("role: is required, expected worker or manager");
    match pb::NodeRole::try_from(wire) {
        Ok(pb::NodeRole::Agent) => Ok(NodeRole::Agent),
        Ok(pb::NodeRole::Manager) => Ok(NodeRole::Manager),
        Ok(pb::NodeRole::Unspecified) | Err(_) => Err(refused()),
    }
}

fn token(view: &ClusterState, role: NodeRole) -> Result<String, Status> {
    let (authority, secrets) = membership::authority(view)?;
    let secret = match role {
        NodeRole::Agent => secrets.agent,
        NodeRole::Manager => secrets.manager,
    };
    Ok(authority.join_token(secret).reveal())
}

pub(super) async fn get_join_token(
    api: &ControlService,
    request: pb::GetJoinTokenRequest,
) -> Result<pb::GetJoinTokenResponse, Status> {
    let role = role(request.role)?;
    let view = api.cluster.read().await?;
    let manager_addrs = reached(&view).map(|(_, addr)| addr.to_owned()).collect();
    Ok(pb::GetJoinTokenResponse { token: token(&view, role)?, manager_addrs })
}

pub(super) async fn rotate_join_token(
    api: &ControlService,
    request: pb::RotateJoinTokenRequest,
) -> Result<pb::RotateJoinTokenResponse, Status> {
    let role = role(request.role)?;
    let fresh =
        JoinSecrets::generate().map_err(|error: TokenError| Status::internal(error.to_string()))?;
    let secret: JoinSecret = match role {
        NodeRole::Agent => fresh.agent,
        NodeRole::Manager => fresh.manager,
    };
    let secret = shoal_manager_state::JoinSecret(secret.reveal());
    api.cluster.propose(Command::RotateJoinToken { role, secret }).await?;
    Ok(pb::RotateJoinTokenResponse { token: token(&api.written(), role)? })
}

pub(super) async fn raise_level(
    api: &ControlService,
    request: pb::RaiseLevelRequest,
) -> Result<pb::RaiseLevelResponse, Status> {
    let view = api.cluster.read().await?;
    let level = match request.level {
        0 => view.level_of_managers().unwrap_or_default().max(view.level()),
        number => Level::new(number),
    };
    // It would stop this manager, which has gone back and is not known by its new level yet.
    if level > Level::OWN && view.level_of_managers() >= Some(level) {
        return Err(Status::failed_precondition(format!(
            "level: {level} is not known to this manager, which has feature level {}: upgrade it",
            Level::OWN
        )));
    }
    let outcome = api.cluster.propose(Command::RaiseLevel { level }).await?;
    let view = api.written();
    let cluster = Some((&**cluster(&view)?).into());
    Ok(pb::RaiseLevelResponse { cluster, raised: outcome == Outcome::Applied })
}
