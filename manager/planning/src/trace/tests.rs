use shoal_manager_state::ClusterState;
use shoal_manager_state::testing::{
    TestCluster, cluster_with_nodes, service_spec, with_ingress_port, with_networks,
};
use shoal_types::id::{ServiceId, TaskId};
use shoal_types::question::{Finding, PeerReach, TraceStep, Verdict};
use shoal_types::spec::{EndpointSpec, Locality, ServiceSpec};

use super::*;

/// Three nodes with tunnels: a service on an overlay network with tasks on the first two, one that asks on the
/// first, and a stranger on another network on the third.
struct Case {
    cluster: TestCluster,
    nodes: Vec<NodeId>,
    web: ServiceId,
    tasks: Vec<TaskId>,
}

impl Case {
    fn new() -> Self {
        let (mut cluster, nodes) = cluster_with_nodes(3);
        nodes.iter().zip(1..).for_each(|(node, n)| cluster.give_tunnel(*node, n, n));
        cluster.add_overlay("net", None);
        cluster.add_overlay("other", None);
        let web = cluster.add_service(with_networks(service_spec("web", 2), &["net"]));
        let ask = cluster.add_service(with_networks(service_spec("ask", 1), &["net"]));
        let stranger = cluster.add_service(with_networks(service_spec("stranger", 1), &["other"]));
        let tasks = vec![
            cluster.add_running(web, 1, nodes[0]),
            cluster.add_running(web, 2, nodes[1]),
            cluster.add_running(ask, 1, nodes[0]),
            cluster.add_running(stranger, 1, nodes[2]),
        ];
        Self { cluster, nodes, web, tasks }
    }

    fn state(&self) -> &ClusterState {
        &self.cluster.state
    }

    /// Everybody answers, and everything is as it should be.
    fn well(&self, way: &Way) -> Heard {
        let answer = |(node, question): (NodeId, NetworkQuestion)| {
            let reach = |peer: &NodeId| PeerReach {
                node_id: *peer,
                hostname: String::new(),
                endpoint: Some("192.0.2.2:51820".to_owned()),
                handshake_age_seconds: Some(7),
                received_bytes: 0,
                sent_bytes: 0,
                full_bytes: 1420,
                passes_bytes: 1420,
                trouble: None,
            };
            let reached = question.peers.iter().filter(|peer| **peer != node).map(reach).collect();
            (node, NodeNetworks { reached, ..NodeNetworks::default() })
        };
        Heard { answers: way.asked().into_iter().map(answer).collect(), ..Heard::default() }
    }

    fn traced(&self, source: &str, to: &str, change: impl FnOnce(&mut Heard)) -> Vec<TraceStep> {
        let way = plan(self.state(), source, to).unwrap();
        let mut heard = self.well(&way);
        change(&mut heard);
        way.judged(self.state(), &heard)
    }

    fn address(&self, task: usize) -> String {
        let task = self.state().task(self.tasks[task]).unwrap();
        task.networks[0].addresses[0].addr().to_string()
    }

    fn host(&self, node: usize) -> String {
        self.state().hostname(self.nodes[node])
    }
}

use shoal_types::question::NetworkQuestion;

fn stops(steps: &[TraceStep]) -> Vec<(String, String)> {
    let bad = steps.iter().filter(|step| step.verdict != Verdict::Passes);
    bad.map(|step| (step.what.clone(), step.why.clone().unwrap_or_default())).collect()
}

