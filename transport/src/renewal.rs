//! Renewing a certificate before it expires.
//!
//! When is a pure function of the certificate's dates and a random number; the loop around it only
//! waits and asks.

use std::time::{Duration, SystemTime};

use rand::Rng as _;
use shoal_types::error_chain::chain;
use shoal_types::time::Timestamp;
use tokio::time::sleep;

use super::{Credentials, EnrolError, Identity, LiveCredentials, utc_date};

/// First wait after a failed renewal.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// Longest wait after a failed renewal.
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// Longest single sleep: the clock may be set while we sleep, and sleeping does not notice.
const NAP: Duration = Duration::from_secs(600);

/// When to renew a certificate: at a point between 50 and 80 % of its life, which `draw` (from 0 to
/// below 1, drawn once per certificate) chooses, so that nodes that joined together do not renew
/// together.
#[must_use]
pub fn renew_at(identity: &Identity, draw: f64) -> Timestamp {
    let life = identity.not_after.since(identity.not_before);
    identity.not_before + life.mul_f64(0.5 + 0.3 * draw.clamp(0.0, 1.0))
}

/// How long to wait after the `failures`-th failure in a row (from 1): doubling from 10 s to 1 h,
/// shortened by up to a half as `draw` (from 0 to below 1) says.
fn retry_after(failures: u32, draw: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LAST_RETRY).mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0))
}

/// Renews `live` for ever: waits until [`renew_at`], asks `request` for new credentials, hands them
/// to `store`, which must make them durable, and puts them into use. Failures of either are logged
/// and tried again after [`retry_after`]. When somebody else replaces the credentials, it starts
/// over with the new ones.
pub async fn renew_forever<R, F, S>(live: LiveCredentials, mut request: R, mut store: S)
where
    R: FnMut(Credentials) -> F,
    F: Future<Output = Result<Credentials, EnrolError>>,
    S: FnMut(&Credentials) -> Result<(), super::CredentialsError>,
{
    loop {
        // Before reading: a replacement in between must not be missed.
        let mut changes = live.subscribe();
        let current = live.current();
        let at = renew_at(current.identity(), rand::rng().random());
        tracing::debug!(at = utc_date(at), "next certificate renewal");
        tokio::select! {
            _ = changes.changed() => {}
            () = renew_once(&live, current, at, &mut request, &mut store) => {}
        }
    }
}

async fn renew_once<R, F, S>(
    live: &LiveCredentials,
    current: Credentials,
    at: Timestamp,
    request: &mut R,
    store: &mut S,
) where
    R: FnMut(Credentials) -> F,
    F: Future<Output = Result<Credentials, EnrolError>>,
    S: FnMut(&Credentials) -> Result<(), super::CredentialsError>,
{
    sleep_until(at).await;
    for failures in 1u32.. {
        let error = match request(current.clone()).await {
            Ok(renewed) => match store(&renewed).and_then(|()| live.replace(renewed.clone())) {
                Ok(()) => {
                    let until = utc_date(renewed.identity().not_after);
                    return tracing::info!(until, "renewed the certificate");
                }
                Err(error) => chain(&error).to_string(),
            },
            Err(error) => chain(&error).to_string(),
        };
        let wait = retry_after(failures, rand::rng().random());
        let expires = utc_date(current.identity().not_after);
        tracing::warn!(error, expires, ?wait, "cannot renew the certificate for now");
        sleep(wait).await;
    }
}

async fn sleep_until(at: Timestamp) {
    loop {
        let left = at.since(wall_clock());
        if left.is_zero() {
            return;
        }
        sleep(left.min(NAP)).await;
    }
}

fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::ZERO + since_epoch
}

#[cfg(test)]
mod tests {
    use shoal_types::id::{ClusterId, NodeId};

    use super::super::{PeerId, Role};
    use super::*;

    #[test]
    fn renewal_falls_between_half_and_four_fifths_of_life() {
        let identity = Identity {
            id: PeerId::Node(NodeId::from(1)),
            role: Role::Agent,
            cluster: ClusterId::from(1),
            not_before: Timestamp::from_secs(1000),
            not_after: Timestamp::from_secs(2000),
        };
        let table = [(0.0, 1500), (0.5, 1650), (1.0, 1800), (-1.0, 1500), (7.0, 1800)];
        for (draw, expected) in table {
            assert_eq!(renew_at(&identity, draw), Timestamp::from_secs(expected), "{draw}");
        }
    }

    #[test]
    fn retries_double_up_to_an_hour() {
        let secs = |failures, draw| retry_after(failures, draw).as_secs();
        let waits = [1, 2, 3, 9, 10, 1000].map(|failures| secs(failures, 0.0));
        assert_eq!(waits, [10, 20, 40, 2560, 3600, 3600]);
        assert_eq!(secs(1, 1.0), 5);
    }
}
