//! Which nodes count as lost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::{Node, NodeState, NodeStatus};
use shoal_types::spec::ClusterSpec;
use shoal_types::text::cut;
use shoal_types::time::Timestamp;

use crate::Plan;

/// Heartbeats a node may miss before it counts as lost.
pub const GRACE_PERIODS: u32 = 3;

/// The same after a change of leader, while agents are still looking for the new one.
pub const GRACE_PERIODS_NEW_LEADER: u32 = 6;

/// When each connected node was last heard of, by a clock of the leader that nobody sets.
pub type LastHeard = BTreeMap<NodeId, Timestamp>;

/// Watches for nodes that are silent, from when a manager begins to lead until it ceases to.
///
/// All its times are of a clock that only ever runs forward, evenly: a step of the wall clock is
/// nobody's silence.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Silence from before this says nothing, and neither does what was heard before.
    since: Timestamp,
    /// When it looked last.
    looked: Timestamp,
    /// Since when it knows each node, as one that is not lost.
    known: BTreeMap<NodeId, Timestamp>,
    /// The heartbeat period when it looked last.
    period: Option<Duration>,
    /// A longer one that was in force before.
    slower: Option<Slower>,
}

/// A heartbeat period that was made shorter. A node learns of that with its next heartbeat, which may
/// be a whole period of the old length away.
#[derive(Debug, Clone, Copy)]
struct Slower {
    period: Duration,
    /// Until then it was in force.
    until: Timestamp,
}

impl Watch {
    /// A watch that begins now.
    #[must_use]
    pub const fn begin(now: Timestamp) -> Self {
        Self { since: now, looked: now, known: BTreeMap::new(), period: None, slower: None }
    }

    /// Declares nodes lost that have been silent for too long; `wall` is the time to write down.
    ///
    /// A node that has joined meanwhile has the same time to connect as all have after a change of
    /// leader. So has everybody when this manager itself stood still: what was sent to it in that
    /// time is still waiting to be read.
    #[must_use]
    pub fn plan(
        &mut self,
        view: &ClusterState,
        heard: &LastHeard,
        now: Timestamp,
        wall: Timestamp,
    ) -> Plan {
        let default = || ClusterSpec::default().heartbeat_period;
        let period = view.cluster().map_or_else(default, |c| c.spec.heartbeat_period);
        let slower = self.slower(period, now);
        let slowest = slower.map_or(period, |slower| slower.period.max(period));
        // With the beat that a node may just have been about to send, this is still less than the
        // grace, so nobody is given up for a halt that was too short to be noticed.
        let pause = period / 2;
        if now.since(self.looked) > slowest / 2 + slowest {
            self.since = now;
        }
        self.looked = now;
        let there = |node: &Node| node.status.state != NodeState::Down;
        self.known.retain(|id, _| view.node(*id).is_some_and(|n| there(n)));
        let mut plan = Plan::default();
        plan.wake(now + pause);
        for node in view.nodes().filter(|n| there(n)) {
            let known = *self.known.entry(node.id).or_insert(now);
            let (last, grace) = match heard.get(&node.id).filter(|at| **at >= self.since) {
                Some(at) => {
                    let told = slower.is_none_or(|slower| *at >= slower.until);
                    (*at, if told { period } else { slowest } * GRACE_PERIODS)
                }
                None => (self.since.max(known), slowest * GRACE_PERIODS_NEW_LEADER),
            };
            let lost_at = last + grace;
            if now < lost_at {
                plan.wake(lost_at);
            } else {
                plan.push(lost(node, wall));
            }
        }
        plan
    }

    /// The longer period by which nodes may still beat that have not been heard of since it was
    /// shortened to this one.
    fn slower(&mut self, period: Duration, now: Timestamp) -> Option<Slower> {
        let before = self.period.replace(period).filter(|before| *before > period);
        if let Some(before) = before {
            let longest = self.slower.map_or(before, |slower| slower.period.max(before));
            self.slower = Some(Slower { period: longest, until: now });
        }
        // By then whoever has not been heard of is lost by the longer one, too.
        let over = |slower: &Slower| now >= slower.until + slower.period * GRACE_PERIODS_NEW_LEADER;
        self.slower = self.slower.filter(|slower| !over(slower));
        self.slower
    }
}

