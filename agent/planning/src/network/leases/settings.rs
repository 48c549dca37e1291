//! Judging the settings of a network.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{InUse, LeaseError, Rules};
use crate::network::{NetworkConfig, pool};

/// Smallest packet size a link must carry (RFC 791).
pub(super) const MTU_MIN: u32 = 68;
/// Largest packet size IPv4 can express (RFC 791).
pub(super) const MTU_MAX: u32 = 65_535;

pub(super) fn choose_subnet(
    config: &NetworkConfig,
    rules: &Rules,
    used: &[InUse],
) -> Result<Ipv4Net, LeaseError> {
    let network = || label(config);
    if config.routed && config.subnet.is_none() {
        return Err(LeaseError::AddressMissing { network: network() });
    }
    let Some(subnet) = config.subnet else {
        if config.gateway.is_some() || config.ip_range.is_some() || !config.reserved.is_empty() {
            return Err(LeaseError::SubnetMissing { network: network() });
        }
        let used: Vec<Ipv4Net> = used.iter().map(|other| other.subnet).collect();
        return pool::choose_subnet(&rules.pools, &used)
            .ok_or_else(|| LeaseError::PoolExhausted { network: network() });
    };
    if subnet != subnet.trunc() {
        let meant = subnet.trunc();
        return Err(LeaseError::SubnetHostBits { network: network(), subnet, meant });
    }
    if let Some(range) = config.ip_range.filter(|range| !subnet.contains(range)) {
        return Err(LeaseError::RangeOutside { network: network(), range, subnet });
    }
    if let Some(&address) = config.reserved.iter().find(|address| !subnet.contains(*address)) {
        return Err(LeaseError::ReservedOutside { network: network(), address, subnet });
    }
    match used.iter().find(|other| pool::overlap(&subnet, &other.subnet)) {
        None => Ok(subnet),
        Some(InUse { subnet: other, by }) => Err(LeaseError::SubnetTaken {
            network: network(),
            subnet,
            other: *other,
            by: by.clone(),
        }),
    }
}

pub(super) fn choose_gateway(
    config: &NetworkConfig,
    subnet: Ipv4Net,
) -> Result<Ipv4Addr, LeaseError> {
    let network = || label(config);
    let first = pool::first_usable(&subnet)
        .ok_or_else(|| LeaseError::SubnetTooSmall { network: network(), subnet })?;
    let gateway = config.gateway.unwrap_or(first);
    if pool::is_usable(&subnet, gateway) {
        Ok(gateway)
    } else {
        Err(LeaseError::GatewayUnusable { network: network(), gateway, subnet })
    }
}

/// Whether nothing that reaches the kernel differs.
pub(super) fn same_settings(one: &NetworkConfig, other: &NetworkConfig) -> bool {
    let key = |config: &NetworkConfig| {
        let addresses = (config.subnet, config.gateway, config.ip_range, config.reserved.clone());
        (addresses, config.internal, config.mtu, config.routed)
    };
    key(one) == key(other)
}

/// What messages call a network.
pub(super) fn label(config: &NetworkConfig) -> String {
    if config.name.is_empty() { config.id.clone() } else { config.name.clone() }
}
