//! How users get, keep and get back their certificates: the program itself, over real TLS and a
//! real socket, with a certificate authority that can be told what day it is.

#![allow(clippy::unwrap_used, reason = "a test: panics are its voice")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shoal_client::context::{Context, Store};
use shoal_manager::auth::{AuthLayer, Membership, Standing};
use shoal_manager::ca::{Admission, CaService, CertificateAuthority, ClusterCa, JoinSecrets};
use shoal_manager::clock;
use shoal_proto::v1 as pb;
use shoal_proto::v1::ca_server::CaServer;
use shoal_proto::v1::local_agent_server::{LocalAgent, LocalAgentServer};
use shoal_transport::{
    Credentials, IncomingLimits, LiveCredentials, PeerId, Role, incoming, server_builder,
    unix_incoming,
};
use shoal_types::id::{ClusterId, NodeId, UserId};
use shoal_types::time::Timestamp;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cluster that knows nothing but its authority.
#[derive(Clone)]
struct Cluster {
    ca: Arc<CertificateAuthority>,
    knows_users: Arc<AtomicBool>,
    renewals: Arc<AtomicU64>,
}

impl Membership for Cluster {
    fn standing_of(&self, id: PeerId) -> Option<Standing> {
        let known = self.knows_users.load(Ordering::Relaxed);
        match id {
            PeerId::Node(_) => Some(Standing::Node(Role::Manager)),
            PeerId::User(_) => known.then_some(Standing::Unlisted),
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
        self.known_authority()
    }

    fn known_authority(&self) -> Result<(Arc<CertificateAuthority>, JoinSecrets), Status> {
        Ok((self.ca.clone(), JoinSecrets::generate().unwrap()))
    }

    async fn admit(&self, _: Admission) -> Result<Role, Status> {
        Err(Status::permission_denied("nobody joins here"))
    }

    async fn standing_of(&self, id: PeerId) -> Result<Option<Standing>, Status> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        Ok(Membership::standing_of(self, id))
    }

    fn now(&self) -> Timestamp {
        clock::now()
    }
}

/// The agent of the manager's host, as far as certificates go.
#[tonic::async_trait]
impl LocalAgent for Cluster {
    async fn issue_user_certificate(
        &self,
        request: Request<pb::IssueUserCertificateRequest>,
    ) -> Result<Response<pb::IssueUserCertificateResponse>, Status> {
        let id = PeerId::User(UserId::from(8));
        let issued = self.ca.issue(&request.get_ref().csr_der, id, Role::User, clock::now());
        Ok(Response::new(pb::IssueUserCertificateResponse {
            cluster_id: self.ca.cluster().to_string(),
            cluster_name: "prod".to_owned(),
            chain_pem: issued.unwrap().pem,
            root_pem: self.ca.material().trusted_pem(),
            manager_addrs: vec!["10.0.0.1:4242".to_owned()],
        }))
    }

