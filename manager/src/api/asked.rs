//! What each request is about: for the authorisation of users and for the audit.

use std::sync::Arc;

use shoal_manager_state::permission::Asked;
use shoal_manager_state::{ClusterState, ObjectKind, Rejected};
use shoal_proto::v1 as pb;
use shoal_transport::Identity;
use shoal_types::object::User;
use shoal_types::spec::{ServiceSpec, StackSpec, UserRole};
use tonic::{Request, Status};

use super::error::invalid;
use crate::auth::{Caller, Standing, audit, caller, permit};

/// Who makes a call.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) identity: Identity,
    pub(super) standing: Standing,
}

impl Asker {
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        match caller(request)? {
            Caller::Member(identity, standing) => {
                Ok(Self { identity: *identity, standing: standing.clone() })
            }
            Caller::Joiner(_) => Err(Status::unauthenticated("a joining host may only join")),
        }
    }

    /// The call's place in the audit.
    pub(super) fn entry(&self, path: &'static str, message: &impl Asks) -> Option<audit::Entry> {
        audit::Entry::of(path, &self.identity, &self.standing, || message.object())
    }

    /// The same for something else that the call does first.
    pub(super) fn entry_about(&self, path: &'static str, object: String) -> Option<audit::Entry> {
        audit::Entry::of(path, &self.identity, &self.standing, || object)
    }

    /// The user, if what it may see depends on that.
    pub(super) fn bound(&self) -> Option<&User> {
        match &self.standing {
            Standing::User(user) if user.spec.role == UserRole::Deployer => Some(user),
            Standing::User(_) | Standing::Node(_) | Standing::Unlisted => None,
        }
    }

    /// Whether the state has to be asked about what the call is about.
    fn needs_state(&self) -> bool {
        match &self.standing {
            Standing::User(user) => user.spec.role != UserRole::Admin,
            Standing::Node(_) | Standing::Unlisted => false,
        }
    }

    /// The version that a change of an object is to be of: the one that was named, else none. Who is
    /// bound to stacks is permitted to change what was seen at `version` and nothing that came after it.
    ///
    /// # Errors
    /// It named another one.
    pub(super) fn expected(
        &self,
        named: Option<u64>,
        version: u64,
        (kind, id): (ObjectKind, String),
    ) -> Result<Option<u64>, Status> {
        if self.bound().is_none() {
            return Ok(named);
        }
        let current = version;
        match named.filter(|named| *named != version) {
            None => Ok(Some(version)),
            Some(expected) => {
                let late = Rejected::OutOfSequence { kind, id, expected, current };
                Err(Status::aborted(late.to_string()))
            }
        }
    }
}

/// What one message asks for.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// As it stands there.
    Known(Asked<'a>),
    /// Services and tasks, each of them.
    Each(&'a [String]),
    /// A stack as it is to be.
    Stack(Option<&'a pb::StackSpec>),
    /// A service and what it is to be.
    Service(&'a str, Option<&'a pb::update_service_request::Change>),
}

impl Wanted<'_> {
    /// Whether the state has to be asked: it refers to something that has to be found, or what the asker
    /// may do depends on the state.
    fn needs_state(self, asker: &Asker) -> bool {
        match self {
            // Every manager is asked which one it is, also one that does not lead.
            Self::Known(Asked::Common | Asked::ManagerToken) => false,
            Self::Stack(_) => asker.needs_state(),
            Self::Known(_) | Self::Each(_) | Self::Service(..) => true,
        }
    }
}

/// A request of the control API.
pub(super) trait Asks {
    /// What is asked for.
    fn wanted(&self) -> Wanted<'_>;

    /// The object's kind and name, for the audit.
    fn object(&self) -> String;
}

impl super::ControlService {
    /// Whether the asker may make this call, and the state in which that was judged: it has everything
    /// that was acknowledged before the call if the call refers to anything.
    pub(super) async fn permit(
        &self,
        asker: &Asker,
        path: &str,
        message: &impl Asks,
    ) -> Result<Arc<ClusterState>, Status> {
        let wanted = message.wanted();
        let view = match wanted.needs_state(asker) {
            true => self.cluster.read().await?,
            false => self.cluster.view(),
        };
        permit_in(&view, asker, path, wanted)?;
        Ok(view)
    }
}

fn permit_in(
    view: &ClusterState,
    asker: &Asker,
    path: &str,
    wanted: Wanted<'_>,
) -> Result<(), Status> {
    let ask = |asked| permit(&asker.identity, &asker.standing, path, asked, view);
    match wanted {
        Wanted::Known(asked) => ask(asked),
        Wanted::Each([]) => ask(Asked::Common),
        Wanted::Each(references) => {
            references.iter().try_for_each(|reference| ask(Asked::ServiceOrTask(reference)))
        }
        // Only who is bound to stacks needs the specs before they are checked.
        Wanted::Stack(_) | Wanted::Service(..) if asker.bound().is_none() => ask(Asked::Common),
        Wanted::Stack(spec) => {
            let spec: StackSpec =
                spec.cloned().unwrap_or_default().try_into().map_err(|e| invalid(&e))?;
            ask(Asked::Apply(&spec))
        }
        Wanted::Service(reference, Some(pb::update_service_request::Change::Spec(spec))) => {
            let spec: ServiceSpec = spec.clone().try_into().map_err(|e| invalid(&e))?;
            ask(Asked::Update(reference, Some(&spec)))
        }
        Wanted::Service(reference, _) => ask(Asked::Update(reference, None)),
    }
}

macro_rules! asks {
    ($($request:ident |$r:ident| $wanted:expr, $object:expr;)*) => {$(
        impl Asks for pb::$request {
            fn wanted(&self) -> Wanted<'_> {
                let $r = self;
                let _ = $r;
                $wanted
            }

            fn object(&self) -> String {
                let $r = self;
                let _ = $r;
                $object
            }
        }
    )*};
}

