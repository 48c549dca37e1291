//! Private keys (ECDSA P-256) and the requests and joiner certificates made with them.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Common name of the certificate that a host signs for itself to join.
pub(super) const JOINER_NAME: &str = "shoal-joiner";

/// A private key. `Debug` shows nothing of it.
pub struct PrivateKey(KeyPair);

/// A private key in PEM. `Debug` shows nothing of it and there is no `Display`.
#[derive(Clone)]
pub struct SecretPem(String);

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random source failed.
    #[error("cannot generate a private key")]
    Generate(#[source] rcgen::Error),
    /// The text holds no usable private key.
    #[error("cannot read the private key (expected PKCS #8 in PEM)")]
    Read(#[source] rcgen::Error),
    /// Signing failed.
    #[error("cannot sign with the private key")]
    Sign(#[source] rcgen::Error),
}

impl SecretPem {
    /// Takes the text as it is; [`PrivateKey::from_pem`] checks it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for a file of mode 0600 or an encrypted store.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(redacted)")
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl PrivateKey {
    /// A fresh key from the system's random source.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        Ok(Self(key.map_err(KeyError::Generate)?))
    }

    /// Reads PKCS #8 (RFC 5958) in PEM.
    ///
    /// # Errors
    /// [`KeyError::Read`].
    pub fn from_pem(pem: &SecretPem) -> Result<Self, KeyError> {
        KeyPair::from_pem(&pem.0).map(Self).map_err(KeyError::Read)
    }

    /// PKCS #8 in PEM.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        SecretPem(self.0.serialize_pem())
    }

    /// The key as rustls takes it.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) in DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The key for signing with rcgen.
    #[must_use]
    pub fn signer(&self) -> &KeyPair {
        &self.0
    }

    /// A certificate signing request (PKCS #10, RFC 2986) in DER that asks for nothing but a
    /// certificate for this key: the CA alone decides what stands in it.
    ///
    /// # Errors
    /// [`KeyError::Sign`].
    pub fn request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(KeyError::Sign)?;
        Ok(request.der().to_vec())
    }

    /// The certificate that a host shows while it has none from the cluster: signed by itself,
    /// good for the join call only.
    ///
    /// # Errors
    /// [`KeyError::Sign`].
    pub fn joiner_certificate(&self) -> Result<CertificateDer<'static>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, JOINER_NAME);
        let certificate = params.self_signed(&self.0).map_err(KeyError::Sign)?;
        Ok(certificate.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_hides_in_debug() {
        let key = PrivateKey::generate().expect("key");
        let pem = key.to_pem();
        let again = PrivateKey::from_pem(&pem).expect("own text");
        assert_eq!(again.public_key(), key.public_key());
        let shown = format!("{key:?} {pem:?}");
        assert!(!shown.contains("BEGIN"), "{shown}");
    }

    #[test]
    fn nonsense_is_no_key() {
        assert!(PrivateKey::from_pem(&SecretPem::new("nonsense".into())).is_err());
    }
}
