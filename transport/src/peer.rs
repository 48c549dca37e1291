//! The verdict on the other side of a connection, computed once, by a server.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use shoal_types::id::ClusterId;
use shoal_types::time::Timestamp;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::{Identity, common_name, utc_date};
use super::key::JOINER_NAME;

/// What tonic puts into the extensions of every request of a connection accepted by
/// [`super::incoming`].
#[derive(Debug, Clone)]
pub struct ConnectInfo {
    /// Where the peer is.
    pub address: SocketAddr,
    /// Who the peer is.
    pub peer: Arc<Peer>,
}

/// Who is at the other end. In each case it has proved to hold the key of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Its certificate is valid and ours. It may have been removed from the cluster since.
    Trusted(Identity),
    /// Its certificate is not acceptable; every call is answered with the reason.
    Refused(Refusal),
    /// A host without a certificate of any cluster. It may do nothing but join.
    Joiner(Joiner),
}

/// A host on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// SubjectPublicKeyInfo in DER of the key that it has proved to hold; its signing request must
    /// be for the same key.
    pub public_key: Vec<u8>,
}

/// Why a certificate is not acceptable. `Display` is for the one who shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// End of validity has passed.
    #[error("certificate of {who} expired on {}", utc_date(*.not_after))]
    Expired {
        /// As the certificate says.
        who: String,
        /// End of validity.
        not_after: Timestamp,
    },
    /// Start of validity has not come.
    #[error("certificate of {who} is not valid before {}; compare the clocks", utc_date(*.not_before))]
    NotYetValid {
        /// As the certificate says.
        who: String,
        /// Start of validity.
        not_before: Timestamp,
    },
    /// The chain does not end in our root.
    #[error("certificate of {who} was issued by another cluster's CA{}", claimed(.claims))]
    ForeignCa {
        /// As the certificate says.
        who: String,
        /// The cluster it names, if that is another one.
        claims: Option<ClusterId>,
    },
    /// Issued by us, but not for calling.
    #[error("certificate of {who} is not one for clients")]
    WrongPurpose {
        /// As the certificate says.
        who: String,
    },
    /// Issued by us, but its subject is not one that we write.
    #[error("certificate carries no identity of this cluster: {why}")]
    NoIdentity {
        /// What is wrong.
        why: String,
    },
    /// Not understood, or signed in a way that is not accepted.
    #[error("certificate is not acceptable: {why}")]
    Unusable {
        /// What is wrong.
        why: String,
    },
}

fn claimed(claims: &Option<ClusterId>) -> String {
    claims.map(|id| format!(" (it names cluster {id})")).unwrap_or_default()
}

/// Judges a chain, leaf first, whose leaf's key the peer has proved to hold.
pub(super) fn judge(
    chain: &[CertificateDer<'_>],
    trusted: &dyn ClientCertVerifier,
    cluster: ClusterId,
    now: UnixTime,
) -> Peer {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Peer::Refused(Refusal::Unusable { why: "there is none".into() });
    };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Peer::Refused(Refusal::Unusable { why: "it is not X.509".into() });
    };
    if intermediates.is_empty() && is_joiner(&certificate) {
        return Peer::Joiner(Joiner { public_key: certificate.public_key().raw.to_vec() });
    }
    let identity = Identity::of_parsed(&certificate);
    let verdict = trusted.verify_client_cert(leaf, intermediates, now);
    match (verdict, identity) {
        (Ok(_), Ok(identity)) if identity.cluster == cluster => Peer::Trusted(identity),
        (Ok(_), Ok(identity)) => {
            Peer::Refused(Refusal::NoIdentity { why: format!("it names {}", identity.cluster) })
        }
        (Ok(_), Err(error)) => Peer::Refused(Refusal::NoIdentity {
            why: shoal_types::error_chain::chain(&error).to_string(),
        }),
        (Err(error), identity) => Peer::Refused(refusal(&error, identity.ok(), cluster)),
    }
}

/// Self-signed under the name that joiners use. A CA of ours never issues that name, because every
/// name it issues is an id.
fn is_joiner(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
        && common_name(certificate.subject()) == Some(JOINER_NAME)
}

fn refusal(error: &rustls::Error, identity: Option<Identity>, ours: ClusterId) -> Refusal {
    let who = identity.map_or_else(|| "an unknown holder".to_owned(), |i| i.id.to_string());
    let claims = identity.map(|identity| identity.cluster).filter(|cluster| *cluster != ours);
    // The dates of a foreign certificate do not matter, and are looked at before its signature.
    if claims.is_some() {
        return Refusal::ForeignCa { who, claims };
    }
    let rustls::Error::InvalidCertificate(error) = error else {
        return Refusal::Unusable { why: error.to_string() };
    };
    match (error, identity) {
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, Some(identity)) => {
            Refusal::Expired { who, not_after: identity.not_after }
        }
        (
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            Some(identity),
        ) => Refusal::NotYetValid { who, not_before: identity.not_before },
        // A root of the same name with another key fails at the signature.
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, _) => {
            Refusal::ForeignCa { who, claims }
        }
        (CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }, _) => {
            Refusal::WrongPurpose { who }
        }
        (other, _) => Refusal::Unusable { why: other.to_string() },
    }
}
