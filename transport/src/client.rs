//! Dialling a manager.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use shoal_types::join_token::RootDigest;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::credentials::CredentialsError;
use super::live::{ALPN_H2, LiveCredentials, client_builder, finish};
use super::{
    ConnectFailure, MANAGER_NAME, ManagerAddress, PrivateKey, TlsFailure, crypto_provider, verify,
};

/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is probed this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A probe without answer for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection attempt may take before it fails with [`ConnectFailure::Timeout`].
#[must_use]
pub const fn connect_timeout() -> Duration {
    CONNECT_TIMEOUT
}

/// A channel to the manager at `address`, verified under `server_name`: [`super::MANAGER_NAME`], or
/// `<node id>.shoal` where it must be one certain manager.
///
/// It connects at the first call and again whenever the connection is lost, each time with the
/// credentials that are live then. A call made while no connection can be had fails with
/// `UNAVAILABLE` and the text of a [`ConnectFailure`].
///
/// # Errors
/// [`CredentialsError::Tls`] if `server_name` is no DNS name.
pub fn client_channel(
    address: ManagerAddress,
    credentials: LiveCredentials,
    server_name: &str,
) -> Result<Channel, CredentialsError> {
    client_channel_within(CONNECT_TIMEOUT, address, credentials, server_name)
}

/// As [`client_channel`], with the time that a connection attempt may take: less where there are others to try.
///
/// # Errors
/// As there.
pub fn client_channel_within(
    timeout: Duration,
    address: ManagerAddress,
    credentials: LiveCredentials,
    server_name: &str,
) -> Result<Channel, CredentialsError> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| CredentialsError::Tls(rustls::Error::UnsupportedNameType))?;
    Ok(channel(timeout, address, name, move || credentials.loaded().client.clone()))
}

/// A channel for a host that has nothing but a join token. It shows a certificate that it signed
/// itself with `key`, and trusts the manager only if its chain ends in the root whose SHA-256 is
/// `root`, and its certificate is valid for [`super::MANAGER_NAME`].
///
/// # Errors
/// [`CredentialsError`] if the key cannot sign.
pub fn joining_channel(
    address: ManagerAddress,
    root: RootDigest,
    key: &PrivateKey,
) -> Result<Channel, CredentialsError> {
    let certificate = key.joiner_certificate().map_err(CredentialsError::Key)?;
    let config = client_builder(&crypto_provider())?
        .dangerous()
        .with_custom_certificate_verifier(verify::pinned(root))
        .with_client_auth_cert(vec![certificate], key.to_der())
        .map_err(CredentialsError::Tls)?;
    let config = finish(config);
    let name = ServerName::try_from(MANAGER_NAME)
        .map_err(|_| CredentialsError::Tls(rustls::Error::UnsupportedNameType))?;
    Ok(channel(CONNECT_TIMEOUT, address, name, move || config.clone()))
}

fn channel(
    timeout: Duration,
    address: ManagerAddress,
    name: ServerName<'static>,
    config: impl Fn() -> Arc<ClientConfig> + Send + 'static,
) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let attempt = connect(timeout, address.clone(), name.clone(), config());
        async move { attempt.await.map(TokioIo::new) }
    });
    // The connector knows where to go. The scheme must be http: tonic refuses https unless the TLS
    // is its own.
    keepalive(Endpoint::from_static("http://manager.shoal")).connect_with_connector_lazy(connector)
}

pub(super) fn keepalive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

async fn connect(
    timeout: Duration,
    address: ManagerAddress,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectFailure> {
    let attempt = async {
        let tcp = TcpStream::connect(address.host_and_port()).await;
        let tcp = tcp.map_err(|error| ConnectFailure::of_tcp(&address, &error))?;
        tcp.set_nodelay(true).map_err(|error| ConnectFailure::of_tcp(&address, &error))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|error| ConnectFailure::of_handshake(&address, &error))?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            let why = TlsFailure::NotGrpc;
            return Err(ConnectFailure::Tls { address: address.clone(), why });
        }
        Ok(tls)
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectFailure::Timeout { address: address.clone(), after: timeout }),
    }
}
