//! Whose names are answered, and how.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::id::NetworkId;
use shoal_types::object::Network;
use shoal_types::spec::NetworkKind;

use super::ContainerPlan;
use super::{dns, own_hostname};
use crate::zone::{Asker, DNS_PORT, Forwards};

const UNASKED: &str = "its name servers (dns) are not asked: all its networks are internal, and from those nobody outside is asked for names";

/// A task's container as one that asks for names. `None` if it does not: it is on no network of its own, or
/// its user names a server on its own loopback, whom it asks itself, or it is itself a server of names, which
/// could not listen on all its addresses beside ours.
#[must_use]
pub fn asker(task: &AssignedTask, networks: &BTreeMap<NetworkId, Arc<Network>>) -> Option<Asker> {
    let spec = task.spec.container()?;
    let servers = dns(spec).ok()?.servers;
    let is_server = task.ports.iter().any(|port| port.target_port == DNS_PORT);
    if is_server || servers.iter().any(IpAddr::is_loopback) {
        return None;
    }
    let joined = task.networks.iter().filter_map(|joined| networks.get(&joined.network_id));
    let joined = joined.filter(|network| {
        let kind = NetworkKind::of(&network.spec.driver);
        kind.is_some_and(|kind| !kind.is_exclusive())
    });
    let joined: Vec<&Arc<Network>> = joined.collect();
    if joined.is_empty() {
        return None;
    }
    let forwards = if joined.iter().all(|network| network.spec.internal) {
        Forwards::Nobody
    } else if servers.is_empty() {
        Forwards::Host
    } else {
        Forwards::To(servers.into_iter().map(|ip| SocketAddr::new(ip, DNS_PORT)).collect())
    };
    Some(Asker {
        container: task.id.to_string(),
        networks: joined.iter().map(|network| network.id.to_string()).collect(),
        hostname: own_hostname(task, spec),
        forwards,
    })
}

/// What people should know of a container whose servers nobody is to ask.
#[must_use]
pub fn unasked(plan: &ContainerPlan) -> Option<&'static str> {
    let asks_nobody = plan.asker.as_ref().is_some_and(|asker| asker.forwards == Forwards::Nobody);
    (asks_nobody && !plan.dns.servers.is_empty()).then_some(UNASKED)
}

#[cfg(test)]
mod tests {
    use shoal_types::object::{Meta, TaskNetwork};
    use shoal_types::spec::{
        ContainerSpec, DnsConfig, Driver, NetworkSpec, PortConfig, Protocol, PublishMode,
    };

    use super::*;

    fn network(id: u128, driver: &str, internal: bool) -> (NetworkId, Arc<Network>) {
        let driver = Driver { name: driver.to_owned(), ..Driver::default() };
        let spec = NetworkSpec { driver, internal, ..NetworkSpec::default() };
        let (id, meta) = (id.into(), Meta::default());
        let network =
            Network { id, meta, spec, stack_id: None, predefined: false, subnets: Vec::new() };
        (id, Arc::new(network))
    }

    /// Networks and servers, and what comes of them: networks, and who else is asked.
    type Case<'a> = (&'a [u128], &'a [&'a str], Option<(&'a [u128], Forwards)>);

    #[test]
    fn who_asks_and_who_is_asked_for_it() {
        let networks = BTreeMap::from([
            network(1, "bridge", false),
            network(2, "overlay", true),
            network(3, "host", false),
            network(4, "none", false),
            network(5, "bridge", true),
        ]);
        let to = |all: &[&str]| {
            Forwards::To(all.iter().map(|address| address.parse().unwrap()).collect())
        };
        let table: [Case<'_>; 10] = [
            (&[1], &[], Some((&[1], Forwards::Host))),
            (&[2, 1], &[], Some((&[2, 1], Forwards::Host))),
            (&[2, 5], &[], Some((&[2, 5], Forwards::Nobody))),
            // They could be asked for it, but a container without a way out is not to have one through names.
            (&[2], &["9.9.9.9"], Some((&[2], Forwards::Nobody))),
            (&[1], &["9.9.9.9", "fd00::1"], Some((&[1], to(&["9.9.9.9:53", "[fd00::1]:53"])))),
            (&[1], &["127.0.0.1"], None),
            (&[1], &["::1", "9.9.9.9"], None),
            (&[3], &[], None),
            (&[4], &[], None),
            (&[], &[], None),
        ];
        for (joined, servers, expected) in table {
            let dns = DnsConfig {
                nameservers: servers.iter().map(|&server| server.to_owned()).collect(),
                ..DnsConfig::default()
            };
            let dns_config = (!servers.is_empty()).then_some(dns);
            let spec = ContainerSpec { dns_config, ..ContainerSpec::default() };
            let joined = joined.iter().map(|&id| TaskNetwork {
                network_id: id.into(),
                aliases: Vec::new(),
                driver_opts: BTreeMap::new(),
                addresses: Vec::new(),
                connected: false,
            });
            let task =
                AssignedTask { networks: joined.collect(), ..crate::testing::task(spec.clone()) };
            let asker = asker(&task, &networks);
            let expected = expected.map(|(networks, forwards)| Asker {
                container: task.id.to_string(),
                networks: networks.iter().map(|&id| NetworkId::from(id).to_string()).collect(),
                hostname: task.id.to_string()[..12].to_owned(),
                forwards,
            });
            assert_eq!(asker, expected, "{servers:?}");
            let port = PortConfig {
                name: String::new(),
                protocol: Protocol::Udp,
                target_port: 53,
                published_port: 53,
                publish_mode: PublishMode::Host,
                host_ip: None,
            };
            let server = AssignedTask { ports: vec![port], ..task };
            assert_eq!(super::asker(&server, &networks), None, "it listens there itself");
        }
    }
}
