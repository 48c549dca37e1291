//! Putting an assignment together that comes in parts. Pure.

use shoal_types::assignment::{AssignmentChange, NodeAssignment};

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// Everything is known now.
    All(NodeAssignment),
    /// Something has changed.
    Changes(Vec<AssignmentChange>),
    /// More is to come before anything can be done: what is not in a part of an assignment may be
    /// in the next one.
    Part,
}

/// Where one stream of assignments stands. A new stream begins with a new one, so what an earlier
/// stream has brought only in part never counts.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// What is known of an assignment that has not come whole.
    whole: Option<NodeAssignment>,
}

impl Assembly {
    /// Takes the next message of an unbroken chain. `first` of a COMPLETE assignment, `more` if
    /// another part follows.
    pub(super) fn take(
        &mut self,
        first: bool,
        changes: Vec<AssignmentChange>,
        more: bool,
    ) -> Taken {
        if first {
            self.whole = Some(NodeAssignment::default());
        }
        let Some(mut whole) = self.whole.take() else { return Taken::Changes(changes) };
        whole.apply(changes);
        if more {
            self.whole = Some(whole);
            return Taken::Part;
        }
        Taken::All(whole)
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::id::TaskId;

    use super::*;

    #[test]
    fn an_assignment_counts_when_it_is_whole() {
        let change = |task: u128| vec![AssignmentChange::RemoveTask(TaskId::from(task))];
        let all = || Taken::All(NodeAssignment::default());
        let mut assembly = Assembly::default();
        let steps = [
            (true, false, all()),
            (false, false, Taken::Changes(change(2))),
            (true, true, Taken::Part),
            (false, true, Taken::Part),
            (false, false, all()),
            (false, true, Taken::Changes(change(6))),
            (true, true, Taken::Part),
            (true, false, all()),
        ];
        for (task, (first, more, expected)) in (1..).zip(steps) {
            assert_eq!(assembly.take(first, change(task), more), expected, "message {task}");
        }
    }
}
