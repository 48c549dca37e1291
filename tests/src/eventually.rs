//! Waiting for a condition, with a bound. Nothing here sleeps for luck.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `attempt` succeeds; its last failure is in the panic's text.
///
/// # Panics
/// When it has not succeeded within `patience`.
pub fn eventually<T, E: Display>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> T {
    match within(patience, &mut attempt) {
        Ok(found) => found,
        Err(last) => panic!("not within {patience:?}: {what}; last seen: {last}"),
    }
}

/// Looks until `attempt` succeeds or the time is up, and then gives its last failure.
///
/// # Errors
/// The last failure of `attempt`.
pub fn within<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => return Err(last),
            Err(_) => sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_and_the_last_failure() {
        let mut count = 0;
        let counted = eventually("counting", Duration::from_secs(5), || {
            count += 1;
            if count == 3 { Ok(count) } else { Err("not yet") }
        });
        assert_eq!(counted, 3);
        let failure: Result<(), _> = within(Duration::ZERO, || Err("never"));
        assert_eq!(failure, Err("never"));
    }
}
