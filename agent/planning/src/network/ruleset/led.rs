//! What leads to services: of many of them only what has changed is looked at.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::balance::{self, Vip, Vips};
use super::element::{Collector, Word};
use super::mesh::Ports;
use super::{Family, SetName, sticky};
use crate::network::ingress::{Backend, Port};
use crate::network::{NetworkState, Subnet};

/// Addresses of services, and ports that answer on every node, beside what decides where they lead here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) vips: Vips,
    pub(super) bridges: Arc<Bridges>,
    pub(super) all_ports: OrdMap<Port, Arc<[Backend]>>,
    /// Not where no port leads anywhere.
    pub(super) ports: Option<Arc<Ports>>,
}

/// The subnets of networks that span hosts, with the bridge of each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bridges(Vec<(Subnet, String)>);

impl Bridges {
    pub(super) fn of<'a>(networks: impl Iterator<Item = &'a NetworkState>) -> Self {
        let of = |network: &'a NetworkState| {
            network.subnets.iter().map(|subnet| (*subnet, network.bridge.clone()))
        };
        Self(networks.filter(|network| network.routed).flat_map(of).collect())
    }

    /// A service leads somewhere for who comes by the bridge of its network, and for nobody else: what was led once
    /// counts as let in.
    fn of_vip(&self, vip: IpAddr) -> Option<&str> {
        let subnet = self.0.iter().find(|(subnet, _)| subnet.subnet.contains(&vip));
        subnet.map(|(_, bridge)| bridge.as_str())
    }
}

impl Led {
    /// All elements.
    pub(super) fn collect(&self, to: &mut Collector) {
        self.vips.iter().for_each(|(vip, service)| self.add_vip(*vip, service, to));
        self.all_ports.iter().for_each(|(port, backends)| self.add_port(*port, backends, to));
    }

    /// The elements `before` and `now` of all that differs.
    pub(super) fn differing(&self, from: &Self, before: &mut Collector, now: &mut Collector) {
        if self.bridges == from.bridges {
            for difference in from.vips.diff(&self.vips) {
                if let DiffItem::Remove(vip, old) | DiffItem::Update { old: (vip, old), .. } =
                    difference
                {
                    from.add_vip(*vip, old, before);
                }
                if let DiffItem::Add(vip, new) | DiffItem::Update { new: (vip, new), .. } =
                    difference
                {
                    self.add_vip(*vip, new, now);
                }
            }
        } else {
            from.vips.iter().for_each(|(vip, service)| from.add_vip(*vip, service, before));
            self.vips.iter().for_each(|(vip, service)| self.add_vip(*vip, service, now));
        }
        if self.ports == from.ports {
            for difference in from.all_ports.diff(&self.all_ports) {
                if let DiffItem::Remove(port, old) | DiffItem::Update { old: (port, old), .. } =
                    difference
                {
                    from.add_port(*port, old, before);
                }
                if let DiffItem::Add(port, new) | DiffItem::Update { new: (port, new), .. } =
                    difference
                {
                    self.add_port(*port, new, now);
                }
            }
        } else {
            from.all_ports.iter().for_each(|(port, of)| from.add_port(*port, of, before));
            self.all_ports.iter().for_each(|(port, of)| self.add_port(*port, of, now));
        }
    }

    fn add_vip(&self, vip: IpAddr, service: &Vip, to: &mut Collector) {
        let Some(bridge) = self.bridges.of_vip(vip) else { return };
        let (key, family) = (|| Word::Address(vip), Family::of(vip));
        if service.backends.is_empty() {
            to.add_of(family, SetName::Idle, vec![key()], vec![]);
            return;
        }
        to.add_of(family, SetName::Vips, vec![Word::Name(bridge.to_owned()), key()], vec![]);
        let mut add = |slot: u32, backend: &IpAddr| {
            let slot = vec![key(), Word::Slot(slot)];
            to.add_of(family, SetName::Backends, slot, vec![Word::Address(*backend)]);
        };
        let count = service.backends.len();
        if !service.sticky {
            balance::slots(count).zip(&*service.backends).for_each(|(slot, one)| add(slot, one));
            return;
        }
        let name = |backend: &IpAddr| match backend {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let names: Vec<Vec<u8>> = service.backends.iter().map(name).collect();
        for (slot, holder) in sticky::slots(count).zip(sticky::holders(&names)) {
            service.backends.get(holder).into_iter().for_each(|backend| add(slot, backend));
        }
        to.add_of(family, SetName::StickyVips, vec![key()], vec![]);
    }

    fn add_port(&self, port: Port, backends: &[Backend], to: &mut Collector) {
        if let Some(ports) = &self.ports {
            ports.add_port(port, backends, to);
        }
    }
}
