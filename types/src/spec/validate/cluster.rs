//! Checks of the cluster's settings.

use std::time::Duration;

use super::super::ClusterSpec;
use super::{Check, service};

/// Below, a busy host would count as lost; above, a lost one would not be noticed for minutes.
const HEARTBEAT: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// Docker's minimum, and ten years.
const CERTIFICATE: [Duration; 2] =
    [Duration::from_secs(3600), Duration::from_secs(10 * 365 * 24 * 3600)];

/// Ended tasks stay in the memory of every manager, for each slot so many.
const HISTORY_MAX: u64 = 1000;

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
        ..ClusterSpec::default()
    };
    let said = spec.validate().unwrap_err().to_string();
    for part in [
        "name: \"A B\" is not a name",
        "task_history_retention_limit: \"1001\" is out of range: expected 0 to 1000",
        "heartbeat_period: \"0ns\" is out of range: expected 100ms to 60s",
        "node_cert_expiry: \"60s\" is out of range: expected 3600s to",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
