//! Epochs of the tunnels' keys: when they begin and end, and who is waited for.

use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};
use shoal_types::id::NodeId;
use shoal_types::object::{
    DescribedKeys, ManagerStatus, NodeDescription, NodeState, NodeStatus, TunnelDescription,
    TunnelEpochs, TunnelKeys,
};
use shoal_types::spec::{ClusterSpec, TunnelKeySpec};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// A cluster of the level that brought epochs, whose nodes have tunnels with keys of the first one.
fn cluster(nodes: usize) -> (TestCluster, Vec<NodeId>) {
    let (mut cluster, nodes) = cluster_with_nodes(nodes);
    let status = Some(ManagerStatus { raft_id: 1, addr: "h:1".to_owned(), level: Level::KEYS });
    cluster.apply(Command::SetManagerStatus { id: nodes[0], status });
    cluster.apply(Command::RaiseLevel { level: Level::KEYS });
    for (n, node) in nodes.iter().enumerate() {
        let n = u8::try_from(n).expect("few");
        cluster.set_level(*node, Level::KEYS);
        cluster.give_tunnel(*node, n + 1, n + 1);
        say(&mut cluster, *node, Some((0, 0)));
    }
    (cluster, nodes)
}

/// A node says of which epoch its key is, and how many others it reaches by links of an earlier one.
fn say(cluster: &mut TestCluster, id: NodeId, keys: Option<(u64, u32)>) {
    say_all(cluster, id, keys.map(|(epoch, lagging)| (epoch, lagging, 0)));
}

/// And of how many it knows no key of the present one.
fn say_all(cluster: &mut TestCluster, id: NodeId, keys: Option<(u64, u32, u32)>) {
    let node = cluster.state.node(id).expect("it is there").clone();
    let keys = keys.map(|(epoch, lagging, lacking)| {
        let other = None;
        DescribedKeys { epoch, other, lagging, lacking }
    });
    let tunnel = node.description.tunnel.map(|tunnel| TunnelDescription { keys, ..tunnel });
    let description = Some(NodeDescription { tunnel, ..node.description.clone() });
    cluster.apply(Command::ReportNode { id, description, status: node.status.clone() });
}

fn becomes(cluster: &mut TestCluster, id: NodeId, state: NodeState) {
    let known = cluster.state.node(id).expect("it is there").status.clone();
    let status = NodeStatus { state, ..known };
    cluster.apply(Command::ReportNode { id, description: None, status });
}

fn set(cluster: &mut TestCluster, tunnel_keys: TunnelKeySpec) {
    let known = cluster.state.cluster().expect("there is one");
    let expected_spec_version = known.meta.spec_version;
    let spec = ClusterSpec { tunnel_keys, ..known.spec.clone() };
    cluster.apply(Command::UpdateCluster { expected_spec_version, spec });
}

fn keys(cluster: &TestCluster) -> TunnelKeys {
    cluster.state.cluster().expect("there is one").tunnel_keys
}

/// Carries out what is planned, until nothing is. Somebody who has just begun to lead plans the same.
fn settle(cluster: &mut TestCluster, memory: &mut Memory) -> Plan {
    loop {
        let now = cluster.now;
        memory.forget();
        let plan = plan(&cluster.state, memory, now);
        assert_eq!(plan, super::plan(&cluster.state, &mut Memory::default(), now));
        if plan.commands.is_empty() {
            return plan;
        }
        // Nothing has come of it: it is planned again.
        assert_eq!(plan.commands, super::plan(&cluster.state, memory, now).commands);
        for command in plan.commands {
            cluster.apply(command);
        }
    }
}

