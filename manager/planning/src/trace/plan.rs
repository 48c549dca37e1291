//! The way, as it follows from the state.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_types::assignment::TaskEndpoint;
use shoal_types::id::{NetworkId, NodeId};
use shoal_types::object::{Network, Node, Service, Task, TaskNetwork};
use shoal_types::spec::{Locality, NetworkKind, PortConfig, PublishMode};

use super::target::{Host, Target};
use super::{About, BACKENDS_MAX, Untraceable, Way};

/// Who sends.
enum Source<'a> {
    Task(&'a Task, NodeId),
    Node(NodeId),
}

impl Source<'_> {
    const fn node(&self) -> NodeId {
        match self {
            Self::Task(_, node) | Self::Node(node) => *node,
        }
    }

    fn networks(&self) -> &[TaskNetwork] {
        match self {
            Self::Task(task, _) => &task.networks,
            Self::Node(_) => &[],
        }
    }
}

/// Plans the way from a task or node to a destination.
///
/// # Errors
/// [`Untraceable`]. What is known and leads nowhere is a way that stops.
pub fn plan(view: &ClusterState, source: &str, destination: &str) -> Result<Way, Untraceable> {
    let target = Target::parse(destination)?;
    let source = source_of(view, source)?;
    let mut planning = Planning { view, source, way: Way::default() };
    planning.begin();
    match &target.host {
        Host::Address(address) => planning.lead_to_address(*address, &target),
        Host::Name(name) => planning.lead_to_name(name, &target)?,
    }
    Ok(planning.way)
}

fn source_of<'a>(view: &'a ClusterState, reference: &str) -> Result<Source<'a>, Untraceable> {
    let task = match view.resolve_task(reference) {
        Ok(task) => task,
        Err(unknown) => {
            let node = view.resolve_node(reference).map_err(|_| Untraceable::Source(unknown))?;
            return Ok(Source::Node(node.id));
        }
    };
    match task.node_id {
        Some(node) => Ok(Source::Task(task, node)),
        None => Err(Untraceable::Unplaced {
            task: task.name(),
            state: task.status.state.as_str().to_owned(),
        }),
    }
}

struct Planning<'a> {
    view: &'a ClusterState,
    source: Source<'a>,
    way: Way,
}

impl<'a> Planning<'a> {
    /// Where it begins.
    fn begin(&mut self) {
        let node = self.source.node();
        let (what, words) = match &self.source {
            Source::Task(task, _) => {
                let addresses = task.networks.iter().flat_map(|network| &network.addresses);
                let addresses: Vec<String> = addresses.map(|one| one.addr().to_string()).collect();
                let at = if addresses.is_empty() {
                    String::new()
                } else {
                    format!(" at {}", addresses.join(", "))
                };
                (format!("{} sends{at}", task.name()), vec![task.id.to_string()])
            }
            Source::Node(_) => ("the node itself sends".to_owned(), Vec::new()),
        };
        match &self.source {
            Source::Task(task, _) if !is_running(task) => {
                self.way.stop(Some(node), what, format!("it is {}", stage(task)));
            }
            _ => self.way.step(Some(node), what, About::Words(words)),
        }
    }

    fn lead_to_name(&mut self, name: &str, target: &Target) -> Result<(), Untraceable> {
        // As its own names lead it; else what people call things.
        if let Some(service) = self.service_called(name) {
            self.lead_to_service(name, service, target);
        } else if let Ok(task) = self.view.resolve_task(name) {
            self.lead_to_task(name, task, target);
        } else if let (Ok(node), Some(_)) = (self.view.resolve_node(name), target.port) {
            self.lead_to_published(node, target);
        } else if let Ok(service) = self.view.resolve_service(name) {
            self.lead_to_service(name, service, target);
        } else {
            return Err(Untraceable::Destination { text: name.to_owned() });
        }
        Ok(())
    }

