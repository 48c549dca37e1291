//! Files that one program writes and another version of it reads: a container lives longer than the
//! agent that has made it.
//!
//! Every such file says two numbers beside its contents: `version`, that of its writer's format, and
//! `needs`, the lowest version that a reader has to know. A reader takes no notice of fields that it does
//! not know and has a default for those that are absent, so what is added raises `version` alone. Only
//! what an older reader would misunderstand raises `needs`, and then that reader refuses what it was
//! going to do with the file, and nothing else. Absent numbers are 0.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::protocol::Failure;

/// A kind of file.
pub trait Kept: Serialize + DeserializeOwned {
    /// What it is, for people.
    const WHAT: &'static str;
    /// The version of the format that this program writes. A new one gets a file in `golden/`.
    const VERSION: u32;
    /// The lowest version that whoever reads what this program writes has to know.
    const NEEDS: u32;
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    needs: u32,
    #[serde(flatten)]
    contents: &'a T,
}

#[derive(Deserialize)]
struct Numbers {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    needs: u32,
}

/// Why the contents of a file are not known.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not whole, or nothing of ours.
    #[error("{what} makes no sense")]
    Garbled {
        /// What it is.
        what: &'static str,
        /// Where it ends to make sense.
        #[source]
        source: serde_json::Error,
    },
    /// A newer program has written it, and says that this one would not understand it.
    #[error(
        "{what} has format {version}, which needs a program that knows format {needs}; this one knows \
         {known}"
    )]
    Newer {
        /// What it is.
        what: &'static str,
        /// The format of its writer.
        version: u32,
        /// The lowest that has to be known.
        needs: u32,
        /// The highest that is known.
        known: u32,
    },
}

impl From<Unreadable> for Failure {
    fn from(e: Unreadable) -> Self {
        match e {
            Unreadable::Garbled { what, ref source } => {
                Self::other(&format!("reading {what}"), source)
            }
            Unreadable::Newer { .. } => Self::OtherVersion { reason: e.to_string() },
        }
    }
}

/// The bytes of a file.
///
/// # Errors
/// When the contents cannot be JSON.
pub fn to_bytes<T: Kept>(contents: &T) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Written { version: T::VERSION, needs: T::NEEDS, contents })?)
}

/// The contents of a file of any version.
///
/// # Errors
/// [`Unreadable`].
pub fn from_bytes<T: Kept>(bytes: &[u8]) -> Result<T, Unreadable> {
    let garbled = |source| Unreadable::Garbled { what: T::WHAT, source };
    let Numbers { version, needs } = serde_json::from_slice(bytes).map_err(garbled)?;
    if needs > T::VERSION {
        return Err(Unreadable::Newer { what: T::WHAT, version, needs, known: T::VERSION });
    }
    serde_json::from_slice(bytes).map_err(garbled)
}

/// An enum's word, whatever stands beside it; `None` for one that is not known.
pub(super) fn word<T: DeserializeOwned>(value: &serde_json::Value) -> Option<T> {
    if let Ok(known) = T::deserialize(value) {
        return Some(known);
    }
    let fields = value.as_object().filter(|fields| fields.len() > 1)?;
    let alone = |(name, value): (&String, &serde_json::Value)| {
        let one: serde_json::Map<_, _> = [(name.clone(), value.clone())].into_iter().collect();
        T::deserialize(serde_json::Value::Object(one)).ok()
    };
    fields.iter().find_map(alone)
}
