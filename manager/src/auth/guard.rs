//! A right that is taken back ends what it was used for: answers that still stream, and calls that
//! have not been answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use shoal_transport::Peer;
use tonic::Status;
use tonic::body::Body;

use super::{AuthLayer, Caller, Standing, Via, authorise};
use crate::forward::{broken, passing_of};

/// How long a call may go on to its answer when its right has gone: whoever removes itself hears
/// that it worked.
const GRACE: Duration = Duration::from_secs(2);

/// Frames of an answer that are passed before the right is looked at again: an answer that is one
/// message and its end was let through as a whole.
const FRAMES_FIRST: u8 = 2;

/// The longest wait between two looks at the clock, which somebody may have set.
const CLOCK_PERIOD: Duration = Duration::from_secs(600);

/// Resolves when the right by which a call was let through is gone or another one.
pub(super) async fn revoked(
    auth: AuthLayer,
    peer: Arc<Peer>,
    via: Option<Via>,
    path: String,
    caller: Caller,
) -> Status {
    let mut changes = auth.members.changes();
    loop {
        changes.borrow_and_update();
        let now = (auth.now)();
        // Of the caller nothing has changed: it begins anew at another manager.
        if let Err(status) = auth.may_pass_on(via.as_ref()) {
            return broken(passing_of(&path), status.message());
        }
        match authorise(&peer, &path, &*auth.members, now) {
            Err(status) => return status,
            Ok(now) if !now.may_as(&caller) => return changed(&caller),
            Ok(_) => {}
        }
        let end = match &caller {
            Caller::Member(identity, standing) => {
                standing.ends().map_or(identity.not_after, |end| end.min(identity.not_after))
            }
            // Its call is short, and its certificate is nobody's.
            Caller::Joiner(_) => return std::future::pending().await,
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = tokio::time::sleep(end.since(now).min(CLOCK_PERIOD)) => {}
        }
    }
}

/// A node is a member still, with another role: it is to come back at once.
fn changed(caller: &Caller) -> Status {
    const WHY: &str = "the caller's rights have changed: call again";
    match caller {
        Caller::Member(_, Standing::Node(_)) => Status::aborted(WHY),
        Caller::Member(_, Standing::User(_) | Standing::Unlisted) | Caller::Joiner(_) => {
            Status::unauthenticated(WHY)
        }
    }
}

/// The answer of `call`, which ends when `revoked` resolves.
pub(super) async fn guarded<E>(
    call: impl Future<Output = Result<http::Response<Body>, E>>,
    revoked: impl Future<Output = Status> + Send + 'static,
) -> Result<http::Response<Body>, E> {
    let mut revoked: BoxFuture<'static, Status> = Box::pin(revoked);
    let mut call = std::pin::pin!(call);
    let response = tokio::select! {
        biased;
        response = &mut call => response?,
        status = &mut revoked => match tokio::time::timeout(GRACE, call).await {
            Ok(response) => {
                revoked = Box::pin(std::future::ready(status));
                response?
            }
            Err(_) => return Ok(status.into_http()),
        },
    };
    Ok(response.map(|inner| Body::new(Guarded { inner, revoked, passed: 0, over: false })))
}

/// An answer on its way.
struct Guarded {
    inner: Body,
    revoked: BoxFuture<'static, Status>,
    /// Frames so far, no more than [`FRAMES_FIRST`].
    passed: u8,
    over: bool,
}

impl Guarded {
    fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Option<Frame<bytes::Bytes>> {
        let Poll::Ready(status) = self.revoked.as_mut().poll(cx) else { return None };
        self.over = true;
        Some(last(&status))
    }
}

/// The end of an answer that ends with this status.
pub(crate) fn last(status: &Status) -> Frame<bytes::Bytes> {
    let mut trailers = http::HeaderMap::new();
    // A message that cannot be a header: without trailers the client sees a broken stream.
    let _ = status.add_header(&mut trailers);
    Frame::trailers(trailers)
}

impl http_body::Body for Guarded {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if this.passed >= FRAMES_FIRST
            && let Some(end) = this.poll_revoked(cx)
        {
            return Poll::Ready(Some(Ok(end)));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.passed = this.passed.saturating_add(1).min(FRAMES_FIRST);
                this.over = frame.is_none();
                Poll::Ready(frame)
            }
            Poll::Pending => match this.poll_revoked(cx) {
                Some(end) => Poll::Ready(Some(Ok(end))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
