use shoal_manager_state::Command;
use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};
use shoal_types::level::Level;
use shoal_types::spec::NodeSpec;

use super::*;

const AGO: Option<Duration> = Some(Duration::ZERO);
const OWN: u64 = 1;

/// Nodes, and the members of their managers, which the tests move as a leader would.
struct Group {
    cluster: TestCluster,
    nodes: Vec<NodeId>,
    members: Vec<Member>,
    own: u64,
}

impl Group {
    /// So many voters, with the ids from 1 on; the first one leads.
    fn new(voters: usize, nodes: usize) -> Self {
        let (cluster, ids) = cluster_with_nodes(nodes);
        let mut group = Self { cluster, nodes: ids, members: Vec::new(), own: OWN };
        for at in 0..voters {
            group.role(at, NodeRole::Manager);
            let raft_id = at as u64 + 1;
            group.announce(at, raft_id);
            group.members.push(member(raft_id, group.nodes[at], true));
        }
        for at in voters..nodes {
            group.role(at, NodeRole::Agent);
        }
        group
    }

    fn role(&mut self, at: usize, role: NodeRole) {
        let node = self.cluster.state.node(self.nodes[at]).expect("there").clone();
        let spec = NodeSpec { role, ..node.spec.clone() };
        let expected = node.meta.spec_version;
        self.cluster.apply(Command::UpdateNode { id: node.id, expected, spec });
    }

    fn announce(&mut self, at: usize, raft_id: u64) {
        let status = status(raft_id, self.nodes[at]);
        let command = announced(&self.cluster.state, self.nodes[at], status).expect("taken");
        self.cluster.apply(command.expect("it is new"));
    }

    fn silence(&mut self, raft_id: u64) {
        let member = self.members.iter_mut().find(|m| m.raft_id == raft_id).expect("there");
        member.answered = None;
    }

    fn next(&self) -> Next {
        next(&self.cluster.state, &self.members, self.own)
    }

    fn ids(&self) -> Vec<(u64, bool)> {
        self.members.iter().map(|m| (m.raft_id, m.voter)).collect()
    }

    fn find(&mut self, id: u64) -> &mut Member {
        self.members.iter_mut().find(|m| m.raft_id == id).expect("there")
    }

    /// What becomes of a step, if a majority confirms it.
    fn take(&mut self, step: Step) {
        let answering = self.members.iter().filter(|m| m.voter && m.answers()).count();
        let voters = self.members.iter().filter(|m| m.voter).count();
        assert!(answering >= majority(voters), "{step:?}: nobody can decide any more");
        match step {
            Step::HandOver { to } => self.own = to,
            Step::Remove { raft_id } => {
                assert_ne!(raft_id, self.own, "a leader does not take itself out");
                self.members.retain(|m| m.raft_id != raft_id);
            }
            Step::Move { raft_id, addr } => self.find(raft_id).addr = addr,
            Step::Add { raft_id, node, .. } => {
                let learner = member(raft_id, node, false);
                self.members.push(Member { answered: None, lag: Some(1000), ..learner });
            }
            Step::Promote { raft_id } => self.find(raft_id).voter = true,
            Step::Forget { node } => {
                self.cluster.apply(Command::SetManagerStatus { id: node, status: None });
            }
        }
    }

    /// All steps until there are none; learners catch up meanwhile.
    fn settle(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..50 {
            match self.next().step {
                Some(step) => {
                    steps.push(step.clone());
                    self.take(step);
                }
                None if self.members.iter().all(|m| m.voter || m.answers()) => return steps,
                None => {
                    for learner in self.members.iter_mut().filter(|m| !m.voter) {
                        (learner.answered, learner.lag) = (AGO, Some(3));
                    }
                }
            }
        }
        panic!("it does not come to rest: {steps:?}");
    }
}

fn addr(node: NodeId) -> String {
    format!("{node}:4242")
}

fn status(raft_id: u64, node: NodeId) -> ManagerStatus {
    ManagerStatus { raft_id, addr: addr(node), level: Level::OWN }
}

fn member(raft_id: u64, node: NodeId, voter: bool) -> Member {
    Member { raft_id, node, addr: addr(node), voter, answered: AGO, lag: Some(0) }
}

#[test]
fn a_manager_is_what_its_leader_sees_of_it() {
    let members = BTreeMap::from([
        (1, Some(Duration::ZERO)),
        (2, Some(SILENCE_MAX)),
        (3, Some(SILENCE_MAX + Duration::from_millis(1))),
        (4, None),
    ]);
    let expected = [
        (1, true, Reachability::Reachable),
        (2, false, Reachability::Reachable),
        (3, false, Reachability::Unreachable),
        (4, false, Reachability::Unreachable),
        (5, false, Reachability::Unknown),
    ];
    for (raft_id, leader, reachability) in expected {
        let manager = ManagerStatus { raft_id, addr: String::new(), level: Level::FIRST };
        let found = health(&manager, Some(1), &members);
        assert_eq!(found, ManagerHealth { leader, reachability }, "{raft_id}");
    }
}

