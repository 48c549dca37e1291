//! Addresses of networks that span nodes, and of nodes inside of their tunnels: which are taken, and which one is
//! next.
//!
//! All of them lie in the objects: subnets in networks, addresses in tasks and nodes, virtual ones in services. A
//! subnet is set aside for nodes for as long as one of them has an address of it.
//! What is here follows from those. No two subnets have an address in common, so one set of taken
//! addresses does for all of them, and an address that is still held keeps its subnet from being given to
//! another network.

mod hosts;
mod runs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::{IpNet, Ipv6Net};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::object::{AddressCount, Network, Node, Service, Task};
use shoal_types::spec::{AddressPool, SubnetPlan};

use self::hosts::Hosts;
use self::runs::Runs;
use crate::cluster_state::ClusterState;

/// What is taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Addresses {
    /// Whose each subnet is, by its first address, with its last one.
    subnets: OrdMap<u128, (u128, NetworkId)>,
    /// Subnets of nodes inside of their tunnels, by their first addresses.
    aside: OrdMap<u128, Aside>,
    /// All addresses of subnets.
    given: Runs,
    /// Addresses that somebody holds, and those that a network gives to nobody.
    held: Runs,
    /// How often more each is held that is held more than once: a service keeps those that it names for its task.
    more: OrdMap<u128, u64>,
    /// How many of those tasks and services have of each subnet of a network, by its first address.
    counts: OrdMap<(NetworkId, u128), u64>,
    /// What hosts use for something else. It is not given where there is something else, and kept from nobody who has it.
    hosts: Hosts,
}

/// A subnet that is set aside for nodes.
#[derive(Debug, Clone, PartialEq)]
struct Aside {
    /// Its last address.
    last: u128,
    subnet: IpNet,
    /// How many nodes have an address of it.
    nodes: u64,
}

/// An address as a number; those of IPv4 have a range of their own.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first and the last address of a subnet.
fn ends(subnet: &IpNet) -> (u128, u128) {
    (number(subnet.network()), number(subnet.broadcast()))
}

/// Of which family an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Those of which a network has subnets, in order.
    pub(crate) fn all_of(subnets: &[IpNet]) -> impl Iterator<Item = Self> {
        let has = |family: &Self| subnets.iter().any(|subnet| Self::of(subnet) == *family);
        [Self::V4, Self::V6].into_iter().filter(has)
    }
}

/// Addresses of a subnet that are given to tasks and services, or to nodes: the first and the last one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    subnet: IpNet,
    first: u128,
    last: u128,
}

impl Range {
    /// What a network gives of one of its subnets. Those between that are reserved are held.
    pub(crate) fn of(plan: &SubnetPlan) -> Self {
        let (first, last) = plan.range;
        Self { subnet: plan.subnet, first: number(first), last: number(last) }
    }

    /// What is given of a subnet of which nothing more is said.
    pub(crate) fn whole(subnet: &IpNet) -> Option<Self> {
        SubnetPlan::of(*subnet, None).as_ref().map(Self::of)
    }

    fn count(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }
}

/// What of a network's addresses nobody gets, nodes aside.
fn never(network: &Network) -> BTreeSet<u128> {
    network.plans().flat_map(|plan| plan.never()).map(number).collect()
}

/// The addresses of a task, each with its network.
pub(crate) fn of_task(task: &Task) -> impl Iterator<Item = (NetworkId, IpNet)> {
    let joined = task.networks.iter();
    joined.flat_map(|joined| joined.addresses.iter().map(|address| (joined.network_id, *address)))
}

/// The virtual addresses of a service, each with its network.
pub(crate) fn of_service(service: &Service) -> impl Iterator<Item = (NetworkId, IpNet)> {
    service.endpoint.virtual_ips.iter().map(|vip| (vip.network_id, vip.addr))
}

/// The addresses that a service names and keeps for its task, each with its network.
pub(crate) fn kept_by(service: &Service) -> impl Iterator<Item = (NetworkId, IpNet)> {
    let joined = service.networks.iter();
    joined.flat_map(|joined| joined.addresses.iter().map(|address| (joined.network_id, *address)))
}

