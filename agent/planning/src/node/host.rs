//! What the kernel of a node should be like for its networks, and the way there.
//!
//! The order of the actions is a promise: on a host that was closed, nothing of the containers' networks
//! can be reached past their rules at any moment in between, wherever it is cut off. So the memory of
//! settings comes first, then the fence of routing rules, then the tables, then bridges come up, and
//! only then packets are forwarded; the way back is the reverse. What opens something rests on a look at
//! what keeps it closed ([`lacks`]), never on what was known from before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::look::{Look, LookAtLinks};
use crate::network::fence::{self, FenceRule, Routing};
use crate::network::gates::{GateAction, Gates};
use crate::network::guests::Guest;
use crate::network::ingress::{self, Ingress, Numbers, Port};
use crate::network::leases::Leases;
use crate::network::links::{self, DesiredEnd, LinkKind, ObservedLink};
use crate::network::ruleset::{HostFacts, Ruleset, Vips};
use crate::network::settings::{
    FORWARD_V6, IP_FORWARD, Remembered, SRC_VALID_MARK, listens, of_bridge, of_mesh, of_vlan,
};
use crate::network::{Family, NetworkState};
use crate::tunnel::Side;

use self::memory::memory;

pub use self::memo::Memo;
pub use self::mesh::{MeshAction, MeshDevice, ObservedMesh, Vxlan};

mod memo;
mod memory;
mod mesh;

/// A route that the kernel makes with the address of a bridge, and that somebody may delete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeRoute {
    /// The bridge.
    pub bridge: String,
    /// Where it leads.
    pub kind: RouteKind,
    /// The host's address on the bridge, with the length of the prefix.
    pub address: IpNet,
}

impl BridgeRoute {
    /// Whether an address has routes that packets of containers go by: every link has that to its own neighbours.
    #[must_use]
    pub fn are_of(address: &IpNet) -> bool {
        match address.addr() {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
    }
}

/// Which of the routes of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Containers are reached by the bridge.
    Subnet,
    /// The address is the host's own.
    Own,
    /// The last address of the subnet is that of everybody on it; not of IPv6.
    Broadcast,
}

impl RouteKind {
    /// All that an address has, the way to it first: the others name it as their source.
    #[must_use]
    pub fn all(family: Family) -> &'static [Self] {
        match family {
            Family::V4 => &[Self::Own, Self::Subnet, Self::Broadcast],
            Family::V6 => &[Self::Own, Self::Subnet],
        }
    }
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
    pub on_no_wire: BTreeSet<IpAddr>,
    /// Bridges of others.
    pub guests: BTreeSet<Guest>,
    /// Routing rules.
    pub fence: Option<ObservedFence>,
    /// Those of IPv6.
    pub fence_v6: Option<ObservedFence>,
    /// The host has no IPv6, or it is switched off.
    pub without_v6: bool,
    /// The packet filter.
    pub tables: Option<Tables>,
    /// Settings by their path below `/proc/sys/net`: those of the host that networks need, those that
    /// are remembered, and those of the agent's bridges.
    pub settings: Option<BTreeMap<String, String>>,
    /// What the host was like before it was changed.
    pub remembered: Option<Remembered>,
    /// Addresses that are routed into the tunnel, with the way to each; `None` if there is no tunnel.
    pub remote: Option<Remotes>,
    /// Interfaces of the tunnel that are there, and up.
    pub tunnels: BTreeSet<Side>,
    /// The device of the mesh.
    pub mesh: Option<ObservedMesh>,
    /// There is a mesh, as far as is known from before: so it stays where it was not looked at.
    pub was_meshed: bool,
    /// The kernel cannot say to whom a packet goes by the mesh, so that there can be none.
    pub without_egress: bool,
    /// Chains of others that judge what is forwarded.
    pub gates: Option<Gates>,
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
    pub remote: OrdSet<IpAddr>,
    /// Those of them to which packets go by the second interface.
    pub second: OrdSet<IpAddr>,
    /// The largest packet for those of them of which the way to their host does not take what the tunnel does.
    pub narrow: Arc<BTreeMap<IpAddr, u32>>,
    /// Addresses of services on such networks.
    pub vips: Vips,
    /// Ports that answer on every node.
    pub ingress: Arc<Ingress>,
    /// The numbers of other nodes.
    pub numbers: Arc<Numbers>,
    /// Such ports that somebody else on this host has.
    pub contested: BTreeSet<Port>,
}

/// In bytes; `None`: what the interface takes.
pub type LargestPacket = Option<u32>;

/// By which interface packets for an address go, and how large they may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Which of the tunnel's interfaces.
    pub by: Side,
    /// The largest packet.
    pub largest: LargestPacket,
}

