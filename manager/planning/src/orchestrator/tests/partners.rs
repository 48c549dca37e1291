//! Services that share the network of another one: each task goes with the one of its slot there.

use shoal_manager_state::testing::with_network_of;
use shoal_types::id::ServiceId;

use super::*;

/// A service, and one that shares its network.
fn two(nodes: usize, db: ServiceSpec, side: ServiceSpec) -> (Stage, ServiceId, ServiceId) {
    let mut stage = Stage::new(nodes);
    stage.upgrade();
    let db = stage.service(db);
    let side = stage.service(with_network_of(side, "db"));
    stage.run_for(20 * SECOND);
    (stage, db, side)
}

fn pairs(stage: &Stage, db: ServiceId, side: ServiceId) -> Vec<Slot> {
    let partners = stage.running(db);
    let all = stage.running(side).into_iter().map(|task| {
        let partner = partners.iter().find(|one| one.slot == task.slot).expect("one of its slot");
        assert_eq!((task.partner, task.node_id), (Some(partner.id), partner.node_id));
        task.slot
    });
    all.collect()
}

fn replicas(numbers: &[u64]) -> Vec<Slot> {
    numbers.iter().map(|n| Slot::Replica(*n)).collect()
}

fn why(stage: &Stage, service: ServiceId) -> Vec<String> {
    let waiting = stage.tasks(service).into_iter().filter(Task::is_wanted);
    waiting.map(|task| task.status.err).filter(|err| !err.is_empty()).collect()
}

#[test]
fn each_task_is_beside_that_of_its_slot() {
    let (mut stage, db, side) = two(3, service_spec("db", 5), service_spec("side", 6));
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2, 3, 4, 5]));
    let waits = "waits for task db.6, whose network it shares: the service has 5 replicas";
    assert_eq!(why(&stage, side), [waits]);
    stage.cluster.update_service(db, service_spec("db", 6));
    stage.run();
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2, 3, 4, 5, 6]));
    // Both give up the same ones, whichever is first.
    stage.cluster.update_service(side, with_network_of(service_spec("side", 4), "db"));
    stage.run();
    stage.cluster.update_service(db, service_spec("db", 4));
    stage.run();
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2, 3, 4]));
    stage.run_for(20 * SECOND);
    assert_eq!(stage.deployment(side).state, DeploymentState::Completed);
}

/// Of a service that had given up some before somebody shared its network.
#[test]
fn slots_are_those_that_the_other_has() {
    let mut stage = Stage::new(2);
    stage.upgrade();
    let db = stage.service(service_spec("db", 3));
    let task = stage.tasks(db).into_iter().find(|task| task.slot == Slot::Replica(1)).expect("one");
    stage.end(task.id, TaskState::Failed);
    stage.settle();
    stage.cluster.update_service(db, service_spec("db", 2));
    stage.run_for(20 * SECOND);
    let side = stage.service(with_network_of(service_spec("side", 2), "db"));
    let slots: Vec<Slot> = stage.running(db).iter().map(|task| task.slot).collect();
    assert_eq!(slots, replicas(&[2, 3]));
    assert_eq!(pairs(&stage, db, side), slots);
}

/// Of a service that shared a network itself until now: its tasks from then still do.
#[test]
fn nobody_is_put_beside_a_task_that_shares_a_network_itself() {
    let mut stage = Stage::new(2);
    stage.upgrade();
    stage.service(service_spec("net", 2));
    let db = stage.service(with_network_of(service_spec("db", 2), "net"));
    stage.cluster.update_service(db, service_spec("db", 2));
    let side = stage.service(with_network_of(service_spec("side", 2), "db"));
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2]));
}