#[test]
fn a_group_as_it_is_to_be_is_left_alone() {
    for count in 1..=5 {
        assert_eq!(Group::new(count, 6).next(), Next::default(), "{count}");
    }
}

#[test]
fn a_node_that_joins_or_is_promoted_learns_before_it_votes() {
    let mut group = Group::new(1, 3);
    group.role(1, NodeRole::Manager);
    assert_eq!(group.next(), Next::default(), "its manager has not been heard of");
    group.announce(1, 7);
    let (node, addr) = (group.nodes[1], addr(group.nodes[1]));
    let add = Step::Add { raft_id: 7, node, addr };
    assert_eq!(group.next().step, Some(add.clone()));
    group.take(add);
    let waiting = group.next();
    assert_eq!(waiting.step, None);
    assert!(waiting.waits[0].contains("does not answer at"), "{waiting:?}");
    let learner = group.find(7);
    (learner.answered, learner.lag) = (AGO, Some(101));
    assert!(group.next().waits[0].ends_with("still lacks 101 entries"), "{:?}", group.next());
    group.find(7).lag = Some(100);
    assert_eq!(group.next().step, Some(Step::Promote { raft_id: 7 }));
    group.settle();
    assert_eq!(group.ids(), [(1, true), (7, true)]);
}

#[test]
fn one_who_never_comes_holds_up_nobody_else() {
    let mut group = Group::new(3, 5);
    group.role(3, NodeRole::Manager);
    group.announce(3, 8);
    let step = group.next().step.expect("to be added");
    group.take(step);
    assert_eq!(group.next().step, None);
    group.role(4, NodeRole::Manager);
    group.announce(4, 9);
    group.role(2, NodeRole::Agent);
    assert_eq!(group.next().step, Some(Step::Remove { raft_id: 3 }));
    group.take(Step::Remove { raft_id: 3 });
    let step = group.next().step.expect("the other one");
    assert!(matches!(step, Step::Add { raft_id: 9, .. }), "{step:?}");
}

#[test]
fn a_manager_that_lost_its_log_comes_back_as_another_one() {
    let mut group = Group::new(3, 3);
    group.silence(3);
    group.announce(2, 30);
    let steps = group.settle();
    assert_eq!(
        steps[0],
        Step::Remove { raft_id: 3 },
        "its former self can decide nothing: {steps:?}"
    );
    assert_eq!(group.ids(), [(1, true), (2, true), (30, true)]);
}

#[test]
fn a_leader_that_is_demoted_hands_over_and_the_next_one_takes_it_out() {
    let mut group = Group::new(3, 3);
    group.find(2).lag = Some(9);
    group.role(0, NodeRole::Agent);
    let steps = group.settle();
    let forget = Step::Forget { node: group.nodes[0] };
    assert_eq!(steps, [Step::HandOver { to: 3 }, Step::Remove { raft_id: 1 }, forget]);
    assert_eq!(group.ids(), [(2, true), (3, true)]);
    let status = &group.cluster.state.node(group.nodes[0]).expect("there").manager_status;
    assert_eq!(*status, None);
}

#[test]
fn a_manager_whose_node_was_removed_goes() {
    let mut group = Group::new(3, 3);
    group.silence(2);
    group.cluster.set_node(group.nodes[1], shoal_types::object::NodeState::Down);
    group.cluster.apply(Command::RemoveNode { id: group.nodes[1], force: true });
    assert_eq!(group.settle(), [Step::Remove { raft_id: 2 }]);
}

#[test]
fn nobody_goes_while_the_others_could_not_decide() {
    let mut group = Group::new(3, 3);
    group.role(1, NodeRole::Agent);
    group.silence(3);
    let found = group.next();
    assert_eq!(found.step, None);
    assert!(found.waits[0].contains("of the 2 others 1 answer"), "{found:?}");
    // The one who is silent is to go, too: then fewer are needed.
    group.role(2, NodeRole::Agent);
    let steps = group.settle();
    assert_eq!(steps[..2], [Step::Remove { raft_id: 3 }, Step::Remove { raft_id: 2 }]);
    assert_eq!(group.ids(), [(1, true)]);
}

#[test]
fn a_manager_that_has_moved_is_reached_elsewhere() {
    let mut group = Group::new(2, 2);
    let moved = ManagerStatus { addr: "10.9.9.9:1".to_owned(), ..status(2, group.nodes[1]) };
    let command = announced(&group.cluster.state, group.nodes[1], moved).expect("taken");
    group.cluster.apply(command.expect("news"));
    assert_eq!(group.settle(), [Step::Move { raft_id: 2, addr: "10.9.9.9:1".to_owned() }]);
}

