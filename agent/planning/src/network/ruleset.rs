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
//! - A container neither speaks IPv6, which its network does not have, nor for the address or
//!   hardware address of another container or of the gateway, nor as a DHCP server. Addresses that
//!   the node has given to nobody are free: what lies behind a container is the user's affair.
//! - Between hosts goes what one container of a network says to another one of it, and nothing else;
//!   there a container speaks for its own addresses alone. What comes by the tunnel reaches no service of
//!   the host. Where it came from was checked by the tunnel: each host speaks for its own containers.
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
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

pub use self::balance::Vips;
use self::chains::{SETS, frame_chains, packet_chains};
use self::mesh::egress_chains;
pub use self::mesh::kernel_probe;
use super::ingress::{self, Ingress, Numbers, Port};
use super::leases::Leases;
use super::{Attached, Mac};
use crate::tunnel;

pub mod balance;
mod chains;
mod mesh;

/// Family of the table of packets. `inet`, so that IPv6 can join it.
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
    pub on_no_wire: BTreeSet<Ipv4Addr>,
    /// It forwards packets only because the agent switched that on.
    pub forwards_for_us: bool,
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

/// The sets and maps of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetName {
    /// Every bridge of this agent.
    Bridges,
    /// The bridges of internal networks.
    Internal,
    /// Each bridge beside itself: packets that stay on their bridge.
    SameBridge,
    /// Subnets whose packets leave with the host's address.
    Subnets,
    /// Every subnet, also those of internal networks.
    Inside,
    /// Each subnet beside its bridge.
    Lan,
    /// Each internal bridge beside the host's address on it.
    Gateways,
    /// Addresses of the host that are on no wire.
    Anywhere,
    /// Bridges of others that the host forwards for.
    Guests,
    /// Ports published on one address of the host.
    PublishedAt,
    /// Ports published on every address of the host.
    PublishedAny,
    /// Addresses that the node has given to containers, and its own on bridges.
    HeldAddresses,
    /// Hardware addresses likewise.
    HeldMacs,
    /// The tunnel to other hosts.
    Tunnels,
    /// Each subnet of a network that spans hosts, beside itself: what may pass between hosts.
    Across,
    /// Addresses of services, and how one of their backends is drawn.
    Vips,
    /// Slots of such an address, and whose each is.
    Backends,
    /// Such addresses without a backend.
    Idle,
    /// Containers that may be drawn by themselves.
    Selves,
    /// The device by which others hear of connections to published ports.
    Mesh,
    /// The host's own address in the tunnel.
    Home,
    /// Those of other nodes.
    Far,
    /// The mark of what goes to each of them.
    FarMarks,
    /// Each of them beside the mark of what has come from it.
    Speakers,
    /// Other addresses of these nodes.
    Nodes,
    /// Ports that answer on every node, and how a backend of each is drawn.
    Ingress,
    /// Slots of such a port, and whose each is.
    IngressSlots,
    /// Such ports with backends on this host.
    Arrivals,
    /// Slots of these.
    ArrivalSlots,
    /// Such ports with backends on other hosts.
    Led,
    /// Such ports without a backend.
    IdlePorts,
    /// Hardware addresses on the mesh, by the mark of what goes there.
    FarMacs,
    /// Bridge ports on which nobody says anything but what is their own.
    Strict,
    /// What a container says of itself: bridge port, hardware address, address.
    Own,
    /// The first two of these.
    OwnMacs,
}

