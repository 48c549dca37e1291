//! Deployments.

use shoal_types::id::{DeploymentId, ServiceId};
use shoal_types::object::{Deployment, DeploymentKind, DeploymentState, Meta};

use crate::cluster_state::Writer;
use crate::command::{Outcome, UpdateKind};
use crate::rejected::Rejected;

/// Deployments kept of each service, the present one included.
const KEPT_PER_SERVICE: usize = 10;

pub(super) fn update(
    w: &mut Writer<'_>,
    id: DeploymentId,
    state: DeploymentState,
    message: String,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Deployment>(id)?;
    if old.state.is_final() && state != old.state {
        return Err(Rejected::DeploymentEnded { id, current: old.state, wanted: state });
    }
    if state == old.state && message == old.message {
        return Ok(Outcome::Unchanged);
    }
    let mut deployment = Deployment::clone(&old);
    deployment.message = message;
    enter(w, &mut deployment, state);
    w.update(deployment);
    Ok(Outcome::Applied)
}

/// Makes a service's new deployment, and forgets the oldest ones.
pub(super) fn begin(
    w: &mut Writer<'_>,
    id: DeploymentId,
    service_id: ServiceId,
    service_version: u64,
    stack_version: Option<u64>,
    kind: DeploymentKind,
) {
    w.create(Deployment {
        id,
        meta: Meta::created(w.index, w.now),
        service_id,
        service_version,
        stack_version,
        kind,
        state: DeploymentState::Updating,
        completed_at: None,
        message: String::new(),
    });
    let all: Vec<_> = w.state.deployments_of(service_id).map(|d| d.id).collect();
    let surplus = all.len().saturating_sub(KEPT_PER_SERVICE);
    for old in all.into_iter().take(surplus) {
        w.remove::<Deployment>(old);
    }
}

/// Ends a service's deployment because another one takes its place; one that has ended by itself
/// stays as it is.
pub(super) fn replace(w: &mut Writer<'_>, id: DeploymentId, kind: UpdateKind, by: DeploymentId) {
    let Some(old) = w.state.deployment(id).filter(|d| !d.state.is_final()) else { return };
    let mut deployment = Deployment::clone(old);
    // What goes back because it has failed has said why; where nothing failed, somebody wanted it so.
    let state = match kind {
        UpdateKind::Rollback if !deployment.message.is_empty() => DeploymentState::RolledBack,
        UpdateKind::Rollback | UpdateKind::Update => DeploymentState::Superseded,
    };
    if state == DeploymentState::Superseded {
        deployment.message = format!("superseded by deployment {by}");
    }
    enter(w, &mut deployment, state);
    w.update(deployment);
}

fn enter(w: &Writer<'_>, deployment: &mut Deployment, state: DeploymentState) {
    if state.is_final() && deployment.completed_at.is_none() {
        deployment.completed_at = Some(w.now);
    }
    deployment.state = state;
}
