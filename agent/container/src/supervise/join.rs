//! `shoal-agent join`: the short-lived process that runs a further process in a container.
//!
//! It is the new process's parent, waits for it and reports its end. Everything the process starts is
//! in a control group of its own, below the container's: when the agent goes away, or the session that
//! wanted it, all of that is killed, whatever user it has become. What is to run comes over the socket,
//! never by argument: it may hold secrets.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Process, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{
    Pid, PidfdFlags, WaitOptions, WaitStatus, getpid, pidfd_open, set_child_subreaper, waitpid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::children::kill_children;
use super::create::{self, ChildStreams, Creator, Job};
use super::log::now;
use super::own_dir::OwnDir;
use super::protocol::Failure;
use super::root::RootDir;
use super::setup::{self, CONFIG_FILE, Common};
use super::streams::receive_terminal;
use super::user;
use super::{Given, detach};
use crate::ProcessIdentity;
use crate::cgroup::ExecGroup;
use crate::sys;
use crate::{ExitStatus, TermSize};

/// Longest request: arguments and environment together, as the kernel bounds them.
const REQUEST_MAX: usize = 4 << 20;

/// Where libcontainer sends a terminal.
const CONSOLE: &str = "console.sock";

/// What is to run. Standard input, output and error come with it as descriptors, unless on a terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables over the container's own.
    pub env: Vec<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// The terminal's size, if on one.
    pub tty: Option<TermSize>,
    /// Whether what it has left running is killed at its end, instead of living on in the container.
    pub sweep: bool,
    /// The container's first process.
    pub init: ProcessIdentity,
    /// Its supervisor.
    pub supervisor: ProcessIdentity,
}

/// What is answered, one line each: first one of the first two, then the last.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joined {
    /// It runs; its terminal comes with this.
    Started {
        /// Its id, as the agent sees it.
        pid: i32,
    },
    /// It could not be started.
    Failed(Failure),
    /// It ended.
    Ended(ExitStatus),
}

/// The sub-command.
#[must_use]
pub fn main(given: Given) -> ExitCode {
    let Given { run_dir, agent } = given;
    match run(&run_dir, &agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&agent, &Joined::Failed(failure), None);
            ExitCode::FAILURE
        }
    }
}

fn run(run_dir: &Path, agent: &OwnedFd) -> Result<(), Failure> {
    let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
    // That the agent goes away is seen by the socket, not by a death signal: that would come when the
    // agent's *thread* ends that has forked this process.
    detach().map_err(step("detaching from the agent's terminal"))?;
    set_child_subreaper(Some(getpid())).map_err(|e| step("becoming a reaper")(e.into()))?;
    let (request, fds) = receive(agent).map_err(step("reading the request"))?;
    let setup: Common = setup::read(run_dir)?;
    let group = ExecGroup::make(&setup.layout, &setup.cgroup)
        .map_err(|e| Failure::other("making a control group", &e))?
        .ok_or(Failure::NotRunning)?;
    let ended = execute(&setup, &group, &request, fds, agent);
    let (status, left) = match ended {
        Ok(status) if request.sweep => (Ok(status), group.kill()),
        Ok(status) => (Ok(status), group.hand_over()),
        Err(failure) => {
            // First what runs already. Who makes a process is not in the group yet, and may have come
            // to it, or left something there, before its own end.
            let _ = group.kill();
            kill_children();
            (Err(failure), group.kill())
        }
    };
    // What would neither die nor go stays where it is and is counted there: with the container.
    if left.is_ok() {
        let _ = group.remove();
    }
    say(agent, &Joined::Ended(status?), None);
    Ok(())
}

/// Runs the process to its end.
fn execute(
    setup: &Common,
    group: &ExecGroup,
    request: &JoinRequest,
    fds: Vec<OwnedFd>,
    agent: &OwnedFd,
) -> Result<ExitStatus, Failure> {
    let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
    let groups = Rc::new(group.entry().map_err(step("opening the control group"))?);
    enter(request).map_err(step("entering the supervisor's mounts"))?;
    std::env::set_current_dir(&setup.run_dir).map_err(step("entering the run directory"))?;
    let process = process(setup, request)?;
    if let Some(cwd) = &request.cwd {
        // Said here: of what fails inside, the runtime's library only tells that it failed.
        RootDir::open(Path::new(&format!("/proc/{}/root", request.init.pid)))
            .and_then(|root| root.has_directory(cwd))
            .map_err(|e| Failure::other(&format!("entering {}", cwd.display()), &e))?;
    }
    let streams = match <[OwnedFd; 3]>::try_from(fds) {
        Ok([stdin, stdout, stderr]) => Some(ChildStreams { stdin, stdout, stderr }),
        Err(_) => None,
    };
    if streams.is_none() && request.tty.is_none() {
        return Err(step("reading the request")(io::ErrorKind::InvalidInput.into()));
    }
    let own = OwnDir::new(setup).map_err(step("making a directory"))?;
    let console = request.tty.map(|_| Console::new(&own)).transpose();
    let console = console.map_err(step("making a terminal"))?;
    let path = console.as_ref().map(|c| c.path.as_path());
    let (root, terminal) = (own.path(), request.tty);
    let job = Job::Join { process: &process, terminal, root, group: group.name() };
    let creator = create::spawn(setup, &groups, &job, streams, path)?;
    let terminal = match &console {
        Some(console) => console.receive(&creator, agent).map_err(step("taking the terminal"))?,
        None => None,
    };
    let pid = outcome(&creator, agent)?;
    say(agent, &Joined::Started { pid }, terminal.as_ref().map(AsFd::as_fd));
    drop((terminal, console, own));
    wait(pid, agent, group)
}

