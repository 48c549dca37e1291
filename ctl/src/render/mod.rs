//! What people and programs see: tables, JSON, Go templates, times, tasks in words. What is written
//! here is written through [`clean`], because names, messages and errors come from containers,
//! agents and registries.

mod absent;
pub(crate) mod clean;
pub(crate) mod format;
#[cfg(test)]
mod golden;
pub(crate) mod json;
pub(crate) mod label;
pub(crate) mod pretty;
pub(crate) mod record;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod time;
pub(crate) mod words;

use std::io::{self, IsTerminal as _, Write as _};

use crate::error::CommandError;

pub(crate) use format::{Format, FormatArg};

/// Characters of an id that are shown unless all are asked for.
const ID_SHOWN: usize = 12;

/// An id, whole or shortened.
pub(crate) fn id(id: impl std::fmt::Display, whole: bool) -> String {
    let text = id.to_string();
    if whole { text } else { text.chars().take(ID_SHOWN).collect() }
}

/// Writes a line to standard output. Further lines in it are set in, so that none that others wrote
/// passes for one of this program.
pub(crate) fn line(text: &str) -> Result<(), CommandError> {
    block(&text.replace('\n', "\n    "))
}

/// Writes lines to standard output whose ends are this program's: tables, pages, documents.
pub(crate) fn block(text: &str) -> Result<(), CommandError> {
    write_line(&clean::lines(text))
}

/// Writes what came from this user's own files as it is, unless a terminal would act on it.
pub(crate) fn own_line(text: &str) -> Result<(), CommandError> {
    if io::stdout().is_terminal() { block(text) } else { write_line(text) }
}

/// Writes a script that is part of this program, byte for byte.
pub(crate) fn script(text: &[u8]) -> Result<(), CommandError> {
    Ok(io::stdout().lock().write_all(text)?)
}

/// Clears the terminal that results go to, so that the next ones stand where the last ones stood; does
/// nothing where they go elsewhere.
pub(crate) fn clear_screen() -> Result<(), CommandError> {
    let out = io::stdout();
    if out.is_terminal() {
        // Home, and all below it (ECMA-48: CUP, ED).
        out.lock().write_all(b"\x1b[H\x1b[J")?;
    }
    Ok(())
}

fn write_line(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Writes something to standard error that is not a result. That nobody reads it is no failure.
/// Further lines are set in, so that none that others wrote passes for one of this program.
pub(crate) fn note(text: &str) {
    report(&text.replace('\n', "\n    "));
}

/// Writes how a command failed, with its hints, to standard error.
pub(crate) fn report(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", clean::lines(text));
}

/// Asks for an answer on the same line.
pub(crate) fn prompt(text: &'static str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Width of the terminal that results go to; `None` if they go elsewhere.
pub(crate) fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}
