//! A user who changes his mind all the time.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command, StackIds, UpdateKind};
use shoal_types::id::{IdSource, NodeId};
use shoal_types::object::{Node, Service};
use shoal_types::spec::{
    Availability, NodeSpec, RestartCondition, ServiceMode, ServiceSpec, StackSpec, TaskRuntime,
    TaskSpec,
};

use super::context::Context;
use super::specs;

const SERVICES: [&str; 8] =
    ["web", "db", "log-all", "api-roll", "job", "new", "new-all", "new-side"];
const STACKS: [&str; 2] = ["shop", "blog"];

/// The next thing the user wants. May be refused, as users' wishes are.
pub(crate) fn wish(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    match ctx.random.below(22) {
        0..=3 => create(view, ctx),
        4..=8 => update(view, ctx),
        9 => {
            let all: Vec<_> = view.services().map(|s| s.id).collect();
            ctx.random.any(&all).map(|id| Command::RemoveService { id })
        }
        10 | 11 if ctx.random.chance(80) => Some(apply_stack(view, ctx)),
        10 | 11 => roll_back_stack(view, ctx),
        12 => {
            let all: Vec<_> = view.stacks().map(|s| s.id).collect();
            ctx.random.any(&all).map(|id| Command::RemoveStack { id })
        }
        13..=15 => availability(view, ctx),
        16 | 17 => label(view, ctx),
        18 => roll_back(view, ctx),
        19 | 20 => connection(view, ctx),
        _ => view.cluster().map(|cluster| {
            let mut spec = cluster.spec.clone();
            match ctx.random.chance(50) {
                true => spec.tunnel_keys.force_rotate += 1,
                false => spec.task_history_retention_limit = 2 + ctx.random.below(4),
            }
            let expected_spec_version = cluster.meta.spec_version;
            Command::UpdateCluster { expected_spec_version, spec }
        }),
    }
}

fn create(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    let free: Vec<&str> =
        SERVICES.into_iter().filter(|name| view.service_by_name(name).is_none()).collect();
    let name = ctx.random.any(&free)?;
    let spec = Arc::new(specs::service(name, &[], &mut ctx.random));
    Some(Command::CreateService { id: ctx.ids.next_id(), deployment_id: ctx.ids.next_id(), spec })
}

fn some_service(view: &ClusterState, ctx: &mut Context) -> Option<Arc<Service>> {
    let all: Vec<Arc<Service>> = view.services().cloned().collect();
    ctx.random.any(&all)
}

fn update(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    let service = some_service(view, ctx)?;
    let spec = specs::changed(&service.spec, &mut ctx.random);
    Some(updated(&service, spec, UpdateKind::Update, ctx))
}

fn roll_back(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    let service = some_service(view, ctx)?;
    let previous = ServiceSpec::clone(service.previous_spec.as_ref()?);
    Some(updated(&service, previous, UpdateKind::Rollback, ctx))
}

fn updated(service: &Service, spec: ServiceSpec, kind: UpdateKind, ctx: &mut Context) -> Command {
    Command::UpdateService {
        id: service.id,
        expected: ctx.random.chance(50).then_some(service.meta.spec_version),
        deployment_id: ctx.ids.next_id(),
        spec: Arc::new(spec),
        kind,
    }
}

/// What makes every service one that can run: better images, and no constraint in the way.
pub(crate) fn repair(service: &Service, ctx: &mut Context) -> Option<Command> {
    let mut spec = ServiceSpec::clone(&service.spec);
    let task = Arc::make_mut(&mut spec.task_template);
    let TaskRuntime::Container(container) = &mut task.runtime else { return None };
    if !container.image.starts_with("bad") {
        return None;
    }
    container.image = specs::good_image(&mut ctx.random);
    Some(updated(service, spec, UpdateKind::Update, ctx))
}

fn apply_stack(view: &ClusterState, ctx: &mut Context) -> Command {
    let name = ctx.random.pick(&STACKS);
    let network = format!("{name}_front");
    let mut spec = StackSpec { name: name.to_owned(), ..StackSpec::default() };
    let mut ids = StackIds {
        stack: ctx.ids.next_id(),
        services: Default::default(),
        networks: Default::default(),
    };
    spec.networks.insert("front".to_owned(), specs::network(&network));
    ids.networks.insert("front".to_owned(), ctx.ids.next_id());
    for key in ["a", "b-roll", "c-all"] {
        if ctx.random.chance(30) {
            continue;
        }
        let full = format!("{name}_{key}");
        let old = view.service_by_name(&full).filter(|_| ctx.random.chance(50));
        let part = match old {
            Some(old) => ServiceSpec::clone(&old.spec),
            None => specs::service(&full, &[&network], &mut ctx.random),
        };
        spec.services.insert(key.to_owned(), part);
        ids.services.insert(key.to_owned(), (ctx.ids.next_id(), ctx.ids.next_id()));
    }
    Command::ApplyStack {
        spec: Arc::new(spec),
        ids,
        prune: ctx.random.chance(50),
        expected: None,
        payloads: Default::default(),
    }
}

