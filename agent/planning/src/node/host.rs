//! What the kernel of a node should be like for its networks, and the way there.
//!
//! The order of the actions is a promise: on a host that was closed, nothing of the containers' networks
//! can be reached past their rules at any moment in between, wherever it is cut off. So the memory of
//! settings comes first, then the fence of routing rules, then the tables, then bridges come up, and
//! only then packets are forwarded; the way back is the reverse. What opens something rests on a look at
//! what keeps it closed ([`lacks`]), never on what was known from before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::look::{Look, LookAtLinks};
use crate::network::NetworkState;
use crate::network::fence::{self, FenceRule, Routing};
use crate::network::guests::Guest;
use crate::network::ingress::{self, Ingress, Numbers, Port};
use crate::network::leases::Leases;
use crate::network::links::{self, LinkKind, ObservedLink};
use crate::network::ruleset::{HostFacts, Ruleset, Vips};
use crate::network::settings::{IP_FORWARD, Remembered, SRC_VALID_MARK, of_bridge, of_mesh};

pub use self::mesh::{MeshAction, MeshDevice, ObservedMesh, Vxlan};

mod mesh;

/// A route that the kernel makes with the address of a bridge, and that somebody may delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeRoute {
    /// The bridge.
    pub bridge: String,
    /// Where it leads.
    pub kind: RouteKind,
    /// The host's address on the bridge, with the length of the prefix.
    pub address: Ipv4Net,
}

/// Which of the routes of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Containers are reached by the bridge.
    Subnet,
    /// The address is the host's own.
    Own,
    /// The last address of the subnet is that of everybody on it.
    Broadcast,
}

impl RouteKind {
    /// All that an address has, the way to it first: the others name it as their source.
    pub const ALL: [Self; 3] = [Self::Own, Self::Subnet, Self::Broadcast];
}

impl fmt::Display for BridgeRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Subnet => write!(f, "{} by {}", self.address.trunc(), self.bridge),
            RouteKind::Own => write!(f, "local {} on {}", self.address.addr(), self.bridge),
            RouteKind::Broadcast => {
                write!(f, "broadcast {} on {}", self.address.broadcast(), self.bridge)
            }
        }
    }
}

/// What the packet filter holds under the agent's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tables {
    /// Nothing.
    Absent,
    /// Exactly these tables.
    Hold(Box<Ruleset>),
    /// Something else.
    Differ,
}

/// The routing rules of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedFence {
    /// Those of the fence.
    pub present: BTreeSet<FenceRule>,
    /// The host has routing domains.
    pub has_domains: bool,
}

/// Links, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedLinks {
    /// Which.
    pub looked_at: LookAtLinks,
    /// Those of them that there are, by name.
    pub found: BTreeMap<String, ObservedLink>,
    /// The routes of those that are bridges of the agent.
    pub routes: BTreeSet<BridgeRoute>,
}

/// The host as it is. What is `None` was not looked at, or the kernel does not have it, and nothing is
/// planned for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Which boot of the host this is.
    pub boot: String,
    /// Links and their routes.
    pub links: Option<ObservedLinks>,
    /// Addresses of the host that are on no wire.
    pub on_no_wire: BTreeSet<Ipv4Addr>,
    /// Bridges of others.
    pub guests: BTreeSet<Guest>,
    /// Routing rules.
    pub fence: Option<ObservedFence>,
    /// The packet filter.
    pub tables: Option<Tables>,
    /// Settings by their path below `/proc/sys/net`: those of the host that networks need, those that
    /// are remembered, and those of the agent's bridges.
    pub settings: Option<BTreeMap<String, String>>,
    /// What the host was like before it was changed.
    pub remembered: Option<Remembered>,
    /// Addresses that are routed into the tunnel; `None` if there is no tunnel.
    pub remote: Option<BTreeSet<Ipv4Addr>>,
    /// The device of the mesh.
    pub mesh: Option<ObservedMesh>,
    /// There is a mesh, as far as is known from before: so it stays where it was not looked at.
    pub was_meshed: bool,
    /// The kernel cannot say to whom a packet goes by the mesh, so that there can be none.
    pub without_egress: bool,
}

