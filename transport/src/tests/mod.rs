//! Connections over real loopback TLS: a little CA, a server that says whom it sees.

mod clients_judge;
mod lifecycle;
mod local;
mod servers_judge;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use shoal_types::id::{ClusterId, NodeId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::*;
use shoal_proto::v1;
use shoal_proto::v1::ca_client::CaClient;
use shoal_proto::v1::ca_server::{Ca, CaServer};

/// Our cluster.
fn ours() -> ClusterId {
    ClusterId::from(1)
}

/// A CA that issues whatever a test needs.
struct TestCa {
    cluster: ClusterId,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What [`TestCa::issue`] writes into a certificate.
struct Wanted {
    id: u128,
    role: Role,
    /// Seconds relative to now.
    not_before: i64,
    not_after: i64,
    names: Vec<&'static str>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Wanted {
    fn new(id: u128, role: Role) -> Self {
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let mut names = Vec::new();
        if role == Role::Manager {
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            names.push(MANAGER_NAME);
        }
        Self { id, role, not_before: -3600, not_after: 3600, names, usages }
    }
}

impl TestCa {
    fn new(cluster: ClusterId) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_pem = params.self_signed(&key).expect("root").pem();
        Self { cluster, root_pem, issuer: Issuer::new(params, key) }
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads better at the many callers")]
    fn issue(&self, wanted: Wanted) -> Credentials {
        let key = PrivateKey::generate().expect("key");
        let chain = self.sign(&key, &wanted);
        Credentials::from_pem(chain, key.to_pem(), self.root_pem.clone()).expect("credentials")
    }

    fn sign(&self, key: &PrivateKey, wanted: &Wanted) -> String {
        let id = NodeId::from(wanted.id).to_string();
        let mut names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        names.push(format!("{id}.{NODE_DOMAIN}"));
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id);
        params.distinguished_name.push(DnType::OrganizationalUnitName, wanted.role.as_str());
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.to_string());
        params.extended_key_usages.clone_from(&wanted.usages);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let from_now = |secs: i64| {
            let at = now.as_secs().checked_add_signed(secs).expect("after 1970");
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
        };
        params.not_before = from_now(wanted.not_before);
        params.not_after = from_now(wanted.not_after);
        params.signed_by(key.signer(), &self.issuer).expect("certificate").pem()
    }

    fn live(&self, id: u128, role: Role) -> LiveCredentials {
        LiveCredentials::new(self.issue(Wanted::new(id, role))).expect("usable")
    }

    fn digest(&self) -> shoal_types::join_token::RootDigest {
        self.live(9, Role::Agent).current().root_digests().expect("roots")[0]
    }
}

/// Answers `GetRootCertificate` with a description of the peer, or refuses with the reason.
struct WhoAmI;

fn describe(peer: &Peer) -> Result<String, Status> {
    match peer {
        Peer::Trusted(identity) => Ok(format!("{} as {}", identity.id, identity.role.noun())),
        Peer::Joiner(joiner) => Ok(format!("joiner {:x?}", joiner.public_key)),
        Peer::Refused(reason) => Err(Status::unauthenticated(reason.to_string())),
    }
}

#[tonic::async_trait]
impl Ca for WhoAmI {
    async fn get_root_certificate(
        &self,
        request: Request<v1::GetRootCertificateRequest>,
    ) -> Result<Response<v1::GetRootCertificateResponse>, Status> {
        let root_pem = match request.extensions().get::<ConnectInfo>() {
            Some(info) => describe(&info.peer)?,
            None => format!("uid {:?}", unix_peer_uid(request.extensions())),
        };
        Ok(Response::new(v1::GetRootCertificateResponse { root_pem, cluster_id: String::new() }))
    }

    async fn issue_node_certificate(
        &self,
        _: Request<v1::IssueNodeCertificateRequest>,
    ) -> Result<Response<v1::IssueNodeCertificateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn renew_certificate(
        &self,
        _: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A server in a runtime of its own, so that dropping it ends its connections as a crash would.
struct TestServer {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl TestServer {
    async fn start(credentials: LiveCredentials) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("address"), credentials).await
    }

    async fn start_at(address: SocketAddr, credentials: LiveCredentials) -> Self {
        Self::start_with(address, credentials, IncomingLimits::default()).await
    }

    async fn start_with(
        address: SocketAddr,
        credentials: LiveCredentials,
        limits: IncomingLimits,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let (sender, bound) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = bind(address).await;
            sender.send(listener.local_addr().expect("address")).expect("test waits");
            let connections = incoming(listener, credentials, limits);
            server_builder()
                .add_service(CaServer::new(WhoAmI))
                .serve_with_incoming(connections)
                .await
                .expect("serves");
        });
        Self { address: bound.await.expect("bound"), runtime: Some(runtime) }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds, waiting while a server that is being dropped still has the port.
async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..200 {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("{address} stays in use");
}

/// What the server says of whoever calls through `channel`.
async fn who_am_i(channel: Channel) -> Result<String, Status> {
    let mut client = CaClient::new(channel);
    let answer = client.get_root_certificate(v1::GetRootCertificateRequest {}).await;
    answer.map(|answer| answer.into_inner().root_pem)
}

fn dial(address: SocketAddr, credentials: &LiveCredentials) -> Channel {
    client_channel(address.into(), credentials.clone(), MANAGER_NAME).expect("channel")
}
