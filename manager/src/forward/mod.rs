//! Any manager answers: what only the leader can do is passed on to it, with the identity of who called.
//!
//! [`ForwardLayer`] stands before all other layers of the manager's port. Where this manager does not lead, the
//! whole HTTP/2 request goes to the leader over mutual TLS, and the answer comes back as the leader gives it,
//! streams in both directions included. The leader authorises it by who has called, not by who has passed it
//! on; that one only has to be a manager. Decisions are in `shoal_manager_planning::forward`.

mod answer;
mod attempt;
mod caller;
mod pool;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either};
use shoal_manager_planning::forward::{Passing, Then, Way, passing, patience, then, way};
use shoal_proto::methods;
use shoal_transport::{ConnectInfo, undone};
use shoal_types::id::ClusterId;
use shoal_types::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt as _};

pub(crate) use self::attempt::broken;

use self::answer::lead;
use self::attempt::{Attempt, Call, timeout};
use self::caller::CALLER;
use self::pool::Pool;
use crate::auth::{Membership, Via, authorise, may_pass_on, vouches};
use crate::raft::{LeaderState, PeerConnector};

/// Wait before a call is tried again, unless somebody else leads before.
const PAUSE: Duration = Duration::from_millis(100);

/// What passing on needs.
struct Forward {
    cluster: ClusterId,
    leadership: watch::Receiver<LeaderState>,
    members: Arc<dyn Membership>,
    now: fn() -> Timestamp,
    pool: Pool,
}

/// Puts the passing on of calls before services.
#[derive(Clone)]
pub struct ForwardLayer(Arc<Forward>);

impl ForwardLayer {
    /// For a manager of `cluster` that hears from `leadership` who leads, and calls that one by `connector`.
    /// `now` is the clock by which certificates expire.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        leadership: watch::Receiver<LeaderState>,
        connector: Arc<dyn PeerConnector>,
        members: Arc<dyn Membership>,
        now: fn() -> Timestamp,
    ) -> Self {
        let pool = Pool::new(connector);
        Self(Arc::new(Forward { cluster, leadership, members, now, pool }))
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forwarding<S>;

    fn layer(&self, inner: S) -> Forwarding<S> {
        Forwarding { inner, forward: Arc::clone(&self.0) }
    }
}

/// A service behind a [`ForwardLayer`].
#[derive(Clone)]
pub struct Forwarding<S> {
    inner: S,
    forward: Arc<Forward>,
}

impl<S> Service<http::Request<Body>> for Forwarding<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let passing = passing_of(request.uri().path());
        if passing == Passing::Never && !request.headers().contains_key(CALLER) {
            return Either::Left(self.inner.call(request));
        }
        let (forward, inner) = (Arc::clone(&self.forward), self.inner.clone());
        Either::Right(Box::pin(async move { forward.serve(inner, passing, request).await }))
    }
}

impl Forward {
    async fn serve<S>(
        &self,
        inner: S,
        passing: Passing,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, S::Error>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone,
    {
        let was_passed_on = match self.accept(passing, &mut request) {
            Ok(was_passed_on) => was_passed_on,
            Err(status) => {
                tracing::warn!(error = status.message(), "refused a call that was passed on");
                return Ok(status.into_http());
            }
        };
        if !self.lets_through(&request) {
            // Who refuses it knows why.
            return inner.oneshot(request).await;
        }
        let path = request.uri().path().to_owned();
        let deadline = Instant::now() + patience(&path, timeout(request.headers()));
        let mut call = match Call::of(passing, request).await {
            Ok(call) => call,
            Err(status) => return Ok(status.into_http()),
        };
        let mut leadership = self.leadership.clone();
        loop {
            let now = lead(&leadership.borrow_and_update());
            let attempt = match way(passing, was_passed_on, now) {
                Way::Here => self.answer_here(inner.clone(), &path, &mut call).await?,
                Way::To(leader) => self.pass_on(&leader, passing, &mut call).await,
                Way::Wait => {
                    let news = tokio::time::timeout_at(deadline, leadership.changed());
                    match news.await {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) => return Ok(gone("this manager is stopping").into_http()),
                        Err(_) => return Ok(gone("no manager leads at present").into_http()),
                    }
                }
                Way::Back => {
                    return Ok(gone("the manager that was asked does not lead").into_http());
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match then(attempt.outcome(), passing, left) {
                Then::Answer => return Ok(attempt.into_response()),
                Then::Again => {
                    let pause = tokio::time::timeout(PAUSE.min(left), leadership.changed());
                    // Either way it is time for another look.
                    let _ = pause.await;
                }
                then => return Ok(attempt.into_failure(then).into_http()),
            }
        }
    }

    /// Takes off what a manager says of who has called, and takes it for true; whether it says so.
    ///
    /// # Errors
    /// Whoever says it may not: of a call that another one has made nothing is left that could be done.
    fn accept(&self, passing: Passing, request: &mut http::Request<Body>) -> Result<bool, Status> {
        if !request.headers().contains_key(CALLER) {
            return Ok(false);
        }
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let info = info.ok_or_else(|| Status::unauthenticated("connection carries no identity"))?;
        // The manager that has passed it on has to tell its caller something else.
        may_pass_on(&info.peer, &*self.members, (self.now)()).map_err(undone)?;
        if passing == Passing::Never {
            return Err(Status::permission_denied("such a call is never passed on"));
        }
        let caller = caller::read(request.headers(), self.cluster);
        let caller = caller.map_err(|error| Status::invalid_argument(error.to_string()))?;
        request.headers_mut().remove(CALLER);
        request.extensions_mut().insert(Via(info.peer));
        request.extensions_mut().insert(caller);
        Ok(true)
    }

    /// Whether it is worth to keep what is said, or to pass it on: a manager that follows knows members later
    /// than the leader, which has the word.
    fn lets_through(&self, request: &http::Request<Body>) -> bool {
        let Some(info) = request.extensions().get::<ConnectInfo>() else { return false };
        let (path, now) = (request.uri().path(), (self.now)());
        let leads = matches!(*self.leadership.borrow(), LeaderState::Leader { .. });
        match leads {
            true => authorise(&info.peer, path, &*self.members, now).is_ok(),
            false => vouches(&info.peer, path, now),
        }
    }

    async fn answer_here<S>(
        &self,
        inner: S,
        path: &str,
        call: &mut Call,
    ) -> Result<Attempt, S::Error>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>>,
    {
        let began = lead(&self.leadership.borrow());
        let Some(request) = call.request() else { return Ok(Attempt::spent()) };
        let response = inner.oneshot(request).await?;
        Ok(Attempt::here(response, path, began, &self.leadership))
    }
}

/// How calls of a method get to the leader.
pub(crate) fn passing_of(path: &str) -> Passing {
    passing(path, methods::talks(path), methods::is_harmless(path))
}

/// Nothing was done, and another manager, or this one after a while, may do it.
fn gone(why: &str) -> Status {
    undone(Status::unavailable(why))
}

#[cfg(test)]
mod tests;