/// What the node was told, beside its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Prefix of the agent's interface names.
    pub prefix: String,
    /// The host forwards packets for others than containers, whether or not it did so before: nothing
    /// of theirs is closed, and forwarding stays on.
    pub forwards_for_others: bool,
    /// Addresses on networks that span hosts which are on other hosts now.
    pub remote: Arc<BTreeSet<Ipv4Addr>>,
    /// Addresses of services on such networks.
    pub vips: Arc<Vips>,
    /// Ports that answer on every node.
    pub ingress: Arc<Ingress>,
    /// The numbers of other nodes.
    pub numbers: Arc<Numbers>,
    /// Such ports that somebody else on this host has.
    pub contested: BTreeSet<Port>,
}

/// One change of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named by what they are")]
pub enum Action {
    /// Write down, durably, what settings are before they are changed.
    Remember(Remembered),
    /// Forget it: everything is as it was.
    Forget,
    /// Write a setting; one that the kernel does not have is left alone.
    Set { name: String, value: String },
    /// Add a routing rule.
    AddRule(FenceRule),
    /// Remove a routing rule.
    RemoveRule(FenceRule),
    /// Make the tables what the book says.
    PutTables,
    /// Remove the tables: there are no networks.
    DropTables,
    /// Change a link.
    Link(links::Action),
    /// Put back a route of a bridge.
    AddRoute(BridgeRoute),
    /// Lead packets for an address into the tunnel.
    AddRemote(Ipv4Addr),
    /// Do so no more.
    RemoveRemote(Ipv4Addr),
    /// Change the device of the mesh.
    Mesh(MeshAction),
}

impl Action {
    /// Whether it opens what is closed, or changes what has to be remembered first, so that it must not
    /// follow an action that failed.
    #[must_use]
    pub fn opens(&self) -> bool {
        match self {
            Self::Set { name, value } => {
                [IP_FORWARD, SRC_VALID_MARK].contains(&name.as_str()) && value == "1"
            }
            Self::Link(action) => matches!(
                action,
                links::Action::SetUp { .. }
                    | links::Action::AddAddress { .. }
                    | links::Action::SetBridge { .. }
            ),
            // What lets others pass goes with what keeps them out, not before.
            Self::RemoveRule(_) | Self::DropTables | Self::AddRoute(_) | Self::Forget => true,
            _ => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remember(_) => f.write_str("remember settings of the host"),
            Self::Forget => f.write_str("forget settings of the host"),
            Self::Set { name, value } => write!(f, "set {name} to {value}"),
            Self::AddRule(rule) => write!(f, "add routing rule {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove routing rule {rule}"),
            Self::PutTables => f.write_str("replace the nftables tables"),
            Self::DropTables => f.write_str("remove the nftables tables"),
            Self::Link(action) => action.fmt(f),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::AddRemote(address) => write!(f, "lead {address} into the tunnel"),
            Self::RemoveRemote(address) => write!(f, "lead {address} into the tunnel no more"),
            Self::Mesh(action) => action.fmt(f),
        }
    }
}

/// What to do, and what follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Bridge ports that are missing: only connecting the container again brings them back.
    pub missing_ports: BTreeSet<String>,
    /// What the tables have to know of the host.
    pub facts: HostFacts,
}

/// Plans the way from `observed` to what the book says.
#[must_use]
pub fn plan(leases: &Leases, wishes: &Wishes, observed: &Observed) -> Plan {
    let mesh = mesh::steps(wishes, observed);
    let memory = memory(leases, wishes, observed, mesh.is_there);
    let for_us = memory.after.as_ref().is_some_and(Remembered::forwards_for_us);
    let forwards_for_us = for_us && !wishes.forwards_for_others;
    let guests = if forwards_for_us { observed.guests.clone() } else { BTreeSet::new() };
    let facts = HostFacts {
        prefix: wishes.prefix.clone(),
        on_no_wire: observed.on_no_wire.clone(),
        forwards_for_us,
        guests: guests.iter().map(|guest| guest.bridge.clone()).collect(),
        vips: Arc::clone(&wishes.vips),
        ingress: Arc::clone(&wishes.ingress),
        numbers: Arc::clone(&wishes.numbers),
        contested: wishes.contested.clone(),
        mesh: mesh.is_there,
    };
    let device = mesh.is_there.then(|| ingress::ifname(&wishes.prefix));
    let routing = Routing { forwards_for_us, guests, mesh: device, ..Routing::default() };
    let mut fence = fence_actions(leases, routing, observed.fence.as_ref());
    let mut links = link_actions(leases, wishes, observed);
    let remote = remote_actions(leases, wishes, observed);
    let mut actions = memory.before;
    actions.append(&mut fence.closing);
    actions.extend(mesh.before);
    let mut tables = tables_action(leases, &facts, observed, mesh.is_new);
    actions.extend(tables.take_if(|action| *action == Action::PutTables));
    actions.append(&mut links.actions);
    actions.extend(device_settings(
        leases,
        wishes,
        observed,
        &links.new_bridges,
        (mesh.is_there, mesh.is_new),
    ));
    actions.append(&mut links.up);
    actions.append(&mut links.routes);
    actions.extend(mesh.after);
    actions.extend(remote);
    actions.extend(memory.switch_on);
    actions.extend(tables);
    actions.append(&mut fence.opening);
    Plan { actions, missing_ports: links.missing_ports, facts }
}

