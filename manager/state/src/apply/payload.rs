//! Secrets and configs.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::id::{DeploymentId, StackId};
use shoal_types::object::{Config, Meta, Payloads, Secret, Service, Stack};
use shoal_types::spec::{ContainerSpec, PayloadReference, ServiceSpec};

use super::{service, stack};
use crate::cluster_state::{ClusterState, Writer};
use crate::command::{Outcome, UpdateKind};
use crate::payload::{self, Kept, VERSIONS_KEPT};
use crate::rejected::{PayloadRefused, Rejected};
use crate::stored::Stored;

/// Ids of the deployments of services that go over to a later version, by names of services.
pub(super) type Deployments = BTreeMap<String, DeploymentId>;

/// What the references of a service mean now. Where its tasks stay what they were, so does what is not to
/// change under them.
pub(super) fn of_service(
    state: &ClusterState,
    spec: &ServiceSpec,
    old: Option<&Service>,
) -> Result<Arc<Payloads>, Rejected> {
    let Some(container) = spec.task_template.container() else { return Ok(Arc::default()) };
    let old = old.filter(|old| old.spec.task_template == spec.task_template);
    let secrets = look_up::<Secret>(state, spec, container, old)?;
    let configs = look_up::<Config>(state, spec, container, old)?;
    Ok(Arc::new(Payloads { secrets, configs }))
}

fn look_up<T: Kept>(
    state: &ClusterState,
    spec: &ServiceSpec,
    container: &ContainerSpec,
    old: Option<&Service>,
) -> Result<Vec<<T as Stored>::Id>, Rejected> {
    let had = old.map_or(&[][..], |old| T::among(&old.payloads));
    let one = |(i, reference): (usize, &PayloadReference)| {
        if let Some(id) = had.get(i).filter(|_| !reference.follows()) {
            return Ok(*id);
        }
        let (name, version) = (&reference.name, reference.version);
        let found = state.version::<T>(name, version).map(|one| Stored::id(&**one));
        let (service, kind) = (spec.name.clone(), T::KIND);
        let unknown = || PayloadRefused::Unknown { service, kind, name: name.clone(), version };
        found.ok_or_else(|| unknown().into())
    };
    T::references(container).iter().enumerate().map(one).collect()
}

pub(super) fn create<T: Kept>(
    w: &mut Writer<'_>,
    id: <T as Stored>::Id,
    spec: T::Spec,
    replace: bool,
    deployments: &Deployments,
) -> Result<Outcome, Rejected> {
    w.id_is_free::<T>(id)?;
    let name = T::name_of(&spec).to_owned();
    match (w.state.version::<T>(&name, None), replace) {
        (Some(known), false) => {
            let holder = Stored::id(&**known).to_string();
            return Err(Rejected::NameTaken { kind: T::KIND, name, holder });
        }
        (None, true) => return Err(Rejected::NotFound { kind: T::KIND, id: name }),
        (Some(known), true) if known.is_as(&spec) => return Ok(Outcome::Unchanged),
        (None, false) | (Some(_), true) => {}
    }
    let stack_id = w.state.version::<T>(&name, None).and_then(|known| known.stack_id());
    let before = stack::snapshot(w.state);
    put::<T>(w, id, spec, stack_id);
    let result = go_over::<T>(w, &name, deployments);
    if result.is_err() {
        stack::restore(w.state, before);
    }
    result?;
    forget_unused::<T>(w, &name);
    Ok(Outcome::Applied)
}

/// Makes the next version. One in which only the labels are others takes the place of the latest one.
pub(super) fn put<T: Kept>(
    w: &mut Writer<'_>,
    id: <T as Stored>::Id,
    spec: T::Spec,
    stack_id: Option<StackId>,
) {
    let latest = w.state.version::<T>(T::name_of(&spec), None).cloned();
    if let Some(latest) = latest.as_deref().filter(|latest| latest.has_content(&spec)) {
        let (meta, version) = (*latest.meta(), latest.version());
        w.update_spec(T::new(Stored::id(latest), meta, version, stack_id, spec));
        return;
    }
    let version = latest.map_or(1, |latest| latest.version() + 1);
    let meta = Meta::created(w.index, w.now);
    w.create(T::new(id, meta, version, stack_id, spec));
}

