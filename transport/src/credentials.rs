//! A certificate with its key and the roots its holder trusts, in memory and on disk.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use shoal_durable::write_file;
use shoal_types::join_token::RootDigest;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::{Identity, InvalidIdentity};
use super::key::{KeyError, PrivateKey, SecretPem};
use super::{MAX_CHAIN, root_digest};

/// Key and chain in one file, because only together do they mean something: one rename replaces
/// both, and no crash can leave a key beside another key's certificate.
const IDENTITY_FILE: &str = "identity.pem";
/// The trusted roots.
const ROOT_FILE: &str = "root.pem";
/// No file of ours comes near this size, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// What somebody needs to take part in a cluster. `Debug` shows the identity only.
#[derive(Clone)]
pub struct Credentials {
    chain_pem: String,
    key_pem: SecretPem,
    root_pem: String,
    identity: Identity,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Others may read the private key.
    #[error("{path} holds a private key but has mode {mode:o}; run chmod 600 on it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A text is not PEM, or not of what it should be.
    #[error("cannot read the {what} (expected PEM)")]
    Pem {
        /// `certificate chain` or `root certificates`.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: pem::Error,
    },
    /// None, or too many.
    #[error("{what} has {found} certificates, expected 1 to {MAX_CHAIN}")]
    Count {
        /// `certificate chain` or `root certificates`.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The private key is unusable.
    #[error("cannot use the private key")]
    Key(#[source] KeyError),
    /// The leaf says nothing about its holder.
    #[error("cannot use the certificate")]
    Identity(#[source] InvalidIdentity),
    /// Certificate of one key, another key beside it.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// rustls does not take them.
    #[error("cannot set TLS up")]
    Tls(#[source] rustls::Error),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Checks that the parts fit together: the leaf carries an identity, the key is the leaf's, the
    /// roots are certificates. Verifies neither dates nor signatures; the other side does.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn from_pem(
        chain_pem: String,
        key_pem: SecretPem,
        root_pem: String,
    ) -> Result<Self, CredentialsError> {
        let chain = certificates("certificate chain", &chain_pem)?;
        certificates("root certificates", &root_pem)?;
        let key = PrivateKey::from_pem(&key_pem).map_err(CredentialsError::Key)?;
        let no_leaf = CredentialsError::Identity(InvalidIdentity::NotACertificate);
        let Some(leaf) = chain.first() else { return Err(no_leaf) };
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return Err(no_leaf) };
        if parsed.public_key().raw != key.public_key() {
            return Err(CredentialsError::Mismatch);
        }
        let identity = Identity::of_parsed(&parsed).map_err(CredentialsError::Identity)?;
        Ok(Self { chain_pem, key_pem, root_pem, identity })
    }

    /// Who these are for.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Leaf first, PEM.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The private key.
    #[must_use]
    pub fn key_pem(&self) -> &SecretPem {
        &self.key_pem
    }

    /// The trusted roots, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Digests of the trusted roots, as join tokens carry them.
    ///
    /// # Errors
    /// None that [`Credentials::from_pem`] has not already reported.
    pub fn root_digests(&self) -> Result<Vec<RootDigest>, CredentialsError> {
        let roots = certificates("root certificates", &self.root_pem)?;
        Ok(roots.iter().map(|root| root_digest(root)).collect())
    }

    /// Writes `identity.pem` and `root.pem` (mode 0600) into `dir`, each atomically and durably,
    /// roots first: they may only grow before the certificate that needs them.
    ///
    /// # Errors
    /// [`CredentialsError::Write`].
    pub fn save(&self, dir: &Path) -> Result<(), CredentialsError> {
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            write_file(&path, content.as_bytes(), 0o600)
                .map_err(|source| CredentialsError::Write { path, source })
        };
        write(ROOT_FILE, &self.root_pem)?;
        write(IDENTITY_FILE, &format!("{}{}", self.key_pem.reveal(), self.chain_pem))
    }

    /// Reads what [`Credentials::save`] wrote. `None` if there is no identity in `dir`.
    ///
    /// # Errors
    /// [`CredentialsError`]; also when others than the owner may read the key.
    pub fn load(dir: &Path) -> Result<Option<Self>, CredentialsError> {
        let path = dir.join(IDENTITY_FILE);
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode() & 0o777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialsError::Read { path, source }),
        };
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Exposed { path, mode });
        }
        let text = read(&path)?;
        let start = text.find("-----BEGIN CERTIFICATE").unwrap_or(text.len());
        let (key, chain) = text.split_at(start);
        let root = read(&dir.join(ROOT_FILE))?;
        Self::from_pem(chain.to_owned(), SecretPem::new(key.to_owned()), root).map(Some)
    }

    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        certificates("certificate chain", &self.chain_pem)
    }

    pub(super) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        certificates("root certificates", &self.root_pem)
    }
}

fn read(path: &Path) -> Result<String, CredentialsError> {
    let limited = || {
        let size = fs::metadata(path)?.len();
        if size > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file is far too large"));
        }
        fs::read_to_string(path)
    };
    limited().map_err(|source| CredentialsError::Read { path: path.to_owned(), source })
}

fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialsError::Pem { what, source })?;
    if all.is_empty() || all.len() > MAX_CHAIN {
        return Err(CredentialsError::Count { what, found: all.len() });
    }
    Ok(all)
}