/// What else has to be looked at before a plan that was made of `look` may be carried out; then it is
/// to be planned again. Nothing is let in without a look at the rules and tables that are to judge it,
/// and neither of them is taken away without a look at all links: a bridge that could not be removed
/// has nothing else that keeps it closed. `before` is what was known of the host so far: where that
/// changes, other rules are wanted.
#[must_use]
pub fn lacks(look: &Look, plan: &Plan, before: &HostFacts) -> Look {
    let now = &plan.facts;
    let mesh = now.mesh != before.mesh;
    let forwards = (now.forwards_for_us, &now.guests) != (before.forwards_for_us, &before.guests);
    let mut lacks = Look { rules: forwards || mesh, settings: mesh, ..Look::default() };
    for action in plan.actions.iter().filter(|action| action.opens()) {
        match action {
            Action::RemoveRule(_) | Action::DropTables => lacks.links = LookAtLinks::All,
            Action::Forget => {}
            _ => (lacks.rules, lacks.tables) = (true, true),
        }
    }
    Look {
        links: if look.links == LookAtLinks::All { LookAtLinks::default() } else { lacks.links },
        rules: lacks.rules && !look.rules,
        tables: lacks.tables && !look.tables,
        settings: lacks.settings && !look.settings,
        ..Look::default()
    }
}

/// Addresses in subnets of the host's networks, and those of other nodes in the tunnel, alone: a route to any
/// other would lead packets astray that have nothing to do with containers.
fn remote_actions(leases: &Leases, wishes: &Wishes, observed: &Observed) -> Vec<Action> {
    let Some(present) = &observed.remote else { return Vec::new() };
    let routed: Vec<&NetworkState> = leases.networks().filter(|network| network.routed).collect();
    let inside = |address: &&Ipv4Addr| {
        routed
            .iter()
            .any(|network| network.subnet.contains(*address) && network.gateway != **address)
    };
    let by_mesh = |address: &Ipv4Addr| wishes.numbers.contains_key(address);
    let wanted = wishes.remote.iter().filter(|address| inside(address) || by_mesh(address));
    let wanted: BTreeSet<Ipv4Addr> = wanted.copied().collect();
    let gone = present.difference(&wanted).copied().map(Action::RemoveRemote);
    gone.chain(wanted.difference(present).copied().map(Action::AddRemote)).collect()
}

/// What is done to the settings of the whole host.
#[derive(Default)]
struct Memory {
    /// First: remembering, or putting back.
    before: Vec<Action>,
    /// Last: what lets packets through.
    switch_on: Vec<Action>,
    /// What is remembered then.
    after: Option<Remembered>,
}

fn memory(leases: &Leases, wishes: &Wishes, observed: &Observed, meshed: bool) -> Memory {
    let Observed { boot, remembered, .. } = observed;
    let Some(now) = &observed.settings else {
        return Memory { after: remembered.clone(), ..Memory::default() };
    };
    let set = |name: String, value: String| Action::Set { name, value };
    if !meshed && !leases.networks().any(|network| !network.internal) {
        let Some(remembered) = remembered else { return Memory::default() };
        let needed = wishes.forwards_for_others || !observed.guests.is_empty();
        let back = remembered.restore(boot, now, needed);
        let back = back.into_iter().map(|(name, value)| set(name, value));
        return Memory { before: back.chain([Action::Forget]).collect(), ..Memory::default() };
    }
    let after = Remembered::from(now, boot, remembered.as_ref());
    let new = remembered.as_ref() != Some(&after);
    let before = new.then(|| Action::Remember(after.clone()));
    let switches = [SRC_VALID_MARK, IP_FORWARD].into_iter();
    let off = switches.filter(|name| now.get(*name).is_some_and(|value| value != "1"));
    let on = off.map(|name| set(name.to_owned(), "1".to_owned()));
    Memory { before: before.into_iter().collect(), switch_on: on.collect(), after: Some(after) }
}