    /// The service that the source knows by a name: its own, or an alias on a network of both.
    fn service_called(&self, name: &str) -> Option<&'a Arc<Service>> {
        if let Some(service) = self.view.service_by_name(name) {
            return Some(service);
        }
        let has = |network: &&TaskNetwork| network.aliases.iter().any(|alias| alias == name);
        let joined = |id: NetworkId| self.source.networks().iter().any(|n| n.network_id == id);
        self.view.services().find(|service| {
            service.networks.iter().filter(has).any(|network| joined(network.network_id))
        })
    }

    fn network(&self, id: NetworkId) -> Option<&'a Arc<Network>> {
        self.view.network(id)
    }

    fn network_name(&self, id: NetworkId) -> String {
        self.network(id).map_or_else(|| id.to_string(), |network| network.spec.name.clone())
    }

    /// The first network that the source and somebody else have both joined.
    fn common(&self, others: &[TaskNetwork]) -> Option<NetworkId> {
        let own = self.source.networks();
        let joined = |id: NetworkId| others.iter().any(|other| other.network_id == id);
        own.iter().map(|network| network.network_id).find(|id| joined(*id))
    }

    fn nothing_in_common(&mut self, what: String, others: &[TaskNetwork]) {
        let names = |networks: &[TaskNetwork]| {
            let names: Vec<String> =
                networks.iter().map(|n| self.network_name(n.network_id)).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let why = match &self.source {
            Source::Node(_) => "a node reaches tasks of others by published ports only: try \
                                NODE:PORT"
                .to_owned(),
            Source::Task(task, _) => format!(
                "they have no network in common: {} is on {}, and it on {}",
                task.name(),
                names(&task.networks),
                names(others)
            ),
        };
        self.way.stop(None, what, why);
    }

    fn lead_to_service(&mut self, name: &str, service: &'a Arc<Service>, target: &Target) {
        let own = &service.spec.name;
        let said = if name == own { own.clone() } else { format!("{name} is {own}") };
        let Some(network) = self.common(&service.networks) else {
            let tasks = self.view.tasks_of_service(service.id);
            let local = tasks.filter(|task| task.node_id == Some(self.source.node()));
            let local: Vec<&'a Arc<Task>> = local.filter(|task| is_running(task)).collect();
            match (&self.source, local.first()) {
                (Source::Node(_), Some(task)) => self.lead_to_task(name, task, target),
                _ => self.nothing_in_common(said, &service.networks),
            }
            return;
        };
        let vips = service.endpoint.virtual_ips.iter().filter(|vip| vip.network_id == network);
        let vips: Vec<IpAddr> = vips.map(|vip| vip.addr.addr()).collect();
        let backends = self.backends(service, network);
        let on = self.network_name(network);
        let leads = if vips.is_empty() {
            "the addresses of its tasks".to_owned()
        } else {
            vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let what = format!("the name {said}, on network {on}: {leads}");
        let asks = match &self.source {
            Source::Task(task, _) => vec![task.id.to_string(), ANSWERS_NAMES.to_owned()],
            Source::Node(_) => Vec::new(),
        };
        self.way.step(Some(self.source.node()), what, About::Words(asks));
        self.lead_to_backends(service, network, &vips, backends, target);
    }

    /// The tasks of a service that serve on a network.
    fn backends(&self, service: &Service, network: NetworkId) -> Vec<&'a Arc<Task>> {
        let tasks = self.view.tasks_of_service(service.id);
        let joined = |task: &&Arc<Task>| task.networks.iter().any(|n| n.network_id == network);
        tasks.filter(joined).filter(|task| TaskEndpoint::is_serving(task)).collect()
    }

    fn lead_to_backends(
        &mut self,
        service: &Service,
        network: NetworkId,
        vips: &[IpAddr],
        mut backends: Vec<&'a Arc<Task>>,
        target: &Target,
    ) {
        let node = self.source.node();
        if !vips.is_empty() {
            let words: Vec<String> = vips.iter().map(ToString::to_string).collect();
            let prefers = service.spec.endpoint_spec.as_ref().and_then(|spec| spec.locality);
            let (all, near) = preferred(backends, prefers, node);
            backends = all;
            let what = format!(
                "{} leads to one of {} that serve{near}",
                words.join(", "),
                counted(backends.len(), "task", "tasks")
            );
            if backends.is_empty() {
                self.way.stop(Some(node), what, no_backend(self.view, service));
                return;
            }
            self.way.step(Some(node), what, About::Words(words));
        } else if backends.is_empty() {
            let what = format!("tasks of {}", service.spec.name);
            self.way.stop(Some(node), what, no_backend(self.view, service));
            return;
        }
        self.each(backends, |planning, task| planning.lead_to_container(task, network, target));
    }

    fn each(&mut self, tasks: Vec<&'a Arc<Task>>, mut one: impl FnMut(&mut Self, &'a Arc<Task>)) {
        let more = tasks.len().saturating_sub(BACKENDS_MAX);
        for task in tasks.into_iter().take(BACKENDS_MAX) {
            one(self, task);
        }
        if more > 0 {
            let what = format!("{} not looked at", counted(more, "further task", "further tasks"));
            self.way.step(None, what, About::Nothing);
        }
    }

    fn lead_to_task(&mut self, name: &str, task: &'a Arc<Task>, target: &Target) {
        let Some(at) = task.node_id else {
            self.way.stop(
                None,
                format!("{name}, a task"),
                format!("it is on no node: {}", stage(task)),
            );
            return;
        };
        match (self.common(&task.networks), &self.source) {
            (Some(network), _) => self.lead_to_container(task, network, target),
            (None, Source::Node(node)) if *node == at => match task.networks.first() {
                Some(network) => self.lead_to_container(task, network.network_id, target),
                None => self.nothing_in_common(task.name(), &task.networks),
            },
            _ => self.nothing_in_common(task.name(), &task.networks),
        }
    }

    /// To a container on a network that the source is on, too, or that its node has.
    fn lead_to_container(&mut self, task: &Task, network: NetworkId, target: &Target) {
        let Some(at) = task.node_id else { return };
        let from = self.source.node();
        let on = self.network_name(network);
        let kind = self.network(network).and_then(|found| NetworkKind::of(&found.spec.driver));
        let spans = kind.is_some_and(NetworkKind::spans_nodes);
        let addresses = addresses_on(task, network);
        let shown = if addresses.is_empty() { task.name() } else { addresses.join(", ") };
        if from != at {
            if !spans {
                let (here, there) = (self.view.hostname(from), self.view.hostname(at));
                let why = format!(
                    "{on} is a network of its own on each node, and they are on {here} and {there}"
                );
                self.way.stop(Some(from), format!("to {shown} of {}", task.name()), why);
                return;
            }
            if kind.is_some_and(NetworkKind::is_on_wire) {
                let what =
                    format!("to {shown} on the wire between nodes, of which nothing is known");
                self.way.step(Some(from), what, About::Words(addresses));
            } else {
                self.between(from, at, &addresses, network);
            }
        }
        self.arrive(at, task, network, &shown, target);
    }

    /// From one node to another and back.
    fn between(&mut self, from: NodeId, to: NodeId, addresses: &[String], network: NetworkId) {
        let what = format!("route to {} by the tunnel", addresses.join(", "));
        self.way.step(Some(from), what, About::Words(addresses.to_vec()));
        self.through(from, to);
        let own = self.source.networks().iter().filter(|n| n.network_id == network);
        let own: Vec<String> =
            own.flat_map(|n| &n.addresses).map(|address| address.addr().to_string()).collect();
        let what = format!("the way back to {} by the tunnel", own.join(", "));
        self.way.step(Some(to), what, About::Words(own));
    }

    /// Through the tunnel, both ways.
    fn through(&mut self, from: NodeId, to: NodeId) {
        let view = self.view;
        let tunnel = |node: NodeId| view.node(node).and_then(|node| node.description.tunnel);
        for (one, other) in [(from, to), (to, from)] {
            let what = format!("the tunnel to {}", view.hostname(other));
            if tunnel(one).is_none() {
                self.way.stop(Some(one), what, "it has said of no tunnel".to_owned());
            } else {
                self.way.step(Some(one), what, About::Peer(other));
            }
        }
    }

    fn arrive(
        &mut self,
        at: NodeId,
        task: &Task,
        network: NetworkId,
        shown: &str,
        target: &Target,
    ) {
        let on = self.network_name(network);
        let port = target
            .port
            .map_or_else(String::new, |port| format!(", port {port}/{}", target.protocol.as_str()));
        let what = format!("{} at {shown} on network {on}{port}", task.name());
        if is_running(task) {
            let words =
                [addresses_on(task, network), vec![task.id.to_string(), network.to_string()]];
            self.way.step(Some(at), what, About::Words(words.concat()));
        } else {
            self.way.stop(Some(at), what, format!("it is {}", stage(task)));
        }
    }

    fn lead_to_address(&mut self, address: IpAddr, target: &Target) {
        let of = |task: &&Arc<Task>| {
            let mut all = task.networks.iter().flat_map(|network| &network.addresses);
            TaskEndpoint::has_one(task) && all.any(|one| one.addr() == address)
        };
        if let Some(task) = self.view.tasks().find(of) {
            self.lead_to_task(&address.to_string(), task, target);
            return;
        }
        let vip = |service: &&Arc<Service>| {
            service.endpoint.virtual_ips.iter().any(|vip| vip.addr.addr() == address)
        };
        if let Some(service) = self.view.services().find(vip) {
            let vips = service.endpoint.virtual_ips.iter();
            let network =
                vips.filter(|vip| vip.addr.addr() == address).map(|vip| vip.network_id).next();
            match network.filter(|id| self.source.networks().iter().any(|n| n.network_id == *id)) {
                Some(network) => {
                    let backends = self.backends(service, network);
                    self.lead_to_backends(service, network, &[address], backends, target);
                }
                None => {
                    let what = format!("{address} of service {}", service.spec.name);
                    self.nothing_in_common(what, &service.networks);
                }
            }
            return;
        }
        let is_at = |node: &&Arc<Node>| node.status.addr == Some(address);
        match (self.view.nodes().find(is_at), target.port) {
            (Some(node), Some(_)) => self.lead_to_published(node, target),
            _ => {
                let known =
                    self.view.networks().find(|n| n.subnets.iter().any(|s| s.contains(&address)));
                match known {
                    Some(network) => {
                        let what = format!("{address} of network {}", network.spec.name);
                        self.way.stop(None, what, "nobody has this address".to_owned());
                    }
                    None => {
                        let what =
                            format!("{address} is no address of a task, a service or a node");
                        self.way.step(None, what, About::Nothing);
                        let node = self.source.node();
                        let what = "out by the node's own routes, with its address".to_owned();
                        self.way.step(Some(node), what, About::Nothing);
                    }
                }
            }
        }
    }

    /// To a port of a node.
    fn lead_to_published(&mut self, node: &'a Arc<Node>, target: &Target) {
        let Some(port) = target.port else { return };
        let number = format!("{port}/{}", target.protocol.as_str());
        let same =
            |one: &&PortConfig| one.published_port == port && one.protocol == target.protocol;
        let published =
            |task: &Arc<Task>| task.ports().iter().find(same).map(|one| one.publish_mode);
        let all = self.view.tasks().filter(|task| TaskEndpoint::has_one(task));
        let all: Vec<(&Arc<Task>, PublishMode)> =
            all.filter_map(|task| Some((task, published(task)?))).collect();
        let here: Vec<&'a Arc<Task>> = all
            .iter()
            .filter(|(task, mode)| *mode == PublishMode::Host && task.node_id == Some(node.id))
            .map(|(task, _)| *task)
            .collect();
        let everywhere = all.iter().filter(|(_, mode)| *mode == PublishMode::Ingress);
        let everywhere: Vec<&'a Arc<Task>> = everywhere.map(|(task, _)| *task).collect();
        let what = format!("port {number} of node {}", node.description.hostname);
        let words = About::Words(vec![number.clone()]);
        if let Some(task) = here.first() {
            self.way.step(Some(node.id), format!("{what}, in mode host"), words);
            self.lead_to_own(node.id, task, target);
        } else if let Some(first) = everywhere.first() {
            let serving: Vec<&'a Arc<Task>> =
                everywhere.iter().copied().filter(|task| TaskEndpoint::is_serving(task)).collect();
            // One says it for all, as on nodes.
            let prefers = everywhere.iter().find_map(|task| task.endpoint.as_ref()?.locality);
            let (serving, near) = preferred(serving, prefers, node.id);
            let count = counted(serving.len(), "task", "tasks");
            let of = &first.service_name;
            let what = format!("{what}, of every node: leads to one of {count} of {of}{near}");
            match (self.view.service(first.service_id), serving.is_empty()) {
                (Some(service), true) => {
                    self.way.stop(Some(node.id), what, no_backend(self.view, service));
                }
                _ => self.way.step(Some(node.id), what, words),
            }
            self.each(serving, |planning, task| {
                let Some(at) = task.node_id else { return };
                if at != node.id {
                    let what = format!("by the mesh to node {}", planning.view.hostname(at));
                    planning.way.step(Some(node.id), what, About::Nothing);
                    planning.through(node.id, at);
                }
                planning.lead_to_own(at, task, target);
            });
        } else {
            let elsewhere: BTreeSet<String> = all
                .iter()
                .filter_map(|(task, _)| Some(self.view.hostname(task.node_id?)))
                .collect();
            let why = if elsewhere.is_empty() {
                "nothing that runs publishes it".to_owned()
            } else {
                let nodes: Vec<String> = elsewhere.into_iter().collect();
                format!("it is published in mode host, on {} only", nodes.join(", "))
            };
            self.way.stop(Some(node.id), what, why);
        }
    }

    /// From a port of the task's own node to its container.
    fn lead_to_own(&mut self, at: NodeId, task: &Task, target: &Target) {
        let port = target.port.unwrap_or_default();
        let same =
            |one: &&PortConfig| one.published_port == port && one.protocol == target.protocol;
        let inside = task.ports().iter().find(same).map(|one| one.target_port);
        let inside = Target { port: inside, ..target.clone() };
        match task.networks.first() {
            Some(network) => {
                let shown = addresses_on(task, network.network_id);
                let shown =
                    if shown.is_empty() { "its address".to_owned() } else { shown.join(", ") };
                self.arrive(at, task, network.network_id, &shown, &inside);
            }
            None => {
                let what = format!("{}, which listens on the node itself", task.name());
                self.way.step(Some(at), what, About::Nothing);
            }
        }
    }
}

