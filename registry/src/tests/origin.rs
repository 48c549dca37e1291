//! Registries that try to make us speak to somebody else: only what is their own is theirs to use.

use std::io::{Read as _, Write as _};
use std::net::TcpListener as StdListener;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::transport::Transport;
use super::*;

/// A registry behind TLS that gives everybody the same answer.
struct Secure {
    address: String,
    /// Holds the certificate.
    dir: tempfile::TempDir,
}

impl Secure {
    fn start(answer: Vec<u8>) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream);
                let mut head = [0; 4096];
                if stream.read(&mut head).is_ok() {
                    let _ = stream.write_all(&answer);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        Self { address, dir }
    }

    fn session(&self) -> Arc<Session> {
        let certificate = self.dir.path().join("ca.pem");
        let config = RegistryConfig {
            root_certificates: [(self.address.clone(), certificate)].into(),
            attempts: 1,
            ..RegistryConfig::default()
        };
        let reference = format!("{}/repo:tag", self.address).parse().unwrap();
        Registries::new(config).session(&reference, basic()).unwrap()
    }
}

/// Nobody far away makes us ask this host's own services, nor shows their answers to a user.
#[tokio::test]
async fn an_encrypted_registry_does_not_lead_to_plain_http() {
    let good = Secure::start(ok(b"{}"));
    good.session().manifest("tag", 100).await.unwrap();

    let private = Server::start(|_, _| ok(b"{}")).await;
    let location = format!("http://{}/admin", private.address);
    let challenge = format!("Bearer realm=\"{location}\"");
    for bad in [
        answer("307 Temporary Redirect", &[("Location", &location)], b""),
        answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b""),
    ] {
        let error = Secure::start(bad).session().manifest("tag", 100).await.unwrap_err();
        assert!(matches!(error, RegistryError::Insecure { .. }), "{error}");
    }
    assert!(private.requests().is_empty(), "{:?}", private.requests());
}

/// Where a registry sends us, a challenge would get at its password.
#[tokio::test]
async fn only_the_registry_itself_is_shown_the_password() {
    for challenge in ["Basic realm=x", "Bearer realm=\"http://127.0.0.1:HERE/token\""] {
        let thief = Server::start(move |_, request| {
            let port = request.headers["host"].split_once(':').unwrap().1;
            let challenge = challenge.replace("HERE", port);
            answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"{\"details\":\"?\"}")
        })
        .await;
        let elsewhere = format!("http://{}/blob?signature=1", thief.address);
        let server = Server::start(move |_, _| {
            answer("307 Temporary Redirect", &[("Location", &elsewhere)], b"")
        })
        .await;
        let error = server.session(basic()).manifest("tag", 100).await.unwrap_err();
        let expected = format!(
            "registry {} leads to http://{}/blob for manifest tag, which answered 401",
            server.address, thief.address
        );
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_transient());
        let seen = thief.requests();
        assert_eq!(seen.len(), 1, "{challenge}: {seen:?}");
        assert!(!seen[0].headers.contains_key("authorization"));
        assert_eq!(server.requests().len(), 1, "{challenge}");
    }
}

/// A way back to the registry was chosen by somebody else.
#[tokio::test]
async fn what_comes_back_through_others_has_no_password() {
    let home = Arc::new(StdMutex::new(String::new()));
    let known = home.clone();
    let detour = Server::start(move |_, _| {
        let back = format!("http://{}/v2/other/manifests/tag", known.lock().unwrap());
        answer("307 Temporary Redirect", &[("Location", &back)], b"")
    })
    .await;
    let elsewhere = format!("http://{}/", detour.address);
    let server = Server::start(move |_, request| {
        if request.line.contains("/other/") {
            return ok(b"{}");
        }
        match request.headers.get("authorization") {
            Some(_) => answer("307 Temporary Redirect", &[("Location", &elsewhere)], b""),
            None => answer("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=x")], b""),
        }
    })
    .await;
    home.lock().unwrap().clone_from(&server.address);
    server.session(basic()).manifest("tag", 100).await.unwrap();
    let shown: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.headers.contains_key("authorization"))
        .collect();
    assert_eq!(shown, [false, true, false]);
}

#[test]
fn plain_http_depends_on_who_leads_there() {
    let config =
        RegistryConfig { plain_http: vec!["mirror.lan".into()], ..RegistryConfig::default() };
    let transport = Transport::new(config);
    for (base, url, accepted) in [
        ("http://localhost:5000/v2/", "http://127.0.0.1:9000/blob", true),
        ("http://mirror.lan/v2/", "http://mirror.lan:9000/blob", true),
        ("http://localhost/v2/", "http://mirror.lan/blob", true),
        ("http://mirror.lan/v2/", "http://127.0.0.1:9000/blob", false),
        ("http://mirror.lan/v2/", "http://localhost/blob", false),
        ("http://mirror.lan/v2/", "http://other.lan/blob", false),
        ("https://registry.io/v2/", "http://mirror.lan/blob", false),
        ("https://registry.io/v2/", "http://localhost/blob", false),
        ("http://mirror.lan/v2/", "file:///etc/passwd", false),
    ] {
        let client = transport.client("x", &base.parse().unwrap(), &url.parse().unwrap());
        assert_eq!(client.is_ok(), accepted, "{base} to {url}");
    }
}
