//! Making a cluster with this host as its first node.
//!
//! Every step may be the last before a crash. What nobody has been given a certificate of is thrown
//! away by the repeat; what somebody has been given is answered again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::{BootstrapRequest, BootstrapResponse, InitRequest, InitResponse};
use shoal_transport::{Credentials, unix_channel};
use shoal_types::error_chain::chain;
use tonic::{Code, Status};

use super::internal;
use crate::endpoint;
use crate::identity::{ClusterFile, InitFile, ManagerEndpoint};
use crate::manager_child::{ManagerChild, ManagerState};
use crate::node::Node;

/// For the manager to start and serve its socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// For the manager to make the cluster.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a manager that starts.
const LOOK: Duration = Duration::from_millis(25);
pub(super) async fn init(node: &Arc<Node>, request: InitRequest) -> Result<InitResponse, Status> {
    let endpoint = endpoint::find(&request.listen_addr, &request.advertise_addr, &[]).await?;
    let _alone = node.change().await;
    let begun = node.store().init().map_err(|error| internal(&error))?;
    let fingerprint = hex::encode(Sha256::digest(&request.admin_csr_der));
    if let Some(credentials) = node.store().credentials().map_err(|error| internal(&error))? {
        return again(&credentials, begun, &fingerprint);
    }
    let manager = node.manager();
    manager.check_user().map_err(|error| Status::failed_precondition(chain(&error).to_string()))?;
    // Of an attempt that broke off.
    manager.stop().await;
    endpoint::prepare(&manager.config().state_dir, begun.is_some())?;
    endpoint::can_listen(&endpoint)?;
    node.store().save_init(&InitFile::UnderWay).map_err(|error| internal(&error))?;
    let made = make(node, request, &endpoint, &fingerprint).await;
    if made.is_err() {
        manager.stop().await;
    }
    made
}

/// The cluster exists: the same user may ask again, nobody else.
fn again(
    credentials: &Credentials,
    begun: Option<InitFile>,
    fingerprint: &str,
) -> Result<InitResponse, Status> {
    if let Some(InitFile::Done { request, answer }) = begun
        && request == fingerprint
    {
        let decoded = hex::decode(answer).ok();
        let decoded = decoded.and_then(|bytes| InitResponse::decode(&bytes[..]).ok());
        return decoded.ok_or_else(|| Status::internal("the kept answer cannot be read"));
    }
    let cluster = credentials.identity().cluster;
    let why = format!("this host belongs to cluster {cluster} already; leave that first");
    Err(Status::failed_precondition(why))
}

async fn make(
    node: &Arc<Node>,
    request: InitRequest,
    endpoint: &ManagerEndpoint,
    fingerprint: &str,
) -> Result<InitResponse, Status> {
    let key = node.store().enrolment_key().map_err(|error| internal(&error))?;
    let bootstrap = BootstrapRequest {
        node_csr_der: key.request().map_err(|error| internal(&error))?,
        admin_csr_der: request.admin_csr_der,
        description: Some(node.describe().await.into()),
        advertise_addr: endpoint.advertise.clone(),
        listen_addr: endpoint.listen.clone(),
        spec: request.spec,
    };
    node.manager().ensure(endpoint.clone());
    let made = bootstrap_manager(node.manager(), bootstrap).await?;
    let credentials =
        Credentials::from_pem(made.node_chain_pem, key.to_pem(), made.root_pem.clone());
    let credentials = credentials.map_err(|error| internal(&error))?;
    let answer = InitResponse {
        cluster_id: made.cluster_id,
        node_id: made.node_id,
        admin_chain_pem: made.admin_chain_pem,
        root_pem: made.root_pem,
        agent_join_token: made.agent_join_token,
        manager_join_token: made.manager_join_token,
        manager_addr: endpoint.advertise.clone(),
    };
    let done = InitFile::Done {
        request: fingerprint.to_owned(),
        answer: hex::encode(answer.encode_to_vec()),
    };
    node.store().save_init(&done).map_err(|error| internal(&error))?;
    let managers = vec![endpoint.advertise.clone()];
    let cluster = ClusterFile { managers, manager: Some(endpoint.clone()), endpoint: None };
    node.join(credentials, &cluster).map_err(|error| internal(&error))?;
    tracing::info!(node = answer.node_id, cluster = answer.cluster_id, "made a cluster");
    Ok(answer)
}

/// Waits for the manager's socket, then asks for the cluster.
async fn bootstrap_manager(
    manager: &ManagerChild,
    request: BootstrapRequest,
) -> Result<BootstrapResponse, Status> {
    let socket = manager.config().socket();
    let deadline = Instant::now() + START_TIMEOUT;
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        if let ManagerState::Waiting { why } = manager.state() {
            let why = format!("the manager does not start: {why}; its log says more");
            return Err(Status::failed_precondition(why));
        }
        if Instant::now() > deadline {
            let why = format!("the manager does not serve its socket within {START_TIMEOUT:?}");
            return Err(Status::deadline_exceeded(why));
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut client = BootstrapClient::new(unix_channel(&socket));
    match tokio::time::timeout(BOOTSTRAP_TIMEOUT, client.bootstrap(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // The caller's own mistakes come back as they are.
        Ok(Err(status)) => Err(Status::new(of_manager(status.code()), status.message())),
        Err(_) => {
            let why = format!("the manager makes no cluster within {BOOTSTRAP_TIMEOUT:?}");
            Err(Status::deadline_exceeded(why))
        }
    }
}

/// What a refusal of the manager is when the agent passes it on.
pub(super) fn of_manager(code: Code) -> Code {
    match code {
        // That would mean the agent's own socket.
        Code::Unavailable | Code::Cancelled | Code::Unknown => Code::Aborted,
        other => other,
    }
}