#[test]
fn a_name_leads_to_an_address_to_backends_and_to_their_nodes() {
    let case = Case::new();
    let steps = case.traced("ask.1", "web:80", |_| ());
    assert_eq!(stops(&steps), []);
    let told: Vec<String> = steps
        .iter()
        .map(|step| format!("{}: {}", step.node.as_deref().unwrap_or("-"), step.what))
        .collect();
    let (one, two) = (case.host(0), case.host(1));
    let vip = case.state().service(case.web).unwrap().endpoint.virtual_ips[0].addr.addr();
    let (near, far, own) = (case.address(0), case.address(1), case.address(2));
    assert_eq!(
        told,
        [
            format!("{one}: ask.1 sends at {own}"),
            format!("{one}: the name web, on network net: {vip}"),
            format!("{one}: {vip} leads to one of 2 tasks that serve"),
            format!("{one}: web.1 at {near} on network net, port 80/tcp"),
            format!("{one}: route to {far} by the tunnel"),
            format!("{one}: the tunnel to {two}"),
            format!("{two}: the tunnel to {one}"),
            format!("{two}: the way back to {own} by the tunnel"),
            format!("{two}: web.2 at {far} on network net, port 80/tcp"),
        ]
    );
    // By the address of one alone, and by its name: the same way.
    let by_address = case.traced("ask.1", &format!("{far}:80/udp"), |_| ());
    assert_eq!(by_address.len(), 6);
    assert_eq!(case.traced("ask.1", "web.2", |_| ()).len(), 6);
    assert_eq!(case.traced("ask.1", &vip.to_string(), |_| ()).len(), 8, "no name is asked for");
}

#[test]
fn tasks_of_the_node_are_preferred_where_that_is_said() {
    let mut case = Case::new();
    let local = |spec: ServiceSpec| {
        let locality = Some(Locality::PreferLocal);
        let endpoint = spec.endpoint_spec.clone().unwrap_or_default();
        ServiceSpec { endpoint_spec: Some(EndpointSpec { locality, ..endpoint }), ..spec }
    };
    let (web, at) = (case.web, case.nodes.clone());
    let on_net = |name, count| with_networks(service_spec(name, count), &["net"]);
    case.cluster.update_service(web, local(on_net("web", 2)));
    let steps = case.traced("ask.1", "web", |_| ());
    assert_eq!(stops(&steps), []);
    let said = "leads to one of 1 task that serve on this node, before others";
    assert!(steps.iter().any(|step| step.what.ends_with(said)), "{steps:?}");
    assert!(!steps.iter().any(|step| step.what.contains("tunnel")), "{steps:?}");
    // By a port: the second node has one, and the third none.
    let spec = local(with_ingress_port(service_spec("shop", 1), 8080));
    let shop = case.cluster.add_service(spec);
    case.cluster.add_running(shop, 1, at[0]);
    case.cluster.add_running(shop, 2, at[1]);
    for (node, count) in [(1, "1 task of shop on this node, before others"), (2, "2 tasks of shop")]
    {
        let steps = case.traced("ask.1", &format!("{}:8080", case.host(node)), |_| ());
        let said = format!("leads to one of {count}");
        assert!(steps.iter().any(|step| step.what.ends_with(&said)), "{said}: {steps:?}");
    }
}

