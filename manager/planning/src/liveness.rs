//! Which nodes count as lost.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::{NodeState, NodeStatus};
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
/// `leader_since` is when this manager began to lead: silence from before that says nothing.
#[must_use]
pub fn plan(
    view: &ClusterState,
    heard: &LastHeard,
    leader_since: Timestamp,
    now: Timestamp,
) -> Plan {
    let period = view.cluster().map_or(Duration::from_secs(5), |c| c.spec.heartbeat_period);
    let mut plan = Plan::default();
    for node in view.nodes().filter(|n| n.status.state != NodeState::Down) {
        let (last, grace) = match heard.get(&node.id) {
            Some(at) => (*at, period * GRACE_PERIODS),
            None => (leader_since, period * GRACE_PERIODS_NEW_LEADER),
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
