//! Users.

use serde::Serialize;

use super::Meta;
use crate::id::UserId;
use crate::spec::UserSpec;
use crate::time::Timestamp;

/// Somebody, or some program, that calls the control API. A certificate of a user that is not in
/// the state opens nothing, however long it is valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct User {
    /// Its id; the name in its certificates.
    #[serde(rename = "ID")]
    pub id: UserId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What is wanted of it.
    pub spec: UserSpec,
}

impl User {
    /// Whether its time is over.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.spec.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether it may do everything, and for as long as nobody takes that back.
    #[must_use]
    pub fn is_lasting_admin(&self) -> bool {
        self.spec.is_lasting_admin()
    }
}
