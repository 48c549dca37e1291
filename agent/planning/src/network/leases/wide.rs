//! Networks whose packets are larger where the tunnel to other hosts takes them.

use std::collections::BTreeSet;

use super::Leases;
use crate::network::NetworkConfig;

/// The largest packet of a network, in bytes, by a tunnel that takes so much; zero where that does not matter to it.
pub(super) fn size(config: &NetworkConfig, widest: u32) -> u32 {
    config.wide.map_or(0, |limit| limit.min(widest))
}

impl Leases {
    /// Packets up to this size fit the tunnel. Networks that may have larger ones than they had do from now on, and their
    /// containers, of which each is unfinished until it has them, too; none has smaller ones, as what passes to whom is
    /// up to the routes. Says which containers have changed.
    pub fn widen(&mut self, widest: u32) -> BTreeSet<String> {
        self.widest = widest;
        for lease in self.networks.values_mut() {
            lease.state.mtu = lease.state.mtu.max(size(&lease.config, widest));
        }
        let mut changed = BTreeSet::new();
        for (id, container) in &mut self.containers {
            for (network, attached) in &mut container.attachments {
                let lease = self.networks.get(network).filter(|lease| lease.state.routed);
                if let Some(lease) = lease.filter(|lease| lease.state.mtu > attached.mtu) {
                    attached.mtu = lease.state.mtu;
                    container.unfinished.insert(network.clone());
                    changed.insert(id.clone());
                }
            }
        }
        changed
    }

    /// Whether anything would change.
    #[must_use]
    pub fn would_widen(&self, widest: u32) -> bool {
        let grows = |lease: &super::NetworkLease| lease.state.mtu < size(&lease.config, widest);
        let lags = |attached: &crate::network::Attached| {
            let lease = self.networks.get(&attached.network).filter(|lease| lease.state.routed);
            lease.is_some_and(|lease| lease.state.mtu > attached.mtu)
        };
        self.widest != widest || self.networks.values().any(grows) || self.attached().any(lags)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::network::AttachRequest;
    use crate::network::leases::Rules;

    fn config(id: &str, mtu: u32, wide: Option<u32>) -> NetworkConfig {
        let number = id.len();
        NetworkConfig {
            id: id.to_owned(),
            subnets: vec![format!("10.0.{number}.0/24").parse::<ipnet::IpNet>().unwrap().into()],
            mtu: Some(mtu),
            wide,
            routed: true,
            ..NetworkConfig::default()
        }
    }

    fn attach(leases: &mut Leases, container: &str, network: &str, last: u8) -> u32 {
        let address = [10, 0, u8::try_from(network.len()).unwrap(), last].into();
        let request = AttachRequest {
            container: container.to_owned(),
            network: network.to_owned(),
            address: Some(address),
            ..AttachRequest::default()
        };
        let attached = leases.attach(&request, &Rules::default()).unwrap();
        assert_eq!(attached.v4.map(|v4| IpAddr::from(v4.address.addr())), Some(address.into()));
        leases.finish(container, network);
        attached.mtu
    }

    #[test]
    fn networks_and_containers_have_what_the_tunnel_takes_and_never_less_than_they_had() {
        let mut leases = Leases::default();
        let all = [
            config("a", 1420, Some(8920)),
            config("bb", 1420, Some(4000)),
            config("ccc", 1280, None),
        ];
        let ensure = |leases: &mut Leases| {
            let ensured =
                |config| leases.ensure_network(config, &Rules::default(), &[]).unwrap().mtu;
            all.iter().map(ensured).collect::<Vec<_>>()
        };
        assert_eq!(ensure(&mut leases), [1420, 1420, 1280]);
        let first = ["a", "bb", "ccc"].map(|network| attach(&mut leases, "x", network, 2));
        assert_eq!(first, [1420, 1420, 1280]);
        assert!(leases.would_widen(8920));
        assert_eq!(leases.widen(8920), ["x".to_owned()].into());
        assert!(!leases.would_widen(8920) && leases.would_widen(1420));
        assert_eq!(ensure(&mut leases), [8920, 4000, 1280]);
        let unfinished: Vec<String> = leases.unfinished().map(|of| of.1).collect();
        assert_eq!(unfinished, ["a", "bb"]);
        let sizes =
            |leases: &Leases| leases.attachments("x").iter().map(|one| one.mtu).collect::<Vec<_>>();
        assert_eq!(sizes(&leases), [8920, 4000, 1280]);
        assert_eq!(attach(&mut leases, "y", "a", 3), 8920);
        assert_eq!(leases.widen(1420), BTreeSet::new());
        assert_eq!(
            (ensure(&mut leases), sizes(&leases)),
            (vec![8920, 4000, 1280], vec![8920, 4000, 1280])
        );
        // What is made while it takes less has less.
        let late = NetworkConfig {
            subnets: vec!["10.0.9.0/24".parse::<ipnet::IpNet>().unwrap().into()],
            ..config("d", 1420, Some(8920))
        };
        assert_eq!(leases.ensure_network(&late, &Rules::default(), &[]).unwrap().mtu, 1420);
    }

    /// A container whose page was not written before the agent ended.
    #[test]
    fn what_an_agent_had_not_written_down_is_done_by_the_next_one() {
        let mut leases = Leases::default();
        leases.ensure_network(&config("a", 1420, Some(8920)), &Rules::default(), &[]).unwrap();
        attach(&mut leases, "x", "a", 2);
        let containers = leases.containers.clone();
        leases.widen(8920);
        let mut next = Leases::restore(leases.network_pages().clone(), containers);
        next.widest = 8920;
        assert!(next.would_widen(8920));
        assert_eq!(next.widen(8920), ["x".to_owned()].into());
        assert!(!next.would_widen(8920));
    }
}
