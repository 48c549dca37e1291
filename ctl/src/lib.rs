//! shoalctl, the command line of shoal.
//!
//! [`stack`] is pure: compose-style YAML to specs. `commands` has one file per noun; `client` is
//! where messages of the wire stop; `render` is what people see; `progress` follows deployments.

mod cli;
mod commands;
pub mod error;
mod files;
mod help;
mod interrupt;
mod logins;
mod portable;
mod progress;
mod render;
pub mod stack;
mod terminal;
mod tips;

use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;

use crate::error::CommandError;

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
            render::note(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::run(cli));
    // Whatever still reads standard input is not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = error.report();
            if !report.is_empty() {
                render::report(report.trim_end());
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// The command line, for what describes it.
#[must_use]
pub fn command() -> clap::Command {
    help::command()
}

/// The command line, or how the program ends when there is nothing to run. A noun alone asks for its
/// help, as with Docker.
fn understood() -> Result<cli::Cli, ExitCode> {
    let error = match read() {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = render::block(error.render().to_string().trim_end());
        return Err(ExitCode::SUCCESS);
    }
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let error = tips::improve(error, &help::command(), &args);
    let helps = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !helps && asks_for_json(&args) {
        let text = error.to_string();
        let reason = text.trim().trim_start_matches("error: ");
        render::record::end(Err(&CommandError::usage(reason)), &[]);
    }
    let _ = error.print();
    Err(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)))
}

/// Whether a command line that makes no sense asks for JSON nevertheless: programs that read records
/// get one of them as well.
fn asks_for_json(args: &[String]) -> bool {
    let mut after = false;
    for arg in args.iter().take_while(|arg| *arg != "--") {
        if arg == "--format=json" || (after && arg == "json") {
            return true;
        }
        after = arg == "--format";
    }
    false
}

fn read() -> Result<cli::Cli, clap::Error> {
    let mut command = help::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    let cli = cli::Cli::from_arg_matches(&matches)?;
    let (mut name, mut below) = ("shoalctl", &matches);
    while let Some((next, matches)) = below.subcommand() {
        (name, below) = (next, matches);
    }
    if cli.global.format.template.is_some() && !commands::LISTINGS.contains(&name) {
        let text = format!("{name} takes no template: expected --format table or json");
        return Err(command.error(ErrorKind::InvalidValue, text));
    }
    Ok(cli)
}