impl Addresses {
    pub(crate) fn network(&mut self, old: Option<&Network>, new: Option<&Network>) {
        if let (Some(old), Some(new)) = (old, new)
            && (&old.subnets, &old.spec.ipam) == (&new.subnets, &new.spec.ipam)
        {
            return;
        }
        for at in old.into_iter().flat_map(never) {
            self.give_back(at);
        }
        for (first, last) in old.into_iter().flat_map(|network| &network.subnets).map(ends) {
            self.subnets.remove(&first);
            self.given.give_back(first, last);
        }
        if let Some(network) = new {
            for (first, last) in network.subnets.iter().map(ends) {
                self.subnets.insert(first, (last, network.id));
                self.given.take(first, last);
            }
            for at in never(network) {
                self.take(at);
            }
        }
    }

    /// A node holds its address, and with it the subnet.
    pub(crate) fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        self.hosts.node(old, new);
        let address = |node: Option<&Node>| node.and_then(|node| node.tunnel_address);
        let (old, new) = (address(old), address(new));
        if old == new {
            return;
        }
        if let Some(address) = old {
            let (first, last) = ends(&address.trunc());
            self.give_back(number(address.addr()));
            if let Some(aside) = self.aside.get_mut(&first) {
                aside.nodes = aside.nodes.saturating_sub(1);
            }
            if self.aside.get(&first).is_some_and(|aside| aside.nodes == 0) {
                self.aside.remove(&first);
                self.given.give_back(first, last);
            }
        }
        if let Some(address) = new {
            let (first, last) = ends(&address.trunc());
            self.take(number(address.addr()));
            self.given.take(first, last);
            let unused = Aside { last, subnet: address.trunc(), nodes: 0 };
            self.aside.entry(first).or_insert(unused).nodes += 1;
        }
    }

    /// A task holds its addresses until it has ended, or is disconnected from their network.
    pub(crate) fn task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let (old, new) = (old.filter(|t| t.is_live()), new.filter(|t| t.is_live()));
        if let (Some(old), Some(new)) = (old, new)
            && Arc::ptr_eq(&old.networks, &new.networks)
        {
            return;
        }
        self.shift(old.into_iter().flat_map(of_task), new.into_iter().flat_map(of_task));
    }

    pub(crate) fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.endpoint.virtual_ips == new.endpoint.virtual_ips
            && (Arc::ptr_eq(&old.networks, &new.networks) || old.networks == new.networks)
        {
            return;
        }
        let all = |service| of_service(service).chain(kept_by(service));
        self.shift(old.into_iter().flat_map(all), new.into_iter().flat_map(all));
    }

    fn shift(
        &mut self,
        old: impl Iterator<Item = (NetworkId, IpNet)>,
        new: impl Iterator<Item = (NetworkId, IpNet)>,
    ) {
        for (network, address) in old {
            let (place, address) = ((network, ends(&address.trunc()).0), number(address.addr()));
            if !self.give_back(address) {
                continue;
            }
            let left = self.counts.get(&place).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                self.counts.remove(&place);
            } else {
                self.counts.insert(place, left);
            }
        }
        for (network, address) in new {
            let (place, address) = ((network, ends(&address.trunc()).0), number(address.addr()));
            if self.take(address) {
                *self.counts.entry(place).or_default() += 1;
            }
        }
    }

    /// Somebody holds an address; whether nobody did.
    fn take(&mut self, at: u128) -> bool {
        let fresh = self.held.take(at, at);
        if !fresh {
            *self.more.entry(at).or_default() += 1;
        }
        fresh
    }

    /// Somebody does not hold an address any more; whether nobody does.
    fn give_back(&mut self, at: u128) -> bool {
        match self.more.get(&at).copied() {
            None => self.held.give_back(at, at),
            Some(1) => drop(self.more.remove(&at)),
            Some(more) => drop(self.more.insert(at, more - 1)),
        }
        self.held.free_from(at) == at
    }

    /// As it is when these are held, too. A copy costs nothing.
    pub(crate) fn with<'a>(&self, addresses: impl Iterator<Item = &'a IpNet>) -> Self {
        let mut all = self.clone();
        for address in addresses {
            all.take(number(address.addr()));
        }
        all
    }

    /// Whether somebody holds an address.
    pub(crate) fn has_holder(&self, address: IpNet) -> bool {
        let at = number(address.addr());
        self.held.free_from(at) != at
    }

    /// Whether more than one hold an address: of one that a service keeps, a task has it.
    pub(crate) fn has_holders(&self, address: IpNet) -> bool {
        self.more.contains_key(&number(address.addr()))
    }

    /// How many addresses of a subnet somebody has that are outside of the range of those that are chosen: somebody
    /// has named them.
    fn named_outside(&self, plan: &SubnetPlan) -> u64 {
        let ((first, last), range) = (ends(&plan.subnet), Range::of(plan));
        let parts = [(first, range.first.saturating_sub(1)), (range.last.saturating_add(1), last)];
        let outside = |at: &u128| parts.iter().any(|(from, to)| (from..=to).contains(&at));
        let held: u128 = parts.map(|(from, to)| self.held.count_within(from, to)).iter().sum();
        let never = plan.never().into_iter().map(number).filter(outside).count();
        let named = held.saturating_sub(u128::try_from(never).unwrap_or(u128::MAX));
        u64::try_from(named).unwrap_or(u64::MAX)
    }

    /// Whether there are networks whose addresses are chosen here.
    pub(crate) fn any(&self) -> bool {
        !self.subnets.is_empty()
    }

    /// An address of these ranges that nobody holds: the first one at or after a place that follows from
    /// `seed`. So one that has just been given back is not given to the next who comes.
    pub(crate) fn free(&self, ranges: &[Range], seed: u128) -> Option<IpNet> {
        let all = ranges.iter().map(Range::count).fold(0, u128::saturating_add);
        let mut place = seed.checked_rem(all)?;
        let begin = ranges.iter().position(|range| {
            let here = place < range.count();
            place -= if here { 0 } else { range.count() };
            here
        })?;
        // From there on, all the others, and what of the first one was left out.
        let around = ranges.iter().cycle().skip(begin).take(ranges.len() + 1).enumerate();
        around.into_iter().find_map(|(turn, Range { subnet, first, last })| {
            let from = if turn == 0 { first + place } else { *first };
            let found = self.held.free_from(from);
            (found <= *last).then(|| with_length(subnet, found)).flatten()
        })
    }

    /// An address for a node inside of its tunnels: of a subnet that is set aside for them, or else of one that
    /// will be.
    pub(crate) fn free_for_node(&self, pools: &[AddressPool], seed: u128) -> Option<IpNet> {
        let aside = self.aside.values().filter_map(|aside| Range::whole(&aside.subnet));
        let aside: Vec<_> = aside.collect();
        let fresh = || Range::whole(&self.free_subnet(pools)?);
        self.free(&aside, seed).or_else(|| self.free(&[fresh()?], seed))
    }

    /// The first subnet of the pools of which nobody has an address and that no host uses, if there is one; else the
    /// first one that some hosts use.
    pub(crate) fn free_subnet(&self, pools: &[AddressPool]) -> Option<IpNet> {
        let parts = || pools.iter().map(|pool| (IpNet::from(pool.base), pool.size));
        self.free_of(&self.hosts, parts()).or_else(|| self.free_of(&Hosts::default(), parts()))
    }

    /// The same of the subnets with 2^64 addresses of a cluster's own range.
    pub(crate) fn free_subnet_6(&self, range: Ipv6Net) -> Option<IpNet> {
        let parts = || std::iter::once((IpNet::from(range), 64));
        self.free_of(&self.hosts, parts()).or_else(|| self.free_of(&Hosts::default(), parts()))
    }

    /// The first of the parts with prefixes of such a length, into which ranges are cut, of which nobody has an address
    /// and that none of these hosts uses.
    fn free_of(
        &self,
        hosts: &Hosts,
        mut ranges: impl Iterator<Item = (IpNet, u8)>,
    ) -> Option<IpNet> {
        ranges.find_map(|(range, length)| {
            let count = 1u128.checked_shl(range.max_prefix_len().checked_sub(length)?.into())?;
            let (mut at, end) = ends(&range);
            loop {
                let last = at.checked_add(count - 1).filter(|last| *last <= end)?;
                let part = IpNet::new(address(&range, at)?, length).ok()?;
                let given = self.given.taken_within(at, last);
                let held = self.held.taken_within(at, last);
                let Some(taken) = given.max(held).max(hosts.taken_within(&part)) else {
                    return Some(part);
                };
                at = taken.checked_add(1)?.checked_next_multiple_of(count)?;
            }
        })
    }

    /// A host that uses addresses of this subnet for something else, and how many others do.
    pub(crate) fn host_user(&self, subnet: &IpNet) -> Option<(NodeId, usize)> {
        self.hosts.users(subnet).map(|(first, count)| (first, count - 1))
    }

    /// A network that has addresses of this subnet, with its own subnet.
    pub(crate) fn holder(&self, subnet: &IpNet) -> Option<NetworkId> {
        let (first, last) = ends(subnet);
        let (_, (end, holder)) = self.subnets.get_prev(&last)?;
        (*end >= first).then_some(*holder)
    }

    /// A subnet that is set aside for nodes and has addresses of this one.
    pub(crate) fn aside(&self, subnet: &IpNet) -> Option<IpNet> {
        let (first, last) = ends(subnet);
        let (_, aside) = self.aside.get_prev(&last)?;
        (aside.last >= first).then_some(aside.subnet)
    }

    /// Whether somebody holds an address of this subnet.
    pub(crate) fn is_held(&self, subnet: &IpNet) -> bool {
        let (first, last) = ends(subnet);
        self.held.taken_within(first, last).is_some()
    }
}

