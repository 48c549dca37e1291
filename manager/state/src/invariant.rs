//! What must hold of every state, checked from the objects alone. Slow; for tests and simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use shoal_types::id::NetworkId;
use shoal_types::level::Level;
use shoal_types::object::{
    Config, Deployment, Network, Node, Payloads, Secret, Service, Stack, Task, User,
};
use shoal_types::spec::{
    EndpointMode, NetworkKind, PayloadReference, PortConfig, PublishMode, SubnetPlan,
};
use shoal_types::task_state::{DesiredState, TaskState};

use crate::addresses::{self, Family};
use crate::cluster_state::ClusterState;
use crate::credentials::image_of;
use crate::index::Indexes;
use crate::payload::{self, Kept};
use crate::ports;
use crate::stored::Stored;

/// Everything that is wrong with a state; nothing, if it was made by applying commands.
#[must_use]
pub fn check(state: &ClusterState) -> Vec<String> {
    let mut wrong = Vec::new();
    indexes(state, &mut wrong);
    names(state, &mut wrong);
    versions(state, &mut wrong);
    state.services().for_each(|service| self::service(state, service, &mut wrong));
    state.deployments().for_each(|deployment| self::deployment(state, deployment, &mut wrong));
    state.stacks().for_each(|stack| self::stack(state, stack, &mut wrong));
    state.networks().for_each(|network| self::network(state, network, &mut wrong));
    state.tasks().for_each(|task| self::task(state, task, &mut wrong));
    host_ports(state, &mut wrong);
    addresses(state, &mut wrong);
    ports(state, &mut wrong);
    admins(state, &mut wrong);
    credentials(state, &mut wrong);
    payloads::<Secret>(state, &mut wrong);
    payloads::<Config>(state, &mut wrong);
    wrong
}

macro_rules! demand {
    ($wrong:expr, $holds:expr, $($text:tt)*) => {
        if !$holds {
            $wrong.push(format!($($text)*));
        }
    };
}

/// Credentials are those of services, for repositories that they take their image from.
fn credentials(state: &ClusterState, wrong: &mut Vec<String>) {
    for (id, credentials) in state.credentials() {
        let service = state.service(id);
        let specs = service.into_iter().flat_map(|s| [Some(&s.spec), s.previous_spec.as_ref()]);
        let images = specs.flatten().filter_map(|spec| image_of(spec));
        let names: Vec<String> = images.map(|image| image.name()).collect();
        let known = credentials.0.keys().all(|name| names.contains(name));
        let some = !credentials.0.is_empty();
        demand!(wrong, known && some, "service {id} has credentials for something else or none");
    }
}

/// What services and wanted tasks are given is there, and is what they refer to.
fn payloads<T: Kept>(state: &ClusterState, wrong: &mut Vec<String>) {
    let fits = |reference: &PayloadReference, id: &<T as Stored>::Id| {
        let found = T::table(state).get(id);
        found.is_some_and(|one| {
            one.name() == reference.name && reference.version.is_none_or(|n| n == one.version())
        })
    };
    let given = |references: &[PayloadReference], payloads: &Payloads| {
        let ids = T::among(payloads);
        references.len() == ids.len() && references.iter().zip(ids).all(|(r, id)| fits(r, id))
    };
    for service in state.services() {
        let fine = given(payload::references::<T>(service), &service.payloads);
        demand!(wrong, fine, "service {} has other {}s than it names", service.id, T::KIND);
    }
    for task in state.tasks().filter(|task| task.is_wanted()) {
        let references = task.spec.container().map_or(&[][..], T::references);
        let fine = given(references, &task.payloads);
        demand!(wrong, fine, "task {} is given other {}s than it names", task.id, T::KIND);
    }
}

