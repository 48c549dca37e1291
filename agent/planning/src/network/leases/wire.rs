//! What is on the wire of an interface of this node.

use std::net::IpAddr;

use shoal_types::spec::{Wire, WireMode};

use super::settings::label;
use super::{LeaseError, Leases, NetworkLease};
use crate::network::{AttachRequest, OnWire, Place};

impl Leases {
    /// How a container is on a wire, if the network is on one.
    pub(super) fn on_wire(
        &self,
        request: &AttachRequest,
        lease: &NetworkLease,
    ) -> Result<Option<OnWire>, LeaseError> {
        let NetworkLease { config, state } = lease;
        let (Some(wire), Some(place)) = (&config.wire, &state.wire) else { return Ok(None) };
        let others = self.attached().filter_map(|one| Some((one, one.wire.as_ref()?)));
        for (other, its) in others.filter(|(_, its)| its.link == place.link) {
            let (network, link) = (label(config), place.link.clone());
            if its.mode.is_for_one() || wire.mode.is_for_one() {
                let holder = other.container.clone();
                return Err(LeaseError::WireTaken { network, link, holder });
            }
            let both_macvlan = matches!(its.mode, WireMode::Macvlan(_))
                && matches!(wire.mode, WireMode::Macvlan(_));
            if !both_macvlan && its.mode != wire.mode {
                let other = self.label_of(&other.network);
                return Err(LeaseError::WireDiffers { network, link, other });
            }
        }
        Ok(Some(OnWire {
            link: place.link.clone(),
            index: request.link_index.unwrap_or_default(),
            mode: wire.mode,
        }))
    }

    /// Where a network on a wire is on this node; whether that is news.
    pub fn put_on_wire(&mut self, network: &str, place: &Place) -> bool {
        let Some(lease) = self.networks.get_mut(network) else { return false };
        let known = lease.state.wire.as_mut().filter(|known| *known != place);
        known.map(|known| known.clone_from(place)).is_some()
    }
}

