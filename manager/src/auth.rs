//! Who may call what. Everything that is not in [`TABLE`] is refused.
//!
//! [`AuthLayer`] stands before every service of the manager's port. It turns the verdict of the
//! transport into a [`Caller`], asks the cluster whether that member still is one, looks the method
//! up, and only then lets the request through. Handlers take the caller from [`caller`]. While the
//! answer streams, the question is asked again whenever the members change.

use std::sync::Arc;
use std::task::{Context, Poll};

use shoal_manager_planning::forward::RAFT;
use shoal_manager_state::ClusterState;
use shoal_manager_state::permission::{self, Asked};
use shoal_transport::{
    ConnectInfo, Identity, Joiner, Peer, PeerId, Refusal, Role, undone, utc_date,
};
use shoal_types::spec::UserRole;
use shoal_types::time::Timestamp;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Request, Status};
use tower::{Layer, Service};

pub mod audit;
mod guard;
mod members;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use guard::last;
pub use members::{Standing, StateMembers, role_in, standing_in};
pub use table::{TABLE, Who, is_audited, who_may};

/// Who made a request that was let through; in the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A member of the cluster, with the lesser of the role in its certificate and the role that
    /// the cluster gives it now, and what the cluster knows of it.
    Member(Identity, Standing),
    /// A host that wants to become one. Only the methods open to [`Who::JOINER`] see it.
    Joiner(Joiner),
}

impl Caller {
    /// Whether it may do what the other one may.
    fn may_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Member(one, standing), Self::Member(other, given)) => {
                one == other && standing.gives_as(given)
            }
            (one, other) => one == other,
        }
    }
}

/// What the cluster knows of its members; asked at every request, so it must not block.
pub trait Membership: Send + Sync + 'static {
    /// What the cluster gives to the holder of an id now; `None` if it is no member, so that a
    /// removed node or user is refused although its certificate is valid.
    fn standing_of(&self, id: PeerId) -> Option<Standing>;

    /// Changes whenever the standing of any member may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether what is known here may be too old to know of this one as a manager: nobody leads, or it is
    /// the one who does, and what makes it a manager has still to come from it. Not of one that is known to
    /// have been one, if its certificate is from then.
    fn may_be_behind(&self, _identity: &Identity) -> bool {
        false
    }
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
        Caller::Member(identity, _) => Ok(identity),
        Caller::Joiner(_) => Err(joiners_only_join()),
    }
}

/// Decides about one request as far as that can be done before it is decoded. Which users may call
/// the method, and for which object, is decided by [`permit`].
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
    let known = members.standing_of(identity.id);
    // Or a manager that was away, or has no state yet, would never hear what it lacks.
    let is_raft = path.starts_with(RAFT) && identity.role == Role::Manager;
    let standing = match known {
        Some(Standing::Node(Role::Manager)) => known,
        _ if is_raft && members.may_be_behind(identity) => Some(Standing::Node(Role::Manager)),
        _ => known,
    };
    let Some(standing) = standing else {
        let message = format!("{} is not a member of this cluster (any more)", identity.id);
        return Err(Status::unauthenticated(message));
    };
    if let Some(end) = standing.ends().filter(|_| standing.has_ended(now)) {
        let (who, when) = (standing.title(identity.id), utc_date(end));
        return Err(Status::unauthenticated(format!("the time of {who} ended on {when}")));
    }
    let identity = Identity { role: lesser(identity.role, standing.role()), ..*identity };
    match who_may(path) {
        None => Err(Status::unimplemented(format!("there is no method {path}"))),
        Some(who) if who.meets(Who::of(identity.role)) => Ok(Caller::Member(identity, standing)),
        Some(who) => Err(Status::permission_denied(format!(
            "{} has role {} and may not call {path}, which is for {who}",
            identity.id,
            identity.role.noun(),
        ))),
    }
}

