//! The local socket.

use super::*;

#[tokio::test]
async fn the_local_socket_knows_its_user_and_replaces_a_stale_file() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("agent.sock");
    let channel = unix_channel(&path);
    let status = who_am_i(channel.clone()).await.expect_err("nothing there");
    assert!(status.message().contains("does not exist; is shoal-agent running?"), "{status}");

    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    let status = who_am_i(channel.clone()).await.expect_err("nobody there");
    assert!(status.message().contains("nobody serves it"), "{status}");

    let connections = unix_incoming(&path).expect("the stale socket is replaced");
    let server = tokio::spawn(
        server_builder().add_service(CaServer::new(WhoAmI)).serve_with_incoming(connections),
    );
    let metadata = std::fs::metadata(&path).expect("metadata");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let expected = format!("uid {:?}", Some(metadata.uid()));
    assert_eq!(who_am_i(channel).await.expect("served"), expected);

    let error = unix_incoming(&path).expect_err("in use");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    server.abort();
}

#[tokio::test]
async fn a_file_in_the_way_is_left_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("agent.sock");
    std::fs::write(&path, "precious").expect("write");
    let error = unix_incoming(&path).expect_err("not a socket");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
}
