//! Credentials in use, replaceable while connections are being made and accepted.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

use super::credentials::{Credentials, CredentialsError};
use super::crypto_provider;
use super::verify::{ProofOfPossession, server_verifier};

/// The application protocol of gRPC (RFC 9113, 3.2).
pub(super) const ALPN_H2: &[u8] = b"h2";

/// A handle on the credentials that new connections use. Clones share them: after
/// [`LiveCredentials::replace`] every later handshake, as client or server, uses the new ones;
/// connections that exist go on.
#[derive(Debug, Clone)]
pub struct LiveCredentials(watch::Sender<Arc<Loaded>>);

/// Credentials with the TLS configurations made from them.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) credentials: Credentials,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    /// Judges the certificates of callers.
    pub(super) trusted: Arc<dyn ClientCertVerifier>,
}

impl LiveCredentials {
    /// Prepares credentials for use.
    ///
    /// # Errors
    /// [`CredentialsError`] if rustls does not take them.
    pub fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        Ok(Self(watch::Sender::new(Arc::new(Loaded::new(credentials)?))))
    }

    /// The credentials in use now.
    #[must_use]
    pub fn current(&self) -> Credentials {
        self.0.borrow().credentials.clone()
    }

    /// Puts new credentials into use, or leaves the old ones there if they are unusable.
    ///
    /// # Errors
    /// As [`LiveCredentials::new`].
    pub fn replace(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let loaded = Arc::new(Loaded::new(credentials)?);
        self.0.send_replace(loaded);
        Ok(())
    }

    /// Resolves when the credentials have been replaced after this call.
    pub async fn changed(&self) {
        // Fails only when all senders are gone, and this is one.
        let _ = self.0.subscribe().changed().await;
    }

    /// A receiver that has seen what is in use now.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Loaded>> {
        self.0.subscribe()
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.0.borrow().clone()
    }
}

impl Loaded {
    fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        use CredentialsError::Tls;
        let provider = crypto_provider();
        let chain = credentials.chain()?;
        let roots = credentials.roots()?;
        let key = super::PrivateKey::from_pem(credentials.key_pem());
        let key = key.map_err(CredentialsError::Key)?.to_der();

        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(Tls)?;
        }
        let store = Arc::new(store);
        let trusted = WebPkiClientVerifier::builder_with_provider(store.clone(), provider.clone())
            .build()
            .map_err(|error| Tls(rustls::Error::General(error.to_string())))?;
        let servers = server_verifier(store, provider.clone()).map_err(Tls)?;
        let client = client_builder(&provider)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(Tls)?;

        // A joiner knows the root by its digest only, so the root itself is sent along.
        let mut served = chain;
        served.extend(roots);
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(Tls)?
            .with_client_cert_verifier(Arc::new(ProofOfPossession { provider }))
            .with_single_cert(served, key)
            .map_err(Tls)?;
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session would skip the client's certificate.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { credentials, client: finish(client), server: Arc::new(server), trusted })
    }
}

/// The start of every client configuration: our provider, TLS 1.3.
pub(super) fn client_builder(
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, CredentialsError> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(CredentialsError::Tls)
}

/// The end of every client configuration: h2, no resumption.
pub(super) fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