/// Indexes, usage included, are those that follow from the tables.
fn indexes(state: &ClusterState, wrong: &mut Vec<String>) {
    fn enter<T: Stored>(state: &ClusterState, indexes: &mut Indexes, wrong: &mut Vec<String>) {
        for (id, object) in T::table(state) {
            demand!(wrong, *id == object.id(), "{} {} stands under id {id}", T::KIND, object.id());
            T::index(indexes, None, Some(object));
        }
    }
    let mut fresh = Indexes::default();
    enter::<Node>(state, &mut fresh, wrong);
    enter::<Network>(state, &mut fresh, wrong);
    enter::<Service>(state, &mut fresh, wrong);
    enter::<Deployment>(state, &mut fresh, wrong);
    enter::<Stack>(state, &mut fresh, wrong);
    enter::<Task>(state, &mut fresh, wrong);
    enter::<User>(state, &mut fresh, wrong);
    enter::<Secret>(state, &mut fresh, wrong);
    enter::<Config>(state, &mut fresh, wrong);
    let have = &state.indexes;
    demand!(wrong, have.service_names == fresh.service_names, "index of service names is wrong");
    demand!(wrong, have.inherited == fresh.inherited, "index of what tasks take over is wrong");
    demand!(wrong, have.network_names == fresh.network_names, "index of network names is wrong");
    demand!(wrong, have.stack_names == fresh.stack_names, "index of stack names is wrong");
    demand!(wrong, have.user_names == fresh.user_names, "index of user names is wrong");
    demand!(wrong, have.node_names == fresh.node_names, "index of node names is wrong");
    demand!(wrong, have.slot_tasks == fresh.slot_tasks, "index of tasks by slot is wrong");
    demand!(wrong, have.node_tasks == fresh.node_tasks, "index of tasks by node is wrong");
    demand!(wrong, have.usage == fresh.usage, "index of what nodes hold is wrong");
    let same = have.network_nodes == fresh.network_nodes;
    demand!(wrong, same, "index of nodes by network is wrong");
    let same = have.published == fresh.published;
    demand!(wrong, same, "index of tasks by published ports is wrong");
    demand!(wrong, have.pending == fresh.pending, "index of tasks without a node is wrong");
    let same = have.pending_on_node == fresh.pending_on_node;
    demand!(wrong, same, "index of tasks that wait for their node is wrong");
    demand!(wrong, have.failures == fresh.failures, "index of failures is wrong");
    demand!(wrong, have.leaving == fresh.leaving, "index of tasks to be forgotten is wrong");
    demand!(wrong, have.sharers == fresh.sharers, "index of who shares a network is wrong");
    let same = have.pending_beside == fresh.pending_beside;
    demand!(wrong, same, "index of tasks that wait for a partner is wrong");
    demand!(wrong, have.partners == fresh.partners, "index of tasks by partner is wrong");
    let same = have.service_deployments == fresh.service_deployments;
    demand!(wrong, same, "index of deployments by service is wrong");
    demand!(wrong, have.addresses == fresh.addresses, "index of addresses is wrong");
    demand!(wrong, have.secrets == fresh.secrets, "index of secrets is wrong");
    demand!(wrong, have.configs == fresh.configs, "index of configs is wrong");
    demand!(wrong, have.ports == fresh.ports, "index of published ports is wrong");
    demand!(wrong, have.tunnel_keys == fresh.tunnel_keys, "index of tunnel keys is wrong");
}

/// Names are unique: the indexes, which hold one object for each name, lose none.
fn names(state: &ClusterState, wrong: &mut Vec<String>) {
    for (kind, objects, names) in state.name_counts() {
        demand!(wrong, objects == names, "{objects} {kind} objects have {names} names");
    }
}

/// No object is from the future, and every spec has a number.
fn versions(state: &ClusterState, wrong: &mut Vec<String>) {
    fn each<T: Stored>(state: &ClusterState, wrong: &mut Vec<String>) {
        for object in T::table(state).values() {
            let (meta, id) = (object.meta(), object.id());
            let known = meta.version <= state.applied_index() && meta.spec_version >= 1;
            demand!(wrong, known, "{} {id} has impossible versions: {meta:?}", T::KIND);
        }
    }
    each::<Node>(state, wrong);
    each::<Network>(state, wrong);
    each::<Service>(state, wrong);
    each::<Deployment>(state, wrong);
    each::<Stack>(state, wrong);
    each::<Task>(state, wrong);
    each::<User>(state, wrong);
    each::<Secret>(state, wrong);
    each::<Config>(state, wrong);
}

/// Where there are users, one of them can always make others.
fn admins(state: &ClusterState, wrong: &mut Vec<String>) {
    let any = state.users().any(|user| user.is_lasting_admin());
    demand!(wrong, any || state.users().len() == 0, "no user is an admin for good");
}

fn service(state: &ClusterState, service: &Service, wrong: &mut Vec<String>) {
    let id = service.id;
    let deployment = state.deployment(service.deployment_id);
    let present = deployment
        .is_some_and(|d| d.service_id == id && d.service_version == service.meta.spec_version);
    demand!(wrong, present, "service {id} has no deployment of its present spec");
    for joined in service.networks.iter() {
        let network = joined.network_id;
        let exists = state.network(network).is_some();
        demand!(wrong, exists, "service {id} joins network {network}, which does not exist");
    }
    if let Some(shared) = &service.spec.task_template.network_of {
        let chain =
            state.service_by_name(shared).and_then(|s| s.spec.task_template.network_of.as_ref());
        demand!(wrong, chain.is_none(), "service {id} shares a network that is shared itself");
        demand!(wrong, service.networks.is_empty(), "service {id} shares a network and has one");
    }
    if let Some(stack) = service.stack_id {
        let member = state
            .stack(stack)
            .is_some_and(|stack| stack.services.get(&service.spec.name) == Some(&id));
        demand!(wrong, member, "service {id} is no member of its stack {stack}");
    }
}

