//! Joining and renewing over real loopback TLS, behind the authorisation layer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use shoal_proto::v1;
use shoal_proto::v1::ca_client::CaClient;
use shoal_proto::v1::ca_server::CaServer;
use shoal_transport::{
    Credentials, EnrolError, IncomingLimits, LiveCredentials, MANAGER_NAME, PeerId, PrivateKey,
    Role, client_channel, incoming, join, joining_channel, renew, renew_forever, server_builder,
};
use shoal_types::id::{ClusterId, UserId};
use shoal_types::join_token::{JoinSecret, JoinToken};
use shoal_types::time::Timestamp;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::auth::{AuthLayer, Membership, Standing};

/// A cluster that is a map.
#[derive(Clone)]
struct Cluster {
    ca: Arc<CertificateAuthority>,
    secrets: JoinSecrets,
    members: Arc<Mutex<BTreeMap<PeerId, Role>>>,
    /// How often other managers would have been asked.
    reads: Arc<AtomicUsize>,
}

impl Cluster {
    fn role_of(&self, id: PeerId) -> Option<Role> {
        self.members.lock().expect("lock").get(&id).copied()
    }

    fn set(&self, id: PeerId, role: Option<Role>) {
        let mut members = self.members.lock().expect("lock");
        match role {
            Some(role) => members.insert(id, role),
            None => members.remove(&id),
        };
    }

    fn token(&self, secret: JoinSecret) -> JoinToken {
        self.ca.join_token(secret)
    }

    /// Issues outside the protocol, as of some other time.
    fn issue(&self, role: Role, now: Timestamp) -> Credentials {
        let key = PrivateKey::generate().expect("key");
        let id = PeerId::Node(node_id_of_key(&key.public_key()));
        self.set(id, Some(role));
        self.ca.certify(&key, id, role, now).expect("issued")
    }
}

impl Membership for Cluster {
    fn standing_of(&self, id: PeerId) -> Option<Standing> {
        match self.role_of(id)? {
            Role::User => Some(Standing::Unlisted),
            role => Some(Standing::Node(role)),
        }
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        // Nothing here streams.
        tokio::sync::watch::channel(0).1
    }
}

#[tonic::async_trait]
impl ClusterCa for Cluster {
    async fn authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.known_authority()
    }

    fn known_authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        Ok((self.ca.clone(), self.secrets))
    }

    async fn admit(&self, admission: Admission) -> Result<Role, Status> {
        let mut members = self.members.lock().expect("lock");
        Ok(*members.entry(PeerId::Node(admission.node)).or_insert(admission.role))
    }

    async fn standing_of(&self, id: PeerId) -> Result<Option<Standing>, Status> {
        Ok(Membership::standing_of(self, id))
    }

    fn now(&self) -> Timestamp {
        now()
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::ZERO + since.expect("after 1970")
}

/// A cluster with one manager, served.
async fn serve() -> (Cluster, SocketAddr) {
    let ca = CertificateAuthority::create(ClusterId::from(1), now()).expect("authority");
    let secrets = JoinSecrets::generate().expect("secrets");
    let cluster =
        Cluster { ca: Arc::new(ca), secrets, members: Arc::default(), reads: Arc::default() };
    let credentials = cluster.issue(Role::Manager, now());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let live = LiveCredentials::new(credentials).expect("usable");
    let connections = incoming(listener, live, IncomingLimits::default());
    let server = server_builder()
        .layer(AuthLayer::new(Arc::new(cluster.clone()), now))
        .add_service(CaServer::new(CaService::new(cluster.clone())))
        .serve_with_incoming(connections);
    tokio::spawn(server);
    (cluster, address)
}

fn hints() -> v1::NodeHints {
    v1::NodeHints { hostname: "host-1".into(), advertise_addr: String::new() }
}

fn channel(address: SocketAddr, live: &LiveCredentials) -> Channel {
    client_channel(address.into(), live.clone(), MANAGER_NAME).expect("channel")
}

fn refused(outcome: Result<Credentials, EnrolError>) -> String {
    match outcome.expect_err("must be refused") {
        EnrolError::Refused(message) => message,
        other => panic!("not refused, but {other:?}"),
    }
}

