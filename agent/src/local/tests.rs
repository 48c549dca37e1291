//! The local socket with a fake workload, a fake manager, and a script in the manager's place.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::ready;

use shoal_agent_image::StoreConfig;
use shoal_proto::v1::bootstrap_server::{Bootstrap, BootstrapServer};
use shoal_proto::v1::local_agent_client::LocalAgentClient;
use shoal_transport::{PrivateKey, removed, server_builder, unix_channel, unix_incoming};
use shoal_types::object::NodeDescription;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::identity::{ClusterFile, IdentityStore, ManagerEndpoint};
use crate::manager_child::{ManagerChild, ManagerConfig, ManagerState};
use crate::node::NodeParts;
use crate::testing::{Asked, FakeManager, FakeWorkload, TestCa, eventually};

struct Bench {
    dir: tempfile::TempDir,
    node: Arc<Node>,
    workload: Arc<FakeWorkload>,
    client: LocalAgentClient<Channel>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn manager_config(dir: &Path, user: &str) -> ManagerConfig {
    let program = dir.join("manager");
    ManagerConfig {
        program: Box::new(move || program.clone()),
        user: user.to_owned(),
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        pid_file: dir.join("manager.pid"),
        log_format: "text",
        log_level: "info".to_owned(),
    }
}

fn me() -> String {
    format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

impl Bench {
    fn start(script: &str, user: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let program = dir.path().join("manager");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let workload = Arc::new(FakeWorkload::default());
        let describe = || {
            let hostname = "me".to_owned();
            ready(NodeDescription { hostname, ..Default::default() }).boxed()
        };
        let node = Node::open(NodeParts {
            line: Default::default(),
            store: IdentityStore::new(dir.path().join("agent")),
            manager: ManagerChild::new(manager_config(dir.path(), user)),
            workload: workload.clone(),
            describe: Arc::new(describe),
        });
        let node = Arc::new(node.expect("opens"));
        let images =
            ImageStore::open(&dir.path().join("images"), StoreConfig::default()).expect("opens");
        let local = Local::new(node.clone(), images, dir.path().join("upload")).expect("prepared");
        let socket = dir.path().join("agent.sock");
        let connections = unix_incoming(&socket).expect("listens");
        let server = tokio::spawn(async move {
            let server = server_builder().add_service(local.into_server());
            server.serve_with_incoming(connections).await.expect("serves");
        });
        let runner = node.clone();
        let runner = tokio::spawn(async move { runner.run().await });
        let client = LocalAgentClient::new(unix_channel(&socket));
        Self { dir, node, workload, client, tasks: [server, runner] }
    }

    async fn info(&self) -> v1::GetInfoResponse {
        let info = self.client.clone().get_info(v1::GetInfoRequest {}).await;
        info.expect("answers").into_inner()
    }

    async fn state(&self, wanted: v1::MembershipState) -> v1::GetInfoResponse {
        for _ in 0..1000 {
            let info = self.info().await;
            if info.state() == wanted {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {wanted:?}: {:?}", self.info().await);
    }

    async fn join(&self, token: String, addrs: &[String]) -> Result<v1::JoinResponse, Status> {
        let request = v1::JoinRequest {
            join_token: token,
            manager_addrs: addrs.to_vec(),
            ..Default::default()
        };
        self.client.clone().join(request).await.map(Response::into_inner)
    }

    async fn init(&self, listen: &str) -> Result<v1::InitResponse, Status> {
        let csr = PrivateKey::generate().expect("key").request().expect("request");
        let request = v1::InitRequest {
            listen_addr: listen.to_owned(),
            advertise_addr: String::new(),
            admin_csr_der: csr,
            spec: None,
        };
        self.client.clone().init(request).await.map(Response::into_inner)
    }

    async fn leave(&self, force: bool) -> Result<v1::LeaveResponse, Status> {
        self.client.clone().leave(v1::LeaveRequest { force }).await.map(Response::into_inner)
    }
}

async fn manager(cluster: u128) -> FakeManager {
    FakeManager::start(Arc::new(TestCa::new(cluster))).await
}

fn free_address() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    socket.local_addr().expect("address").to_string()
}

#[tokio::test]
async fn a_host_joins_once_and_leaves() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let info = bench.info().await;
    assert_eq!((info.state(), info.hostname.as_str()), (v1::MembershipState::Inactive, "me"));

    let token = manager.ca.token(7).reveal();
    let addrs = [free_address(), manager.address.to_string()];
    let joined = bench.join(token.clone(), &addrs).await.expect("joins");
    assert_eq!(joined.cluster_id, manager.ca.cluster.to_string());
    assert_eq!(joined.role(), v1::NodeRole::Agent);
    let info = bench.state(v1::MembershipState::Active).await;
    assert_eq!(
        (info.node_id, info.cluster_id),
        (joined.node_id.clone(), joined.cluster_id.clone())
    );
    assert_eq!(info.manager_addrs, addrs);

    // Nothing joins a second time, and nobody is told that it did.
    let status = bench.join(token.clone(), &addrs).await.expect_err("a member already");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let said = format!("this host is node {} of this cluster already; leave it", joined.node_id);
    assert!(status.message().contains(&said), "{status}");
    let other = TestCa::new(2).token(7).reveal();
    let status = bench.join(other, &addrs).await.expect_err("a second cluster");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("already; leave that first"), "{status}");

    bench.workload.inner().cannot_leave = Some("a container stays".to_owned());
    let status = bench.leave(false).await.expect_err("cannot");
    assert!(status.message().contains("a container stays"), "{status}");
    bench.state(v1::MembershipState::Active).await;
    assert!(manager.seen().left.is_empty(), "it has not stopped everything");
    let left = bench.leave(false).await.expect("leaves");
    assert_eq!((left.not_told.as_str(), &left.node_id), ("", &joined.node_id));
    assert_eq!(manager.seen().left, [joined.node_id]);
    let status = bench.leave(false).await.expect_err("a repeat");
    assert_eq!(status.message(), "this host belongs to no cluster");
    bench.state(v1::MembershipState::Inactive).await;
    let asked = bench.workload.inner().asked.clone();
    assert_eq!(asked.iter().filter(|asked| **asked == Asked::Leave).count(), 2);
    assert!(bench.node.store().credentials().expect("readable").is_none());
}

/// Before a host leaves its node is drained, while its sessions go on.
#[tokio::test]
async fn a_host_is_drained_before_it_leaves() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let drain = async || {
        let answer = bench.client.clone().drain(v1::DrainRequest {}).await;
        answer.map(Response::into_inner)
    };
    let status = drain().await.expect_err("no member");
    assert_eq!(status.message(), "this host belongs to no cluster");
    let addrs = [free_address(), manager.address.to_string()];
    let joined = bench.join(manager.ca.token(7).reveal(), &addrs).await.expect("joins");
    bench.state(v1::MembershipState::Active).await;

