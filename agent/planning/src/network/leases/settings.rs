//! Judging the settings of a network.

use std::net::IpAddr;

use ipnet::IpNet;
use shoal_types::spec::overlap;

use super::{InUse, LeaseError, Rules};
use crate::network::{Family, NetworkConfig, Subnet, SubnetConfig, pool};

/// The subnets of a network, those of IPv4 first, that have nothing in common with each other or with what
/// is `used`.
pub(super) fn choose_subnets(
    config: &NetworkConfig,
    rules: &Rules,
    used: &[InUse],
) -> Result<Vec<Subnet>, LeaseError> {
    let network = || label(config);
    let mut used = used.to_vec();
    let mut chosen = Vec::new();
    for wanted in &config.subnets {
        check(config, wanted)?;
        let subnet = wanted.subnet;
        if let Some(InUse { subnet: other, by }) =
            used.iter().find(|other| overlap(&subnet, &other.subnet))
        {
            let (other, by) = (*other, by.clone());
            return Err(LeaseError::SubnetTaken { network: network(), subnet, other, by });
        }
        chosen.push(Subnet { subnet, gateway: choose_gateway(config, wanted)? });
        used.push(InUse { subnet, by: format!("network `{}` itself", network()) });
    }
    if config.without_v4 && !config.ipv6 {
        return Err(LeaseError::NoFamily { network: network() });
    }
    let has =
        |v6: bool, chosen: &[Subnet]| chosen.iter().any(|one| one.subnet.addr().is_ipv6() == v6);
    let lacks_v4 = !config.without_v4 && !has(false, &chosen);
    let lacks_v6 = config.ipv6 && !has(true, &chosen);
    if (config.routed || config.wire.is_some()) && (lacks_v4 || lacks_v6) {
        return Err(LeaseError::AddressMissing { network: network() });
    }
    let used: Vec<IpNet> = used.iter().map(|other| other.subnet).collect();
    let exhausted = || LeaseError::PoolExhausted { network: network() };
    if lacks_v4 {
        let subnet = pool::choose_subnet(&rules.pools, &used).ok_or_else(exhausted)?;
        let wanted = SubnetConfig::from(IpNet::from(subnet));
        chosen.push(Subnet { subnet: wanted.subnet, gateway: choose_gateway(config, &wanted)? });
    }
    if lacks_v6 {
        let subnet = pool::choose_v6_subnet(&rules.ula, &used).ok_or_else(exhausted)?;
        let wanted = SubnetConfig::from(IpNet::from(subnet));
        chosen.push(Subnet { subnet: wanted.subnet, gateway: choose_gateway(config, &wanted)? });
    }
    chosen.sort_by_key(|one| one.subnet.addr().is_ipv6());
    Ok(chosen)
}

fn check(config: &NetworkConfig, wanted: &SubnetConfig) -> Result<(), LeaseError> {
    let network = || label(config);
    let SubnetConfig { subnet, gateway: _, ip_range, reserved } = wanted;
    let subnet = *subnet;
    let family = Family::of(subnet.addr());
    let is_enabled = match family {
        Family::V4 => !config.without_v4,
        Family::V6 => config.ipv6,
    };
    if !is_enabled {
        return Err(LeaseError::FamilyNotEnabled { network: network(), subnet, family });
    }
    if subnet != subnet.trunc() {
        let meant = subnet.trunc();
        return Err(LeaseError::SubnetHostBits { network: network(), subnet, meant });
    }
    if let Some(range) = ip_range.filter(|range| !subnet.contains(range)) {
        return Err(LeaseError::RangeOutside { network: network(), range, subnet });
    }
    if let Some(&address) = reserved.iter().find(|address| !subnet.contains(*address)) {
        return Err(LeaseError::ReservedOutside { network: network(), address, subnet });
    }
    Ok(())
}

fn choose_gateway(config: &NetworkConfig, wanted: &SubnetConfig) -> Result<IpAddr, LeaseError> {
    let (network, subnet) = (|| label(config), wanted.subnet);
    let first = pool::first_usable(&subnet)
        .ok_or_else(|| LeaseError::SubnetTooSmall { network: network(), subnet })?;
    let gateway = wanted.gateway.unwrap_or(first);
    if pool::is_usable(&subnet, gateway) {
        Ok(gateway)
    } else {
        Err(LeaseError::GatewayUnusable { network: network(), gateway, subnet })
    }
}

/// Whether nothing that reaches the kernel differs.
pub(super) fn same_settings(one: &NetworkConfig, other: &NetworkConfig) -> bool {
    let key = |config: &NetworkConfig| {
        let NetworkConfig { subnets, ipv6, without_v4, internal, mtu, routed, wire, .. } =
            config.clone();
        (subnets, ipv6, without_v4, internal, mtu, routed, wire)
    };
    key(one) == key(other)
}

/// What messages call a network.
pub(super) fn label(config: &NetworkConfig) -> String {
    if config.name.is_empty() { config.id.clone() } else { config.name.clone() }
}
