//! Who answers for a manager.

use shoal_proto::v1::raft_client::RaftClient;
use shoal_proto::v1::{Vote, VoteRequest};
use shoal_types::id::{ClusterId, IdSource as _};
use tonic::{Code, Status};

use super::*;
use crate::ca::CertificateAuthority;
use crate::clock::RandomIds;
use shoal_manager_raft::testing::{Recorder, open, quick};

/// A manager of this cluster, with a certificate as the authority makes them.
fn manager(ca: &CertificateAuthority) -> (NodeId, LiveCredentials) {
    let node: NodeId = RandomIds.next_id();
    let key = PrivateKey::generate().expect("key");
    let own = ca.certify(&key, PeerId::Node(node), Role::Manager, clock::now()).expect("issued");
    (node, LiveCredentials::new(own).expect("usable"))
}

/// Asks the Raft member behind `address`, which is to be on `node`, for its vote.
async fn ask(as_whom: &LiveCredentials, node: NodeId, address: &str) -> Status {
    let (_sender, identities) = watch::channel(Some(as_whom.clone()));
    let channel = TlsConnector { identities }.channel(node, address).await.expect("lazy");
    let vote = Some(Vote { term: 1, node_id: 1, committed: false });
    let request = VoteRequest { target: 1, vote, last_log_id: None };
    RaftClient::new(channel).request_vote(request).await.expect_err("no member has the id 1")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_managers_certificate_does_not_answer_for_a_manager() {
    let ca = CertificateAuthority::create(ClusterId::from(1), clock::now()).expect("authority");
    let (honest, _) = manager(&ca);
    let (attacker, attackers) = manager(&ca);
    let (_, asking) = manager(&ca);

    // The attacker has taken the address of the honest one: it listens there, with a good
    // certificate of its own, and serves Raft.
    let dir = tempfile::tempdir().expect("temp dir");
    let raft = open(dir.path(), &Recorder::default(), &quick()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let stop = CancellationToken::new();
    let server = server_builder().add_service(raft.service()).serve_with_incoming_shutdown(
        incoming(listener, attackers, IncomingLimits::default()),
        stop.clone().cancelled_owned(),
    );
    let server = tokio::spawn(server);

    let refused = ask(&asking, honest, &address).await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("certificate"), "{refused}");
    // As itself it is heard: what was refused is the name, nothing else.
    let heard = ask(&asking, attacker, &address).await;
    assert_eq!(heard.code(), Code::FailedPrecondition, "{heard}");
    assert!(heard.message().contains("this is raft member"), "{heard}");

    stop.cancel();
    raft.shutdown().await;
    server.await.expect("served").expect("in order");
}
