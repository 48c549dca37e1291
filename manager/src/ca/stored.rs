//! The authority and the join secrets as the cluster object stores them.

use shoal_transport::SecretPem;
use shoal_types::join_token::JoinSecret;
use shoal_types::object::{Cluster, JoinTokens, RootCa};

use super::{CaError, CaMaterial, CertificateAuthority, JoinSecrets, TokenError};

impl CertificateAuthority {
    /// The authority of a cluster.
    ///
    /// # Errors
    /// As [`CertificateAuthority::load`].
    pub fn of_cluster(cluster: &Cluster) -> Result<Self, CaError> {
        let material = CaMaterial {
            root_pem: cluster.root_ca.cert_pem.clone(),
            key_pem: SecretPem::new(cluster.root_ca.key_pem.clone()),
        };
        Ok(Self::load(cluster.id, material)?.with_node_life(cluster.spec.node_cert_expiry))
    }

    /// What the cluster object stores.
    #[must_use]
    pub fn to_stored(&self) -> RootCa {
        let material = self.material();
        let (cert_pem, key) = (material.root_pem.clone(), &material.key_pem);
        RootCa { cert_pem, key_pem: key.reveal().to_owned() }
    }
}

impl JoinSecrets {
    /// The secrets of a cluster.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] if the stored text is damaged.
    pub fn of_cluster(stored: &JoinTokens) -> Result<Self, TokenError> {
        let parse = |text: &str| text.parse::<JoinSecret>().map_err(TokenError::Invalid);
        Ok(Self { manager: parse(&stored.manager)?, agent: parse(&stored.agent)? })
    }

    /// What the cluster object stores.
    #[must_use]
    pub fn to_stored(&self) -> JoinTokens {
        JoinTokens { agent: self.agent.reveal(), manager: self.manager.reveal() }
    }
}
