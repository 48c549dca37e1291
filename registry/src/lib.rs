//! A client for the pull half of the OCI distribution protocol, for agents that pull and for people
//! who log in.
//!
//! Every answer is bounded, every redirect is checked, credentials are those of one pull and go to
//! the registry and its token server only. The HTTP and TLS below are reqwest's and rustls's.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use shoal_types::error_chain::chain;
use shoal_types::image_ref::{DEFAULT_REGISTRY, Digest, ImageReference};
use tokio::sync::Mutex;

mod auth;
mod blob;
mod config;
mod error;
mod pace;
mod retry;
mod transport;
mod verify;

pub use blob::BlobStream;
pub use config::RegistryConfig;
pub use error::RegistryError;
pub use shoal_types::registry_auth::RegistryAuth;
pub use verify::Verified;

use pace::Pace;
use transport::{Transport, authority, without_query};

/// What we call ourselves to token servers.
const CLIENT_ID: &str = "shoal";
/// Where the default registry really answers.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an error's body that are read for its explanation.
const ERROR_BYTES_MAX: u64 = 16 * 1024;
/// Characters of a registry's explanation that are shown.
const DETAIL_CHARS_MAX: usize = 300;
/// Manifests and indexes of both families.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// All registries.
#[derive(Debug, Clone)]
pub struct Registries {
    transport: Arc<Transport>,
}

/// A manifest as it came.
#[derive(Debug)]
pub struct RawManifest {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// What the registry says that it is.
    pub content_type: Option<String>,
}

/// One repository of one registry, on behalf of one pull.
#[derive(Debug)]
pub struct Session {
    transport: Arc<Transport>,
    registry: String,
    repository: String,
    base: Url,
    auth: Option<RegistryAuth>,
    /// Whether the token server is asked for an identity token, too.
    offline: bool,
    /// The identity token that it gave.
    granted: Mutex<Option<String>>,
    /// What the registry took last.
    authorization: Mutex<Option<HeaderValue>>,
    /// Who is told why something is tried again.
    listener: OnceLock<Listener>,
}

/// Hears of trouble.
struct Listener(Box<dyn Fn(Option<String>) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// One request.
struct Ask<'a> {
    what: &'a str,
    accept: Option<&'static str>,
    range: Option<String>,
    head: bool,
}

impl Registries {
    /// Registries that are spoken to in this way.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        Self { transport: Arc::new(Transport::new(config)) }
    }

    /// Starts talking about the repository of `reference`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Protocol`] when the reference makes no address.
    pub fn session(
        &self,
        reference: &ImageReference,
        auth: Option<RegistryAuth>,
    ) -> Result<Arc<Session>, RegistryError> {
        self.open(reference.registry(), reference.repository(), auth).map(Arc::new)
    }

    /// About the registry itself if `repository` is empty.
    fn open(
        &self,
        registry: &str,
        repository: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<Session, RegistryError> {
        let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry };
        let scheme = if self.transport.config().is_plain(registry) { "http" } else { "https" };
        let below = if repository.is_empty() { String::new() } else { format!("{repository}/") };
        let base = format!("{scheme}://{host}/v2/{below}");
        let base = base.parse().map_err(|_| RegistryError::Protocol {
            registry: registry.to_owned(),
            detail: format!("{base:?} is not an address"),
        })?;
        Ok(Session {
            transport: Arc::clone(&self.transport),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            base,
            auth,
            offline: false,
            granted: Mutex::new(None),
            authorization: Mutex::new(None),
            listener: OnceLock::new(),
        })
    }
}

