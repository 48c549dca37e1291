//! The node's nftables tables: one that judges packets, one that judges the frames of bridges.
//!
//! The chains hardly ever change; everything that does is an element of a set or a map. So the desired
//! table is a value, its difference to what the kernel holds is a list of elements, a change
//! costs what it touches however much is published, and drift is told by comparing two values.
//!
//! What the chains promise:
//! - A published port leads to its container from every address of the host, or from the one
//!   named: for packets that arrive, for the host itself (also by 127.0.0.1) and for containers.
//!   The client's source address is kept, except where the reply would not come back: a container
//!   that reaches a sibling on its own bridge by the host's address, and the host's loopback.
//! - Packets of a bridge leave with the host's address.
//! - Bridges do not reach each other, except through published ports. What is not published is
//!   not reachable from outside, even by somebody who has a route to the subnet.
//! - What is published on one address answers on the wire that has this address, and to containers.
//!   Addresses of the loopback are the host's own affair; an address that the host has on no wire
//!   answers on each.
//! - An internal network reaches nothing but itself and its gateway address.
//! - A container speaks for no address or hardware address of another container or of the gateway, nor as a
//!   DHCP server. Addresses of IPv4 that the node has given to nobody are free: what lies behind a container is
//!   the user's affair. Of IPv6 it speaks for its own alone, and not at all where its network has none.
//! - All this holds of both families, where a network has IPv6; else there is nothing of it here.
//! - Between hosts goes what one container of a network says to another one of it, and nothing else;
//!   there a container speaks for its own addresses alone. What comes by the tunnel reaches no service of
//!   the host; echoes of ICMP between the nodes' own addresses there are answered. Where it came from was checked by the tunnel: each host speaks for its own containers.
//! - A port that answers on every node leads from each address of the host to one of all its backends, and
//!   the client's address is kept also where that one is on another host. Sources that mean something on
//!   this host alone, and those of other nodes, become the host's in the tunnel. By the mesh come new
//!   connections to such ports, for the address in the tunnel, and answers to what went that way, from whom
//!   it went to; nothing else. Its outer packets are taken from the tunnel alone.
//! - A host that forwards only because of containers forwards nothing else, but for bridges of
//!   others that are on it.
//! - Another firewall on the host that drops forwarded packets is not overruled: nftables has no
//!   accept that binds a later chain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Value, json};

pub use self::balance::Vips;
use self::chains::{frame_chains, packet_chains, sets};
use self::mesh::egress_chains;
pub use self::mesh::kernel_probe;
pub use self::sets::SetName;
use super::ingress::{self, Ingress, Numbers, Port};
use super::leases::Leases;
use super::{Attached, Family, Mac, NetworkState, Subnet};
use crate::tunnel;

pub mod balance;
mod chains;
mod compare;
mod mesh;
mod sets;

/// Family of the table of packets, of both families of addresses.
pub const FAMILY: &str = "inet";
/// Family of the table of frames.
pub const FRAMES: &str = "bridge";
/// Family of the table of what leaves by one device.
pub const EGRESS: &str = "netdev";

/// What the tables have to know of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Prefix of the interface names of this agent.
    pub prefix: String,
    /// Addresses that it has on no wire.
    pub on_no_wire: BTreeSet<IpAddr>,
    /// It forwards packets only because the agent switched that on.
    pub forwards_for_us: bool,
    /// Those of IPv6 likewise.
    pub forwards_v6_for_us: bool,
    /// There is IPv6 on its networks, or somebody on another node is reached by it.
    pub v6: bool,
    /// Bridges of others that it forwards for nevertheless.
    pub guests: BTreeSet<String>,
    /// Addresses of services on networks that span hosts.
    pub vips: Arc<Vips>,
    /// Ports that answer on every node.
    pub ingress: Arc<Ingress>,
    /// The numbers of other nodes.
    pub numbers: Arc<Numbers>,
    /// Such ports that somebody else on this host has, so that it does not lead them.
    pub contested: BTreeSet<Port>,
    /// The device of the mesh is there, or about to be.
    pub mesh: bool,
}

/// One word of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Name(String),
    Bare(String),
    Prefix(IpAddr, u8),
    /// An address as a number, which nft shows of what it has no name for.
    Raw(Ipv6Addr),
    Number(u16),
    Mark(u32),
    Goto(String),
}