fn deployment(state: &ClusterState, deployment: &Deployment, wrong: &mut Vec<String>) {
    let id = deployment.id;
    let Some(service) = state.service(deployment.service_id) else {
        wrong.push(format!(
            "deployment {id} is of service {}, which is gone",
            deployment.service_id
        ));
        return;
    };
    let present = service.deployment_id == id;
    let stopped = present || deployment.state.is_final();
    demand!(wrong, stopped, "deployment {id} goes on beside a newer one of its service");
    let dated = deployment.state.is_final() == deployment.completed_at.is_some();
    demand!(
        wrong,
        dated,
        "deployment {id} is {} without the time to it",
        deployment.state.as_str()
    );
}

fn stack(state: &ClusterState, stack: &Stack, wrong: &mut Vec<String>) {
    let id = stack.id;
    for (name, service) in &stack.services {
        let member =
            state.service(*service).is_some_and(|s| s.spec.name == *name && s.stack_id == Some(id));
        demand!(wrong, member, "stack {id} counts service {name} in, which does not belong to it");
    }
    for (name, network) in &stack.networks {
        let member =
            state.network(*network).is_some_and(|n| n.spec.name == *name && n.stack_id == Some(id));
        demand!(wrong, member, "stack {id} counts network {name} in, which does not belong to it");
    }
}

fn network(state: &ClusterState, network: &Network, wrong: &mut Vec<String>) {
    let Some(stack) = network.stack_id else { return };
    let id = network.id;
    let member =
        state.stack(stack).is_some_and(|stack| stack.networks.get(&network.spec.name) == Some(&id));
    demand!(wrong, member, "network {id} is no member of its stack {stack}");
}

fn task(state: &ClusterState, task: &Task, wrong: &mut Vec<String>) {
    let (id, at) = (task.id, task.status.state);
    let forgotten = task.desired_state == DesiredState::Remove;
    match state.service(task.service_id) {
        Some(service) => {
            let known = task.spec_version <= service.meta.spec_version;
            demand!(wrong, known, "task {id} is of a spec that its service never had");
        }
        None => demand!(wrong, forgotten, "task {id} is wanted, and its service is gone"),
    }
    if let Some(node) = task.node_id {
        let known = state.node(node).is_some() || !task.is_live();
        demand!(wrong, known, "task {id} is {at} on node {node}, which is gone");
    }
    let placed = task.node_id.is_some() || !at.is_placed() || !task.is_live();
    demand!(wrong, placed, "task {id} is {at} and has no node");
    let shares = task.spec.network_of.is_some();
    let paired = task.partner.is_some() == (shares && at.is_placed()) || !task.is_live();
    demand!(wrong, paired, "task {id} is {at} and has no partner, or one that it is not to have");
    demand!(wrong, !shares || task.networks.is_empty(), "task {id} shares a network and has one");
    if let Some(partner) = task.partner.and_then(|partner| state.task(partner)) {
        let beside = partner.node_id == task.node_id && partner.slot == task.slot;
        demand!(wrong, beside, "task {id} is not beside its partner {}", partner.id);
    }
    let rung = at != TaskState::Remove && at != TaskState::New;
    demand!(wrong, rung, "task {id} is {at}, which no task can be");
    if task.is_wanted() {
        for joined in task.networks.iter() {
            let network = joined.network_id;
            let exists = state.network(network).is_some();
            demand!(wrong, exists, "task {id} joins network {network}, which does not exist");
        }
    }
    connections(state, task, wrong);
}

/// A task joins each network once, and one that excludes others alone; what it was connected to, its node can do.
fn connections(state: &ClusterState, task: &Task, wrong: &mut Vec<String>) {
    let id = task.id;
    let ids: BTreeSet<_> = task.networks.iter().map(|joined| joined.network_id).collect();
    demand!(wrong, ids.len() == task.networks.len(), "task {id} joins a network twice");
    let mut kinds = ids.iter().filter_map(|id| NetworkKind::of(&state.network(*id)?.spec.driver));
    let alone = ids.len() <= 1 || !kinds.any(NetworkKind::is_exclusive);
    demand!(wrong, alone, "task {id} joins a network that excludes its others");
    let connected = task.networks.iter().any(|joined| joined.connected);
    let able = !connected || task.level >= Level::DUAL;
    demand!(
        wrong,
        able,
        "task {id} is connected to a network, and needs level {} only",
        task.level
    );
}

