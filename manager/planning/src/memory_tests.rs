//! Whatever happens to a cluster, and whatever becomes of plans: what planners remember hides nothing
//! from them. [`Stage`] compares each plan with one that a look at everything gives.

use std::time::Duration;

use proptest::prelude::*;
use shoal_manager_state::Command;
use shoal_manager_state::testing::{
    global_spec, service_spec, with_host_port, with_network_of, with_reservation, with_task,
};
use shoal_types::id::ServiceId;
use shoal_types::object::NodeState;
use shoal_types::spec::{
    Availability, ClusterSpec, FailureAction, Placement, RestartCondition, RestartPolicy,
    ServiceMode, ServiceSpec, TaskRuntime, UpdateConfig, UpdateOrder,
};
use shoal_types::task_state::TaskState;

use crate::stage::Stage;

/// What happens, and three choices for its parts.
type Step = (u8, u8, u8, u8);

fn choose<T: Copy, const N: usize>(choice: u8, all: [T; N]) -> T {
    all[usize::from(choice) % N]
}

fn some_spec(name: &str, global: bool, a: u8, b: u8, c: u8) -> ServiceSpec {
    let spec = if global { global_spec(name) } else { service_spec(name, (a % 6).into()) };
    let spec = if b & 1 == 0 { spec } else { with_reservation(spec, 0, 3 << 30) };
    let spec = if b & 6 == 6 { with_host_port(spec, 80) } else { spec };
    let mut spec = with_task(spec, |task| {
        if let TaskRuntime::Container(container) = &mut task.runtime {
            container.image = format!("image:{}", a / 64);
        }
        let constraint = match b >> 3 & 3 {
            0 => Some("node.hostname!=node-2".to_owned()),
            1 => Some("node.hostname==node-9".to_owned()),
            _ => None,
        };
        let constraints = constraint.into_iter().collect();
        let max_replicas = u64::from(b >> 5 & 1) * 2;
        task.placement = Some(Placement { constraints, max_replicas, ..Placement::default() });
        task.restart_policy = Some(RestartPolicy {
            condition: choose(
                c,
                [RestartCondition::Any, RestartCondition::OnFailure, RestartCondition::None],
            ),
            delay: Some(Duration::from_secs((c >> 2 & 3).into())),
            max_attempts: choose(c >> 4, [0, 0, 2]),
            ..RestartPolicy::default()
        });
    });
    spec.update_config = Some(UpdateConfig {
        parallelism: (c & 3).into(),
        delay: Duration::from_secs(u64::from(c >> 2 & 1) * 7),
        failure_action: choose(
            b >> 6,
            [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback],
        ),
        order: choose(c >> 3, [UpdateOrder::StopFirst, UpdateOrder::StartFirst]),
        ..UpdateConfig::default()
    });
    spec
}

fn service(stage: &Stage, choice: u8) -> Option<ServiceId> {
    let all: Vec<ServiceId> = stage.view().services().map(|s| s.id).collect();
    all.get(usize::from(choice) % all.len().max(1)).copied()
}

/// The spec of a service that shares the network of one that there is, if that one allows it.
fn beside_some(stage: &Stage, choice: u8, spec: ServiceSpec) -> ServiceSpec {
    let other = service(stage, choice).and_then(|id| stage.view().service(id));
    let may_share = other.filter(|other| {
        let global = |spec: &ServiceSpec| matches!(spec.mode, ServiceMode::Global {});
        global(&other.spec) == global(&spec) && other.spec.task_template.network_of.is_none()
    });
    match may_share.map(|other| other.spec.name.clone()) {
        Some(other) => with_network_of(spec, &other),
        None => spec,
    }
}

fn happen(stage: &mut Stage, (what, a, b, c): Step) {
    let node = stage.nodes[usize::from(a) % stage.nodes.len()];
    let there = stage.view().node(node).is_some();
    match what % 16 {
        0 | 1 => {
            let name = format!("s{}", stage.cluster.state.applied_index());
            let spec = some_spec(&name, a % 4 == 3, a, b, c);
            let spec = if b % 2 == 0 { beside_some(stage, c, spec) } else { spec };
            stage.cluster.add_service(spec);
        }
        2 | 3 => {
            let Some(id) = service(stage, a) else { return };
            let old = stage.view().service(id).expect("there").spec.clone();
            let global = old.mode == global_spec("").mode;
            let mut spec = some_spec(&old.name, global, b, c, a);
            let shared = old.task_template.network_of.as_ref();
            if let Some(shared) = shared.filter(|name| stage.view().service_by_name(name).is_some())
                && a % 8 != 7
            {
                spec = with_network_of(spec, shared);
            }
            stage.cluster.update_service(id, spec);
        }
        4 => {
            let Some(id) = service(stage, a).filter(|_| b % 3 == 0) else { return };
            stage.cluster.apply(Command::RemoveService { id });
        }
        5 | 6 if there => {
            let state = choose(b, [NodeState::Down, NodeState::Ready, NodeState::Unknown]);
            stage.cluster.set_node(node, state);
        }
        7 if there => {
            let all = [Availability::Active, Availability::Drain, Availability::Pause];
            stage.cluster.set_availability(node, choose(b, all));
        }
        8 if b % 8 == 0 => {
            let new = stage.cluster.add_node(&format!("node-{}", stage.nodes.len() + 1));
            stage.nodes.push(new);
        }
        8 if b % 8 == 1 && there => {
            drop(stage.cluster.try_apply(Command::RemoveNode { id: node, force: true }));
        }
        9 if a % 8 == 0 => {
            let spec = ClusterSpec {
                task_history_retention_limit: (b % 3).into(),
                ..stage.view().spec().clone()
            };
            let expected_spec_version = stage.view().cluster().expect("one").meta.spec_version;
            stage.cluster.apply(Command::UpdateCluster { expected_spec_version, spec });
        }
        10 | 11 => stage.cluster.advance(Duration::from_secs((a / 4).into())),
        12 => {
            let live: Vec<_> = stage.view().tasks().filter(|t| t.is_live()).cloned().collect();
            let Some(task) = live.get(usize::from(a) % live.len().max(1)) else { return };
            let ends = [TaskState::Failed, TaskState::Rejected, TaskState::Complete];
            // Who shares the network of another one is stopped by its node, though it is wanted.
            let next = match task.partner {
                Some(_) if b % 4 < 2 => TaskState::Shutdown,
                _ => choose(b, ends),
            };
            if task.node_id.is_some() && task.status.state.may_become(next) {
                stage.cluster.report(task.id, next);
            }
        }
        _ => drop(stage.agents()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_hides_nothing(
        nodes in 1_usize..9,
        steps in prop::collection::vec((any::<Step>(), any::<u8>()), 1..80),
    ) {
        let mut stage = Stage::new(nodes);
        stage.upgrade();
        for (step, carried_out) in steps {
            happen(&mut stage, step);
            // Some of it is lost on the way, or all.
            stage.plan_and_lose((carried_out >= 64).then(|| usize::from(carried_out % 8)));
        }
        for _ in 0..3 {
            stage.settle_within(200);
            stage.cluster.advance(Duration::from_secs(61));
        }
    }
}
