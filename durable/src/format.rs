//! Files of JSON that name their version.
//!
//! ```json
//! { "version": 2, "images": [] }
//! ```
//!
//! The version stands among the fields of the content. A file without one is of version 0. Fields
//! that are unknown to a reader are the content's business; those of a newer version are not looked
//! at.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::file::{Lasting, write_file_as};

/// The fields of a file, without its version.
pub type Fields = serde_json::Map<String, Value>;

const VERSION: &str = "version";

/// A kind of file.
pub trait Format {
    /// What is in it. Written as an object without a field `version`.
    type Content: Serialize + DeserializeOwned;

    /// What its golden files are called.
    const NAME: &'static str;

    /// The version that is written, and the newest that is read. It grows with every change that an
    /// older reader would misunderstand; a field that may be absent needs no new version.
    const VERSION: u32;

    /// The largest file that is read, in bytes.
    const MAX_BYTES: u64 = 64 << 20;

    /// The fields of version 0, for content that was no object then. `None`: it always was one.
    fn unwrapped(content: Value) -> Option<Fields> {
        let _ = content;
        None
    }

    /// Makes the fields of version `from + 1` of those of version `from`. `None`: nothing was ever
    /// written with that version.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        let _ = (from, fields);
        None
    }
}

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system refuses to give it.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file system refuses to take it.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Nobody ever wrote one so large.
    #[error("{} is larger than {max} bytes, which none of its kind is", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// It is not what was written.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A newer program wrote it.
    #[error(
        "{} is of version {found} of its format and was written by a newer version of shoal; this \
         one reads versions up to {known}: use the version that wrote it, or a newer one, or move \
         the file aside to begin without it",
        path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that is understood.
        known: u32,
    },
}

/// Reads a file; `None` if there is none.
///
/// # Errors
/// [`FileError`].
pub fn read<F: Format>(path: &Path) -> Result<Option<F::Content>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(F::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > F::MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), max: F::MAX_BYTES });
    }
    let damaged = |source| FileError::Damaged { path: path.to_owned(), source };
    decode::<F>(path, serde_json::from_slice(&bytes).map_err(damaged)?).map(Some)
}

/// The content of what was read from `path`, of this version or an earlier one.
///
/// # Errors
/// [`FileError::Newer`], [`FileError::Damaged`].
pub fn decode<F: Format>(path: &Path, file: Value) -> Result<F::Content, FileError> {
    let damaged = |source| FileError::Damaged { path: path.to_owned(), source };
    let wrong = |what: &str| damaged(serde_json::Error::custom(what));
    let mut fields = match file {
        Value::Object(fields) => fields,
        other => F::unwrapped(other).ok_or_else(|| wrong("it is not an object"))?,
    };
    let found = match fields.remove(VERSION) {
        None => 0,
        Some(version) => version.as_u64().ok_or_else(|| wrong("its version is no whole number"))?,
    };
    let known = F::VERSION;
    let version = u32::try_from(found).ok().filter(|version| *version <= known);
    let version =
        version.ok_or_else(|| FileError::Newer { path: path.to_owned(), found, known })?;
    for from in version..known {
        fields = F::upgrade(from, fields)
            .ok_or_else(|| wrong(&format!("there never was a version {from} of it")))?;
    }
    serde_json::from_value(Value::Object(fields)).map_err(damaged)
}

#[derive(Serialize)]
struct Envelope<'a, C> {
    version: u32,
    #[serde(flatten)]
    content: &'a C,
}

/// The file that has this content, for [`write()`] or whoever writes it in another way.
pub fn envelope<F: Format>(content: &F::Content) -> impl Serialize + '_ {
    Envelope { version: F::VERSION, content }
}

/// As [`envelope`], as bytes.
///
/// # Errors
/// The content is no object.
pub fn text<F: Format>(content: &F::Content) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec_pretty(&envelope::<F>(content))?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces a file whole.
///
/// # Errors
/// [`FileError::Write`]; the old content is then still there.
pub fn write<F: Format>(
    path: &Path,
    content: &F::Content,
    mode: u32,
    lasting: Lasting,
) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let text = text::<F>(content).map_err(|error| failed(error.into()))?;
    write_file_as(path, &text, mode, lasting).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Animals {
        fish: Vec<String>,
        #[serde(default)]
        birds: u32,
    }

    enum AnimalsFile {}

    impl Format for AnimalsFile {
        type Content = Animals;
        const NAME: &'static str = "animals";
        const VERSION: u32 = 3;
        const MAX_BYTES: u64 = 1000;

        fn upgrade(from: u32, mut fields: Fields) -> Option<Fields> {
            match from {
                // One fish by name.
                1 => {
                    let fish = fields.remove("fish")?;
                    fields.insert("fishes".to_owned(), Value::Array(vec![fish]));
                }
                2 => {
                    let fish = fields.remove("fishes")?;
                    fields.insert("fish".to_owned(), fish);
                }
                _ => return None,
            }
            Some(fields)
        }
    }

    fn read_text(text: &str) -> Result<Option<Animals>, FileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("animals.json");
        std::fs::write(&path, text).unwrap();
        read::<AnimalsFile>(&path)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sea/animals.json");
        assert_eq!(read::<AnimalsFile>(&path).unwrap(), None);
        let animals = || Animals { fish: vec!["cod".to_owned()], birds: 2 };
        write::<AnimalsFile>(&path, &animals(), 0o600, Lasting::PowerCut).unwrap();
        assert_eq!(read::<AnimalsFile>(&path).unwrap(), Some(animals()));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"version\": 3"), "{text}");
    }

    #[test]
    fn every_earlier_version_is_read_step_by_step() {
        let cod = || Animals { fish: vec!["cod".to_owned()], birds: 0 };
        for text in [
            r#"{"version": 1, "fish": "cod"}"#,
            r#"{"version": 2, "fishes": ["cod"]}"#,
            r#"{"version": 3, "fish": ["cod"], "unknown": 1}"#,
        ] {
            assert_eq!(read_text(text).unwrap(), Some(cod()), "{text}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_the_refusal_says_all() {
        let error = read_text(r#"{"version": 4, "fish": {"of": "the future"}}"#).unwrap_err();
        let text = error.to_string();
        for part in
            ["animals.json is of version 4", "reads versions up to 3", "move the file aside"]
        {
            assert!(text.contains(part), "{text}");
        }
        let text = read_text(r#"{"version": 99999999999}"#).unwrap_err().to_string();
        assert!(text.contains("is of version 99999999999 "), "{text}");
    }

    #[test]
    fn what_nobody_wrote_is_damage() {
        for (text, why) in [
            ("{", "EOF"),
            ("[]", "not an object"),
            (r#"{"version": "x"}"#, "no whole number"),
            (r#"{"fish": []}"#, "never was a version 0"),
            (r#"{"version": 3}"#, "missing field"),
        ] {
            let error = read_text(text).unwrap_err();
            let FileError::Damaged { source, .. } = &error else { panic!("{text}: {error}") };
            assert!(source.to_string().contains(why), "{text}: {source}");
        }
        let large = format!(r#"{{"version": 3, "fish": ["{}"]}}"#, "x".repeat(1000));
        assert!(matches!(read_text(&large), Err(FileError::TooLarge { max: 1000, .. })));
    }

    #[test]
    fn content_that_is_no_object_is_not_written() {
        enum Bad {}
        impl Format for Bad {
            type Content = Vec<u8>;
            const NAME: &'static str = "bad";
            const VERSION: u32 = 1;
        }
        assert!(text::<Bad>(&vec![1]).is_err());
    }
}