impl SetName {
    /// Name in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::Internal => "internal",
            Self::SameBridge => "same_bridge",
            Self::Subnets => "subnets",
            Self::Inside => "inside",
            Self::Lan => "lan",
            Self::Gateways => "gateways",
            Self::Anywhere => "anywhere",
            Self::Guests => "guests",
            Self::PublishedAt => "published_at",
            Self::PublishedAny => "published_any",
            Self::HeldAddresses => "held_addresses",
            Self::HeldMacs => "held_macs",
            Self::Tunnels => "tunnels",
            Self::Across => "across",
            Self::Vips => "vips",
            Self::Backends => "backends",
            Self::Idle => "idle",
            Self::Selves => "selves",
            Self::Mesh => "mesh",
            Self::Home => "home",
            Self::Far => "far",
            Self::FarMarks => "far_marks",
            Self::Speakers => "speakers",
            Self::Nodes => "nodes",
            Self::Ingress => "ingress",
            Self::IngressSlots => "ingress_slots",
            Self::Arrivals => "arrivals",
            Self::ArrivalSlots => "arrival_slots",
            Self::Led => "led",
            Self::IdlePorts => "idle_ports",
            Self::FarMacs => "far_macs",
            Self::Strict => "strict",
            Self::Own => "own",
            Self::OwnMacs => "own_macs",
        }
    }

    fn family(self) -> &'static str {
        match self {
            Self::HeldAddresses | Self::HeldMacs | Self::Strict | Self::Own | Self::OwnMacs => {
                FRAMES
            }
            Self::FarMacs => EGRESS,
            _ => FAMILY,
        }
    }
}

/// One word of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Name(String),
    Bare(String),
    Prefix(Ipv4Addr, u8),
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

/// The whole desired tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    elements: BTreeMap<SetName, BTreeSet<Element>>,
    prefix: String,
    /// Packets that come from no bridge and go to none are not forwarded.
    closed: bool,
    /// The kernel cannot judge the frames of bridges.
    without_frames: bool,
    /// There is no table of what leaves by the mesh: its device is away, or the kernel has no such tables.
    without_egress: bool,
    /// Backends are drawn: there are networks that span hosts, or ports that answer on every node.
    draws: bool,
    /// There is a mesh.
    mesh: bool,
}

impl Ruleset {
    /// Derives the tables from the book.
    #[must_use]
    pub fn of(leases: &Leases, host: &HostFacts) -> Self {
        let (prefix, closed) = (host.prefix.clone(), host.forwards_for_us);
        let mut ruleset = Self { prefix, closed, ..Self::default() };
        ruleset.add_networks(leases);
        ruleset.add_ports(leases);
        ruleset.add_holders(leases);
        let routed: Vec<_> = leases.networks().filter(|network| network.routed).collect();
        ruleset.mesh = host.mesh;
        ruleset.draws = !routed.is_empty() || !host.ingress.ports.is_empty();
        ruleset.add_ingress(leases, host);
        ruleset.add_vips(&host.vips, |vip| {
            let network = routed.iter().find(|network| network.subnet.contains(&vip))?;
            Some(network.bridge.clone())
        });
        if !ruleset.is_empty() {
            for address in &host.on_no_wire {
                ruleset.add(SetName::Anywhere, vec![Word::Bare(address.to_string())], vec![]);
            }
            for guest in host.guests.iter().filter(|_| host.forwards_for_us) {
                ruleset.add(SetName::Guests, vec![Word::Name(guest.clone())], vec![]);
            }
        }
        ruleset
    }

    /// The same without the table of frames.
    #[must_use]
    pub fn without_frames(mut self) -> Self {
        self.elements.retain(|set, _| set.family() != FRAMES);
        self.without_frames = true;
        self
    }

