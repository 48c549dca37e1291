//! Ports whose clients are led to tasks of the host that they ask before others.

use shoal_agent_planning::overlay::{Courses, OverlayView};
use shoal_types::assignment::{IngressPort, Peer, PeerKeys, TaskEndpoint};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::{Slot, TunnelKey};
use shoal_types::spec::{self, Locality};

use super::*;
use crate::root_tests::lab::{Line, serve_lines};

/// Tasks by number, and the host of each.
const TASKS: [(u128, u8); 3] = [(11, 0), (12, 1), (13, 1)];

fn node(host: u8) -> NodeId {
    u128::from(host + 1).into()
}

/// Tells every host of all tasks, and that these serve.
fn lead(cluster: &Cluster, serving: &[u128]) {
    for host in 0..2 {
        let lab = &cluster.hosts[usize::from(host)];
        lab.block_on(async || {
            let peer = |of: u8| {
                let (public_key, addr) = (TunnelKey([of; 32]), outside(of).into());
                let tunnel_address = Some(home(of).into());
                let peer = Peer {
                    node_id: node(of),
                    public_key,
                    addr,
                    port: 1,
                    tunnel_address,
                    keys: PeerKeys::default(),
                };
                (peer.node_id, Arc::new(peer))
            };
            let port = |(protocol, published_port): Port| {
                let protocol = match protocol {
                    Protocol::Tcp => spec::Protocol::Tcp,
                    Protocol::Udp => spec::Protocol::Udp,
                    Protocol::Sctp => spec::Protocol::Sctp,
                };
                IngressPort { protocol, published_port }
            };
            let endpoint = |(task, at): (u128, u8)| {
                let endpoint = TaskEndpoint {
                    task_id: task.into(),
                    service_id: 7.into(),
                    service_name: "web".to_owned(),
                    slot: Slot::Replica(1),
                    node_id: node(at),
                    networks: Vec::new(),
                    ports: [TCP, COUNTING, UDP].map(port).to_vec(),
                    affinity: None,
                    locality: Some(Locality::PreferLocal),
                    serving: serving.contains(&task),
                };
                (endpoint.task_id, Arc::new(endpoint))
            };
            let view = OverlayView {
                node_id: Some(node(host)),
                endpoints: TASKS.map(endpoint).into_iter().collect(),
                peers: [0, 1].map(peer).into_iter().collect(),
                ..OverlayView::default()
            };
            let course = Courses::default().follow(&view).clone();
            let driver = lab.driver();
            driver.lead(course.remote, course.vips, course.ingress).await.unwrap();
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "host {host}: {repaired:?}");
        });
    }
}

fn connect(cluster: &Cluster, host: u8) -> Line {
    Line::to(&cluster.client, outside(host).into(), 8081)
}

#[test]
fn the_host_that_is_asked_serves_before_others_and_connections_go_on() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let name = |task: u128| TaskId::from(task).to_string();
    let _spaces = TASKS.map(|(task, host)| {
        // Few, in a test.
        let space = cluster.serve(host, Box::leak(name(task).into_boxed_str()));
        serve_lines(&space, 81, Box::leak(name(task).into_boxed_str()));
        space
    });
    let names = |tasks: &[u128]| tasks.iter().map(|task| name(*task)).collect::<BTreeSet<_>>();
    let answering = |host: u8| answering(&cluster.client, outside(host));
    // Only the second host has some that serve, and both of them do.
    lead(&cluster, &[12, 13]);
    assert_eq!(answering(0), names(&[12, 13]));
    assert_eq!(answering(1), names(&[12, 13]));
    let mut to_far = connect(&cluster, 0);
    let far = to_far.ask().unwrap();
    assert!(names(&[12, 13]).contains(&far), "{far}");
    // The first has one, too: each serves who asks it, and who is connected stays.
    lead(&cluster, &[11, 12, 13]);
    assert_eq!(answering(0), names(&[11]));
    assert_eq!(answering(1), names(&[12, 13]));
    assert_eq!(to_far.ask().unwrap(), far);
    let mut to_near = connect(&cluster, 0);
    assert_eq!(to_near.ask().unwrap(), name(11));
    // It is withdrawn, and ends what it has begun.
    lead(&cluster, &[12, 13]);
    assert_eq!(answering(0), names(&[12, 13]));
    assert_eq!(to_near.ask().unwrap(), name(11));
    assert_eq!(to_far.ask().unwrap(), far);
    // Now the second has none.
    lead(&cluster, &[11]);
    assert_eq!(answering(1), names(&[11]));
    assert_eq!(to_far.ask().unwrap(), far);
    cluster.cleanup();
}
