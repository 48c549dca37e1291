//! How long to wait before the next attempt.

use std::time::Duration;

use rand::Rng as _;

use super::config::RegistryConfig;
use super::error::RegistryError;

/// Longest wait between two attempts, also when the registry asks for more.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Waits after the `failures`-th failure in a row (from 1).
pub(super) async fn wait(config: &RegistryConfig, failures: u32, error: &RegistryError) {
    let jitter = rand::rng().random_range(0.75..1.25);
    tokio::time::sleep(pause(config.first_retry, failures, error).mul_f64(jitter)).await;
}

fn pause(first: Duration, failures: u32, error: &RegistryError) -> Duration {
    let asked = match error {
        RegistryError::RateLimited { retry_after: Some(asked), .. } => *asked,
        _ => Duration::ZERO,
    };
    let doubled =
        first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.max(asked).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let first = Duration::from_millis(250);
        let limited = |seconds| RegistryError::RateLimited {
            registry: String::new(),
            retry_after: seconds,
            detail: String::new(),
        };
        let plain = limited(None);
        for (failures, expected) in [(1, 250), (2, 500), (3, 1000), (40, 20_000)] {
            assert_eq!(pause(first, failures, &plain), Duration::from_millis(expected));
        }
        let asked = |seconds| limited(Some(Duration::from_secs(seconds)));
        assert_eq!(pause(first, 1, &asked(3)), Duration::from_secs(3));
        assert_eq!(pause(first, 1, &asked(3600)), WAIT_MAX);
    }
}
