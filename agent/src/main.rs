//! `shoal-agent`: everything one host does.

use std::process::ExitCode;

use clap::Parser as _;
use shoal_agent::config::Cli;
use shoal_agent::{daemon, supervise};
use shoal_types::error_chain::chain;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything that starts a thread: a supervisor forks.
    match arguments.next() {
        Some(command) if command == "supervise" => return supervise::main(arguments),
        Some(command) if command == "join" => return supervise::join::main(arguments),
        _ => {}
    }
    match daemon::run(Cli::parse().into_run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&chain(error.as_ref()).to_string());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log may not have been started")]
fn say(error: &str) {
    eprintln!("shoal-agent: {error}");
}
