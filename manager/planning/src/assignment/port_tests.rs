//! What nodes are told of ports that answer on every node, case by case.

use shoal_manager_state::Command;
use shoal_manager_state::testing::{
    TestCluster, cluster_of, service_spec, with_host_port, with_ingress_port,
};
use shoal_types::id::ServiceId;
use shoal_types::object::NodeState;
use shoal_types::task_state::{DesiredState, TaskState};

use super::*;

/// Three nodes, and one whose agent knows nothing of such ports; and a service that publishes one.
struct Case {
    cluster: TestCluster,
    nodes: Vec<NodeId>,
    held: BTreeMap<NodeId, Held>,
    web: ServiceId,
}

impl Case {
    fn new() -> Self {
        let (cluster, nodes) = cluster_of(Level::INGRESS, 4);
        let mut case = Self { cluster, nodes, held: BTreeMap::new(), web: 0.into() };
        (0..4).for_each(|n| case.connect(n));
        case.cluster.set_level(case.nodes[3], Level::OVERLAY);
        let spec = with_ingress_port(service_spec("web", 3), 8080);
        case.web = case.cluster.add_service(with_ingress_port(spec, 0));
        case.told_is(&[&["own peer 1"], &["own peer 2"], &["own peer 3"], &[]]);
        case
    }

    fn connect(&mut self, n: usize) {
        let number = u8::try_from(n + 1).expect("few");
        self.cluster.give_tunnel(self.nodes[n], number, number);
    }

    /// What each node is told, in few words, after what has happened; a session begins with everything.
    fn told(&mut self) -> Vec<Vec<String>> {
        let found = news(&self.cluster.events(), &self.cluster.state);
        let mut told = Vec::new();
        for node in &self.nodes {
            let whole = News::whole();
            let first = (!self.held.contains_key(node)).then_some(&whole);
            let held = self.held.entry(*node).or_insert_with(|| Held::new(*node));
            let Some(news) = first.or_else(|| found.get(node)) else {
                told.push(Vec::new());
                continue;
            };
            let changes: Vec<_> = held.catch_up(&self.cluster.state, news).collect();
            told.push(changes.iter().filter_map(|c| self.word(*node, c)).collect());
        }
        told
    }

    fn word(&self, told: NodeId, change: &AssignmentChange) -> Option<String> {
        use AssignmentChange as C;
        let number = |id| self.nodes.iter().position(|node| *node == id).expect("one of them") + 1;
        let name = |id| self.cluster.state.task(id).map(|task| task.name()).unwrap_or_default();
        Some(match change {
            C::UpdateEndpoint(endpoint) => {
                assert_eq!(endpoint.networks, [], "none that both have");
                let serves = if endpoint.serving { " serves" } else { "" };
                let ports: Vec<_> = endpoint.ports.iter().map(|p| p.published_port).collect();
                let of_task = self.cluster.state.task(endpoint.task_id).expect("there").ports();
                assert!(of_task.iter().map(|p| p.published_port).eq(ports.iter().copied()));
                let on = number(endpoint.node_id);
                format!("{}{serves} at {} on {on}", name(endpoint.task_id), ports[0])
            }
            C::RemoveEndpoint(id) => format!("no {}", name(*id)),
            C::UpdatePeer(peer) => {
                let node = self.cluster.state.node(peer.node_id).expect("there");
                let address = node.tunnel_address.map(|address| address.addr());
                assert!(address.is_some() && peer.tunnel_address == address, "{peer:?}");
                let own = if peer.node_id == told { "own " } else { "" };
                format!("{own}peer {}", number(peer.node_id))
            }
            C::RemovePeer(id) => format!("no peer {}", number(*id)),
            C::UpdateTask(_) | C::RemoveTask(_) | C::UpdateNetwork(_) | C::RemoveNetwork(_) => {
                return None;
            }
            C::UpdateSecret(_) | C::RemoveSecret(_) | C::UpdateConfig(_) | C::RemoveConfig(_) => {
                panic!("nobody is given any: {change:?}")
            }
            C::RejectTask(..) | C::UpdateVips(_) | C::RemoveVips(_) => panic!("{change:?}"),
        })
    }

    #[track_caller]
    fn told_is(&mut self, expected: &[&[&str]]) {
        let told = self.told();
        assert_eq!(told, expected, "{told:#?}");
    }
}

const NOTHING: &[&str] = &[];

