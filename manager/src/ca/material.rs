//! What the cluster stores of its certificate authority.

use shoal_transport::SecretPem;

/// Everything the authority consists of, as text to replicate. `Debug` hides the key.
#[derive(Debug, Clone)]
pub struct CaMaterial {
    /// The self-signed root that issues, PEM.
    pub root_pem: String,
    /// Its private key.
    pub key_pem: SecretPem,
}

impl CaMaterial {
    /// What every member must trust, PEM.
    #[must_use]
    pub fn trusted_pem(&self) -> String {
        self.root_pem.clone()
    }
}