/// Into the supervisor's mounts, where the container's root file system is and control groups look
/// as they did for the container.
fn enter(request: &JoinRequest) -> io::Result<()> {
    let mounts = fs::File::open(format!("/proc/{}/ns/mnt", request.supervisor.pid))?;
    // Looked at after opening: a later process with this id is none of ours.
    if !request.supervisor.exists() || !request.init.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // A process that shares its root and working directory cannot change mount namespaces.
    sys::process::unshare(UnshareFlags::FS)?;
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// The container's own process with what the request changes.
fn process(setup: &Common, request: &JoinRequest) -> Result<Process, Failure> {
    let bad = |e: &dyn std::error::Error| Failure::other("reading the specification", e);
    let bytes = fs::read(setup.run_dir.join(CONFIG_FILE)).map_err(|e| bad(&e))?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|e| bad(&e))?;
    let mut process = spec.process().clone().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    let home = user::home(&env).map(str::to_owned);
    if request.user.is_some() && !setup.home_given {
        // It was that of the container's own user.
        env.retain(|entry| !entry.starts_with("HOME="));
    }
    for entry in &request.env {
        let name = entry.split('=').next().unwrap_or_default();
        env.retain(|e| e.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    if request.user.is_none() && user::home(&env).is_none() {
        user::set_home(&mut env, home.as_deref().unwrap_or(user::NO_HOME));
    }
    process
        .set_args(Some(request.argv.clone()))
        .set_env(Some(env))
        .set_terminal(Some(request.tty.is_some()));
    if let Some(cwd) = &request.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(name) = &request.user {
        create::identify(&mut process, &setup.rootfs(), name)?;
    }
    if request.argv.is_empty() {
        return Err(Failure::CommandNotFound { command: String::new() });
    }
    Ok(process)
}

/// Where libcontainer sends the terminal.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn new(own: &OwnDir) -> io::Result<Self> {
        let path = own.path().join(CONSOLE);
        // From here, as the whole path may be longer than a socket's.
        let here = Path::new(own.path().file_name().unwrap_or_default()).join(CONSOLE);
        Ok(Self { listener: UnixListener::bind(here)?, path })
    }

    /// The terminal, unless the creator ends without sending one, or the agent has gone.
    fn receive(&self, creator: &Creator, agent: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        loop {
            let mut fds = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&creator.outcome, PollFlags::IN),
                PollFd::new(agent, PollFlags::RDHUP),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) if !fds[0].revents().is_empty() => {
                    return receive_terminal(&self.listener).map(Some);
                }
                Ok(_) => return Ok(None),
            }
        }
    }
}

/// Waits until it can be read; `false` when the agent has gone, whatever else there is.
fn readable_for(fd: &OwnedFd, agent: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(agent, PollFlags::RDHUP)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            // Reading says what is wrong.
            Err(_) => return true,
            Ok(_) => return fds[1].revents().is_empty(),
        }
    }
}

/// Waits for the creator; the new process's id.
fn outcome(creator: &Creator, agent: &OwnedFd) -> Result<i32, Failure> {
    let read = |fd: &OwnedFd| {
        let mut text = Vec::new();
        let mut chunk = [0u8; 1024];
        loop {
            if !readable_for(fd, agent) {
                return Err(Failure::other("joining the container", &agent_gone()));
            }
            match rustix::io::read(fd, &mut chunk[..]) {
                Ok(0) => return Ok(text),
                Ok(n) => text.extend_from_slice(&chunk[..n]),
                Err(Errno::INTR) => {}
                Err(_) => return Ok(text),
            }
        }
    };
    let outcome = read(&creator.outcome)?;
    let executed = read(&creator.executed)?;
    if let Ok(failure) = serde_json::from_slice::<Failure>(&executed) {
        return Err(failure);
    }
    serde_json::from_slice::<Result<i32, Failure>>(&outcome).unwrap_or_else(|_| {
        Err(Failure::Other {
            stage: "joining the container".to_owned(),
            reason: "the creator ended without a word".to_owned(),
        })
    })
}

fn agent_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody wants it any more")
}

/// Waits for the process, or for the agent to go away, which ends it and everything it has started.
fn wait(pid: i32, agent: &OwnedFd, group: &ExecGroup) -> Result<ExitStatus, Failure> {
    let lost = |e: Errno| Failure::other("waiting for the process", &io::Error::from(e));
    let pid = Pid::from_raw(pid).ok_or(Failure::NotRunning)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(lost)?;
    let before = group.container().oom_kills();
    if !readable_for(&pidfd, agent) {
        return Err(Failure::other("waiting for the process", &agent_gone()));
    }
    let status = loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(lost(e)),
            Ok(found) => break found.map(|(_, status)| status),
        }
    };
    let signal = status.and_then(WaitStatus::terminating_signal);
    Ok(ExitStatus {
        code: status.and_then(WaitStatus::exit_status),
        signal,
        oom_killed: signal == Some(libc::SIGKILL) && group.container().oom_kills() > before,
        at: Some(now()),
        message: None,
    })
}

fn say(agent: &OwnedFd, message: &Joined, terminal: Option<BorrowedFd<'_>>) {
    let Ok(mut line) = serde_json::to_vec(message) else { return };
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = terminal.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let _ = sendmsg(agent, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL);
}

/// Reads the request and the descriptors that come with it.
fn receive(agent: &OwnedFd) -> io::Result<(JoinRequest, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut fds = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut chunk = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut chunk)];
        let got = recvmsg(agent, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&chunk[..got.bytes]);
        if line.len() > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((serde_json::from_slice(&line)?, fds))
}