impl Word {
    fn text(&self) -> String {
        match self {
            // Quoted, so that an interface name is never read as a keyword.
            Self::Name(name) => format!("\"{name}\""),
            Self::Bare(word) => word.clone(),
            Self::Prefix(address, len) => format!("{address}/{len}"),
            Self::Raw(address) => format!("{:#x}", address.to_bits()),
            Self::Number(number) => number.to_string(),
            Self::Mark(mark) => format!("{mark:#x}"),
            Self::Goto(chain) => format!("goto {chain}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Name(word) | Self::Bare(word) => json!(word),
            Self::Prefix(address, len) => {
                json!({ "prefix": { "addr": address.to_string(), "len": len } })
            }
            Self::Raw(_) => json!(self.text()),
            Self::Number(number) => json!(number),
            Self::Mark(mark) => json!(mark),
            Self::Goto(chain) => json!({ "goto": { "target": chain } }),
        }
    }
}

/// One element: a key, and in a map what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    key: Vec<Word>,
    value: Vec<Word>,
}

impl Element {
    fn text(&self) -> String {
        let join = |words: &[Word]| words.iter().map(Word::text).collect::<Vec<_>>().join(" . ");
        if self.value.is_empty() {
            join(&self.key)
        } else {
            format!("{} : {}", join(&self.key), join(&self.value))
        }
    }

    fn key_text(&self) -> String {
        Self { key: self.key.clone(), value: Vec::new() }.text()
    }

    /// The shape in which `nft -j list table` shows it (libnftables-json(5)).
    fn json(&self) -> Value {
        let join = |words: &[Word]| match words {
            [word] => word.json(),
            words => json!({ "concat": words.iter().map(Word::json).collect::<Vec<_>>() }),
        };
        if self.value.is_empty() {
            join(&self.key)
        } else {
            json!([join(&self.key), join(&self.value)])
        }
    }
}

/// What decides on the chains that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shape {
    /// Packets that come from no bridge and go to none are not forwarded.
    closed: bool,
    /// Those of IPv6 likewise.
    closed_v6: bool,
    /// Backends are drawn: there are networks that span hosts, or ports that answer on every node.
    draws: bool,
    /// There is a mesh.
    mesh: bool,
    /// There is IPv6.
    v6: bool,
}

/// The whole desired tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    elements: BTreeMap<(SetName, Family), BTreeSet<Element>>,
    prefix: String,
    shape: Shape,
    /// The kernel cannot judge the frames of bridges.
    without_frames: bool,
    /// There is no table of what leaves by the mesh: its device is away, or the kernel has no such tables.
    without_egress: bool,
}

impl Ruleset {
    /// Derives the tables from the book.
    #[must_use]
    pub fn of(leases: &Leases, host: &HostFacts) -> Self {
        let routed: Vec<_> = leases.networks().filter(|network| network.routed).collect();
        let shape = Shape {
            closed: host.forwards_for_us,
            closed_v6: host.v6 && host.forwards_v6_for_us,
            draws: !routed.is_empty() || !host.ingress.ports.is_empty(),
            mesh: host.mesh,
            v6: host.v6,
        };
        let mut ruleset = Self { prefix: host.prefix.clone(), shape, ..Self::default() };
        ruleset.add_networks(leases);
        ruleset.add_ports(leases);
        ruleset.add_holders(leases);
        ruleset.add_ingress(leases, host);
        ruleset.add_vips(&host.vips, |vip| {
            let network = routed.iter().find(|network| network.subnet_of(vip).is_some())?;
            Some(network.bridge.clone())
        });
        if !ruleset.is_empty() {
            for address in &host.on_no_wire {
                let (family, word) = (Family::of(*address), Word::Bare(address.to_string()));
                ruleset.add_of(family, SetName::Anywhere, vec![word], vec![]);
            }
            let for_us = host.forwards_for_us || shape.closed_v6;
            for guest in host.guests.iter().filter(|_| for_us) {
                ruleset.add(SetName::Guests, vec![Word::Name(guest.clone())], vec![]);
            }
        }
        ruleset
    }

    /// The same without the table of frames.
    #[must_use]
    pub fn without_frames(mut self) -> Self {
        self.elements.retain(|(set, _), _| set.family() != FRAMES);
        self.without_frames = true;
        self
    }

    /// The same without the table of what leaves by the mesh, until there is its device: nothing does.
    #[must_use]
    pub fn without_egress(mut self) -> Self {
        self.elements.retain(|(set, _), _| set.family() != EGRESS);
        self.without_egress = true;
        self
    }

    /// Whether these tables, which the packet filter holds, are the wanted ones, as far as the kernel
    /// can have them.
    #[must_use]
    pub fn same_as(&self, wanted: &Self) -> bool {
        if !self.without_frames && !self.without_egress {
            return self == wanted;
        }
        let wanted = wanted.clone();
        let wanted = if self.without_frames { wanted.without_frames() } else { wanted };
        *self == if self.without_egress { wanted.without_egress() } else { wanted }
    }

