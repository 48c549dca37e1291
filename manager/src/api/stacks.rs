//! Stacks.

use std::sync::Arc;

use shoal_manager_state::{Command, Outcome, StackIds};
use shoal_proto::v1 as pb;
use shoal_types::id::IdSource as _;
use shoal_types::object::Stack;
use shoal_types::spec::StackSpec;
use tonic::Status;

use super::error::required;
use super::{ControlService, invalid, unresolved, violations};
use crate::clock::RandomIds;

pub(super) async fn apply_stack(
    api: &ControlService,
    request: pb::ApplyStackRequest,
) -> Result<pb::ApplyStackResponse, Status> {
    let spec: StackSpec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let mut ids = RandomIds;
    let stack_ids = StackIds {
        stack: ids.next_id(),
        services: spec
            .services
            .keys()
            .map(|key| (key.clone(), (ids.next_id(), ids.next_id())))
            .collect(),
        networks: spec.networks.keys().map(|key| (key.clone(), ids.next_id())).collect(),
    };
    let command = Command::ApplyStack {
        spec: Arc::new(spec),
        ids: stack_ids,
        prune: request.prune,
        expected: request.expected_version,
    };
    match api.cluster.propose(command).await? {
        Outcome::Stack(outcome) => Ok(pb::ApplyStackResponse {
            stack_id: outcome.id.to_string(),
            created: outcome.created,
            updated: outcome.updated,
            unchanged: outcome.unchanged,
            removed: outcome.removed,
            kept: outcome.kept,
        }),
        Outcome::Applied | Outcome::Unchanged => {
            Err(Status::internal("applying a stack did not answer with what it did"))
        }
    }
}

pub(super) async fn list_stacks(
    api: &ControlService,
    _: pb::ListStacksRequest,
) -> Result<pb::ListStacksResponse, Status> {
    let view = api.cluster.read().await?;
    let mut stacks: Vec<&Arc<Stack>> = view.stacks().collect();
    stacks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    Ok(pb::ListStacksResponse { stacks: stacks.into_iter().map(|s| (&**s).into()).collect() })
}

pub(super) async fn get_stack(
    api: &ControlService,
    request: pb::GetStackRequest,
) -> Result<pb::GetStackResponse, Status> {
    let view = api.cluster.read().await?;
    let stack = view.resolve_stack(&request.reference).map_err(|e| unresolved(&e))?;
    Ok(pb::GetStackResponse { stack: Some((&**stack).into()) })
}

pub(super) async fn remove_stack(
    api: &ControlService,
    request: pb::RemoveStackRequest,
) -> Result<pb::RemoveStackResponse, Status> {
    let view = api.cluster.read().await?;
    let stack = view.resolve_stack(&request.reference).map_err(|e| unresolved(&e))?;
    let id = stack.id;
    let removed = stack.services.keys().chain(stack.networks.keys()).cloned().collect();
    api.cluster.propose(Command::RemoveStack { id }).await?;
    Ok(pb::RemoveStackResponse { stack_id: id.to_string(), removed })
}
