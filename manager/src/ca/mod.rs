//! The certificate authority of the cluster: its root, the certificates it issues, join tokens, and
//! the gRPC service that hands them out.
//!
//! Issuing is a function of (authority, request, role, now); what the cluster keeps of all this, the
//! [`CaMaterial`] and the [`JoinSecrets`], is replicated with the rest of its state.

mod authority;
mod material;
mod service;
mod stored;
mod token;

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;

pub(crate) use authority::BACKDATING;
pub use authority::{
    CERTIFICATE_LIFE, CertificateAuthority, IssuedChain, USER_LIFE_MAX, node_id_of_key,
    public_key_of_request,
};
pub use material::CaMaterial;
pub use service::{Admission, CaService, ClusterCa};
pub use token::{JoinSecrets, TokenError};

use shoal_transport::{CredentialsError, KeyError};

/// Why the authority could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The private key is unusable.
    #[error("cannot use the key of the certificate authority")]
    Key(#[source] KeyError),
    /// The stored root certificate is unusable.
    #[error("cannot use the root certificate: {why}")]
    Root {
        /// What is wrong.
        why: &'static str,
    },
    /// The request is not one that is answered; the one who sent it is at fault.
    #[error("cannot use the certificate signing request: {why}")]
    Request {
        /// What is wrong.
        why: String,
    },
    /// Building or signing a certificate failed.
    #[error("cannot issue a certificate")]
    Issue(#[source] rcgen::Error),
    /// The certificate does not fit its own key: a bug.
    #[error("cannot use the certificate just issued")]
    Credentials(#[source] CredentialsError),
}
