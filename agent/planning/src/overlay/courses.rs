//! Courses one after the other: each costs what has changed since the one before, however much there is.
//!
//! What is decided and on what is in [`plan`](super::plan), one address, service or port at a time; here is which of
//! them a change is about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use shoal_types::assignment::{Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::object::Network;

use super::OverlayView;
use super::plan::ingress::{Behind, behind, key};
use super::plan::{Course, vip};
use crate::network::ingress::Port;

/// The course that follows from what is known, and what is needed to find the next one.
#[derive(Debug, Default)]
pub struct Courses {
    /// What the course follows from.
    view: OverlayView,
    course: Course,
    /// Moves when a peer may send from other addresses than before.
    editions: u64,
    /// How often each node claims an address.
    claims: BTreeMap<IpAddr, BTreeMap<NodeId, usize>>,
    /// Whom an address is led to.
    placed: BTreeMap<IpAddr, NodeId>,
    /// Tasks that serve, of each service; all behind a port; and all of a node.
    serving: BTreeMap<ServiceId, BTreeSet<TaskId>>,
    behind: BTreeMap<Port, BTreeSet<TaskId>>,
    on: BTreeMap<NodeId, BTreeSet<TaskId>>,
    /// Where nodes are on the mesh.
    meshed: BTreeMap<NodeId, Ipv4Addr>,
    /// How many addresses, backends and tasks were looked at.
    #[cfg(test)]
    looked_at: usize,
}

/// What has to be decided anew.
#[derive(Default)]
struct Dirty {
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<ServiceId>,
    ports: BTreeSet<Port>,
    /// Nodes that may be elsewhere on the mesh, or not be there any more.
    nodes: BTreeSet<NodeId>,
}

/// Before and after, where there is any.
fn pair<'a, K, T>(item: &DiffItem<'a, 'a, K, Arc<T>>) -> (Option<&'a Arc<T>>, Option<&'a Arc<T>>) {
    match *item {
        DiffItem::Add(_, new) => (None, Some(new)),
        DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
        DiffItem::Remove(_, old) => (Some(old), None),
    }
}

impl Courses {
    /// The course that follows from what is known now, whatever was known before.
    pub fn follow(&mut self, view: &OverlayView) -> &Course {
        let home = |view: &OverlayView| {
            let own = view.node_id?;
            Some((own, view.peers.get(&own).and_then(|peer| peer.tunnel_address)))
        };
        if home(&self.view) != home(view) {
            // Another node, or another place of it: nothing stays as it was.
            let editions = self.editions + 1;
            *self = Self { editions, ..Self::default() };
            self.view.node_id = view.node_id;
        }
        let before = std::mem::replace(&mut self.view, view.clone());
        let mut dirty = Dirty::default();
        self.note_peers(&before.peers, &mut dirty);
        for item in before.endpoints.diff(&view.endpoints) {
            let (old, new) = pair(&item);
            old.into_iter().for_each(|one| self.note_endpoint(&before, one, false, &mut dirty));
            new.into_iter().for_each(|one| self.note_endpoint(view, one, true, &mut dirty));
        }
        for one in elsewhere(&before, view) {
            self.note_endpoint(&before, one, false, &mut dirty);
            self.note_endpoint(view, one, true, &mut dirty);
        }
        for item in before.vips.diff(&view.vips) {
            let (old, new) = pair(&item);
            old.into_iter().for_each(|service| self.forget_vips(service));
            dirty.services.extend(old.or(new).map(|service| service.service_id));
        }
        if let Some(own) = view.node_id {
            for address in std::mem::take(&mut dirty.addresses) {
                self.place(own, address, &mut dirty);
            }
            self.mesh(own, &mut dirty);
            for port in std::mem::take(&mut dirty.ports) {
                self.lead_port(own, port);
            }
        }
        for service in dirty.services {
            self.lead_service(service);
        }
        &self.course
    }

    /// The one that was found last.
    #[must_use]
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// Moves when a peer may send from other addresses than before.
    #[must_use]
    pub fn editions(&self) -> u64 {
        self.editions
    }

