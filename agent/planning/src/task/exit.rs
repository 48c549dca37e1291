//! How a container ends: the one type from the supervisor's record to the status of a task.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_types::signal;
use shoal_types::time::Timestamp;

/// How a container, or a command in it, ended. Exactly one of `code` and `signal` is set, unless the
/// truth is unknown (its supervisor died, the host was restarted), which `message` then says.
///
/// Supervisors write it down and send it: what is absent has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitStatus {
    /// The exit code, if its first process exited.
    pub code: Option<i32>,
    /// The signal that killed its first process.
    pub signal: Option<i32>,
    /// Whether the kernel killed its first process for want of memory; `signal` is SIGKILL then.
    pub oom_killed: bool,
    /// When, if known.
    #[serde(rename = "at_nanos", serialize_with = "to_nanos", deserialize_with = "from_nanos")]
    pub at: Option<Timestamp>,
    /// What a person should know beyond the numbers.
    pub message: Option<String>,
}

/// Nanoseconds since the Unix epoch, 0 for unknown.
#[expect(clippy::ref_option, reason = "serde hands it over so")]
fn to_nanos<S: Serializer>(at: &Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(at.map_or(0, Timestamp::as_nanos))
}

fn from_nanos<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    let nanos = u64::deserialize(d)?;
    Ok((nanos != 0).then(|| Timestamp::from_nanos(nanos)))
}

impl ExitStatus {
    /// Whether it ended as a job should.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// The code a shell or `docker ps` would show: 128 + signal for a killed process. `None` when
    /// unknown.
    #[must_use]
    pub fn shell_code(&self) -> Option<i32> {
        self.code.or_else(|| self.signal.map(|signal| 128 + signal))
    }

    /// Whether nothing is known of how it ended.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.code.is_none() && self.signal.is_none()
    }
}

/// For people, whole: what a task's status says of its end.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.oom_killed, self.code, self.signal) {
            (true, None, _) => {
                f.write_str("out of memory: the kernel killed it at its memory limit")?;
            }
            (_, Some(code), _) => write!(f, "exit code {code}")?,
            (false, None, Some(number)) => {
                write!(f, "killed by signal {number} ({})", signal::name(number))?;
            }
            (false, None, None) => {
                return f.write_str(self.message.as_deref().unwrap_or("nobody knows how it ended"));
            }
        }
        self.message.as_ref().map_or(Ok(()), |message| write!(f, ": {message}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_absent_has_its_default() {
        let whole = ExitStatus {
            signal: Some(9),
            oom_killed: true,
            at: Some(Timestamp::from_nanos(7)),
            ..ExitStatus::default()
        };
        for status in [whole, ExitStatus { code: Some(0), ..ExitStatus::default() }] {
            let text = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<ExitStatus>(&text).unwrap(), status, "{text}");
        }
        assert_eq!(serde_json::from_str::<ExitStatus>("{}").unwrap(), ExitStatus::default());
        let zero = serde_json::from_str::<ExitStatus>(r#"{"code":1,"at_nanos":0}"#).unwrap();
        assert_eq!((zero.code, zero.at), (Some(1), None), "a time of 0 is none");
    }
}
