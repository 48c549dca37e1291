//! Registries that misbehave, played by a small HTTP server.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

mod origin;

/// What the server knows about a request.
#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: HashMap<String, String>,
}

type Handler = dyn Fn(usize, &Request) -> Vec<u8> + Send + Sync;

/// A server that answers the n-th request (from 0) with bytes.
struct Server {
    address: String,
    seen: Arc<StdMutex<Vec<Request>>>,
}

impl Server {
    async fn start(handler: impl Fn(usize, &Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(StdMutex::new(Vec::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let handler: Arc<Handler> = Arc::new(handler);
        let known = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let (seen, count, handler) = (known.clone(), count.clone(), handler.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let text = String::from_utf8(head).unwrap();
                    let mut lines = text.lines();
                    let line = lines.next().unwrap().to_owned();
                    let headers = lines.filter_map(|line| line.split_once(": "));
                    let headers = headers.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
                    let request = Request { line, headers };
                    let answer = handler(count.fetch_add(1, Ordering::SeqCst), &request);
                    seen.lock().unwrap().push(request);
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { address, seen }
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    fn session(&self, auth: Option<RegistryAuth>) -> Arc<Session> {
        session(&self.address, auth)
    }
}

fn session(address: &str, auth: Option<RegistryAuth>) -> Arc<Session> {
    let config = RegistryConfig {
        attempts: 3,
        first_retry: Duration::from_millis(1),
        read_timeout: Duration::from_millis(500),
        ..RegistryConfig::default()
    };
    let reference = format!("{address}/repo:tag").parse().unwrap();
    Registries::new(config).session(&reference, auth).unwrap()
}

fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[], body)
}

fn basic() -> Option<RegistryAuth> {
    Some(RegistryAuth::Basic { username: "user".into(), password: "pass".into() })
}

async fn whole(mut blob: BlobStream) -> Result<Vec<u8>, RegistryError> {
    let mut all = Vec::new();
    while let Some(chunk) = blob.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_used_alone() {
    let server = Server::start(|_, request| {
        let authorization = request.headers.get("authorization").map(String::as_str);
        if request.line.starts_with("GET /token?") {
            assert_eq!(authorization, Some("Basic dXNlcjpwYXNz"));
            return ok(b"{\"access_token\":\"abc\"}");
        }
        if authorization == Some("Bearer abc") {
            return ok(b"{}");
        }
        let host = &request.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"the registry\"");
        answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
    })
    .await;
    let session = server.session(basic());
    session.manifest("tag", 100).await.unwrap();
    session.manifest("tag", 100).await.unwrap();
    let lines: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(lines.len(), 4, "one refusal, one token, two answers: {lines:?}");
    assert!(lines[1].contains("service=the+registry"), "{}", lines[1]);
    assert!(lines[1].contains("scope=repository%3Arepo%3Apull"), "{}", lines[1]);
}

#[tokio::test]
async fn an_expired_token_is_renewed_once() {
    let server = Server::start(|n, request| {
        let host = &request.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\"");
        match (request.line.starts_with("GET /token"), request.headers.get("authorization")) {
            (true, _) => ok(format!("{{\"token\":\"t{n}\"}}").as_bytes()),
            (false, Some(token)) if token == "Bearer t1" && n < 3 => ok(b"{}"),
            (false, Some(token)) if token == "Bearer t4" => ok(b"{}"),
            _ => answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b""),
        }
    })
    .await;
    let session = server.session(None);
    session.manifest("tag", 100).await.unwrap();
    session.manifest("tag", 100).await.unwrap();
    assert_eq!(server.requests().len(), 6);
}

/// The registry may send us elsewhere for a blob; the password stays with it.
#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let storage = Server::start(|_, _| ok(b"content")).await;
    let elsewhere = format!("http://{}/signed?secret=1", storage.address);
    let server = Server::start(move |_, request| match request.headers.get("authorization") {
        Some(_) => answer("307 Temporary Redirect", &[("Location", &elsewhere)], b""),
        None => answer("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=x")], b""),
    })
    .await;
    let digest = digest_of(b"content");
    let bytes = server.session(basic()).small_blob(digest, 100).await.unwrap();
    assert_eq!(bytes, b"content");
    assert!(!storage.requests()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_redirect_or_token_server_off_loopback_has_to_be_https() {
    let redirect = [("Location", "http://192.0.2.1/x?signature=1")];
    let server = Server::start(move |_, _| answer("302 Found", &redirect, b"")).await;
    let error = server.session(None).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Insecure { .. }), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");

    let challenge = [("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token\"")];
    let server = Server::start(move |_, _| answer("401 Unauthorized", &challenge, b"")).await;
    let error = server.session(basic()).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Insecure { .. }), "{error}");
}