/// Takes a stack back to some earlier version.
fn roll_back_stack(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    let all: Vec<_> = view.stacks().cloned().collect();
    let stack = ctx.random.any(&all)?;
    let revision = ctx.random.any(&stack.history)?;
    let mut ids =
        StackIds { stack: stack.id, services: Default::default(), networks: Default::default() };
    for key in revision.spec.services.keys() {
        ids.services.insert(key.clone(), (ctx.ids.next_id(), ctx.ids.next_id()));
    }
    for key in revision.spec.networks.keys() {
        ids.networks.insert(key.clone(), ctx.ids.next_id());
    }
    Some(Command::RollBackStack {
        id: stack.id,
        expected: stack.meta.spec_version,
        to: revision.spec_version,
        ids,
        failed: None,
    })
}

/// Connects a task to a network, or disconnects one that was connected.
fn connection(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    let wanted = view.tasks().filter(|task| task.is_wanted());
    let networks: Vec<_> = view.networks().map(|network| network.id).collect();
    if ctx.random.chance(50) {
        let all: Vec<_> = wanted.map(|task| task.id).collect();
        let (id, network_id) = (ctx.random.any(&all)?, ctx.random.any(&networks)?);
        let (aliases, addresses) = (vec!["guest".to_owned()], Vec::new());
        return Some(Command::ConnectTask { id, network_id, aliases, addresses });
    }
    let joined = wanted.flat_map(|task| task.networks.iter().map(|joined| (task.id, joined)));
    let connected: Vec<_> =
        joined.filter(|(_, n)| n.connected).map(|(id, n)| (id, n.network_id)).collect();
    let (id, network_id) = ctx.random.any(&connected)?;
    Some(Command::DisconnectTask { id, network_id, force: ctx.random.chance(50) })
}

fn change_node(
    view: &ClusterState,
    ctx: &mut Context,
    change: impl FnOnce(&mut NodeSpec, &mut Context),
) -> Option<Command> {
    let all: Vec<Arc<Node>> = view.nodes().cloned().collect();
    let node = ctx.random.any(&all)?;
    let mut spec = node.spec.clone();
    change(&mut spec, ctx);
    Some(Command::UpdateNode { id: node.id, expected: node.meta.spec_version, spec })
}

fn availability(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    use Availability::{Active, Drain, Pause};
    change_node(view, ctx, |spec, ctx| {
        spec.availability = ctx.random.pick(&[Active, Active, Drain, Drain, Pause]);
    })
}

fn label(view: &ClusterState, ctx: &mut Context) -> Option<Command> {
    change_node(view, ctx, |spec, ctx| {
        let disk = ctx.random.pick(&["ssd", "ssd", "hdd"]);
        spec.labels.insert("disk".to_owned(), disk.to_owned());
    })
}

/// A node that the user takes out of the cluster, if there are others.
pub(crate) fn node_to_remove(view: &ClusterState, ctx: &mut Context) -> Option<(NodeId, bool)> {
    let all: Vec<NodeId> = view.nodes().skip(1).map(|n| n.id).collect();
    let force = ctx.random.chance(50);
    ctx.random.any(&all).filter(|_| all.len() > 1).map(|id| (id, force))
}

/// Whether the tasks of a service go on ending and being started again for ever, as its spec says.
pub(crate) fn is_restless(view: &ClusterState, service: &Service) -> bool {
    let is = |service: &Service| {
        any_spec(view, service, |spec| {
            let attempts = spec.restart_policy.as_ref().map_or(0, |p| p.max_attempts);
            attempts == 0 && ends_and_starts(spec)
        })
    };
    is(service) || shared(view, service).is_some_and(|shared| is(shared))
}

/// The service whose network a service shares: what that one does it goes along with.
fn shared<'a>(view: &'a ClusterState, service: &Service) -> Option<&'a Arc<Service>> {
    view.service_by_name(service.spec.task_template.network_of.as_ref()?)
}

/// Whether they do so for ever or for a while, until that is given up.
pub(crate) fn is_unsteady(view: &ClusterState, service: &Service) -> bool {
    let is = |service: &Service| any_spec(view, service, ends_and_starts);
    is(service) || shared(view, service).is_some_and(|shared| is(shared))
}

/// Of what the service wants and what it still has.
fn any_spec(view: &ClusterState, service: &Service, is: impl Fn(&TaskSpec) -> bool) -> bool {
    let idle = matches!(service.spec.mode, ServiceMode::Replicated { replicas: 0 });
    let mut tasks = view.tasks_of_service(service.id).filter(|t| t.is_wanted());
    (!idle && is(&service.spec.task_template)) || tasks.any(|t| is(&t.spec))
}

fn ends_and_starts(spec: &TaskSpec) -> bool {
    let image = spec.container().map_or("", |c| c.image.as_str());
    match spec.restart_policy.clone().unwrap_or_default().condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => image.starts_with("bad"),
        RestartCondition::Any => image.starts_with("bad") || image.starts_with("once"),
    }
}