#[test]
fn whatever_is_asked_for_it_comes_to_rest_and_somebody_can_always_decide() {
    // Every set of roles out of every other one, with five nodes, and none of them empty.
    for from in 1..32_usize {
        for to in 1..32_usize {
            let mut group = Group::new(5, 5);
            for wish in [from, to] {
                // First those who come, as people have to, too.
                for role in [NodeRole::Manager, NodeRole::Agent] {
                    for at in 0..5 {
                        let is_manager = wish & (1 << at) != 0;
                        if is_manager == (role == NodeRole::Manager) {
                            group.role(at, role);
                        }
                        let known = group.cluster.state.node(group.nodes[at]).expect("there");
                        if is_manager && known.manager_status.is_none() {
                            group.announce(at, (at + 1 + wish * 100) as u64);
                        }
                    }
                }
                group.settle();
                let voters: Vec<NodeId> = group.members.iter().map(|m| m.node).collect();
                let mut expected: Vec<NodeId> =
                    (0..5).filter(|at| wish & (1 << at) != 0).map(|at| group.nodes[at]).collect();
                expected.sort_by_key(|node| voters.iter().position(|v| v == node));
                assert_eq!(voters, expected, "{from} {to}");
                assert!(group.members.iter().all(|m| m.voter));
            }
        }
    }
}

#[test]
fn who_is_needed_has_to_stay() {
    let said = |group: &Group, at: usize| {
        let view = &group.cluster.state;
        may_go(view, &group.members, group.nodes[at]).map_err(|error| error.to_string())
    };
    let group = Group::new(1, 2);
    let last = said(&group, 0).expect_err("the last one");
    assert!(last.contains("is the last manager") && last.contains("node promote"), "{last}");
    assert_eq!(said(&group, 1), Ok(()), "it is none");

    let mut group = Group::new(3, 4);
    for at in 0..4 {
        assert_eq!(said(&group, at), Ok(()));
    }
    group.silence(3);
    assert_eq!(said(&group, 2), Ok(()), "nobody needs one that does not answer");
    let needed = said(&group, 1).expect_err("needed");
    assert!(needed.contains("2 of the 2 other managers are needed, and "), "{needed}");
    assert!(needed.contains(" does not answer: bring back, or remove first"), "{needed}");
    // Who is on the way out is not counted on, nor is one who has not come yet.
    let mut group = Group::new(2, 3);
    group.role(0, NodeRole::Agent);
    group.role(2, NodeRole::Manager);
    let last = said(&group, 1).expect_err("the last one");
    assert!(last.contains("is the last manager"), "{last}");
    // Five, of which two are silent.
    let mut group = Group::new(5, 5);
    group.silence(4);
    group.silence(5);
    let needed = said(&group, 0).expect_err("needed");
    assert!(needed.contains("3 of the 4 other managers are needed"), "{needed}");
    assert!(needed.contains(" do not answer"), "{needed}");
    assert_eq!(said(&group, 3), Ok(()));
}

#[test]
fn a_manager_says_once_what_is_new() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let said = |cluster: &TestCluster, addr: &str, level| {
        let status = ManagerStatus { raft_id: 7, addr: addr.to_owned(), level: Level::new(level) };
        let must = must_announce(&cluster.state, nodes[0], &status);
        let command = announced(&cluster.state, nodes[0], status).expect("taken");
        assert_eq!(must, command.is_some());
        command
    };
    for (addr, level) in [("10.0.0.1:1", 1), ("10.0.0.9:1", 1), ("10.0.0.9:1", 2), ("h:2", 1)] {
        let command = said(&cluster, addr, level).expect("something is new");
        cluster.apply(command);
        let known = cluster.state.node(nodes[0]).expect("there").manager_status.clone();
        let expected = (7, addr.to_owned(), Level::new(level));
        assert_eq!(known.map(|m| (m.raft_id, m.addr, m.level)), Some(expected));
        assert_eq!(said(&cluster, addr, level), None);
    }
    assert!(must_announce(&ClusterState::new(), nodes[0], &status(7, nodes[0])));
}

#[test]
fn what_cannot_be_a_manager_is_told_why() {
    let mut group = Group::new(1, 3);
    group.role(1, NodeRole::Manager);
    let refused = |group: &Group, node, status| {
        announced(&group.cluster.state, node, status).expect_err("refused")
    };
    let [first, second, third] = [group.nodes[0], group.nodes[1], group.nodes[2]];
    assert_eq!(refused(&group, 99.into(), status(7, second)), NotAnnounced::Unknown(99.into()));
    assert_eq!(refused(&group, third, status(7, third)), NotAnnounced::Role(third));
    assert!(!must_announce(&group.cluster.state, third, &status(7, third)));
    let copy = NotAnnounced::Copy { node: second, raft_id: 1, by: first };
    assert_eq!(refused(&group, second, status(1, second)), copy);
    let raised = Level::new(2);
    group.cluster.apply(Command::RaiseLevel { level: raised });
    let old = ManagerStatus { level: Level::FIRST, ..status(7, second) };
    let too_old = NotAnnounced::TooOld { node: second, has: Level::FIRST, cluster: raised };
    assert_eq!(refused(&group, second, old), too_old);
}
