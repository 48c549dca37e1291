//! Stacks: many objects in one command, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_types::id::{NetworkId, ServiceId, StackId};
use shoal_types::object::{
    DeploymentKind, DeploymentState, Meta, Network, Service, Stack, StackRevision, Task,
};
use shoal_types::spec::{NetworkSpec, ServiceSpec, StackSpec};

mod rollback;

use super::{network, port, service};
use crate::cluster_state::{ClusterState, Writer};
use crate::command::{Outcome, StackIds, StackOutcome, UpdateKind};
use crate::event::ObjectKind;
use crate::rejected::Rejected;

pub(super) use rollback::roll_back;

pub(super) fn apply(
    w: &mut Writer<'_>,
    spec: &Arc<StackSpec>,
    ids: &StackIds,
    prune: bool,
    expected: Option<u64>,
) -> Result<Outcome, Rejected> {
    let old = w.state.stack_by_name(&spec.name).cloned();
    check_version(spec, old.as_deref(), expected)?;
    if old.is_none() {
        w.id_is_free::<Stack>(ids.stack)?;
    }
    check_names(spec)?;
    // The parts are checked one by one as they are written, because one may depend on another; so
    // a refusal puts the state back. The copy shares everything with the original.
    let before = snapshot(w.state);
    let result = apply_parts(w, spec, ids, prune, old.as_deref());
    whole(w, before, result)
}

/// Puts the state back if something was refused.
fn whole(
    w: &mut Writer<'_>,
    before: (ClusterState, usize),
    result: Result<StackOutcome, Rejected>,
) -> Result<Outcome, Rejected> {
    if result.is_err() {
        restore(w.state, before);
    }
    result.map(Outcome::Stack)
}

/// A copy of the state without its feed, and the length of that.
fn snapshot(state: &mut ClusterState) -> (ClusterState, usize) {
    let feed = state.take_events();
    let copy = state.clone();
    state.feed = feed;
    (copy, state.feed.len())
}

fn restore(state: &mut ClusterState, (before, len): (ClusterState, usize)) {
    let mut feed = state.take_events();
    feed.truncate(len);
    *state = before;
    state.feed = feed;
}

fn check_version(
    spec: &StackSpec,
    old: Option<&Stack>,
    expected: Option<u64>,
) -> Result<(), Rejected> {
    let current = old.map_or(0, |stack| stack.meta.spec_version);
    match expected.filter(|expected| *expected != current) {
        None => Ok(()),
        Some(expected) => {
            let id = old.map_or_else(|| spec.name.clone(), |stack| stack.id.to_string());
            Err(Rejected::OutOfSequence { kind: ObjectKind::Stack, id, expected, current })
        }
    }
}

/// Two parts with one full name would overwrite each other.
fn check_names(spec: &StackSpec) -> Result<(), Rejected> {
    let services = twice(spec.services.values().map(|s| &s.name));
    let networks = twice(spec.networks.values().map(|n| &n.name));
    let found = services
        .map(|name| (ObjectKind::Service, name))
        .or_else(|| networks.map(|name| (ObjectKind::Network, name)));
    found.map_or(Ok(()), |(kind, name)| {
        Err(Rejected::StackNameTwice { stack: spec.name.clone(), kind, name: name.clone() })
    })
}

fn twice<'a>(mut names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

/// What the parts of a stack are applied with.
struct Applying<'a> {
    id: StackId,
    /// The stack's spec version once this is done.
    version: u64,
    /// Whether it has that version by this.
    is_new: bool,
    ids: &'a StackIds,
    kind: UpdateKind,
    done: StackOutcome,
}

impl<'a> Applying<'a> {
    fn new(spec: &StackSpec, ids: &'a StackIds, old: Option<&Stack>, kind: UpdateKind) -> Self {
        let id = old.map_or(ids.stack, |stack| stack.id);
        let is_new = old.is_none_or(|stack| *stack.spec != *spec);
        let version = old.map_or(0, |stack| stack.meta.spec_version) + u64::from(is_new);
        let done = StackOutcome {
            id,
            created: Vec::new(),
            updated: Vec::new(),
            unchanged: Vec::new(),
            removed: Vec::new(),
            kept: Vec::new(),
            spec_version: version,
            deployments: BTreeMap::new(),
        };
        Self { id, version, is_new, ids, kind, done }
    }

