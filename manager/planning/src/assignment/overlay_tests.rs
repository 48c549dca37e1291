//! What nodes are told of overlay networks, case by case.

use shoal_manager_state::Command;
use shoal_manager_state::testing::{
    TestCluster, cluster_with_nodes, node_description, service_spec, with_networks,
};
use shoal_types::id::ServiceId;
use shoal_types::object::{NodeDescription, NodeState, NodeStatus, TunnelDescription};
use shoal_types::task_state::{DesiredState, TaskState};

use super::*;

/// Four nodes with tunnels; a service on an overlay network, with tasks on the first two of them, and one on
/// a bridge with a task on the third.
struct Case {
    cluster: TestCluster,
    nodes: Vec<NodeId>,
    network: NetworkId,
    web: ServiceId,
    tasks: [TaskId; 2],
    held: Vec<Held>,
}

impl Case {
    fn new() -> Self {
        let (mut cluster, nodes) = cluster_with_nodes(4);
        nodes.iter().zip(1..).for_each(|(node, n)| cluster.give_tunnel(*node, n, n));
        let network = cluster.add_overlay("net", None);
        cluster.add_network("alone");
        let web = cluster.add_service(with_networks(service_spec("web", 2), &["net"]));
        let tasks = [1, 2].map(|n| cluster.add_running(web, n, nodes[n as usize - 1]));
        let other = cluster.add_service(with_networks(service_spec("other", 1), &["alone"]));
        cluster.add_running(other, 1, nodes[2]);
        cluster.events();
        let mut held: Vec<_> = nodes.iter().map(|node| Held::new(*node)).collect();
        held.iter_mut().for_each(|held| drop(held.catch_up(&cluster.state, &News::whole())));
        Self { cluster, nodes, network, web, tasks, held }
    }

    /// What each node is told, in few words, after what has happened. Nothing if it is not even woken.
    fn told(&mut self) -> [Vec<String>; 4] {
        let found = news(&self.cluster.events(), &self.cluster.state);
        std::array::from_fn(|n| {
            let Some(news) = found.get(&self.nodes[n]) else { return Vec::new() };
            let changes = self.held[n].catch_up(&self.cluster.state, news);
            changes.map(|change| self.word(&change)).collect()
        })
    }

    fn word(&self, change: &AssignmentChange) -> String {
        use AssignmentChange as C;
        let node = |id| self.nodes.iter().position(|node| *node == id).expect("one of them") + 1;
        let name = |id| self.cluster.state.task(id).map(|task| task.name()).unwrap_or_default();
        match change {
            C::UpdateNetwork(network) => format!("network {}", network.spec.name),
            C::RemoveNetwork(_) => "no network".to_owned(),
            C::UpdateTask(task) => format!("task {}.{}", task.service_name, task.slot),
            C::RemoveTask(_) => "no task".to_owned(),
            C::UpdateSecret(_) | C::RemoveSecret(_) | C::UpdateConfig(_) | C::RemoveConfig(_) => {
                panic!("nobody is given any: {change:?}")
            }
            C::RejectTask(..) => panic!("{change:?}"),
            C::UpdateEndpoint(endpoint) => {
                let serves = if endpoint.serving { " serves" } else { "" };
                format!("endpoint {}{serves} on {}", name(endpoint.task_id), node(endpoint.node_id))
            }
            C::RemoveEndpoint(id) => format!("no endpoint {}", name(*id)),
            C::UpdateVips(vips) => format!("vip of {}", vips.service_name),
            C::RemoveVips(_) => "no vip".to_owned(),
            C::UpdatePeer(peer) => format!("peer {} at {}", node(peer.node_id), peer.addr),
            C::RemovePeer(id) => format!("no peer {}", node(*id)),
        }
    }

    /// Checks what has been told by increments against what is told whole.
    fn told_is(&mut self, expected: [&[&str]; 4]) {
        assert_eq!(
            self.told(),
            expected.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        );
    }
}

const NOTHING: &[&str] = &[];

