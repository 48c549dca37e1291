//! Making a cluster with this host as its first node.
//!
//! Every step may be the last before a crash. What nobody has been given a certificate of is thrown
//! away by the repeat; what somebody has been given is answered again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shoal_agent_network as network;
use shoal_agent_planning::network::advertise::{NoAddress, advertised};
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::{BootstrapRequest, BootstrapResponse, InitRequest, InitResponse};
use shoal_transport::{Credentials, DEFAULT_PORT, ManagerAddress, unix_channel};
use shoal_types::error_chain::chain;
use tonic::{Code, Status};

use super::internal;
use crate::identity::{ClusterFile, InitFile, ManagerEndpoint};
use crate::manager_child::{ManagerChild, ManagerState};
use crate::node::Node;

/// For the manager to start and serve its socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// For the manager to make the cluster.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a manager that starts.
const LOOK: Duration = Duration::from_millis(25);
/// RFC 5737, section 3, and RFC 3849: routed like any other address, but nobody's.
const FAR_AWAY: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

pub(super) async fn init(node: &Arc<Node>, request: InitRequest) -> Result<InitResponse, Status> {
    let here = match usual_address() {
        Some(usual) => Ok(usual),
        None => {
            let candidates = network::host_addresses().await.map_err(|error| internal(&error))?;
            advertised(None, candidates)
        }
    };
    let endpoint = endpoint(&request.listen_addr, &request.advertise_addr, here)?;
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
    prepare(&manager.config().state_dir, begun.is_some())?;
    can_listen(&endpoint)?;
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

/// The manager begins with nothing: what an attempt has left is removed, anything else is kept.
fn prepare(state_dir: &Path, begun: bool) -> Result<(), Status> {
    let occupied = match std::fs::read_dir(state_dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(Status::internal(format!("cannot read {}: {error}", state_dir.display())));
        }
    };
    if occupied && !begun {
        let why = format!("{} holds a manager's state: move it away first", state_dir.display());
        return Err(Status::failed_precondition(why));
    }
    if occupied {
        let removed = std::fs::remove_dir_all(state_dir);
        removed.map_err(|error| {
            Status::internal(format!("cannot remove {}: {error}", state_dir.display()))
        })?;
    }
    Ok(())
}

/// Said now rather than found in the manager's log.
fn can_listen(endpoint: &ManagerEndpoint) -> Result<(), Status> {
    let bound = endpoint.listen.parse::<SocketAddr>().map(TcpListener::bind);
    match bound {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let why = format!("the manager cannot listen on {}: {error}", endpoint.listen);
            Err(Status::failed_precondition(why))
        }
        Err(error) => Err(Status::invalid_argument(format!("listen_addr: {error}"))),
    }
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
    let cluster =
        ClusterFile { managers: vec![endpoint.advertise.clone()], manager: Some(endpoint.clone()) };
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

/// Where the manager listens and is reached, with what was left open filled in.
fn endpoint(
    listen: &str,
    advertise: &str,
    here: Result<IpAddr, NoAddress>,
) -> Result<ManagerEndpoint, Status> {
    let listen = match listen {
        "" => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT),
        text => {
            let address: ManagerAddress = text
                .parse()
                .map_err(|error| Status::invalid_argument(format!("listen_addr: {error}")))?;
            let (host, port) = address.host_and_port();
            let ip = host.parse::<IpAddr>().map_err(|_| {
                let why = "is a name, expected an IP address of this host with a port";
                Status::invalid_argument(format!("listen_addr: {text:?} {why}"))
            })?;
            SocketAddr::new(ip, port)
        }
    };
    let advertise = match advertise {
        "" if !listen.ip().is_unspecified() => listen.into(),
        "" => SocketAddr::new(here.map_err(|error| unsaid(&error))?, listen.port()).into(),
        text => text
            .parse::<ManagerAddress>()
            .map_err(|error| Status::invalid_argument(format!("advertise_addr: {error}")))?,
    };
    if advertise.host_and_port().0.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        let why = format!("advertise_addr: {advertise} is no address that others can reach");
        return Err(Status::invalid_argument(why));
    }
    Ok(ManagerEndpoint { listen: listen.to_string(), advertise: advertise.to_string() })
}

fn unsaid(error: &NoAddress) -> Status {
    let hint = "name the one where other hosts reach this one";
    Status::invalid_argument(format!("advertise_addr: is empty and {error}: {hint}"))
}

/// The address that this host's packets to far away come from. Nothing is sent.
fn usual_address() -> Option<IpAddr> {
    FAR_AWAY.into_iter().find_map(|far| {
        let any: IpAddr = match far {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_filled_in() {
        let table = [
            ("10.0.0.1:1", "", Ok(("10.0.0.1:1", "10.0.0.1:1"))),
            ("", "10.0.0.1", Ok(("0.0.0.0:4242", "10.0.0.1:4242"))),
            ("0.0.0.0:7", "a.example:9", Ok(("0.0.0.0:7", "a.example:9"))),
            ("[::1]", "", Ok(("[::1]:4242", "[::1]:4242"))),
            ("example:1", "10.0.0.1", Err("listen_addr: \"example:1\" is a name")),
            ("10.0.0.1:0", "", Err("listen_addr:")),
            ("", "http://x", Err("advertise_addr:")),
            ("", "0.0.0.0:1", Err("advertise_addr: 0.0.0.0:1 is no address")),
            ("", "", Err("advertise_addr: is empty and this host has no address")),
        ];
        for (listen, advertise, expected) in table {
            let nowhere = Err(NoAddress { candidates: Vec::new() });
            match (endpoint(listen, advertise, nowhere), expected) {
                (Ok(found), Ok((listen, advertise))) => {
                    assert_eq!((&found.listen[..], &found.advertise[..]), (listen, advertise));
                }
                (Err(status), Err(text)) => {
                    assert!(status.message().starts_with(text), "{status}");
                }
                (found, expected) => panic!("{listen} {advertise}: {found:?} {expected:?}"),
            }
        }
    }

    #[test]
    fn a_foreign_managers_state_is_never_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = dir.path().join("manager");
        prepare(&state, false).expect("nothing there");
        std::fs::create_dir_all(state.join("raft")).expect("mkdir");
        let status = prepare(&state, false).expect_err("kept");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(state.join("raft").exists());
        prepare(&state, true).expect("of a broken attempt");
        assert!(!state.exists());
    }
}
