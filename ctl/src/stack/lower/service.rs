//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use shoal_types::spec::{
    Affinity, EndpointMode, EndpointSpec, Locality, NetworkAttachmentConfig, NetworkKind,
    PortConfig, Protocol, PublishMode, ServiceSpec, TaskRuntime, TaskSpec,
};

use super::{Lower, text, whole};
use crate::stack::node::{Entry, Node};
use crate::stack::{host_ip, refused, schema, unsaid_mode};

/// What `network_mode` begins with where it names a service whose network is shared.
const OF_SERVICE: &str = "service:";

impl Lower<'_> {
    pub(super) fn services(&mut self) -> BTreeMap<String, ServiceSpec> {
        let root = self.root;
        let entries = root.get("services").map_or(&[][..], Node::entries);
        entries.iter().map(|e| (e.key.clone(), self.service(e))).collect()
    }

    fn service(&mut self, entry: &Entry) -> ServiceSpec {
        let node = &entry.value;
        let path = format!("services.{}", entry.key);
        let empty = Node::null(node.at);
        let deploy = node.get("deploy").unwrap_or(&empty);
        let container = self.container(entry, &path);
        let networks = self.attachments(node, &path);
        let network_of = self.network_of(entry, &path);
        let ports = self.ports(&entry.key, node.get("ports"));
        let deployed = format!("{path}.deploy");
        ServiceSpec {
            name: self.full_name(&entry.key),
            labels: self.labels(deploy.get("labels")),
            mode: self.mode(deploy, &deployed),
            update_config: self.update_config(deploy, &deployed),
            rollback_config: None,
            endpoint_spec: self.endpoint(deploy, &deployed, ports),
            task_template: Arc::new(TaskSpec {
                runtime: TaskRuntime::Container(container),
                resources: super::deploy::resources(deploy),
                restart_policy: self.restart_policy(node, &path),
                placement: super::deploy::placement(deploy),
                networks,
                network_of,
                log_driver: None,
                force_update: 0,
            }),
        }
    }

    fn endpoint(
        &mut self,
        deploy: &Node,
        path: &str,
        ports: Vec<PortConfig>,
    ) -> Option<EndpointSpec> {
        let said = |key| {
            let node = deploy.get(key);
            node.map(|node| (node, node.as_text().unwrap_or_default()))
        };
        let mode = match said("endpoint_mode") {
            None | Some((_, "vip")) => EndpointMode::Vip,
            Some((_, "dnsrr")) => EndpointMode::Dnsrr,
            Some((node, other)) => {
                let text = format!("{other:?} is unknown: expected vip or dnsrr");
                self.wrong(node.at, &format!("{path}.endpoint_mode"), text);
                EndpointMode::Vip
            }
        };
        let affinity = match said("endpoint_affinity") {
            None | Some((_, "none")) => None,
            Some((_, "client-ip")) => Some(Affinity::ClientIp),
            Some((node, other)) => {
                let text = format!("{other:?} is unknown: expected none or client-ip");
                self.wrong(node.at, &format!("{path}.endpoint_affinity"), text);
                None
            }
        };
        let locality = match said("endpoint_locality") {
            None | Some((_, "any")) => None,
            Some((_, "prefer-local")) => Some(Locality::PreferLocal),
            Some((node, other)) => {
                let text = format!("{other:?} is unknown: expected any or prefer-local");
                self.wrong(node.at, &format!("{path}.endpoint_locality"), text);
                None
            }
        };
        EndpointSpec { mode, ports, affinity, locality }.unless_default()
    }

    /// The networks that a service joins, by their full names, sorted as Docker sorts them.
    fn attachments(&mut self, node: &Node, path: &str) -> Vec<NetworkAttachmentConfig> {
        let one = |target: String| NetworkAttachmentConfig {
            target,
            ..NetworkAttachmentConfig::default()
        };
        if let Some(mode) = node.get("network_mode") {
            let path = format!("{path}.network_mode");
            if let Some(entry) = node.entry("networks") {
                self.wrong(entry.key_at, &path, "cannot be combined with networks");
            }
            let name = mode.as_text().unwrap_or_default();
            if NetworkKind::predefined(name).is_some() {
                return vec![one(name.to_owned())];
            }
            if name.starts_with(OF_SERVICE) {
                return Vec::new();
            }
            let given = mode.kind();
            let text = if name.starts_with("container:") {
                format!("{given}: {}", refused::OTHER_CONTAINER.why())
            } else {
                format!("{given} is unknown: expected host, none, bridge or service:NAME")
            };
            self.wrong(mode.at, &path, text);
            return Vec::new();
        }
        // An empty list is the same as none.
        let said = node.get("networks").filter(|networks| !networks.entries().is_empty());
        let Some(networks) = said else {
            self.uses_default = true;
            return vec![one(self.default_network())];
        };
        let mut joined = Vec::new();
        for entry in networks.entries() {
            let target = self.network_name(entry, &format!("{path}.networks"));
            let addresses = self.addresses(entry, &format!("{path}.networks.{}", entry.key));
            let aliases = entry.value.get("aliases").map_or(&[][..], Node::items);
            let aliases = aliases.iter().filter_map(|alias| alias.as_text().map(str::to_owned));
            joined.extend(target.map(|target| NetworkAttachmentConfig {
                aliases: aliases.collect(),
                addresses,
                ..one(target)
            }));
        }
        joined.sort_by(|one, other| one.target.cmp(&other.target));
        joined
    }

    /// The full name of the service whose network a service shares, which is one of the stack.
    fn network_of(&mut self, entry: &Entry, path: &str) -> Option<String> {
        let mode = entry.value.get("network_mode")?;
        let name = mode.as_text()?.strip_prefix(OF_SERVICE)?;
        let services = self.root.get("services").map_or(&[][..], Node::entries);
        let found = services.iter().find(|service| service.key == name);
        let text = match found {
            None => {
                let near = schema::nearest_of(services.iter().map(|s| s.key.as_str()), name);
                match near {
                    Some(near) => {
                        format!("service {name:?} is not in the stack: did you mean {near:?}?")
                    }
                    None => format!("service {name:?} is not in the stack: expected one that is"),
                }
            }
            Some(_) if name == entry.key => {
                format!("{name:?} is the service itself: expected another one")
            }
            Some(found) => {
                let theirs = found.value.get("network_mode").and_then(Node::as_text);
                match theirs.and_then(|mode| mode.strip_prefix(OF_SERVICE)) {
                    None => return Some(self.full_name(name)),
                    Some(third) => format!(
                        "service {name:?} itself shares the network of {third:?}: expected service:{third}"
                    ),
                }
            }
        };
        if !self.findings.is_full() {
            self.wrong(mode.at, &format!("{path}.network_mode"), text);
        }
        None
    }

    /// The addresses that the service's task has on a network.
    fn addresses(&mut self, entry: &Entry, path: &str) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for (key, v4, family) in [("ipv4_address", true, "IPv4"), ("ipv6_address", false, "IPv6")] {
            let Some(node) = entry.value.get(key) else { continue };
            let found = node.as_text().unwrap_or_default().parse().ok();
            match found.filter(|address: &IpAddr| address.is_ipv4() == v4) {
                Some(address) => all.push(address),
                None => {
                    let text = format!("{} is not an {family} address", node.kind());
                    self.wrong(node.at, &format!("{path}.{key}"), text);
                }
            }
        }
        all
    }

    /// The full name of a network that a service names.
    fn network_name(&mut self, entry: &Entry, path: &str) -> Option<String> {
        let declared = self.root.get("networks").map_or(&[][..], Node::entries);
        if let Some(network) = declared.iter().find(|n| n.key == entry.key) {
            return Some(self.member_name(&network.key, &network.value));
        }
        if entry.key == "default" {
            self.uses_default = true;
            return Some(self.default_network());
        }
        if self.findings.is_full() {
            return None;
        }
        let near = schema::nearest_of(declared.iter().map(|n| n.key.as_str()), &entry.key);
        let near = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => "declare it under networks: at the top".to_owned(),
        };
        let text = format!("network {:?} is not declared: {near}", entry.key);
        self.wrong(entry.key_at, path, text);
        None
    }

    fn ports(&mut self, service: &str, ports: Option<&Node>) -> Vec<PortConfig> {
        let items = ports.map_or(&[][..], Node::items);
        if items.iter().any(|p| text(p, "mode") != "host" && p.get("host_ip").is_some()) {
            self.narrow_ports.push(service.to_owned());
        }
        items.iter().map(port).collect()
    }
}

fn port(node: &Node) -> PortConfig {
    let number = |key| whole(node, key).and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    let host_ip = node.get("host_ip").and_then(Node::as_text).and_then(|t| host_ip(t).ok());
    PortConfig {
        name: text(node, "name"),
        protocol: match text(node, "protocol").as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        target_port: number("target"),
        published_port: number("published"),
        // Docker's tools write `ingress` where nothing was said.
        publish_mode: match text(node, "mode").as_str() {
            "host" => PublishMode::Host,
            _ => unsaid_mode(host_ip),
        },
        host_ip,
    }
}
