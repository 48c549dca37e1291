//! Stacks that go back to an earlier version, whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::id::{DeploymentId, StackId};
use shoal_types::object::{Deployment, Stack};
use shoal_types::spec::{ServiceSpec, StackSpec};

use super::{
    Applying, apply_networks, apply_service, leave_networks, leave_services, snapshot, whole, write,
};
use crate::cluster_state::Writer;
use crate::command::{Outcome, StackIds, StackOutcome, UpdateKind};
use crate::rejected::Rejected;

/// What is noted at a version that somebody left without a failure.
const BY_HAND: &str = "rolled back by hand";

pub(in crate::apply) fn roll_back(
    w: &mut Writer<'_>,
    id: StackId,
    expected: u64,
    to: u64,
    ids: &StackIds,
    failed: Option<DeploymentId>,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Stack>(id)?;
    w.in_sequence(old.as_ref(), expected)?;
    let Some(revision) = old.history.iter().find(|r| r.spec_version == to) else {
        return Err(Rejected::NoRevision { stack: old.spec.name.clone(), version: to });
    };
    let why = failed.and_then(|id| w.state.deployment(id)).map(|d| d.message.clone());
    let back = Back {
        old: &old,
        to,
        spec: &revision.spec,
        undo: failed.is_some(),
        why: why.unwrap_or_else(|| BY_HAND.to_owned()),
    };
    let before = snapshot(w.state);
    let result = back.parts(w, ids);
    whole(w, before, result)
}

struct Back<'a> {
    old: &'a Stack,
    to: u64,
    /// What is put back.
    spec: &'a Arc<StackSpec>,
    /// Whether services go back to what they were before the present version, rather than to what
    /// the earlier one says: somebody may have changed them in between.
    undo: bool,
    why: String,
}

impl Back<'_> {
    fn parts(self, w: &mut Writer<'_>, ids: &StackIds) -> Result<StackOutcome, Rejected> {
        let Self { old, spec, .. } = self;
        let mut a = Applying::new(spec, ids, Some(old), UpdateKind::Rollback);
        let mut networks = apply_networks(w, &mut a, spec)?;
        let mut services = BTreeMap::new();
        for (key, part) in &spec.services {
            let Some(wanted) = self.wanted(w, part) else {
                if let Some(found) = w.state.service_by_name(&part.name) {
                    services.insert(part.name.clone(), found.id);
                    a.done.unchanged.push(part.name.clone());
                }
                continue;
            };
            self.explain(w, &wanted);
            let id = apply_service(w, &mut a, key, &wanted)?;
            services.insert(part.name.clone(), id);
        }
        // Only what the version that is left has brought goes.
        let brought: Vec<&str> = old.spec.services.values().map(|s| s.name.as_str()).collect();
        leave_services(w, old, |name| brought.contains(&name), &mut services, &mut a.done);
        let brought: Vec<&str> = old.spec.networks.values().map(|n| n.name.as_str()).collect();
        leave_networks(w, old, |name| brought.contains(&name), &mut networks, &mut a.done);
        // All that came after it is left with the present version, so that going back once more
        // does not come to one of those.
        let mut left = old.clone();
        for later in left.history.iter_mut().filter(|r| r.spec_version > self.to) {
            later.rolled_back.get_or_insert_with(|| self.why.clone());
        }
        write(w, a.id, spec, Some(&left), services, networks, Some(self.why));
        Ok(a.finish(w.state, spec))
    }

    /// What a service is to be again; `None` if it is not touched.
    fn wanted(&self, w: &Writer<'_>, part: &ServiceSpec) -> Option<ServiceSpec> {
        let own = |id: Option<StackId>| id == Some(self.old.id);
        let present = w.state.service_by_name(&part.name).filter(|s| own(s.stack_id));
        let (true, Some(service)) = (self.undo, present) else { return Some(part.clone()) };
        let deployment = w.state.deployment(service.deployment_id)?;
        if deployment.stack_version != Some(self.old.meta.spec_version) {
            return None;
        }
        Some(service.previous_spec.as_deref().unwrap_or(part).clone())
    }

    /// Says at a deployment that is cut off why it was.
    fn explain(&self, w: &mut Writer<'_>, wanted: &ServiceSpec) {
        let present = w.state.service_by_name(&wanted.name).filter(|s| *s.spec != *wanted);
        let present = present.map(|s| s.deployment_id);
        let Some(deployment) = present.and_then(|id| w.state.deployment(id)) else { return };
        if deployment.state.is_final() || !deployment.message.is_empty() {
            return;
        }
        let mut deployment = Deployment::clone(deployment);
        deployment.message = format!("rolled back with the stack: {}", self.why);
        w.update(deployment);
    }
}
