use shoal_types::id::{IdSource, NetworkId};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{all_refused, feed, refused};
use crate::testing::{TestCluster, cluster_with_nodes, network_spec, service_spec, with_networks};
use crate::{Command, Rejected, RejectedCode as Code};

#[test]
fn refusals() {
    let mut cluster = TestCluster::new();
    let net = cluster.add_network("net");
    cluster.add_service(with_networks(service_spec("web", 1), &["net"]));
    let other = NetworkId::from(99);
    let create = |id, name| Command::CreateNetwork { id, spec: network_spec(name) };
    all_refused(
        &cluster,
        vec![
            (create(net, "new"), Code::AlreadyExists, &["exists already"]),
            (create(other, "net"), Code::AlreadyExists, &["\"net\"", "in use by network"]),
            (create(other, "bridge"), Code::AlreadyExists, &["\"bridge\""]),
            (Command::RemoveNetwork { id: other }, Code::NotFound, &[]),
            (
                Command::RemoveNetwork { id: net },
                Code::FailedPrecondition,
                &["\"net\"", "service web"],
            ),
        ],
    );
}

#[test]
fn a_network_stays_while_a_task_may_use_it() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let net = cluster.add_network("net");
    let web = cluster.add_service(with_networks(service_spec("web", 1), &["net"]));
    let task = cluster.add_running(web, 1, nodes[0]);
    cluster.apply(Command::RemoveService { id: web });

    let rejected = refused(&cluster, Command::RemoveNetwork { id: net });
    let user = "web.1".to_owned();
    let user_kind = crate::ObjectKind::Task;
    assert_eq!(rejected, Rejected::NetworkInUse { name: "net".to_owned(), user_kind, user });

    cluster.report(task, TaskState::Shutdown);
    cluster.events();
    cluster.apply(Command::RemoveNetwork { id: net });
    assert_eq!(feed(&mut cluster), ["remove network"]);
    cluster.check();
}

#[test]
fn services_join_what_they_name() {
    let mut cluster = TestCluster::new();
    let (a, b) = (cluster.add_network("a"), cluster.add_network("b"));
    let bridge = cluster.state.network_by_name("bridge").unwrap().id;
    let host = cluster.state.network_by_name("host").unwrap().id;
    let b_id = b.to_string();
    let cases: [(&[&str], Vec<NetworkId>); 4] = [
        (&[], vec![bridge]),
        (&["a"], vec![a]),
        (&["a", &b_id], vec![a, b]),
        (&["host"], vec![host]),
    ];
    for (i, (names, expected)) in cases.into_iter().enumerate() {
        let spec = with_networks(service_spec(&format!("s{i}"), 1), names);
        let id = cluster.add_service(spec);
        let networks = cluster.state.service(id).unwrap().networks.clone();
        assert_eq!(networks.iter().map(|n| n.network_id).collect::<Vec<_>>(), expected);
        let task = cluster.add_task(id, 1);
        assert_eq!(cluster.state.task(task).unwrap().networks, networks);
    }
}

#[test]
fn services_do_not_join_what_cannot_be_joined() {
    let mut cluster = TestCluster::new();
    let a = cluster.add_network("a").to_string();
    let host = cluster.state.network_by_name("host").unwrap().id.to_string();
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    let create = |names: &[&str]| Command::CreateService {
        id,
        deployment_id,
        spec: with_networks(service_spec("web", 1), names).into(),
    };
    all_refused(
        &cluster,
        vec![
            (create(&["nowhere"]), Code::InvalidArgument, &["\"web\"", "\"nowhere\""]),
            (create(&["a", &a]), Code::InvalidArgument, &["\"a\" twice"]),
            (create(&["a", "host"]), Code::InvalidArgument, &["\"host\"", "excludes"]),
            (create(&[&host]), Code::InvalidArgument, &[&host, "expected its name, \"host\""]),
            (create(&["none", "a"]), Code::InvalidArgument, &["\"none\"", "excludes"]),
        ],
    );
}

#[test]
fn dropping_a_network_keeps_it_for_old_tasks() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let net = cluster.add_network("net");
    let web = cluster.add_service(with_networks(service_spec("web", 1), &["net"]));
    let old = cluster.add_running(web, 1, nodes[0]);
    cluster.update_service(web, service_spec("web", 1));
    assert!(matches!(
        refused(&cluster, Command::RemoveNetwork { id: net }),
        Rejected::NetworkInUse { .. }
    ));
    cluster.apply(Command::SetDesired { id: old, desired: DesiredState::Shutdown });
    cluster.report(old, TaskState::Shutdown);
    cluster.apply(Command::RemoveNetwork { id: net });
    cluster.check();
}