    /// The same without the table of what leaves by the mesh, until there is its device: nothing does.
    #[must_use]
    pub fn without_egress(mut self) -> Self {
        self.elements.retain(|set, _| set.family() != EGRESS);
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
            let subnet = || Word::Prefix(network.subnet.network(), network.subnet.prefix_len());
            self.add(SetName::Bridges, vec![bridge()], vec![]);
            self.add(SetName::SameBridge, vec![bridge(), bridge()], vec![]);
            self.add(SetName::Lan, vec![subnet(), bridge()], vec![]);
            self.add(SetName::Inside, vec![subnet()], vec![]);
            self.hold(network.gateway, Mac::of_address(network.gateway));
            if network.routed {
                let tunnel = Word::Name(tunnel::ifname(&self.prefix));
                self.add(SetName::Tunnels, vec![tunnel], vec![]);
                self.add(SetName::Across, vec![subnet(), subnet()], vec![]);
            }
            if network.internal {
                let gateway = Word::Bare(network.gateway.to_string());
                self.add(SetName::Internal, vec![bridge()], vec![]);
                self.add(SetName::Gateways, vec![bridge(), gateway], vec![]);
            } else {
                self.add(SetName::Subnets, vec![subnet()], vec![]);
            }
        }
    }

    fn add_ports(&mut self, leases: &Leases) {
        for (_, port, target) in leases.published() {
            let Some(target) = target else { continue };
            let to = vec![Word::Bare(target.to_string()), Word::Number(port.target_port)];
            let service =
                [Word::Bare(port.protocol.as_str().to_owned()), Word::Number(port.host_port)];
            if port.host_ip.is_unspecified() {
                self.add(SetName::PublishedAny, service.to_vec(), to);
            } else {
                let at = Word::Bare(port.host_ip.to_string());
                self.add(SetName::PublishedAt, [vec![at], service.to_vec()].concat(), to);
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
                for other in attachments {
                    let address = Word::Bare(other.address.addr().to_string());
                    self.add(SetName::Own, [who.clone(), vec![address]].concat(), vec![]);
                }
                self.add(SetName::OwnMacs, who, vec![]);
                if !attached.behind_gateway.is_empty() {
                    let port = Word::Name(attached.host_ifname.clone());
                    self.add(SetName::Strict, vec![port], vec![]);
                    let own = || Word::Bare(attached.address.addr().to_string());
                    self.add(SetName::Selves, vec![own(), own()], vec![]);
                }
            }
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
        self.elements.entry(set).or_default().insert(Element { key, value });
    }

    fn of_set(&self, set: SetName) -> impl Iterator<Item = &Element> {
        self.elements.get(&set).into_iter().flatten()
    }

    /// Whether the tables have the same chains: [`change_text`](Self::change_text) leads from one
    /// to the other.
    #[must_use]
    pub fn same_chains(&self, other: &Self) -> bool {
        let chains = |of: &Self| {
            let without = (of.without_frames, of.without_egress);
            (of.is_empty(), of.closed, without, of.draws, of.mesh)
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
            if family == EGRESS && !self.mesh {
                continue;
            }
            let _ = writeln!(text, "table {family} {table} {{");
            for (set, declaration) in SETS {
                if set.family() == family {
                    let _ = writeln!(text, "  {declaration}");
                }
            }
            text.push_str(&match family {
                FRAMES => frame_chains(&self.prefix),
                EGRESS => egress_chains(&ingress::ifname(&self.prefix)),
                _ => packet_chains(self.closed, self.draws, self.mesh),
            });
            text.push_str("}\n");
        }
        for (set, _) in SETS {
            write_elements(&mut text, "add", table, set, self.of_set(set).map(Element::text));
        }
        text
    }

    /// Text for `nft -f` that turns the tables `from` into these, whose chains are the same; `None`
    /// when nothing differs.
    #[must_use]
    pub fn change_text(&self, from: &Self, table: &str) -> Option<String> {
        let mut text = String::new();
        for (set, _) in SETS {
            let gone = from.of_set(set).filter(|element| !self.has(set, element));
            write_elements(&mut text, "delete", table, set, gone.map(Element::key_text));
        }
        for (set, _) in SETS {
            let new = self.of_set(set).filter(|element| !from.has(set, element));
            write_elements(&mut text, "add", table, set, new.map(Element::text));
        }
        (!text.is_empty()).then_some(text)
    }

    fn has(&self, set: SetName, element: &Element) -> bool {
        self.elements.get(&set).is_some_and(|elements| elements.contains(element))
    }

    /// Whether the kernel's tables, as `nft -j list table` shows them, hold exactly these elements.
    #[must_use]
    pub fn matches(&self, listed: &Value) -> bool {
        let families = self.families();
        let there = |set: &SetName| {
            families.contains(&set.family()) && (self.mesh || set.family() != EGRESS)
        };
        let mut sets = SETS.iter().filter(|(set, _)| there(set));
        sets.all(|(set, _)| {
            let found = listed_elements(listed, set.as_str());
            let wanted: BTreeSet<String> =
                self.of_set(*set).map(|element| element.json().to_string()).collect();
            found.is_some_and(|found| found == wanted)
        })
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
    set: SetName,
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        let (family, set, elements) = (set.family(), set.as_str(), elements.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verb} element {family} {table} {set} {{ {elements} }}");
    }
}

#[cfg(test)]
mod tests;
