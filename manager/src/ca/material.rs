//! What the cluster stores of its certificate authority.

use shoal_proto::transport::SecretPem;

/// Everything the authority consists of, as text to replicate. `Debug` hides the key.
#[derive(Debug, Clone)]
pub struct CaMaterial {
    /// The self-signed root that issues now, PEM.
    pub root_pem: String,
    /// Its private key.
    pub key_pem: SecretPem,
    /// While the root is being replaced: this root's key certified by the previous root, PEM, sent
    /// after every leaf. Empty otherwise.
    pub cross_pem: String,
    /// While the root is being replaced: the previous root, PEM, trusted along with the new one.
    /// Empty otherwise.
    pub previous_root_pem: String,
}

impl CaMaterial {
    /// What every member must trust, PEM: the root that issues now first.
    #[must_use]
    pub fn trusted_pem(&self) -> String {
        format!("{}{}", self.root_pem, self.previous_root_pem)
    }
}