/// Decides about a decoded call of a member: whether its role may call the method, and a user for
/// what the call is about. `view` has to be new enough for that.
///
/// # Errors
/// `PERMISSION_DENIED` with the reason.
pub fn permit(
    identity: &Identity,
    standing: &Standing,
    path: &str,
    asked: Asked<'_>,
    view: &ClusterState,
) -> Result<(), Status> {
    let who = who_may(path).unwrap_or_default();
    let (own, role) = match standing {
        Standing::Node(role) => (Who::of(*role), role.noun()),
        Standing::User(user) => (Who::of_user(user.spec.role), user.spec.role.as_str()),
        Standing::Unlisted => (Who::ADMIN, UserRole::Admin.as_str()),
    };
    if !who.contains(own) {
        let (who_asks, path) = (standing.title(identity.id), method(path));
        return Err(Status::permission_denied(format!(
            "{who_asks} has role {role} and may not call {path}, which is for {who}"
        )));
    }
    let Standing::User(user) = standing else { return Ok(()) };
    permission::permit(view, user, asked).map_err(|e| Status::permission_denied(e.to_string()))
}

/// The last part of a method's path.
fn method(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
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

/// The manager that has passed a request on, in its extensions. The peer of the request is who made it.
#[derive(Debug, Clone)]
pub struct Via(pub Arc<Peer>);

/// Whether a peer may say who has made the calls that it makes.
///
/// # Errors
/// `PERMISSION_DENIED`: it is no manager, or none any more.
pub fn may_pass_on(peer: &Peer, members: &dyn Membership, now: Timestamp) -> Result<(), Status> {
    let Peer::Trusted(identity) = peer else {
        return Err(Status::permission_denied("only managers pass calls on"));
    };
    let is_manager = identity.role == Role::Manager
        && identity.not_after > now
        && members.standing_of(identity.id).is_some_and(|s| s.role() == Role::Manager);
    match is_manager {
        true => Ok(()),
        false => Err(Status::permission_denied(format!(
            "{} passes a call on and is no manager of this cluster (any more)",
            identity.id
        ))),
    }
}

/// Whether a manager that does not lead passes a call of this peer on: as far as the peer's certificate says,
/// the method is for it. The leader, which knows the members, authorises the call.
#[must_use]
pub fn vouches(peer: &Peer, path: &str, now: Timestamp) -> bool {
    let Some(who) = who_may(path) else { return false };
    match peer {
        Peer::Refused(_) => false,
        Peer::Joiner(_) => who.contains(Who::JOINER),
        Peer::Trusted(identity) => {
            let own = match identity.role {
                Role::Manager => Who::NODE,
                role => Who::of(role),
            };
            identity.not_after > now && who.meets(own)
        }
    }
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

    fn may_pass_on(&self, via: Option<&Via>) -> Result<(), Status> {
        via.map_or(Ok(()), |Via(manager)| may_pass_on(manager, &*self.members, (self.now)()))
    }

    fn authorise(&self, peer: &Peer, via: Option<&Via>, path: &str) -> Result<Caller, Status> {
        self.may_pass_on(via).map_err(undone)?;
        authorise(peer, path, &*self.members, (self.now)())
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
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<http::Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let via = request.extensions().get::<Via>().cloned();
        let verdict = match &info {
            Some(info) => self.auth.authorise(&info.peer, via.as_ref(), &path),
            None => Err(Status::unauthenticated("connection carries no identity")),
        };
        match (verdict, info) {
            (Ok(caller), Some(info)) => {
                request.extensions_mut().insert(caller.clone());
                let revoked = guard::revoked(self.auth.clone(), info.peer, via, path, caller);
                Box::pin(guard::guarded(self.inner.call(request), revoked))
            }
            (verdict, info) => {
                let status = verdict.err().unwrap_or_else(|| Status::internal("no peer"));
                let address = info.as_ref().map(|info| info.address);
                let reason = status.message();
                tracing::info!(?address, path, reason, "refused a call");
                if is_audited(&path) {
                    audit::refused(info.as_ref().map(|info| &*info.peer), &path, &status);
                }
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
