//! The mutually authenticated transport that every connection of shoal uses.
//!
//! One TLS 1.3 set-up for managers, agents and `shoalctl` (docs/adr/0002): [`client_channel`] dials
//! a manager, [`joining_channel`] dials one before this host has a certificate, [`incoming`]
//! accepts, and [`unix_incoming`] with [`unix_channel`] serve the local socket. The TLS layer of a
//! server only proves that a peer holds the key of the certificate it shows; what that certificate
//! is worth is a [`Peer`], computed once per connection and attached to every request, so that a
//! refusal can name its reason.
//!
//! Policy is not here: which role may call what is decided by the server's authorisation table.

mod address;
mod client;
mod credentials;
mod enrol;
mod failure;
mod identity;
mod key;
mod live;
mod membership;
mod peer;
mod renewal;
mod server;
mod undone;
mod unix;
mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use address::{DEFAULT_PORT, InvalidAddress, ManagerAddress};
pub use client::{client_channel, client_channel_within, connect_timeout, joining_channel};
pub use credentials::{Credentials, CredentialsError};
pub use enrol::{EnrolError, certify, join, renew, renew_on_host};
pub use failure::{ConnectFailure, TlsFailure};
pub use identity::{Identity, InvalidIdentity, PeerId, Role, utc_date};
pub use key::{KeyError, PrivateKey, SecretPem};
pub use live::LiveCredentials;
pub use membership::{is_removed, removed};
pub use peer::{ConnectInfo, Joiner, Peer, Refusal};
pub use renewal::{renew_at, renew_forever};
pub use server::{Incoming, IncomingLimits, ServerStream, incoming, server_builder};
pub use undone::{is_undone, is_unsent, undone};
pub use unix::{UnixIncoming, unix_channel, unix_incoming, unix_peer_uid};

/// The DNS name that every manager's certificate carries and that clients ask for.
pub const MANAGER_NAME: &str = "manager.shoal";

/// The domain below which every node has a name: `<node id>.shoal`.
pub const NODE_DOMAIN: &str = "shoal";

/// The DNS name of a node, which its certificate carries: for whoever wants that very node.
#[must_use]
pub fn node_name(node: shoal_types::id::NodeId) -> String {
    format!("{node}.{NODE_DOMAIN}")
}

/// Longest certificate chain that is looked at, in certificates.
const MAX_CHAIN: usize = 8;

/// The one provider of cryptography: ring. Every TLS configuration of shoal is built on this, never
/// on the process-wide default, which a dependency might have set to something else.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256 of a certificate in DER, as join tokens carry it.
#[must_use]
pub fn root_digest(certificate: &[u8]) -> shoal_types::join_token::RootDigest {
    use sha2::Digest as _;
    shoal_types::join_token::RootDigest(sha2::Sha256::digest(certificate).into())
}
