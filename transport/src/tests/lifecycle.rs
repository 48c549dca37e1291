//! Restarts, renewals, slow peers, files.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use tokio::net::TcpStream;

use super::*;

/// Calls until the answer is `Ok`, for at most ten seconds.
async fn eventually(channel: &Channel) -> String {
    let start = Instant::now();
    loop {
        match who_am_i(channel.clone()).await {
            Ok(answer) => return answer,
            Err(status) if start.elapsed() > Duration::from_secs(10) => panic!("{status}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn a_channel_outlives_its_server() {
    let ca = TestCa::new(ours());
    let credentials = ca.live(1, Role::Manager);
    let server = TestServer::start(credentials.clone()).await;
    let address = server.address;
    let channel = dial(address, &ca.live(7, Role::Agent));
    who_am_i(channel.clone()).await.expect("first");
    drop(server);
    // Down: calls fail, and say so, without spoiling the channel.
    let start = Instant::now();
    while who_am_i(channel.clone()).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "the dropped server still answers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _server = TestServer::start_at(address, credentials).await;
    eventually(&channel).await;
}

#[tokio::test]
async fn renewed_credentials_are_used_without_a_restart() {
    let ca = TestCa::new(ours());
    let serving = ca.live(1, Role::Manager);
    let server = TestServer::start(serving.clone()).await;
    let calling = ca.live(7, Role::Agent);
    let old = dial(server.address, &calling);
    let name = |id: u128| NodeId::from(id);
    assert_eq!(who_am_i(old.clone()).await.expect("old"), format!("node {} as agent", name(7)));

    let changed = tokio::spawn({
        let calling = calling.clone();
        async move { calling.changed().await }
    });
    tokio::task::yield_now().await;
    calling.replace(ca.issue(Wanted::new(8, Role::Agent))).expect("usable");
    changed.await.expect("told");
    let fresh = dial(server.address, &calling);
    assert_eq!(who_am_i(fresh).await.expect("new"), format!("node {} as agent", name(8)));
    // The connection that was there goes on as what it was.
    assert_eq!(who_am_i(old).await.expect("old"), format!("node {} as agent", name(7)));

    serving.replace(ca.issue(Wanted::new(2, Role::Manager))).expect("usable");
    let demanded = format!("{}.{NODE_DOMAIN}", name(2));
    let channel = client_channel(server.address.into(), calling, &demanded).expect("channel");
    who_am_i(channel).await.expect("the server shows its new certificate");
}

#[tokio::test]
async fn slow_handshakes_do_not_keep_others_out() {
    let ca = TestCa::new(ours());
    let limits = IncomingLimits {
        handshakes: 32,
        timeout: Duration::from_secs(60),
        ..IncomingLimits::default()
    };
    let address = "127.0.0.1:0".parse().expect("address");
    let server = TestServer::start_with(address, ca.live(1, Role::Manager), limits).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.push(TcpStream::connect(server.address).await.expect("connect"));
    }
    who_am_i(dial(server.address, &ca.live(7, Role::Agent))).await.expect("served");
    // The oldest were ended to make room, the newest are still given their time.
    let mut oldest = slow.swap_remove(0);
    let mut newest = slow.pop().expect("one hundred");
    let ended = |stream: &mut TcpStream| {
        let mut byte = [0];
        matches!(stream.try_read(&mut byte), Ok(0))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !ended(&mut oldest) {
        assert!(Instant::now() < deadline, "the oldest handshake is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!ended(&mut newest));
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let ca = TestCa::new(ours());
    let limits = IncomingLimits { timeout: Duration::from_millis(50), ..IncomingLimits::default() };
    let address = "127.0.0.1:0".parse().expect("address");
    let server = TestServer::start_with(address, ca.live(1, Role::Manager), limits).await;
    let mut slow = TcpStream::connect(server.address).await.expect("connect");
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut slow, &mut byte);
    let read = tokio::time::timeout(Duration::from_secs(5), read).await.expect("in time");
    assert_eq!(read.expect("closed, not reset"), 0);
}

#[tokio::test]
async fn untrusted_peers_are_few_and_do_not_stay() {
    let ca = TestCa::new(ours());
    let limits = IncomingLimits {
        untrusted: 1,
        // Longer than three handshakes take.
        untrusted_life: Duration::from_secs(3),
        ..IncomingLimits::default()
    };
    let address = "127.0.0.1:0".parse().expect("address");
    let server = TestServer::start_with(address, ca.live(1, Role::Manager), limits).await;
    let key = PrivateKey::generate().expect("key");
    let join = || joining_channel(server.address.into(), ca.digest(), &key).expect("channel");
    let first = join();
    who_am_i(first.clone()).await.expect("there is room for one");
    who_am_i(join()).await.expect_err("and for no other");
    who_am_i(dial(server.address, &ca.live(7, Role::Agent)))
        .await
        .expect("members are not counted");
    // The first one's time is up some day, although it stays, and its place is free again.
    eventually(&join()).await;
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn want_of_file_descriptors_does_not_spin() {
    let start = tokio::time::Instant::now();
    // EMFILE
    server::after_accept_error(&std::io::Error::from_raw_os_error(24)).await;
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(50), "{waited:?}");
    // ECONNABORTED concerns that one connection only
    server::after_accept_error(&std::io::Error::from_raw_os_error(103)).await;
    assert_eq!(start.elapsed(), waited);
}

#[test]
fn credentials_survive_the_disk_and_are_kept_private() {
    let ca = TestCa::new(ours());
    let dir = tempfile::tempdir().expect("temp dir");
    assert!(Credentials::load(dir.path()).expect("nothing there").is_none());
    let credentials = ca.issue(Wanted::new(7, Role::Agent));
    credentials.save(dir.path()).expect("save");
    ca.issue(Wanted::new(8, Role::Agent)).save(dir.path()).expect("save again");
    credentials.save(dir.path()).expect("and again");
    let read = Credentials::load(dir.path()).expect("load").expect("there");
    assert_eq!(read.identity(), credentials.identity());
    assert_eq!(read.chain_pem(), credentials.chain_pem());
    assert_eq!(read.key_pem().reveal(), credentials.key_pem().reveal());

    let path = dir.path().join("identity.pem");
    let permissions = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&path, permissions).expect("chmod");
    let error = Credentials::load(dir.path()).expect_err("exposed");
    assert!(error.to_string().contains("has mode 640; run chmod 600"), "{error}");
    assert!(!format!("{credentials:?}").contains("BEGIN"));
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let ca = TestCa::new(ours());
    let one = ca.issue(Wanted::new(7, Role::Agent));
    let two = ca.issue(Wanted::new(8, Role::Agent));
    let fit = |chain: &str, key: &SecretPem, root: &str| {
        let built = Credentials::from_pem(chain.to_owned(), key.clone(), root.to_owned());
        built.expect_err("does not fit").to_string()
    };
    let root = one.root_pem();
    let table = [
        (fit(one.chain_pem(), two.key_pem(), root), "does not belong to the certificate"),
        (fit("", one.key_pem(), root), "certificate chain has 0 certificates"),
        (fit(one.chain_pem(), one.key_pem(), ""), "root certificates has 0 certificates"),
        (fit(&root.repeat(9), one.key_pem(), root), "certificate chain has 9 certificates"),
        (fit(root, &SecretPem::new("x".into()), root), "cannot use the private key"),
    ];
    for (said, expected) in table {
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    }
}
