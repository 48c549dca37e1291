//! Joining a cluster.

use std::sync::Arc;

use shoal_proto::v1::{JoinRequest, JoinResponse, NodeHints, NodeRole};
use shoal_transport::{Credentials, EnrolError, ManagerAddress, PrivateKey, Role};
use shoal_types::error_chain::chain;
use shoal_types::join_token::JoinToken;
use tonic::Status;

use super::internal;
use crate::endpoint;
use crate::identity::{ClusterFile, ManagerEndpoint};
use crate::node::Node;
use crate::session::Standing;

/// Managers in one request.
const MAX_ADDRESSES: usize = 32;

pub(super) async fn join(node: &Arc<Node>, request: JoinRequest) -> Result<JoinResponse, Status> {
    let token: JoinToken =
        request.join_token.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
    let addresses = addresses(&request.manager_addrs)?;
    let said = !(request.listen_addr.is_empty() && request.advertise_addr.is_empty());
    let find = || endpoint::find(&request.listen_addr, &request.advertise_addr, &addresses);
    let said = if said { Some(find().await?) } else { None };
    let _alone = node.change().await;
    if let Some(credentials) = node.store().credentials().map_err(|error| internal(&error))? {
        return Err(already(&credentials, &token, &node.standing()));
    }
    let key = node.store().enrolment_key().map_err(|error| internal(&error))?;
    let hints =
        NodeHints { hostname: node.describe().await.hostname, advertise_addr: String::new() };
    let credentials = enrol(&addresses, &token, &key, &hints).await?;
    let manager = match (credentials.identity().role, &said) {
        (Role::Manager, Some(said)) => Some(said.clone()),
        (Role::Manager, None) => Some(find().await?),
        (Role::Agent | Role::User, _) => None,
    };
    if let Some(endpoint) = &manager {
        can_manage(node, endpoint)?;
    }
    let managers = addresses.iter().map(ToString::to_string).collect();
    let answer = answer(&credentials)?;
    let cluster = ClusterFile { managers, manager, endpoint: said };
    node.join(credentials, &cluster).map_err(|error| internal(&error))?;
    tracing::info!(node = answer.node_id, cluster = answer.cluster_id, "joined a cluster");
    Ok(answer)
}

/// Said now rather than found in the logs. The node is known to the cluster by now: a repeat goes on with it.
fn can_manage(node: &Node, at: &ManagerEndpoint) -> Result<(), Status> {
    let manager = node.manager();
    manager.check_user().map_err(|error| Status::failed_precondition(chain(&error).to_string()))?;
    endpoint::prepare(&manager.config().state_dir, false)?;
    endpoint::can_listen(at)
}

fn addresses(texts: &[String]) -> Result<Vec<ManagerAddress>, Status> {
    if texts.is_empty() || texts.len() > MAX_ADDRESSES {
        let why =
            format!("manager_addrs: has {} entries, expected 1 to {MAX_ADDRESSES}", texts.len());
        return Err(Status::invalid_argument(why));
    }
    let parse = |text: &String| {
        text.parse().map_err(|error| Status::invalid_argument(format!("manager_addrs: {error}")))
    };
    texts.iter().map(parse).collect()
}

/// Nothing joins here. What is said of the membership that there is comes from a manager: a session
/// that is alive, or the refusal of one.
fn already(credentials: &Credentials, token: &JoinToken, standing: &Standing) -> Status {
    let identity = credentials.identity();
    let cluster = identity.cluster;
    if !credentials.root_digests().is_ok_and(|roots| roots.contains(&token.root)) {
        let why = format!("this host belongs to cluster {cluster} already; leave that first");
        return Status::failed_precondition(why);
    }
    let who = identity.id;
    Status::failed_precondition(match standing {
        Standing::Active => {
            format!("this host is {who} of this cluster already; leave it first to join anew")
        }
        Standing::Refused(why) => format!(
            "this host was {who} of this cluster, which refuses it now: {why}; leave it first, then \
             join again"
        ),
        Standing::Pending(why) => format!(
            "this host belongs to this cluster already, as {who}, but has no session: {why}; leave \
             it first to join anew"
        ),
        Standing::Inactive => format!("this host is just leaving, as {who}: try again"),
    })
}

/// Asks each manager in turn. One that refuses speaks for all.
async fn enrol(
    addresses: &[ManagerAddress],
    token: &JoinToken,
    key: &PrivateKey,
    hints: &NodeHints,
) -> Result<Credentials, Status> {
    let mut failures = Vec::new();
    for address in addresses {
        match shoal_transport::join(address.clone(), token, key, hints.clone()).await {
            Ok(credentials) => return Ok(credentials),
            Err(error) if error.may_pass() => failures.push(chain(&error).to_string()),
            Err(error @ EnrolError::Refused(_)) => {
                return Err(Status::permission_denied(chain(&error).to_string()));
            }
            Err(error) => return Err(internal(&error)),
        }
    }
    Err(Status::unavailable(failures.join("; ")))
}

fn answer(credentials: &Credentials) -> Result<JoinResponse, Status> {
    let identity = credentials.identity();
    let no_node = || Status::internal("the certificate is not one of a node");
    let role = match identity.role {
        Role::Manager => NodeRole::Manager,
        Role::Agent => NodeRole::Agent,
        Role::User => return Err(no_node()),
    };
    Ok(JoinResponse {
        cluster_id: identity.cluster.to_string(),
        node_id: identity.node().ok_or_else(no_node)?.to_string(),
        role: role.into(),
    })
}
