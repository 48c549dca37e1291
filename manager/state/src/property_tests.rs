//! Whatever commands come, in whatever order: invariants hold, replicas agree, a refusal leaves no
//! trace, and a state survives being written down.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use shoal_types::id::IdSource as _;
use shoal_types::level::Level;
use shoal_types::object::Task;

use crate::testing::{Step, TestCluster, cluster_of, decide};
use crate::{ClusterState, apply, invariant};

/// Applies a step to the cluster and to its replica, and looks at everything that must hold.
fn step(
    cluster: &mut TestCluster,
    replica: &mut ClusterState,
    step: Step,
) -> Result<(), TestCaseError> {
    cluster.advance(Duration::from_secs(1));
    let command = decide(cluster, step);
    let before = cluster.state.clone();
    let index = before.applied_index() + 1;
    let shown = format!("{command:?}");
    let here = apply(&mut cluster.state, index, cluster.now, command.clone());
    let there = apply(replica, index, cluster.now, command);
    prop_assert_eq!(&here, &there);
    prop_assert!(cluster.state == *replica, "replicas differ after {}", shown);
    let wrong = invariant::check(&cluster.state);
    prop_assert!(wrong.is_empty(), "{:#?} after {}", wrong, shown);
    let events = cluster.state.take_events();
    replica.take_events();
    let untouched = {
        let mut before = before.clone();
        before.pass(index);
        if here.is_ok() {
            // Of credentials nobody hears.
            before.credentials = cluster.state.credentials.clone();
        }
        before == cluster.state
    };
    match here {
        Ok(_) => prop_assert_eq!(untouched, events.is_empty(), "{}", shown),
        Err(_) => prop_assert!(untouched && events.is_empty(), "{} left a trace", shown),
    }
    prop_assert!(only_climbed(&before, &cluster.state), "a task went back after {}", shown);
    Ok(())
}

fn only_climbed(before: &ClusterState, after: &ClusterState) -> bool {
    let fine = |old: &Task, new: &Task| {
        new.status.state.has_reached(old.status.state)
            && (new.desired_state == old.desired_state
                || old.desired_state.may_become(new.desired_state))
            && (old.node_id.is_none() || new.node_id == old.node_id)
    };
    before.tasks().all(|old| after.task(old.id).is_none_or(|new| fine(old, new)))
}

/// Where the steps begin: a cluster of some level with two nodes, or nothing at all.
fn start(level: u32) -> TestCluster {
    let (mut cluster, _) = cluster_of(Level::new(level), 2);
    if level == 0 {
        cluster.state = ClusterState::new();
    }
    cluster
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<Step>(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_commands_keep_the_invariants(level in 0..5u32, steps in steps()) {
        let mut cluster = start(level);
        cluster.events();
        let mut replica = cluster.state.clone();
        for next in steps {
            step(&mut cluster, &mut replica, next)?;
        }
        let mut objects = cluster.state.export();
        let applied = cluster.state.applied_index();
        let credentials = cluster.state.credentials().map(|(id, c)| (id, c.clone()));
        let credentials: Vec<_> = credentials.collect();
        let imported = ClusterState::import(applied, objects.clone()).unwrap();
        prop_assert!(imported.with_credentials(credentials.clone()).unwrap() == cluster.state);
        objects.reverse();
        let imported = ClusterState::import(applied, objects).unwrap();
        prop_assert!(imported.with_credentials(credentials).unwrap() == cluster.state);
    }
}

/// The property above says little if most commands are refused: every kind must get through.
#[test]
fn every_kind_of_command_gets_through() {
    let mut source = shoal_types::id::SeededIds::new(3);
    let mut applied = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for round in 0..450 {
        let mut cluster = start(round % 5);
        for _ in 0..120 {
            let [kind, a, b, c, ..] = source.next_bits().to_le_bytes();
            let command = decide(&mut cluster, (kind, a, b, c));
            let name = format!("{command:?}").split(' ').next().unwrap_or_default().to_owned();
            let count = applied.entry(name).or_insert(0);
            let result = cluster.try_apply(command);
            *count += u32::from(result.is_ok());
            if let Err(rejected) = result {
                let name = format!("{rejected:?}").split(' ').next().unwrap_or_default().to_owned();
                *refused.entry(name).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(applied.len(), 36, "{applied:?}");
    assert!(applied.values().all(|n| *n > 10), "{applied:?}");
    for name in ["Connection(AlreadyConnected", "Connection(Excluded", "Connection(OfService"] {
        assert!(refused.get(name).is_some_and(|n| *n > 5), "{name}: {refused:?}");
    }
    for name in ["SubnetUnusable", "SubnetTaken", "PoolsExhausted", "NoFreeAddress", "PortInUse"] {
        assert!(refused.get(name).is_some_and(|n| *n > 5), "{name}: {refused:?}");
    }
}
