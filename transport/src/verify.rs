//! What the TLS layer itself checks: servers prove possession only, joiners trust a digest.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shoal_types::join_token::RootDigest;

use super::{MAX_CHAIN, crypto_provider, root_digest};

/// How both verifiers check signatures: by TLS 1.3 alone. TLS 1.2 is never negotiated; should rustls
/// ask all the same, the answer is no.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                cert,
                dss,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Demands a client certificate and proof that the peer holds its key, and believes nothing that
/// stands in it: the verdict is [`super::Peer`]'s, so that a refusal can say its reason in an RPC.
#[derive(Debug)]
pub(super) struct ProofOfPossession {
    pub(super) provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ProofOfPossession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

/// The server showed no root certificate with the digest that the join token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("root certificate has digest {presented}, the join token names {pinned}")]
pub(super) struct WrongRoot {
    /// What the token says.
    pub(super) pinned: RootDigest,
    /// Digest of the last certificate that the server sent.
    pub(super) presented: RootDigest,
}

/// Trusts the root certificate, among those the server sends, whose SHA-256 is the pinned one; the
/// rest is verified against it as usual: chain, dates, purpose, name.
#[derive(Debug)]
pub(super) struct PinnedRoot {
    pub(super) pinned: RootDigest,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        let is_pinned = |certificate: &&CertificateDer<'_>| root_digest(certificate) == self.pinned;
        let Some(root) = intermediates.iter().find(is_pinned) else {
            let last = intermediates.last().unwrap_or(end_entity);
            let wrong = WrongRoot { pinned: self.pinned, presented: root_digest(last) };
            let other = CertificateError::Other(OtherError(Arc::new(wrong)));
            return Err(Error::InvalidCertificate(other));
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = server_verifier(Arc::new(roots), self.provider.clone())?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    tls13_signatures!();
}

/// The ordinary check of a server against known roots.
pub(super) fn server_verifier(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// A verifier that trusts what [`PinnedRoot`] describes, with our provider.
pub(super) fn pinned(pinned: RootDigest) -> Arc<PinnedRoot> {
    Arc::new(PinnedRoot { pinned, provider: crypto_provider() })
}