    #[cfg(test)]
    fn look_at(&mut self, count: usize) {
        self.looked_at += count;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "counts in tests")]
    fn look_at(&mut self, _: usize) {}

    /// Nodes that came, went, or are elsewhere in the tunnel or outside.
    fn note_peers(&mut self, before: &OrdMap<NodeId, Arc<Peer>>, dirty: &mut Dirty) {
        let now = self.view.peers.clone();
        let is_home = self
            .view
            .node_id
            .is_some_and(|own| now.get(&own).is_some_and(|peer| peer.tunnel_address.is_some()));
        for item in before.diff(&now) {
            let (old, new) = pair(&item);
            let Some(node) = old.or(new).map(|peer| peer.node_id) else { continue };
            for (peer, comes) in [(old, false), (new, true)] {
                let address = peer.and_then(|peer| peer.tunnel_address).filter(|_| is_home);
                if let Some(address) = address {
                    self.claim(address, node, comes, dirty);
                }
            }
            dirty.nodes.insert(node);
            if old.is_none() || new.is_none() {
                let tasks = self.on.get(&node).into_iter().flatten();
                let tasks = tasks.filter_map(|id| self.view.endpoints.get(id));
                dirty.addresses.extend(tasks.flat_map(|task| self.view.led(task)));
            }
        }
    }

    /// A task that comes, or goes; `view` says what of it is led to.
    fn note_endpoint(
        &mut self,
        view: &OverlayView,
        one: &TaskEndpoint,
        comes: bool,
        dirty: &mut Dirty,
    ) {
        let TaskEndpoint { task_id, service_id, node_id, serving, ports, .. } = one;
        view.led(one).for_each(|address| self.claim(address, *node_id, comes, dirty));
        put(&mut self.on, *node_id, *task_id, comes);
        if *serving {
            put(&mut self.serving, *service_id, *task_id, comes);
            dirty.services.insert(*service_id);
        }
        for port in ports {
            put(&mut self.behind, key(port), *task_id, comes);
            dirty.ports.insert(key(port));
        }
    }

    fn claim(&mut self, address: IpAddr, node: NodeId, comes: bool, dirty: &mut Dirty) {
        dirty.addresses.insert(address);
        let claims = self.claims.entry(address).or_default();
        let count = claims.entry(node).or_default();
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        claims.retain(|_, count| *count > 0);
        // Whose it was may have it for itself again.
        dirty.nodes.extend(claims.keys().copied().chain([node]));
        if claims.is_empty() {
            self.claims.remove(&address);
        }
    }

    /// Whom an address is led to.
    fn place(&mut self, own: NodeId, address: IpAddr, dirty: &mut Dirty) {
        let claims = self.claims.get(&address);
        let nodes: BTreeSet<NodeId> =
            claims.into_iter().flat_map(BTreeMap::keys).copied().collect();
        self.look_at(nodes.len());
        dirty.nodes.extend(&nodes);
        let only = nodes.first().copied().filter(|_| nodes.len() == 1);
        let leads = |node: &NodeId| *node != own && self.view.peers.contains_key(node);
        let (now, before) = (only.filter(leads), self.placed.get(&address).copied());
        if now != before {
            self.editions += 1;
            let net = IpNet::from(address);
            if let Some(before) = before {
                let left = self.course.allowed.get_mut(&before);
                if left.is_some_and(|nets| nets.remove(&net) && nets.is_empty()) {
                    self.course.allowed.remove(&before);
                }
                self.placed.remove(&address);
                self.course.remote.remove(&address);
            }
            if let Some(now) = now {
                self.course.allowed.entry(now).or_default().insert(net);
                self.placed.insert(address, now);
                self.course.remote.insert(address);
            }
        }
        if nodes.len() > 1 {
            self.course.contested.insert(address, nodes);
        } else {
            self.course.contested.remove(&address);
        }
    }

    /// A node's own address on the mesh, which nobody else claims.
    fn on_mesh(&self, node: NodeId) -> Option<Ipv4Addr> {
        let IpAddr::V4(address) = self.view.peers.get(&node)?.tunnel_address? else { return None };
        (self.claims.get(&address.into())?.len() == 1).then_some(address)
    }

    /// Where nodes are on the mesh. What leads to one that is elsewhere is decided anew.
    fn mesh(&mut self, own: NodeId, dirty: &mut Dirty) {
        let home = self.on_mesh(own);
        if home != self.course.ingress.home {
            // Without a place of its own a node leads to no other, and with one it does.
            self.course.ingress.home = home;
            dirty.nodes.extend(self.view.peers.keys());
        }
        for node in std::mem::take(&mut dirty.nodes) {
            if node == own {
                continue;
            }
            self.look_at(1);
            let (before, now) = (self.meshed.get(&node).copied(), self.on_mesh(node));
            let now = now.filter(|_| home.is_some());
            let peers = &mut self.course.ingress.peers;
            if let Some(before) = before.filter(|before| Some(*before) != now) {
                self.meshed.remove(&node);
                // Somebody else may have it by now.
                if !self.meshed.values().any(|other| *other == before) {
                    peers.remove(&before);
                }
            }
            if let (Some(now), Some(peer)) = (now, self.view.peers.get(&node)) {
                self.meshed.insert(node, now);
                peers.insert(now, Some(peer.addr));
            }
            if before != now {
                let tasks = self.on.get(&node).into_iter().flatten();
                let tasks = tasks.filter_map(|id| self.view.endpoints.get(id));
                dirty.ports.extend(tasks.flat_map(|task| task.ports.iter().map(key)));
            }
        }
    }

    fn lead_port(&mut self, own: NodeId, port: Port) {
        let ingress = &mut self.course.ingress;
        if let Some(names) = ingress.sticky.remove(&port) {
            self.course.slots.lose_port(names.len());
        }
        let Some(tasks) = self.behind.get(&port) else {
            ingress.ports.remove(&port);
            return;
        };
        let tasks = tasks.iter().filter_map(|id| self.view.endpoints.get(id).map(|one| &**one));
        let tasks: Vec<&TaskEndpoint> = tasks.collect();
        let meshed = &self.meshed;
        let far = |node: &NodeId| meshed.get(node).copied();
        let Behind { backends, names } = behind(own, &self.view, far, &tasks);
        if ingress.ports.get(&port) != Some(&backends) {
            ingress.ports.insert(port, backends);
        }
        if let Some(names) = names {
            self.course.slots.have_port(names.len());
            ingress.sticky.insert(port, names);
        }
        let count = tasks.len();
        self.look_at(count);
    }

    fn forget_vips(&mut self, service: &ServiceVips) {
        for network in &service.networks {
            let at = network.vip.addr();
            if let Some(old) = self.course.vips.remove(&at) {
                self.course.slots.lose_vip(at, &old);
            }
        }
    }

    fn lead_service(&mut self, id: ServiceId) {
        let Some(service) = self.view.vips.get(&id) else { return };
        let tasks = self.serving.get(&id).into_iter().flatten();
        let tasks: Vec<&Arc<TaskEndpoint>> =
            tasks.filter_map(|id| self.view.endpoints.get(id)).collect();
        for network in &service.networks {
            let (at, now) = (network.vip.addr(), vip(self.view.node_id, service, network, &tasks));
            let before = self.course.vips.get(&at);
            if before == Some(&now) {
                continue;
            }
            if let Some(before) = before {
                self.course.slots.lose_vip(at, before);
            }
            self.course.slots.have_vip(at, &now);
            self.course.vips.insert(at, now);
        }
        let count = tasks.len();
        self.look_at(count);
    }
}

