//! HTTP clients, and the rule which addresses may be spoken to unencrypted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Client, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::config::{RegistryConfig, is_loopback};
use super::error::RegistryError;

/// Makes clients when they are first needed: the system's certificates cost memory that an agent
/// without https registries never pays.
#[derive(Debug)]
pub(super) struct Transport {
    config: RegistryConfig,
    plain: Mutex<Option<Client>>,
    secure: Mutex<HashMap<String, Client>>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Transport {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Self { config, plain: Mutex::default(), secure: Mutex::default() }
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// The client for `url` on behalf of `registry`, whose own address is `base`, if the address may
    /// be spoken to at all.
    pub(super) fn client(
        &self,
        registry: &str,
        base: &Url,
        url: &Url,
    ) -> Result<Client, RegistryError> {
        let setup = |source| RegistryError::Setup { registry: registry.to_owned(), source };
        match url.scheme() {
            "https" => self.secure(registry).map_err(setup),
            "http" if base.scheme() == "http" && self.may_be_plain(base, url) => {
                self.plain().map_err(setup)
            }
            _ => Err(RegistryError::Insecure {
                registry: registry.to_owned(),
                url: without_query(url),
            }),
        }
    }

    /// An address leaves out the default port, which a configured name may have. This host's own
    /// services are not for registries elsewhere to send us to.
    fn may_be_plain(&self, base: &Url, url: &Url) -> bool {
        let name = authority(url);
        let listed = |name: &str| {
            if is_loopback(name) && !is_loopback(&authority(base)) {
                return self.config.is_listed(name);
            }
            self.config.is_plain(name)
        };
        listed(&name) || url.port().is_none() && listed(&format!("{name}:80"))
    }

    fn plain(&self) -> Result<Client, BoxError> {
        let mut slot = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // No certificate is ever looked at here. And no proxy: these are our own hosts.
        let tls =
            tls_config()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let client = self.builder(tls).no_proxy().build()?;
        *slot = Some(client.clone());
        Ok(client)
    }

    fn secure(&self, registry: &str) -> Result<Client, BoxError> {
        let extra = self.config.root_certificate(registry);
        // Registries without certificates of their own share one client.
        let key = if extra.is_some() { registry } else { "" };
        let mut clients = self.secure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let extra = extra.map(|path| read_certificates(path)).transpose()?.unwrap_or_default();
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider())?;
        let tls = tls_config()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let client = self.builder(tls).build()?;
        clients.insert(key.to_owned(), client.clone());
        Ok(client)
    }

    fn builder(&self, tls: ClientConfig) -> reqwest::ClientBuilder {
        Client::builder()
            .tls_backend_preconfigured(tls)
            // Followed by hand: each hop is checked, and credentials stay with the registry.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.config.connect_timeout)
            .read_timeout(self.config.read_timeout)
            .pool_idle_timeout(std::time::Duration::from_secs(15))
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Registries still speak TLS 1.2, and ring has the suites of both versions.
fn tls_config() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, BoxError> {
    let builder = ClientConfig::builder_with_provider(provider());
    Ok(builder.with_protocol_versions(rustls::ALL_VERSIONS)?)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    let name = |error: BoxError| BoxError::from(format!("{}: {error}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| name(error.into()))?;
    if certificates.is_empty() {
        return Err(name("no certificate inside".into()));
    }
    Ok(certificates)
}

/// `host[:port]` of an address.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Signed addresses carry secrets in their query.
pub(super) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}
