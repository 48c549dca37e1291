//! Ranges of addresses that hosts use for something else than the cluster's networks.
//!
//! Each is a subnet: of two that have an address in common one contains the other.

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use shoal_types::id::NodeId;
use shoal_types::object::Node;

use super::{Family, ends};

/// Whose they are, by their family, the first address of each and the number of bits that are left to those of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Hosts(OrdMap<Place, OrdSet<NodeId>>);

type Place = (Family, u128, u8);

fn place(subnet: &IpNet) -> Place {
    (Family::of(subnet), ends(subnet).0, subnet.max_prefix_len() - subnet.prefix_len())
}

fn mask(bits: u8) -> u128 {
    1u128.checked_shl(bits.into()).map_or(u128::MAX, |count| count - 1)
}

impl Hosts {
    pub(super) fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        if let (Some(old), Some(new)) = (old, new)
            && old.description.host_subnets == new.description.host_subnets
        {
            return;
        }
        for (node, place) in old.into_iter().flat_map(places) {
            let Some(nodes) = self.0.get_mut(&place) else { continue };
            nodes.remove(&node);
            if nodes.is_empty() {
                self.0.remove(&place);
            }
        }
        for (node, place) in new.into_iter().flat_map(places) {
            self.0.entry(place).or_default().insert(node);
        }
    }

    /// A range that has an address of this subnet, and who uses it.
    fn find(&self, subnet: &IpNet) -> Option<(Place, &OrdSet<NodeId>)> {
        let ((first, last), (family, _, own)) = (ends(subnet), place(subnet));
        let around = (own..=subnet.max_prefix_len()).find_map(|bits| {
            let at = (family, first & !mask(bits), bits);
            Some((at, self.0.get(&at)?))
        });
        let within = || {
            let (at, nodes) = self.0.get_prev(&(family, last, u8::MAX))?;
            (at.0 == family && at.1 >= first).then_some((*at, nodes))
        };
        around.or_else(within)
    }

    /// The last address of a range that has an address of this subnet.
    pub(super) fn taken_within(&self, subnet: &IpNet) -> Option<u128> {
        self.find(subnet).map(|((_, first, bits), _)| first | mask(bits))
    }

    /// The first of those who use an address of this subnet, and how many do in all.
    pub(super) fn users(&self, subnet: &IpNet) -> Option<(NodeId, usize)> {
        let (_, nodes) = self.find(subnet)?;
        Some((*nodes.get_min()?, nodes.len()))
    }
}

/// Each of a node's ranges once, whatever it says.
fn places(node: &Node) -> impl Iterator<Item = (NodeId, Place)> {
    let subnets = node.description.host_subnets.iter();
    subnets.map(|host| (node.id, place(&host.subnet.trunc())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;
    use shoal_types::object::{HostSubnet, Meta, NodeDescription, NodeStatus};
    use shoal_types::spec::NodeSpec;

    use super::*;

    fn node(id: u128, subnets: &[IpNet]) -> Node {
        let subnet = |subnet: &IpNet| HostSubnet { subnet: *subnet, interface: String::new() };
        let host_subnets = subnets.iter().map(subnet).collect();
        let description = NodeDescription { host_subnets, ..NodeDescription::default() };
        Node {
            id: id.into(),
            meta: Meta::default(),
            spec: NodeSpec::default(),
            description,
            status: NodeStatus::default(),
            tunnel_address: None,
            manager_status: None,
        }
    }

    /// Subnets near to each other.
    fn subnet() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 0..=32u8).prop_map(|(last, length)| {
            IpNet::new([10, 0, 0, last].into(), length).expect("a length of IPv4").trunc()
        });
        let v6 = (any::<u8>(), 0..=128u8).prop_map(|(last, length)| {
            let address = [0xfd00, 0, 0, 0, 0, 0, 0, last.into()];
            IpNet::new(IpAddr::from(address), length).expect("a length of IPv6").trunc()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn who_uses_a_subnet_is_found_whatever_came_and_went(
            steps in prop::collection::vec((0..4u128, prop::collection::vec(subnet(), 0..4)), 1..12),
            asked in prop::collection::vec(subnet(), 1..12),
        ) {
            let mut hosts = Hosts::default();
            let mut nodes: BTreeMap<u128, Node> = BTreeMap::new();
            for (id, subnets) in steps {
                let new = (!subnets.is_empty()).then(|| node(id, &subnets));
                hosts.node(nodes.get(&id), new.as_ref());
                nodes.remove(&id);
                nodes.extend(new.map(|new| (id, new)));
            }
            for subnet in asked {
                let uses = |node: &&Node| {
                    node.description.host_subnets.iter().any(|host| host.overlaps(&subnet))
                };
                let users: Vec<NodeId> = nodes.values().filter(uses).map(|node| node.id).collect();
                match hosts.users(&subnet) {
                    Some((first, count)) => {
                        prop_assert!(users.contains(&first) && count <= users.len());
                        let last = hosts.taken_within(&subnet).expect("used");
                        prop_assert!(last >= ends(&subnet).0);
                    }
                    None => prop_assert!(users.is_empty(), "{} of {:?}", subnet, users),
                }
            }
            for node in nodes.values() {
                hosts.node(Some(node), None);
            }
            prop_assert_eq!(hosts, Hosts::default());
        }
    }
}