    let first = drain().await.expect("drained");
    assert_eq!((first.not_told.as_str(), &first.node_id), ("", &joined.node_id));
    assert!(first.drained.expect("by a manager").begun);
    let again = v1::DrainNodeResponse { left: 2, awaited: 1, ..Default::default() };
    manager.seen().drained = Some(again.clone());
    assert_eq!(drain().await.expect("answers").drained, Some(again));
    assert_eq!(bench.info().await.state(), v1::MembershipState::Active);
    assert!(!bench.workload.inner().asked.contains(&Asked::Leave), "nothing is stopped");

    // Nobody can be told, and there is nothing to tell.
    let table = [
        (removed(Status::unauthenticated("node x is not a member")), ""),
        (Status::unauthenticated("the certificate has expired"), "has expired"),
        (Status::unimplemented("an older one"), "an older one"),
        (Status::unavailable("does not lead"), "does not lead"),
    ];
    for (refusal, why) in table {
        manager.seen().refuse = Some(refusal.clone());
        let said = drain().await.expect("it may go all the same");
        assert_eq!(said.drained, None, "{refusal}");
        assert!(said.not_told.contains(why) && said.not_told.is_empty() == why.is_empty());
    }
    manager.seen().refuse = None;
    bench.leave(false).await.expect("leaves");
}

