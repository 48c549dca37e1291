//! Records of streams for programs, one a line. `docs/outcomes.md` describes them; whoever
//! changes their meaning raises [`VERSION`].

use serde::Serialize;
use shoal_types::time::Timestamp;

use super::{json, time};
use crate::error::CommandError;
use crate::progress::ServiceReport;

/// Version of the records' meaning. Fields and kinds may be added without a new one.
pub(crate) const VERSION: u32 = 1;

/// One record.
#[derive(Debug, Serialize)]
#[serde(tag = "Event", rename_all = "lowercase", rename_all_fields = "PascalCase")]
pub(crate) enum Record<'a> {
    /// What was asked for is written down; what follows is how it goes.
    Applied {
        #[serde(flatten)]
        what: serde_json::Value,
    },
    /// How a service fares.
    Progress {
        service: &'a str,
        #[serde(rename = "ServiceID")]
        service_id: &'a str,
        running: u64,
        desired: u64,
        state: &'a str,
    },
    /// How many tasks a node that is drained still has, and how many do not run elsewhere yet.
    Draining {
        node: &'a str,
        #[serde(rename = "NodeID")]
        node_id: String,
        tasks: usize,
        #[serde(skip_serializing_if = "is_zero")]
        awaited: usize,
    },
    /// Something happened, or this is what is being done.
    News {
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        service: Option<&'a str>,
        #[serde(rename = "ServiceID", skip_serializing_if = "Option::is_none")]
        service_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        task: Option<&'a str>,
        #[serde(rename = "TaskID", skip_serializing_if = "Option::is_none")]
        task_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<&'a str>,
        #[serde(rename = "NodeID", skip_serializing_if = "Option::is_none")]
        node_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_try: Option<Timestamp>,
        message: &'a str,
    },
    /// A line that a container wrote.
    Line {
        #[serde(flatten)]
        what: serde_json::Value,
    },
    /// A change of an object.
    Change {
        #[serde(flatten)]
        what: serde_json::Value,
    },
    /// What a task, a service or a node uses.
    Usage {
        #[serde(flatten)]
        what: serde_json::Value,
    },
    /// How it ended; the last record of every stream.
    Outcome {
        outcome: &'a str,
        exit_code: u8,
        reason: &'a str,
        hints: &'a [String],
        services: &'a [ServiceReport],
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl<'a> Record<'a> {
    /// News that are about no task.
    pub(crate) fn notice(kind: &'a str, message: &'a str) -> Self {
        Self::News {
            kind,
            service: None,
            service_id: None,
            task: None,
            task_id: None,
            node: None,
            node_id: None,
            state: None,
            since: None,
            next_try: None,
            message,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stamped<'a> {
    version: u32,
    time: Timestamp,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

/// Writes a record with its version and the time of writing.
pub(crate) fn write(record: &Record<'_>) -> Result<(), CommandError> {
    write_at(time::now(), record)
}

/// Writes a record of something that has a time of its own.
pub(crate) fn write_at(time: Timestamp, record: &Record<'_>) -> Result<(), CommandError> {
    json::record(&Stamped { version: VERSION, time, record })
}

/// Writes the last record of a stream. Nobody is left to hear that it could not be written.
pub(crate) fn end(ended: Result<&'static str, &CommandError>, services: &[ServiceReport]) {
    let (outcome, exit_code, reason, hints) = match ended {
        Ok(outcome) => (outcome, 0, String::new(), &[][..]),
        Err(error) => {
            let kind = error.kind();
            (kind.outcome(), kind.exit_code(), error.reason(), error.hints())
        }
    };
    let _ = write(&Record::Outcome { outcome, exit_code, reason: &reason, hints, services });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn every_ending_has_its_word_and_its_code() {
        let cases = [
            (Kind::Failed, "error", 1),
            (Kind::Usage, "usage-error", 2),
            (Kind::DeploymentFailed, "failed", 3),
            (Kind::RolledBack, "rolled-back", 4),
            (Kind::TimedOut, "timed-out", 5),
            (Kind::RollbackFailed, "rollback-failed", 6),
            (Kind::Superseded, "superseded", 7),
            (Kind::Removed, "removed-meanwhile", 8),
            (Kind::Interrupted, "interrupted", 130),
            (Kind::Terminated, "terminated", 143),
        ];
        let documented = include_str!("../../../docs/outcomes.md");
        for (kind, word, code) in cases {
            assert_eq!((kind.outcome(), kind.exit_code()), (word, code), "{kind:?}");
            let row = format!("| {code} | `{word}` |");
            assert!(documented.contains(&row), "docs/outcomes.md has no row {row:?}");
            let helped = format!("\n  {code} ");
            assert!(crate::cli::EXIT_CODES.contains(&helped), "--help does not name {code}");
        }
    }

    #[test]
    fn records_have_a_version_and_a_time() {
        let record = Record::Outcome {
            outcome: "failed",
            exit_code: 3,
            reason: "why",
            hints: &["do".to_owned()],
            services: &[],
        };
        let stamped = Stamped { version: VERSION, time: Timestamp::from_secs(7), record: &record };
        let expected = serde_json::json!({
            "Version": 1, "Time": "1970-01-01T00:00:07.000000000Z", "Event": "outcome", "Outcome": "failed",
            "ExitCode": 3, "Reason": "why", "Hints": ["do"], "Services": [],
        });
        assert_eq!(serde_json::to_value(stamped).unwrap(), expected);
    }
}