#[tokio::test]
async fn redirects_without_end_are_refused() {
    let server = Server::start(|_, _| answer("302 Found", &[("Location", "/again")], b"")).await;
    let error = server.session(None).manifest("tag", 100).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn documents_are_bounded_whether_or_not_their_length_is_said() {
    let body = vec![b'x'; 5000];
    for chunked in [false, true] {
        let body = body.clone();
        let server = Server::start(move |_, _| {
            if !chunked {
                return ok(&body);
            }
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in body.chunks(500) {
                bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
                bytes.extend(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            bytes
        })
        .await;
        let error = server.session(None).manifest("tag", 4999).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { limit: 4999, .. }), "{error}");
        assert_eq!(server.session(None).manifest("tag", 5000).await.unwrap().bytes.len(), 5000);
    }
}

#[tokio::test]
async fn wrong_digests_are_refused() {
    let lie = digest_of(b"something else").to_string();
    let header = lie.clone();
    let server =
        Server::start(move |_, _| answer("200 OK", &[("Docker-Content-Digest", &header)], b"x"))
            .await;
    let session = server.session(None);
    for wanted in ["tag", &lie] {
        let error = session.manifest(wanted, 100).await.unwrap_err();
        assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{wanted}: {error}");
    }
    let error = session.small_blob(lie.parse().unwrap(), 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let busy = b"{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow\\ndown\"}]}";
    for (status, attempts, expected) in [
        ("503 Service Unavailable", 3, "answered 503"),
        ("429 Too Many Requests", 3, "limits the rate of requests: slow down"),
        ("404 Not Found", 1, "does not have manifest tag"),
        ("403 Forbidden", 1, "is denied"),
        ("400 Bad Request", 1, "answered 400"),
    ] {
        let server = Server::start(move |_, _| answer(status, &[], busy)).await;
        let error = server.session(None).manifest("tag", 100).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(server.requests().len(), attempts, "{status}");
        assert_eq!(error.is_transient(), attempts > 1, "{status}");
    }
    let server = Server::start(|n, _| {
        if n < 2 { answer("500 Internal Server Error", &[], b"") } else { ok(b"{}") }
    })
    .await;
    server.session(None).manifest("tag", 100).await.unwrap();
}

#[tokio::test]
async fn an_unknown_repository_is_explained_as_docker_does() {
    let body = b"{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"repository not known\"}]}";
    let server = Server::start(move |_, _| answer("404 Not Found", &[], body)).await;
    let text = server.session(None).manifest("tag", 100).await.unwrap_err().to_string();
    assert!(
        text.contains("it does not exist, or it needs credentials: repository not known"),
        "{text}"
    );
}

/// Every answer breaks off after a few bytes.
#[tokio::test]
async fn a_blob_is_resumed_where_the_connection_broke() {
    let content: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for ranges in [true, false] {
        let body = content.clone();
        let server = Server::start(move |n, request| {
            let range = request.headers.get("range").filter(|_| ranges);
            let start: usize = range.map_or(0, |range| {
                range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
            });
            let rest = &body[start..];
            let length = rest.len().to_string();
            let content_range = format!("bytes {start}-9999/10000");
            let mut headers = vec![("Content-Length", length.as_str())];
            if start > 0 {
                headers.push(("Content-Range", &content_range));
            }
            let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
            // Without ranges the answers have to get longer to get anywhere.
            let sent = if ranges { 3000 } else { 3000 * (n + 1) };
            answer(status, &headers, &rest[..rest.len().min(sent)])
        })
        .await;
        let blob = server.session(None).blob(digest_of(&content), 10_000);
        assert_eq!(whole(blob).await.unwrap(), content, "ranges: {ranges}");
        assert_eq!(server.requests().len(), 4, "ranges: {ranges}");
    }
}

#[tokio::test]
async fn a_blob_of_the_wrong_length_is_an_error() {
    let server = Server::start(|n, _| {
        if n == 0 { ok(b"short") } else { answer("416 Range Not Satisfiable", &[], b"") }
    })
    .await;
    let blob = server.session(None).blob(digest_of(b""), 10);
    assert!(whole(blob).await.unwrap_err().to_string().contains("answered 416"));
    let server = Server::start(|_, _| ok(b"much too long")).await;
    let blob = server.session(None).blob(digest_of(b""), 10);
    let error = whole(blob).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: 10, .. }), "{error}");
}

#[tokio::test]
async fn silence_and_absence_are_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = session(&address, None).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    drop(silent);
    let error = session(&address, None).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn nonsense_is_no_distribution_protocol() {
    for headers in [&[][..], &[("WWW-Authenticate", "Negotiate")]] {
        let headers = headers.to_vec();
        let server = Server::start(move |_, _| answer("401 Unauthorized", &headers, b"")).await;
        let error = server.session(basic()).manifest("tag", 100).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
    }
    let server = Server::start(|_, _| b"SSH-2.0-OpenSSH\r\n".to_vec()).await;
    let error = server.session(None).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
}

fn identity() -> Option<RegistryAuth> {
    Some(RegistryAuth::Identity("id/1".into()))
}

