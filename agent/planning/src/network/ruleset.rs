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

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

pub use self::balance::{Vip, Vips};
use self::chains::{frame_chains, packet_chains, sets};
pub use self::change::{Change, RawElements};
pub use self::composer::Composer;
pub use self::element::RawElement;
use self::element::{Collector, Element, Elements};
use self::led::Led;
pub use self::mend::{Mend, Shown};
use self::mesh::egress_chains;
pub use self::mesh::kernel_probe;
pub use self::sets::SetName;
use super::Family;
use super::ingress::{self, Ingress, Numbers, Port};
use super::leases::Leases;

pub mod balance;
mod chains;
mod change;
mod compare;
mod composer;
mod element;
mod led;
mod mend;
mod mesh;
mod own;
mod sets;
pub mod sticky;

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
    pub vips: Vips,
    /// Ports that answer on every node.
    pub ingress: Arc<Ingress>,
    /// The numbers of other nodes.
    pub numbers: Arc<Numbers>,
    /// Such ports that somebody else on this host has, so that it does not lead them.
    pub contested: BTreeSet<Port>,
    /// The device of the mesh is there, or about to be.
    pub mesh: bool,
}

/// What decides on the chains that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shape {
    /// Packets that come from no bridge and go to none are not forwarded.
    closed: bool,
    /// Those of IPv6 likewise.
    closed_v6: bool,
    /// There is a mesh.
    mesh: bool,
    /// There is IPv6.
    v6: bool,
}

/// The whole desired tables. Clones share what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// What does not follow from services.
    own: Arc<Elements>,
    led: Led,
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
        Composer::default().compose(0, leases, host)
    }

    /// The same without the table of frames.
    #[must_use]
    pub fn without_frames(mut self) -> Self {
        self.without_frames = true;
        self
    }

    /// The same without the table of what leaves by the mesh, until there is its device: nothing does.
    #[must_use]
    pub fn without_egress(mut self) -> Self {
        self.without_egress = true;
        self
    }

    /// Whether these tables, which the packet filter holds, are the wanted ones, as far as the kernel
    /// can have them.
    #[must_use]
    pub fn same_as(&self, wanted: &Self) -> bool {
        let Self { own: _, led, prefix, shape, without_frames, without_egress } = self;
        (*without_frames || !wanted.without_frames)
            && (*without_egress || !wanted.without_egress)
            && *prefix == wanted.prefix
            && *shape == wanted.shape
            && self.change_of_own(wanted).is_empty()
            && *led == wanted.led
    }

    /// What of these differs that does not follow from services.
    fn change_of_own(&self, from: &Self) -> Change {
        let mut change = Change::default();
        if !Arc::ptr_eq(&self.own, &from.own) {
            change = Change::between(&from.own, &self.own);
            let families = self.families();
            change.retain(|set| families.contains(&set.family()));
        }
        change
    }

    fn families(&self) -> Vec<&'static str> {
        let mut families = vec![FAMILY];
        families.extend((!self.without_frames).then_some(FRAMES));
        families.extend((!self.without_egress).then_some(EGRESS));
        families
    }

    /// Whether no network needs a table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Services lead nowhere without anything else.
        self.own.is_empty()
    }

    /// All elements of the tables that there are.
    fn elements(&self) -> Elements {
        let mut all = Collector::new(self.shape.v6);
        self.led.collect(&mut all);
        let mut all = all.found;
        for (set, elements) in &*self.own {
            all.entry(*set).or_default().extend(elements.iter().cloned());
        }
        let families = self.families();
        all.retain(|(set, _), _| families.contains(&set.family()));
        all
    }

    /// Whether the tables have the same chains: [`change`](Self::change) leads from one
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
            remove_table(&mut text, family, table);
        }
        if self.is_empty() {
            return text;
        }
        text + &self.structure(table) + &elements_text(table, &self.elements(), |_| true)
    }

    /// The families of the tables that there are to be.
    fn wanted_families(&self) -> impl Iterator<Item = &'static str> {
        let mesh = self.shape.mesh;
        self.families().into_iter().filter(move |family| mesh || *family != EGRESS)
    }

    /// The tables without their elements, as they are declared.
    fn structure(&self, table: &str) -> String {
        self.wanted_families().map(|family| self.declaration(family, table)).collect()
    }

    /// One of them.
    fn declaration(&self, family: &str, table: &str) -> String {
        let mut text = format!("table {family} {table} {{\n");
        for (set, _, declaration) in sets(self.shape.v6) {
            if set.family() == family {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {declaration}");
            }
        }
        text + &self.chains_text(family) + "}\n"
    }

    /// Its chains.
    fn chains_text(&self, family: &str) -> String {
        match family {
            FRAMES => frame_chains(&self.prefix, self.shape.v6),
            EGRESS => egress_chains(&ingress::ifname(&self.prefix)),
            _ => packet_chains(&self.shape),
        }
    }

    /// What turns the tables `from` into these, whose chains are the same. It costs what differs.
    #[must_use]
    pub fn change(&self, from: &Self) -> Change {
        let mut change = self.change_of_own(from);
        let [mut before, mut now] = [(), ()].map(|()| Collector::new(self.shape.v6));
        self.led.differing(&from.led, &mut before, &mut now);
        change.add(&before.found, &now.found);
        change
    }

    /// Whether the kernel's tables, as `nft -j list table` shows them, hold exactly these elements.
    #[must_use]
    pub fn matches(&self, listed: &Value) -> bool {
        let families: Vec<&str> = self.wanted_families().collect();
        let mut sets = sets(self.shape.v6).filter(|(set, _, _)| families.contains(&set.family()));
        let all = self.elements();
        sets.all(|(set, family, _)| {
            let found = listed_elements(listed, &set.name(family));
            let wanted = all.get(&(set, family)).into_iter().flatten();
            let wanted: BTreeSet<String> =
                wanted.map(|element| element.json().to_string()).collect();
            found.is_some_and(|found| found == wanted)
        })
    }
}

/// Takes a table away, whether or not there is one: the first line makes the second valid.
fn remove_table(text: &mut String, family: &str, table: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
}

/// Adds elements of some sets.
fn elements_text(table: &str, all: &Elements, of: impl Fn(SetName) -> bool) -> String {
    let mut text = String::new();
    for (set, elements) in all.iter().filter(|((set, _), _)| of(*set)) {
        let elements = elements.iter().map(Element::text);
        change::write_elements(&mut text, "add", table, *set, elements);
    }
    text
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
    let elements = elements_of(listed, set)?.iter();
    Some(elements.map(ToString::to_string).collect())
}

/// The elements of a listed set; `None` if there is no such set.
fn elements_of<'a>(listed: &'a Value, set: &str) -> Option<&'a [Value]> {
    let found = listed["nftables"].as_array()?.iter().find_map(|object| {
        let body = object.get("set").or_else(|| object.get("map"))?;
        (body["name"] == set).then_some(body)
    })?;
    Some(found["elem"].as_array().map(Vec::as_slice).unwrap_or_default())
}

#[cfg(test)]
mod tests;
