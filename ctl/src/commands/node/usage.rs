//! What the tasks of a node have set aside there, and what is left.

use serde::Serialize;
use shoal_types::object::{Node, Task};
use shoal_types::resources::Resources;

/// What is taken and what is free, as the scheduler counts it: by reservations, not by use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Usage {
    /// Tasks that were assigned and have not ended.
    pub(crate) tasks: u64,
    pub(crate) reserved: Resources,
    pub(crate) free: Resources,
}

impl Usage {
    /// Of a node with all tasks that are known of it.
    pub(crate) fn of(node: &Node, tasks: &[Task]) -> Self {
        let mut usage = Self::default();
        let held = tasks
            .iter()
            .filter(|task| task.node_id == Some(node.id) && task.status.state.holds_its_node());
        for task in held {
            usage.tasks += 1;
            let wanted = task.spec.resources.as_ref().and_then(|r| r.reservations.as_ref());
            if let Some(wanted) = wanted {
                usage.reserved.add(wanted);
            }
        }
        usage.free = node.description.resources.saturating_sub(&usage.reserved);
        usage
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_types::id::{NodeId, ServiceId, TaskId};
    use shoal_types::level::Level;
    use shoal_types::object::{Meta, NodeDescription, NodeStatus, Slot, TaskStatus};
    use shoal_types::resources::ResourceRequirements;
    use shoal_types::spec::{ContainerSpec, NodeSpec, TaskRuntime, TaskSpec};
    use shoal_types::task_state::DesiredState;
    use shoal_types::task_state::TaskState;
    use shoal_types::time::Timestamp;

    use super::*;

    fn resources(nano_cpus: u64, memory_bytes: u64) -> Resources {
        Resources { nano_cpus, memory_bytes, ..Resources::default() }
    }

    fn task(node: Option<u128>, state: TaskState, reserved: Option<Resources>) -> Task {
        let needs = |reservations| ResourceRequirements { reservations, ..Default::default() };
        Task {
            id: TaskId::from(1),
            meta: Meta::default(),
            service_id: ServiceId::from(1),
            service_name: "web".into(),
            service_labels: Default::default(),
            slot: Slot::Replica(1),
            node_id: node.map(NodeId::from),
            spec: Arc::new(TaskSpec {
                resources: Some(needs(reserved)),
                ..TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))
            }),
            spec_version: 1,
            endpoint: None,
            networks: [].into(),
            payloads: Default::default(),
            partner: None,
            desired_state: DesiredState::Running,
            start_after: None,
            rejections: 0,
            level: Level::FIRST,
            status: TaskStatus::new(state, Timestamp::ZERO, ""),
        }
    }

    #[test]
    fn what_is_free_is_what_no_living_task_of_the_node_has_reserved() {
        let node = Node {
            id: NodeId::from(1),
            meta: Meta::default(),
            spec: NodeSpec::default(),
            description: NodeDescription {
                resources: resources(4_000, 1_000),
                ..NodeDescription::default()
            },
            status: NodeStatus::default(),
            manager_status: None,
            tunnel_address: None,
        };
        let tasks = [
            task(Some(1), TaskState::Running, Some(resources(1_000, 100))),
            task(Some(1), TaskState::Assigned, Some(resources(500, 50))),
            task(Some(1), TaskState::Preparing, None),
            task(Some(1), TaskState::Failed, Some(resources(2_000, 700))),
            task(Some(2), TaskState::Running, Some(resources(2_000, 700))),
            task(None, TaskState::Pending, Some(resources(2_000, 700))),
        ];
        let expected =
            Usage { tasks: 3, reserved: resources(1_500, 150), free: resources(2_500, 850) };
        assert_eq!(Usage::of(&node, &tasks), expected);
    }
}
