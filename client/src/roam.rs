//! All managers of a cluster as one: a call goes to the one that has answered last, and to the next one when it
//! is not there or cannot tell.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http_body_util::{BodyExt as _, Full};
use shoal_proto::methods;
use shoal_transport::{
    CredentialsError, LiveCredentials, MANAGER_NAME, ManagerAddress, client_channel,
    client_channel_within, is_undone, is_unsent,
};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt as _};

/// How long a connection may take while others have not been tried.
const QUICK: Duration = Duration::from_secs(1);

/// How long managers that cannot tell are asked again. Each waits a while itself until somebody leads.
const PATIENCE: Duration = Duration::from_secs(12);

/// Wait before the next attempt when all have been tried.
const PAUSE: Duration = Duration::from_millis(200);

/// Managers at most.
const MANAGERS_MAX: usize = 32;

/// A way to a manager.
#[derive(Debug)]
struct Way {
    address: ManagerAddress,
    /// One that is given up soon, for the first time around.
    quick: Channel,
    /// One that is not.
    patient: Channel,
}

/// The managers. Clones share what they know.
#[derive(Debug, Clone)]
pub(crate) struct Managers {
    ways: Arc<[Way]>,
    /// The one that has answered last.
    current: Arc<AtomicUsize>,
}

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// An answer, be it a refusal.
    Answered,
    /// The manager has done nothing, as it cannot.
    Undone,
    /// There was no connection.
    Unsent,
    /// The connection broke.
    Broken,
}

/// Whether a call is made again after an attempt. `tried` says how many attempts there were of how many
/// managers, `harmless` whether it may be done twice.
fn again(outcome: Outcome, tried: usize, managers: usize, harmless: bool, spent: Duration) -> bool {
    // Quickly, then patiently.
    let rounds = if managers > 1 { 2 } else { 1 };
    match outcome {
        Outcome::Answered => false,
        Outcome::Unsent => tried < managers * rounds,
        Outcome::Broken => harmless && managers > 1 && tried < managers * rounds,
        Outcome::Undone => spent < PATIENCE,
    }
}

impl Managers {
    /// Those at these addresses, with these credentials; the first ones if they are too many.
    ///
    /// # Errors
    /// As [`client_channel`].
    pub(crate) fn new(
        addresses: Vec<ManagerAddress>,
        live: &LiveCredentials,
    ) -> Result<Self, CredentialsError> {
        let way = |address: ManagerAddress| {
            let quick = client_channel_within(QUICK, address.clone(), live.clone(), MANAGER_NAME)?;
            let patient = client_channel(address.clone(), live.clone(), MANAGER_NAME)?;
            Ok(Way { address, quick, patient })
        };
        let ways: Result<Vec<Way>, _> = addresses.into_iter().take(MANAGERS_MAX).map(way).collect();
        Ok(Self { ways: ways?.into(), current: Arc::default() })
    }

    /// The one that has answered last.
    pub(crate) fn current(&self) -> Option<&ManagerAddress> {
        self.ways.get(self.current.load(Ordering::Relaxed)).map(|way| &way.address)
    }

    fn channel(&self, at: usize, tried: usize) -> Option<Channel> {
        let way = self.ways.get(at)?;
        let is_quick = self.ways.len() > 1 && tried < self.ways.len();
        Some(if is_quick { way.quick.clone() } else { way.patient.clone() })
    }

    async fn roam(self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let begun = self.current.load(Ordering::Relaxed);
        if methods::talks(&path) {
            let Some(channel) = self.channel(begun, self.ways.len()) else { return nobody() };
            let (_, answer) =
                outcome(channel.oneshot(http::Request::from_parts(parts, body)).await);
            return answer;
        }
        let said = match body.collect().await {
            Ok(said) => said.to_bytes(),
            Err(status) => return status.into_http(),
        };
        let (since, harmless) = (Instant::now(), methods::is_harmless(&path));
        let mut tried = 0;
        loop {
            let at = (begun + tried) % self.ways.len().max(1);
            let Some(channel) = self.channel(at, tried) else { return nobody() };
            let (outcome, answer) = outcome(channel.oneshot(once(&parts, &said)).await);
            tried += 1;
            if !again(outcome, tried, self.ways.len(), harmless, since.elapsed()) {
                if outcome == Outcome::Answered {
                    self.current.store(at, Ordering::Relaxed);
                }
                return answer;
            }
            if tried % self.ways.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn once(parts: &Parts, said: &Bytes) -> http::Request<Body> {
    http::Request::from_parts(parts.clone(), Body::new(Full::new(said.clone())))
}

fn nobody() -> http::Response<Body> {
    Status::unavailable("no manager is known").into_http()
}

/// What came of it, and what the caller gets if it stays at that.
fn outcome(
    result: Result<http::Response<Body>, tonic::transport::Error>,
) -> (Outcome, http::Response<Body>) {
    match result {
        Ok(response) => {
            let status = Status::from_header_map(response.headers());
            let is_undone = status.is_some_and(|status| is_undone(&status));
            (if is_undone { Outcome::Undone } else { Outcome::Answered }, response)
        }
        Err(error) => {
            let outcome = if is_unsent(&error) { Outcome::Unsent } else { Outcome::Broken };
            (outcome, Status::from_error(error.into()).into_http())
        }
    }
}

impl Service<http::Request<Body>> for Managers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let managers = self.clone();
        Box::pin(async move { Ok(managers.roam(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_from_manager_to_manager_and_is_done_once() {
        use Outcome::{Answered, Broken, Undone, Unsent};
        let (none, all) = (Duration::ZERO, PATIENCE);
        for (outcome, tried, managers, harmless, spent, expected) in [
            (Answered, 1, 3, true, none, false),
            (Unsent, 1, 1, true, none, false),
            (Unsent, 1, 3, false, none, true),
            (Unsent, 5, 3, false, all, true),
            (Unsent, 6, 3, false, none, false),
            (Broken, 1, 3, false, none, false),
            (Broken, 1, 3, true, none, true),
            (Broken, 6, 3, true, none, false),
            (Broken, 1, 1, true, none, false),
            (Undone, 1, 1, false, none, true),
            (Undone, 50, 3, false, none, true),
            (Undone, 1, 3, false, all, false),
        ] {
            let case = (outcome, tried, managers, harmless, spent);
            assert_eq!(again(outcome, tried, managers, harmless, spent), expected, "{case:?}");
        }
    }
}
