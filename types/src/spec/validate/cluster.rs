//! Checks of the cluster's settings.

use std::time::Duration;

#[cfg(test)]
use super::super::TunnelKeySpec;
use super::super::{AddressPool, ClusterSpec, overlap};
use super::{Check, service};

/// Below, a busy host would count as lost; above, a lost one would not be noticed for minutes.
const HEARTBEAT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// Docker's minimum, and ten years.
const CERTIFICATE: [Duration; 2] =
    [Duration::from_secs(3600), Duration::from_secs(10 * 365 * 24 * 3600)];

/// Below, nodes would do little else, and one that is away for a moment would find others' keys changed; above, nobody
/// remembers it.
const TUNNEL_KEYS: [Duration; 2] =
    [Duration::from_secs(600), Duration::from_secs(10 * 365 * 24 * 3600)];

/// Ended tasks stay in the memory of every manager, for each slot so many.
const HISTORY_MAX: u64 = 1000;

/// Prefix lengths of subnets: one larger has more addresses than a cluster has containers, one smaller
/// none beside that of the nodes.
pub(super) const SUBNET_LENGTHS: [u8; 2] = [8, 30];

pub(super) fn cluster(c: &mut Check, spec: &ClusterSpec) {
    c.name(&spec.name);
    service::labels(c, &spec.labels);
    c.at("task_history_retention_limit", |c| {
        let limit = spec.task_history_retention_limit;
        let expected = format!("is out of range: expected 0 to {HISTORY_MAX}");
        c.that(limit <= HISTORY_MAX, limit.to_string(), &expected);
    });
    c.at("heartbeat_period", |c| within(c, spec.heartbeat_period, HEARTBEAT));
    c.at("node_cert_expiry", |c| within(c, spec.node_cert_expiry, CERTIFICATE));
    c.each("address_pools", &spec.address_pools, pool);
    c.at("address_pools", |c| apart(c, &spec.address_pools));
    c.at("tunnel_keys.period", |c| {
        // Zero is for ever.
        if let Some(period) = spec.tunnel_keys.period.filter(|period| !period.is_zero()) {
            within(c, period, TUNNEL_KEYS);
        }
    });
}

fn pool(c: &mut Check, pool: &AddressPool) {
    let base = pool.base;
    c.at("base", |c| {
        let expected = format!("has host bits set: expected {}", base.trunc());
        c.that(base.addr() == base.network(), base, &expected);
    });
    let least = base.prefix_len().max(SUBNET_LENGTHS[0]);
    c.at("size", |c| {
        let most = SUBNET_LENGTHS[1];
        let expected = format!("is out of range: expected {least} to {most} for a part of {base}");
        c.that((least..=most).contains(&pool.size), pool.size, &expected);
    });
}

/// One address is in one pool.
fn apart(c: &mut Check, pools: &[AddressPool]) {
    for (i, pool) in pools.iter().enumerate() {
        let overlaps = |other: &&AddressPool| overlap(&other.base.into(), &pool.base.into());
        if let Some(other) = pools.iter().take(i).find(overlaps) {
            let text = format!("overlaps {}: expected ranges of their own", other.base);
            c.at(format!("[{i}].base"), |c| c.wrong(pool.base, text));
        }
    }
}

fn within(c: &mut Check, value: Duration, [least, most]: [Duration; 2]) {
    let expected = format!("is out of range: expected {least:?} to {most:?}");
    c.that((least..=most).contains(&value), format!("{value:?}"), &expected);
}

#[test]
fn settings_that_would_harm_are_refused() {
    assert_eq!(ClusterSpec::default().validate(), Ok(()));
    let spec = ClusterSpec {
        name: "A B".to_owned(),
        task_history_retention_limit: 1001,
        heartbeat_period: Duration::ZERO,
        node_cert_expiry: Duration::from_secs(60),
        address_pools: [("10.1.0.1/16", 24), ("10.2.0.0/16", 31), ("10.3.0.0/16", 8)]
            .into_iter()
            .chain([("10.0.0.0/8", 24), ("192.168.0.0/24", 24), ("192.168.0.0/24", 24)])
            .map(|(base, size)| AddressPool { base: base.parse().unwrap(), size })
            .collect(),
        tunnel_keys: TunnelKeySpec { period: Some(Duration::from_secs(599)), force_rotate: 0 },
        ..ClusterSpec::default()
    };
    let said = spec.validate().unwrap_err().to_string();
    for part in [
        "name: \"A B\" is not a name",
        "task_history_retention_limit: \"1001\" is out of range: expected 0 to 1000",
        "heartbeat_period: \"0ns\" is out of range: expected 100ms to 60s",
        "node_cert_expiry: \"60s\" is out of range: expected 3600s to",
        "address_pools[0].base: \"10.1.0.1/16\" has host bits set: expected 10.1.0.0/16",
        "address_pools[1].size: \"31\" is out of range: expected 16 to 30 for a part of 10.2.0.0/16",
        "address_pools[2].size: \"8\" is out of range: expected 16 to 30 for a part of 10.3.0.0/16",
        "address_pools[3].base: \"10.0.0.0/8\" overlaps 10.1.0.1/16: expected ranges of their own",
        "tunnel_keys.period: \"599s\" is out of range: expected 600s to",
        "address_pools[5].base: \"192.168.0.0/24\" overlaps 192.168.0.0/24: expected",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn keys_can_be_kept_for_ever() {
    let with = |period| {
        let tunnel_keys = TunnelKeySpec { period, force_rotate: 0 };
        ClusterSpec { tunnel_keys, ..ClusterSpec::default() }
    };
    let hour = Duration::from_hours(1);
    for (period, expected) in [
        (None, Some(TunnelKeySpec::USUAL_PERIOD)),
        (Some(Duration::ZERO), None),
        (Some(hour), Some(hour)),
    ] {
        let spec = with(period);
        assert_eq!((spec.validate(), spec.tunnel_keys.period()), (Ok(()), expected), "{period:?}");
    }
}