fn ipv4(number: u128) -> Option<Ipv4Addr> {
    Ipv6Addr::from_bits(number).to_ipv4_mapped()
}

/// An address of a subnet's family.
fn address(subnet: &IpNet, number: u128) -> Option<IpAddr> {
    match subnet {
        IpNet::V4(_) => ipv4(number).map(IpAddr::V4),
        IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::from_bits(number))),
    }
}

/// An address of a subnet, with the length of its prefix.
fn with_length(subnet: &IpNet, number: u128) -> Option<IpNet> {
    IpNet::new(address(subnet, number)?, subnet.prefix_len()).ok()
}

/// Whether an address is one that is given to tasks and services of a network.
pub(crate) fn is_given(network: &Network, address: IpNet) -> bool {
    plan_of(network, address).is_some_and(|plan| plan.gives(address.addr()))
}

/// Whether an address is one that a service may name on a network.
pub(crate) fn may_name(network: &Network, address: IpNet) -> bool {
    plan_of(network, address).is_some_and(|plan| plan.may_name(address.addr()))
}

fn plan_of(network: &Network, address: IpNet) -> Option<SubnetPlan> {
    network.plan(network.subnets.iter().find(|subnet| **subnet == address.trunc())?)
}

/// Pairs of networks that have addresses in common, and of tasks, services and nodes that have the same one. By a
/// look at all objects, not at what follows from them.
pub(crate) fn clashes(state: &ClusterState) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut subnets: Vec<_> = state
        .networks()
        .flat_map(|network| {
            network.subnets.iter().map(|s| (ends(s), format!("network {}", network.id)))
        })
        .collect();
    let aside: BTreeSet<_> = of_nodes(state).map(|(_, address)| ends(&address.trunc())).collect();
    subnets.extend(aside.into_iter().map(|ends| (ends, "the nodes".to_owned())));
    subnets.sort();
    for pair in subnets.windows(2) {
        if let [((_, last), one), ((first, _), other)] = pair
            && last >= first
        {
            wrong.push((one.clone(), other.clone()));
        }
    }
    let mut held: BTreeMap<IpAddr, Vec<Holder>> = BTreeMap::new();
    for (address, holder) in holders(state) {
        let others = held.entry(address).or_default();
        if let Some(other) = others.iter().find(|other| !holder.shares_with(**other)) {
            wrong.push((other.to_string(), holder.to_string()));
        }
        others.push(holder);
    }
    wrong
}