/// The words about a membership are a manager's.
#[tokio::test]
async fn a_removed_host_does_not_join_before_it_has_left() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let (token, addrs) = (manager.ca.token(7).reveal(), [manager.address.to_string()]);
    bench.join(token.clone(), &addrs).await.expect("joins");
    bench.state(v1::MembershipState::Active).await;
    manager.seen().refuse = Some(Status::unauthenticated("node x is not a member (any more)"));
    manager.seen().sessions.clear();
    bench.state(v1::MembershipState::Error).await;
    let status = bench.join(token.clone(), &addrs).await.expect_err("nothing joins");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("refuses it now: "), "{status}");
    assert!(status.message().contains("leave it first, then join again"), "{status}");

    manager.seen().refuse = None;
    bench.leave(false).await.expect("leaves");
    bench.join(token, &addrs).await.expect("joins again");
    bench.state(v1::MembershipState::Active).await;
}

/// With no manager in reach a host can still go; it says who has to be told.
#[tokio::test]
async fn a_host_that_leaves_unheard_says_so() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let addrs = [manager.address.to_string()];
    let joined = bench.join(manager.ca.token(7).reveal(), &addrs).await.expect("joins");
    drop(manager);
    let left = bench.leave(false).await.expect("leaves");
    assert!(left.not_told.contains(&addrs[0]), "{left:?}");
    assert_eq!(left.node_id, joined.node_id);
    bench.state(v1::MembershipState::Inactive).await;
}

/// What is said of a manager is kept for the time when there is one.
#[tokio::test]
async fn a_host_that_joins_may_say_where_its_manager_will_be() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let request = v1::JoinRequest {
        join_token: manager.ca.token(7).reveal(),
        manager_addrs: vec![manager.address.to_string()],
        listen_addr: "10.0.0.2:1".to_owned(),
        ..Default::default()
    };
    let nonsense = v1::JoinRequest { advertise_addr: "http://x".to_owned(), ..request.clone() };
    let status = bench.client.clone().join(nonsense).await.expect_err("no address");
    assert!(status.message().starts_with("advertise_addr: "), "{status}");
    bench.client.clone().join(request).await.expect("joins");
    let cluster = bench.node.store().cluster().expect("readable");
    let said = cluster.endpoint.expect("kept");
    assert_eq!((&*said.listen, &*said.advertise), ("10.0.0.2:1", "10.0.0.2:1"));
    assert_eq!(cluster.manager, None, "it is a worker");
}

/// A manager runs here.
fn runs(bench: &Bench) -> bool {
    matches!(bench.node.manager().state(), ManagerState::Running { .. })
}

