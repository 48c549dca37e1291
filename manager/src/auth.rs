//! Who may call what. Everything that is not in [`TABLE`] is refused.
//!
//! [`AuthLayer`] stands before every service of the manager's port. It turns the verdict of the
//! transport into a [`Caller`], asks the cluster whether that member still is one, looks the method
//! up, and only then lets the request through. Handlers take the caller from [`caller`].

use std::sync::Arc;
use std::task::{Context, Poll};

use shoal_proto::transport::{ConnectInfo, Identity, Joiner, Peer, PeerId, Refusal, Role};
use shoal_types::time::Timestamp;
use tonic::body::Body;
use tonic::{Request, Status};
use tower::{Layer, Service};

mod members;
mod table;

#[cfg(test)]
mod tests;

pub use members::{StateMembers, role_in};
pub use table::{TABLE, Who};

/// Who made a request that was let through; in the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A member of the cluster, with the lesser of the role in its certificate and the role that
    /// the cluster gives it now.
    Member(Identity),
    /// A host that wants to become one. Only the methods open to [`Who::JOINER`] see it.
    Joiner(Joiner),
}

/// What the cluster knows of its members; asked at every request, so it must not block.
pub trait Membership: Send + Sync + 'static {
    /// The role that the cluster gives to the holder of an id now; `None` if it is no member, so
    /// that a removed node or user is refused although its certificate is valid.
    fn role_of(&self, id: PeerId) -> Option<Role>;
}

/// The caller of a request that passed an [`AuthLayer`].
///
/// # Errors
/// `INTERNAL` where no such layer stands before the service: a bug, answered with a refusal.
pub fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.ok_or_else(|| Status::internal("request was not authorised"))
}

/// The member that makes a request, for handlers that no joiner reaches.
///
/// # Errors
/// As [`caller`]; `PERMISSION_DENIED` for joiners.
pub fn member<T>(request: &Request<T>) -> Result<&Identity, Status> {
    match caller(request)? {
        Caller::Member(identity) => Ok(identity),
        Caller::Joiner(_) => Err(joiners_only_join()),
    }
}

/// Decides about one request.
///
/// # Errors
/// `UNAUTHENTICATED` with the reason if the peer cannot be trusted, `PERMISSION_DENIED` if it is
/// trusted but the method is not for it, `UNIMPLEMENTED` for methods that are not in [`TABLE`].
pub fn authorise(
    peer: &Peer,
    path: &str,
    members: &dyn Membership,
    now: Timestamp,
) -> Result<Caller, Status> {
    let identity = match peer {
        Peer::Refused(reason) => return Err(Status::unauthenticated(reason.to_string())),
        Peer::Joiner(joiner) => {
            return match who_may(path) {
                Some(who) if who.contains(Who::JOINER) => Ok(Caller::Joiner(joiner.clone())),
                _ => Err(joiners_only_join()),
            };
        }
        Peer::Trusted(identity) => identity,
    };
    // The connection may be older than the end of its certificate.
    if identity.not_after <= now {
        let who = identity.id.to_string();
        let expired = Refusal::Expired { who, not_after: identity.not_after };
        return Err(Status::unauthenticated(expired.to_string()));
    }
    let Some(given) = members.role_of(identity.id) else {
        let message = format!("{} is not a member of this cluster (any more)", identity.id);
        return Err(Status::unauthenticated(message));
    };
    let identity = Identity { role: lesser(identity.role, given), ..*identity };
    match who_may(path) {
        None => Err(Status::unimplemented(format!("there is no method {path}"))),
        Some(who) if who.contains(Who::of(identity.role)) => Ok(Caller::Member(identity)),
        Some(who) => Err(Status::permission_denied(format!(
            "{} has role {} and may not call {path}, which is for {who}",
            identity.id,
            identity.role.noun(),
        ))),
    }
}

fn joiners_only_join() -> Status {
    Status::unauthenticated("a join certificate may only be used to join")
}

/// A manager that was demoted is an agent at once; an agent that was promoted becomes a manager
/// with its next certificate.
fn lesser(certified: Role, given: Role) -> Role {
    match (certified, given) {
        (Role::Manager, given) => given,
        (certified, _) => certified,
    }
}

fn who_may(path: &str) -> Option<Who> {
    TABLE.iter().find(|(method, _)| *method == path).map(|(_, who)| *who)
}

/// Puts [`authorise`] before services.
#[derive(Clone)]
pub struct AuthLayer {
    members: Arc<dyn Membership>,
    now: fn() -> Timestamp,
}

impl AuthLayer {
    /// `now` is the clock by which certificates expire.
    pub fn new(members: Arc<dyn Membership>, now: fn() -> Timestamp) -> Self {
        Self { members, now }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Authorised<S>;

    fn layer(&self, inner: S) -> Authorised<S> {
        Authorised { inner, auth: self.clone() }
    }
}

/// A service behind an [`AuthLayer`].
#[derive(Clone)]
pub struct Authorised<S> {
    inner: S,
    auth: AuthLayer,
}

impl<S, B> Service<http::Request<B>> for Authorised<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = futures::future::Either<
        S::Future,
        std::future::Ready<Result<http::Response<Body>, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        use futures::future::Either;
        let path = request.uri().path().to_owned();
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let verdict = match &info {
            Some(info) => authorise(&info.peer, &path, &*self.auth.members, (self.auth.now)()),
            None => Err(Status::unauthenticated("connection carries no identity")),
        };
        match verdict {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => {
                let address = info.map(|info| info.address);
                let reason = status.message();
                tracing::info!(?address, path, reason, "refused a call");
                Either::Right(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