#[test]
fn a_node_is_told_of_a_network_when_it_joins_and_of_nothing_when_it_has_left() {
    let mut case = Case::new();
    let task = case.cluster.add_task(case.web, 3);
    case.told_is([NOTHING; 4]);
    case.cluster.apply(Command::AssignTask { id: task, node_id: case.nodes[3], partner: None });
    let joined = [
        "network net",
        "peer 1 at 192.0.2.1",
        "peer 2 at 192.0.2.2",
        "endpoint web.1 serves on 1",
        "endpoint web.2 serves on 2",
        "endpoint web.3 on 4",
        "vip of web",
        "task web.3",
    ];
    let new = ["peer 4 at 192.0.2.4", "endpoint web.3 on 4"];
    let mut told = case.told();
    told[3].sort_by_key(|word| joined.iter().position(|known| known == word));
    let joined = joined.map(str::to_owned).to_vec();
    let new = new.map(str::to_owned).to_vec();
    assert_eq!(told, [new.clone(), new, Vec::new(), joined]);

    // What others do not see they are not told, and not woken for.
    for state in [TaskState::Accepted, TaskState::Preparing, TaskState::Ready, TaskState::Starting]
    {
        case.cluster.report(task, state);
        let found = news(&case.cluster.events(), &case.cluster.state);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&case.nodes[3]], "{state}");
    }
    case.cluster.report(task, TaskState::Running);
    let serves: &[&str] = &["endpoint web.3 serves on 4"];
    case.told_is([serves, serves, NOTHING, serves]);
    case.cluster.apply(Command::SetDesired { id: task, desired: DesiredState::Shutdown });
    let ending: &[&str] = &["endpoint web.3 on 4"];
    case.told_is([ending, ending, NOTHING, &["endpoint web.3 on 4", "task web.3"]]);
    case.cluster.report(task, TaskState::Shutdown);
    let gone: &[&str] = &["no endpoint web.3", "no peer 4"];
    let mut told = case.told();
    told[3].sort();
    let left = [
        "no endpoint web.1",
        "no endpoint web.2",
        "no endpoint web.3",
        "no network",
        "no peer 1",
        "no peer 2",
        "no vip",
    ];
    assert_eq!(
        told,
        [gone, gone, NOTHING, &left]
            .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    );
}

/// What changes while a node has no task of a network it does not hear of; and if it has one again before it
/// is told anything, nothing else says so.
#[test]
fn who_had_left_a_network_for_a_moment_misses_nothing() {
    for first_new in [true, false] {
        let mut case = Case::new();
        let (node, mut missed) = (case.nodes[0], News::default());
        let heard = |case: &mut Case, missed: &mut News| {
            let found = news(&case.cluster.events(), &case.cluster.state);
            found.get(&node).into_iter().for_each(|news| missed.add(news));
        };
        // Before or after the one that ends, by its id.
        let mut next = case.cluster.add_task(case.web, 3);
        while (next < case.tasks[0]) != first_new {
            next = case.cluster.add_task(case.web, 3);
        }
        case.cluster.report(case.tasks[0], TaskState::Failed);
        heard(&mut case, &mut missed);
        case.cluster.report(case.tasks[1], TaskState::Failed);
        case.cluster.give_vips(case.web, 7);
        heard(&mut case, &mut missed);
        case.cluster.apply(Command::AssignTask { id: next, node_id: node, partner: None });
        heard(&mut case, &mut missed);
        let mut fresh = Held::new(node);
        let all = fresh.catch_up(&case.cluster.state, &News::whole());
        assert_eq!(all.count(), 5, "a network, its endpoint, virtual addresses, two tasks");
        let changes = case.held[0].catch_up(&case.cluster.state, &missed);
        let mut words: Vec<_> = changes.map(|change| case.word(&change)).collect();
        words.sort();
        let expected = [
            "endpoint web.3 on 1",
            "no endpoint web.1",
            "no endpoint web.2",
            "no peer 2",
            "task web.3",
            "vip of web",
        ];
        assert_eq!(words, expected);
    }
}

