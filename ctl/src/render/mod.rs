//! What people and programs see: tables, JSON, times, tasks in words.

pub(crate) mod json;
pub(crate) mod pretty;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod words;

use std::io::{self, IsTerminal as _, Write as _};

use crate::error::CommandError;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, or one a line for streams.
    Json,
}

/// Characters of an id that are shown unless all are asked for.
const ID_SHOWN: usize = 12;

/// An id, whole or shortened.
pub(crate) fn id(id: impl std::fmt::Display, whole: bool) -> String {
    let text = id.to_string();
    if whole { text } else { text.chars().take(ID_SHOWN).collect() }
}

/// Writes lines to standard output.
pub(crate) fn line(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Writes something to standard error that is not a result. That nobody reads it is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Width of the terminal that results go to; `None` if they go elsewhere.
pub(crate) fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}