    /// Notes which deployments are in force now.
    fn finish(mut self, state: &ClusterState, spec: &StackSpec) -> StackOutcome {
        let names = spec.services.values().map(|s| &s.name);
        let present = names
            .filter_map(|name| Some((name.clone(), state.service_by_name(name)?.deployment_id)));
        self.done.deployments = present.collect();
        self.done
    }
}

fn apply_parts(
    w: &mut Writer<'_>,
    spec: &Arc<StackSpec>,
    ids: &StackIds,
    prune: bool,
    old: Option<&Stack>,
) -> Result<StackOutcome, Rejected> {
    let mut a = Applying::new(spec, ids, old, UpdateKind::Update);
    let mut networks = apply_networks(w, &mut a, spec)?;
    let mut services = BTreeMap::new();
    for (key, part) in in_order(&spec.services) {
        let id = apply_service(w, &mut a, key, part)?;
        services.insert(part.name.clone(), id);
    }
    if let Some(old) = old {
        leave_services(w, old, |_| prune, &mut services, &mut a.done);
        leave_networks(w, old, |_| prune, &mut networks, &mut a.done);
    }
    port::refuse_if_shared(w.state, spec)?;
    write(w, a.id, spec, old, services, networks, Left::default());
    Ok(a.finish(w.state, spec))
}

/// Services, those that share the network of another one after all that they may share.
fn in_order(
    services: &BTreeMap<String, ServiceSpec>,
) -> impl Iterator<Item = (&String, &ServiceSpec)> {
    let shares = |(_, spec): &(&String, &ServiceSpec)| spec.task_template.network_of.is_some();
    let first = services.iter().filter(move |one| !shares(one));
    first.chain(services.iter().filter(shares))
}

fn apply_networks(
    w: &mut Writer<'_>,
    a: &mut Applying<'_>,
    spec: &StackSpec,
) -> Result<BTreeMap<String, NetworkId>, Rejected> {
    let mut networks = BTreeMap::new();
    for (key, part) in &spec.networks {
        networks.insert(part.name.clone(), apply_network(w, a, key, part)?);
    }
    Ok(networks)
}

fn apply_network(
    w: &mut Writer<'_>,
    a: &mut Applying<'_>,
    key: &str,
    spec: &NetworkSpec,
) -> Result<NetworkId, Rejected> {
    let name = spec.name.clone();
    let Some(old) = w.state.network_by_name(&name).cloned() else {
        let id = *a.ids.networks.get(key).ok_or_else(|| missing(ObjectKind::Network, key))?;
        network::create(w, id, spec.clone(), Some(a.id))?;
        a.done.created.push(name);
        return Ok(id);
    };
    if old.stack_id != Some(a.id) {
        let holder = old.id.to_string();
        return Err(Rejected::NameTaken { kind: ObjectKind::Network, name, holder });
    }
    // Who may join beside tasks makes no difference to anything that is there.
    let (labels, attachable) = (spec.labels.clone(), spec.attachable);
    if old.spec == *spec {
        a.done.unchanged.push(name);
    } else if (NetworkSpec { labels, attachable, ..old.spec.clone() }) == *spec {
        w.update_spec(Network { spec: spec.clone(), ..Network::clone(&old) });
        a.done.updated.push(name);
    } else {
        return Err(Rejected::NetworkImmutable { name });
    }
    Ok(old.id)
}

fn apply_service(
    w: &mut Writer<'_>,
    a: &mut Applying<'_>,
    key: &str,
    spec: &ServiceSpec,
) -> Result<ServiceId, Rejected> {
    let name = spec.name.clone();
    let fresh = a.ids.services.get(key).copied().ok_or_else(|| missing(ObjectKind::Service, key));
    let Some(old) = w.state.service_by_name(&name).cloned() else {
        let (id, deployment) = fresh?;
        let kind = match a.kind {
            UpdateKind::Update => DeploymentKind::Create,
            UpdateKind::Rollback => DeploymentKind::Rollback,
        };
        let stack = Some((a.id, a.is_new.then_some(a.version)));
        service::create(w, id, deployment, Arc::new(spec.clone()), kind, stack)?;
        a.done.created.push(name);
        return Ok(id);
    };
    if old.stack_id != Some(a.id) {
        let holder = old.id.to_string();
        return Err(Rejected::NameTaken { kind: ObjectKind::Service, name, holder });
    }
    // What failed is not as it should be, though its spec is: the same file begins it again.
    let failed = w.state.deployment(old.deployment_id);
    let failed = failed.filter(|d| d.state == DeploymentState::Paused);
    if *old.spec == *spec && failed.is_none() {
        a.done.unchanged.push(name);
    } else {
        // A version that was good already is not left because a service that somebody had changed
        // fails on its way back to it.
        let again = failed.is_some_and(|d| d.stack_version == Some(a.version));
        let version = (a.is_new || again).then_some(a.version);
        let (_, deployment) = fresh?;
        let spec = Arc::new(spec.clone());
        service::update(w, old.id, None, deployment, spec, a.kind, Some((a.id, version)))?;
        a.done.updated.push(name);
    }
    Ok(old.id)
}

