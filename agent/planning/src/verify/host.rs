//! Of links, addresses, routes, routing rules, settings and tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Difference;
use crate::network::links::{self, DesiredEnd, ObservedLink};
use crate::node::host::{Action, MeshAction, MeshDevice, Observed, Plan, Tables, Way};

/// What a plan for the host says is not right, seen from what it was planned from. `tables` are the differences of
/// the packet filter, which the plan knows as one. Of what is missing as a whole nothing further is told, and of a
/// link in `under_way` nothing: it is just being made.
#[must_use]
pub fn differences(
    plan: &Plan,
    observed: &Observed,
    tables: Vec<Difference>,
    under_way: &BTreeSet<String>,
) -> Vec<Difference> {
    let Plan { actions, missing_ports, missing_ends, facts: _, remote: _ } = plan;
    let none = BTreeMap::new();
    let links = observed.links.as_ref().map_or(&none, |links| &links.found);
    let made: BTreeSet<&str> = actions.iter().filter_map(made).collect();
    let mesh = observed.mesh.as_ref().and_then(|mesh| mesh.device.as_ref());
    let seen = Seen { links, mesh, made };
    let mut all = Vec::new();
    for action in actions {
        match action {
            Action::Set { name, value } => all.extend(seen.setting(name, value, observed)),
            Action::AddRule(family, rule) => {
                all.push(Difference::missing(format!("routing rule of {family} {rule}")));
            }
            Action::RemoveRule(family, rule) => {
                all.push(Difference::strange(format!("routing rule of {family} {rule}")));
            }
            Action::DropTables => all.push(Difference::strange("nftables tables")),
            Action::PutTables if tables.is_empty() => {
                let missing = observed.tables == Some(Tables::Absent);
                let found = if missing { "missing" } else { "other ones" };
                all.push(Difference::new("nftables tables", "those of the agent", found));
            }
            // What is remembered of the host follows from what is done to it; of tables that were compared each
            // difference is told.
            Action::Remember(_) | Action::Forget | Action::PutTables => {}
            Action::Link(action) => all.extend(seen.link(action)),
            Action::AddRoute(route) if seen.made.contains(route.bridge.as_str()) => {}
            Action::AddRoute(route) => all.push(Difference::missing(format!("route {route}"))),
            Action::AddRemote(address, _) => {
                all.push(Difference::missing(format!("route to {address} by the tunnel")));
            }
            Action::TurnRemote(address, way) => {
                let found = observed.remote.iter().find_map(|remote| remote.get(address));
                all.extend(turned(*address, *way, found.copied().unwrap_or_default()));
            }
            Action::RemoveRemote(address, _) => {
                all.push(Difference::strange(format!("route to {address} by the tunnel")));
            }
            Action::Mesh(action) => all.extend(seen.mesh(action)),
            Action::Gate(action) => {
                all.push(Difference::new(action.to_string(), "done", "not done"));
            }
        }
    }
    all.extend(tables);
    all.extend(missing_ports.iter().map(|port| Difference::missing(format!("link {port}"))));
    let of_end = |(name, end): (&String, &DesiredEnd)| {
        let subject = format!("container {} on {}", end.container, end.link);
        (!under_way.contains(name)).then(|| Difference::missing(subject))
    };
    all.extend(missing_ends.iter().filter_map(of_end));
    let of_under_way = |difference: &Difference| {
        under_way.iter().any(|ifname| difference.subject.split(' ').any(|word| word == ifname))
    };
    all.retain(|difference| !of_under_way(difference));
    all
}

/// A route that is another one.
fn turned(address: IpAddr, wanted: Way, found: Way) -> Vec<Difference> {
    let mut all = Vec::new();
    if wanted.by != found.by {
        let words = |way: Way| format!("interface {}", way.by as u8);
        let subject = format!("route to {address} by the tunnel");
        all.push(Difference::new(subject, words(wanted), words(found)));
    }
    if wanted.largest != found.largest {
        let words = |way: Way| {
            way.largest.map_or_else(|| "as the tunnel".to_owned(), |bytes| bytes.to_string())
        };
        let subject = format!("mtu of the route to {address} by the tunnel");
        all.push(Difference::new(subject, words(wanted), words(found)));
    }
    all
}

