//! Stacks.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_manager_state::{
    ClusterState, Command, ObjectKind, Outcome, StackIds, StackPayloads, permission,
};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{Kind as _, TextMap};
use shoal_proto::v1 as pb;
use shoal_types::id::IdSource as _;
use shoal_types::object::Stack;
use shoal_types::spec::{ConfigSpec, SecretSpec, StackSpec, Violation, Violations};
use tonic::Status;

use super::asked::Asker;
use super::error::required;
use super::parts::in_parts;
use super::{Answers, ControlService, credentials, invalid, unresolved, violations};
use crate::clock::RandomIds;

pub(super) async fn apply_stack(
    api: &ControlService,
    request: pb::ApplyStackRequest,
) -> Result<pb::ApplyStackResponse, Status> {
    let spec: StackSpec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let payloads = StackPayloads {
        secrets: payloads("secrets", request.secrets, SecretSpec::validate)?,
        configs: payloads("configs", request.configs, ConfigSpec::validate)?,
    };
    let command = Command::ApplyStack {
        ids: fresh_ids(&spec),
        spec: Arc::new(spec),
        prune: request.prune,
        expected: request.expected_version,
        payloads,
    };
    applied(api, credentials::with(request.registry_auths, command)?).await
}

/// What is in secrets or configs, by their keys, checked, with ids for versions that have to be made.
fn payloads<W, S, I: From<u128>>(
    field: &str,
    wire: BTreeMap<String, W>,
    validate: fn(&S) -> Result<(), Violations>,
) -> Result<BTreeMap<String, (I, S)>, Status>
where
    S: TryFrom<W, Error = InvalidMessage>,
{
    let one = |(key, wire): (String, W)| {
        let at = format!("{field}.{key}");
        let spec = S::try_from(wire).map_err(|e| invalid(&e.under(&at)))?;
        validate(&spec).map_err(|e| {
            let below = |v: Violation| Violation { path: format!("{at}.{}", v.path), ..v };
            violations(&Violations(e.0.into_iter().map(below).collect()))
        })?;
        Ok((key, (RandomIds.next_id(), spec)))
    };
    wire.into_iter().map(one).collect()
}

pub(super) async fn roll_back_stack(
    api: &ControlService,
    asker: &Asker,
    view: &ClusterState,
    request: pb::RollBackStackRequest,
) -> Result<pb::ApplyStackResponse, Status> {
    let stack = view.resolve_stack(&request.reference).map_err(|e| unresolved(&e))?;
    let name = &stack.spec.name;
    let revision = match request.to {
        Some(version) => stack.history.iter().find(|r| r.spec_version == version),
        None => stack.rollback_target(),
    };
    let revision = revision.ok_or_else(|| {
        let kept: Vec<String> = stack.history.iter().map(|r| r.spec_version.to_string()).collect();
        Status::failed_precondition(match (request.to, kept.is_empty()) {
            (_, true) => format!("stack {name} has no earlier version"),
            (Some(to), false) => {
                format!("stack {name} has no version {to}: expected one of {}", kept.join(", "))
            }
            (None, false) => format!(
                "stack {name} has no earlier version that differs and was not left by going back: \
                 name one of {}",
                kept.join(", ")
            ),
        })
    })?;
    let current = stack.meta.spec_version;
    let of = (ObjectKind::Stack, stack.id.to_string());
    let expected = asker.expected(request.expected_version, current, of)?;
    let command = Command::RollBackStack {
        id: stack.id,
        // It is what was read here that goes back; somebody else's update must not be lost.
        expected: expected.unwrap_or(current),
        to: revision.spec_version,
        ids: fresh_ids(&revision.spec),
        failed: None,
    };
    applied(api, command).await
}

/// Ids for whatever a spec may have to make.
fn fresh_ids(spec: &StackSpec) -> StackIds {
    let mut ids = RandomIds;
    let mut pair = || (ids.next_id(), ids.next_id());
    StackIds {
        services: spec.services.keys().map(|key| (key.clone(), pair())).collect(),
        stack: ids.next_id(),
        networks: spec.networks.keys().map(|key| (key.clone(), ids.next_id())).collect(),
    }
}

/// Proposes a command that answers with what it did to a stack.
async fn applied(api: &ControlService, command: Command) -> Result<pb::ApplyStackResponse, Status> {
    match api.cluster.propose(command).await? {
        Outcome::Stack(outcome) => Ok(pb::ApplyStackResponse {
            stack_id: outcome.id.to_string(),
            created: outcome.created,
            updated: outcome.updated,
            unchanged: outcome.unchanged,
            removed: outcome.removed,
            kept: outcome.kept,
            spec_version: outcome.spec_version,
            deployments: TextMap::write(&outcome.deployments),
        }),
        Outcome::Applied | Outcome::Unchanged => {
            Err(Status::internal("applying a stack did not answer with what it did"))
        }
    }
}

pub(super) async fn list_stacks(
    api: &ControlService,
    asker: &Asker,
    _: pb::ListStacksRequest,
) -> Result<Answers<pb::ListStacksResponse>, Status> {
    let view = api.cluster.read().await?;
    let mut stacks: Vec<Arc<Stack>> = view.stacks().cloned().collect();
    if let Some(user) = asker.bound() {
        stacks.retain(|s| permission::sees_stack(&view, &user.spec, Some(s.id)));
    }
    stacks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let stacks = stacks.into_iter().map(|stack| (&*stack).into());
    Ok(in_parts(stacks, |stacks| pb::ListStacksResponse { stacks }))
}

pub(super) async fn get_stack(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetStackRequest,
) -> Result<pb::GetStackResponse, Status> {
    let stack = view.resolve_stack(&request.reference).map_err(|e| unresolved(&e))?;
    Ok(pb::GetStackResponse { stack: Some((&**stack).into()) })
}

pub(super) async fn remove_stack(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::RemoveStackRequest,
) -> Result<pb::RemoveStackResponse, Status> {
    let stack = view.resolve_stack(&request.reference).map_err(|e| unresolved(&e))?;
    let id = stack.id;
    let members = stack.services.keys().chain(stack.networks.keys()).cloned();
    let secrets = stack.secrets.iter().map(|name| format!("secret {name}"));
    let configs = stack.configs.iter().map(|name| format!("config {name}"));
    let removed = members.chain(secrets).chain(configs).collect();
    api.cluster.propose(Command::RemoveStack { id }).await?;
    Ok(pb::RemoveStackResponse { stack_id: id.to_string(), removed })
}
