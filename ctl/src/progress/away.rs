//! Bearing with a manager that is away for a while: restarted, or replaced by another leader.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CommandError;
use crate::render::note;

/// How long a manager may stay away before waiting for it is given up.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// Wait before a manager that is away is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Since when a manager has been away.
#[derive(Debug, Default)]
pub(crate) struct Away {
    since: Option<Instant>,
}

impl Away {
    /// The manager answers.
    pub(crate) fn is_back(&mut self) {
        self.since = None;
    }

    /// Takes an error that means that the manager is away; true if it has just gone.
    ///
    /// # Errors
    /// The error itself if it means anything else, or the manager has been away for too long.
    pub(crate) fn bear(&mut self, error: CommandError, now: Instant) -> Result<bool, CommandError> {
        let since = self.since.unwrap_or(now);
        if !error.is_away() || now.saturating_duration_since(since) > AWAY_MAX {
            return Err(error);
        }
        Ok(self.since.replace(since).is_none())
    }
}

/// Has `open` open a stream again after `error`, unless that means that there is none any more. Says so once.
///
/// # Errors
/// As [`Away::bear`], and what else is wrong.
pub(crate) async fn again<T>(
    away: &mut Away,
    mut error: CommandError,
    mut open: impl AsyncFnMut() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    loop {
        let text = format!("the manager is away, trying again: {}", error.reason());
        if away.bear(error, Instant::now())? {
            note(&text);
        }
        tokio::time::sleep(PAUSE).await;
        match open().await {
            Ok(stream) => return Ok(stream),
            Err(next) => error = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn a_manager_may_be_away_for_a_minute() {
        let mut away = Away::default();
        let begun = Instant::now();
        let gone = || CommandError::from(Status::unavailable("no route"));
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(away.bear(gone(), begun).unwrap(), "this is news");
        assert!(!away.bear(gone(), after(60)).unwrap(), "this is not");
        away.is_back();
        assert!(away.bear(gone(), after(70)).unwrap(), "each time counts by itself");
        assert!(!away.bear(gone(), after(130)).unwrap());
        assert_eq!(away.bear(gone(), after(131)).unwrap_err().reason(), "no route");
    }

    #[test]
    fn a_refusal_is_no_absence() {
        let refusals = [
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::InvalidArgument,
            Code::FailedPrecondition,
            Code::Unimplemented,
            Code::NotFound,
        ];
        let heard = |error: CommandError| Away::default().bear(error, Instant::now());
        for code in refusals {
            let refused = heard(Status::new(code, "no").into());
            assert_eq!(refused.unwrap_err().reason(), "no", "{code:?}");
        }
        assert!(heard(CommandError::failed("nobody was asked")).is_err());
        // A manager that is stopped amid an answer, or that no longer leads.
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled] {
            assert!(heard(Status::new(code, "").into()).is_ok(), "{code:?}");
        }
    }
}