/// Whether a service is to go over to later secrets or configs than it has.
pub(super) fn has_later(state: &ClusterState, service: &Service) -> bool {
    is_behind::<Secret>(state, service) || is_behind::<Config>(state, service)
}

fn is_behind<T: Kept>(state: &ClusterState, service: &Service) -> bool {
    let references = payload::references::<T>(service).iter();
    references.zip(T::among(&service.payloads)).any(|(reference, id)| {
        let latest = state.version::<T>(&reference.name, None);
        reference.follows() && latest.is_some_and(|latest| Stored::id(&**latest) != *id)
    })
}

/// Services that follow the latest version have their tasks replaced by such that have it.
fn go_over<T: Kept>(
    w: &mut Writer<'_>,
    name: &str,
    deployments: &Deployments,
) -> Result<(), Rejected> {
    let following: Vec<Arc<Service>> = w.state.following::<T>(name).cloned().collect();
    for old in following {
        if !is_behind::<T>(w.state, &old) {
            continue;
        }
        let deployment = deployments.get(&old.spec.name).ok_or_else(|| {
            let (kind, name) = (T::KIND, name.to_owned());
            PayloadRefused::Followed { kind, name, service: old.spec.name.clone() }
        })?;
        let stack = old.stack_id.map(|id| (id, None));
        let spec = Arc::clone(&old.spec);
        service::update(w, old.id, None, *deployment, spec, UpdateKind::Update, stack)?;
    }
    Ok(())
}

/// Of the versions that nobody has, the latest ones stay.
pub(super) fn forget_unused<T: Kept>(w: &mut Writer<'_>, name: &str) {
    let latest = w.state.version::<T>(name, None).map_or(0, |one| one.version());
    let old = w.state.versions::<T>(name);
    let old = old.take_while(|one| one.version() + VERSIONS_KEPT <= latest);
    let unused = old.filter(|one| w.state.having::<T>(one).is_empty());
    let unused: Vec<_> = unused.map(|one| Stored::id(&**one)).collect();
    for id in unused {
        w.remove::<T>(id);
    }
}

/// Refuses to take a stack's away while a service of another one has one of them.
pub(super) fn refuse_if_used<T: Kept>(state: &ClusterState, stack: &Stack) -> Result<(), Rejected> {
    for name in T::names_of(stack) {
        let all = state.versions::<T>(name).filter(|one| one.stack_id() == Some(stack.id));
        let mut users: Vec<String> = all.flat_map(|one| state.having::<T>(one)).collect();
        users.retain(|user| !stack.services.contains_key(user));
        users.dedup();
        if !users.is_empty() {
            return Err(PayloadRefused::InUse { kind: T::KIND, name: name.clone(), users }.into());
        }
    }
    Ok(())
}

/// Removes a stack's.
pub(super) fn erase<T: Kept>(w: &mut Writer<'_>, stack: &Stack) {
    for name in T::names_of(stack) {
        let all = w.state.versions::<T>(name).filter(|one| one.stack_id() == Some(stack.id));
        let ids: Vec<_> = all.map(|one| Stored::id(&**one)).collect();
        for id in ids {
            w.remove::<T>(id);
        }
    }
}

pub(super) fn remove<T: Kept>(
    w: &mut Writer<'_>,
    name: String,
    version: Option<u64>,
) -> Result<Outcome, Rejected> {
    let all: Vec<Arc<T>> = match version {
        None => w.state.versions(&name).cloned().collect(),
        Some(_) => w.state.version(&name, version).cloned().into_iter().collect(),
    };
    if all.is_empty() {
        return Err(Rejected::NotFound { kind: T::KIND, id: name });
    }
    let mut users: Vec<String> = all.iter().flat_map(|one| w.state.having(&**one)).collect();
    users.sort_unstable();
    users.dedup();
    if !users.is_empty() {
        return Err(PayloadRefused::InUse { kind: T::KIND, name, users }.into());
    }
    for one in all {
        w.remove::<T>(Stored::id(&*one));
    }
    Ok(Outcome::Applied)
}
