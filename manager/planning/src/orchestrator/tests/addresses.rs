//! Networks without a free address: slots wait, say why, and go on.

use shoal_manager_state::testing::{with_networks, with_task};
use shoal_types::id::ServiceId;
use shoal_types::level::Level;

use super::*;

/// Five addresses: one of them is the service's.
const SMALL: Option<&str> = Some("10.7.0.0/29");
const FULL: &str = "network \"small\" has no free one, all 5 are in use";

fn on_small(replicas: u64) -> ServiceSpec {
    with_networks(service_spec("web", replicas), &["small"])
}

/// Two nodes that can have networks which span nodes, and a small one.
fn with_small() -> Stage {
    let mut stage = Stage::new(2);
    for (id, n) in stage.nodes.clone().into_iter().zip(1..) {
        stage.cluster.give_tunnel(id, n, n);
    }
    stage.cluster.add_overlay("small", SMALL);
    stage
}

/// A service of four tasks that has all addresses of its network.
fn full() -> (Stage, ServiceId) {
    let mut stage = with_small();
    let web = stage.service(on_small(4));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(web).len(), 4);
    (stage, web)
}

#[test]
fn replicas_that_get_no_address_wait_and_say_so() {
    let (mut stage, web) = full();
    stage.cluster.update_service(web, on_small(7));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(web).len(), 4);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Updating);
    assert!(deployment.message.contains(FULL), "{}", deployment.message);
    assert_eq!(stage.plan(), [], "nothing is tried again and again");
    // Somebody makes room, by three.
    stage.cluster.update_service(web, on_small(4));
    stage.run_for(20 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert_eq!(stage.deployment(web).message, "");
}

/// One task on the small network, with an address that its service names.
fn named(image: &str) -> ServiceSpec {
    with_task(on_small(1), |task| {
        task.networks[0].addresses = vec![[10, 7, 0, 4].into()];
        if let TaskRuntime::Container(container) = &mut task.runtime {
            image.clone_into(&mut container.image);
        }
    })
}

/// The address is one task's at any time: the next one is made when the one before it has ended, also where that is on
/// a node of which nobody knows what it does.
#[test]
fn a_task_with_an_address_of_its_own_follows_the_one_before_it() {
    let mut stage = with_small();
    for node in stage.nodes.clone() {
        stage.cluster.set_level(node, Level::DUAL);
    }
    let web = stage.service(named("good:1"));
    stage.run_for(10 * SECOND);
    let first = stage.running(web)[0].id;
    stage.cluster.update_service(web, named("good:2"));
    let commands = stage.plan();
    let stop = Command::SetDesired { id: first, desired: DesiredState::Shutdown };
    assert!(commands.contains(&stop), "{commands:?}");
    let made = |c: &Command| matches!(c, Command::CreateTask { .. });
    assert!(!commands.iter().any(made), "{commands:?}");
    stage.run_for(20 * SECOND);
    let second = stage.running(web)[0].clone();
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert_eq!(stage.deployment(web).message, "");
    assert!(second.id != first);
    let node = second.node_id.unwrap();
    stage.cluster.set_node(node, NodeState::Down);
    let commands = stage.plan();
    assert!(commands.contains(&Command::OrphanTask { id: second.id }), "{commands:?}");
    stage.run_for(20 * SECOND);
    let third = stage.running(web)[0].clone();
    assert!(third.id != second.id && third.node_id != Some(node));
    assert_eq!(third.networks[0].addresses, second.networks[0].addresses);
    stage.cluster.check();
    assert_eq!(stage.plan(), []);
}