#[test]
fn an_epoch_begins_after_a_day_and_ends_when_all_have_followed() {
    let (mut cluster, nodes) = cluster(2);
    let mut memory = Memory::default();
    let began = cluster.state.cluster().expect("there is one").meta.created_at;
    let plan = settle(&mut cluster, &mut memory);
    assert_eq!(plan.wake_at, Some(began + TunnelKeySpec::USUAL_PERIOD));
    assert_eq!(keys(&cluster), TunnelKeys::default());
    cluster.advance(TunnelKeySpec::USUAL_PERIOD);
    let plan = settle(&mut cluster, &mut memory);
    let since = cluster.now;
    let both = TunnelEpochs { present: 1, former: Some(0) };
    assert_eq!(keys(&cluster), TunnelKeys { epochs: both, since, forced: 0 });
    assert_eq!(plan.wake_at, Some(since + AWAY_MAX));
    let waits = |cluster: &TestCluster| -> Vec<NodeId> {
        waits_for(&cluster.state, cluster.now).map(|node| node.id).collect()
    };
    assert_eq!(waits(&cluster), nodes);
    say(&mut cluster, nodes[0], Some((1, 0)));
    settle(&mut cluster, &mut memory);
    assert_eq!((keys(&cluster).epochs, waits(&cluster)), (both, vec![nodes[1]]));
    // However long that takes: a link that no packet passes stays where it is.
    say(&mut cluster, nodes[1], Some((1, 1)));
    cluster.advance(AWAY_MAX * 10);
    settle(&mut cluster, &mut memory);
    assert_eq!((keys(&cluster).epochs, waits(&cluster)), (both, vec![nodes[1]]));
    say(&mut cluster, nodes[1], Some((1, 0)));
    let plan = settle(&mut cluster, &mut memory);
    let one = TunnelEpochs { present: 1, former: None };
    assert_eq!(keys(&cluster), TunnelKeys { epochs: one, since, forced: 0 });
    assert_eq!(plan.wake_at, Some(since + TunnelKeySpec::USUAL_PERIOD));
}

/// Nodes make their keys at the same time, and none of them has heard of another's.
#[test]
fn nobody_is_through_before_it_knows_the_keys_of_others() {
    let (mut cluster, nodes) = cluster(2);
    let mut memory = Memory::default();
    cluster.advance(TunnelKeySpec::USUAL_PERIOD);
    settle(&mut cluster, &mut memory);
    let mut is_over = |said: [(u64, u32, u32); 2]| {
        for (node, said) in nodes.iter().zip(said) {
            say_all(&mut cluster, *node, Some(said));
        }
        settle(&mut cluster, &mut memory);
        keys(&cluster).epochs.former.is_none()
    };
    assert!(!is_over([(1, 0, 1), (1, 0, 1)]));
    assert!(!is_over([(1, 1, 0), (1, 0, 1)]));
    assert!(!is_over([(1, 0, 0), (1, 0, 1)]));
    assert!(is_over([(1, 0, 0), (1, 0, 0)]));
}

#[test]
fn somebody_wants_other_keys_at_once_or_never() {
    let (mut cluster, nodes) = cluster(1);
    let mut memory = Memory::default();
    set(&mut cluster, TunnelKeySpec { period: Some(Duration::ZERO), force_rotate: 0 });
    cluster.advance(HOUR * 1000);
    assert_eq!(settle(&mut cluster, &mut memory).wake_at, None);
    assert_eq!(keys(&cluster), TunnelKeys::default());
    set(&mut cluster, TunnelKeySpec { period: Some(Duration::ZERO), force_rotate: 1 });
    settle(&mut cluster, &mut memory);
    let forced = |present, former, forced| {
        move |keys: TunnelKeys| {
            (keys.epochs, keys.forced) == (TunnelEpochs { present, former }, forced)
        }
    };
    assert!(forced(1, Some(0), 1)(keys(&cluster)));
    // Once more, while that is under way: afterwards.
    set(&mut cluster, TunnelKeySpec { period: Some(Duration::ZERO), force_rotate: 2 });
    settle(&mut cluster, &mut memory);
    assert!(forced(1, Some(0), 1)(keys(&cluster)));
    say(&mut cluster, nodes[0], Some((1, 0)));
    settle(&mut cluster, &mut memory);
    assert!(forced(2, Some(1), 2)(keys(&cluster)));
    say(&mut cluster, nodes[0], Some((2, 0)));
    settle(&mut cluster, &mut memory);
    assert!(forced(2, None, 2)(keys(&cluster)));
    set(&mut cluster, TunnelKeySpec { period: Some(HOUR), force_rotate: 2 });
    assert!(settle(&mut cluster, &mut memory).wake_at.is_some());
    cluster.advance(HOUR);
    settle(&mut cluster, &mut memory);
    assert!(forced(3, Some(2), 2)(keys(&cluster)));
}