/// Token servers that take identity tokens take them by POST (OAuth 2).
#[tokio::test]
async fn an_identity_token_stands_for_the_password() {
    let server = Server::start(|_, request| {
        let host = &request.headers["host"];
        match (request.line.split(' ').next(), request.headers.get("authorization")) {
            (Some("POST"), None) => {
                let expected = "service=s&scope=repository%3Arepo%3Apull&client_id=shoal&\
                                grant_type=refresh_token&refresh_token=id%2F1";
                assert_eq!(request.headers["content-length"], expected.len().to_string());
                ok(b"{\"access_token\":\"abc\"}")
            }
            (_, Some(token)) if token == "Bearer abc" => ok(b"{}"),
            _ => {
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
                answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
            }
        }
    })
    .await;
    server.session(identity()).manifest("tag", 100).await.unwrap();
    assert_eq!(server.requests().len(), 3);

    // Where there is no token server, it is shown to nobody.
    let challenge = [("WWW-Authenticate", "Basic realm=x")];
    let server = Server::start(move |_, _| answer("401 Unauthorized", &challenge, b"")).await;
    let error = server.session(identity()).manifest("tag", 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { needs: "other credentials", .. }), "{error}");
    assert!(server.requests().iter().all(|r| !r.headers.contains_key("authorization")));
}

async fn verify(server: &Server, auth: RegistryAuth) -> Result<Verified, RegistryError> {
    let config = RegistryConfig { attempts: 1, ..RegistryConfig::default() };
    Registries::new(config).verify(&server.address, auth).await
}

#[tokio::test]
async fn a_login_is_tried_where_it_will_be_used() {
    let challenge = [("WWW-Authenticate", "Basic realm=x")];
    let taken = |request: &Request| {
        request.headers.get("authorization").is_some_and(|a| a == "Basic dXNlcjpwYXNz")
    };
    let server = Server::start(move |_, request| match taken(request) {
        true => ok(b"{}"),
        false => answer("401 Unauthorized", &challenge, b"{\"details\":\"who?\"}"),
    })
    .await;
    let verified = verify(&server, basic().unwrap()).await.unwrap();
    assert_eq!(verified, Verified { identity: None, asked: true });
    assert!(server.requests().iter().all(|r| r.line.starts_with("GET /v2/ ")));
    let wrong = RegistryAuth::Basic { username: "user".into(), password: "hunter2".into() };
    let error = verify(&server, wrong).await.unwrap_err();
    let expected =
        format!("registry {} does not accept this user and password: who?", server.address);
    assert_eq!(error.to_string(), expected);

    let open = Server::start(|_, _| ok(b"{}")).await;
    let verified = verify(&open, basic().unwrap()).await.unwrap();
    assert_eq!(verified, Verified { identity: None, asked: false });
}

#[tokio::test]
async fn a_login_at_a_token_server_brings_an_identity_token() {
    let server = Server::start(|_, request| {
        let host = &request.headers["host"];
        if request.line.starts_with("GET /token?a=b&service=s&") {
            if request.headers["authorization"] != "Basic dXNlcjpwYXNz" {
                return answer("401 Unauthorized", &[], b"{\"details\":\"no\"}");
            }
            for part in ["client_id=shoal", "offline_token=true", "account=user"] {
                assert!(request.line.contains(part), "{}", request.line);
            }
            assert!(!request.line.contains("scope"), "{}", request.line);
            return ok(b"{\"token\":\"abc\",\"refresh_token\":\"keep\"}");
        }
        match request.headers.get("authorization") {
            Some(token) if token == "Bearer abc" => ok(b"{}"),
            _ => {
                let challenge = format!("Bearer realm=\"http://{host}/token?a=b\",service=\"s\"");
                answer("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
            }
        }
    })
    .await;
    let verified = verify(&server, basic().unwrap()).await.unwrap();
    assert_eq!(verified, Verified { identity: Some("keep".into()), asked: true });
    assert!(!format!("{verified:?}").contains("keep"));
    let wrong = RegistryAuth::Basic { username: "user".into(), password: "hunter2".into() };
    let error = verify(&server, wrong).await.unwrap_err();
    assert!(matches!(error, RegistryError::LoginRefused { .. }), "{error}");
}

/// People who wait for a pull hear why nothing moves, and that it goes on again.
#[tokio::test]
async fn what_is_tried_again_is_told_until_something_arrives() {
    let content = b"the whole blob";
    let server = Server::start(|n, _| match n {
        0 => answer("503 Service Unavailable", &[], b"out to lunch"),
        1 => answer("200 OK", &[("Content-Length", "14")], b"the wh"),
        2 => answer("502 Bad Gateway", &[], b""),
        _ => ok(content),
    })
    .await;
    let heard = Arc::new(StdMutex::new(Vec::new()));
    let session = server.session(None);
    let told = Arc::clone(&heard);
    session.on_trouble(move |trouble| told.lock().unwrap().push(trouble));
    let blob = session.blob(digest_of(content), content.len() as u64);
    assert_eq!(whole(blob).await.unwrap(), content);
    let heard = heard.lock().unwrap().clone();
    let first = format!("try 2 of 3, after: registry {} answered 503 for blob", server.address);
    assert!(heard[0].as_ref().unwrap().starts_with(&first), "{heard:#?}");
    assert!(heard.iter().flatten().any(|why| why.contains("answered 502")), "{heard:#?}");
    assert_eq!(heard.last().unwrap(), &None, "{heard:#?}");
}