#[test]
fn a_task_that_is_connected_brings_its_node_all_of_the_network_and_takes_it_along() {
    let mut case = Case::new();
    case.cluster.set_level(case.nodes[2], Level::DUAL);
    let other = case.cluster.state.tasks_on_node(case.nodes[2]).next().expect("one").id;
    case.told();
    let (id, network_id) = (other, case.network);
    let connect =
        Command::ConnectTask { id, network_id, aliases: Vec::new(), addresses: Vec::new() };
    case.cluster.apply(connect.clone());
    let seen: &[&str] = &["peer 3 at 192.0.2.3", "endpoint other.1 serves on 3"];
    let mut told = case.told();
    let first = |words: &[String]| words.first().cloned();
    assert_eq!(first(&told[2]).as_deref(), Some("network net"));
    assert_eq!(told[2].last().map(String::as_str), Some("task other.1"));
    told[2].sort();
    let all = [
        "endpoint other.1 serves on 3",
        "endpoint web.1 serves on 1",
        "endpoint web.2 serves on 2",
        "network net",
        "peer 1 at 192.0.2.1",
        "peer 2 at 192.0.2.2",
        "task other.1",
        "vip of web",
    ];
    let words = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told, [words(seen), words(seen), words(&all), Vec::new()]);

    // For a moment it is not there, and what changes meanwhile is not missed.
    let mut missed = News::default();
    let mut heard = |case: &mut Case| {
        let found = news(&case.cluster.events(), &case.cluster.state);
        found.get(&case.nodes[2]).into_iter().for_each(|news| missed.add(news));
    };
    case.cluster.apply(Command::DisconnectTask { id, network_id, force: false });
    heard(&mut case);
    case.cluster.give_vips(case.web, 7);
    heard(&mut case);
    case.cluster.apply(connect);
    heard(&mut case);
    let changes: Vec<_> = case.held[2].catch_up(&case.cluster.state, &missed).collect();
    let vip = changes.iter().any(|change| case.word(change) == "vip of web");
    assert!(vip, "{changes:?}");
    case.held[..2]
        .iter_mut()
        .for_each(|held| drop(held.catch_up(&case.cluster.state, &News::whole())));

    case.cluster.apply(Command::DisconnectTask { id, network_id, force: false });
    let gone: &[&str] = &["no endpoint other.1", "no peer 3"];
    let mut told = case.told();
    assert_eq!(first(&told[2]).as_deref(), Some("task other.1"));
    told[2].sort();
    let all = [
        "no endpoint other.1",
        "no endpoint web.1",
        "no endpoint web.2",
        "no network",
        "no peer 1",
        "no peer 2",
        "no vip",
        "task other.1",
    ];
    assert_eq!(told, [words(gone), words(gone), words(&all), Vec::new()]);
}

#[test]
fn virtual_addresses_are_told_to_those_on_their_networks() {
    let mut case = Case::new();
    case.cluster.give_vips(case.web, 7);
    let vips: &[&str] = &["vip of web"];
    case.told_is([vips, vips, NOTHING, NOTHING]);
    case.cluster.give_vips(case.web, 7);
    case.told_is([NOTHING; 4]);
    case.cluster.give_vips(case.web, 8);
    case.told_is([vips, vips, NOTHING, NOTHING]);
    case.cluster.apply(Command::RemoveService { id: case.web });
    let told = case.told();
    assert!(told[0].contains(&"no vip".to_owned()) && told[1].contains(&"no vip".to_owned()));
    assert!(told[2].is_empty() && told[3].is_empty(), "{told:?}");
}

