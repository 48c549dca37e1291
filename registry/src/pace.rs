//! How slow a transfer may be.
//!
//! A peer that sends a byte now and then is neither silent nor done. What counts is the time that is
//! spent waiting for it, not what the receiver needs itself, and what came in it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::config::RegistryConfig;
use super::error::RegistryError;

/// One transfer's pace.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    rate: u64,
    window: Duration,
    /// Waited in this window.
    waited: Duration,
    /// Arrived in this window.
    bytes: u64,
    began: Instant,
    longest: Duration,
}

impl Pace {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self {
            rate: config.rate_min,
            window: config.rate_window,
            waited: Duration::ZERO,
            bytes: 0,
            began: Instant::now(),
            longest: config.transfer_timeout,
        }
    }

    /// Waits for the next part of `what`, for at most what is left of the window.
    ///
    /// Returns nothing when the window ended and enough had come: wait again.
    pub(super) async fn keep<T>(
        &mut self,
        registry: &str,
        what: &str,
        next: impl Future<Output = T>,
        length: impl FnOnce(&T) -> u64,
    ) -> Result<Option<T>, RegistryError> {
        if self.began.elapsed() >= self.longest {
            return Err(RegistryError::TooLong {
                registry: registry.to_owned(),
                what: what.to_owned(),
                limit: self.longest,
            });
        }
        let before = Instant::now();
        let next = timeout(self.window.saturating_sub(self.waited), next).await.ok();
        self.waited += before.elapsed();
        self.bytes += next.as_ref().map_or(0, length);
        if self.waited < self.window {
            return Ok(next);
        }
        let expected = self.rate.saturating_mul(self.window.as_secs().max(1));
        if self.bytes < expected {
            return Err(RegistryError::TooSlow {
                registry: registry.to_owned(),
                what: what.to_owned(),
                bytes: self.bytes,
                window: self.window,
                rate: self.rate,
            });
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(next)
    }
}
