//! shoalctl, the command line of shoal.
//!
//! [`stack`] is pure: compose-style YAML to specs. `commands` has one file per noun; `client` is
//! where messages of the wire stop; `render` is what people see; `progress` follows deployments.

mod cli;
mod client;
mod commands;
pub mod context;
pub mod error;
mod files;
mod help;
mod progress;
mod render;
mod renewal;
pub mod stack;
mod terminal;

use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match understood() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::run(cli));
    // Whatever still reads standard input is not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = std::io::stderr().write_all(error.report().as_bytes());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// The command line, or how the program ends when there is nothing to run. A noun alone asks for its
/// help, as with Docker.
fn understood() -> Result<cli::Cli, ExitCode> {
    let matches = help::command().try_get_matches();
    let error = match matches.and_then(|matches| cli::Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = writeln!(std::io::stdout(), "{}", error.render());
        return Err(ExitCode::SUCCESS);
    }
    let _ = error.print();
    Err(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)))
}
