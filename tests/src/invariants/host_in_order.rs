//! A host has what its networks need, and nothing else of the agent's; what others have set is as they
//! want it once there are no networks.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use shoal_agent_planning::network::fence::FenceRule;
use shoal_agent_planning::network::guests::Guest;
use shoal_agent_planning::network::leases::Leases;
use shoal_agent_planning::network::links::LinkKind;
use shoal_agent_planning::network::settings::{IP_FORWARD, SRC_VALID_MARK, of_bridge};
use shoal_agent_planning::network::{Family, Subnet, names};
use shoal_agent_planning::node::host::{BridgeRoute, Observed, ObservedLinks, RouteKind, Tables};

use super::nothing_passes_unseen;

/// What others than the agent have on the host.
#[derive(Debug)]
pub struct Others<'a> {
    /// Settings of the host as they want them.
    pub settings: &'a BTreeMap<String, String>,
    /// Bridges that the host forwards for.
    pub guests: BTreeSet<Guest>,
    /// There were such bridges since the boot.
    pub had_guests: bool,
}

/// Looks at a host to which nothing happens any more, all of which was `observed`; says what is wrong
/// with it. What is `lost` only a container can get back.
#[must_use]
pub fn judge(
    node: &str,
    book: &Leases,
    lost: &BTreeSet<(String, String)>,
    others: &Others<'_>,
    prefix: &str,
    observed: &Observed,
) -> Vec<String> {
    let mut wrong = bridges(book, observed);
    wrong.extend(ports(book, lost, observed));
    wrong.extend(leftovers(book, prefix, observed));
    wrong.extend(closed(book, others, prefix, observed));
    wrong.extend(settings(book, others, observed));
    wrong.into_iter().map(|what| format!("node {node} {what}")).collect()
}

fn links(observed: &Observed) -> ObservedLinks {
    observed.links.clone().unwrap_or_default()
}

fn bridges(book: &Leases, observed: &Observed) -> Vec<String> {
    let ObservedLinks { found, routes, .. } = links(observed);
    let mut wrong = Vec::new();
    for network in book.networks() {
        let name = &network.bridge;
        let Some(bridge) = found.get(name) else {
            wrong.push(format!("has no bridge {name}"));
            continue;
        };
        let wanted: BTreeSet<IpNet> = network.subnets.iter().map(Subnet::of_bridge).collect();
        let all: BTreeSet<IpNet> = wanted.iter().copied().chain(network.link_local()).collect();
        if !bridge.up || bridge.addresses != all {
            wrong.push(format!("has a bridge {name} that is not as it should be: {bridge:?}"));
        }
        for address in wanted {
            for &kind in RouteKind::all(Family::of(address.addr())) {
                let route = BridgeRoute { bridge: name.clone(), kind, address };
                if !routes.contains(&route) {
                    wrong.push(format!("has lost a route of {name}: {route}"));
                }
            }
        }
    }
    wrong
}

fn ports(book: &Leases, lost: &BTreeSet<(String, String)>, observed: &Observed) -> Vec<String> {
    let found = links(observed).found;
    let mut wrong = Vec::new();
    for port in book.ports() {
        let bridge = book.network(&port.network).map(|network| &network.bridge);
        let is_lost = lost.contains(&(port.container.clone(), port.network.clone()));
        match found.get(&port.host_ifname) {
            Some(link) if link.up && link.hairpin && link.bridge.as_ref() == bridge => {}
            None if is_lost => {}
            other => wrong.push(format!("has a port {} like this: {other:?}", port.host_ifname)),
        }
    }
    wrong
}

fn leftovers(book: &Leases, prefix: &str, observed: &Observed) -> Vec<String> {
    let wanted: BTreeSet<&str> = book
        .networks()
        .map(|network| network.bridge.as_str())
        .chain(book.ports().map(|port| port.host_ifname.as_str()))
        .collect();
    let found = links(observed).found;
    let ours = found.iter().filter(|(ifname, link)| {
        names::is_ours(prefix, ifname) && matches!(link.kind, LinkKind::Bridge | LinkKind::Veth)
    });
    let strays = ours.filter(|(ifname, _)| !wanted.contains(ifname.as_str()));
    strays.map(|(ifname, _)| format!("has link {ifname}, which is nobody's")).collect()
}

/// Either of tables and rules would do for what is forwarded; both are to be there.
fn closed(book: &Leases, others: &Others<'_>, prefix: &str, observed: &Observed) -> Vec<String> {
    let rules = observed.fence.as_ref().map(|fence| fence.present.clone()).unwrap_or_default();
    let has_tables = matches!(observed.tables, Some(Tables::Hold(_)));
    let mut wrong = Vec::new();
    if book.networks().next().is_none() {
        if !rules.is_empty() {
            wrong.push(format!("has routing rules for no network: {rules:?}"));
        }
        if observed.tables != Some(Tables::Absent) {
            wrong.push("has tables for no network".to_owned());
        }
        return wrong;
    }
    if !has_tables {
        wrong.push("has lost its tables".to_owned());
    }
    let without = Observed { tables: Some(Tables::Absent), ..observed.clone() };
    if !nothing_passes_unseen::is_closed(&without, prefix) {
        wrong.push(format!("has lost routing rules, and has {rules:?}"));
    }
    if !rules.contains(&FenceRule::PassMarked) {
        wrong.push(format!("lets nobody pass by {rules:?}"));
    }
    for guest in &others.guests {
        let passes = rules.contains(&FenceRule::PassFromGuest(guest.bridge.clone()));
        if rules.contains(&FenceRule::CloseAll) && !passes {
            wrong.push(format!("closes {} of others: {rules:?}", guest.bridge));
        }
    }
    wrong
}

fn settings(book: &Leases, others: &Others<'_>, observed: &Observed) -> Vec<String> {
    let none = BTreeMap::new();
    let now = observed.settings.as_ref().unwrap_or(&none);
    let mut wrong = Vec::new();
    let mut expect = |name: &str, value: &str| {
        let has = now.get(name).map(String::as_str);
        if has != Some(value) {
            wrong.push(format!("has {name} {has:?}, and it should be {value}"));
        }
    };
    let leads_out = book.networks().any(|network| !network.internal);
    for name in [IP_FORWARD, SRC_VALID_MARK] {
        match others.settings.get(name) {
            _ if leads_out => expect(name, "1"),
            // Forwarding stays on for others who may need it.
            Some(_) if name == IP_FORWARD && others.had_guests => {}
            Some(value) => expect(name, value),
            None => {}
        }
    }
    for network in book.networks() {
        of_bridge(&network.bridge, network.has_v6())
            .iter()
            .for_each(|(name, value)| expect(name, value));
    }
    if !leads_out && observed.remembered.is_some() {
        wrong.push("remembers settings that it has put back".to_owned());
    }
    wrong
}
