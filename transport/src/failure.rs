//! Why a connection could not be made, in words that tell a person what to do.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use shoal_types::time::Timestamp;

use super::ManagerAddress;
use super::identity::utc_date;
use super::verify::WrongRoot;

/// Why a channel has no connection. Its `Display` tells the whole story, because tonic keeps no
/// more than that of a failed connection: it becomes the message of an `UNAVAILABLE` status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailure {
    /// Nothing listens there.
    #[error("cannot connect to {address}: connection refused, nothing listens there")]
    Refused {
        /// Where.
        address: ManagerAddress,
    },
    /// The network does not lead there, or the name means nothing.
    #[error("cannot connect to {address}: {why}")]
    Unreachable {
        /// Where.
        address: ManagerAddress,
        /// What the system says.
        why: String,
    },
    /// Nothing came back in time.
    #[error("cannot connect to {address}: no answer within {after:?}")]
    Timeout {
        /// Where.
        address: ManagerAddress,
        /// How long was waited.
        after: Duration,
    },
    /// Something answered, but it cannot be trusted or understood.
    #[error("cannot trust {address}: {why}")]
    Tls {
        /// Where.
        address: ManagerAddress,
        /// What is wrong with it.
        why: TlsFailure,
    },
}

/// What was wrong with the other side of a TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// End of validity has passed.
    #[error("its certificate expired{}", .0.map(|at| format!(" on {}", utc_date(at))).unwrap_or_default())]
    Expired(Option<Timestamp>),
    /// Start of validity has not come.
    #[error("its certificate is not valid yet; compare the clocks of both hosts")]
    NotYetValid,
    /// The chain does not end in our root.
    #[error("its certificate was issued by another cluster's CA")]
    ForeignCa,
    /// The certificate is of something else.
    #[error("its certificate is not valid for {expected}, only for {presented}")]
    WrongName {
        /// The name asked for.
        expected: String,
        /// The names in the certificate.
        presented: String,
    },
    /// The certificate may not be used to serve.
    #[error("its certificate is not one of a manager")]
    NotAManager,
    /// Joining: the cluster is not the one of the token.
    #[error("its {0}: the token belongs to another cluster, or something is between you and it")]
    WrongRoot(String),
    /// Too old a protocol.
    #[error("it does not speak TLS 1.3")]
    OldTls,
    /// Not TLS at all.
    #[error("it does not speak TLS; is this the manager's port?")]
    NotTls,
    /// TLS, but not HTTP/2 inside.
    #[error("it does not speak gRPC (no h2 in ALPN)")]
    NotGrpc,
    /// It closed the connection in the middle.
    #[error("it closed the connection during the TLS handshake")]
    Closed,
    /// It sent an alert.
    #[error("it refused the connection with the TLS alert {0}")]
    Alert(String),
    /// Anything else.
    #[error("TLS handshake failed: {0}")]
    Other(String),
}

impl ConnectFailure {
    /// What a failed TCP connection means.
    pub(super) fn of_tcp(address: &ManagerAddress, error: &io::Error) -> Self {
        let address = address.clone();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            _ => Self::Unreachable { address, why: os_text(error) },
        }
    }

    /// What a failed handshake means. tokio-rustls hides rustls' errors in `io::Error`.
    pub(super) fn of_handshake(address: &ManagerAddress, error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let why = match inner {
            Some(error) => TlsFailure::of(error),
            None if is_close(error.kind()) => TlsFailure::Closed,
            None => TlsFailure::Other(os_text(error)),
        };
        Self::Tls { address: address.clone(), why }
    }
}

impl TlsFailure {
    fn of(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            )
            | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::OldTls,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NotGrpc
            }
            rustls::Error::AlertReceived(alert) => Self::Alert(format!("{alert:?}")),
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired(Some(Timestamp::from_secs(not_after.as_secs())))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            // A root of the same name with another key fails at the signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::ForeignCa,
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                expected: expected.to_str().into_owned(),
                presented: names(presented),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::NotAManager
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<WrongRoot>() {
                Some(wrong) => Self::WrongRoot(wrong.to_string()),
                None => Self::Other(other.0.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// `DnsName("a")` as rustls prints it, without its type; at most four.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| match name.split_once('"') {
        Some((_, rest)) => rest.trim_end_matches(['"', ')']).to_owned(),
        None => name.clone(),
    };
    match presented {
        [] => "no name at all".to_owned(),
        _ => presented.iter().take(4).map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn is_close(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// The system's words without `(os error 113)`.
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or(&text).to_lowercase()
}
