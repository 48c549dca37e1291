//! Who a certificate says its holder is.
//!
//! Subject: CN = node or user id, OU = role, O = cluster id. This module reads; whether to believe
//! what it read is the caller's business ([`super::Peer`]).

use std::fmt;

use shoal_types::id::{ClusterId, NodeId, UserId};
use shoal_types::spec::NodeRole;
use shoal_types::time::Timestamp;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// What a certificate lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves the cluster; may do whatever an agent may.
    Manager,
    /// Runs tasks.
    Agent,
    /// A person or a program that controls the cluster.
    User,
}

impl Role {
    /// As written in the organisational unit of a certificate.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "shoal-manager",
            Self::Agent => "shoal-agent",
            Self::User => "shoal-user",
        }
    }

    /// The reverse of [`Role::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Manager, Self::Agent, Self::User].into_iter().find(|role| role.as_str() == text)
    }

    /// For sentences: `manager`, `agent`, `user`.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Agent => "agent",
            Self::User => "user",
        }
    }
}

impl From<NodeRole> for Role {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Manager => Self::Manager,
            NodeRole::Agent => Self::Agent,
        }
    }
}

/// The id in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// A node, manager or agent.
    Node(NodeId),
    /// A user.
    User(UserId),
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::User(id) => write!(f, "user {id}"),
        }
    }
}

/// What a certificate says of its holder. The role and the kind of [`PeerId`] always agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Common name.
    pub id: PeerId,
    /// Organisational unit.
    pub role: Role,
    /// Organisation.
    pub cluster: ClusterId,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Why a certificate carries no identity of shoal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Not X.509 in DER.
    #[error("not a certificate")]
    NotACertificate,
    /// A part of the subject is missing, doubled or not text.
    #[error("certificate subject has no single {0}")]
    Missing(&'static str),
    /// The organisational unit is no role.
    #[error("certificate names the unknown role {0:?}")]
    Role(String),
    /// An id does not have the form of one.
    #[error("certificate subject")]
    Id(#[source] shoal_types::id::InvalidId),
    /// Dates before 1970 or after 2554.
    #[error("certificate has an impossible validity")]
    Validity,
}

impl Identity {
    /// Reads the subject and validity of a certificate in DER. Verifies nothing.
    ///
    /// # Errors
    /// [`InvalidIdentity`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let parsed = X509Certificate::from_der(der);
        let (_, certificate) = parsed.map_err(|_| InvalidIdentity::NotACertificate)?;
        Self::of_parsed(&certificate)
    }

    pub(super) fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Self, InvalidIdentity> {
        let subject = certificate.subject();
        let name = only("common name", subject.iter_common_name())?;
        let unit = only("organisational unit", subject.iter_organizational_unit())?;
        let organisation = only("organisation", subject.iter_organization())?;
        let role = Role::parse(unit).ok_or_else(|| InvalidIdentity::Role(shorten(unit)))?;
        let id = match role {
            Role::Manager | Role::Agent => name.parse().map(PeerId::Node),
            Role::User => name.parse().map(PeerId::User),
        };
        Ok(Self {
            id: id.map_err(InvalidIdentity::Id)?,
            role,
            cluster: organisation.parse().map_err(InvalidIdentity::Id)?,
            not_before: timestamp(certificate.validity().not_before)?,
            not_after: timestamp(certificate.validity().not_after)?,
        })
    }

    /// The node, if this is one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self.id {
            PeerId::Node(id) => Some(id),
            PeerId::User(_) => None,
        }
    }

    /// The user, if this is one.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        match self.id {
            PeerId::Node(_) => None,
            PeerId::User(id) => Some(id),
        }
    }
}

/// `2026-11-21 01:43 UTC`.
#[must_use]
pub fn utc_date(at: Timestamp) -> String {
    let secs = i64::try_from(at.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX);
    let Ok(time) = ASN1Time::from_timestamp(secs) else { return format!("second {secs}") };
    let at = time.to_datetime();
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

/// The common name of a subject, if there is exactly one and it is text.
pub(super) fn common_name<'a>(name: &'a X509Name<'a>) -> Option<&'a str> {
    only("common name", name.iter_common_name()).ok()
}

fn only<'a>(
    what: &'static str,
    mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Result<&'a str, InvalidIdentity> {
    let missing = InvalidIdentity::Missing(what);
    match (values.next(), values.next()) {
        (Some(value), None) => value.as_str().map_err(|_| missing),
        _ => Err(missing),
    }
}

fn timestamp(time: ASN1Time) -> Result<Timestamp, InvalidIdentity> {
    let secs = u64::try_from(time.timestamp()).map_err(|_| InvalidIdentity::Validity)?;
    let nanos = secs.checked_mul(1_000_000_000).ok_or(InvalidIdentity::Validity)?;
    Ok(Timestamp::from_nanos(nanos))
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_people_write_them() {
        assert_eq!(utc_date(Timestamp::from_secs(1_795_225_380)), "2026-11-21 01:43 UTC");
        assert_eq!(utc_date(Timestamp::ZERO), "1970-01-01 00:00 UTC");
    }

    #[test]
    fn roles_survive_their_text() {
        for role in [Role::Manager, Role::Agent, Role::User] {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("shoal-root"), None);
    }

    #[test]
    fn nonsense_is_no_identity() {
        assert_eq!(Identity::of_certificate(b"x"), Err(InvalidIdentity::NotACertificate));
    }
}