#[test]
fn peers_are_those_with_whom_a_network_is_shared_and_who_can_be_reached() {
    let mut case = Case::new();
    case.cluster.give_tunnel(case.nodes[1], 9, 99);
    case.told_is([&["peer 2 at 192.0.2.99"], NOTHING, NOTHING, NOTHING]);
    case.cluster.give_tunnel(case.nodes[2], 9, 98);
    case.told_is([NOTHING; 4]);
    // What a node's state is nobody else has to know.
    let set = |case: &mut Case, addr: Option<u8>, description| {
        let addr = addr.map(|last| [198, 51, 100, last].into());
        let status = NodeStatus { state: NodeState::Ready, addr, ..NodeStatus::default() };
        case.cluster.apply(Command::ReportNode { id: case.nodes[1], description, status });
    };
    set(&mut case, Some(5), None);
    case.told_is([NOTHING; 4]);
    let tunnel = case.cluster.state.node(case.nodes[1]).expect("there").description.tunnel;
    let described = |change: fn(&mut TunnelDescription)| {
        let mut tunnel = tunnel.expect("it has one");
        change(&mut tunnel);
        let (level, tunnel) = (Level::OVERLAY, Some(tunnel));
        Some(NodeDescription { level, tunnel, ..node_description("node-2") })
    };
    set(&mut case, Some(5), described(|tunnel| tunnel.addr = None));
    case.told_is([&["peer 2 at 198.51.100.5"], NOTHING, NOTHING, NOTHING]);
    set(&mut case, None, None);
    case.told_is([&["no peer 2"], NOTHING, NOTHING, NOTHING]);
    set(&mut case, Some(6), None);
    case.told_is([&["peer 2 at 198.51.100.6"], NOTHING, NOTHING, NOTHING]);
    for nowhere in [
        described(|tunnel| tunnel.port = 0),
        described(|tunnel| tunnel.addr = Some([0, 0, 0, 0].into())),
        described(|tunnel| tunnel.addr = Some([224, 0, 0, 1].into())),
        Some(NodeDescription { level: Level::OVERLAY, ..node_description("node-2") }),
    ] {
        set(&mut case, Some(6), nowhere);
        case.told_is([&["no peer 2"], NOTHING, NOTHING, NOTHING]);
        set(&mut case, Some(6), described(|tunnel| tunnel.addr = None));
        case.told_is([&["peer 2 at 198.51.100.6"], NOTHING, NOTHING, NOTHING]);
    }
}

/// Older agents know of no such items. They have no such tasks either, unless they went back.
#[test]
fn an_agent_of_the_first_level_is_told_of_no_others() {
    let mut case = Case::new();
    let describe = |case: &mut Case, level| {
        let status = NodeStatus { state: NodeState::Ready, ..NodeStatus::default() };
        let description = NodeDescription { level, ..node_description("node-1") };
        let (id, description) = (case.nodes[0], Some(description));
        case.cluster.apply(Command::ReportNode { id, description, status });
    };
    describe(&mut case, Level::FIRST);
    let told = case.told();
    let gone = ["no vip", "no endpoint web.1", "no endpoint web.2", "no peer 2"];
    assert_eq!(told[0], gone);
    assert_eq!(told[1], ["no peer 1"], "it has told of no tunnel");
    case.cluster.report(case.tasks[1], TaskState::Failed);
    assert_eq!(case.told()[0], Vec::<String>::new());
    let all = Held::new(case.nodes[0]).catch_up(&case.cluster.state, &News::whole());
    assert_eq!(
        all.map(|change| case.word(&change)).collect::<Vec<_>>(),
        ["network net", "task web.1"]
    );
    describe(&mut case, Level::OVERLAY);
    assert_eq!(case.told()[0], ["endpoint web.1 serves on 1", "vip of web"]);
    assert!(case.cluster.state.network(case.network).is_some());
}

/// Heard of at once: a service joins a network, and the node leaves that one.
#[test]
fn what_is_the_same_in_the_end_is_not_told_again() {
    let mut case = Case::new();
    case.cluster.add_overlay("second", None);
    let there = case.cluster.add_service(with_networks(service_spec("there", 1), &["second"]));
    let task = case.cluster.add_running(there, 1, case.nodes[0]);
    case.told();
    case.cluster
        .update_service(case.web, with_networks(service_spec("web", 2), &["net", "second"]));
    case.cluster.report(task, TaskState::Failed);
    let told = case.told();
    assert!(!told[0].contains(&"vip of web".to_owned()), "{told:?}");
    assert!(told[0].contains(&"no network".to_owned()), "{told:?}");
}
