//! Stacks: many objects in one command, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_types::id::{NetworkId, ServiceId, StackId};
use shoal_types::object::{
    Config, DeploymentKind, DeploymentState, Meta, Network, Secret, Service, Stack, StackRevision,
    Task,
};
use shoal_types::spec::{NetworkSpec, ServiceSpec, StackSpec};

mod rollback;

use super::{network, payload, port, service};
use crate::cluster_state::{ClusterState, Writer};
use crate::command::{Outcome, StackIds, StackOutcome, StackPayloads, UpdateKind};
use crate::event::ObjectKind;
use crate::payload::Kept;
use crate::rejected::Rejected;
use crate::stored::Stored;

pub(super) use rollback::roll_back;

pub(super) fn apply(
    w: &mut Writer<'_>,
    spec: &Arc<StackSpec>,
    ids: &StackIds,
    payloads: StackPayloads,
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
    let result = apply_parts(w, spec, ids, payloads, prune, old.as_deref());
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
pub(super) fn snapshot(state: &mut ClusterState) -> (ClusterState, usize) {
    let feed = state.take_events();
    let copy = state.clone();
    state.feed = feed;
    (copy, state.feed.len())
}

pub(super) fn restore(state: &mut ClusterState, (before, len): (ClusterState, usize)) {
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
    payloads: StackPayloads,
    prune: bool,
    old: Option<&Stack>,
) -> Result<StackOutcome, Rejected> {
    let mut a = Applying::new(spec, ids, old, UpdateKind::Update);
    apply_payloads::<Secret>(w, &mut a, spec, payloads.secrets)?;
    apply_payloads::<Config>(w, &mut a, spec, payloads.configs)?;
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
    let mut members = Members { services, networks, ..Members::default() };
    members.secrets = leave_payloads::<Secret>(w, spec, old, prune, &mut a.done);
    members.configs = leave_payloads::<Config>(w, spec, old, prune, &mut a.done);
    write(w, a.id, spec, old, members, Left::default());
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
    if *old.spec == *spec && failed.is_none() && !payload::has_later(w.state, &old) {
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

/// What belongs to a stack.
#[derive(Default)]
struct Members {
    services: BTreeMap<String, ServiceId>,
    networks: BTreeMap<String, NetworkId>,
    secrets: Vec<String>,
    configs: Vec<String>,
}

/// Makes secrets, or configs, and later versions of those that are to be others. Services are told after that.
fn apply_payloads<T: Kept>(
    w: &mut Writer<'_>,
    a: &mut Applying<'_>,
    spec: &StackSpec,
    brought: BTreeMap<String, (<T as Stored>::Id, T::Spec)>,
) -> Result<(), Rejected> {
    for (key, (id, part)) in brought {
        let name = T::name_of(&part).to_owned();
        if T::of_stack(spec).get(&key) != Some(&name) {
            return Err(missing(T::KIND, &key));
        }
        let said = format!("{} {name}", T::KIND);
        match w.state.version::<T>(&name, None) {
            Some(known) if known.stack_id() != Some(a.id) => {
                let holder = Stored::id(&**known).to_string();
                return Err(Rejected::NameTaken { kind: T::KIND, name, holder });
            }
            Some(known) if known.is_as(&part) => {
                a.done.unchanged.push(said);
                continue;
            }
            Some(_) => a.done.updated.push(said),
            None => a.done.created.push(said),
        }
        w.id_is_free::<T>(id)?;
        payload::put::<T>(w, id, part, Some(a.id));
    }
    Ok(())
}

/// Removes or keeps the secrets, or configs, that left the spec, and versions that nobody has any more. What belongs to
/// the stack then.
fn leave_payloads<T: Kept>(
    w: &mut Writer<'_>,
    spec: &StackSpec,
    old: Option<&Stack>,
    prune: bool,
    done: &mut StackOutcome,
) -> Vec<String> {
    let mut names: BTreeSet<String> = T::of_stack(spec).values().cloned().collect();
    for name in &names {
        payload::forget_unused::<T>(w, name);
    }
    for name in old.map_or(&[][..], T::names_of) {
        if names.contains(name) {
            continue;
        }
        let said = format!("{} {name}", T::KIND);
        if prune && payload::remove::<T>(w, name.clone(), None).is_ok() {
            done.removed.push(said);
        } else if w.state.version::<T>(name, None).is_some() {
            names.insert(name.clone());
            done.kept.push(said);
        }
    }
    names.into_iter().collect()
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
    members: Members,
    left: Left,
) {
    let spec = Arc::clone(spec);
    let Members { services, networks, secrets, configs } = members;
    let Some(old) = old else {
        let (meta, history) = (Meta::created(w.index, w.now), Vec::new());
        w.create(Stack { id, meta, spec, services, networks, secrets, configs, history });
        return;
    };
    let same_members = (&old.services, &old.networks, &old.secrets, &old.configs)
        == (&services, &networks, &secrets, &configs);
    if old.spec == spec {
        if !same_members {
            w.update(Stack { services, networks, secrets, configs, ..old.clone() });
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
    let meta = old.meta;
    w.update_spec(Stack { id, meta, spec, services, networks, secrets, configs, history });
}

pub(super) fn remove(w: &mut Writer<'_>, id: StackId) -> Result<Outcome, Rejected> {
    let stack = w.get::<Stack>(id)?;
    let foreign_service = |s: &Service| s.stack_id != Some(id);
    let members: Vec<ServiceId> = stack.services.values().copied().collect();
    let foreign_task = |t: &Task| t.is_wanted() && !members.contains(&t.service_id);
    for network in stack.networks.values().filter_map(|id| w.state.network(*id)) {
        network::refuse_if_used(w.state, network, foreign_service, foreign_task)?;
    }
    payload::refuse_if_used::<Secret>(w.state, &stack)?;
    payload::refuse_if_used::<Config>(w.state, &stack)?;
    for service in members {
        service::erase(w, service);
    }
    for network in stack.networks.values() {
        w.remove::<Network>(*network);
    }
    payload::erase::<Secret>(w, &stack);
    payload::erase::<Config>(w, &stack);
    w.remove::<Stack>(id);
    Ok(Outcome::Applied)
}