/// No port of a node is held twice on addresses that cannot be told apart.
fn host_ports(state: &ClusterState, wrong: &mut Vec<String>) {
    for node in state.nodes() {
        for ((port, protocol), holders) in &state.node_usage(node.id).host_ports {
            let mut per_address = BTreeMap::new();
            for (ip, task) in holders {
                let alone = ip.is_some() || holders.len() == 1;
                let first = per_address.insert(ip, task).is_none();
                demand!(
                    wrong,
                    alone && first,
                    "port {port}/{} of node {} is held by task {task} and another one",
                    protocol.as_str(),
                    node.id
                );
            }
        }
    }
}

/// No address is held twice, and each is one of its subnet.
fn addresses(state: &ClusterState, wrong: &mut Vec<String>) {
    for (one, other) in addresses::clashes(state) {
        wrong.push(format!("{one} and {other} have addresses in common"));
    }
    for node in state.nodes() {
        let Some(address) = node.tunnel_address else { continue };
        let plan = SubnetPlan::of(address.trunc(), None);
        let usable = plan.is_some_and(|plan| plan.gives(address.addr()));
        let known = usable && state.level() >= Level::INGRESS;
        demand!(wrong, known, "node {} has {address}, which no node can have", node.id);
    }
    for network in state.networks() {
        let has = !network.subnets.is_empty();
        demand!(wrong, has == network.spans_nodes(), "network {} has subnets or none", network.id);
    }
    for task in state.tasks().filter(|task| task.is_live()) {
        for joined in task.networks.iter() {
            let (id, have) = (joined.network_id, joined.addresses.iter().copied());
            let named = |of: IpAddr| {
                joined.connected || task.spec.networks.iter().any(|n| n.addresses.contains(&of))
            };
            let held = of_network(state, id, have, named);
            demand!(wrong, held, "task {} has other addresses than its networks", task.id);
        }
    }
    for service in state.services() {
        let by_vip =
            service.spec.endpoint_spec.as_ref().is_none_or(|e| e.mode == EndpointMode::Vip);
        let led = |id| by_vip && !state.network(id).is_some_and(|network| network.is_on_wire());
        for joined in service.networks.iter().filter(|joined| led(joined.network_id)) {
            let vips = addresses::of_service(service).filter(|(id, _)| *id == joined.network_id);
            let held = of_network(state, joined.network_id, vips.map(|(_, vip)| vip), |_| false);
            demand!(wrong, held, "service {} has other addresses than its networks", service.id);
        }
        for (id, address) in addresses::kept_by(service) {
            let fits = state.network(id).is_some_and(|n| addresses::may_name(n, address));
            demand!(wrong, fits, "service {} keeps {address}, which is for nobody", service.id);
        }
        let known = |id| led(id) && service.networks.iter().any(|n| n.network_id == id);
        let all = addresses::of_service(service).all(|(id, _)| known(id));
        demand!(wrong, all, "service {} has an address where it is not reached", service.id);
    }
}

/// Ports are those that were asked for, with numbers; and where only one service can have one, one has it.
fn ports(state: &ClusterState, wrong: &mut Vec<String>) {
    for ports::Clash { protocol, port, first, second } in ports::clashes(state) {
        let protocol = protocol.as_str();
        wrong.push(format!("services {first} and {second} both have port {port}/{protocol}"));
    }
    for service in state.services() {
        let wanted = service.spec.endpoint_spec.iter().flat_map(|spec| &spec.ports);
        let chosen = |wanted: &PortConfig, has: &PortConfig| {
            let free = wanted.published_port == 0 && wanted.publish_mode == PublishMode::Ingress;
            let published_port = if free { has.published_port } else { wanted.published_port };
            *has == PortConfig { published_port, ..wanted.clone() }
                && (!free || has.published_port != 0)
        };
        let same = wanted.clone().count() == service.endpoint.ports.len()
            && wanted.zip(&service.endpoint.ports).all(|(wanted, has)| chosen(wanted, has));
        demand!(wrong, same, "service {} has other ports than it asked for", service.id);
    }
}

/// Whether these are the addresses of one of a network's tasks or services. What is gone has none to give.
fn of_network(
    state: &ClusterState,
    id: NetworkId,
    addresses: impl Iterator<Item = IpNet>,
    named: impl Fn(IpAddr) -> bool,
) -> bool {
    let Some(network) = state.network(id) else { return true };
    let addresses: Vec<IpNet> = addresses.collect();
    let fits = |address: &IpNet| {
        let named = named(address.addr()) && addresses::may_name(network, *address);
        named || addresses::is_given(network, *address)
    };
    addresses.iter().map(Family::of).eq(Family::all_of(&network.subnets))
        && addresses.iter().all(fits)
}
