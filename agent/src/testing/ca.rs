//! A certificate authority that issues whatever a test needs.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use shoal_transport::{Credentials, LiveCredentials, MANAGER_NAME, NODE_DOMAIN, PrivateKey, Role};
use shoal_types::id::{ClusterId, NodeId};
use shoal_types::join_token::{JoinSecret, JoinToken};

pub(crate) struct TestCa {
    pub(crate) cluster: ClusterId,
    pub(crate) root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new(cluster: u128) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_pem = params.self_signed(&key).expect("root").pem();
        let issuer = Issuer::new(params, key);
        Self { cluster: ClusterId::from(cluster), root_pem, issuer }
    }

    fn params(&self, id: NodeId, role: Role) -> CertificateParams {
        let mut names = vec![format!("{id}.{NODE_DOMAIN}")];
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Manager {
            names.push(MANAGER_NAME.to_owned());
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id.to_string());
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_str());
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.to_string());
        params.extended_key_usages = usages;
        let from_now = |seconds: i64| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            let at = now.as_secs().checked_add_signed(seconds).expect("after 1970");
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at)
        };
        params.not_before = from_now(-3600);
        params.not_after = from_now(3600);
        params
    }

    pub(crate) fn credentials(&self, id: u128, role: Role) -> Credentials {
        let key = PrivateKey::generate().expect("key");
        let params = self.params(NodeId::from(id), role);
        let chain = params.signed_by(key.signer(), &self.issuer).expect("certificate").pem();
        Credentials::from_pem(chain, key.to_pem(), self.root_pem.clone()).expect("credentials")
    }

    pub(crate) fn live(&self, id: u128, role: Role) -> LiveCredentials {
        LiveCredentials::new(self.credentials(id, role)).expect("usable")
    }

    /// A certificate for the key of a signing request.
    pub(crate) fn sign(&self, csr_der: &[u8], id: NodeId, role: Role) -> String {
        let csr_der = rustls::pki_types::CertificateSigningRequestDer::from(csr_der.to_vec());
        let request = CertificateSigningRequestParams::from_der(&csr_der).expect("request");
        let params = self.params(id, role);
        params.signed_by(&request.public_key, &self.issuer).expect("certificate").pem()
    }

    pub(crate) fn token(&self, secret: u8) -> JoinToken {
        let roots = self.credentials(1, Role::Agent).root_digests().expect("roots");
        JoinToken { root: roots[0], secret: JoinSecret::from_bytes([secret; 16]) }
    }
}
