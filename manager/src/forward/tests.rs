//! Three managers, asked at any of them; and who would like to be taken for somebody else.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use shoal_manager_state::Command;
use shoal_proto::v1 as pb;
use shoal_proto::v1::ca_client::CaClient;
use shoal_transport::{
    ConnectInfo, Identity, LiveCredentials, Peer, PeerId, PrivateKey, Role, is_undone, join,
};
use shoal_types::object::NodeDescription;
use shoal_types::spec::NodeRole;
use tonic::metadata::{BinaryMetadataValue, MetadataKey};
use tonic::{Code, Request, Status};

use super::caller;
use crate::server::testing::{PATIENCE, Trio, certified, eventually};

fn spec(name: &str) -> pb::CreateServiceRequest {
    let spec = shoal_manager_state::testing::service_spec(name, 1);
    pb::CreateServiceRequest { spec: Some((&spec).into()), ..Default::default() }
}

fn session() -> pb::SessionRequest {
    let description = NodeDescription { hostname: "agent".into(), ..Default::default() };
    pb::SessionRequest { description: Some((&description).into()), ..Default::default() }
}

fn get(name: &str) -> pb::GetServiceRequest {
    pb::GetServiceRequest { reference: name.to_owned() }
}

/// A user who was made a moment ago is one wherever it calls.
async fn a_new_user_is_known_everywhere(trio: &Trio) {
    let mut control = trio.control(trio.follower().await, &trio.admin());
    let key = PrivateKey::generate().expect("key");
    let request = pb::CreateUserRequest {
        spec: Some(pb::UserSpec {
            name: "eve".into(),
            role: pb::UserRole::Viewer.into(),
            ..Default::default()
        }),
        csr_der: key.request().expect("csr"),
    };
    let user = control.create_user(request).await.expect("made").into_inner().user.expect("user");
    let eve = PeerId::User(user.id.parse().expect("id"));
    let eve = certified(&trio.ca, eve, Role::User);
    for at in 0..3 {
        trio.control(at, &eve).get_service(get("web")).await.expect("she may look");
        let refused =
            trio.control(at, &eve).create_service(spec("other")).await.expect_err("may not");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_follows_answers_like_the_leader_and_bears_its_end() {
    let mut trio = Trio::start().await;
    let (admin, follower) = (trio.admin(), trio.follower().await);
    let mut control = trio.control(follower, &admin);

    // A write, and a read that has it, wherever it is asked for.
    control.create_service(spec("web")).await.expect("written");
    for at in 0..3 {
        let mut control = trio.control(at, &admin);
        let found = control.get_service(get("web")).await.expect("read").into_inner();
        assert_eq!(
            found.service.and_then(|s| s.service).and_then(|s| s.spec).map(|s| s.name),
            Some("web".into())
        );
    }
    let own = control.get_user(pb::GetUserRequest::default()).await.expect("known").into_inner();
    let own = own.user.and_then(|user| user.spec).map(|spec| spec.name);
    assert_eq!(own.as_deref(), Some("admin"), "the leader knows who has called");
    // Which one it is, it says itself.
    let version = control.get_version(pb::GetVersionRequest {}).await.expect("read").into_inner();
    assert_eq!(version.node_id, trio.managers[follower].node.to_string());
    a_new_user_is_known_everywhere(&trio).await;

    // Streams: what happens is told, until another one leads; then the next is there.
    let watching = pb::WatchRequest::default();
    let mut events = control.watch(watching.clone()).await.expect("open").into_inner();
    events.message().await.expect("started");
    control.create_service(spec("more")).await.expect("written");
    events.message().await.expect("told").expect("an event");
    let (_, agent) = trio.node(NodeRole::Agent).await;
    let mut dispatcher = trio.dispatcher(follower, &agent);
    let mut open = dispatcher.session(session()).await.expect("open").into_inner();
    let first = open.message().await.expect("begins").expect("a message").message;
    assert!(matches!(first, Some(pb::session_message::Message::Started(_))), "{first:?}");

    let leader = trio.leader().await;
    trio.managers[leader].kill();
    let ended = in_time("the streams end", async {
        let session = async { while let Ok(Some(_)) = open.message().await {} };
        let watch = async {
            loop {
                match events.message().await {
                    Ok(Some(_)) => {}
                    end => return end.err().map(|status| status.code()),
                }
            }
        };
        tokio::join!(watch, session).0
    });
    assert_eq!(ended.await, Some(Code::Unavailable));
    // Nobody hears that there is no leader, or that the one that was asked is none.
    in_time("it is written", control.create_service(spec("third"))).await.expect("waits");
    control.get_service(get("third")).await.expect("read");
    eventually("the agent has a session again", || {
        let mut dispatcher = dispatcher.clone();
        async move { dispatcher.session(session()).await.ok() }
    })
    .await;
    control.watch(watching).await.expect("open again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_by_a_manager_that_follows() {
    let trio = Trio::start().await;
    let follower = trio.follower().await;
    let (token, key) =
        (trio.ca.join_token(trio.secrets.agent), PrivateKey::generate().expect("key"));
    let address = trio.managers[follower].address.to_string().parse().expect("address");
    let joined = join(address, &token, &key, pb::NodeHints::default()).await.expect("joined");
    let agent = LiveCredentials::new(joined).expect("usable");
    let mut open = trio.dispatcher(follower, &agent).session(session()).await.expect("open");
    open.get_mut().message().await.expect("begins").expect("a message");
    // Its address is where it called from, not that of the manager in between.
    let request = pb::RenewCertificateRequest { csr_der: key.request().expect("csr") };
    CaClient::new(trio.channel(follower, &agent))
        .renew_certificate(request)
        .await
        .expect("renewed");
}

/// A call of `as_whom` that says it was made by somebody else.
fn forged<T>(message: T, as_whom: Identity) -> Request<T> {
    let info = ConnectInfo {
        address: "10.9.9.9:9".parse().expect("address"),
        peer: Arc::new(Peer::Trusted(as_whom)),
    };
    let caller = caller::message(&info).expect("vouched for").encode_to_vec();
    let mut request = Request::new(message);
    let key = MetadataKey::from_static("shoal-caller-bin");
    request.metadata_mut().insert_bin(key, BinaryMetadataValue::from_bytes(&caller));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_a_manager_speaks_for_others() {
    let trio = Trio::start().await;
    let (leader, follower) = (trio.leader().await, trio.follower().await);
    let (admin, (victim, _)) = (trio.admin(), trio.node(NodeRole::Agent).await);
    let (_, agent) = trio.node(NodeRole::Agent).await;
    let as_admin = *admin.current().identity();
    let as_node = Identity { id: PeerId::Node(victim), role: Role::Agent, ..as_admin };
    let (removed, manager) = trio.node(NodeRole::Manager).await;

    let refused = |status: Status, who: &str| {
        assert_eq!(status.code(), Code::PermissionDenied, "{who}: {status}");
    };
    for at in [leader, follower] {
        let mut dispatcher = trio.dispatcher(at, &agent);
        let tried = dispatcher.session(forged(session(), as_node)).await;
        refused(tried.expect_err("an agent as another node"), "agent");
        let tried = trio.control(at, &agent).create_service(forged(spec("x"), as_admin)).await;
        refused(tried.expect_err("an agent as an admin"), "agent");
        let tried = trio.control(at, &admin).create_service(forged(spec("x"), as_admin)).await;
        refused(tried.expect_err("even as itself"), "user");
    }
    // A manager does; and not for what is no caller, nor twice.
    let mut control = trio.control(leader, &manager);
    control.create_service(forged(spec("by"), as_admin)).await.expect("a manager may");
    let mut nonsense = Request::new(spec("x"));
    let key = MetadataKey::from_static("shoal-caller-bin");
    nonsense.metadata_mut().insert_bin(key, BinaryMetadataValue::from_bytes(b"nonsense"));
    let tried = control.create_service(nonsense).await.expect_err("nobody");
    assert_eq!(tried.code(), Code::InvalidArgument, "{tried}");
    let mut at_follower = trio.control(follower, &manager);
    let tried = at_follower.create_service(forged(spec("x"), as_admin)).await.expect_err("twice");
    assert!(tried.code() == Code::Unavailable && is_undone(&tried), "{tried}");

    // One that was removed gains nothing; what it has open ends.
    let mut open = trio
        .dispatcher(leader, &manager)
        .session(forged(session(), as_node))
        .await
        .expect("a manager may")
        .into_inner();
    open.message().await.expect("begins");
    let command = Command::RemoveNode { id: removed, force: true };
    trio.managers[leader].cluster.propose(command).await.expect("removed");
    let end = in_time("its stream ends", async {
        loop {
            if let Err(end) = open.message().await.map(|message| message.expect("no good end")) {
                return end;
            }
        }
    });
    // Whose stream it is has lost nothing, and begins anew elsewhere.
    let end = end.await;
    assert!(end.code() == Code::Unavailable && !is_undone(&end), "{end}");
    let tried = control.create_service(forged(spec("y"), as_admin)).await;
    refused(tried.expect_err("removed"), "a removed manager");
    let tried = control.create_service(spec("y")).await.expect_err("removed");
    assert_eq!(tried.code(), Code::Unauthenticated, "{tried}");

    // Nothing came of any of it.
    let listed = trio.managers[leader].cluster.view();
    let names: Vec<_> = listed.services().map(|service| service.spec.name.clone()).collect();
    assert_eq!(names, ["by"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_a_caller_waits_a_while_and_may_try_again() {
    let mut trio = Trio::start().await;
    let (admin, leader, follower) = (trio.admin(), trio.leader().await, trio.follower().await);
    let third = (0..3).find(|at| ![leader, follower].contains(at)).expect("three");
    trio.managers[leader].kill();
    trio.managers[third].kill();
    let began = std::time::Instant::now();
    let mut request = Request::new(get("web"));
    request.set_timeout(Duration::from_secs(30));
    let refused = in_time("an answer", trio.control(follower, &admin).get_service(request)).await;
    let refused = refused.expect_err("nobody leads");
    assert!(refused.code() == Code::Unavailable && is_undone(&refused), "{refused}");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    // What a manager answers for itself it answers at once.
    let asked = trio.control(follower, &admin).get_version(pb::GetVersionRequest {}).await;
    asked.expect("it lives");
}
