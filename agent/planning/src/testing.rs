//! What tests are made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::level::Level;
use shoal_types::object::Slot;
use shoal_types::spec::{ContainerSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::DesiredState;

/// A task with this container, on no network.
pub(crate) fn task(container: ContainerSpec) -> AssignedTask {
    AssignedTask {
        id: 7.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        service_labels: BTreeMap::new(),
        slot: Slot::Replica(3),
        node_id: 2.into(),
        spec: Arc::new(TaskSpec::of(TaskRuntime::Container(container))),
        ports: Vec::new(),
        networks: Vec::new(),
        payloads: Default::default(),
        partner: None,
        desired_state: DesiredState::Running,
        level: Level::FIRST,
    }
}