/// Whoever can reach the port can ask for the root certificate, and show a token that is none.
#[tokio::test]
async fn strangers_make_no_work_for_other_managers() {
    let (cluster, address) = serve().await;
    let other = JoinSecrets::generate().expect("secrets");
    let key = PrivateKey::generate().expect("key");
    for _ in 0..3 {
        let refused = join(address.into(), &cluster.token(other.agent), &key, hints()).await;
        refused.expect_err("a token of nobody");
    }
    assert_eq!(cluster.reads.load(Ordering::Relaxed), 0);
    join(address.into(), &cluster.token(cluster.secrets.agent), &key, hints())
        .await
        .expect("joins");
    assert_eq!(cluster.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_token_makes_a_node_and_a_repeat_the_same_one() {
    let (cluster, address) = serve().await;
    let table = [(cluster.secrets.agent, Role::Agent), (cluster.secrets.manager, Role::Manager)];
    for (secret, role) in table {
        let key = PrivateKey::generate().expect("key");
        let token = cluster.token(secret);
        let first = join(address.into(), &token, &key, hints()).await.expect("joins");
        assert_eq!(first.identity().role, role);
        assert_eq!(cluster.role_of(first.identity().id), Some(role));
        let again = join(address.into(), &token, &key, hints()).await.expect("joins");
        assert_eq!(again.identity().id, first.identity().id);

        let live = LiveCredentials::new(first.clone()).expect("usable");
        let renewed = renew(channel(address, &live), &first).await.expect("renews");
        assert_eq!(renewed.identity().id, first.identity().id);
        assert_ne!(renewed.key_pem().reveal(), first.key_pem().reveal());
    }
    assert_eq!(cluster.members.lock().expect("lock").len(), 3);
}

#[tokio::test]
async fn a_user_renews_its_own_certificate_and_nothing_else_changes() {
    let (cluster, address) = serve().await;
    let id = PeerId::User(UserId::from(7));
    cluster.set(id, Some(Role::User));
    let aged = Timestamp::from_nanos(now().as_nanos() - 60 * 24 * 3600 * 1_000_000_000);
    let old = cluster.ca.issue_credentials(id, Role::User, aged).expect("issued");
    let live = LiveCredentials::new(old.clone()).expect("usable");
    let renewed = renew(channel(address, &live), &old).await.expect("renews");
    assert_eq!((renewed.identity().id, renewed.identity().role), (id, Role::User));
    assert!(renewed.identity().not_after > old.identity().not_after);
    assert_ne!(renewed.key_pem().reveal(), old.key_pem().reveal());
}

#[tokio::test]
async fn wrong_tokens_are_refused_with_the_reason_and_admit_nobody() {
    let (cluster, address) = serve().await;
    let key = PrivateKey::generate().expect("key");
    let wrong = cluster.token(JoinSecret::from_bytes([7; 16]));
    let said = refused(join(address.into(), &wrong, &key, hints()).await);
    assert_eq!(said, "join token is not valid: its secret is wrong, or it has been rotated");

    // Texts that no client of ours would send.
    let good = cluster.token(cluster.secrets.agent).reveal();
    let other = CertificateAuthority::create(ClusterId::from(2), now()).expect("authority");
    let table = [
        (good[..good.len() - 1].to_owned(), Code::InvalidArgument, "truncated"),
        (
            other.join_token(cluster.secrets.agent).reveal(),
            Code::PermissionDenied,
            "another cluster",
        ),
        (String::new(), Code::InvalidArgument, "begins with SHOAL-1-"),
    ];
    let root = cluster.ca.root_digest();
    let mut client = CaClient::new(joining_channel(address.into(), root, &key).expect("channel"));
    for (join_token, code, expected) in table {
        let csr_der = key.request().expect("request");
        let request = v1::IssueNodeCertificateRequest { join_token, csr_der, hints: None };
        let status = client.issue_node_certificate(request).await.expect_err(expected);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status} lacks {expected:?}");
    }
    assert_eq!(cluster.members.lock().expect("lock").len(), 1, "nobody was admitted");
}

#[tokio::test]
async fn a_request_for_another_key_is_refused() {
    let (cluster, address) = serve().await;
    let key = PrivateKey::generate().expect("key");
    let root = cluster.ca.root_digest();
    let mut client = CaClient::new(joining_channel(address.into(), root, &key).expect("channel"));
    let other = PrivateKey::generate().expect("key");
    let table = [
        (
            other.request().expect("request"),
            hints(),
            Code::InvalidArgument,
            "csr_der is for another key",
        ),
        (
            b"x".to_vec(),
            hints(),
            Code::InvalidArgument,
            "cannot use the certificate signing request",
        ),
        (
            key.request().expect("request"),
            v1::NodeHints { hostname: "x".repeat(300), ..hints() },
            Code::InvalidArgument,
            "hints.hostname",
        ),
        (
            key.request().expect("request"),
            v1::NodeHints { advertise_addr: "10.0.0.1:1".into(), ..hints() },
            Code::Unimplemented,
            "hints.advertise_addr: ",
        ),
    ];
    for (csr_der, hints, code, expected) in table {
        let join_token = cluster.token(cluster.secrets.agent).reveal();
        let request = v1::IssueNodeCertificateRequest { join_token, csr_der, hints: Some(hints) };
        let status = client.issue_node_certificate(request).await.expect_err(expected);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status} lacks {expected:?}");
    }
    assert_eq!(cluster.members.lock().expect("lock").len(), 1, "nobody was admitted");
}