#[tokio::test]
async fn the_manager_of_a_host_comes_and_goes_with_its_role() {
    let manager = manager(1).await;
    let bench = Bench::start("mkdir -p \"$3/raft\"; exec sleep 1000", &me());
    let own = free_address();
    let request = v1::JoinRequest {
        join_token: manager.ca.token(7).reveal(),
        manager_addrs: vec![manager.address.to_string()],
        listen_addr: own.clone(),
        ..Default::default()
    };
    bench.client.clone().join(request).await.expect("joins");
    bench.state(v1::MembershipState::Active).await;
    let kept = bench.dir.path().join("state");
    let told = async |role: v1::NodeRole| {
        let facts = v1::ClusterFacts { managers: Vec::new(), role: role.into() };
        manager.say(v1::session_message::Message::Facts(facts)).await;
    };
    let at = || bench.node.store().cluster().expect("readable").manager.map(|m| m.listen);
    for _ in 0..2 {
        told(v1::NodeRole::Manager).await;
        eventually("it runs", || (runs(&bench) && kept.join("raft").exists()).then_some(())).await;
        assert_eq!(at(), Some(own.clone()));
        told(v1::NodeRole::Agent).await;
        eventually("it is gone with what it kept", || {
            (!runs(&bench) && !kept.exists() && at().is_none()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_host_with_a_manager_steps_down_before_it_leaves() {
    let manager = manager(1).await;
    manager.seen().role = Some(Role::Manager);
    let bench = Bench::start("exec sleep 1000", &me());
    let request = v1::JoinRequest {
        join_token: manager.ca.token(7).reveal(),
        manager_addrs: vec![manager.address.to_string()],
        listen_addr: free_address(),
        ..Default::default()
    };
    let joined = bench.client.clone().join(request).await.expect("joins").into_inner();
    assert_eq!(joined.role(), v1::NodeRole::Manager);
    bench.state(v1::MembershipState::Active).await;
    eventually("its manager runs", || runs(&bench).then_some(())).await;

    manager.seen().needed = Some(Status::failed_precondition("it is the last manager"));
    let status = bench.leave(false).await.expect_err("needed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    for part in ["the cluster needs: it is the last manager", "force it if"] {
        assert!(status.message().contains(part), "{part}: {status}");
    }
    let status = bench.client.clone().drain(v1::DrainRequest {}).await.expect_err("needed");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(manager.seen().drained.is_none(), "nothing is drained in vain");
    assert!(runs(&bench), "it goes on");

    manager.seen().needed = None;
    manager.seen().stepped.clear();
    let left = bench.leave(false).await.expect("leaves");
    assert_eq!(left.not_told, "");
    assert_eq!(manager.seen().stepped, [false; 3], "until the others go on without it");
    assert_eq!(manager.seen().left, [joined.node_id]);
    assert!(!runs(&bench) && !bench.dir.path().join("state").exists());
}

#[tokio::test]
async fn a_join_that_fails_says_why_and_keeps_its_key() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let here = [manager.address.to_string()];
    let token = |secret| manager.ca.token(secret).reveal();
    let table = [
        (token(8), here.to_vec(), Code::PermissionDenied, "secret is not valid"),
        (TestCa::new(2).token(7).reveal(), here.to_vec(), Code::Unavailable, "another cluster"),
        (token(7), vec![free_address()], Code::Unavailable, "nothing listens there"),
        (token(7), Vec::new(), Code::InvalidArgument, "manager_addrs"),
        (token(7), vec!["http://x".to_owned()], Code::InvalidArgument, "manager_addrs"),
        ("SHOAL-1-x".to_owned(), here.to_vec(), Code::InvalidArgument, "truncated"),
    ];
    for (token, addrs, code, text) in table {
        let status = bench.join(token, &addrs).await.expect_err(text);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let before = bench.node.store().enrolment_key().expect("kept").public_key();
    std::fs::create_dir_all(bench.dir.path().join("state/raft")).expect("mkdir");
    manager.seen().role = Some(Role::Manager);
    let status = bench.join(token(7), &here).await.expect_err("somebody's manager");
    assert!(status.message().contains("holds a manager's state"), "{status}");
    manager.seen().role = None;
    bench.join(token(7), &here).await.expect("joins");
    let after = manager.seen().joined.clone();
    assert_eq!(after[0], after[1], "the same key at each attempt");
    let now = bench.node.store().credentials().expect("readable").expect("member");
    let key = PrivateKey::from_pem(now.key_pem()).expect("key");
    assert_eq!(key.public_key(), before);
}

#[tokio::test]
async fn a_membership_outlives_the_agent() {
    let manager = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let addrs = [manager.address.to_string()];
    bench.join(manager.ca.token(7).reveal(), &addrs).await.expect("joins");
    let node = Node::open(NodeParts {
        line: Default::default(),
        store: bench.node.store().clone(),
        manager: ManagerChild::new(manager_config(bench.dir.path(), &me())),
        workload: bench.workload.clone(),
        describe: Arc::new(|| ready(NodeDescription::default()).boxed()),
    });
    assert!(node.expect("opens").member().is_some());
}

#[tokio::test]
async fn init_says_what_is_in_its_way() {
    let bench = Bench::start("exit 3", "nobody-of-this-name");
    let status = bench.init(&free_address()).await.expect_err("no user");
    assert!(status.message().contains("--manager-user"), "{status}");

    let bench = Bench::start("exit 3", &me());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let status = bench.init(&address).await.expect_err("port in use");
    assert!(status.message().contains("cannot listen on"), "{status}");

    let status = bench.init(&free_address()).await.expect_err("no manager");
    assert!(status.message().contains("exit status: 3"), "{status}");
    let stopped = || (bench.node.manager().state() == ManagerState::Stopped).then_some(());
    eventually("nothing is left running", stopped).await;
    assert_eq!(bench.info().await.state(), v1::MembershipState::Inactive);

    std::fs::create_dir_all(bench.dir.path().join("state/raft")).expect("mkdir");
    bench.node.store().forget().expect("forgotten");
    let status = bench.init(&free_address()).await.expect_err("somebody's state");
    assert!(status.message().contains("move it away first"), "{status}");
}

#[tokio::test]
async fn what_is_no_archive_is_no_image() {
    let bench = Bench::start("exit 1", &me());
    let load = |pieces: Vec<Vec<u8>>| {
        let pieces = pieces.into_iter().map(|data| v1::LoadImageRequest { data });
        let mut client = bench.client.clone();
        async move { client.load_image(futures::stream::iter(pieces)).await }
    };
    let status = load(Vec::new()).await.expect_err("empty");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let status = load(vec![vec![7; 100_000], vec![7; 100_000]]).await.expect_err("nonsense");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let left = std::fs::read_dir(bench.dir.path().join("upload")).expect("list").count();
    assert_eq!(left, 0, "no file stays");
    let images = bench.client.clone().list_images(v1::ListImagesRequest {}).await;
    let part = images.expect("answers").into_inner().message().await.expect("a list");
    assert_eq!(part, None, "an empty list has no part");
    let request = v1::RemoveImageRequest { reference: "web:1".to_owned() };
    let status = bench.client.clone().remove_image(request).await.expect_err("none");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

/// A manager that issues certificates of its name to whoever asks.
struct Issuer;

#[tonic::async_trait]
impl Bootstrap for Issuer {
    async fn bootstrap(
        &self,
        _: Request<v1::BootstrapRequest>,
    ) -> Result<Response<v1::BootstrapResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn prepare_manager(
        &self,
        _: Request<v1::PrepareManagerRequest>,
    ) -> Result<Response<v1::PrepareManagerResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn join_managers(
        &self,
        _: Request<v1::JoinManagersRequest>,
    ) -> Result<Response<v1::JoinManagersResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn renew_node_certificate(
        &self,
        _: Request<v1::RenewNodeCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn issue_user_certificate(
        &self,
        request: Request<v1::IssueUserCertificateRequest>,
    ) -> Result<Response<v1::IssueUserCertificateResponse>, Status> {
        if request.get_ref().csr_der.is_empty() {
            return Err(Status::invalid_argument("csr_der: is empty"));
        }
        let cluster_name = "prod".to_owned();
        Ok(Response::new(v1::IssueUserCertificateResponse { cluster_name, ..Default::default() }))
    }
}

#[tokio::test]
async fn users_get_certificates_where_a_manager_runs() {
    let fake = manager(1).await;
    let bench = Bench::start("exit 1", &me());
    let ask = |csr_der: &[u8]| {
        let request = v1::IssueUserCertificateRequest { csr_der: csr_der.to_vec() };
        let mut client = bench.client.clone();
        async move { client.issue_user_certificate(request).await.map(Response::into_inner) }
    };
    let refused = async |csr: &[u8], code, text| {
        let status = ask(csr).await.expect_err(text);
        assert!(status.code() == code && status.message().contains(text), "{status}");
    };
    refused(b"x", Code::FailedPrecondition, "belongs to no cluster").await;
    let here = fake.address.to_string();
    bench.join(fake.ca.token(7).reveal(), std::slice::from_ref(&here)).await.expect("joins");
    refused(b"x", Code::FailedPrecondition, "no manager runs on this host").await;
    refused(b"x", Code::FailedPrecondition, &here).await;

    let endpoint = ManagerEndpoint { listen: here.clone(), advertise: "10.0.0.9:1".to_owned() };
    let (managers, manager) = (vec![here.clone()], Some(endpoint));
    let cluster = ClusterFile { managers, manager, endpoint: None };
    bench.node.store().save_cluster(&cluster).expect("saved");
    refused(b"x", Code::FailedPrecondition, "does not answer on").await;
    let socket = bench.dir.path().join("run/manager.sock");
    std::fs::create_dir_all(bench.dir.path().join("run")).expect("mkdir");
    let server = server_builder().add_service(BootstrapServer::new(Issuer));
    tokio::spawn(server.serve_with_incoming(unix_incoming(&socket).expect("listens")));
    refused(b"", Code::InvalidArgument, "csr_der: is empty").await;
    let answer = ask(b"x").await.expect("issued");
    assert_eq!(answer.cluster_name, "prod");
    assert_eq!(answer.manager_addrs, ["10.0.0.9:1".to_owned(), here]);
}
