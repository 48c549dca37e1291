//! Networks of the stack.

use std::collections::BTreeMap;

use shoal_types::spec::{Driver, Ipam, IpamConfig, NetworkKind, NetworkSpec, Options};

use super::mounts::is_external;
use super::{Lower, flag, text, text_map};
use crate::stack::node::{Entry, Node};

/// The key of the network that services join when they name none.
const DEFAULT: &str = "default";
/// The driver of networks that name none: their containers may be on any hosts.
const DRIVER: &str = NetworkKind::Overlay.as_str();

impl Lower<'_> {
    /// All networks that the stack makes: those that are declared, and the default one if some
    /// service joins it.
    pub(super) fn networks(&mut self) -> BTreeMap<String, NetworkSpec> {
        let root = self.root;
        let mut networks = BTreeMap::new();
        for entry in root.get("networks").map_or(&[][..], Node::entries) {
            if is_external(&entry.value) {
                self.only_name(entry, &format!("networks.{}", entry.key));
            } else if entry.key != DEFAULT || self.uses_default {
                networks.insert(entry.key.clone(), self.network(&entry.key, &entry.value));
            }
        }
        let declared = root.at_path(&["networks"]).is_some_and(|n| n.entry(DEFAULT).is_some());
        if self.uses_default && !declared {
            let spec = self.network(DEFAULT, &Node::null(root.at));
            networks.insert(DEFAULT.to_owned(), spec);
        }
        networks
    }

    fn network(&mut self, key: &str, node: &Node) -> NetworkSpec {
        let mut driver = text(node, "driver");
        if driver.is_empty() {
            driver = DRIVER.to_owned();
            self.unsaid_drivers.push(key.to_owned());
        }
        let attachable = flag(node, "attachable");
        if attachable {
            let path = format!("networks.{key}.attachable");
            self.findings.warn(format!("{path} has no effect: only tasks join networks"));
        }
        NetworkSpec {
            name: self.member_name(key, node),
            labels: self.labels(node.get("labels")),
            driver: Driver { name: driver, options: text_map(node.get("driver_opts")) },
            internal: flag(node, "internal"),
            attachable,
            enable_ipv4: node.get("enable_ipv4").map(|_| flag(node, "enable_ipv4")),
            enable_ipv6: flag(node, "enable_ipv6"),
            ipam: node.get("ipam").map(ipam),
            ..NetworkSpec::default()
        }
    }

    /// The name of the default network.
    pub(super) fn default_network(&self) -> String {
        match self.root.at_path(&["networks", DEFAULT]) {
            Some(node) => self.member_name(DEFAULT, node),
            None => self.full_name(DEFAULT),
        }
    }

    /// The full name of a network or volume: its own `name`, that of something external, or
    /// `STACK_KEY`.
    pub(super) fn member_name(&self, key: &str, node: &Node) -> String {
        let own = node.get("name").or_else(|| node.at_path(&["external", "name"]));
        match own.and_then(Node::as_text) {
            Some(name) => name.to_owned(),
            None if is_external(node) => key.to_owned(),
            None => self.full_name(key),
        }
    }

    /// What exists without the stack cannot be described by it.
    pub(super) fn only_name(&mut self, entry: &Entry, path: &str) {
        let settings = entry.value.entries().iter();
        for other in settings.filter(|e| !matches!(e.key.as_str(), "name" | "external")) {
            let path = format!("{path}.{}", other.key);
            self.wrong(other.key_at, &path, "cannot be combined with external");
        }
    }
}

fn ipam(node: &Node) -> Ipam {
    let config = |node: &Node| IpamConfig {
        subnet: text(node, "subnet"),
        gateway: text(node, "gateway"),
        ip_range: text(node, "ip_range"),
        aux_addresses: text_map(node.get("aux_addresses")),
    };
    Ipam {
        driver: Driver { name: text(node, "driver"), options: Options::new() },
        config: node.get("config").map_or(&[][..], Node::items).iter().map(config).collect(),
    }
}
