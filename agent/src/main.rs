//! `shoal-agent`: everything one host does.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use shoal_agent::config::{Cli, Work};
use shoal_agent::{config, local, program};
use shoal_agent_container::supervise::{self, Given};
use shoal_agent_tunnel::device;
use shoal_types::error_chain::chain;

/// Exit code of a wrong command line, as clap has it.
const USAGE: u8 = 2;

/// A helper of the agent: what it is called, and what it does once it has what it needs.
type Helper = (&'static str, fn(Given) -> ExitCode);

const HELPERS: [Helper; 4] = [
    ("supervise", supervise::main),
    ("join", supervise::join::main),
    ("tunnel", device::main),
    ("names", names),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything that starts a thread: a supervisor forks.
    let command = arguments.next();
    let helper = HELPERS.iter().find(|(name, _)| command.as_deref() == Some(name.as_ref()));
    if let Some((name, helper)) = helper {
        return help(name, *helper, arguments);
    }
    let done = match Cli::parse().into_work() {
        Work::Run(args) => program::run(*args),
        Work::StopContainers(args) => local::stop_containers(&args.socket()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&chain(error.as_ref()).to_string());
            ExitCode::FAILURE
        }
    }
}

/// Standard input is the socket on which agents are listened to.
fn names(given: Given) -> ExitCode {
    let (_, listener) = given.into_parts();
    match shoal_agent_dns::process::run(&listener) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn help(
    name: &str,
    helper: fn(Given) -> ExitCode,
    arguments: impl Iterator<Item = OsString>,
) -> ExitCode {
    match Given::take(arguments) {
        Some(given) => helper(given),
        None => {
            say(&config::internal(name));
            ExitCode::from(USAGE)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log may not have been started")]
fn say(error: &str) {
    eprintln!("shoal-agent: {error}");
}
