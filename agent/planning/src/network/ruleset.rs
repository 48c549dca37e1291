//! The node's nftables table.
//!
//! The chains never change; everything that does is an element of a set or a map. So the desired
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
//! - An internal network reaches nothing but itself and its gateway address.
//! - Another firewall on the host that drops forwarded packets is not overruled: nftables has no
//!   accept that binds a later chain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::leases::Leases;

/// Family of the table. `inet`, so that IPv6 can join it.
pub const FAMILY: &str = "inet";

/// Name, type and flags of each set and map, in the order they are declared.
const SETS: [(SetName, &str); 8] = [
    (SetName::Bridges, "set bridges { type ifname; }"),
    (SetName::Internal, "set internal { type ifname; }"),
    (SetName::SameBridge, "set same_bridge { type ifname . ifname; }"),
    (SetName::Subnets, "set subnets { type ipv4_addr; flags interval; }"),
    (SetName::Lan, "set lan { type ipv4_addr . ifname; flags interval; }"),
    (SetName::Gateways, "set gateways { type ifname . ipv4_addr; }"),
    (
        SetName::PublishedAt,
        "map published_at { \
         type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }",
    ),
    (
        SetName::PublishedAny,
        "map published_any { type inet_proto . inet_service : ipv4_addr . inet_service; }",
    ),
];

/// The chains. 127.0.0.0/8 is guarded because publishing on 127.0.0.1 needs `route_localnet` on
/// the bridges, which alone would let containers reach services of the host's loopback
/// (CVE-2020-8558). The guard stands before address translation, where a genuine reply still
/// carries the bridge's address.
const CHAINS: &str = "  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published_any
  }
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    iifname @internal accept
    fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ip saddr @subnets oifname != @bridges masquerade
    ip saddr . oifname @lan ct status dnat masquerade
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
  }
  chain input {
    type filter hook input priority 0; policy accept;
    iifname @internal ct state established,related accept
    iifname . ip daddr @gateways accept
    iifname @internal drop
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname . oifname @same_bridge accept
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    ct status dnat oifname @bridges accept
    oifname @bridges drop
  }
";

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
    /// Each subnet beside its bridge.
    Lan,
    /// Each internal bridge beside the host's address on it.
    Gateways,
    /// Ports published on one address of the host.
    PublishedAt,
    /// Ports published on every address of the host.
    PublishedAny,
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
            Self::Lan => "lan",
            Self::Gateways => "gateways",
            Self::PublishedAt => "published_at",
            Self::PublishedAny => "published_any",
        }
    }
}

/// One word of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Name(String),
    Bare(String),
    Prefix(Ipv4Addr, u8),
    Port(u16),
}

impl Word {
    fn text(&self) -> String {
        match self {
            // Quoted, so that an interface name is never read as a keyword.
            Self::Name(name) => format!("\"{name}\""),
            Self::Bare(word) => word.clone(),
            Self::Prefix(address, len) => format!("{address}/{len}"),
            Self::Port(port) => port.to_string(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Name(word) | Self::Bare(word) => json!(word),
            Self::Prefix(address, len) => {
                json!({ "prefix": { "addr": address.to_string(), "len": len } })
            }
            Self::Port(port) => json!(port),
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

/// The whole desired table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    elements: BTreeMap<SetName, BTreeSet<Element>>,
}

impl Ruleset {
    /// Derives the table from the book.
    #[must_use]
    pub fn of(leases: &Leases) -> Self {
        let mut ruleset = Self::default();
        for network in leases.networks() {
            let bridge = || Word::Name(network.bridge.clone());
            let subnet = || Word::Prefix(network.subnet.network(), network.subnet.prefix_len());
            ruleset.add(SetName::Bridges, vec![bridge()], vec![]);
            ruleset.add(SetName::SameBridge, vec![bridge(), bridge()], vec![]);
            ruleset.add(SetName::Lan, vec![subnet(), bridge()], vec![]);
            if network.internal {
                let gateway = Word::Bare(network.gateway.to_string());
                ruleset.add(SetName::Internal, vec![bridge()], vec![]);
                ruleset.add(SetName::Gateways, vec![bridge(), gateway], vec![]);
            } else {
                ruleset.add(SetName::Subnets, vec![subnet()], vec![]);
            }
        }
        for (_, port, target) in leases.published() {
            let Some(target) = target else { continue };
            let to = vec![Word::Bare(target.to_string()), Word::Port(port.target_port)];
            let service =
                [Word::Bare(port.protocol.as_str().to_owned()), Word::Port(port.host_port)];
            if port.host_ip.is_unspecified() {
                ruleset.add(SetName::PublishedAny, service.to_vec(), to);
            } else {
                let at = Word::Bare(port.host_ip.to_string());
                ruleset.add(SetName::PublishedAt, [vec![at], service.to_vec()].concat(), to);
            }
        }
        ruleset
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

    /// Text for `nft -f` that puts this table in the place of whatever is there, in one
    /// transaction.
    #[must_use]
    pub fn replace_text(&self, table: &str) -> String {
        // The first line makes the second valid where there is no table yet.
        let mut text = format!("add table {FAMILY} {table}\n{}", remove_text(table));
        let _ = writeln!(text, "table {FAMILY} {table} {{");
        for (_, declaration) in SETS {
            let _ = writeln!(text, "  {declaration}");
        }
        text.push_str(CHAINS);
        text.push_str("}\n");
        for (set, _) in SETS {
            write_elements(&mut text, "add", table, set, self.of_set(set).map(Element::text));
        }
        text
    }

    /// Text for `nft -f` that turns the table `from` into this one; `None` when nothing differs.
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

    /// Whether the kernel's table, as `nft -j list table` shows it, holds exactly these elements.
    #[must_use]
    pub fn matches(&self, listed: &Value) -> bool {
        SETS.iter().all(|(set, _)| {
            let found = listed_elements(listed, set.as_str());
            let wanted: BTreeSet<String> =
                self.of_set(*set).map(|element| element.json().to_string()).collect();
            found.is_some_and(|found| found == wanted)
        })
    }
}

/// Text for `nft -f` that removes the table; an error where there is none.
#[must_use]
pub fn remove_text(table: &str) -> String {
    format!("delete table {FAMILY} {table}\n")
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
        let (set, elements) = (set.as_str(), elements.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verb} element {FAMILY} {table} {set} {{ {elements} }}");
    }
}

#[cfg(test)]
mod tests;
