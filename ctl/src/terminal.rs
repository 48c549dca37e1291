//! The user's terminal.

use std::io;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::CommandError;
use crate::render;

/// Rows and columns of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let of = |size: rustix::termios::Winsize| (size.ws_row, size.ws_col);
    tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok().map(of)
}

/// The terminal passes every key on as it is, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Makes the terminal behind standard input raw.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> Result<Self, CommandError> {
        let failed = |e: rustix::io::Errno| {
            CommandError::failed("cannot make the terminal raw").because(io::Error::from(e))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal does not show what is typed, until this is dropped.
#[derive(Debug)]
struct Silent {
    before: Termios,
}

impl Silent {
    fn enter() -> Result<Self, CommandError> {
        let failed = |e: rustix::io::Errno| {
            CommandError::failed("cannot hide what is typed").because(io::Error::from(e))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Asks the user for a line, which is shown as it is typed or not.
///
/// # Errors
/// When there is no terminal, nothing is said, or the user gives up.
pub(crate) async fn ask(prompt: &'static str, shown: bool) -> Result<String, CommandError> {
    let silent = if shown { None } else { Some(Silent::enter()?) };
    render::prompt(prompt);
    // Reading cannot be given up: the thread is left behind when the program ends.
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await;
    if silent.is_some() {
        // The end of the line was not shown either.
        render::prompt("\n");
    }
    let failed = |e: io::Error| CommandError::failed("cannot read the answer").because(e);
    let line = line.map_err(|e| failed(e.into()))?.map_err(failed)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
