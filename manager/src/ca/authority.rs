//! Making the root and issuing certificates.

use std::time::Duration;

use rand::TryRngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::Digest as _;
use shoal_transport::{
    Credentials, MANAGER_NAME, PeerId, PrivateKey, Role, node_name, root_digest,
};
use shoal_types::id::{ClusterId, NodeId};
use shoal_types::join_token::{JoinSecret, JoinToken, RootDigest};
use shoal_types::time::Timestamp;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CaError, CaMaterial};

/// Validity of users' certificates, and of nodes' if the cluster says nothing else.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest validity of a certificate of a user whose end was chosen; later ones are renewed.
pub const USER_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Validity of the root: 20 years.
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin this long before now, for hosts whose clocks are behind.
pub(crate) const BACKDATING: Duration = Duration::from_secs(3600);
/// Longest request that is parsed, in bytes. Ours have about 200.
const MAX_REQUEST: usize = 8 * 1024;
/// An uncompressed point of P-256 (SEC 1, 2.3.3), in bytes.
const P256_POINT: usize = 65;

/// The authority, ready to sign.
#[derive(Debug)]
pub struct CertificateAuthority {
    cluster: ClusterId,
    material: CaMaterial,
    key: PrivateKey,
    root: CertificateDer<'static>,
    node_life: Duration,
}

/// The id of the node that joins with a key: the first 128 bits of the SHA-256 of its
/// SubjectPublicKeyInfo. A joiner that repeats its request stays one node, and nobody can choose an
/// id that another node has.
#[must_use]
pub fn node_id_of_key(public_key: &[u8]) -> NodeId {
    let digest = sha2::Sha256::digest(public_key);
    let bits = digest.iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
    NodeId::from(bits)
}

impl CertificateAuthority {
    /// A new authority with a new root, for a new cluster.
    ///
    /// # Errors
    /// [`CaError`] if the system's random source or signing fails.
    pub fn create(cluster: ClusterId, now: Timestamp) -> Result<Self, CaError> {
        let key = PrivateKey::generate().map_err(CaError::Key)?;
        let params = root_params(cluster, &key, now)?;
        let root_pem = params.self_signed(key.signer()).map_err(CaError::Issue)?.pem();
        Self::load(cluster, CaMaterial { root_pem, key_pem: key.to_pem() })
    }

    /// The authority that `material` describes.
    ///
    /// # Errors
    /// [`CaError::Key`] and [`CaError::Root`] if the material is damaged.
    pub fn load(cluster: ClusterId, material: CaMaterial) -> Result<Self, CaError> {
        let key = PrivateKey::from_pem(&material.key_pem).map_err(CaError::Key)?;
        let root = CertificateDer::from_pem_slice(material.root_pem.as_bytes())
            .map_err(|_| CaError::Root { why: "it is not PEM" })?;
        let parsed = X509Certificate::from_der(&root);
        let (_, parsed) = parsed.map_err(|_| CaError::Root { why: "it is not X.509" })?;
        if parsed.public_key().raw != key.public_key() {
            return Err(CaError::Root { why: "the key is not the root's" });
        }
        Ok(Self { cluster, material, key, root, node_life: CERTIFICATE_LIFE })
    }

    /// The same with another validity of nodes' certificates.
    #[must_use]
    pub fn with_node_life(self, node_life: Duration) -> Self {
        Self { node_life, ..self }
    }

    /// What to store.
    #[must_use]
    pub fn material(&self) -> &CaMaterial {
        &self.material
    }

    /// The cluster whose authority this is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Digest of the root.
    #[must_use]
    pub fn root_digest(&self) -> RootDigest {
        root_digest(&self.root)
    }

    /// The join token that carries `secret`.
    #[must_use]
    pub fn join_token(&self, secret: JoinSecret) -> JoinToken {
        JoinToken { root: self.root_digest(), secret }
    }

    /// Answers a certificate signing request (PKCS #10 in DER): a chain in PEM, leaf first, for `id`
    /// in `role`, valid as long as its kind is. Of the request only the public key is used, after
    /// its signature has shown that the sender holds it; what else it asks for is ignored.
    ///
    /// # Errors
    /// [`CaError::Request`] if the request is malformed or its key is not ECDSA P-256.
    pub fn issue(
        &self,
        request: &[u8],
        id: PeerId,
        role: Role,
        now: Timestamp,
    ) -> Result<IssuedChain, CaError> {
        self.issue_until(request, id, role, now, None)
    }