/// What a node says where nobody answers names.
const ANSWERS_NAMES: &str = "names";

fn addresses_on(task: &Task, network: NetworkId) -> Vec<String> {
    let joined = task.networks.iter().filter(|joined| joined.network_id == network);
    joined.flat_map(|joined| &joined.addresses).map(|one| one.addr().to_string()).collect()
}

fn is_running(task: &Task) -> bool {
    task.status.state == shoal_types::task_state::TaskState::Running
}

fn stage(task: &Task) -> String {
    let reason = task.status.reason();
    let state = task.status.state.as_str();
    if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") }
}

/// Why nobody serves, as far as its tasks say.
fn no_backend(view: &ClusterState, service: &Service) -> String {
    let live = view.tasks_of_service(service.id).filter(|task| task.is_live());
    let said: Vec<String> =
        live.take(BACKENDS_MAX).map(|task| format!("{} is {}", task.name(), stage(task))).collect();
    let name = &service.spec.name;
    if said.is_empty() {
        format!("no backend serves: {name} has no task")
    } else {
        format!("no backend serves: {}", said.join("; "))
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Whom a node leads to of these tasks, and what is said of it.
fn preferred(
    mut tasks: Vec<&Arc<Task>>,
    locality: Option<Locality>,
    node: NodeId,
) -> (Vec<&Arc<Task>>, &'static str) {
    let is_near = |task: &&Arc<Task>| task.node_id == Some(node);
    if locality != Some(Locality::PreferLocal) || !tasks.iter().any(is_near) {
        return (tasks, "");
    }
    tasks.retain(is_near);
    (tasks, " on this node, before others")
}