const COMMON: Wanted<'static> = Wanted::Known(Asked::Common);

fn token(role: i32) -> Wanted<'static> {
    match pb::NodeRole::try_from(role) {
        Ok(pb::NodeRole::Manager) => Wanted::Known(Asked::ManagerToken),
        _ => COMMON,
    }
}

fn token_name(role: i32) -> String {
    let role = pb::NodeRole::try_from(role).unwrap_or_default();
    let role = if role == pb::NodeRole::Manager { "managers" } else { "workers" };
    format!("join token of {role}")
}

fn named(kind: &str, name: Option<&String>) -> String {
    format!("{kind} {}", name.map_or("", String::as_str))
}

asks! {
    GetVersionRequest |r| COMMON, String::new();
    GetClusterRequest |r| COMMON, String::new();
    UpdateClusterRequest |r| COMMON, "cluster".to_owned();
    GetJoinTokenRequest |r| token(r.role), token_name(r.role);
    RotateJoinTokenRequest |r| token(r.role), token_name(r.role);
    RaiseLevelRequest |r| COMMON, "the cluster's feature level".to_owned();
    ListNodesRequest |r| COMMON, String::new();
    GetNodeRequest |r| COMMON, format!("node {}", r.reference);
    UpdateNodeRequest |r| COMMON, format!("node {}", r.reference);
    RemoveNodeRequest |r| COMMON, format!("node {}", r.reference);
    CreateServiceRequest |r| COMMON, named("service", r.spec.as_ref().map(|s| &s.name));
    ListServicesRequest |r| match &r.stack {
        Some(stack) => Wanted::Known(Asked::Stack(stack)),
        None => COMMON,
    }, String::new();
    GetServiceRequest |r| Wanted::Known(Asked::Service(&r.reference)),
        format!("service {}", r.reference);
    UpdateServiceRequest |r| Wanted::Service(&r.reference, r.change.as_ref()),
        format!("service {}", r.reference);
    RemoveServiceRequest |r| Wanted::Known(Asked::Service(&r.reference)),
        format!("service {}", r.reference);
    GetDeploymentRequest |r| Wanted::Known(Asked::Deployment(&r.id)),
        format!("deployment {}", r.id);
    ListTasksRequest |r| match &r.stack {
        Some(stack) => Wanted::Known(Asked::Stack(stack)),
        None => COMMON,
    }, String::new();
    GetTaskRequest |r| Wanted::Known(Asked::Task(&r.reference)), format!("task {}", r.reference);
    ListNetworksRequest |r| COMMON, String::new();
    GetNetworkRequest |r| COMMON, format!("network {}", r.reference);
    CreateNetworkRequest |r| COMMON, named("network", r.spec.as_ref().map(|s| &s.name));
    RemoveNetworkRequest |r| COMMON, format!("network {}", r.reference);
    CreateSecretRequest |r| COMMON, named("secret", r.spec.as_ref().map(|s| &s.name));
    ListSecretsRequest |r| COMMON, String::new();
    GetSecretRequest |r| Wanted::Known(Asked::Secret(&r.reference)),
        format!("secret {}", r.reference);
    RemoveSecretRequest |r| COMMON, format!("secret {}", r.reference);
    CreateConfigRequest |r| COMMON, named("config", r.spec.as_ref().map(|s| &s.name));
    ListConfigsRequest |r| COMMON, String::new();
    GetConfigRequest |r| Wanted::Known(Asked::Config(&r.reference)),
        format!("config {}", r.reference);
    RemoveConfigRequest |r| COMMON, format!("config {}", r.reference);
    ConnectTaskRequest |r| Wanted::Known(Asked::Task(&r.task)),
        format!("task {} on network {}", r.task, r.network);
    DisconnectTaskRequest |r| Wanted::Known(Asked::Task(&r.task)),
        format!("task {} on network {}", r.task, r.network);
    ApplyStackRequest |r| Wanted::Stack(r.spec.as_ref()),
        named("stack", r.spec.as_ref().map(|s| &s.name));
    RollBackStackRequest |r| Wanted::Known(Asked::RollBack(&r.reference, r.to)),
        format!("stack {}", r.reference);
    ListStacksRequest |r| COMMON, String::new();
    GetStackRequest |r| Wanted::Known(Asked::Stack(&r.reference)), format!("stack {}", r.reference);
    RemoveStackRequest |r| Wanted::Known(Asked::Stack(&r.reference)),
        format!("stack {}", r.reference);
    ListVolumesRequest |r| COMMON, String::new();
    RemoveVolumeRequest |r| COMMON, format!("volume {}", r.name);
    GetUsageRequest |r| match r.without_tasks {
        true => Wanted::Known(Asked::NodesAsWhole),
        false => Wanted::Each(&r.references),
    }, String::new();
    GetDiskUsageRequest |r| COMMON, String::new();
    TraceNetworkRequest |r| COMMON, format!("way from {} to {}", r.source, r.destination);
    VerifyNetworksRequest |r| COMMON, String::new();
    PruneNodesRequest |r| COMMON, format!("nodes {}", r.nodes.join(", "));
    CreateUserRequest |r| COMMON, named("user", r.spec.as_ref().map(|s| &s.name));
    ListUsersRequest |r| COMMON, String::new();
    GetUserRequest |r| Wanted::Known(Asked::User(&r.reference)), format!("user {}", r.reference);
    UpdateUserRequest |r| Wanted::Known(Asked::User(&r.reference)), format!("user {}", r.reference);
    RemoveUserRequest |r| Wanted::Known(Asked::User(&r.reference)), format!("user {}", r.reference);
    WatchRequest |r| COMMON, String::new();
    ServiceLogsRequest |r| Wanted::Known(Asked::ServiceOrTask(&r.reference)),
        format!("logs of {}", r.reference);
    ExecStart |r| Wanted::Known(Asked::Task(&r.task)), format!("task {}", r.task);
}