/// Who holds each address, by a look at all objects.
fn holders(state: &ClusterState) -> impl Iterator<Item = (IpAddr, Holder)> {
    let tasks = state.tasks().filter(|task| task.is_live());
    let tasks = tasks.flat_map(|task| {
        let holder = Holder::Task(task.id, task.service_id);
        of_task(task).map(move |(_, address)| (address.addr(), holder))
    });
    let services = state.services().flat_map(|s| {
        let vips = of_service(s).map(|(_, address)| (address.addr(), Holder::Service(s.id)));
        vips.chain(kept_by(s).map(|(_, address)| (address.addr(), Holder::Keeper(s.id))))
    });
    let nodes = of_nodes(state).map(|(id, address)| (address.addr(), Holder::Node(id)));
    tasks.chain(services).chain(nodes)
}

fn of_nodes(state: &ClusterState) -> impl Iterator<Item = (NodeId, IpNet)> {
    state.nodes().filter_map(|node| Some((node.id, node.tunnel_address?)))
}

#[derive(Clone, Copy)]
enum Holder {
    Node(NodeId),
    Task(TaskId, ServiceId),
    /// By a virtual address.
    Service(ServiceId),
    /// By an address that it names for its task.
    Keeper(ServiceId),
}

impl Holder {
    /// Whether both may hold one address: a task that of its service.
    fn shares_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Keeper(keeper), Self::Task(_, of))
            | (Self::Task(_, of), Self::Keeper(keeper)) => keeper == of,
            _ => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::Task(id, _) => write!(f, "task {id}"),
            Self::Service(id) | Self::Keeper(id) => write!(f, "service {id}"),
        }
    }
}

