//! Whatever happens, and however it is heard of: what a node was told, change by change, is what it
//! must hold.

use proptest::prelude::*;
use shoal_manager_state::Command;
use shoal_manager_state::testing::{
    Step, TestCluster, cluster_of, cluster_with_nodes, decide, service_spec, with_ingress_port,
    with_networks, with_task,
};
use shoal_types::assignment::{NodeAssignment, Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::{IdSource as _, SeededIds};
use shoal_types::object::{DescribedKeys, Meta, Node};
use shoal_types::spec::{ConfigSpec, PayloadReference, SecretSpec, ServiceSpec, TaskRuntime};
use shoal_types::task_state::{DesiredState, TaskState};

use super::*;

/// All that a node must hold, as one would write it first.
fn whole(view: &ClusterState, node: NodeId) -> NodeAssignment {
    let mut wanted = NodeAssignment::default();
    for task in view.tasks_on_node(node).filter(|task| task.status.state.is_placed()) {
        if task.is_live() {
            let joined = task.networks.iter().filter_map(|n| view.network(n.network_id));
            wanted.networks.extend(joined.map(|network| (network.id, Arc::clone(network))));
        }
        // What is in a secret is nobody's business who has no task that is to have it.
        if task.is_wanted() {
            let secrets = task.payloads.secrets.iter().filter_map(|id| view.secret(*id));
            wanted.secrets.extend(secrets.map(|secret| (secret.id, Arc::clone(secret))));
            let configs = task.payloads.configs.iter().filter_map(|id| view.config(*id));
            wanted.configs.extend(configs.map(|config| (config.id, Arc::clone(config))));
        }
        wanted.tasks.insert(task.id, AssignedTask::of(task).expect("it has a node"));
    }
    let level = view.node(node).map(|node| node.description.level).unwrap_or_default();
    let told = |id| {
        let network = wanted.networks.get(&id);
        network.is_some_and(|network| network.spans_nodes()) && level >= Level::OVERLAY
    };
    let ports = level >= Level::INGRESS;
    let endpoints = view.tasks().filter_map(|task| TaskEndpoint::of(task, told, ports));
    let endpoints: BTreeMap<_, _> = endpoints.map(|one| (one.task_id, Arc::new(one))).collect();
    let vips = view.services().filter_map(|service| ServiceVips::of(service, told));
    let vips = vips.map(|one| (one.service_id, Arc::new(one))).collect();
    let publishes = endpoints.values().any(|e| e.node_id == node && !e.ports.is_empty());
    let leads = |other: &&Arc<Node>| publishes && other.description.level >= Level::INGRESS;
    let leading = view.nodes().filter(leads).map(|other| other.id);
    let others = endpoints.values().map(|endpoint| endpoint.node_id).chain(leading);
    let others = others.filter(|id| *id != node).chain(ports.then_some(node));
    let keys = view.cluster().filter(|_| view.level() >= Level::KEYS);
    let cluster = keys.map(|cluster| cluster.tunnel_keys.epochs);
    let peers = others.filter_map(|id| {
        let mut peer = Peer::of(view.node(id)?)?;
        peer.keys.cluster = cluster.filter(|_| id == node);
        Some(peer)
    });
    let peers = peers.map(|peer| (peer.node_id, Arc::new(peer))).collect();
    NodeAssignment { endpoints, vips, peers, ..wanted }
}

/// A node that obeys, and the stream that tells it.
struct Stream {
    node: NodeId,
    held: Held,
    news: News,
    told: NodeAssignment,
    /// How many changes of each kind there were, in the order in which they come in a message.
    kinds: Kinds,
}

/// Networks, secrets, configs, peers, endpoints, virtual addresses, tasks; and the same gone, in the other order.
type Kinds = [usize; 14];

impl Stream {
    fn new(node: NodeId) -> Self {
        let (held, news) = (Held::new(node), News::whole());
        Self { node, held, news, told: NodeAssignment::default(), kinds: [0; 14] }
    }

    /// Tells the node what is new, and checks that nothing is told twice and all in order.
    fn tell(&mut self, view: &ClusterState) {
        let mut last = 0;
        for change in self.held.catch_up(view, &std::mem::take(&mut self.news)) {
            let (kind, is_new) = match &change {
                AssignmentChange::UpdateNetwork(network) => {
                    (0, self.told.networks.get(&network.id) != Some(network))
                }
                AssignmentChange::UpdateTask(task) => {
                    let joined = task.networks.iter().map(|n| n.network_id);
                    let known =
                        |id| view.network(id).is_none() || self.told.networks.contains_key(&id);
                    let ended = view.task(task.id).is_none_or(|task| !task.is_live());
                    assert!(ended || joined.clone().all(known), "{task:?} before its networks");
                    let secrets =
                        task.payloads.secrets.iter().all(|s| self.told.secrets.contains_key(s));
                    let configs =
                        task.payloads.configs.iter().all(|c| self.told.configs.contains_key(c));
                    let stops = ended || task.desired_state.is_stop();
                    assert!(stops || secrets && configs, "{task:?} before what it is given");
                    (6, self.told.tasks.get(&task.id) != Some(task))
                }
                AssignmentChange::UpdateSecret(secret) => {
                    (1, !self.told.secrets.contains_key(&secret.id))
                }
                AssignmentChange::UpdateConfig(config) => {
                    (2, !self.told.configs.contains_key(&config.id))
                }
                AssignmentChange::RemoveSecret(id) => (11, self.told.secrets.contains_key(id)),
                AssignmentChange::RemoveConfig(id) => (12, self.told.configs.contains_key(id)),
                AssignmentChange::UpdatePeer(peer) => {
                    (3, self.told.peers.get(&peer.node_id) != Some(peer))
                }
                AssignmentChange::UpdateEndpoint(endpoint) => {
                    (4, self.told.endpoints.get(&endpoint.task_id) != Some(endpoint))
                }
                AssignmentChange::UpdateVips(vips) => {
                    (5, self.told.vips.get(&vips.service_id) != Some(vips))
                }
                AssignmentChange::RemoveTask(id) => (7, self.told.tasks.contains_key(id)),
                AssignmentChange::RemoveVips(id) => (8, self.told.vips.contains_key(id)),
                AssignmentChange::RemoveEndpoint(id) => (9, self.told.endpoints.contains_key(id)),
                AssignmentChange::RemovePeer(id) => (10, self.told.peers.contains_key(id)),
                AssignmentChange::RemoveNetwork(id) => (13, self.told.networks.contains_key(id)),
                AssignmentChange::RejectTask(..) => panic!("{change:?}"),
            };
            assert!(is_new && kind >= last, "{change:?}");
            self.kinds[kind] += 1;
            last = kind;
            self.told.apply(vec![change]);
        }
    }
}

/// What happens, whether it is heard of, who is told now, and whether it is something else that happens.
type Moment = (Step, u8, u8, u8);

/// What commands at random do not come to: nodes with tunnels, of any level.
fn other_step(cluster: &mut TestCluster, (a, b, c, _): Step) {
    let nodes: Vec<_> = cluster.state.nodes().map(|node| node.id).collect();
    if !nodes.is_empty() {
        let node = nodes[usize::from(a) % nodes.len()];
        cluster.give_tunnel(node, b % 3, b % 5);
        cluster.set_level(node, Level::new([1, 2, 3, 4][usize::from(c) % 4]));
        if c >= 128 {
            cluster.give_keys(node, DescribedKeys { epoch: (b % 2).into(), ..Default::default() });
        }
    }
}

/// What a node has to know: labels of what its tasks are given are not among that.
fn plain(assignment: &NodeAssignment) -> NodeAssignment {
    let mut plain = assignment.clone();
    for secret in plain.secrets.values_mut().map(Arc::make_mut) {
        secret.spec.labels.clear();
        secret.meta = Meta::default();
    }
    for config in plain.configs.values_mut().map(Arc::make_mut) {
        config.spec.labels.clear();
        config.meta = Meta::default();
    }
    plain
}

/// A service with two secrets and two configs, which are made.
fn given(cluster: &mut TestCluster, name: &str) -> ServiceSpec {
    let mut references = Vec::new();
    for name in ["p0", "p1"] {
        let (data, none) = (b"x0".to_vec(), BTreeMap::new());
        let (name, replace) = (name.to_owned(), false);
        let spec = SecretSpec { name: name.clone(), data: data.clone(), ..Default::default() };
        let (id, deployments) = (cluster.ids.next_id(), none.clone());
        cluster.apply(Command::CreateSecret { id, spec, replace, deployments });
        let spec = ConfigSpec { name: name.clone(), data, ..Default::default() };
        let (id, deployments) = (cluster.ids.next_id(), none);
        cluster.apply(Command::CreateConfig { id, spec, replace, deployments });
        references.push(PayloadReference::to(name));
    }
    with_task(service_spec(name, 3), |task| {
        let TaskRuntime::Container(container) = &mut task.runtime else { panic!("no container") };
        (container.secrets, container.configs) = (references.clone(), references);
    })
}

/// Everything that streams are told while this happens; how many changes there were of each kind.
fn follow(moments: impl IntoIterator<Item = Moment>) -> Kinds {
    let (mut cluster, nodes) = cluster_of(Level::DUAL, 3);
    let network = cluster.add_overlay("n0", None);
    cluster.add_overlay("n1", None);
    nodes.iter().zip(1..).for_each(|(node, n)| cluster.give_tunnel(*node, n, n));
    let web = with_ingress_port(with_networks(service_spec("s0", 3), &["n0"]), 8080);
    let web = cluster.add_service(web);
    let given = given(&mut cluster, "s1");
    let given = cluster.add_service(given);
    for (replica, node) in (1..).zip(&nodes) {
        cluster.add_running(given, replica, *node);
    }
    assert!(cluster.state.network(network).is_some());
    for (replica, node) in (1..).zip(&nodes) {
        cluster.add_running(web, replica, *node);
    }
    cluster.events();
    let mut streams: Vec<Stream> = nodes.into_iter().map(Stream::new).collect();
    for (step, heard, told, other) in moments {
        if other < 20 {
            other_step(&mut cluster, step);
        } else {
            let command = decide(&mut cluster, step);
            drop(cluster.try_apply(command));
        }
        hear(&mut cluster, &mut streams, heard);
        for (n, stream) in streams.iter_mut().enumerate() {
            if told >> n & 1 == 1 {
                stream.tell(&cluster.state);
                assert_eq!(plain(&stream.told), plain(&whole(&cluster.state, stream.node)));
            }
        }
    }
    let all = streams.into_iter().map(|mut stream| {
        stream.tell(&cluster.state);
        assert_eq!(plain(&stream.told), plain(&whole(&cluster.state, stream.node)));
        stream.kinds
    });
    all.fold([0; 14], |sums, kinds| std::array::from_fn(|n| sums[n] + kinds[n]))
}

/// Lets streams hear of what was written; or of nothing but that they have missed something.
fn hear(cluster: &mut TestCluster, streams: &mut [Stream], heard: u8) {
    let events = cluster.events();
    let found = news(&events, &cluster.state);
    for stream in streams {
        if heard < 16 {
            stream.news.add(&News::whole());
        } else if let Some(news) = found.get(&stream.node) {
            stream.news.add(news);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_change_by_change_is_what_a_node_must_hold(
        moments in prop::collection::vec(any::<Moment>(), 1..150),
    ) {
        follow(moments);
    }
}

/// The property above says little if nothing ever changes.
#[test]
fn there_are_changes_of_every_kind() {
    let mut source = SeededIds::new(7);
    let mut kinds = [0; 14];
    for _ in 0..60 {
        let moments = (0..150).map(|_| {
            let [kind, a, b, c, told, other, ..] = source.next_bits().to_le_bytes();
            ((kind, a, b, c), 255, told, other)
        });
        let found = follow(moments.collect::<Vec<_>>());
        kinds = std::array::from_fn(|n| kinds[n] + found[n]);
    }
    assert!(kinds.iter().all(|count| *count > 20), "{kinds:?}");
}

/// A status that its node has sent itself means nothing to it, and takes no memory beside the state.
#[test]
fn what_a_node_has_reported_it_is_not_told() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 2));
    let tasks = [1, 2].map(|replica| cluster.add_running(web, replica, nodes[0]));
    cluster.events();
    let mut held = Held::new(nodes[0]);
    assert_eq!(held.catch_up(&cluster.state, &News::whole()).count(), 3, "a network and two tasks");
    cluster.report(tasks[0], TaskState::Failed);
    let events = cluster.events();
    let found = news(&events, &cluster.state);
    assert_eq!(held.catch_up(&cluster.state, &found[&nodes[0]]).count(), 0);
    for task in tasks {
        assert!(Arc::ptr_eq(&held.tasks[&task], cluster.state.task(task).expect("there")));
    }
    cluster.apply(Command::SetDesired { id: tasks[1], desired: DesiredState::Shutdown });
    cluster.report(tasks[1], TaskState::Shutdown);
    let events = cluster.events();
    let told: Vec<_> =
        held.catch_up(&cluster.state, &news(&events, &cluster.state)[&nodes[0]]).collect();
    let [AssignmentChange::UpdateTask(task), AssignmentChange::RemoveNetwork(_)] = told.as_slice()
    else {
        panic!("the last task that needs the network: {told:?}");
    };
    assert_eq!((task.id, task.desired_state), (tasks[1], DesiredState::Shutdown));
}