#[test]
fn who_has_one_key_for_ever_hinders_while_it_is_there() {
    let (mut cluster, nodes) = cluster(2);
    let mut memory = Memory::default();
    say(&mut cluster, nodes[1], None);
    cluster.advance(TunnelKeySpec::USUAL_PERIOD);
    settle(&mut cluster, &mut memory);
    assert_eq!(keys(&cluster).epochs, TunnelEpochs::default());
    assert_eq!(hinders(&cluster.state).map(|node| node.id), Some(nodes[1]));
    becomes(&mut cluster, nodes[1], NodeState::Down);
    settle(&mut cluster, &mut memory);
    assert_eq!(keys(&cluster).epochs, TunnelEpochs { present: 1, former: Some(0) });
    // And it is waited for in vain when it is back.
    becomes(&mut cluster, nodes[1], NodeState::Ready);
    say(&mut cluster, nodes[0], Some((1, 0)));
    settle(&mut cluster, &mut memory);
    assert_eq!(keys(&cluster).epochs.former, None);
}

#[test]
fn who_is_away_is_waited_for_and_then_given_up() {
    let (mut cluster, nodes) = cluster(3);
    let mut memory = Memory::default();
    cluster.advance(TunnelKeySpec::USUAL_PERIOD);
    settle(&mut cluster, &mut memory);
    becomes(&mut cluster, nodes[2], NodeState::Down);
    // They may reach it all the same: it has no key of the present epoch.
    say_all(&mut cluster, nodes[0], Some((1, 0, 1)));
    say_all(&mut cluster, nodes[1], Some((1, 0, 1)));
    cluster.advance(AWAY_MAX - Duration::from_secs(1));
    let plan = settle(&mut cluster, &mut memory);
    assert_eq!(plan.wake_at, Some(keys(&cluster).since + AWAY_MAX));
    assert_eq!(waits_for(&cluster.state, cluster.now).count(), 3);
    cluster.advance(Duration::from_secs(1));
    // No event tells of that.
    let mut late = memory;
    assert_eq!(super::plan(&cluster.state, &mut late, cluster.now).commands.len(), 1);
    // It is given up, and no link between those that are there: there may be a firewall.
    // Nor one of whose key it has not heard yet.
    for (lagging, lacking) in [(1, 0), (1, 1), (0, 2)] {
        say_all(&mut cluster, nodes[0], Some((1, lagging, lacking)));
        settle(&mut cluster, &mut memory);
        assert_eq!(keys(&cluster).epochs.former, Some(0), "{lagging} {lacking}");
    }
    say_all(&mut cluster, nodes[0], Some((1, 0, 1)));
    settle(&mut cluster, &mut memory);
    assert_eq!(keys(&cluster).epochs, TunnelEpochs { present: 1, former: None });
    // It comes back with a key of the epoch that it knows, and the next one waits for nothing of that.
    becomes(&mut cluster, nodes[2], NodeState::Ready);
    settle(&mut cluster, &mut memory);
    assert_eq!(keys(&cluster).epochs, TunnelEpochs { present: 1, former: None });
}

#[test]
fn a_step_is_taken_from_where_it_was_planned() {
    let (mut cluster, _) = cluster(1);
    let at = |present, former| TunnelEpochs { present, former };
    let step = |from, to| Command::SetTunnelEpochs { from, to, forced: 0 };
    for (from, to) in [
        (at(0, None), at(0, None)),
        (at(0, None), at(2, Some(1))),
        (at(0, None), at(1, None)),
        (at(1, Some(0)), at(1, None)),
    ] {
        assert!(cluster.try_apply(step(from, to)).is_err(), "{from:?} {to:?}");
    }
    cluster.apply(step(at(0, None), at(1, Some(0))));
    assert!(cluster.try_apply(step(at(0, None), at(1, Some(0)))).is_err());
    assert!(cluster.try_apply(step(at(1, Some(0)), at(2, Some(1)))).is_err());
    cluster.apply(step(at(1, Some(0)), at(1, None)));
}
