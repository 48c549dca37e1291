//! Refusals as gRPC statuses.

use shoal_manager_state::Unresolved;
use shoal_proto::convert::InvalidMessage;
use shoal_types::error_chain::chain;
use shoal_types::spec::Violations;
use tonic::Status;

/// A message that makes no sense.
#[must_use]
pub fn invalid(error: &InvalidMessage) -> Status {
    Status::invalid_argument(chain(error).to_string())
}

/// A spec that breaks rules.
#[must_use]
pub fn violations(error: &Violations) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A reference that leads nowhere, or to several things.
#[must_use]
pub fn unresolved(error: &Unresolved) -> Status {
    match error {
        Unresolved::NotFound { .. } => Status::not_found(error.to_string()),
        Unresolved::Ambiguous { .. } => Status::invalid_argument(error.to_string()),
    }
}

/// A part of the request that must be there.
pub(super) fn required<T>(part: Option<T>, name: &str) -> Result<T, Status> {
    part.ok_or_else(|| Status::invalid_argument(format!("{name}: is required")))
}

/// What was just written is not there: somebody removed it at once.
pub(super) fn vanished(what: &str) -> Status {
    Status::aborted(format!("the {what} was removed again by somebody else"))
}
