//! Which nodes count as lost.

use std::collections::BTreeMap;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::{NodeState, NodeStatus};
use shoal_types::spec::ClusterSpec;
use shoal_types::time::Timestamp;

use crate::Plan;

/// Heartbeats a node may miss before it counts as lost.
pub const GRACE_PERIODS: u32 = 3;

/// The same after a change of leader, while agents are still looking for the new one.
pub const GRACE_PERIODS_NEW_LEADER: u32 = 6;

/// When each connected node was last heard of, by the leader's clock.
pub type LastHeard = BTreeMap<NodeId, Timestamp>;

/// Declares nodes lost that have been silent for too long.
///
/// `leader_since` is when this manager began to lead: silence from before that says nothing, and
/// neither does what was heard before. A node that has joined since then has the same time to
/// connect as the others had.
#[must_use]
pub fn plan(
    view: &ClusterState,
    heard: &LastHeard,
    leader_since: Timestamp,
    now: Timestamp,
) -> Plan {
    let default = || ClusterSpec::default().heartbeat_period;
    let period = view.cluster().map_or_else(default, |c| c.spec.heartbeat_period);
    let mut plan = Plan::default();
    for node in view.nodes().filter(|n| n.status.state != NodeState::Down) {
        let (last, grace) = match heard.get(&node.id).filter(|at| **at >= leader_since) {
            Some(at) => (*at, period * GRACE_PERIODS),
            None => (leader_since.max(node.status.since), period * GRACE_PERIODS_NEW_LEADER),
        };
        let lost_at = last + grace;
        if now < lost_at {
            plan.wake(lost_at);
            continue;
        }
        plan.push(Command::ReportNode {
            id: node.id,
            description: None,
            status: NodeStatus {
                state: NodeState::Down,
                message: "heartbeat failure".to_owned(),
                addr: node.status.addr,
                since: now,
            },
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_manager_state::testing::{cluster_with_nodes, node_description};
    use shoal_types::spec::NodeSpec;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(2);

    fn lost(plan: &Plan) -> Vec<NodeId> {
        let of = |command: &Command| match command {
            Command::ReportNode { id, status, .. } => {
                assert_eq!(status.state, NodeState::Down);
                *id
            }
            other => panic!("{other:?}"),
        };
        plan.commands.iter().map(of).collect()
    }

    #[test]
    fn a_silent_node_is_lost_after_three_periods_and_six_under_a_new_leader() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        cluster.advance(Duration::from_secs(100));
        let since = cluster.now;
        let heard = LastHeard::from([(nodes[0], since + PERIOD)]);
        let at = |periods: u32| plan(&cluster.state, &heard, since, since + PERIOD * periods);
        assert_eq!(lost(&at(3)), []);
        assert_eq!(at(3).wake_at, Some(since + PERIOD * 4));
        assert_eq!(lost(&at(4)), [nodes[0]]);
        let both = at(6);
        assert_eq!(lost(&both).len(), 2);
        both.commands.into_iter().for_each(|c| drop(cluster.apply(c)));
        assert_eq!(plan(&cluster.state, &heard, since, since + PERIOD * 60), Plan::default());
    }

    #[test]
    fn a_node_that_has_just_joined_gets_time_to_connect() {
        let (mut cluster, _) = cluster_with_nodes(0);
        let since = cluster.now;
        cluster.advance(Duration::from_secs(1000));
        let (id, spec) = (7.into(), NodeSpec::default());
        cluster.apply(Command::CreateNode { id, spec, description: node_description("new") });
        let now = cluster.now;
        assert_eq!(lost(&plan(&cluster.state, &LastHeard::new(), since, now)), []);
        let late = now + PERIOD * GRACE_PERIODS_NEW_LEADER;
        assert_eq!(lost(&plan(&cluster.state, &LastHeard::new(), since, late)), [id]);
    }

    #[test]
    fn what_was_heard_before_another_manager_led_says_nothing() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let heard = LastHeard::from([(nodes[0], cluster.now)]);
        cluster.advance(Duration::from_secs(1000));
        assert_eq!(lost(&plan(&cluster.state, &heard, cluster.now, cluster.now)), []);
    }
}
