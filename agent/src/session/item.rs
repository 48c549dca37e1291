//! What comes of a change of the assignment that this agent cannot read. Pure.
//!
//! Managers may be newer. What they send is then either nothing that this agent knows of, or it
//! rejects the one task; neither keeps it from all others.

use shoal_proto::v1 as pb;
use shoal_proto::v1::assignment_change::Item;
use shoal_types::assignment::{AssignmentChange, Rejection};
use shoal_types::task_state::DesiredState;

/// What a change comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    /// Something to be done.
    Change(AssignmentChange),
    /// A kind of item that this agent does not know.
    Unknown,
    /// Not usable, and it is nobody's task; why.
    Unusable(String),
}

/// Reads one change.
pub(super) fn read(change: pb::AssignmentChange) -> Read {
    let (id, desired) = match &change.item {
        None => return Read::Unknown,
        Some(Item::Task(task)) => (task.id.parse().ok(), task.desired_state()),
        Some(
            Item::Network(_)
            | Item::Secret(_)
            | Item::Config(_)
            | Item::Endpoint(_)
            | Item::Vips(_)
            | Item::Peer(_),
        ) => (None, pb::DesiredState::Unspecified),
    };
    let error = match AssignmentChange::try_from(change) {
        Ok(change) => return Read::Change(change),
        Err(error) => error,
    };
    let Some(id) = id else { return Read::Unusable(error.to_string()) };
    let why = format!("the node's agent cannot read the task: {error}; it may be too old for it");
    // Of a task that it holds, at least what is wanted of it.
    let desired_state = DesiredState::try_from(desired).unwrap_or(DesiredState::Ready);
    Read::Change(AssignmentChange::RejectTask(id, Rejection { why, desired_state }))
}

/// Reads the changes of the streams of one session.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Whether it was said that something is unknown: that is not said again.
    noted: bool,
}

impl Reader {
    /// All changes that can be used.
    pub(super) fn read_all(&mut self, changes: Vec<pb::AssignmentChange>) -> Vec<AssignmentChange> {
        let mut known = Vec::with_capacity(changes.len());
        for change in changes {
            match read(change) {
                Read::Change(change) => known.push(change),
                Read::Unknown if self.noted => {}
                Read::Unknown => {
                    self.noted = true;
                    tracing::warn!(
                        "the manager assigns kinds of things that this agent is too old for"
                    );
                }
                Read::Unusable(why) => {
                    tracing::error!(why, "something that this node is to hold cannot be used");
                }
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::id::TaskId;
    use shoal_types::spec::ContainerSpec;

    use super::*;
    use crate::testing::assigner::task;

    fn update() -> pb::AssignmentChange {
        (&AssignmentChange::UpdateTask(task(7, ContainerSpec::default()))).into()
    }

    fn with_task(change: impl FnOnce(&mut pb::AssignedTask)) -> pb::AssignmentChange {
        let mut update = update();
        let Some(Item::Task(task)) = &mut update.item else { panic!("no task") };
        change(task);
        update
    }

    #[test]
    fn what_is_understood_is_read() {
        let Read::Change(change) = read(update()) else { panic!("not read") };
        assert_eq!(change, AssignmentChange::UpdateTask(task(7, ContainerSpec::default())));
        assert_eq!(read(pb::AssignmentChange { item: None, ..update() }), Read::Unknown);
    }

    #[test]
    fn a_task_that_cannot_be_read_is_rejected_and_says_why() {
        let unknown_enum = |task: &mut pb::AssignedTask| {
            let spec = task.spec.as_mut().expect("a spec");
            let Some(pb::task_spec::Runtime::Container(container)) = &mut spec.runtime else {
                panic!("no container")
            };
            container.mounts.push(pb::Mount { kind: 99, ..Default::default() });
        };
        let table = [
            (with_task(unknown_enum), "spec.container.mounts[0].kind", DesiredState::Running),
            (with_task(|task| task.spec = None), "task.spec: is missing", DesiredState::Running),
            (
                with_task(|task| {
                    task.spec = None;
                    task.set_desired_state(pb::DesiredState::Shutdown);
                }),
                "task.spec: is missing",
                DesiredState::Shutdown,
            ),
            (with_task(|task| task.desired_state = 99), "desired_state", DesiredState::Ready),
            (
                with_task(|task| task.spec.as_mut().expect("a spec").runtime = None),
                "is missing",
                DesiredState::Running,
            ),
            (pb::AssignmentChange { action: 99, ..update() }, "action", DesiredState::Running),
        ];
        for (change, expected, desired) in table {
            let Read::Change(AssignmentChange::RejectTask(id, rejection)) = read(change) else {
                panic!("not rejected: {expected}")
            };
            assert_eq!((id, rejection.desired_state), (TaskId::from(7), desired), "{expected}");
            assert!(rejection.why.contains(expected), "{}", rejection.why);
        }
    }

    #[test]
    fn what_is_nobodys_task_is_passed_over() {
        let nameless = with_task(|task| task.id.clear());
        assert!(matches!(read(nameless), Read::Unusable(why) if why.contains("task.id")));
        let item = Some(Item::Network(pb::Network::default()));
        let network = pb::AssignmentChange { item, ..update() };
        assert!(matches!(read(network), Read::Unusable(why) if why.contains("network.id")));
    }
}
