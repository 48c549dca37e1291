//! What a client makes of the server it reaches, and what it then says.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn message(channel: Channel) -> String {
    let status = who_am_i(channel).await.expect_err("must fail");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    status.message().to_owned()
}

#[tokio::test]
async fn servers_that_are_no_manager_of_ours_are_refused_with_the_reason() {
    let ca = TestCa::new(ours());
    let foreign = TestCa::new(ClusterId::from(2));
    let twin = TestCa::new(ours());
    let me = ca.live(7, Role::Agent);
    let manager = || Wanted::new(1, Role::Manager);
    let table = [
        (ca.issue(Wanted { not_before: -7200, not_after: -60, ..manager() }), "expired on 20"),
        (ca.issue(Wanted { not_before: 600, ..manager() }), "is not valid yet"),
        (foreign.issue(manager()), "was issued by another cluster's CA"),
        (twin.issue(manager()), "was issued by another cluster's CA"),
        (
            ca.issue(Wanted { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..manager() }),
            "is not one of a manager",
        ),
        (
            ca.issue(Wanted { names: vec![], ..manager() }),
            "is not valid for manager.shoal, only for",
        ),
    ];
    for (credentials, expected) in table {
        let live = LiveCredentials::new(credentials).expect("usable");
        let server = TestServer::start(live).await;
        let said = message(dial(server.address, &me)).await;
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert!(said.contains(&server.address.to_string()), "{said:?} lacks the address");
    }
}

#[tokio::test]
async fn one_certain_manager_can_be_demanded() {
    let ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let me = ca.live(7, Role::Manager);
    let to = |id: u128| {
        let name = format!("{}.{NODE_DOMAIN}", NodeId::from(id));
        client_channel(server.address.into(), me.clone(), &name).expect("channel")
    };
    who_am_i(to(1)).await.expect("it is node 1");
    let said = message(to(2)).await;
    let expected = format!("not valid for {}.shoal", NodeId::from(2));
    assert!(said.contains(&expected), "{said:?} lacks {expected:?}");
}

#[tokio::test]
async fn joiners_trust_the_digest_only() {
    let ca = TestCa::new(ours());
    let evil = TestCa::new(ours());
    let key = PrivateKey::generate().expect("key");
    let join =
        |address: SocketAddr| joining_channel(address.into(), ca.digest(), &key).expect("channel");

    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    who_am_i(join(server.address)).await.expect("the right cluster");

    let server = TestServer::start(evil.live(1, Role::Manager)).await;
    let said = message(join(server.address)).await;
    assert!(said.contains("the token belongs to another cluster"), "{said}");
    assert!(said.contains(&ca.digest().to_string()), "{said}");
    assert!(said.contains(&evil.digest().to_string()), "{said}");

    // Somebody in between shows the right root, which is no secret, behind a leaf of its own.
    let own = evil.issue(Wanted::new(1, Role::Manager));
    let (chain, own_key) = (own.chain_pem().to_owned(), own.key_pem().clone());
    let posing = Credentials::from_pem(chain, own_key, ca.root_pem.clone()).expect("fits");
    let server = TestServer::start(LiveCredentials::new(posing).expect("usable")).await;
    let said = message(join(server.address)).await;
    assert!(said.contains("was issued by another cluster's CA"), "{said}");

    // An agent of the right cluster poses as a manager.
    let server = TestServer::start(ca.live(5, Role::Agent)).await;
    let said = message(join(server.address)).await;
    assert!(said.contains("certificate is not"), "{said}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let ca = TestCa::new(ours());
    let me = ca.live(7, Role::User);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = closed.local_addr().expect("address");
    drop(closed);
    let said = message(dial(address, &me)).await;
    assert_eq!(
        said,
        format!("cannot connect to {address}: connection refused, nothing listens there")
    );

    let nowhere = "no-such-host.invalid:4242".parse().expect("address");
    let channel = client_channel(nowhere, me, MANAGER_NAME).expect("channel");
    let said = message(channel).await;
    assert!(said.contains("cannot connect to no-such-host.invalid:4242"), "{said}");
}

#[tokio::test]
async fn what_is_no_manager_is_named() {
    let ca = TestCa::new(ours());
    let me = ca.live(7, Role::User);
    let table: [(&[u8], &str); 2] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak TLS"),
        (b"", "it closed the connection during the TLS handshake"),
    ];
    for (answer, expected) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let server = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.expect("accept");
                // Take the ClientHello, or closing would reset the connection.
                let _ = tcp.read(&mut [0; 4096]).await;
                let _ = tcp.write_all(answer).await;
            }
        });
        let said = message(dial(address, &me)).await;
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        server.abort();
    }
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let ca = TestCa::new(ours());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let said = message(dial(address, &ca.live(7, Role::User))).await;
    assert_eq!(said, format!("cannot connect to {address}: no answer within 5s"));
}