    async fn init(
        &self,
        _: Request<pb::InitRequest>,
    ) -> Result<Response<pb::InitResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn join(
        &self,
        _: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn leave(
        &self,
        _: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn drain(
        &self,
        _: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stop_containers(
        &self,
        _: Request<pb::StopContainersRequest>,
    ) -> Result<Response<pb::StopContainersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn await_links(
        &self,
        _: Request<pb::AwaitLinksRequest>,
    ) -> Result<Response<pb::AwaitLinksResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_info(
        &self,
        _: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn load_image(
        &self,
        _: Request<Streaming<pb::LoadImageRequest>>,
    ) -> Result<Response<pb::LoadImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ListImagesStream = tokio_stream::Empty<Result<pb::ListImagesResponse, Status>>;

    async fn list_images(
        &self,
        _: Request<pb::ListImagesRequest>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_image(
        &self,
        _: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A served cluster, and a user with a place for contexts.
struct Bench {
    dir: tempfile::TempDir,
    cluster: Cluster,
    address: SocketAddr,
    store: Store,
    /// Variables of programs that are run.
    carried: Vec<(&'static str, String)>,
}

impl Bench {
    async fn start() -> Self {
        let ca = CertificateAuthority::create(ClusterId::from(1), clock::now()).unwrap();
        let cluster = Cluster {
            ca: Arc::new(ca),
            knows_users: Arc::new(AtomicBool::new(true)),
            renewals: Arc::default(),
        };
        let own = PeerId::Node(NodeId::from(1));
        let own = cluster.ca.issue_credentials(own, Role::Manager, clock::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let live = LiveCredentials::new(own).unwrap();
        let server = server_builder()
            .layer(AuthLayer::new(Arc::new(cluster.clone()), clock::now))
            .add_service(CaServer::new(CaService::new(cluster.clone())))
            .serve_with_incoming(incoming(listener, live, IncomingLimits::default()));
        tokio::spawn(server);
        let dir = tempfile::tempdir().unwrap();
        let agent = server_builder()
            .add_service(LocalAgentServer::new(cluster.clone()))
            .serve_with_incoming(unix_incoming(&dir.path().join("agent.sock")).unwrap());
        tokio::spawn(agent);
        let store = Store::at(dir.path().join("config"));
        Self { dir, cluster, address, store, carried: Vec::new() }
    }

    /// The user's certificate, issued some days ago; those have 90.
    fn certificate(&self, age_days: u32) -> Credentials {
        let issued = clock::now().as_nanos() - u64::try_from((DAY * age_days).as_nanos()).unwrap();
        let user = PeerId::User(UserId::from(7));
        let ca = &self.cluster.ca;
        ca.issue_credentials(user, Role::User, Timestamp::from_nanos(issued)).unwrap()
    }

    fn login(&self, age_days: u32) -> Credentials {
        let credentials = self.certificate(age_days);
        let context = Context {
            cluster: self.cluster.ca.cluster().to_string(),
            endpoints: vec![self.address.to_string()],
            managers: Vec::new(),
        };
        self.store.add("mine", context, &credentials).unwrap();
        credentials
    }

    fn spawn(&self, line: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_shoalctl"))
            .args(line.split_whitespace())
            .env("SHOAL_CONFIG", self.dir.path().join("config"))
            .env("SHOAL_AGENT_SOCKET", self.dir.path().join("agent.sock"))
            .env_remove("SHOAL_CONTEXT")
            .envs(self.carried.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn run(&self, line: &str) -> Ran {
        let child = self.spawn(line);
        tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap().into()
    }
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn litter(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    names.map(|n| n.into_string().unwrap()).filter(|n| n.ends_with(".tmp")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_use_in_the_second_half_of_its_life() {
    let bench = Bench::start().await;
    for (age_days, renewed) in [(0, false), (40, false), (50, true), (89, true), (91, false)] {
        let before = bench.login(age_days);
        let ran = bench.run("version").await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{age_days} days");
        let after = bench.store.credentials("mine").unwrap();
        assert_eq!(after.identity().id, before.identity().id);
        assert_eq!(after.identity().role, Role::User);
        let is_new = after.identity().not_after > before.identity().not_after;
        assert_eq!(is_new, renewed, "{age_days} days");
        let same_key = after.key_pem().reveal() == before.key_pem().reveal();
        assert_eq!(same_key, !renewed, "a new certificate has a new key");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_is_no_failure_and_is_spoken_of_only_near_the_end() {
    let bench = Bench::start().await;
    bench.cluster.knows_users.store(false, Ordering::Relaxed);
    for (age_days, said) in [(50, false), (80, true)] {
        let before = bench.login(age_days);
        let ran = bench.run("version").await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(ran.err.contains("cannot be renewed: "), said, "{age_days}: {}", ran.err);
        let after = bench.store.credentials("mine").unwrap();
        assert_eq!(after.chain_pem(), before.chain_pem());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_leave_one_whole_identity() {
    let bench = Bench::start().await;
    let before = bench.login(60);
    let all: Vec<Child> = (0..12).map(|_| bench.spawn("version")).collect();
    let ended = tokio::task::spawn_blocking(|| {
        all.into_iter().map(|child| Ran::from(child.wait_with_output().unwrap())).collect()
    });
    let ended: Vec<Ran> = ended.await.unwrap();
    for ran in ended {
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    }
    let after = bench.store.credentials("mine").unwrap();
    assert!(after.identity().not_after > before.identity().not_after);
    assert_eq!(bench.cluster.renewals.load(Ordering::Relaxed), 1, "one renews for all");
    assert!(litter(&bench.store.credentials_dir("mine")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_locked_out_is_told_the_way_back_and_it_works() {
    let bench = Bench::start().await;
    let old = bench.login(91);
    let ran = bench.run("node ls").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(" expired on "), "{}", ran.err);
    assert!(ran.err.contains("hint: on a host that runs a manager, root gets new"), "{}", ran.err);
    assert!(ran.err.contains("shoalctl context create --local"), "{}", ran.err);
    assert!(bench.run("context show").await.out.contains("Certificate: expired on "));

    // The context that the cluster has already is the one that is repaired.
    let ran = bench.run("context create --local").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("context mine has a new certificate, "), "{}", ran.out);
    let new = bench.store.credentials("mine").unwrap();
    assert!(new.identity().not_after > old.identity().not_after);
    let all = bench.store.load().unwrap();
    let endpoints = ["10.0.0.1:4242".to_owned(), bench.address.to_string()];
    assert_eq!(all.contexts["mine"].endpoints, endpoints);
    assert!(bench.run("context show").await.out.contains("Certificate: valid until "));

    // With everything lost, it is called as the cluster.
    std::fs::remove_dir_all(bench.dir.path().join("config")).unwrap();
    let ran = bench.run("node ls").await;
    assert!(ran.err.contains("shoalctl context create --local"), "{}", ran.err);
    assert_eq!(bench.run("context create --local").await.code, 0);
    assert_eq!(bench.store.load().unwrap().current.as_deref(), Some("prod"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_of_another_cluster_is_never_overwritten() {
    let bench = Bench::start().await;
    let other =
        Context { cluster: "another".to_owned(), endpoints: Vec::new(), managers: Vec::new() };
    let kept = bench.certificate(0);
    bench.store.add("prod", other.clone(), &kept).unwrap();
    let ran = bench.run("context create --local prod").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("context \"prod\" is of cluster another, not of "), "{}", ran.err);
    assert_eq!(bench.run("context create --local").await.code, 0);
    let all = bench.store.load().unwrap();
    assert_eq!(all.contexts["prod"], other);
    // The one that was selected stays so; how to select the new one is said.
    assert_eq!(all.current.as_deref(), Some("prod"));
    assert!(all.contexts.keys().any(|name| name.starts_with("prod-")), "{:?}", all.contexts);
    assert_eq!(bench.store.credentials("prod").unwrap().chain_pem(), kept.chain_pem());
    assert_eq!(bench.run("context create --local -x-").await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_carried_certificate_is_told_in_its_last_days() {
    let mut bench = Bench::start().await;
    let file = bench.dir.path().join("ci.yaml");
    let at = file.display().to_string();
    for (age_days, told) in [(0, false), (75, false), (77, true), (89, true)] {
        bench.carried.clear();
        let credentials = bench.login(age_days);
        let _ = std::fs::remove_file(&file);
        assert_eq!(bench.run(&format!("context export mine --output {at}")).await.code, 0);
        bench.carried = vec![("SHOAL_CONTEXT_FILE", at.clone())];
        let err = bench.run("node ls").await.err;
        let date = shoal_transport::utc_date(credentials.identity().not_after);
        let note = format!("expires on {date}, and use does not renew it");
        assert_eq!(err.contains(&note), told, "{age_days}: {err}");
        assert_eq!(err.contains("SHOAL_CONTEXT_FILE"), told, "{age_days}: {err}");
        assert_eq!(bench.cluster.renewals.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_is_carried_in_one_file_and_used_from_the_environment() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bench = Bench::start().await;
    let credentials = bench.login(0);
    let file = bench.dir.path().join("ci.yaml");
    let at = file.display().to_string();
    let ran = bench.run(&format!("context export --output {at}")).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ran = bench.run(&format!("context export --output {at}")).await;
    assert!(ran.code == 1 && ran.err.contains("exists already"), "{}", ran.err);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(bench.run("context export mine -o -").await.out, text);

    // Elsewhere: nothing is kept there, one variable is all.
    std::fs::remove_dir_all(bench.dir.path().join("config")).unwrap();
    let ran = bench.run("context show").await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    for (variable, value) in [("SHOAL_CONTEXT_FILE", at.clone()), ("SHOAL_CONTEXT_DATA", text)] {
        bench.carried = vec![(variable, value)];
        let ran = bench.run("context show").await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        let who = format!("Identity: {}", credentials.identity().id);
        assert!(ran.out.contains(&who) && ran.out.contains(variable), "{}", ran.out);
        // This bench serves no control API: that answer is the manager's.
        let ran = bench.run("node ls").await;
        assert!(
            ran.err.contains("operation is not implemented") || ran.err.contains("unimplemented"),
            "{}",
            ran.err
        );
    }
    bench.carried.push(("SHOAL_CONTEXT_FILE", at.clone()));
    assert!(bench.run("node ls").await.err.contains("expected one of them"));

    // Imported, it is selected as there is none; a second one is not.
    bench.carried.clear();
    let ran = bench.run(&format!("context import {at}")).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.ends_with("it is selected\n"), "{}", ran.out);
    let ran = bench.run(&format!("context import {at}")).await;
    assert!(ran.code == 1 && ran.err.contains("--name"), "{}", ran.err);
    let ran = bench.run(&format!("context import {at} --name other")).await;
    assert!(ran.out.ends_with("shoalctl context use other selects it\n"), "{}", ran.out);
    assert_eq!(bench.store.load().unwrap().current.as_deref(), Some("mine"));
    let same = bench.store.credentials("other").unwrap();
    assert_eq!(same.key_pem().reveal(), credentials.key_pem().reveal());
    let ran = bench.run("context inspect other").await;
    assert!(ran.out.contains("\"Name\": \"other\"") && !ran.out.contains("PRIVATE"), "{}", ran.out);

    let ran = bench.run("context rm mine").await;
    assert!(ran.code == 1 && ran.err.contains("is selected"), "{}", ran.err);
    assert_eq!(bench.run("context rm --force mine other").await.code, 0);
    assert!(
        !bench.store.credentials_dir("other").exists()
            && !bench.store.credentials_dir("mine").exists()
    );
    assert_eq!(bench.store.load().unwrap(), shoal_client::context::Contexts::default());
}
