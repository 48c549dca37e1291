//! Replacing the root without anybody noticing.
//!
//! While a rotation lasts, the new root issues and every chain carries the cross certificate, by
//! which members that still trust only the previous root accept it; each renewal brings both roots.
//! It may be finished once the last certificate of the previous root has been renewed.

use shoal_types::time::Timestamp;

use super::{CaError, CaMaterial, CertificateAuthority};

/// Material with a new root and key, cross-signed by `old`.
///
/// # Errors
/// [`CaError::Root`] while another rotation lasts, and as [`CertificateAuthority::create`].
pub fn start_rotation(old: &CertificateAuthority, now: Timestamp) -> Result<CaMaterial, CaError> {
    if !old.material().previous_root_pem.is_empty() {
        return Err(CaError::Root { why: "it is being replaced already" });
    }
    let new = CertificateAuthority::create(old.cluster(), now)?;
    Ok(CaMaterial {
        cross_pem: old.cross_sign(&new, now)?,
        previous_root_pem: old.material().root_pem.clone(),
        ..new.material().clone()
    })
}

/// The same root without its predecessor, which nobody trusts from then on.
#[must_use]
pub fn finish_rotation(material: CaMaterial) -> CaMaterial {
    CaMaterial { cross_pem: String::new(), previous_root_pem: String::new(), ..material }
}