fn missing(kind: ObjectKind, key: &str) -> Rejected {
    Rejected::StackIdMissing { kind, key: key.to_owned() }
}

/// Removes or keeps the services that left the spec.
fn leave_services(
    w: &mut Writer<'_>,
    old: &Stack,
    goes: impl Fn(&str) -> bool,
    services: &mut BTreeMap<String, ServiceId>,
    done: &mut StackOutcome,
) {
    for (name, id) in &old.services {
        if services.contains_key(name) {
            continue;
        }
        if goes(name) {
            service::erase(w, *id);
            done.removed.push(name.clone());
        } else {
            services.insert(name.clone(), *id);
            done.kept.push(name.clone());
        }
    }
}

/// Removes or keeps the networks that left the spec. One that a service or a wanted task still
/// joins stays until it is pruned again.
fn leave_networks(
    w: &mut Writer<'_>,
    old: &Stack,
    goes: impl Fn(&str) -> bool,
    networks: &mut BTreeMap<String, NetworkId>,
    done: &mut StackOutcome,
) {
    for (name, id) in &old.networks {
        if networks.contains_key(name) {
            continue;
        }
        let unused = w.state.network(*id).is_none_or(|network| {
            network::refuse_if_used(w.state, network, |_| true, Task::is_wanted).is_ok()
        });
        if goes(name) && unused {
            w.remove::<Network>(*id);
            done.removed.push(name.clone());
        } else {
            networks.insert(name.clone(), *id);
            done.kept.push(name.clone());
        }
    }
}

/// Why a stack leaves its version; nothing if it goes forward.
#[derive(Default)]
struct Left {
    rolled_back: Option<String>,
    by_hand: bool,
}

fn write(
    w: &mut Writer<'_>,
    id: StackId,
    spec: &Arc<StackSpec>,
    old: Option<&Stack>,
    services: BTreeMap<String, ServiceId>,
    networks: BTreeMap<String, NetworkId>,
    left: Left,
) {
    let spec = Arc::clone(spec);
    let Some(old) = old else {
        let (meta, history) = (Meta::created(w.index, w.now), Vec::new());
        w.create(Stack { id, meta, spec, services, networks, history });
        return;
    };
    let same_members = old.services == services && old.networks == networks;
    if old.spec == spec {
        if !same_members {
            w.update(Stack { services, networks, ..old.clone() });
        }
        return;
    }
    let mut history = old.history.clone();
    history.push(StackRevision {
        spec_version: old.meta.spec_version,
        applied_at: old.meta.updated_at,
        spec: Arc::clone(&old.spec),
        rolled_back: left.rolled_back,
        by_hand: left.by_hand,
    });
    history.drain(..history.len().saturating_sub(Stack::HISTORY_MAX));
    w.update_spec(Stack { id, meta: old.meta, spec, services, networks, history });
}

pub(super) fn remove(w: &mut Writer<'_>, id: StackId) -> Result<Outcome, Rejected> {
    let stack = w.get::<Stack>(id)?;
    let foreign_service = |s: &Service| s.stack_id != Some(id);
    let members: Vec<ServiceId> = stack.services.values().copied().collect();
    let foreign_task = |t: &Task| t.is_wanted() && !members.contains(&t.service_id);
    for network in stack.networks.values().filter_map(|id| w.state.network(*id)) {
        network::refuse_if_used(w.state, network, foreign_service, foreign_task)?;
    }
    for service in members {
        service::erase(w, service);
    }
    for network in stack.networks.values() {
        w.remove::<Network>(*network);
    }
    w.remove::<Stack>(id);
    Ok(Outcome::Applied)
}
