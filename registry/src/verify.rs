//! Whether a registry takes a credential.

use std::fmt;

use super::{Ask, Registries, RegistryAuth, RegistryError};

/// What came of showing a registry a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    /// A token that the token server takes in place of the password from now on: what is to be kept.
    pub identity: Option<String>,
    /// Whether the registry asked for a credential at all.
    pub asked: bool,
}

/// Never shows a secret.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, asked } = self;
        f.debug_struct("Verified")
            .field("identity", &identity.as_ref().map(|_| "…"))
            .field("asked", asked)
            .finish()
    }
}

impl Registries {
    /// Shows a credential to a registry (`host[:port]`), and asks for an identity token in place of a
    /// password.
    ///
    /// # Errors
    /// [`RegistryError::LoginRefused`] when it is not taken; others when the registry cannot be asked.
    pub async fn verify(
        &self,
        registry: &str,
        auth: RegistryAuth,
    ) -> Result<Verified, RegistryError> {
        let mut session = self.open(registry, "", Some(auth))?;
        session.offline = true;
        let ask = Ask { what: "a login", accept: None, range: None, head: false };
        session.persist(|| session.ask("", &ask)).await?;
        let asked = session.authorization.lock().await.is_some();
        let identity = session.granted.lock().await.take();
        Ok(Verified { identity, asked })
    }
}