/// Addresses on other hosts, with the way to each. Clones share what they have in common.
pub type Remotes = OrdMap<IpAddr, Way>;

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
    AddRule(Family, FenceRule),
    /// Remove a routing rule.
    RemoveRule(Family, FenceRule),
    /// Make the tables what the book says.
    PutTables,
    /// Remove the tables: there are no networks.
    DropTables,
    /// Change a link.
    Link(links::Action),
    /// Put back a route of a bridge.
    AddRoute(BridgeRoute),
    /// Lead packets for an address into the tunnel.
    AddRemote(IpAddr, Way),
    /// Lead them there by another interface, or let them be so large at the most. None is lost meanwhile.
    TurnRemote(IpAddr, Way),
    /// Do so no more.
    RemoveRemote(IpAddr, Side),
    /// Change the device of the mesh.
    Mesh(MeshAction),
    /// Change what somebody else lets pass.
    Gate(GateAction),
}

impl Action {
    /// Whether it opens what is closed, or changes what has to be remembered first, so that it must not
    /// follow an action that failed.
    #[must_use]
    pub fn opens(&self) -> bool {
        match self {
            Self::Set { name, value } => {
                let switches = [IP_FORWARD, SRC_VALID_MARK, FORWARD_V6];
                (switches.contains(&name.as_str()) && value == "1") || listens(name, value)
            }
            Self::Link(action) => matches!(
                action,
                links::Action::SetUp { .. }
                    | links::Action::AddAddress { .. }
                    | links::Action::SetBridge { .. }
            ),
            // What lets others pass goes with what keeps them out, not before.
            Self::RemoveRule(..) | Self::DropTables | Self::AddRoute(_) | Self::Forget => true,
            Self::Gate(action) => action.opens(),
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
            Self::AddRule(Family::V4, rule) => write!(f, "add routing rule {rule}"),
            Self::RemoveRule(Family::V4, rule) => write!(f, "remove routing rule {rule}"),
            Self::AddRule(family, rule) => write!(f, "add routing rule of {family} {rule}"),
            Self::RemoveRule(family, rule) => write!(f, "remove routing rule of {family} {rule}"),
            Self::PutTables => f.write_str("replace the nftables tables"),
            Self::DropTables => f.write_str("remove the nftables tables"),
            Self::Link(action) => action.fmt(f),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::AddRemote(address, _) => write!(f, "lead {address} into the tunnel"),
            Self::TurnRemote(address, Way { by, largest }) => {
                let largest = largest.map(|bytes| format!(", {bytes} bytes at the most"));
                let largest = largest.unwrap_or_default();
                write!(f, "send to {address} by interface {}{largest}", *by as u8)
            }
            Self::RemoveRemote(address, _) => write!(f, "lead {address} into the tunnel no more"),
            Self::Mesh(action) => action.fmt(f),
            Self::Gate(action) => action.fmt(f),
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
    /// What containers lack on wires: likewise.
    pub missing_ends: BTreeMap<String, DesiredEnd>,
    /// What the tables have to know of the host.
    pub facts: HostFacts,
    /// Addresses that are led into the tunnel then, where there is one.
    pub remote: Remotes,
}

/// Plans the way from `observed` to what the book says.
#[must_use]
pub fn plan(leases: &Leases, wishes: &Wishes, observed: &Observed) -> Plan {
    plan_again(&mut Memo::default(), 0, leases, wishes, observed)
}

/// The same after another plan, which is remembered; the `edition` of the book is another one whenever the book is not
/// as it was.
#[must_use]
pub fn plan_again(
    memo: &mut Memo,
    edition: u64,
    leases: &Leases,
    wishes: &Wishes,
    observed: &Observed,
) -> Plan {
    let v6 = has_v6(leases, wishes, observed);
    let mesh = mesh::steps(wishes, observed, v6);
    let memory = memory(leases, wishes, observed, (mesh.is_there, v6));
    let for_us = |ask: fn(&Remembered) -> bool| {
        memory.after.as_ref().is_some_and(ask) && !wishes.forwards_for_others
    };
    let forwards_for_us = for_us(Remembered::forwards_for_us);
    let forwards_v6_for_us = for_us(Remembered::forwards_v6_for_us);
    let some = forwards_for_us || forwards_v6_for_us;
    let guests = if some { observed.guests.clone() } else { BTreeSet::new() };
    let facts = HostFacts {
        prefix: wishes.prefix.clone(),
        on_no_wire: observed.on_no_wire.clone(),
        forwards_for_us,
        forwards_v6_for_us,
        v6,
        guests: guests.iter().map(|guest| guest.bridge.clone()).collect(),
        vips: wishes.vips.clone(),
        ingress: Arc::clone(&wishes.ingress),
        numbers: Arc::clone(&wishes.numbers),
        contested: wishes.contested.clone(),
        mesh: mesh.is_there,
    };
    let mut fence = fences(leases, wishes, observed, &facts, &guests);
    let mut links = link_actions(leases, wishes, observed, v6);
    let remote = memo.remote(edition, leases, wishes, v6);
    let to_remote =
        observed.remote.as_ref().map(|present| ways(present, &remote, &observed.tunnels));
    let mesh_is = Device { there: mesh.is_there, new: mesh.is_new, v6 };
    let mut actions = memory.before;
    actions.append(&mut fence.closing);
    actions.extend(mesh.before);
    let wanted = memo.composer.compose(edition, leases, &facts);
    let mut tables = tables_action(&wanted, observed, mesh.is_new);
    actions.extend(tables.take_if(|action| *action == Action::PutTables));
    actions.append(&mut links.actions);
    actions.extend(device_settings(leases, wishes, observed, &links.new_bridges, &mesh_is));
    actions.append(&mut links.up);
    actions.append(&mut links.routes);
    actions.extend(mesh.after);
    actions.extend(to_remote.into_iter().flatten());
    actions.extend(memory.switch_on);
    actions.extend(tables);
    actions.append(&mut fence.opening);
    let needs_gates = mesh.is_there || leases.networks().next().is_some();
    let steps = |gates: &Gates| gates.steps(needs_gates, &observed.guests, &wishes.prefix);
    let gates = observed.gates.iter().flat_map(steps);
    actions.extend(gates.map(Action::Gate));
    let Links { missing_ports, missing_ends, .. } = links;
    Plan { actions, missing_ports, missing_ends, facts, remote }
}

/// Whether there is IPv6 for containers: on a network, or by the mesh to others. Where there is none, nothing is
/// done for it.
fn has_v6(leases: &Leases, wishes: &Wishes, observed: &Observed) -> bool {
    let by_mesh = wishes.ingress.spans() && wishes.ingress.has_v6();
    !observed.without_v6 && (by_mesh || leases.networks().any(NetworkState::has_v6))
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
    let forwarding = |facts: &HostFacts| {
        (facts.forwards_for_us, facts.forwards_v6_for_us, facts.v6, facts.guests.clone())
    };
    let forwards = forwarding(now) != forwarding(before);
    let settings = mesh || now.v6 != before.v6;
    let mut lacks = Look { rules: forwards || mesh, settings, gates: mesh, ..Look::default() };
    for action in plan.actions.iter().filter(|action| action.opens()) {
        match action {
            Action::RemoveRule(..) | Action::DropTables => lacks.links = LookAtLinks::All,
            Action::Forget => {}
            _ => (lacks.rules, lacks.tables) = (true, true),
        }
    }
    Look {
        links: if look.links == LookAtLinks::All { LookAtLinks::default() } else { lacks.links },
        rules: lacks.rules && !look.rules,
        tables: lacks.tables && !look.tables,
        settings: lacks.settings && !look.settings,
        gates: lacks.gates && !look.gates,
        ..Look::default()
    }
}

/// Those that lead nowhere any more first.
fn ways(present: &Remotes, wanted: &Remotes, up: &BTreeSet<Side>) -> Vec<Action> {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for difference in present.diff(wanted) {
        match difference {
            DiffItem::Remove(address, way) => gone.push(Action::RemoveRemote(*address, way.by)),
            DiffItem::Update { new: (address, way), .. } if up.contains(&way.by) => {
                new.push(Action::TurnRemote(*address, *way));
            }
            DiffItem::Add(address, way) if up.contains(&way.by) => {
                new.push(Action::AddRemote(*address, *way));
            }
            // The interface is about to come.
            DiffItem::Update { .. } | DiffItem::Add(..) => {}
        }
    }
    gone.append(&mut new);
    gone
}

#[derive(Default)]
struct Fence {
    closing: Vec<Action>,
    opening: Vec<Action>,
}

/// Those of both families. A family that the kernel does not have was not looked at.
fn fences(
    leases: &Leases,
    wishes: &Wishes,
    observed: &Observed,
    facts: &HostFacts,
    guests: &BTreeSet<Guest>,
) -> Fence {
    let mut both = Fence::default();
    for family in Family::ALL {
        let (seen, forwards_for_us, has) = match family {
            Family::V4 => (&observed.fence, facts.forwards_for_us, true),
            Family::V6 => (&observed.fence_v6, facts.forwards_v6_for_us, facts.v6),
        };
        let Some(ObservedFence { present, has_domains }) = seen else { continue };
        let routing = Routing {
            forwards_for_us,
            has_domains: *has_domains,
            guests: if forwards_for_us { guests.clone() } else { BTreeSet::new() },
            mesh: facts.mesh.then(|| ingress::ifname(&wishes.prefix)),
        };
        let wanted = if has { fence::rules(leases, &routing, family) } else { Vec::new() };
        let (gone, new) = fence::change(present, &wanted);
        both.closing.extend(new.into_iter().map(|rule| Action::AddRule(family, rule)));
        both.opening.extend(gone.into_iter().map(|rule| Action::RemoveRule(family, rule)));
    }
    both
}

/// A device that is `remade` has nothing that judges what leaves by it: before Linux 6.16 that goes with the one
/// before, whatever was seen of the tables.
fn tables_action(wanted: &Ruleset, observed: &Observed, remade: bool) -> Option<Action> {
    let right = match observed.tables.as_ref()? {
        Tables::Absent => wanted.is_empty(),
        Tables::Hold(held) => !remade && held.same_as(wanted),
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
    /// Bridges and VLANs.
    new_bridges: BTreeSet<String>,
    missing_ports: BTreeSet<String>,
    missing_ends: BTreeMap<String, DesiredEnd>,
}

fn link_actions(leases: &Leases, wishes: &Wishes, observed: &Observed, v6: bool) -> Links {
    let Some(ObservedLinks { looked_at, found, routes }) = &observed.links else {
        return Links::default();
    };
    let mut desired = links::Desired::of(leases);
    if !v6 {
        desired = desired.without_v6();
    }
    if let LookAtLinks::Named(names) = looked_at {
        desired = desired.only(names);
    }
    let links::Plan { actions, missing_ports, missing_ends } =
        links::plan(&desired, found, &wishes.prefix);
    // The kernel makes the routes of what comes up or gets its address now.
    let mut fresh = BTreeSet::new();
    let mut all = Links { missing_ports, missing_ends, ..Links::default() };
    for action in actions {
        match &action {
            links::Action::CreateBridge { ifname, .. } => {
                fresh.insert(ifname.clone());
                all.new_bridges.insert(ifname.clone());
            }
            links::Action::CreateVlan { ifname, .. } => {
                all.new_bridges.insert(ifname.clone());
            }
            links::Action::AddAddress { ifname, .. } | links::Action::SetUp { ifname } => {
                fresh.insert(ifname.clone());
            }
            _ => {}
        }
        // An address of IPv6 needs a link on which that is switched on.
        let up = match &action {
            links::Action::SetUp { .. } => true,
            links::Action::AddAddress { address, .. } => address.addr().is_ipv6(),
            _ => false,
        };
        (if up { &mut all.up } else { &mut all.actions }).push(Action::Link(action));
    }
    for (bridge, wanted) in desired.bridges {
        let is_there = found.get(&bridge).is_some_and(|link| link.kind == LinkKind::Bridge);
        if !is_there || fresh.contains(&bridge) {
            continue;
        }
        for address in wanted.addresses.into_iter().filter(BridgeRoute::are_of) {
            for kind in RouteKind::all(Family::of(address.addr())) {
                let route = BridgeRoute { bridge: bridge.clone(), kind: *kind, address };
                if !routes.contains(&route) {
                    all.routes.push(Action::AddRoute(route));
                }
            }
        }
    }
    all
}

/// The mesh's device, as it is then.
struct Device {
    there: bool,
    new: bool,
    /// It has IPv6, as bridges of networks with it do.
    v6: bool,
}

/// Those of what is made now, and those that are not as they should be.
fn device_settings(
    leases: &Leases,
    wishes: &Wishes,
    observed: &Observed,
    new: &BTreeSet<String>,
    mesh: &Device,
) -> Vec<Action> {
    let none = BTreeMap::new();
    let now = observed.settings.as_ref().unwrap_or(&none);
    let bridges = leases.networks().flat_map(|network| {
        let new = new.contains(&network.bridge);
        let settings = of_bridge(&network.bridge, mesh.v6 && network.has_v6());
        settings.into_iter().map(move |(name, value)| (name, value, new))
    });
    // The host itself has nothing to say on a VLAN that is made for containers.
    let vlans = leases.places().filter(|place| place.made.is_some()).map(|place| &place.link);
    let vlans: BTreeSet<&String> = vlans.collect();
    let vlans = vlans.into_iter().flat_map(|link| {
        let new = new.contains(link);
        of_vlan(link).into_iter().map(move |(name, value)| (name, value, new))
    });
    let of_mesh = mesh.there.then(|| of_mesh(&ingress::ifname(&wishes.prefix), mesh.v6));
    let of_mesh = of_mesh.into_iter().flatten().map(|(name, value)| (name, value, mesh.new));
    bridges
        .chain(vlans)
        .chain(of_mesh)
        .filter(|(name, value, new)| *new || now.get(name).is_some_and(|now| now != value))
        .map(|(name, value, _)| Action::Set { name, value: value.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests;