    /// As [`CertificateAuthority::issue`]; with `until`, valid until then, but not for more than
    /// [`USER_LIFE_MAX`].
    ///
    /// # Errors
    /// As [`CertificateAuthority::issue`].
    pub fn issue_until(
        &self,
        request: &[u8],
        id: PeerId,
        role: Role,
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<IssuedChain, CaError> {
        let key = key_of_request(request)?;
        let public_key = key.subject_public_key_info();
        let life = until.map(|until| until.since(now).min(USER_LIFE_MAX));
        Ok(IssuedChain { pem: self.issue_for(&key, id, role, now, life)?, public_key })
    }

    /// A key made here and its certificate. Everybody else makes their own: for tests.
    ///
    /// # Errors
    /// [`CaError`] if the system's random source or signing fails.
    #[cfg(any(test, feature = "testing"))]
    pub fn issue_credentials(
        &self,
        id: PeerId,
        role: Role,
        now: Timestamp,
    ) -> Result<Credentials, CaError> {
        let key = PrivateKey::generate().map_err(CaError::Key)?;
        self.certify(&key, id, role, now)
    }

    /// The certificate of a key that is at hand: for the first node, whose id is
    /// [`node_id_of_key`].
    ///
    /// # Errors
    /// [`CaError`] if signing fails.
    pub fn certify(
        &self,
        key: &PrivateKey,
        id: PeerId,
        role: Role,
        now: Timestamp,
    ) -> Result<Credentials, CaError> {
        let chain = self.issue_for(key.signer(), id, role, now, None)?;
        Credentials::from_pem(chain, key.to_pem(), self.material.trusted_pem())
            .map_err(CaError::Credentials)
    }

    fn issue_for(
        &self,
        key: &impl PublicKeyData,
        id: PeerId,
        role: Role,
        now: Timestamp,
        life: Option<Duration>,
    ) -> Result<String, CaError> {
        let mut params = leaf_params(self.cluster, id, role)?;
        let life = life.unwrap_or(match id {
            PeerId::Node(_) => self.node_life,
            PeerId::User(_) => CERTIFICATE_LIFE,
        });
        set_validity(&mut params, now, life);
        let issuer = self.issuer()?;
        let leaf = params.signed_by(key, &issuer).map_err(CaError::Issue)?;
        Ok(leaf.pem())
    }

    fn issuer(&self) -> Result<Issuer<'_, &rcgen::KeyPair>, CaError> {
        Issuer::from_ca_cert_der(&self.root, self.key.signer()).map_err(CaError::Issue)
    }
}

/// What [`CertificateAuthority::issue`] gives.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// Leaf first, then intermediates.
    pub pem: String,
    /// SubjectPublicKeyInfo of the request, in DER.
    pub public_key: Vec<u8>,
}

/// The public key of a signing request, as SubjectPublicKeyInfo in DER, after a check that the sender
/// holds the key: for whoever derives an id from it before anything is issued.
///
/// # Errors
/// [`CaError::Request`], as [`CertificateAuthority::issue`].
pub fn public_key_of_request(request: &[u8]) -> Result<Vec<u8>, CaError> {
    Ok(key_of_request(request)?.subject_public_key_info())
}

/// Checks a request and takes its public key out of it. The rest is dropped here: signing a request
/// as it came would grant whatever it asks, be it a CA or a manager's name.
fn key_of_request(request: &[u8]) -> Result<rcgen::PublicKey, CaError> {
    let refused = |why: &str| CaError::Request { why: why.to_owned() };
    if request.len() > MAX_REQUEST {
        return Err(refused("it is longer than 8 KiB"));
    }
    let parsed = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(
        request.to_vec(),
    ));
    let key = parsed.map_err(|error| refused(&error.to_string()))?.public_key;
    // rcgen takes the kind of key from the algorithm of the signature: the length is the proof.
    if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_POINT {
        return Err(refused("its key is not ECDSA P-256"));
    }
    Ok(key)
}

fn leaf_params(cluster: ClusterId, id: PeerId, role: Role) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let (name, dns) = match id {
        PeerId::Node(id) => (id.to_string(), Some(node_name(id))),
        PeerId::User(id) => (id.to_string(), None),
    };
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
    params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
    let manager = (role == Role::Manager).then(|| MANAGER_NAME.to_owned());
    for dns in dns.into_iter().chain(manager) {
        params.subject_alt_names.push(SanType::DnsName(dns.try_into().map_err(CaError::Issue)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role == Role::Manager {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// The name carries a part of the key's digest, so that two roots are told apart by whoever builds a
/// chain.
fn root_params(
    cluster: ClusterId,
    key: &PrivateKey,
    now: Timestamp,
) -> Result<CertificateParams, CaError> {
    let digest = hex::encode(sha2::Sha256::digest(key.public_key()));
    let short = digest.get(..16).unwrap_or(&digest);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("shoal root {short}"));
    params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
    // One intermediate: for the cross certificate of a next root, so that this one can be replaced.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, now, ROOT_LIFE);
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(now.as_nanos() / 1_000_000_000);
    params.not_before = epoch + now.saturating_sub(BACKDATING);
    params.not_after = epoch + now + life;
}

/// 127 random bits (RFC 5280, 4.1.2.2 wants them positive and unique).
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0u8; 16];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut bytes);
    filled.map_err(|_| CaError::Issue(rcgen::Error::RemoteKeyError))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