#[cfg(test)]
mod tests {
    use shoal_transport::{PeerId, Role};
    use shoal_types::id::UserId;
    use shoal_types::object::Meta;
    use shoal_types::spec::UserSpec;
    use shoal_types::time::Timestamp;
    use tonic::Code;

    use super::*;

    /// Whatever version it names or does not: nothing that came after the judgement is changed.
    #[test]
    fn a_deployer_changes_the_version_that_was_judged() {
        let asker = |role| {
            let id = UserId::from(7);
            let spec = UserSpec { name: "ci".to_owned(), role, ..UserSpec::default() };
            let user = User { id, meta: Meta::created(1, Timestamp::ZERO), spec };
            let identity = Identity {
                id: PeerId::User(id),
                role: Role::User,
                cluster: 1.into(),
                not_before: Timestamp::ZERO,
                not_after: Timestamp::from_secs(1),
            };
            Asker { identity, standing: Standing::User(Arc::new(user)) }
        };
        let of = || (ObjectKind::Stack, "shop".to_owned());
        let expected = |role, named| asker(role).expected(named, 5, of()).map_err(|s| s.code());
        assert_eq!(expected(UserRole::Deployer, None), Ok(Some(5)));
        assert_eq!(expected(UserRole::Deployer, Some(5)), Ok(Some(5)));
        assert_eq!(expected(UserRole::Deployer, Some(6)), Err(Code::Aborted));
        assert_eq!(expected(UserRole::Operator, None), Ok(None));
        assert_eq!(expected(UserRole::Operator, Some(6)), Ok(Some(6)));
    }
}