#[tokio::test]
async fn joiners_only_join_and_members_do_not() {
    let (cluster, address) = serve().await;
    let key = PrivateKey::generate().expect("key");
    let root = cluster.ca.root_digest();
    let stranger = joining_channel(address.into(), root, &key).expect("channel");
    let csr_der = key.request().expect("request");
    let renewal = v1::RenewCertificateRequest { csr_der: csr_der.clone() };
    let status = CaClient::new(stranger).renew_certificate(renewal).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "a join certificate may only be used to join");

    let live = LiveCredentials::new(cluster.issue(Role::Agent, now())).expect("usable");
    let join_token = cluster.token(cluster.secrets.manager).reveal();
    let request = v1::IssueNodeCertificateRequest { join_token, csr_der, hints: None };
    let status = CaClient::new(channel(address, &live)).issue_node_certificate(request).await;
    let status = status.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("which is for joining hosts"), "{status}");
}

#[tokio::test]
async fn expired_foreign_and_removed_nodes_are_told_so() {
    let (cluster, address) = serve().await;
    let long_ago = Timestamp::from_secs(1_700_000_000);
    let expired = cluster.issue(Role::Agent, long_ago);
    let removed = cluster.issue(Role::Agent, now());
    cluster.set(removed.identity().id, None);

    let ca = CertificateAuthority::create(ClusterId::from(2), now()).expect("authority");
    let foreign = ca.issue_credentials(removed.identity().id, Role::Agent, now()).expect("issued");
    let ours = cluster.ca.material().trusted_pem();
    let foreign =
        Credentials::from_pem(foreign.chain_pem().into(), foreign.key_pem().clone(), ours);

    let table = [
        (expired, " expired on 2024-02-12 22:13 UTC"),
        (removed, " is not a member of this cluster (any more)"),
        (foreign.expect("fits"), " was issued by another cluster's CA (it names cluster 0"),
    ];
    for (credentials, expected) in table {
        let live = LiveCredentials::new(credentials.clone()).expect("usable");
        let said = refused(renew(channel(address, &live), &credentials).await);
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert!(said.contains(&credentials.identity().id.to_string()), "{said:?} names nobody");
    }
}

#[tokio::test]
async fn certificates_renew_themselves_and_bring_the_role_of_the_day() {
    let (cluster, address) = serve().await;
    // More than four fifths of its life are over.
    let issued = Timestamp::from_nanos(now().as_nanos() - 80 * 24 * 3600 * 1_000_000_000);
    let old = cluster.issue(Role::Agent, issued);
    cluster.set(old.identity().id, Some(Role::Manager));
    let live = LiveCredentials::new(old.clone()).expect("usable");
    let dir = tempfile::tempdir().expect("temp dir");
    let renewal = {
        let channel = channel(address, &live);
        let dir = dir.path().to_owned();
        let request = move |current: Credentials| {
            let channel = channel.clone();
            async move { renew(channel, &current).await }
        };
        let store = move |new: &Credentials| new.save(&dir);
        tokio::spawn(renew_forever(live.clone(), request, store))
    };
    let start = Instant::now();
    while live.current().identity().not_after == old.identity().not_after {
        assert!(start.elapsed() < Duration::from_secs(10), "not renewed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let new = live.current();
    assert_eq!((new.identity().id, new.identity().role), (old.identity().id, Role::Manager));
    let stored = Credentials::load(dir.path()).expect("readable").expect("stored");
    assert_eq!(stored.chain_pem(), new.chain_pem());
    assert!(!renewal.is_finished());
    renewal.abort();
}
