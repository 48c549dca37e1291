//! What agent and supervisor say to each other: one JSON object per line over a Unix socket.
//!
//! The agent asks, every request is answered once; the end of the container is told to whoever is
//! connected, and again to every agent that connects later, until the supervisor is done.
//!
//! A supervisor is as old as its container, an agent as new as its host's package, so neither may take
//! the other for its like. Both begin with a [`Hello`]: the supervisor with a message of its own, the
//! agent within its first request, where a supervisor of protocol 0, which has no greeting, passes over
//! it. Fields that are not known are passed over, absent ones have defaults. An operation that is not
//! known is answered with [`Failure::Unsupported`], a message that is not known is passed over, and the
//! conversation goes on. Nothing that is said here, or not understood, is ever a reason to end a
//! container: see `docs/compatibility.md`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::file::word;
use crate::ProcessIdentity;
use crate::{ContainerId, ExitStatus, RuntimeError};

/// The protocol that this program speaks. A new one gets files in `golden/`.
pub const PROTOCOL: u32 = 1;
/// The lowest protocol that whoever speaks with this program has to know.
pub const NEEDS: u32 = 0;

/// Longest line in bytes; a longer one ends the connection.
pub const LINE_MAX: usize = 64 * 1024;
/// Bytes of what was not understood that are repeated to people.
const SHOWN_MAX: usize = 200;

/// How either side begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub protocol: u32,
    /// The lowest protocol that it can be understood with.
    #[serde(default)]
    pub needs: u32,
}

impl Hello {
    /// That of this program.
    pub const OURS: Self = Self { protocol: PROTOCOL, needs: NEEDS };

    /// Whether this program understands what follows.
    #[must_use]
    pub fn is_understood(self) -> bool {
        self.needs <= PROTOCOL
    }
}

/// What came is no line of this protocol, of whatever version.
#[derive(Debug, thiserror::Error)]
#[error("{} is no line of the protocol", shown(.0))]
pub struct Garbled(Vec<u8>);

/// Asks something of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Repeated in the answer.
    pub seq: u32,
    /// What is asked.
    pub op: Op,
    /// In the first request of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Start the container. Answered when its program runs; at once when it already does.
    Start,
    /// How things stand.
    Status,
    /// Send a signal to the first process.
    Signal(i32),
    /// Kill the container, clean up, and end.
    Quit,
    /// Something of another version, by its name.
    #[serde(skip)]
    Unknown(String),
}

impl Op {
    fn unknown(said: &Value) -> Self {
        let name = said.as_object().and_then(|fields| fields.keys().next().map(String::as_str));
        let name = said.as_str().or(name).unwrap_or("a request without an operation");
        Self::Unknown(shown(name.as_bytes()))
    }
}

impl Request {
    /// Reads a line of any version.
    ///
    /// # Errors
    /// [`Garbled`].
    pub fn read(line: &[u8]) -> Result<Self, Garbled> {
        let garbled = || Garbled(line.to_vec());
        let value: Value = serde_json::from_slice(line).map_err(|_| garbled())?;
        let fields = value.as_object().ok_or_else(garbled)?;
        let seq = fields.get("seq").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let op = fields.get("op").unwrap_or(&Value::Null);
        let op = word(op).unwrap_or_else(|| Op::unknown(op));
        let hello = fields.get("hello").and_then(|hello| Hello::deserialize(hello).ok());
        Ok(Self { seq: seq.unwrap_or(0), op, hello })
    }
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// How it begins.
    Hello(Hello),
    /// The container can be started.
    Prepared,
    /// The container could not be prepared; the supervisor ends.
    NotPrepared(Failure),
    /// An answer.
    Reply {
        /// Of the request.
        seq: u32,
        /// How things stand, or why not.
        result: Result<Status, Failure>,
    },
    /// The container ended and this is on disk.
    Exited(ExitStatus),
}

