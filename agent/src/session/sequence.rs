//! The chain of assignment messages. Pure.

use shoal_proto::v1::AssignmentsKind;

/// Where one stream of assignments stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence {
    /// What the last message resulted in; nothing before the COMPLETE one.
    at: Option<u64>,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It replaces everything.
    Replace,
    /// It follows the one before.
    Change,
    /// One is missing before it: drop it and ask for everything again.
    Gap,
    /// It says not what it is.
    Unknown,
}

impl Sequence {
    /// Judges the next message of the stream.
    pub fn accept(&mut self, kind: i32, applies_to: u64, results_in: u64) -> Step {
        match AssignmentsKind::try_from(kind) {
            Ok(AssignmentsKind::Complete) => {
                self.at = Some(results_in);
                Step::Replace
            }
            Ok(AssignmentsKind::Incremental) if self.at == Some(applies_to) => {
                self.at = Some(results_in);
                Step::Change
            }
            Ok(AssignmentsKind::Incremental) => Step::Gap,
            Ok(AssignmentsKind::Unspecified) | Err(_) => Step::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_each_other_or_leave_a_gap() {
        const COMPLETE: i32 = AssignmentsKind::Complete as i32;
        const INCREMENTAL: i32 = AssignmentsKind::Incremental as i32;
        let mut sequence = Sequence::default();
        let table = [
            (INCREMENTAL, 0, 1, Step::Gap),
            (COMPLETE, 0, 5, Step::Replace),
            (INCREMENTAL, 5, 6, Step::Change),
            (INCREMENTAL, 6, 9, Step::Change),
            (INCREMENTAL, 6, 9, Step::Gap),
            (INCREMENTAL, 10, 11, Step::Gap),
            (INCREMENTAL, 9, 10, Step::Change),
            (COMPLETE, 0, 2, Step::Replace),
            (INCREMENTAL, 10, 11, Step::Gap),
            (0, 2, 3, Step::Unknown),
            (99, 2, 3, Step::Unknown),
            (INCREMENTAL, 2, 3, Step::Change),
        ];
        for (at, (kind, applies_to, results_in, expected)) in table.into_iter().enumerate() {
            assert_eq!(sequence.accept(kind, applies_to, results_in), expected, "step {at}");
        }
    }
}