#[test]
fn the_end_of_a_partner_is_no_failure_of_who_shares_its_network() {
    let policy = RestartPolicy { max_attempts: 2, ..RestartPolicy::default() };
    let side = restart(service_spec("side", 2), policy);
    let (mut stage, db, side) = two(2, service_spec("db", 2), side);
    for round in 0..6 {
        let partner = stage.running(db)[0].clone();
        let old = stage.running(side)[0].id;
        stage.end(partner.id, TaskState::Failed);
        stage.settle();
        let (old, now) = (stage.view().task(old).cloned(), stage.cluster.now);
        let old = old.expect("remembered");
        assert_eq!(old.desired_state, DesiredState::Shutdown, "round {round}");
        let new = stage.tasks(side).into_iter().rfind(|t| t.slot == old.slot).expect("a successor");
        assert!(new.is_wanted() && new.start_after.is_none(), "{round}: {new:?} at {now:?}");
        stage.run_for(20 * SECOND);
        assert_eq!(pairs(&stage, db, side), replicas(&[1, 2]), "round {round}");
    }
    assert_eq!(stage.deployment(side).state, DeploymentState::Completed);
}

/// Its node has stopped it, and tells that before the end of the partner, which has still to be cleaned up.
#[test]
fn who_was_stopped_with_its_partner_waits_for_that_ones_end() {
    let (mut stage, db, side) = two(1, service_spec("db", 1), service_spec("side", 1));
    let (partner, old) = (stage.running(db)[0].clone(), stage.running(side)[0].clone());
    stage.end(old.id, TaskState::Shutdown);
    stage.settle();
    assert_eq!(stage.tasks(side).len(), 1, "nobody is put beside one that is about to end");
    stage.end(partner.id, TaskState::Failed);
    stage.settle();
    assert_eq!(stage.tasks(side).len(), 2);
    assert_eq!(
        why(&stage, side),
        ["waits for task db.1, whose network it shares: there is none yet"; 0]
    );
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1]));
    // Of a partner that goes on, it is an end like another one.
    let old = stage.running(side)[0].clone();
    stage.end(old.id, TaskState::Shutdown);
    stage.run_for(4 * SECOND);
    assert_eq!(stage.running(side).len(), 0);
    stage.run_for(10 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1]));
}

#[test]
fn a_failure_beside_a_partner_that_goes_on_is_ones_own() {
    let policy = RestartPolicy { max_attempts: 2, ..RestartPolicy::default() };
    let mut stage = Stage::new(1);
    stage.upgrade();
    let db = stage.service(service_spec("db", 1));
    let spec = with_network_of(restart(service_spec("side", 1), policy), "db");
    let side = stage.cluster.add_service(spec);
    stage.fate.insert((side, 1), TaskState::Failed);
    stage.run_for(60 * SECOND);
    assert_eq!(stage.tasks(side).len(), 3, "one and two more attempts");
    assert_eq!(stage.deployment(side).state, DeploymentState::Paused);
    // With another partner it is tried again.
    stage.fate.clear();
    stage.end(stage.running(db)[0].id, TaskState::Failed);
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1]));
}

#[test]
fn who_was_done_stays_done() {
    let policy = RestartPolicy { condition: RestartCondition::OnFailure, ..Default::default() };
    let side = restart(service_spec("side", 1), policy);
    let mut stage = Stage::new(1);
    stage.upgrade();
    let db = stage.service(service_spec("db", 1));
    let side = stage.cluster.add_service(with_network_of(side, "db"));
    stage.fate.insert((side, 1), TaskState::Complete);
    stage.run_for(20 * SECOND);
    stage.end(stage.running(db)[0].id, TaskState::Failed);
    stage.run_for(20 * SECOND);
    assert_eq!(stage.tasks(side).len(), 1);
    assert_eq!(stage.running(db).len(), 1);
}

#[test]
fn drained_and_lost_nodes_are_left_together() {
    let (mut stage, db, side) = two(3, service_spec("db", 3), service_spec("side", 3));
    stage.cluster.set_availability(stage.nodes[0], Availability::Drain);
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2, 3]));
    stage.cluster.set_node(stage.nodes[1], NodeState::Down);
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2, 3]));
    assert_eq!(stage.spread(side), [0, 0, 3]);
}

