//! Which tasks an agent does not take, because they are more than it understands.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::id::TaskId;
use shoal_types::level::Level;
use shoal_types::object::Slot;
use shoal_types::spec::{ContainerSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::DesiredState;

/// The service of a task of which nothing is known. No service has this id.
const NOBODY: u128 = 0;

/// Why an agent of level `own` rejects a task that it has not accepted before. It may contain more
/// than this agent can see, so it must not be run without that.
#[must_use]
pub fn refusal(task: &AssignedTask, own: Level) -> Option<String> {
    let needed = task.level;
    if task.service_id == NOBODY.into() {
        return Some("the node's agent could not read the task".to_owned());
    }
    (needed > own).then(|| {
        format!(
            "the node is too old: the task needs feature level {needed}, and its agent has {own}"
        )
    })
}

/// Stands for a task of which nothing else is known, so that its end can be remembered.
#[must_use]
pub fn stand_in(id: TaskId, desired_state: DesiredState) -> AssignedTask {
    AssignedTask {
        id,
        service_id: NOBODY.into(),
        service_name: String::new(),
        service_labels: BTreeMap::new(),
        slot: Slot::Replica(0),
        node_id: 0.into(),
        spec: Arc::new(TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))),
        ports: Vec::new(),
        networks: Vec::new(),
        payloads: Arc::default(),
        partner: None,
        desired_state,
        level: Level::FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_more_than_the_agent_has_is_refused() {
        let task = |level| AssignedTask {
            level: Level::new(level),
            ..crate::testing::task(ContainerSpec::default())
        };
        let own = Level::new(2);
        assert_eq!(refusal(&task(1), own), None);
        assert_eq!(refusal(&task(2), own), None);
        let why = refusal(&task(3), own).expect("refused");
        assert_eq!(why, "the node is too old: the task needs feature level 3, and its agent has 2");
        let unread = stand_in(7.into(), DesiredState::Running);
        assert_eq!(
            refusal(&unread, own).expect("refused"),
            "the node's agent could not read the task"
        );
    }
}