/// Bytes of a node's own words that are kept.
const UNABLE_BYTES_MAX: usize = 1024;

/// The status of a node that is heard of: it is ready, unless it says why it is `unable` to take
/// what is assigned to it. Then it gets nothing more, and keeps what it has.
#[must_use]
pub fn there(unable: &str, addr: Option<IpAddr>, since: Timestamp) -> NodeStatus {
    let (state, message) = match unable {
        "" => (NodeState::Ready, String::new()),
        why => {
            let why = cut(why, UNABLE_BYTES_MAX);
            (NodeState::Unknown, format!("it cannot take its tasks: {why}"))
        }
    };
    NodeStatus { state, message, addr, since }
}

/// Whether a heartbeat tells something else than is known of the node.
#[must_use]
pub fn is_news(known: &NodeStatus, unable: &str) -> bool {
    let now = there(unable, known.addr, known.since);
    (known.state, &known.message) != (now.state, &now.message)
}

fn lost(node: &Node, since: Timestamp) -> Command {
    Command::ReportNode {
        id: node.id,
        description: None,
        status: NodeStatus {
            state: NodeState::Down,
            message: "heartbeat failure".to_owned(),
            addr: node.status.addr,
            since,
        },
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, cluster_with_nodes, node_description};
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

    /// Looks as often as it asks to until `end`; who was given up, and when.
    fn watch_until(
        watch: &mut Watch,
        cluster: &TestCluster,
        heard: impl Fn(Timestamp) -> LastHeard,
        end: Timestamp,
    ) -> BTreeMap<NodeId, Timestamp> {
        let mut now = watch.looked;
        let mut given_up = BTreeMap::new();
        while now <= end {
            let plan = watch.plan(&cluster.state, &heard(now), now, cluster.now);
            for id in lost(&plan) {
                given_up.entry(id).or_insert(now);
            }
            now = plan.wake_at.expect("it looks again").max(now + Duration::from_millis(1));
        }
        given_up
    }

    fn set_period(cluster: &mut TestCluster, period: Duration) {
        let known = cluster.state.cluster().expect("there is one");
        let spec = ClusterSpec { heartbeat_period: period, ..known.spec.clone() };
        let expected_spec_version = known.meta.spec_version;
        cluster.apply(Command::UpdateCluster { expected_spec_version, spec });
    }

    #[test]
    fn nobody_is_lost_for_a_period_that_it_could_not_know() {
        const SLOW: Duration = Duration::from_secs(60);
        let (mut cluster, nodes) = cluster_with_nodes(2);
        cluster.advance(Duration::from_secs(100));
        set_period(&mut cluster, SLOW);
        let since = cluster.now;
        let mut watch = Watch::begin(since);
        // Both beat once a minute, half a minute apart.
        let first = LastHeard::from([(nodes[0], since), (nodes[1], since + SLOW / 2)]);
        let changed = since + SLOW / 2 + PERIOD;
        assert!(watch_until(&mut watch, &cluster, |_| first.clone(), changed).is_empty());
        set_period(&mut cluster, PERIOD);
        // They hear of it with the beats that are due, and then one is silent.
        let told = [since + SLOW, since + SLOW * 3 / 2];
        let heard = |now: Timestamp| {
            let mut heard = first.clone();
            if now >= told[0] {
                heard.insert(nodes[0], told[0]);
            }
            if now >= told[1] {
                let beats = now.since(told[1]).as_secs() / 2;
                heard.insert(nodes[1], told[1] + PERIOD * u32::try_from(beats).expect("few"));
            }
            heard
        };
        assert!(
            lost(&watch.plan(&cluster.state, &heard(changed), changed, cluster.now)).is_empty()
        );
        let end = told[1] + SLOW * 10;
        let given_up = watch_until(&mut watch, &cluster, heard, end);
        // By the new period, which it knew.
        assert_eq!(given_up, [(nodes[0], told[0] + PERIOD * 3)].into());
    }

    #[test]
    fn a_silent_node_is_lost_after_three_periods_and_six_under_a_new_leader() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        cluster.advance(Duration::from_secs(100));
        let since = cluster.now;
        let heard = LastHeard::from([(nodes[0], since + PERIOD)]);
        let mut watch = Watch::begin(since);
        let end = since + PERIOD * 10;
        let given_up = watch_until(&mut watch, &cluster, |_| heard.clone(), end);
        let expected = [(nodes[0], since + PERIOD * 4), (nodes[1], since + PERIOD * 6)];
        assert_eq!(given_up, BTreeMap::from(expected));
        let both = watch.plan(&cluster.state, &heard, end, end);
        assert_eq!(lost(&both).len(), 2);
        both.commands.into_iter().for_each(|c| drop(cluster.apply(c)));
        assert_eq!(lost(&watch.plan(&cluster.state, &heard, end, end)), []);
    }

    #[test]
    fn a_node_that_has_just_joined_gets_time_to_connect_whatever_the_wall_clock_says() {
        for wall in [-1000, 0, 1000] {
            let (mut cluster, _) = cluster_with_nodes(0);
            let since = Timestamp::from_secs(5000);
            let mut watch = Watch::begin(since);
            let joined = since + PERIOD * 100;
            watch_until(&mut watch, &cluster, |_| LastHeard::new(), joined);
            cluster.now = Timestamp::from_secs(5200_u64.saturating_add_signed(wall));
            let (id, spec) = (7.into(), NodeSpec::default());
            cluster.apply(Command::CreateNode { id, spec, description: node_description("new") });
            let end = joined + PERIOD * 20;
            let given_up = watch_until(&mut watch, &cluster, |_| LastHeard::new(), end);
            let late = joined + PERIOD * GRACE_PERIODS_NEW_LEADER;
            assert_eq!(given_up, BTreeMap::from([(id, late)]), "{wall}");
        }
    }

    #[test]
    fn what_was_heard_before_another_manager_led_says_nothing() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let heard = LastHeard::from([(nodes[0], cluster.now)]);
        cluster.advance(Duration::from_secs(1000));
        let now = cluster.now;
        assert_eq!(lost(&Watch::begin(now).plan(&cluster.state, &heard, now, now)), []);
    }

    #[test]
    fn a_manager_that_stood_still_gives_nobody_up_for_it() {
        let (cluster, nodes) = cluster_with_nodes(1);
        let since = Timestamp::from_secs(5000);
        // A beat each period, of which nothing is read while the manager stands still.
        let beats = |now: Timestamp| {
            let periods = now.since(since).as_nanos() / PERIOD.as_nanos();
            since + PERIOD * u32::try_from(periods).expect("few")
        };
        let heard = |now| LastHeard::from([(nodes[0], beats(now))]);
        for halt_ms in (0..60_000).step_by(250) {
            let halt = Duration::from_millis(halt_ms);
            let mut watch = Watch::begin(since);
            // The worst moment: a beat was due, and so was a look.
            let halted = since + PERIOD * 19 + Duration::from_millis(1999);
            assert_eq!(watch_until(&mut watch, &cluster, heard, halted), BTreeMap::new());
            let back = watch.looked + PERIOD / 2 + halt;
            let plan = watch.plan(&cluster.state, &heard(halted), back, cluster.now);
            assert_eq!(lost(&plan), [], "{halt:?}");
            // Whoever stays silent is given up all the same.
            let silent = |_| heard(halted);
            let end = back + PERIOD * 7;
            assert_eq!(watch_until(&mut watch, &cluster, silent, end).len(), 1, "{halt:?}");
        }
    }

    #[test]
    fn a_node_that_says_why_it_cannot_is_not_ready() {
        let (addr, at) = (None, Timestamp::from_secs(1));
        let well = there("", addr, at);
        assert_eq!((well.state, well.message.as_str()), (NodeState::Ready, ""));
        let unwell = there("no room", addr, at);
        assert_eq!(unwell.state, NodeState::Unknown);
        assert_eq!(unwell.message, "it cannot take its tasks: no room");
        let long = there(&"ü".repeat(1_000_000), addr, at);
        assert!(long.message.len() < 1100, "{} bytes", long.message.len());
        for (known, unable, expected) in [
            (&well, "", false),
            (&well, "no room", true),
            (&unwell, "no room", false),
            (&unwell, "no light", true),
            (&unwell, "", true),
            (&NodeStatus { state: NodeState::Down, ..well.clone() }, "", true),
        ] {
            assert_eq!(is_news(known, unable), expected, "{known:?} {unable:?}");
        }
        assert!(!is_news(&long, &"ü".repeat(1_000_000)), "the same words again are no news");
    }
}