impl Session {
    /// Host and port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, without its registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    fn config(&self) -> &RegistryConfig {
        self.transport.config()
    }

    /// From now on this is told why something is tried again, for people, and with `None` that
    /// something has arrived after all.
    pub fn on_trouble(&self, told: impl Fn(Option<String>) + Send + Sync + 'static) {
        // A session belongs to one pull, which asks once.
        let _ = self.listener.set(Listener(Box::new(told)));
    }

    /// Waits before something is tried again that failed so many times in a row, and tells of it.
    async fn pause(&self, failures: u32, error: &RegistryError) {
        if let Some(Listener(told)) = self.listener.get() {
            let tries = self.config().attempts;
            told(Some(format!("try {} of {tries}, after: {}", failures + 1, chain(error))));
        }
        retry::wait(self.config(), failures, error).await;
    }

    /// Something has arrived: there is no trouble any more.
    fn goes_on(&self) {
        if let Some(Listener(told)) = self.listener.get() {
            told(None);
        }
    }

    /// The digest that a tag has now, without fetching (and, on Docker Hub, without counting as)
    /// a pull. Nothing when the registry does not say.
    ///
    /// # Errors
    /// When the registry refuses or cannot be asked.
    pub async fn head(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let what = format!("manifest {tag}");
        let path = format!("manifests/{tag}");
        let ask = Ask { what: &what, accept: Some(MANIFEST_TYPES), range: None, head: true };
        let response = self.persist(|| self.ask(&path, &ask)).await?;
        Ok(content_digest(response.headers()))
    }

    /// A manifest or index by tag or digest. The digest is that of the bytes; if one was asked
    /// for, it is that one.
    ///
    /// # Errors
    /// When the registry refuses or cannot be asked, or sends something else.
    pub async fn manifest(
        &self,
        tag_or_digest: &str,
        limit: u64,
    ) -> Result<RawManifest, RegistryError> {
        let what = format!("manifest {tag_or_digest}");
        let path = format!("manifests/{tag_or_digest}");
        let (bytes, headers) = self.document(&path, &what, Some(MANIFEST_TYPES), limit).await?;
        let actual = digest_of(&bytes);
        let expected = tag_or_digest.parse().ok().or_else(|| content_digest(&headers));
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(RegistryError::DigestMismatch { what, expected, actual });
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Ok(RawManifest { bytes, digest: actual, content_type: content_type.map(str::to_owned) })
    }

    /// A small blob, whole and verified.
    ///
    /// # Errors
    /// As [`Session::manifest`].
    pub async fn small_blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let (bytes, _) = self.document(&format!("blobs/{digest}"), &what, None, limit).await?;
        let actual = digest_of(&bytes);
        if actual != digest {
            return Err(RegistryError::DigestMismatch { what, expected: digest, actual });
        }
        Ok(bytes)
    }

    /// A blob of any size, unverified.
    pub fn blob(self: &Arc<Self>, digest: Digest, size: u64) -> BlobStream {
        BlobStream::new(Arc::clone(self), digest, size)
    }

    async fn document(
        &self,
        path: &str,
        what: &str,
        accept: Option<&'static str>,
        limit: u64,
    ) -> Result<(Vec<u8>, HeaderMap), RegistryError> {
        let ask = Ask { what, accept, range: None, head: false };
        self.persist(|| async {
            let response = self.ask(path, &ask).await?;
            let headers = response.headers().clone();
            Ok((self.read(response, what, limit).await?, headers))
        })
        .await
    }

    /// Repeats what may succeed the next time.
    async fn persist<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut failures = 0;
        loop {
            match attempt().await {
                Err(error) if error.is_passing() => {
                    failures += 1;
                    if failures >= self.config().attempts {
                        return Err(error);
                    }
                    tracing::debug!(registry = self.registry, %error, "trying again");
                    self.pause(failures, &error).await;
                }
                other => {
                    self.goes_on();
                    return other;
                }
            }
        }
    }

    /// One request, authorised if the registry wants that, to a successful answer. Whoever the
    /// registry sends us to has nothing to ask of us: its challenges are not answered.
    async fn ask(&self, path: &str, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let url = self.base.join(path).map_err(|_| self.protocol(format!("bad path {path:?}")))?;
        let shown = self.authorization.lock().await.clone();
        let mut response = self.follow(url.clone(), ask, shown.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.is_own(response.url()) {
            let fresh = self.authorize(response.headers(), shown).await?;
            if let Some(fresh) = fresh {
                response = self.follow(url, ask, Some(&fresh)).await?;
            }
        }
        if response.status().is_success() {
            return Ok(response);
        }
        if !self.is_own(response.url()) {
            return Err(RegistryError::Elsewhere {
                registry: self.registry.clone(),
                what: ask.what.to_owned(),
                url: without_query(response.url()),
                status: response.status().as_u16(),
            });
        }
        Err(self.refusal(response, ask.what).await)
    }

    /// Whether an address is the registry's own: scheme, host and port.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// The client for an address that the registry led us to.
    fn client(&self, url: &Url) -> Result<Client, RegistryError> {
        self.transport.client(&self.registry, &self.base, url)
    }

    /// Sends, and follows redirects. Credentials go to the registry itself only, and to nobody any
    /// more once it has sent us elsewhere.
    async fn follow(
        &self,
        mut url: Url,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut at_home = true;
        for _ in 0..=REDIRECTS_MAX {
            at_home &= self.is_own(&url);
            let method = if ask.head { Method::HEAD } else { Method::GET };
            let mut request = self.client(&url)?.request(method, url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(range) = &ask.range {
                request = request.header(RANGE, range);
            }
            if let Some(value) = authorization.filter(|_| at_home) {
                request = request.header(AUTHORIZATION, value);
            }
            let response = request.send().await.map_err(|error| self.unreachable(error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| self.protocol("a redirect leads nowhere".into()))?;
        }
        Err(self.protocol(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// Gets what the challenge asks for; nothing when there is nothing (else) to show.
    async fn authorize(
        &self,
        headers: &HeaderMap,
        shown: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut current = self.authorization.lock().await;
        if *current != shown {
            // Somebody else of this pull was faster.
            return Ok(current.clone());
        }
        let challenge = auth::challenge(headers).map_err(|detail| self.protocol(detail))?;
        let fresh = match (challenge, &self.auth) {
            (_, Some(RegistryAuth::Token(token))) => auth::bearer(token),
            (auth::Challenge::Basic, Some(RegistryAuth::Basic { username, password })) => {
                Some(auth::basic(username, password))
            }
            // An identity token is for a token server, and here is none.
            (auth::Challenge::Basic, Some(RegistryAuth::Identity(_)) | None) => None,
            (auth::Challenge::Bearer { realm, service }, _) => {
                Some(self.fetch_token(realm, service).await?)
            }
        };
        if fresh == shown {
            return Ok(None);
        }
        current.clone_from(&fresh);
        Ok(fresh)
    }

    /// The question to a token server (distribution specification, "Token Authentication" and "OAuth2
    /// Token Authentication").
    fn token_request(
        &self,
        mut realm: Url,
        service: Option<&str>,
    ) -> Result<RequestBuilder, RegistryError> {
        let client = self.client(&realm)?;
        let mut fields = url::form_urlencoded::Serializer::new(String::new());
        if let Some(service) = service {
            fields.append_pair("service", service);
        }
        if !self.repository.is_empty() {
            fields.append_pair("scope", &format!("repository:{}:pull", self.repository));
        }
        if self.offline || matches!(self.auth, Some(RegistryAuth::Identity(_))) {
            fields.append_pair("client_id", CLIENT_ID);
        }
        if let Some(RegistryAuth::Identity(token)) = &self.auth {
            fields.append_pair("grant_type", "refresh_token");
            fields.append_pair("refresh_token", token);
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            return Ok(client.post(realm).header(CONTENT_TYPE, form).body(fields.finish()));
        }
        if self.offline {
            fields.append_pair("offline_token", "true");
            if let Some(username) = self.auth.as_ref().and_then(RegistryAuth::username) {
                fields.append_pair("account", username);
            }
        }
        let own = realm.query().map(|query| format!("{query}&")).unwrap_or_default();
        realm.set_query(Some(&format!("{own}{}", fields.finish())));
        let request = client.get(realm);
        Ok(match auth::for_token_server(self.auth.as_ref()) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        })
    }

    async fn fetch_token(
        &self,
        realm: Url,
        service: Option<String>,
    ) -> Result<HeaderValue, RegistryError> {
        let request = self.token_request(realm.clone(), service.as_deref())?;
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let what = format!("a token from {}", without_query(&realm));
        if !response.status().is_success() {
            return Err(self.refusal(response, &what).await);
        }
        let bytes = self.read(response, &what, auth::TOKEN_BYTES_MAX).await?;
        let nothing = || self.protocol(format!("{} sent no token", authority(&realm)));
        let answer: auth::TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| nothing())?;
        let (token, granted) = answer.into_tokens();
        if self.offline {
            *self.granted.lock().await = granted;
        }
        token.and_then(|token| auth::bearer(&token)).ok_or_else(nothing)
    }

    async fn read(
        &self,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::TooLarge { what: what.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut pace = Pace::new(self.config());
        loop {
            let next = response.chunk();
            let Some(chunk) = pace.keep(&self.registry, what, next, arrived).await? else {
                continue;
            };
            let chunk = chunk.map_err(|error| RegistryError::Interrupted {
                registry: self.registry.clone(),
                what: what.to_owned(),
                source: Some(error.without_url()),
            })?;
            let Some(chunk) = chunk else { return Ok(bytes) };
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
    }

    /// Explains an answer that is no success.
    async fn refusal(&self, response: Response, what: &str) -> RegistryError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.read(response, what, ERROR_BYTES_MAX).await.unwrap_or_default();
        let registry = self.registry.clone();
        let explanation = Explanation::of(&body);
        let detail = explanation.detail();
        let denied = |detail| RegistryError::Denied {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            needs: if self.auth.is_some() { "other credentials" } else { "credentials" },
            detail,
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.repository.is_empty() => {
                RegistryError::LoginRefused { registry, detail }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => denied(detail),
            StatusCode::NOT_FOUND if explanation.has("NAME_UNKNOWN") => denied(detail),
            StatusCode::NOT_FOUND => {
                RegistryError::NotFound { registry, what: what.to_owned(), detail }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                RegistryError::RateLimited { registry, retry_after, detail }
            }
            _ => RegistryError::Status {
                registry,
                what: what.to_owned(),
                status: status.as_u16(),
                detail,
            },
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> RegistryError {
        let source = source.without_url();
        RegistryError::Unreachable { registry: self.registry.clone(), source }
    }

    fn protocol(&self, detail: String) -> RegistryError {
        RegistryError::Protocol { registry: self.registry.clone(), detail }
    }
}

fn arrived<E>(chunk: &Result<Option<Bytes>, E>) -> u64 {
    chunk.as_ref().ok().and_then(Option::as_ref).map_or(0, |chunk| chunk.len() as u64)
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The body of an error (OCI distribution specification, "Error Codes").
#[derive(Default, Deserialize)]
struct Explanation {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    /// Token servers answer in their own way.
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Explanation {
    fn of(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    fn has(&self, code: &str) -> bool {
        self.errors.iter().any(|error| error.code == code)
    }

    /// `: what the registry says`, in one line of bounded length, or nothing.
    fn detail(&self) -> String {
        let first = self.errors.first().map(|error| match error.message.as_str() {
            "" => error.code.clone(),
            message => message.to_owned(),
        });
        let Some(text) = first.or_else(|| self.details.clone()).filter(|text| !text.is_empty())
        else {
            return String::new();
        };
        let line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(DETAIL_CHARS_MAX)
            .collect();
        format!(": {line}")
    }
}

/// The digest of some bytes in memory.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    Digest::from_bytes(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests;
