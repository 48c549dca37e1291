//! `shoal-agent supervise`: the small process that owns one container.
//!
//! It has one thread and no async runtime, so that it may fork: libcontainer runs in a short-lived
//! child of it. It makes the container's mount and network namespaces, holds its standard streams,
//! writes its log, waits for its end, records it, and removes its control groups. An agent may die
//! and come back meanwhile; when the supervisor itself dies, its [`guard`] ends the container.

mod children;
pub mod control;
pub mod create;
pub mod executor;
pub mod exit;
pub mod file;
#[cfg(test)]
mod golden_tests;
pub mod guard;
pub mod join;
pub mod limits;
pub mod log;
pub mod mounts;
mod own_dir;
pub mod protocol;
pub mod root;
pub mod rootfs;
pub mod setup;
mod starting;
pub mod streams;
pub mod supervisor;
pub mod user;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FileType, Mode};
use rustix::process::{getpid, set_child_subreaper, setsid, umask};

use control::Control;
use protocol::{Failure, Hello, Message};
use setup::Setup;
use supervisor::Supervisor;

use crate::sys;

/// Signals that are meant for an agent in the foreground, not for the containers.
const IGNORED: [i32; 5] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    // Writing to an agent that has gone is an ordinary error.
    libc::SIGPIPE,
];

/// What the agent gives to a helper of its own.
#[derive(Debug)]
pub struct Given {
    run_dir: PathBuf,
    agent: OwnedFd,
}

impl Given {
    /// From the arguments after the sub-command and standard input: a container's run directory, and
    /// a socket to the agent. `None` when somebody else has started this process.
    #[must_use]
    pub fn take(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let run_dir = PathBuf::from(arguments.next()?);
        if arguments.next().is_some() || !run_dir.is_absolute() {
            return None;
        }
        let stdin = rustix::stdio::stdin();
        let kind = FileType::from_raw_mode(rustix::fs::fstat(stdin).ok()?.st_mode);
        if kind != FileType::Socket {
            return None;
        }
        let agent = rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok()?;
        Some(Self { run_dir, agent })
    }

    /// The run directory, and the socket to the agent.
    #[must_use]
    pub fn into_parts(self) -> (PathBuf, OwnedFd) {
        (self.run_dir, self.agent)
    }
}

/// The sub-command.
#[must_use]
pub fn main(given: Given) -> ExitCode {
    let Given { run_dir, agent } = given;
    let mut control = Control::new(Some(agent));
    control.say_all(&Message::Hello(Hello::OURS));
    match prepare(&run_dir, &mut control) {
        Ok(supervisor) => {
            supervisor.run();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            control.say_all(&Message::NotPrepared(failure));
            ExitCode::FAILURE
        }
    }
}

fn prepare(run_dir: &Path, control: &mut Control) -> Result<Supervisor, Failure> {
    let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
    detach().map_err(step("detaching from the agent"))?;
    std::env::set_current_dir(run_dir).map_err(step("entering the run directory"))?;
    let setup: Setup = setup::read(run_dir)?;
    Supervisor::prepare(setup, control)
}

/// Leaves the agent's session and whatever would end it together with the agent.
fn detach() -> io::Result<()> {
    sys::process::ignore_signals(&IGNORED);
    // Executed by descriptor, it would be called by the descriptor's number.
    rustix::thread::set_name(c"shoal-supervise")?;
    // Fails for a process that leads a group already, which is as good.
    let _ = setsid();
    umask(Mode::from_raw_mode(0o077));
    set_child_subreaper(Some(getpid()))?;
    // The container may be killed for memory, who looks after it should not.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let null: OwnedFd = fs::File::options().read(true).write(true).open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}