#[test]
fn every_node_is_told_of_a_task_that_publishes_and_its_own_of_every_node() {
    let mut case = Case::new();
    let task = case.cluster.add_task(case.web, 1);
    case.told_is(&[NOTHING; 4]);
    case.cluster.apply(Command::AssignTask { id: task, node_id: case.nodes[1], partner: None });
    let new: &[&str] = &["peer 2", "web.1 at 8080 on 2"];
    let mut told = case.told();
    told[1].sort();
    let own = ["peer 1", "peer 3", "web.1 at 8080 on 2"];
    assert_eq!(told, [new, &own, new, NOTHING], "{told:#?}");
    case.cluster.report(task, TaskState::Running);
    let serves: &[&str] = &["web.1 serves at 8080 on 2"];
    case.told_is(&[serves, serves, serves, NOTHING]);

    // Two that know each other already.
    let second = case.cluster.add_running(case.web, 2, case.nodes[0]);
    let new: &[&str] = &["web.2 serves at 8080 on 1"];
    let told = case.told();
    assert_eq!(told[1], new);
    assert_eq!(told[2], ["peer 1", "web.2 serves at 8080 on 1"]);
    assert_eq!(told[0], ["peer 3", "web.2 serves at 8080 on 1"]);
    assert_eq!(told[3], NOTHING);
    case.cluster.report(second, TaskState::Failed);
    case.told_is(&[&["no web.2", "no peer 3"], &["no web.2"], &["no web.2", "no peer 1"], NOTHING]);
    case.cluster.apply(Command::SetDesired { id: task, desired: DesiredState::Shutdown });
    let ending: &[&str] = &["web.1 at 8080 on 2"];
    case.told_is(&[ending, ending, ending, NOTHING]);
    case.cluster.report(task, TaskState::Shutdown);
    let gone: &[&str] = &["no web.1", "no peer 2"];
    case.told_is(&[gone, &["no web.1", "no peer 1", "no peer 3"], gone, NOTHING]);
}

#[test]
fn nodes_are_told_of_nodes_that_come_change_and_go() {
    let mut case = Case::new();
    case.cluster.add_running(case.web, 1, case.nodes[1]);
    case.told();
    // Only who is led to has to do with one that comes.
    let fifth = case.cluster.add_node("node-5");
    case.nodes.push(fifth);
    case.connect(4);
    let all: &[&str] = &["peer 2", "own peer 5", "web.1 serves at 8080 on 2"];
    let mut told = case.told();
    told[4].sort_by_key(|word| all.iter().position(|known| known == word));
    assert_eq!(told, [NOTHING, &["peer 5"], NOTHING, NOTHING, all], "{told:#?}");
    // One that leads, and the one that is led to.
    case.cluster.give_tunnel(case.nodes[0], 1, 77);
    case.told_is(&[&["own peer 1"], &["peer 1"], NOTHING, NOTHING, NOTHING]);
    case.cluster.give_tunnel(case.nodes[1], 2, 78);
    let moved: &[&str] = &["peer 2"];
    case.told_is(&[moved, &["own peer 2"], moved, NOTHING, moved]);
    // One that has been upgraded, and one that has gone back.
    case.cluster.set_level(case.nodes[3], Level::INGRESS);
    let mut told = case.told();
    told[3].sort();
    let all = ["own peer 4", "peer 2", "web.1 serves at 8080 on 2"];
    assert_eq!(told, [NOTHING, &["peer 4"], NOTHING, &all, NOTHING], "{told:#?}");
    case.cluster.set_level(case.nodes[3], Level::OVERLAY);
    let mut told = case.told();
    told[3].sort();
    let none = ["no peer 2", "no peer 4", "no web.1"];
    assert_eq!(told, [NOTHING, &["no peer 4"], NOTHING, &none, NOTHING], "{told:#?}");
    case.cluster.apply(Command::RemoveNode { id: fifth, force: true });
    let mut told = case.told();
    told.truncate(4);
    assert_eq!(told, [NOTHING, &["no peer 5"], NOTHING, NOTHING], "{told:#?}");
}

/// Whoever has nothing to do with it is not even woken.
#[test]
fn what_is_published_on_hosts_alone_is_nothing_to_others() {
    let mut case = Case::new();
    let api = case.cluster.add_service(with_host_port(service_spec("api", 1), 9090));
    let task = case.cluster.add_running(api, 1, case.nodes[0]);
    let found = news(&case.cluster.events(), &case.cluster.state);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&case.nodes[0]]);
    case.cluster.report(task, TaskState::Failed);
    let found = news(&case.cluster.events(), &case.cluster.state);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&case.nodes[0]]);
}

/// However many there are: a change of one task is one change for each node, and no look at others.
#[test]
fn one_task_is_one_item_for_each_node() {
    let mut case = Case::new();
    let tasks: Vec<_> = (1..=50)
        .map(|n| case.cluster.add_running(case.web, n, case.nodes[n as usize % 3]))
        .collect();
    case.told();
    case.cluster.report(tasks[20], TaskState::Failed);
    let found = news(&case.cluster.events(), &case.cluster.state);
    for (node, news) in &found {
        assert!(news.others.len() == 1 && !news.whole, "node {node}: {news:?}");
    }
    assert_eq!(found.len(), 3, "all that lead ports");
}

#[test]
fn who_leads_nobody_to_a_task_is_not_waited_for() {
    let mut case = Case::new();
    let task = case.cluster.add_running(case.web, 1, case.nodes[0]);
    let listeners = |case: &Case| listeners(&case.cluster.state, task);
    assert_eq!(listeners(&case), [case.nodes[1], case.nodes[2]].into(), "an older one is not told");
    case.cluster.set_node(case.nodes[1], NodeState::Down);
    assert_eq!(listeners(&case), [case.nodes[2]].into());
    case.cluster.apply(Command::RemoveService { id: case.web });
    assert_eq!(listeners(&case), [case.nodes[2]].into(), "it has been told before");
}