/// Tasks that are what they were, on networks that are on a wire now and were not, or the other way round.
fn elsewhere<'a>(
    before: &OverlayView,
    view: &'a OverlayView,
) -> impl Iterator<Item = &'a TaskEndpoint> {
    let on_wire = |one: Option<&Arc<Network>>| one.is_some_and(|network| network.is_on_wire());
    let turned = before.networks.diff(&view.networks).filter_map(|item| {
        let (old, new) = pair(&item);
        old.or(new).filter(|_| on_wire(old) != on_wire(new)).map(|network| network.id)
    });
    let turned: BTreeSet<NetworkId> = turned.collect();
    let endpoints = (!turned.is_empty()).then(|| view.endpoints.values());
    let same = |one: &&'a Arc<TaskEndpoint>| before.endpoints.get(&one.task_id) == Some(*one);
    let joins = move |one: &&'a Arc<TaskEndpoint>| {
        one.networks.iter().any(|network| turned.contains(&network.network_id))
    };
    endpoints.into_iter().flatten().filter(joins).filter(same).map(AsRef::as_ref)
}

/// Enters somebody, or strikes him out.
fn put<K: Ord, T: Ord>(to: &mut BTreeMap<K, BTreeSet<T>>, key: K, one: T, comes: bool) {
    if comes {
        to.entry(key).or_default().insert(one);
    } else if to.get_mut(&key).is_some_and(|all| all.remove(&one) && all.is_empty()) {
        to.remove(&key);
    }
}

#[cfg(test)]
mod tests;
