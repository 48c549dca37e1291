//! What a server makes of the certificates it is shown.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

#[tokio::test]
async fn our_certificates_are_trusted_as_what_they_say() {
    let ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let node = NodeId::from(7);
    let table = [
        (Role::Manager, format!("node {node} as manager")),
        (Role::Agent, format!("node {node} as agent")),
        (Role::User, format!("user {node} as user")),
    ];
    for (role, expected) in table {
        let channel = dial(server.address, &ca.live(7, role));
        assert_eq!(who_am_i(channel).await.expect("trusted"), expected);
    }
}

#[tokio::test]
async fn other_certificates_are_refused_with_the_reason() {
    let ca = TestCa::new(ours());
    let foreign = TestCa::new(ClusterId::from(2));
    let twin = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let wanted = || Wanted::new(7, Role::Agent);
    let name = NodeId::from(7);
    let table = [
        (
            ca.issue(Wanted { not_before: -7200, not_after: -60, ..wanted() }),
            format!("certificate of node {name} expired on 20"),
        ),
        (
            ca.issue(Wanted { not_before: 600, ..wanted() }),
            format!("certificate of node {name} is not valid before 20"),
        ),
        (
            foreign.issue(wanted()),
            format!(
                "certificate of node {name} was issued by another cluster's CA (it names cluster {})",
                ClusterId::from(2)
            ),
        ),
        (
            foreign.issue(Wanted { not_before: -7200, not_after: -60, ..wanted() }),
            "was issued by another cluster's CA".to_owned(),
        ),
        (twin.issue(wanted()), "was issued by another cluster's CA".to_owned()),
        (
            ca.issue(Wanted { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..wanted() }),
            format!("certificate of node {name} is not one for clients"),
        ),
    ];
    for (credentials, expected) in table {
        // The caller trusts the server in each case: only its own certificate is at fault.
        let (chain, key) = (credentials.chain_pem().to_owned(), credentials.key_pem().clone());
        let credentials = Credentials::from_pem(chain, key, ca.root_pem.clone()).expect("fits");
        let live = LiveCredentials::new(credentials).expect("usable");
        let status = who_am_i(dial(server.address, &live)).await.expect_err(&expected);
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
        assert!(status.message().contains(&expected), "{:?} lacks {expected:?}", status.message());
    }
}

#[tokio::test]
async fn a_certificate_of_our_ca_for_another_cluster_id_is_no_identity() {
    let mut ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    ca.cluster = ClusterId::from(3);
    let status = who_am_i(dial(server.address, &ca.live(7, Role::Agent))).await;
    let message = status.expect_err("refused").message().to_owned();
    assert!(message.contains("carries no identity of this cluster"), "{message}");
}

#[tokio::test]
async fn a_joiner_is_known_by_its_key() {
    let ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let key = PrivateKey::generate().expect("key");
    let channel = joining_channel(server.address.into(), ca.digest(), &key).expect("channel");
    let seen = who_am_i(channel).await.expect("reaches the server");
    assert_eq!(seen, format!("joiner {:x?}", key.public_key()));
}

/// A client of plain rustls that trusts `ca`; `finish` decides the rest.
fn raw_client(
    ca: &TestCa,
    versions: &[&'static rustls::SupportedProtocolVersion],
    credentials: Option<&Credentials>,
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for root in ca.issue(Wanted::new(8, Role::User)).roots().expect("roots") {
        roots.add(root).expect("root");
    }
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => {
            let key = PrivateKey::from_pem(credentials.key_pem()).expect("key").to_der();
            let chain = credentials.chain().expect("chain");
            builder.with_client_auth_cert(chain, key).expect("client certificate")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Handshakes and reads: in TLS 1.3 the server's answer to a client certificate comes with the
/// first read.
async fn raw_connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<rustls::HandshakeKind> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(MANAGER_NAME).expect("name");
    let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
    tls.read_u8().await?;
    Ok(tls.get_ref().1.handshake_kind().expect("handshake done"))
}

#[tokio::test]
async fn tls_1_2_and_clients_without_certificate_are_turned_away() {
    let ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let credentials = ca.issue(Wanted::new(7, Role::Agent));

    let old = raw_client(&ca, &[&rustls::version::TLS12], Some(&credentials));
    let error = raw_connect(server.address, Arc::new(old)).await.expect_err("TLS 1.2");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");

    let anonymous = raw_client(&ca, &[&rustls::version::TLS13], None);
    let error = raw_connect(server.address, Arc::new(anonymous)).await.expect_err("anonymous");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let ca = TestCa::new(ours());
    let server = TestServer::start(ca.live(1, Role::Manager)).await;
    let credentials = ca.issue(Wanted::new(7, Role::Agent));
    let mut config = raw_client(&ca, &[&rustls::version::TLS13], Some(&credentials));
    config.resumption = Resumption::in_memory_sessions(16);
    let config = Arc::new(config);
    for _ in 0..3 {
        let kind = raw_connect(server.address, config.clone()).await.expect("h2 settings arrive");
        assert_eq!(kind, rustls::HandshakeKind::Full);
    }
}
