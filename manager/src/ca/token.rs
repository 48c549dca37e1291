//! The secrets behind join tokens.

use rand::TryRngCore as _;
use shoal_transport::Role;
use shoal_types::join_token::{InvalidJoinToken, JoinSecret, JoinToken, RootDigest};
use subtle::ConstantTimeEq as _;

use super::CertificateAuthority;

/// The two standing secrets of a cluster. The state holds them as they are, not hashed, because
/// `shoalctl join-token` shows the tokens again; `Debug` hides them.
#[derive(Debug, Clone, Copy)]
pub struct JoinSecrets {
    /// Makes a manager.
    pub manager: JoinSecret,
    /// Makes an agent.
    pub agent: JoinSecret,
}

/// Why a token admits nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, or a damaged one.
    #[error("invalid join token: {0}")]
    Invalid(InvalidJoinToken),
    /// A token of another cluster.
    #[error("join token belongs to another cluster: it names root {named}, this is {ours}")]
    OtherCluster {
        /// The root in the token.
        named: RootDigest,
        /// Ours.
        ours: RootDigest,
    },
    /// The secret is none of ours.
    #[error("join token is not valid: its secret is wrong, or it has been rotated")]
    Secret,
    /// The system's random source failed.
    #[error("cannot draw a random secret")]
    Random,
}

impl JoinSecrets {
    /// Fresh secrets for both roles.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn generate() -> Result<Self, TokenError> {
        Ok(Self { manager: new_secret()?, agent: new_secret()? })
    }

    /// The role that a token gives.
    ///
    /// # Errors
    /// [`TokenError`], which says what is wrong with the token, but not how near it came.
    pub fn admit(&self, ca: &CertificateAuthority, token: &str) -> Result<Role, TokenError> {
        let token: JoinToken = token.parse().map_err(TokenError::Invalid)?;
        if token.root != ca.root_digest() {
            return Err(TokenError::OtherCluster { named: token.root, ours: ca.root_digest() });
        }
        // Both are compared, whatever the first comparison says.
        let manager = token.secret.bytes().ct_eq(self.manager.bytes());
        let agent = token.secret.bytes().ct_eq(self.agent.bytes());
        match (bool::from(manager), bool::from(agent)) {
            (true, _) => Ok(Role::Manager),
            (false, true) => Ok(Role::Agent),
            (false, false) => Err(TokenError::Secret),
        }
    }
}

fn new_secret() -> Result<JoinSecret, TokenError> {
    let mut bytes = [0u8; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(JoinSecret::from_bytes(bytes))
}
