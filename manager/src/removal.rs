//! Telling a node that it was removed, for good.
//!
//! A manager refuses whoever is no member in the state that it has applied. That may be an old one: a
//! follower lags, and one that was cut off leads nobody. A node that gives its containers up must
//! not do so for the word of such a manager, so before it is told, the cluster is asked.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either};
use shoal_transport::{ConnectInfo, Peer, removed};
use shoal_types::id::NodeId;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::cluster::Cluster;

/// The calls by which a node learns whether it is one, or has to before it says that it has gone.
const CALLS: [&str; 3] =
    ["/shoal.v1.Dispatcher/Session", "/shoal.v1.Dispatcher/Drain", "/shoal.v1.Dispatcher/Leave"];

/// Whether a majority of the managers knows no such node. An error: this manager cannot tell.
type IsGone = Arc<dyn Fn(NodeId) -> BoxFuture<'static, Result<bool, Status>> + Send + Sync>;

/// Stands before the layer that refuses, and looks at what that says to nodes.
#[derive(Clone)]
pub struct RemovalLayer {
    is_gone: IsGone,
}

impl RemovalLayer {
    /// Asks this cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let is_gone = move |node| -> BoxFuture<'static, Result<bool, Status>> {
            let cluster = cluster.clone();
            Box::pin(async move { Ok(cluster.read().await?.node(node).is_none()) })
        };
        Self { is_gone: Arc::new(is_gone) }
    }
}

impl<S> Layer<S> for RemovalLayer {
    type Service = Told<S>;

    fn layer(&self, inner: S) -> Told<S> {
        Told { inner, is_gone: Arc::clone(&self.is_gone) }
    }
}

/// A service behind a [`RemovalLayer`].
#[derive(Clone)]
pub struct Told<S> {
    inner: S,
    is_gone: IsGone,
}

impl<S, B> Service<http::Request<B>> for Told<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let node = node_of(&request);
        let call = self.inner.call(request);
        let Some(node) = node else { return Either::Left(call) };
        let is_gone = Arc::clone(&self.is_gone);
        Either::Right(Box::pin(async move {
            let response = call.await?;
            let status = Status::from_header_map(response.headers());
            let Some(refusal) = status.filter(|s| s.code() == Code::Unauthenticated) else {
                return Ok(response);
            };
            Ok(answer(refusal, is_gone(node).await).into_http())
        }))
    }
}

/// The node that makes one of those calls.
fn node_of<B>(request: &http::Request<B>) -> Option<NodeId> {
    let is_told = CALLS.contains(&request.uri().path());
    let info = request.extensions().get::<ConnectInfo>().filter(|_| is_told)?;
    match &*info.peer {
        Peer::Trusted(identity) => identity.node(),
        Peer::Refused(_) | Peer::Joiner(_) => None,
    }
}

/// What a node hears that this manager refuses.
fn answer(refusal: Status, is_gone: Result<bool, Status>) -> Status {
    match is_gone {
        Ok(true) => removed(refusal),
        // It is a member: the reason is another one.
        Ok(false) => refusal,
        // Another manager can tell.
        Err(unknown) => unknown,
    }
}

#[cfg(test)]
mod tests {
    use shoal_transport::is_removed;

    use super::*;

    #[test]
    fn only_the_cluster_tells_a_node_that_it_was_removed() {
        let lags = || Err(Status::unavailable("this manager does not lead"));
        for (is_gone, code, final_word) in [
            (Ok(true), Code::Unauthenticated, true),
            (Ok(false), Code::Unauthenticated, false),
            (lags(), Code::Unavailable, false),
        ] {
            let refusal = Status::unauthenticated("node 5 is not a member");
            let heard =
                Status::from_header_map(answer(refusal, is_gone).into_http::<()>().headers());
            let heard = heard.expect("a status");
            assert_eq!((heard.code(), is_removed(&heard)), (code, final_word), "{heard}");
        }
    }
}