/// Whether who has an address of a network can have its way out there. On a wire that takes a gateway that somebody has
/// named for the address's subnet, or a node that routes.
pub(super) fn leads_out(lease: &NetworkLease, address: IpAddr) -> bool {
    let NetworkLease { config, state } = lease;
    let by_wire = |wire: &Wire| {
        let subnet = config.subnets.iter().find(|one| one.subnet.contains(&address));
        wire.mode.is_routed() || subnet.is_some_and(|one| one.gateway.is_some())
    };
    !state.internal && config.wire.as_ref().is_none_or(by_wire)
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use shoal_types::spec::{IpvlanFlag, IpvlanMode, MacvlanMode, Parent, Wire};

    use super::super::{PublishError, Refusal, Rules};
    use super::*;
    use crate::network::{Family, NetworkConfig, Protocol, PublishedPort, SubnetConfig};

    const BRIDGE: WireMode = WireMode::Macvlan(MacvlanMode::Bridge);
    const L2: WireMode = WireMode::Ipvlan(IpvlanMode::L2, IpvlanFlag::Bridge);
    const L3: WireMode = WireMode::Ipvlan(IpvlanMode::L3, IpvlanFlag::Bridge);

    fn config(id: &str, parent: &str, mode: WireMode, gateway: &str) -> NetworkConfig {
        let subnet = SubnetConfig {
            gateway: gateway.parse().ok(),
            ..SubnetConfig::from("10.9.0.0/24".parse::<IpNet>().unwrap())
        };
        NetworkConfig {
            id: id.to_owned(),
            name: id.to_owned(),
            subnets: vec![subnet],
            wire: Some(Wire { parent: Parent::new(parent).unwrap(), mode, mtu: None }),
            ..NetworkConfig::default()
        }
    }

    fn request(container: &str, network: &str, last: u8) -> AttachRequest {
        AttachRequest {
            container: container.to_owned(),
            network: network.to_owned(),
            address: Some([10, 9, 0, last].into()),
            link_index: Some(7),
            ..AttachRequest::default()
        }
    }

    /// Networks on `up0`, by their names.
    fn book(networks: &[(&str, WireMode, &str)]) -> Leases {
        let mut leases = Leases::default();
        for (id, mode, gateway) in networks {
            let config = config(id, "up0", *mode, gateway);
            // Whatever the host has there.
            let subnet = config.subnets[0].subnet;
            let in_use = [super::super::InUse { subnet, by: "the host".to_owned() }];
            leases.ensure_network(&config, &Rules::default(), &in_use).unwrap();
        }
        leases
    }

    #[test]
    fn a_way_out_takes_a_gateway_or_a_node_that_routes() {
        for (mode, gateway, expected) in [
            (BRIDGE, "10.9.0.1", true),
            (BRIDGE, "", false),
            (L2, "", false),
            (L2, "10.9.0.9", true),
            (L3, "", true),
        ] {
            let mut leases = book(&[("lan", mode, gateway)]);
            let attached = leases.attach(&request("c", "lan", 5), &Rules::default()).unwrap();
            assert_eq!(attached.is_way_out(Family::V4), expected, "{mode:?} {gateway:?}");
            assert_eq!(attached.ends().next().unwrap().address.to_string(), "10.9.0.5/24");
            assert_eq!(attached.ends().next().unwrap().direct, mode == L3);
            // It is on no bridge, and nothing is led to it.
            assert_eq!((leases.networks().count(), leases.ports().count()), (0, 0));
            let host_ip = [0, 0, 0, 0].into();
            let (protocol, target_port) = (Protocol::Tcp, 80);
            let port = PublishedPort { host_ip, host_port: 80, protocol, target_port };
            let hold = |_: &PublishedPort| Ok::<_, Refusal<()>>(());
            let error = leases.publish("c", &[port], &Rules::default(), hold).unwrap_err();
            assert!(matches!(error, PublishError::Lease(LeaseError::NoWayIn { .. })));
        }
    }

    /// Of several subnets each has a gateway of its own, or none.
    #[test]
    fn a_way_out_is_by_the_gateway_of_the_own_subnet() {
        let mut config = config("lan", "up0", BRIDGE, "10.9.0.1");
        config.subnets.push("10.10.0.0/24".parse::<IpNet>().unwrap().into());
        let (mut leases, rules) = (Leases::default(), Rules::default());
        leases.ensure_network(&config, &rules, &[]).unwrap();
        for (container, address, expected) in
            [("one", [10, 9, 0, 5], true), ("two", [10, 10, 0, 5], false)]
        {
            let address = Some(address.into());
            let wanted = AttachRequest { address, ..request(container, "lan", 5) };
            let attached = leases.attach(&wanted, &rules).unwrap();
            assert_eq!(attached.is_way_out(Family::V4), expected, "{address:?}");
        }
    }

    #[test]
    fn the_way_out_goes_over_to_a_network_that_has_one() {
        let rules = Rules::default();
        let mut leases = book(&[("shut", BRIDGE, ""), ("lan", BRIDGE, "10.9.0.1")]);
        let bridge = NetworkConfig { id: "b".to_owned(), ..NetworkConfig::default() };
        leases.ensure_network(&bridge, &rules, &[]).unwrap();
        leases.attach(&AttachRequest { address: None, ..request("c", "b", 0) }, &rules).unwrap();
        assert!(!leases.attach(&request("c", "shut", 5), &rules).unwrap().is_way_out(Family::V4));
        assert!(!leases.attach(&request("c", "lan", 6), &rules).unwrap().is_way_out(Family::V4));
        leases.detach("c", "b");
        let of = |leases: &Leases| -> Vec<(String, bool)> {
            leases
                .attachments("c")
                .into_iter()
                .map(|a| (a.network.clone(), a.is_way_out(Family::V4)))
                .collect()
        };
        assert_eq!(of(&leases), [("shut".to_owned(), false), ("lan".to_owned(), true)]);
        leases.detach("c", "lan");
        assert_eq!(of(&leases), [("shut".to_owned(), false)]);
    }

    #[test]
    fn an_interface_is_shared_in_one_way() {
        let passthru = WireMode::Macvlan(MacvlanMode::Passthru);
        let private = WireMode::Macvlan(MacvlanMode::Private);
        for (first, second, expected) in [
            (BRIDGE, private, None),
            (L2, L2, None),
            (BRIDGE, L2, Some("with another driver or mode")),
            (L2, L3, Some("with another driver or mode")),
            (BRIDGE, passthru, Some("which container `c` has")),
            (passthru, BRIDGE, Some("which container `c` has")),
        ] {
            let mut leases = book(&[("a", first, ""), ("b", second, "")]);
            let rules = Rules::default();
            leases.attach(&request("c", "a", 5), &rules).unwrap();
            let error = leases.attach(&request("d", "b", 6), &rules).err().map(|e| e.to_string());
            match expected {
                None => assert_eq!(error, None),
                Some(text) => {
                    assert!(error.as_ref().is_some_and(|e| e.contains(text)), "{error:?}");
                }
            }
        }
    }

    #[test]
    fn another_interface_of_the_same_name_is_noted() {
        let mut leases = book(&[("lan", BRIDGE, "")]);
        let rules = Rules::default();
        leases.attach(&request("c", "lan", 5), &rules).unwrap();
        let again = AttachRequest { link_index: Some(9), ..request("c", "lan", 5) };
        assert_eq!(leases.attach(&again, &rules).unwrap().wire.unwrap().index, 9);
        let place = Place { link: "v5".to_owned(), made: None };
        assert!(leases.put_on_wire("lan", &place));
        assert!(!leases.put_on_wire("lan", &place));
        assert_eq!(leases.places().next(), Some(&place));
    }
}
