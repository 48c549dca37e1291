//! Renewing a user's certificate: whoever uses it keeps it.
//!
//! There is no process that could do it in the background, so a command that speaks to a manager
//! does it on its way. Nobody waits for it long, and no command fails because of it.

use std::time::{Duration, SystemTime};

use shoal_transport::{EnrolError, Identity, LiveCredentials, renew, renew_at};
use shoal_types::error_chain::chain;
use shoal_types::time::Timestamp;

use crate::context::{ContextError, Store};
use crate::roam::Managers;

/// For the manager to answer. It only signs; a command must not be held up for longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long before its end it is told that a certificate is not renewed.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a certificate needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It is young, or it has expired and cannot renew itself any more.
    Nothing,
    /// Half of its life is over.
    Renewal,
    /// Three quarters of its life are over.
    UrgentRenewal,
}

fn need(identity: &Identity, now: Timestamp) -> Need {
    let (left, life) =
        (identity.not_after.since(now), identity.not_after.since(identity.not_before));
    match () {
        () if left.is_zero() || now < renew_at(identity, 0.0) => Need::Nothing,
        () if left < life / 4 => Need::UrgentRenewal,
        () => Need::Renewal,
    }
}

/// What people should know of a certificate: it is near its end.
#[derive(Debug)]
pub enum Notice {
    /// And cannot be renewed.
    NotRenewed {
        /// The context that it is of.
        context: String,
        /// Its end.
        not_after: Timestamp,
        /// Why not, with all that it came from.
        reason: String,
    },
    /// And is not renewed by use, as it is not kept here.
    Ends {
        /// The context that it is of.
        context: String,
        /// Its end.
        not_after: Timestamp,
        /// Where it is from.
        variable: String,
    },
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error("the manager does not issue one")]
    Refused(#[source] EnrolError),
    #[error("the manager does not issue one: no answer within {PATIENCE:?}")]
    Silent,
}

/// Now, by this host's clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Renews the credentials of a context if it is time, by way of a channel that uses them. People
/// hear of a failure only when the end is near.
pub(crate) async fn on_use(
    store: &Store,
    name: &str,
    managers: Managers,
    live: &LiveCredentials,
) -> Option<Notice> {
    let identity = *live.current().identity();
    let need = need(&identity, now());
    if need == Need::Nothing {
        return None;
    }
    let error = attempt(store, name, managers, live).await.err()?;
    (need == Need::UrgentRenewal).then(|| Notice::NotRenewed {
        context: name.to_owned(),
        not_after: identity.not_after,
        reason: chain(&error).to_string(),
    })
}

/// That a certificate which cannot be renewed by use, as it is in a variable, ends soon.
pub(crate) fn end_of(name: &str, identity: &Identity, variable: &str) -> Option<Notice> {
    ends_soon(identity, now()).then(|| Notice::Ends {
        context: name.to_owned(),
        not_after: identity.not_after,
        variable: variable.to_owned(),
    })
}

/// Whether somebody should see to it; of a short life it is the last quarter, so that a user made for an
/// hour hears nothing at first, though a certificate's life begins an hour before it is issued.
fn ends_soon(identity: &Identity, now: Timestamp) -> bool {
    let (left, life) =
        (identity.not_after.since(now), identity.not_after.since(identity.not_before));
    !left.is_zero() && left <= NOTICE.min(life / 4)
}

async fn attempt(
    store: &Store,
    name: &str,
    managers: Managers,
    live: &LiveCredentials,
) -> Result<(), RenewalError> {
    // Whoever holds the lock is renewing, most likely; else the next command does it.
    let Some(_alone) = store.try_lock()? else { return Ok(()) };
    let current = live.current();
    if store.credentials(name)?.identity().not_after > current.identity().not_after {
        return Ok(());
    }
    let renewed = match tokio::time::timeout(PATIENCE, renew(managers, &current)).await {
        Ok(answer) => answer.map_err(RenewalError::Refused)?,
        Err(_) => return Err(RenewalError::Silent),
    };
    // Where the end was chosen, a new certificate ends as the old one does.
    if renewed.identity().not_after > current.identity().not_after {
        store.save_credentials(name, &renewed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use shoal_transport::{PeerId, Role};
    use shoal_types::id::{ClusterId, UserId};

    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_second_half_of_its_life() {
        let identity = Identity {
            id: PeerId::User(UserId::from(1)),
            role: Role::User,
            cluster: ClusterId::from(1),
            not_before: Timestamp::from_secs(1000),
            not_after: Timestamp::from_secs(2000),
        };
        let table = [
            (900, Need::Nothing),
            (1499, Need::Nothing),
            (1500, Need::Renewal),
            (1750, Need::Renewal),
            (1751, Need::UrgentRenewal),
            (1999, Need::UrgentRenewal),
            (2000, Need::Nothing),
            (9000, Need::Nothing),
        ];
        for (now, expected) in table {
            assert_eq!(need(&identity, Timestamp::from_secs(now)), expected, "{now}");
        }
    }

    #[test]
    fn who_has_a_certificate_for_an_hour_hears_of_its_end_at_its_end() {
        let hour = 3600;
        let identity = Identity {
            id: PeerId::User(UserId::from(1)),
            role: Role::User,
            cluster: ClusterId::from(1),
            not_before: Timestamp::from_secs(0),
            not_after: Timestamp::from_secs(2 * hour),
        };
        for (now, told) in [(hour, false), (hour + 1799, false), (hour + 1800, true)] {
            assert_eq!(ends_soon(&identity, Timestamp::from_secs(now)), told, "{now}");
        }
        assert!(!ends_soon(&identity, Timestamp::from_secs(2 * hour)), "it has ended");
    }
}