/// A task that was scaled away on a node that is lost then holds no address for long.
#[test]
fn a_task_that_was_taken_away_on_a_lost_node_is_not_waited_for() {
    let mut stage = with_small();
    for node in stage.nodes.clone() {
        stage.cluster.set_level(node, Level::DUAL);
    }
    let web = stage.service(named("good:1"));
    stage.run_for(10 * SECOND);
    let first = stage.running(web)[0].clone();
    let node = first.node_id.unwrap();
    stage.cluster.set_node(node, NodeState::Down);
    let none = ServiceSpec { mode: ServiceMode::Replicated { replicas: 0 }, ..named("good:1") };
    stage.cluster.update_service(web, none);
    stage.run_for(SECOND);
    stage.cluster.update_service(web, named("good:1"));
    stage.run_for(20 * SECOND);
    let second = stage.running(web)[0].clone();
    assert!(second.id != first.id && second.node_id != Some(node));
    assert_eq!(second.networks[0].addresses, first.networks[0].addresses);
    stage.cluster.check();
}

/// All others are in use, and its own is not.
#[test]
fn a_full_network_has_the_address_that_a_service_keeps() {
    let mut stage = with_small();
    for node in stage.nodes.clone() {
        stage.cluster.set_level(node, Level::DUAL);
    }
    let none = ServiceSpec { mode: ServiceMode::Replicated { replicas: 0 }, ..named("good:1") };
    let web = stage.service(none);
    let full = ServiceSpec { name: "full".to_owned(), ..on_small(9) };
    let full = stage.service(full);
    stage.run_for(10 * SECOND);
    let network = stage.cluster.state.network_by_name("small").unwrap();
    assert_eq!(stage.cluster.state.addresses(network).unwrap().free, 0);
    assert!(!stage.running(full).is_empty());
    stage.cluster.update_service(web, named("good:1"));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(web).len(), 1);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
}

#[test]
fn who_waits_for_an_address_gets_the_next_that_is_free() {
    let mut stage = with_small();
    let first = stage.service(with_networks(service_spec("first", 3), &["small"]));
    stage.run_for(10 * SECOND);
    // The last address is the other service's own.
    let web = stage.service(on_small(2));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(web).len(), 0);
    assert!(stage.deployment(web).message.contains(FULL), "{}", stage.deployment(web).message);
    stage.cluster.update_service(first, with_networks(service_spec("first", 2), &["small"]));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(web).len(), 1, "one has become free");
    assert!(stage.deployment(web).message.contains(FULL), "{}", stage.deployment(web).message);
    stage.cluster.apply(Command::RemoveService { id: first });
    stage.run_for(20 * SECOND);
    assert_eq!(stage.running(web).len(), 2);
    assert_eq!(stage.deployment(web).message, "");
    stage.cluster.check();
}

#[test]
fn a_full_network_is_updated_stop_first() {
    let (mut stage, web) = full();
    stage.cluster.update_service(web, image(on_small(4), "new"));
    stage.run_for(60 * SECOND);
    let versions: Vec<u64> = stage.running(web).iter().map(|t| t.spec_version).collect();
    assert_eq!(versions, [2; 4]);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
}

#[test]
fn start_first_waits_for_an_address_and_fails_in_the_end() {
    let (mut stage, web) = full();
    let config = UpdateConfig { order: UpdateOrder::StartFirst, ..UpdateConfig::default() };
    let spec = ServiceSpec { update_config: Some(config), ..image(on_small(4), "new") };
    stage.cluster.update_service(web, spec);
    stage.run_for(30 * SECOND);
    let versions =
        |stage: &Stage| -> Vec<u64> { stage.running(web).iter().map(|t| t.spec_version).collect() };
    assert_eq!(versions(&stage), [1; 4], "what runs is not touched");
    assert!(stage.deployment(web).message.contains(FULL), "{}", stage.deployment(web).message);
    stage.run_for(700 * SECOND);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Paused);
    assert!(deployment.message.starts_with("no progress for 600 s: "), "{}", deployment.message);
    assert_eq!(versions(&stage), [1; 4]);
}

#[test]
fn a_task_that_fails_gets_the_address_that_it_had() {
    let (mut stage, web) = full();
    let failed = stage.running(web)[0].id;
    stage.cluster.report(failed, TaskState::Failed);
    stage.run_for(20 * SECOND);
    assert_eq!(stage.running(web).len(), 4);
    stage.cluster.check();
}
