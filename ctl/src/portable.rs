//! Where a context in one file comes from, and where it goes.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shoal_client::portable::Portable;
use shoal_durable::write_file;

use crate::error::CommandError;
use crate::files;
use crate::render::block;

/// Names the path of such a file, which is then used instead of the contexts that are kept.
pub(crate) const FILE_VARIABLE: &str = "SHOAL_CONTEXT_FILE";
/// Holds the text of such a file.
pub(crate) const DATA_VARIABLE: &str = "SHOAL_CONTEXT_DATA";

/// The context that the environment holds, with the variable that does.
pub(crate) fn from_env() -> Result<Option<(Portable, &'static str)>, CommandError> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    match (set(FILE_VARIABLE), set(DATA_VARIABLE)) {
        (None, None) => Ok(None),
        (Some(path), None) => {
            let found = read(&PathBuf::from(path), FILE_VARIABLE)?;
            Ok(Some((found, FILE_VARIABLE)))
        }
        (None, Some(text)) => {
            let text = text
                .into_string()
                .map_err(|_| CommandError::failed(format!("{DATA_VARIABLE} is not UTF-8")))?;
            Ok(Some((Portable::parse(&text, DATA_VARIABLE)?, DATA_VARIABLE)))
        }
        (Some(_), Some(_)) => Err(CommandError::failed(format!(
            "both {FILE_VARIABLE} and {DATA_VARIABLE} are set: expected one of them"
        ))),
    }
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path, named_by: &str) -> Result<Portable, CommandError> {
    let text = if path.as_os_str() == "-" {
        files::text(io::stdin().lock())
    } else {
        files::text_of(path)
    };
    let at = path.display().to_string();
    let text = text.map_err(|e| {
        CommandError::failed(format!("cannot read the context of {named_by}: {at}")).because(e)
    })?;
    Ok(Portable::parse(&text, &at)?)
}

/// Where a context is written: a file that does not exist yet, for its owner alone, or standard
/// output for `-`.
#[derive(Debug, Clone)]
pub(crate) struct Output(PathBuf);

impl Output {
    /// Looked at before anything is done whose result would have no place.
    pub(crate) fn new(path: PathBuf) -> Result<Self, CommandError> {
        if path.as_os_str() != "-" && fs::symlink_metadata(&path).is_ok() {
            let at = path.display();
            return Err(CommandError::failed(format!("{at} exists already"))
                .hint("name another file, or remove this one first"));
        }
        Ok(Self(path))
    }

    /// Whether it goes to standard output, which then has nothing else.
    pub(crate) fn is_shown(&self) -> bool {
        self.0.as_os_str() == "-"
    }

    pub(crate) fn write(&self, context: &Portable) -> Result<(), CommandError> {
        let text = context.text()?;
        if self.is_shown() {
            return block(text.trim_end());
        }
        write_file(&self.0, text.as_bytes(), 0o600).map_err(|e| {
            CommandError::failed(format!("cannot write {}", self.0.display())).because(e)
        })
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shown() { f.write_str("standard output") } else { self.0.display().fmt(f) }
    }
}