/// A link that is missing as a whole.
fn made(action: &Action) -> Option<&str> {
    match action {
        Action::Link(
            links::Action::CreateBridge { ifname, .. } | links::Action::CreateVlan { ifname, .. },
        ) => Some(ifname),
        Action::Mesh(MeshAction::Create { .. }) => Some(MESH),
        _ => None,
    }
}

/// Stands for the mesh's device among those that are missing.
const MESH: &str = "";

struct Seen<'a> {
    links: &'a BTreeMap<String, ObservedLink>,
    mesh: Option<&'a MeshDevice>,
    made: BTreeSet<&'a str>,
}

impl Seen<'_> {
    fn setting(&self, name: &str, value: &str, observed: &Observed) -> Option<Difference> {
        let is_new = |ifname: &&str| !ifname.is_empty() && name.contains(*ifname);
        let found = observed.settings.as_ref().and_then(|settings| settings.get(name));
        if self.made.iter().any(is_new) || (self.made.contains(MESH) && found.is_none()) {
            return None;
        }
        let found = found.map_or("missing", String::as_str);
        let subject = format!("setting net.{}", name.replace('/', "."));
        Some(Difference::new(subject, value, found))
    }

    fn link(&self, action: &links::Action) -> Option<Difference> {
        use links::Action as Link;
        let name = action.ifname();
        let link = self.links.get(name);
        let creates = matches!(action, Link::CreateBridge { .. } | Link::CreateVlan { .. });
        let unseen = link.is_none() && self.mesh.is_none();
        if (self.made.contains(name) || (self.made.contains(MESH) && link.is_none())) && !creates {
            return None;
        }
        let is_mesh = link.is_none();
        let number = |now: Option<u32>| now.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let hardware =
            || link.and_then(|link| link.mac).map_or_else(String::new, |m| m.to_string());
        Some(match action {
            Link::Remove { .. } => Difference::strange(format!("link {name}")),
            Link::CreateBridge { .. } => {
                Difference::new(format!("link {name}"), "a bridge", "missing")
            }
            Link::CreateVlan { vlan, .. } => {
                let should = format!("VLAN {} of {}", vlan.number, vlan.base);
                Difference::new(format!("link {name}"), should, "missing")
            }
            Link::SetMtu { mtu, .. } => {
                let now = if is_mesh { self.mesh.map(|m| m.mtu) } else { link.map(|l| l.mtu) };
                Difference::new(format!("mtu of {name}"), mtu.to_string(), number(now))
            }
            Link::SetMac { mac, .. } => {
                Difference::new(format!("hardware address of {name}"), mac.to_string(), hardware())
            }
            Link::RemoveAddress { address, .. } => {
                Difference::strange(format!("address {address} on {name}"))
            }
            Link::AddAddress { address, .. } => {
                Difference::missing(format!("address {address} on {name}"))
            }
            Link::SetBridge { bridge, .. } => {
                let now = link.and_then(|link| link.bridge.as_deref()).unwrap_or("none");
                Difference::new(format!("bridge of {name}"), bridge, now)
            }
            Link::SetHairpin { .. } => {
                Difference::new(format!("hairpin mode of {name}"), "on", "off")
            }
            Link::SetUp { .. } if unseen => return None,
            Link::SetUp { .. } => Difference::new(format!("link {name}"), "up", "down"),
        })
    }

    fn mesh(&self, action: &MeshAction) -> Option<Difference> {
        let anew = self.made.contains(MESH);
        Some(match action {
            MeshAction::Create { home } if self.mesh.is_some() => {
                Difference::new("device of the mesh", format!("one for {home}"), "another one")
            }
            MeshAction::Create { .. } => Difference::missing("device of the mesh"),
            _ if anew => return None,
            MeshAction::AddFar(address, _) => {
                Difference::missing(format!("way of the mesh to {address}"))
            }
            MeshAction::RemoveFar(mac) => Difference::strange(format!("way of the mesh to {mac}")),
            MeshAction::AddRoute(family) => {
                Difference::missing(format!("route of {family} by the mesh"))
            }
        })
    }
}