impl ClusterState {
    /// How many addresses of a network are in use; `None` if managers do not choose them.
    #[must_use]
    pub fn addresses(&self, network: &Network) -> Option<AddressCount> {
        self.scarcest(network, &[])
    }

    /// How many addresses there are for the next task of a service on a network; `None` if managers do not choose
    /// them, or the service keeps one of each family for it.
    #[must_use]
    pub fn addresses_for(&self, service: &Service, network: &Network) -> Option<AddressCount> {
        let joined = service.networks.iter().find(|joined| joined.network_id == network.id);
        self.scarcest(network, joined.map_or(&[], |joined| &joined.addresses))
    }

    /// Of the families of a network, beside those of these addresses, the one of which fewest addresses are left.
    fn scarcest(&self, network: &Network, kept: &[IpNet]) -> Option<AddressCount> {
        let of_family = |family| {
            let plans = network.plans().filter(|plan| Family::of(&plan.subnet) == family);
            let each = plans.map(|plan| self.addresses_of(network.id, &plan));
            each.fold(AddressCount::default(), |sum, one| AddressCount {
                used: sum.used.saturating_add(one.used),
                free: sum.free.saturating_add(one.free),
            })
        };
        let chosen = |family: &Family| kept.iter().all(|kept| Family::of(kept) != *family);
        let families = Family::all_of(&network.subnets).filter(chosen);
        families.map(of_family).min_by_key(|count| count.free)
    }

    /// A network on which a task still has an address that this service keeps for the next one.
    #[must_use]
    pub fn waits_for_address(&self, service: &Service) -> Option<NetworkId> {
        let mut kept = kept_by(service);
        kept.find(|(_, address)| self.indexes.addresses.has_holders(*address)).map(|(id, _)| id)
    }

    /// Who has an address, in words; beside a service and its tasks, if one is named.
    pub(crate) fn other_holder(
        &self,
        service: Option<ServiceId>,
        address: IpNet,
    ) -> Option<String> {
        if !self.indexes.addresses.has_holder(address) {
            return None;
        }
        let others = |holder: &Holder| match holder {
            Holder::Keeper(id) | Holder::Task(_, id) => Some(*id) != service,
            Holder::Service(_) | Holder::Node(_) => true,
        };
        let mut found = holders(self).filter(|(at, _)| *at == address.addr());
        let name = |id| self.service(id).map_or_else(String::new, |s| s.spec.name.clone());
        found.find(|(_, holder)| others(holder)).map(|(_, holder)| match holder {
            Holder::Service(id) => format!("it is the virtual address of service {:?}", name(id)),
            Holder::Keeper(id) => format!("service {:?} keeps it for its task", name(id)),
            Holder::Task(id, _) => {
                let task = self.task(id).map_or_else(|| id.to_string(), |t| t.name());
                format!("task {task} has it until it has ended")
            }
            Holder::Node(_) => format!("{holder} has it"),
        })
    }

    /// How many addresses of one of a network's subnets are in use.
    #[must_use]
    pub fn addresses_of(&self, id: NetworkId, plan: &SubnetPlan) -> AddressCount {
        let place = (id, number(plan.subnet.network()));
        let used = self.indexes.addresses.counts.get(&place).copied().unwrap_or_default();
        let all = u64::try_from(plan.count()).unwrap_or(u64::MAX);
        let within = used.saturating_sub(self.indexes.addresses.named_outside(plan));
        AddressCount { used, free: all.saturating_sub(within) }
    }
}