#[test]
fn an_update_of_the_one_takes_the_other_along() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let config = || UpdateConfig { order, parallelism: 1, ..UpdateConfig::default() };
        let (mut stage, db, side) = two(2, service_spec("db", 2), service_spec("side", 2));
        let before: Vec<_> = stage.running(side).into_iter().map(|task| task.id).collect();
        stage.cluster.update_service(db, update(config(), image(service_spec("db", 2), "new")));
        stage.run_for(60 * SECOND);
        assert_eq!(pairs(&stage, db, side), replicas(&[1, 2]), "{order:?}");
        let all_new = stage.running(side).iter().all(|task| !before.contains(&task.id));
        assert!(all_new, "{order:?}");
        for service in [db, side] {
            assert_eq!(stage.deployment(service).state, DeploymentState::Completed, "{order:?}");
        }
        // And one of its own leaves the partner alone.
        let partners: Vec<_> = stage.running(db).into_iter().map(|task| task.id).collect();
        let new = with_network_of(image(service_spec("side", 2), "new"), "db");
        stage.cluster.update_service(side, update(config(), new));
        stage.run_for(60 * SECOND);
        assert_eq!(pairs(&stage, db, side), replicas(&[1, 2]), "{order:?}");
        let now: Vec<_> = stage.running(db).into_iter().map(|task| task.id).collect();
        assert_eq!(now, partners);
        assert_eq!(stage.deployment(side).state, DeploymentState::Completed);
    }
}

#[test]
fn without_the_other_service_tasks_wait_and_say_for_what() {
    let (mut stage, db, side) = two(2, service_spec("db", 2), service_spec("side", 2));
    stage.cluster.apply(Command::RemoveService { id: db });
    stage.run_for(20 * SECOND);
    assert_eq!(stage.running(side).len(), 0);
    let waits = "waits for service \"db\", whose network it shares: there is none";
    assert_eq!(why(&stage, side), [waits; 2]);
    assert_eq!(stage.plan(), []);
    let db = stage.service(service_spec("db", 2));
    stage.run_for(20 * SECOND);
    assert_eq!(pairs(&stage, db, side), replicas(&[1, 2]));
}

#[test]
fn global_services_are_together_where_both_may_be() {
    let on = |host: &str, spec| {
        with_task(spec, |task| {
            let constraints = vec![format!("node.hostname!={host}")];
            task.placement = Some(Placement { constraints, ..Placement::default() });
        })
    };
    let db = on("node-1", global_spec("db"));
    let (mut stage, db, side) = two(3, db, on("node-2", global_spec("side")));
    assert_eq!((stage.spread(db), stage.spread(side)), (vec![0, 1, 1], vec![0, 0, 1]));
    assert_eq!(pairs(&stage, db, side), [Slot::Node(stage.nodes[2])]);
    assert_eq!(stage.deployment(side).state, DeploymentState::Completed);
    // The other one goes where it was not to be before.
    stage.cluster.update_service(db, global_spec("db"));
    stage.run_for(20 * SECOND);
    assert_eq!((stage.spread(db), stage.spread(side)), (vec![1, 1, 1], vec![1, 0, 1]));
    pairs(&stage, db, side);
    let partner = stage.running(db).into_iter().find(|t| t.node_id == Some(stage.nodes[2]));
    stage.end(partner.expect("one").id, TaskState::Failed);
    stage.run_for(20 * SECOND);
    assert_eq!(stage.spread(side), [1, 0, 1]);
    pairs(&stage, db, side);
}

#[test]
fn a_node_that_does_not_take_it_is_named_until_it_does() {
    let big = shoal_manager_state::testing::with_reservation(service_spec("side", 1), 0, 7 << 30);
    let mut stage = Stage::new(1);
    stage.upgrade();
    let other = stage.service(shoal_manager_state::testing::with_reservation(
        service_spec("other", 1),
        0,
        4 << 30,
    ));
    let db = stage.service(service_spec("db", 1));
    let side = stage.service(with_network_of(big, "db"));
    let said = why(&stage, side);
    let expected = "insufficient memory for a reservation of 7 GiB on 1 node): its place is beside task db.1, whose \
                    network it shares";
    assert!(said.len() == 1 && said[0].ends_with(expected), "{said:?}");
    stage.cluster.apply(Command::RemoveService { id: other });
    stage.run();
    assert_eq!(pairs(&stage, db, side), replicas(&[1]));
}
