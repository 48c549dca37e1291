//! Stacks that go back to an earlier version, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_types::id::{DeploymentId, StackId};
use shoal_types::object::{Deployment, Stack, StackRevision};
use shoal_types::spec::{ServiceSpec, StackSpec};

use super::{
    Applying, Left, Members, apply_networks, apply_service, in_order, leave_networks,
    leave_services, snapshot, whole, write,
};
use crate::apply::port;
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
        failed: failed.is_some(),
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
    /// Whether something has failed. Then services go back to what they were before, rather than to
    /// what the earlier version says: somebody may have changed them in between.
    failed: bool,
    why: String,
}

impl Back<'_> {
    fn parts(self, w: &mut Writer<'_>, ids: &StackIds) -> Result<StackOutcome, Rejected> {
        let Self { old, spec, .. } = self;
        let mut a = Applying::new(spec, ids, Some(old), UpdateKind::Rollback);
        let mut networks = apply_networks(w, &mut a, spec)?;
        let mut services = BTreeMap::new();
        for (key, part) in in_order(&spec.services) {
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
        // Only what the versions that are left have brought goes.
        let left = || self.later().map(|r| &*r.spec).chain([&*old.spec]);
        let brought: BTreeSet<&str> =
            left().flat_map(|spec| spec.services.values()).map(|s| s.name.as_str()).collect();
        leave_services(w, old, |name| brought.contains(&name), &mut services, &mut a.done);
        port::refuse_if_shared(w.state, spec)?;
        let brought: BTreeSet<&str> =
            left().flat_map(|spec| spec.networks.values()).map(|n| n.name.as_str()).collect();
        leave_networks(w, old, |name| brought.contains(&name), &mut networks, &mut a.done);
        // All that came after it is left with the present version, so that going back once more
        // does not come to one of those.
        let mut left = old.clone();
        for later in left.history.iter_mut().filter(|r| r.spec_version > self.to) {
            if later.rolled_back.is_none() {
                later.rolled_back = Some(self.why.clone());
                later.by_hand = !self.failed;
            }
        }
        let why = Left { by_hand: !self.failed, rolled_back: Some(self.why) };
        // What is in secrets and configs is in no version: they stay, but for those of a name that went.
        let (secrets, configs) = (left.secrets.clone(), left.configs.clone());
        let members = Members { services, networks, secrets, configs };
        write(w, a.id, spec, Some(&left), members, why);
        Ok(a.finish(w.state, spec))
    }

    /// What a service is to be again; `None` if it is not touched.
    fn wanted(&self, w: &Writer<'_>, part: &ServiceSpec) -> Option<ServiceSpec> {
        let own = |id: Option<StackId>| id == Some(self.old.id);
        let present = w.state.service_by_name(&part.name).filter(|s| own(s.stack_id));
        let (true, Some(service)) = (self.failed, present) else { return Some(part.clone()) };
        let deployment = w.state.deployment(service.deployment_id)?;
        let since = deployment.stack_version.filter(|version| *version > self.to)?;
        // What it was before that may be something that another version has left.
        let before = self.later().filter(|r| r.spec_version < since).last();
        let before = before.map_or(self.spec, |r| &r.spec);
        let same = before.services.values().find(|s| s.name == part.name) == Some(part);
        let previous = service.previous_spec.as_deref().filter(|_| same);
        Some(previous.unwrap_or(part).clone())
    }

    /// The versions between the one that is put back and the present one.
    fn later(&self) -> impl Iterator<Item = &StackRevision> {
        self.old.history.iter().filter(|r| r.spec_version > self.to)
    }

    /// Says at a deployment that is cut off why it was.
    fn explain(&self, w: &mut Writer<'_>, wanted: &ServiceSpec) {
        if !self.failed {
            return;
        }
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