impl Message {
    /// Reads a line of any version; `None` for a message that is not known, which may be passed over.
    ///
    /// An answer and an end are never among those: what cannot be understood inside of them is said in
    /// their place.
    ///
    /// # Errors
    /// [`Garbled`].
    pub fn read(line: &[u8]) -> Result<Option<Self>, Garbled> {
        let value: Value = serde_json::from_slice(line).map_err(|_| Garbled(line.to_vec()))?;
        if let Some(message) = word(&value) {
            return Ok(Some(message));
        }
        if let Some(reply) = value.get("reply") {
            let seq = reply.get("seq").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            let failure = Failure::of_text("reading the supervisor's answer", &value);
            return Ok(seq.map(|seq| Self::Reply { seq, result: Err(failure) }));
        }
        let unclear = value.get("exited").map(|_| {
            let note = format!("its supervisor told its end in words that are not known: {value}");
            Self::Exited(ExitStatus { message: Some(note), ..ExitStatus::default() })
        });
        Ok(unclear)
    }
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor.
    pub supervisor: ProcessIdentity,
    /// The container's first process, while it runs.
    #[serde(default)]
    pub init: Option<ProcessIdentity>,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// The derived functions under this type's own name; the traits below stand in front of them.
#[serde(rename_all = "snake_case", remote = "Self")]
pub enum Failure {
    /// The program is not there.
    CommandNotFound {
        /// As asked for.
        command: String,
    },
    /// The program cannot be executed.
    CommandNotExecutable {
        /// As asked for.
        command: String,
        /// Why.
        reason: String,
    },
    /// The user is not in the image.
    UnknownUser {
        /// As asked for.
        user: String,
        /// What was looked for.
        reason: String,
    },
    /// There is nothing to do it to.
    NotRunning,
    /// The operation is not known: whoever was asked is of another version.
    Unsupported {
        /// As asked for.
        op: String,
    },
    /// What another version has written is not understood.
    OtherVersion {
        /// What, and why.
        reason: String,
    },
    /// Anything else.
    Other {
        /// What was being done.
        stage: String,
        /// What was said.
        reason: String,
    },
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for Failure {
    /// A failure of a kind that is not known is still one.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Known(Failure);
        impl<'de> Deserialize<'de> for Known {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Failure::deserialize(d).map(Self)
            }
        }
        let value = <Value as Deserialize>::deserialize(d)?;
        let known = word::<Known>(&value).map(|known| known.0);
        Ok(known.unwrap_or_else(|| Self::of_text("what the supervisor was asked", &value)))
    }
}

impl Failure {
    /// A failure of some stage, with the error's whole chain.
    pub fn other(stage: &str, error: &dyn std::error::Error) -> Self {
        Self::Other { stage: stage.to_owned(), reason: chain(error) }
    }

    fn of_text(stage: &str, said: &Value) -> Self {
        let reason = format!("it says {}", shown(said.to_string().as_bytes()));
        Self::Other { stage: stage.to_owned(), reason }
    }

    /// As the runtime reports it.
    #[must_use]
    pub fn into_error(self, id: &ContainerId) -> RuntimeError {
        let id = id.clone();
        match self {
            Self::CommandNotFound { command } => RuntimeError::CommandNotFound { command },
            Self::CommandNotExecutable { command, reason } => {
                RuntimeError::CommandNotExecutable { command, reason }
            }
            Self::UnknownUser { user, reason } => RuntimeError::UnknownUser { user, reason },
            Self::NotRunning => RuntimeError::NotRunning { id },
            Self::Unsupported { op } => {
                let reason = format!("it is of another version and does not know {op}");
                RuntimeError::Supervisor { id, reason }
            }
            Self::OtherVersion { reason } => RuntimeError::OtherVersion { id, reason },
            Self::Other { stage, reason } => RuntimeError::Failed { id, stage, reason },
        }
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The beginning of what was not understood.
fn shown(bytes: &[u8]) -> String {
    let cut = bytes.len().min(SHOWN_MAX);
    let more = if cut < bytes.len() { "…" } else { "" };
    format!("{}{more}", String::from_utf8_lossy(&bytes[..cut]).trim_end())
}