#[test]
fn each_step_is_judged_by_what_its_node_says_of_it() {
    let case = Case::new();
    let (one, two) = (case.nodes[0], case.nodes[1]);
    let finding = |subject: String| Finding {
        subject,
        expected: "present".to_owned(),
        found: "missing".to_owned(),
        ..Finding::default()
    };
    let far = case.address(1);
    let subject = format!("route to {far} by the tunnel");
    let steps = case.traced("ask.1", "web", |heard| {
        heard.answers.get_mut(&one).unwrap().findings.push(finding(subject.clone()));
    });
    let why = format!("{subject}: missing, expected present");
    assert_eq!(stops(&steps), [(subject.clone(), why)]);
    assert_eq!(steps.iter().filter(|s| s.verdict == Verdict::Stops).count(), 1);
    // What concerns no step is said at the end.
    let steps = case.traced("ask.1", "web", |heard| {
        heard.answers.get_mut(&two).unwrap().findings.push(finding("routing rule 60".to_owned()));
    });
    let last = steps.last().unwrap();
    assert_eq!((last.node.clone(), last.verdict), (Some(case.host(1)), Verdict::Doubtful));
    assert!(last.why.as_ref().unwrap().contains("routing rule 60"));

    let tunnel = format!("the tunnel to {}", case.host(1));
    let with_reach = |passes: u64, trouble: Option<&str>| {
        let steps = case.traced("ask.1", "web", |heard| {
            let reach = &mut heard.answers.get_mut(&one).unwrap().reached[0];
            reach.passes_bytes = passes;
            reach.trouble = trouble.map(str::to_owned);
            reach.handshake_age_seconds = Some(240);
        });
        let step = steps.into_iter().find(|step| step.what == tunnel).unwrap();
        (step.verdict, step.why.unwrap_or_default())
    };
    let why = "nothing passes to 192.0.2.2:51820; keys were agreed on 240 s ago";
    assert_eq!(with_reach(0, None), (Verdict::Stops, why.to_owned()));
    assert_eq!(with_reach(1300, None).0, Verdict::Doubtful);
    assert_eq!(with_reach(0, Some("no time")), (Verdict::Doubtful, "no time".to_owned()));
    assert_eq!(with_reach(1420, None), (Verdict::Passes, String::new()));

    let steps = case.traced("ask.1", "web", |heard| {
        heard.answers.remove(&two);
        let (node_id, hostname) = (two, case.host(1));
        heard.silent.push(Silent { node_id, hostname, reason: "it cannot be reached".to_owned() });
    });
    assert!(stops(&steps).iter().all(|(_, why)| why.contains("it cannot be reached")), "{steps:?}");
    assert_eq!(stops(&steps).len(), 3);
    let steps = case.traced("ask.1", "web", |heard| {
        heard.progress.insert(two, AssignmentProgress { sent: 14, applied: 12 });
    });
    let why = "it has not applied everything yet: message 12 of 14";
    assert!(stops(&steps).iter().all(|(_, said)| said == why) && stops(&steps).len() == 3);
}

#[test]
fn what_leads_nowhere_says_why() {
    let mut case = Case::new();
    let stopped = |case: &Case, source: &str, to: &str| {
        let mut all = stops(&case.traced(source, to, |_| ()));
        assert_eq!(all.len(), 1, "{source} to {to}: {all:?}");
        all.pop().unwrap().1
    };
    let why = stopped(&case, "stranger.1", "web");
    assert_eq!(why, "they have no network in common: stranger.1 is on other, and it on net");
    assert!(stopped(&case, "stranger.1", "web.1").contains("no network in common"));
    assert!(stopped(&case, &case.host(2), "web").contains("published ports only"));
    let nobody = "10.0.0.250".to_owned();
    let networks: Vec<_> = case.state().networks().flat_map(|n| n.subnets.clone()).collect();
    let nobody = networks
        .iter()
        .find_map(|net| net.hosts().last().map(|last| last.to_string()))
        .unwrap_or(nobody);
    assert_eq!(stopped(&case, "ask.1", &nobody), "nobody has this address");
    let port = format!("{}:8080", case.host(1));
    assert_eq!(stopped(&case, "ask.1", &port), "nothing that runs publishes it");
    // A node's own containers are reached by it.
    assert_eq!(stops(&case.traced(&case.host(0), "web.1", |_| ())), []);
    // Nobody serves.
    let none = case.cluster.add_service(with_networks(service_spec("none", 1), &["net"]));
    assert!(stopped(&case, "ask.1", "none").starts_with("no backend serves: none"), "{none}");
    for text in ["", "web:", "web:0", "web:x", "web/tcp", "10.0.0.1/tcp", "a b", "web:80/quic"] {
        assert!(plan(case.state(), "ask.1", text).is_err(), "{text:?}");
    }
    assert!(matches!(plan(case.state(), "nobody", "web"), Err(Untraceable::Source(_))));
}
