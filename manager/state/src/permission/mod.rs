//! What users may do beyond what the table of methods says: which objects a deployer may touch, and
//! what is for admins alone.

mod confined;
#[cfg(test)]
mod tests;

use shoal_types::id::StackId;
use shoal_types::object::{Payload, Service, Task, User};
use shoal_types::spec::{NAMESPACE_LABEL, ServiceSpec, StackSpec, UserRole, UserSpec};

use crate::cluster_state::ClusterState;
use crate::query::Unresolved;

pub use confined::{Home, reaches_host};

/// What a call is about. References are those of the caller.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// Nothing that belongs to a stack or to a user: the table alone decides.
    Common,
    /// A stack that exists.
    Stack(&'a str),
    /// A stack as it is to be.
    Apply(&'a StackSpec),
    /// A stack that exists, and the version that it goes back to; as `RollBackStack` chooses it if
    /// absent.
    RollBack(&'a str, Option<u64>),
    /// A service that exists.
    Service(&'a str),
    /// A service and what it is to be; nothing for its previous spec.
    Update(&'a str, Option<&'a ServiceSpec>),
    /// A task.
    Task(&'a str),
    /// A service, else a task.
    ServiceOrTask(&'a str),
    /// A deployment.
    Deployment(&'a str),
    /// The join token of managers: whoever has it gets the key of the cluster's authority.
    ManagerToken,
    /// A secret.
    Secret(&'a str),
    /// A config.
    Config(&'a str),
    /// A user; the caller if empty.
    User(&'a str),
    /// What nodes use as a whole, whoever uses it.
    NodesAsWhole,
}

/// Why a user may not do what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is for admins.
    #[error("user {user} has role {role}, and {what} is for admins")]
    AdminsOnly {
        /// The user's name.
        user: String,
        /// Its role.
        role: UserRole,
        /// What was asked for.
        what: &'static str,
    },
    /// It belongs to another stack, or to none.
    #[error("user {user} deploys {}, and {what} is not part of that", stacks_of(.stacks))]
    OtherStack {
        /// The user's name.
        user: String,
        /// Names of its stacks.
        stacks: Vec<String>,
        /// What was asked for.
        what: String,
    },
    /// The specs reach out of the containers.
    #[error(
        "user {user} has no access to hosts and to other stacks: {}; \
         an admin gives it with shoalctl user update --host-access {user}",
        .parts.join("; ")
    )]
    ReachesHost {
        /// The user's name.
        user: String,
        /// Each part of the specs that does, with its path.
        parts: Vec<String>,
    },
}

fn stacks_of(names: &[String]) -> String {
    let word = if names.len() == 1 { "stack" } else { "stacks" };
    format!("{word} {}", names.join(", "))
}

/// Whether a user whose role may call the method may do so for what it is about. What a reference
/// does not lead to is let through: there is nothing to protect, and the answer says so. That, and all
/// the rest, holds for this view: whoever carries the call out finds what is meant in the same one.
///
/// # Errors
/// [`Forbidden`], in the user's words.
pub fn permit(view: &ClusterState, user: &User, asked: Asked<'_>) -> Result<(), Forbidden> {
    let spec = &user.spec;
    match (spec.role, asked) {
        (UserRole::Admin, _) | (_, Asked::Common) => Ok(()),
        (_, Asked::ManagerToken) => Err(admins_only(spec, "the join token of managers")),
        (_, Asked::User(reference)) => {
            let own = reference.is_empty()
                || view.resolve_user(reference).is_ok_and(|found| found.id == user.id);
            if own { Ok(()) } else { Err(admins_only(spec, "what concerns other users")) }
        }
        (UserRole::Operator | UserRole::Viewer, _) => Ok(()),
        (UserRole::Deployer, asked) => of_deployer(view, spec, asked),
    }
}

fn admins_only(spec: &UserSpec, what: &'static str) -> Forbidden {
    Forbidden::AdminsOnly { user: spec.name.clone(), role: spec.role, what }
}

fn of_deployer(view: &ClusterState, user: &UserSpec, asked: Asked<'_>) -> Result<(), Forbidden> {
    match asked {
        Asked::Common | Asked::ManagerToken | Asked::User(_) => Ok(()),
        Asked::NodesAsWhole => own(user, false, "what nodes use", "as a whole"),
        Asked::Stack(reference) => match view.resolve_stack(reference) {
            Ok(stack) => own(user, user.stacks.contains(&stack.spec.name), "stack", reference),
            Err(error) => unknown(user, &error, "stack", reference),
        },
        Asked::Apply(spec) => {
            own(user, user.stacks.contains(&spec.name), "stack", &spec.name)?;
            let services = spec.services.iter().map(|(k, s)| (k.as_str(), s));
            confined(view, user, Home::of_stack(spec), services)
        }
        Asked::RollBack(reference, to) => {
            of_deployer(view, user, Asked::Stack(reference))?;
            // What leads nowhere was let through, and its caller will find out.
            let Ok(stack) = view.resolve_stack(reference) else { return Ok(()) };
            let revision = match to {
                Some(version) => stack.history.iter().find(|r| r.spec_version == version),
                None => stack.rollback_target(),
            };
            let Some(revision) = revision else { return Ok(()) };
            let services = revision.spec.services.iter().map(|(k, s)| (k.as_str(), s));
            confined(view, user, Home::of_stack(&revision.spec), services)
        }
        Asked::Service(reference) => match view.resolve_service(reference) {
            Ok(service) => own_service(view, user, service, reference),
            Err(error) => unknown(user, &error, "service", reference),
        },
        Asked::Update(reference, spec) => {
            let service = match view.resolve_service(reference) {
                Ok(service) => service,
                Err(error) => return unknown(user, &error, "service", reference),
            };
            own_service(view, user, service, reference)?;
            let stack = service.stack_id.and_then(|id| view.stack(id));
            let home = Home { stack: stack.map_or("", |s| s.spec.name.as_str()), makes: None };
            let spec = spec.or(service.previous_spec.as_deref());
            confined(view, user, home, spec.map(|s| (s.name.as_str(), s)).into_iter())
        }
        Asked::Task(reference) => match view.resolve_task(reference) {
            Ok(task) => own(user, sees_task(view, user, task), "task", reference),
            Err(error) => unknown(user, &error, "task", reference),
        },
        Asked::ServiceOrTask(reference) => match view.resolve_service(reference) {
            Err(Unresolved::NotFound { .. }) => of_deployer(view, user, Asked::Task(reference)),
            _ => of_deployer(view, user, Asked::Service(reference)),
        },
        Asked::Secret(reference) => match view.resolve_secret(reference) {
            Ok(found) => own(user, sees_payload(view, user, &**found), "secret", reference),
            Err(error) => unknown(user, &error, "secret", reference),
        },
        Asked::Config(reference) => match view.resolve_config(reference) {
            Ok(found) => own(user, sees_payload(view, user, &**found), "config", reference),
            Err(error) => unknown(user, &error, "config", reference),
        },
        Asked::Deployment(reference) => match view.resolve_deployment(reference) {
            Ok(deployment) => {
                let service = view.service(deployment.service_id);
                let is_own = service.is_some_and(|s| sees_service(view, user, s));
                own(user, is_own, "deployment", reference)
            }
            Err(error) => unknown(user, &error, "deployment", reference),
        },
    }
}

fn own_service(
    view: &ClusterState,
    user: &UserSpec,
    service: &Service,
    reference: &str,
) -> Result<(), Forbidden> {
    own(user, sees_service(view, user, service), "service", reference)
}

fn own(user: &UserSpec, is_own: bool, kind: &str, reference: &str) -> Result<(), Forbidden> {
    if is_own {
        return Ok(());
    }
    let (user, stacks) = (user.name.clone(), user.stacks.clone());
    Err(Forbidden::OtherStack { user, stacks, what: format!("{kind} {reference}") })
}

/// An ambiguous reference tells ids of things that may be others'.
fn unknown(
    user: &UserSpec,
    error: &Unresolved,
    kind: &str,
    reference: &str,
) -> Result<(), Forbidden> {
    own(user, matches!(error, Unresolved::NotFound { .. }), kind, reference)
}

fn confined<'a>(
    view: &ClusterState,
    user: &UserSpec,
    home: Home<'_>,
    services: impl Iterator<Item = (&'a str, &'a ServiceSpec)>,
) -> Result<(), Forbidden> {
    if user.host_access {
        return Ok(());
    }
    let parts: Vec<String> =
        services.flat_map(|(key, spec)| reaches_host(view, home, key, spec)).collect();
    if parts.is_empty() {
        return Ok(());
    }
    Err(Forbidden::ReachesHost { user: user.name.clone(), parts })
}

/// Whether objects of a stack, or of none, are shown to a user.
#[must_use]
pub fn sees_stack(view: &ClusterState, user: &UserSpec, stack: Option<StackId>) -> bool {
    user.role != UserRole::Deployer
        || stack
            .and_then(|id| view.stack(id))
            .is_some_and(|stack| user.stacks.contains(&stack.spec.name))
}

/// Whether a service is shown to a user.
#[must_use]
pub fn sees_service(view: &ClusterState, user: &UserSpec, service: &Service) -> bool {
    sees_stack(view, user, service.stack_id)
}

/// Whether a secret or config is shown to a user, without what is in it.
#[must_use]
pub fn sees_payload(view: &ClusterState, user: &UserSpec, one: &impl Payload) -> bool {
    user.role != UserRole::Deployer
        || user.stacks.iter().any(|stack| is_payload_of(view, one, stack))
}

/// Whether a secret or config is for services of a stack: it was applied with that, or its label says so.
fn is_payload_of(view: &ClusterState, one: &impl Payload, stack: &str) -> bool {
    match one.stack_id() {
        Some(id) => view.stack(id).is_some_and(|own| own.spec.name == stack),
        None => one.labels().get(NAMESPACE_LABEL).is_some_and(|named| named == stack),
    }
}

/// Whether a task is shown to a user.
#[must_use]
pub fn sees_task(view: &ClusterState, user: &UserSpec, task: &Task) -> bool {
    if user.role != UserRole::Deployer {
        return true;
    }
    match view.service(task.service_id) {
        Some(service) => sees_service(view, user, service),
        None => sees_left_over(user, task),
    }
}

/// Tasks of a service that is gone belonged to the stack that their labels name, if their own name
/// begins with it, too. The name alone does not tell: `shop_b_web` is of `shop_b` and not of `shop`,
/// also when neither is there any more.
fn sees_left_over(user: &UserSpec, task: &Task) -> bool {
    let Some(stack) = task.service_labels.get(NAMESPACE_LABEL) else { return false };
    let of_stack = task.service_name.strip_prefix(stack.as_str());
    user.stacks.contains(stack) && of_stack.is_some_and(|rest| rest.starts_with('_'))
}