#[derive(Default)]
struct Fence {
    closing: Vec<Action>,
    opening: Vec<Action>,
}

fn fence_actions(leases: &Leases, routing: Routing, observed: Option<&ObservedFence>) -> Fence {
    let Some(ObservedFence { present, has_domains }) = observed else { return Fence::default() };
    let routing = Routing { has_domains: *has_domains, ..routing };
    let (gone, new) = fence::change(present, &fence::rules(leases, &routing));
    Fence {
        closing: new.into_iter().map(Action::AddRule).collect(),
        opening: gone.into_iter().map(Action::RemoveRule).collect(),
    }
}

/// A device that is `remade` has nothing that judges what leaves by it: before Linux 6.16 that goes with the one
/// before, whatever was seen of the tables.
fn tables_action(
    leases: &Leases,
    facts: &HostFacts,
    observed: &Observed,
    remade: bool,
) -> Option<Action> {
    let wanted = Ruleset::of(leases, facts);
    let right = match observed.tables.as_ref()? {
        Tables::Absent => wanted.is_empty(),
        Tables::Hold(held) => !remade && held.same_as(&wanted),
        Tables::Differ => false,
    };
    let action = if wanted.is_empty() { Action::DropTables } else { Action::PutTables };
    (!right).then_some(action)
}

#[derive(Default)]
struct Links {
    actions: Vec<Action>,
    /// What lets packets in, at the end.
    up: Vec<Action>,
    routes: Vec<Action>,
    new_bridges: BTreeSet<String>,
    missing_ports: BTreeSet<String>,
}

fn link_actions(leases: &Leases, wishes: &Wishes, observed: &Observed) -> Links {
    let Some(ObservedLinks { looked_at, found, routes }) = &observed.links else {
        return Links::default();
    };
    let mut desired = links::Desired::of(leases);
    if let LookAtLinks::Named(names) = looked_at {
        desired = desired.only(names);
    }
    let links::Plan { actions, missing_ports } = links::plan(&desired, found, &wishes.prefix);
    // The kernel makes the routes of what comes up or gets its address now.
    let mut fresh = BTreeSet::new();
    let mut all = Links { missing_ports, ..Links::default() };
    for action in actions {
        match &action {
            links::Action::CreateBridge { ifname, .. } => {
                fresh.insert(ifname.clone());
                all.new_bridges.insert(ifname.clone());
            }
            links::Action::AddAddress { ifname, .. } | links::Action::SetUp { ifname } => {
                fresh.insert(ifname.clone());
            }
            _ => {}
        }
        let up = matches!(action, links::Action::SetUp { .. });
        (if up { &mut all.up } else { &mut all.actions }).push(Action::Link(action));
    }
    for (bridge, wanted) in desired.bridges {
        let is_there = found.get(&bridge).is_some_and(|link| link.kind == LinkKind::Bridge);
        if !is_there || fresh.contains(&bridge) {
            continue;
        }
        for kind in RouteKind::ALL {
            let route = BridgeRoute { bridge: bridge.clone(), kind, address: wanted.address };
            if !routes.contains(&route) {
                all.routes.push(Action::AddRoute(route));
            }
        }
    }
    all
}

/// Those of what is made now, and those that are not as they should be.
fn device_settings(
    leases: &Leases,
    wishes: &Wishes,
    observed: &Observed,
    new: &BTreeSet<String>,
    (is_there, is_new): (bool, bool),
) -> Vec<Action> {
    let none = BTreeMap::new();
    let now = observed.settings.as_ref().unwrap_or(&none);
    let bridges = leases.networks().flat_map(|network| {
        let new = new.contains(&network.bridge);
        of_bridge(&network.bridge).map(|(name, value)| (name, value, new))
    });
    let mesh = is_there.then(|| of_mesh(&ingress::ifname(&wishes.prefix))).into_iter().flatten();
    let mesh = mesh.map(|(name, value)| (name, value, is_new));
    bridges
        .chain(mesh)
        .filter(|(name, value, new)| *new || now.get(name).is_some_and(|now| now != value))
        .map(|(name, value, _)| Action::Set { name, value: value.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests;
