//! Checks of the cluster's settings.

use std::time::Duration;

use super::super::ClusterSpec;
use super::{Check, service};

/// Below, a busy host would count as lost; above, a lost one would not be noticed for minutes.
const HEARTBEAT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// Docker's minimum, and ten years.
const CERTIFICATE: [Duration; 2] =
    [Duration::from_secs(3600), Duration::from_secs(10 * 365 * 24 * 3600)];

pub(super) fn cluster(c: &mut Check, spec: &ClusterSpec) {
    c.name(&spec.name);
    service::labels(c, &spec.labels);
    c.at("heartbeat_period", |c| within(c, spec.heartbeat_period, HEARTBEAT));
    c.at("node_cert_expiry", |c| within(c, spec.node_cert_expiry, CERTIFICATE));
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
        heartbeat_period: Duration::ZERO,
        node_cert_expiry: Duration::from_secs(60),
        ..ClusterSpec::default()
    };
    let said = spec.validate().unwrap_err().to_string();
    for part in [
        "name: \"A B\" is not a name",
        "heartbeat_period: \"0ns\" is out of range: expected 100ms to 60s",
        "node_cert_expiry: \"60s\" is out of range: expected 3600s to",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