/// No byte of a secret is told to a node without a task that is to have it.
#[test]
fn what_is_in_a_secret_is_told_where_a_task_is_given_it_and_as_long_as_it_is_wanted() {
    let (mut cluster, nodes) = cluster_of(Level::PAYLOADS, 2);
    let spec = given(&mut cluster, "web");
    let web = cluster.add_service(spec);
    let other = cluster.add_service(service_spec("other", 1));
    let tasks = [1, 2].map(|replica| cluster.add_running(web, replica, nodes[0]));
    cluster.add_running(other, 1, nodes[1]);
    cluster.events();
    let secrets = |changes: &[AssignmentChange]| {
        let of = |change: &&AssignmentChange| {
            matches!(change, AssignmentChange::UpdateSecret(_) | AssignmentChange::RemoveSecret(_))
        };
        changes.iter().filter(of).count()
    };
    let mut helds = [Held::new(nodes[0]), Held::new(nodes[1])];
    let told: Vec<_> = helds[0].catch_up(&cluster.state, &News::whole()).collect();
    assert_eq!(secrets(&told), 2, "each once for both tasks");
    let told: Vec<_> = helds[1].catch_up(&cluster.state, &News::whole()).collect();
    assert_eq!(secrets(&told), 0, "{told:?}");
    let mut stop = |cluster: &mut TestCluster, id| {
        cluster.apply(Command::SetDesired { id, desired: DesiredState::Shutdown });
        let events = cluster.events();
        let news = news(&events, &cluster.state);
        let told: Vec<_> = helds[0].catch_up(&cluster.state, &news[&nodes[0]]).collect();
        secrets(&told)
    };
    assert_eq!(stop(&mut cluster, tasks[0]), 0, "the other one is to have them still");
    assert_eq!(stop(&mut cluster, tasks[1]), 2, "nobody is to have them any more");
}

#[test]
fn news_has_a_bound() {
    let mut news = News::default();
    for n in 0..=NAMED_MAX as u128 {
        assert!(!news.whole);
        news.add(&News { tasks: [n.into()].into(), ..News::default() });
    }
    assert_eq!(news, News::whole());
    news.add(&News { tasks: [0.into()].into(), ..News::default() });
    assert_eq!(news, News::whole(), "nothing is named beside everything");
}
