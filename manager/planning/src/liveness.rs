//! Which nodes count as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command, Event, ObjectRef};
use shoal_types::id::NodeId;
use shoal_types::object::{
    Node, NodeDescription, NodeState, NodeStatus, TroubledLinks, TunnelDescription,
};
use shoal_types::text::cut;
use shoal_types::time::Timestamp;

use crate::{Plan, words};

/// Heartbeats a node may miss before it counts as lost.
pub const GRACE_PERIODS: u32 = 3;

/// The same after a change of leader, while agents are still looking for the new one.
pub const GRACE_PERIODS_NEW_LEADER: u32 = 6;

/// When each connected node was last heard of, by a clock of the leader that nobody sets.
pub type LastHeard = BTreeMap<NodeId, Timestamp>;

/// Watches for nodes that are silent, from when a manager begins to lead until it ceases to.
///
/// All its times are of a clock that only ever runs forward, evenly: a step of the wall clock is
/// nobody's silence. It looks at a node when it may have to be given up, and not before.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Silence from before this says nothing, and neither does what was heard before.
    since: Timestamp,
    /// When it looked last.
    looked: Timestamp,
    /// Whether all nodes may have changed.
    all_changed: bool,
    /// Since when it knows each node, as one that is not lost, and when it looks at it again.
    known: BTreeMap<NodeId, (Timestamp, Timestamp)>,
    /// The same in order of time.
    due: BTreeSet<(Timestamp, NodeId)>,
    /// Nodes that may have come or gone.
    changed: BTreeSet<NodeId>,
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
    pub fn begin(now: Timestamp) -> Self {
        Self {
            since: now,
            looked: now,
            all_changed: true,
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            changed: BTreeSet::new(),
            period: None,
            slower: None,
        }
    }

    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        if let ObjectRef::Node(node) = &event.object {
            self.changed.insert(node.id);
        }
    }

    /// Looks at all nodes next time: some events were missed.
    pub fn forget(&mut self) {
        self.all_changed = true;
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
        heard: impl Fn(NodeId) -> Option<Timestamp>,
        now: Timestamp,
        wall: Timestamp,
    ) -> Plan {
        let period = view.spec().heartbeat_period;
        self.all_changed |= self.period != Some(period);
        let slower = self.slower(period, now);
        let slowest = slower.map_or(period, |slower| slower.period.max(period));
        // With the beat that a node may just have been about to send, this is still less than the
        // grace, so nobody is given up for a halt that was too short to be noticed.
        let pause = period / 2;
        if now.since(self.looked) > slowest / 2 + slowest {
            self.since = now;
        }
        self.looked = now;
        if std::mem::take(&mut self.all_changed) {
            self.changed.extend(self.known.keys());
            self.changed.extend(view.nodes().map(|node| node.id));
        }
        for id in std::mem::take(&mut self.changed) {
            let known = self.forget_node(id).map_or(now, |(since, _)| since);
            if view.node(id).is_some_and(|node| !node.is_lost()) {
                self.look_at(id, known, now);
            }
        }
        let mut plan = Plan::default();
        let due: Vec<NodeId> =
            self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        for id in due {
            let (Some((known, _)), Some(node)) = (self.forget_node(id), view.node(id)) else {
                continue;
            };
            let (last, grace) = match heard(id).filter(|at| *at >= self.since) {
                Some(at) => {
                    let told = slower.is_none_or(|slower| at >= slower.until);
                    (at, if told { period } else { slowest } * GRACE_PERIODS)
                }
                None => (self.since.max(known), slowest * GRACE_PERIODS_NEW_LEADER),
            };
            let lost_at = last + grace;
            if now < lost_at {
                // Whoever is heard of from now on is lost three periods from now at the earliest.
                self.look_at(id, known, lost_at.min(now + period * GRACE_PERIODS));
            } else {
                self.look_at(id, known, now);
                plan.push(lost(node, wall));
            }
        }
        plan.wake(now + pause);
        self.due.first().into_iter().for_each(|(at, _)| plan.wake(*at));
        plan
    }

    fn look_at(&mut self, id: NodeId, known: Timestamp, at: Timestamp) {
        self.known.insert(id, (known, at));
        self.due.insert((at, id));
    }

    fn forget_node(&mut self, id: NodeId) -> Option<(Timestamp, Timestamp)> {
        let known = self.known.remove(&id)?;
        self.due.remove(&(known.1, id));
        Some(known)
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

/// What is to be written down when a node is heard of: that it is there, and why it takes no tasks if
/// it is `unable`; and its `description` if its session has just begun. Nothing if all of that is known,
/// or the node is no member.
///
/// A node that counts as lost is back with its next heartbeat, in the same session and without saying
/// again what it holds: a manager that was held up itself may have given a living node up.
#[must_use]
pub fn heard(
    view: &ClusterState,
    id: NodeId,
    description: Option<NodeDescription>,
    addr: Option<IpAddr>,
    unable: &str,
    now: Timestamp,
) -> Option<Command> {
    let known = view.node(id).map(|node| &node.status);
    if description.is_none() && !known.is_some_and(|known| is_news(known, unable)) {
        return None;
    }
    let status = there(unable, addr.or(known.and_then(|known| known.addr)), now);
    Some(Command::ReportNode { id, description, status })
}

/// The description of a node with these links that not everything passes, and with this end of the tunnels, as far as
/// it says so; nothing if that is known, or it is no member. A node that has none as far as managers know has to begin a
/// session to have one.
#[must_use]
pub fn with_ways(
    view: &ClusterState,
    id: NodeId,
    links: Option<TroubledLinks>,
    tunnel: Option<TunnelDescription>,
) -> Option<NodeDescription> {
    let known = &view.node(id)?.description;
    let mut new = known.clone();
    if let Some(links) = links {
        new.troubled_links = (links != TroubledLinks::default()).then_some(links);
    }
    new.tunnel = new.tunnel.map(|known| tunnel.unwrap_or(known));
    let new = words::description(new).within(view.level());
    (new != *known).then_some(new)
}

/// Whether a heartbeat tells something else than is known of the node.
fn is_news(known: &NodeStatus, unable: &str) -> bool {
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
    use shoal_manager_state::testing::{
        TestCluster, cluster_of, cluster_with_nodes, node_description,
    };
    use shoal_types::level::Level;
    use shoal_types::object::{TROUBLED_LINKS_MAX, TroubledLink};
    use shoal_types::spec::{ClusterSpec, NodeSpec};

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

    fn of(heard: &LastHeard) -> impl Fn(NodeId) -> Option<Timestamp> {
        |node| heard.get(&node).copied()
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
            let plan = watch.plan(&cluster.state, of(&heard(now)), now, cluster.now);
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
            lost(&watch.plan(&cluster.state, of(&heard(changed)), changed, cluster.now)).is_empty()
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
        let both = watch.plan(&cluster.state, of(&heard), end, end);
        assert_eq!(lost(&both).len(), 2);
        both.commands.into_iter().for_each(|c| drop(cluster.apply(c)));
        cluster.events().iter().for_each(|event| watch.hear(event));
        assert_eq!(lost(&watch.plan(&cluster.state, of(&heard), end, end)), []);
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
            cluster.events().iter().for_each(|event| watch.hear(event));
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
        assert_eq!(lost(&Watch::begin(now).plan(&cluster.state, of(&heard), now, now)), []);
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
            let plan = watch.plan(&cluster.state, of(&heard(halted)), back, cluster.now);
            assert_eq!(lost(&plan), [], "{halt:?}");
            // Whoever stays silent is given up all the same.
            let silent = |_| heard(halted);
            let end = back + PERIOD * 7;
            assert_eq!(watch_until(&mut watch, &cluster, silent, end).len(), 1, "{halt:?}");
        }
    }

    #[test]
    fn a_node_that_is_heard_of_is_there_and_that_is_written_down_once() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let (id, now) = (nodes[0], cluster.now);
        assert_eq!(heard(&cluster.state, id, None, None, "", now), None, "that is known");
        assert_eq!(heard(&cluster.state, 99.into(), None, None, "", now), None, "no member");
        cluster.set_node(id, NodeState::Down);
        for (unable, state) in [("", NodeState::Ready), ("no room", NodeState::Unknown)] {
            let back = heard(&cluster.state, id, None, None, unable, now).expect("news");
            cluster.apply(back);
            assert_eq!(cluster.state.node(id).expect("there").status.state, state);
            assert_eq!(heard(&cluster.state, id, None, None, unable, now), None);
        }
        let description = Some(node_description("renamed"));
        let begun = heard(&cluster.state, id, description, None, "", now).expect("a session");
        cluster.apply(begun);
        assert_eq!(cluster.state.node(id).expect("there").description.hostname, "renamed");
    }

    #[test]
    fn links_of_a_node_are_written_down_when_they_change() {
        let (mut cluster, nodes) = cluster_of(Level::OWN, 2);
        let (id, now) = (nodes[0], cluster.now);
        let links = |count: u32| {
            let link = |_| TroubledLink {
                node_id: nodes[1],
                endpoint: ([192, 0, 2, 2], 51820).into(),
                passes_bytes: 0,
                full_bytes: 1420,
            };
            TroubledLinks { count, links: (0..count).map(link).collect() }
        };
        assert_eq!(with_ways(&cluster.state, id, Some(links(0)), None), None);
        assert_eq!(with_ways(&cluster.state, 99.into(), Some(links(1)), None), None, "no member");
        for (count, kept) in [(1, Some(1)), (100, Some(TROUBLED_LINKS_MAX)), (0, None)] {
            let description = with_ways(&cluster.state, id, Some(links(count)), None);
            let said = heard(&cluster.state, id, description, None, "", now).expect("news");
            cluster.apply(said);
            assert_eq!(
                with_ways(&cluster.state, id, Some(links(count)), None),
                None,
                "that is known"
            );
            let known = &cluster.state.node(id).expect("there").description.troubled_links;
            assert_eq!(known.as_ref().map(|known| known.links.len()), kept);
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
