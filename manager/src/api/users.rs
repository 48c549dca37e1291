//! Users.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command};
use shoal_proto::v1 as pb;
use shoal_transport::{PeerId, Role};
use shoal_types::id::{IdSource as _, UserId};
use shoal_types::object::User;
use shoal_types::spec::{UserRole, UserSpec};
use shoal_types::time::Timestamp;
use tonic::Status;

use super::asked::Asker;
use super::error::{required, vanished};
use super::parts::in_parts;
use super::{Answers, ControlService, invalid, unresolved, violations};
use crate::auth::{Standing, audit};
use crate::ca::{USER_LIFE_MAX, public_key_of_request};
use crate::clock::{self, RandomIds};
use crate::membership;

/// What a user is called that is made without being given a name.
pub(crate) const FIRST_NAME: &str = "admin";

fn checked(spec: Option<pb::UserSpec>, now: Timestamp) -> Result<UserSpec, Status> {
    let spec: UserSpec = required(spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let Some(end) = spec.expires_at else { return Ok(spec) };
    let days = USER_LIFE_MAX.as_secs() / (24 * 3600);
    if end <= now || end.since(now) > USER_LIFE_MAX {
        return Err(Status::invalid_argument(format!(
            "spec.expires_at: expected a time within the next {days} days, or none"
        )));
    }
    Ok(spec)
}

pub(super) async fn create_user(
    api: &ControlService,
    asker: &Asker,
    request: pb::CreateUserRequest,
) -> Result<pb::CreateUserResponse, Status> {
    let now = clock::now();
    let spec = checked(request.spec, now)?;
    let bad_csr = |why: &dyn std::error::Error| {
        let why = shoal_types::error_chain::chain(why);
        Status::invalid_argument(format!("csr_der: {why}"))
    };
    public_key_of_request(&request.csr_der).map_err(|e| bad_csr(&e))?;
    let view = api.cluster.read().await?;
    let adopted = match adopt(&view, asker, &spec) {
        Some((name, command)) => {
            let entry = asker.entry_about("/shoal.v1.Control/CreateUser", format!("user {name}"));
            let outcome = api.cluster.propose(command).await.map_err(Status::from);
            audit::ended(entry, &outcome);
            outcome?;
            name
        }
        None => String::new(),
    };
    let (id, until): (UserId, _) = (RandomIds.next_id(), spec.expires_at);
    api.cluster.propose(Command::CreateUser { id, spec }).await?;
    let view = api.written();
    let user = view.user(id).ok_or_else(|| vanished("user"))?;
    let (ca, _) = membership::authority(&view)?;
    let issued = ca
        .issue_until(&request.csr_der, PeerId::User(id), Role::User, now, until)
        .map_err(|e| bad_csr(&e))?;
    let root_pem = ca.material().trusted_pem();
    Ok(pb::CreateUserResponse {
        user: Some((&**user).into()),
        certificate: Some(pb::Certificate { chain_pem: issued.pem, root_pem }),
        adopted,
    })
}

/// Where there are no users yet, whoever makes the first one would be locked out by it: the caller
/// comes first.
fn adopt(view: &ClusterState, asker: &Asker, new: &UserSpec) -> Option<(String, Command)> {
    let (Standing::Unlisted, Some(id)) = (&asker.standing, asker.identity.user()) else {
        return None;
    };
    if view.users().len() > 0 {
        return None;
    }
    let name = if new.name == FIRST_NAME { "first-admin" } else { FIRST_NAME };
    let spec = UserSpec { name: name.to_owned(), role: UserRole::Admin, ..UserSpec::default() };
    Some((name.to_owned(), Command::CreateUser { id, spec }))
}

pub(super) async fn list_users(
    api: &ControlService,
    _: &Asker,
    _: pb::ListUsersRequest,
) -> Result<Answers<pb::ListUsersResponse>, Status> {
    let view = api.cluster.read().await?;
    let mut users: Vec<Arc<User>> = view.users().cloned().collect();
    users.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let users = users.into_iter().map(|user| (&*user).into());
    Ok(in_parts(users, |users| pb::ListUsersResponse { users }))
}

pub(super) async fn get_user(
    _: &ControlService,
    asker: &Asker,
    view: &ClusterState,
    request: pb::GetUserRequest,
) -> Result<pb::GetUserResponse, Status> {
    let found = match request.reference.as_str() {
        "" => {
            let own = asker.identity.user().and_then(|id| view.user(id));
            own.ok_or_else(|| Status::not_found("the caller is no user of this cluster"))?
        }
        reference => view.resolve_user(reference).map_err(|e| unresolved(&e))?,
    };
    Ok(pb::GetUserResponse { user: Some((&**found).into()) })
}

pub(super) async fn update_user(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::UpdateUserRequest,
) -> Result<pb::UpdateUserResponse, Status> {
    let spec = checked(request.spec, clock::now())?;
    let id = view.resolve_user(&request.reference).map_err(|e| unresolved(&e))?.id;
    let expected = request.expected_version;
    api.cluster.propose(Command::UpdateUser { id, expected, spec }).await?;
    let view = api.written();
    let user = view.user(id).ok_or_else(|| vanished("user"))?;
    Ok(pb::UpdateUserResponse { user: Some((&**user).into()) })
}

pub(super) async fn remove_user(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::RemoveUserRequest,
) -> Result<pb::RemoveUserResponse, Status> {
    let id = view.resolve_user(&request.reference).map_err(|e| unresolved(&e))?.id;
    api.cluster.propose(Command::RemoveUser { id }).await?;
    Ok(pb::RemoveUserResponse { id: id.to_string() })
}