    fn families(&self) -> Vec<&'static str> {
        let mut families = vec![FAMILY];
        families.extend((!self.without_frames).then_some(FRAMES));
        families.extend((!self.without_egress).then_some(EGRESS));
        families
    }

    fn add_networks(&mut self, leases: &Leases) {
        for network in leases.networks() {
            let bridge = || Word::Name(network.bridge.clone());
            self.add(SetName::Bridges, vec![bridge()], vec![]);
            self.add(SetName::SameBridge, vec![bridge(), bridge()], vec![]);
            if network.routed {
                let tunnel = Word::Name(tunnel::ifname(&self.prefix));
                self.add(SetName::Tunnels, vec![tunnel], vec![]);
            }
            if network.internal {
                self.add(SetName::Internal, vec![bridge()], vec![]);
            }
            for one in &network.subnets {
                self.add_subnet(network, one);
            }
        }
    }

    fn add_subnet(&mut self, network: &NetworkState, one: &Subnet) {
        let family = one.family();
        let word = |net: &Subnet| Word::Prefix(net.subnet.network(), net.subnet.prefix_len());
        let bridge = || Word::Name(network.bridge.clone());
        self.add_of(family, SetName::Lan, vec![word(one), bridge()], vec![]);
        self.add_of(family, SetName::Inside, vec![word(one)], vec![]);
        if let IpAddr::V4(gateway) = one.gateway {
            self.hold(gateway, network.mac());
        }
        if network.routed {
            for other in network.of_family(family) {
                self.add_of(family, SetName::Across, vec![word(one), word(other)], vec![]);
            }
        }
        if network.internal {
            let gateway = Word::Bare(one.gateway.to_string());
            self.add_of(family, SetName::Gateways, vec![bridge(), gateway], vec![]);
        } else {
            self.add_of(family, SetName::Subnets, vec![word(one)], vec![]);
        }
    }

    fn add_ports(&mut self, leases: &Leases) {
        for family in Family::ALL {
            for (_, port, target) in leases.published_to(family) {
                let Some(target) = target else { continue };
                let to = vec![Word::Bare(target.to_string()), Word::Number(port.target_port)];
                let service =
                    [Word::Bare(port.protocol.as_str().to_owned()), Word::Number(port.host_port)];
                let unspecified = on_all(family);
                if port.answers_at(unspecified) {
                    self.add_of(family, SetName::PublishedAny, service.to_vec(), to);
                } else if Family::of(port.host_ip) == family {
                    let at = Word::Bare(port.host_ip.to_string());
                    let at = [vec![at], service.to_vec()].concat();
                    self.add_of(family, SetName::PublishedAt, at, to);
                }
            }
        }
    }

    /// Each container may use each of its addresses on each of its ports: which way a packet
    /// leaves is its routes' affair.
    fn add_holders(&mut self, leases: &Leases) {
        let mut containers: BTreeMap<&str, Vec<&Attached>> = BTreeMap::new();
        for attached in leases.ports() {
            containers.entry(&attached.container).or_default().push(attached);
        }
        for attachments in containers.values() {
            for attached in attachments {
                self.hold(attached.address.addr(), attached.mac);
                let port = Word::Name(attached.host_ifname.clone());
                let who = vec![port, Word::Bare(attached.mac.to_string())];
                for end in attachments.iter().flat_map(|other| other.ends()) {
                    self.own(&who, end.address.addr());
                }
                if attached.v6.is_some() {
                    self.own(&who, attached.mac.link_local().into());
                }
                self.add(SetName::OwnMacs, who, vec![]);
                for end in attached.ends().filter(|end| !end.behind_gateway.is_empty()) {
                    let port = Word::Name(attached.host_ifname.clone());
                    self.add(SetName::Strict, vec![port], vec![]);
                    let own = || Word::Bare(end.address.addr().to_string());
                    let family = Family::of(end.gateway);
                    self.add_of(family, SetName::Selves, vec![own(), own()], vec![]);
                }
            }
        }
    }

    /// It is said by who speaks so by a bridge port.
    fn own(&mut self, who: &[Word], address: IpAddr) {
        let key = [who, &[Word::Bare(address.to_string())]].concat();
        self.add_of(Family::of(address), SetName::Own, key, vec![]);
        if let IpAddr::V6(address) = address
            && self.shape.v6
        {
            self.add(SetName::Targets, [who, &[Word::Raw(address)]].concat(), vec![]);
        }
    }

    fn hold(&mut self, address: Ipv4Addr, mac: Mac) {
        self.add(SetName::HeldAddresses, vec![Word::Bare(address.to_string())], vec![]);
        self.add(SetName::HeldMacs, vec![Word::Bare(mac.to_string())], vec![]);
    }

    /// Whether no network needs a table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn add(&mut self, set: SetName, key: Vec<Word>, value: Vec<Word>) {
        self.add_of(Family::V4, set, key, value);
    }

    /// To the set of this family; there are none of IPv6 where there is none.
    fn add_of(&mut self, family: Family, set: SetName, key: Vec<Word>, value: Vec<Word>) {
        if family == Family::V4 || self.shape.v6 {
            self.elements.entry((set, family)).or_default().insert(Element { key, value });
        }
    }

    fn of_set(&self, set: SetName, family: Family) -> impl Iterator<Item = &Element> {
        self.elements.get(&(set, family)).into_iter().flatten()
    }

    /// Whether the tables have the same chains: [`change_text`](Self::change_text) leads from one
    /// to the other.
    #[must_use]
    pub fn same_chains(&self, other: &Self) -> bool {
        let chains = |of: &Self| {
            let without = (of.without_frames, of.without_egress);
            (of.is_empty(), without, of.shape)
        };
        chains(self) == chains(other) && self.prefix == other.prefix
    }

    /// Text for `nft -f` that puts these tables in the place of whatever is there, in one
    /// transaction. No networks need no tables.
    #[must_use]
    pub fn replace_text(&self, table: &str) -> String {
        let mut text = String::new();
        for family in self.families() {
            // The first line makes the second valid where there is no table yet.
            // Writing to a String cannot fail.
            let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
        }
        if self.is_empty() {
            return text;
        }
        for family in self.families() {
            if family == EGRESS && !self.shape.mesh {
                continue;
            }
            let _ = writeln!(text, "table {family} {table} {{");
            for (set, _, declaration) in sets(self.shape.v6) {
                if set.family() == family {
                    let _ = writeln!(text, "  {declaration}");
                }
            }
            text.push_str(&match family {
                FRAMES => frame_chains(&self.prefix, self.shape.v6),
                EGRESS => egress_chains(&ingress::ifname(&self.prefix)),
                _ => packet_chains(&self.shape),
            });
            text.push_str("}\n");
        }
        for (set, family, _) in sets(self.shape.v6) {
            let elements = self.of_set(set, family).map(Element::text);
            write_elements(&mut text, "add", table, (set, family), elements);
        }
        text
    }

    /// Text for `nft -f` that turns the tables `from` into these, whose chains are the same; `None`
    /// when nothing differs.
    #[must_use]
    pub fn change_text(&self, from: &Self, table: &str) -> Option<String> {
        let mut text = String::new();
        let all = || sets(self.shape.v6).map(|(set, family, _)| (set, family));
        for of in all() {
            let gone = from.of_set(of.0, of.1).filter(|element| !self.has(of, element));
            write_elements(&mut text, "delete", table, of, gone.map(Element::key_text));
        }
        for of in all() {
            let new = self.of_set(of.0, of.1).filter(|element| !from.has(of, element));
            write_elements(&mut text, "add", table, of, new.map(Element::text));
        }
        (!text.is_empty()).then_some(text)
    }

    fn has(&self, of: (SetName, Family), element: &Element) -> bool {
        self.elements.get(&of).is_some_and(|elements| elements.contains(element))
    }

    /// Whether the kernel's tables, as `nft -j list table` shows them, hold exactly these elements.
    #[must_use]
    pub fn matches(&self, listed: &Value) -> bool {
        let families = self.families();
        let there = |set: &SetName| {
            families.contains(&set.family()) && (self.shape.mesh || set.family() != EGRESS)
        };
        let mut sets = sets(self.shape.v6).filter(|(set, _, _)| there(set));
        sets.all(|(set, family, _)| {
            let found = listed_elements(listed, &set.name(family));
            let wanted: BTreeSet<String> =
                self.of_set(set, family).map(|element| element.json().to_string()).collect();
            found.is_some_and(|found| found == wanted)
        })
    }
}

/// All addresses of one family.
fn on_all(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Everything of a listed table that is neither an element nor a kernel's handle: the
/// declarations and the rules. Two tables made from the same text by the same kernel have the
/// same frame.
#[must_use]
pub fn frame(listed: &Value) -> Vec<Value> {
    let mut objects: Vec<Value> = listed["nftables"].as_array().cloned().unwrap_or_default();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        for body in object.as_object_mut().into_iter().flat_map(|object| object.values_mut()) {
            if let Some(body) = body.as_object_mut() {
                body.remove("handle");
                body.remove("elem");
            }
        }
    }
    objects
}

fn listed_elements(listed: &Value, set: &str) -> Option<BTreeSet<String>> {
    let found = listed["nftables"].as_array()?.iter().find_map(|object| {
        let body = object.get("set").or_else(|| object.get("map"))?;
        (body["name"] == set).then_some(body)
    })?;
    let elements = found["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(elements.iter().map(ToString::to_string).collect())
}

fn write_elements(
    text: &mut String,
    verb: &str,
    table: &str,
    (set, family): (SetName, Family),
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        let (family, set, elements) = (set.family(), set.name(family), elements.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verb} element {family} {table} {set} {{ {elements} }}");
    }
}

#[cfg(test)]
mod tests;
