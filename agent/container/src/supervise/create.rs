//! The short-lived process that lets libcontainer make and start a container, or join one.
//!
//! It is forked from a process with one thread; everything libcontainer allocates goes with it. The
//! container's first process is a sibling of it, so the supervisor is its parent and can wait for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::umask;
use rustix::thread::set_thread_groups;

use super::executor::ConfinedExecutor;
use super::mounts::HeldMount;
use super::protocol::Failure;
use super::root::{Missing, RootDir};
use super::setup::{CONFIG_FILE, Common, OCI_DIR, Setup};
use super::{limits, user};
use crate::TermSize;
use crate::cgroup::{Cgroup, Entry};
use crate::sys::process::{Fork, exit_now, fork_single_threaded};

/// The ends of a container's standard streams that it gets; none for a terminal.
#[derive(Debug)]
pub struct ChildStreams {
    /// Read end.
    pub stdin: OwnedFd,
    /// Write end.
    pub stdout: OwnedFd,
    /// Write end.
    pub stderr: OwnedFd,
}

/// What the child is to do.
pub enum Job<'a> {
    /// Make and start the container.
    Init {
        /// What is to be mounted in it.
        mounts: Rc<[HeldMount]>,
        /// Its groups, which get their limits when those no longer hold up its making.
        cgroup: &'a Cgroup,
        /// As it is to be.
        setup: &'a Setup,
    },
    /// Run a further process in it.
    Join {
        /// Which one.
        process: &'a Process,
        /// The size of its terminal, if it has one.
        terminal: Option<TermSize>,
        /// Where libcontainer finds the container's state, and leaves what it needs beside.
        root: &'a Path,
        /// The name of its group, below that of the container.
        group: &'a str,
    },
}

/// A creator at work.
#[derive(Debug)]
pub struct Creator {
    /// Its id.
    pub pid: i32,
    /// Says the new process's id, or a [`Failure`]; then ends.
    pub outcome: OwnedFd,
    /// Says a [`Failure`] when the program could not be executed; ends empty when it was.
    pub executed: OwnedFd,
}

/// Forks a creator.
///
/// # Errors
/// [`Failure::Other`] when not even that could be done.
pub fn spawn(
    common: &Common,
    groups: &Rc<Entry>,
    job: &Job<'_>,
    streams: Option<ChildStreams>,
    console: Option<&Path>,
) -> Result<Creator, Failure> {
    let failed = |e: io::Error| Failure::other("forking the creator", &e);
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
    let (outcome, outcome_write) = pipe()?;
    let (executed, executed_write) = pipe()?;
    match fork_single_threaded(groups.fork_target()).map_err(failed)? {
        Fork::Parent(pid) => Ok(Creator { pid, outcome, executed }),
        Fork::Child => {
            drop((outcome, executed));
            let result = create(common, groups, job, streams, console, executed_write);
            let text = serde_json::to_vec(&result).unwrap_or_default();
            let _ = rustix::io::write(outcome_write.as_fd(), &text);
            exit_now(i32::from(result.is_err()))
        }
    }
}

/// In the child: the new process's id, as the supervisor sees it.
fn create(
    common: &Common,
    groups: &Rc<Entry>,
    job: &Job<'_>,
    streams: Option<ChildStreams>,
    console: Option<&Path>,
    executed: OwnedFd,
) -> Result<i32, Failure> {
    let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
    umask(Mode::from_raw_mode(0o022));
    // libcontainer leaves the caller's groups alone when the container has none of its own.
    set_thread_groups(&[]).map_err(|e| step("giving up groups")(e.into()))?;
    let (terminal, mounts, root) = match job {
        Job::Init { mounts, .. } => (None, Some(Rc::clone(mounts)), common.run_dir.join(OCI_DIR)),
        Job::Join { terminal, root, .. } => (*terminal, None, root.to_path_buf()),
    };
    let executor = ConfinedExecutor::new(common, Rc::clone(groups), executed, terminal, mounts);
    let oci =
        |e: libcontainer::error::LibcontainerError| Failure::other("making the container", &e);
    let mut builder = ContainerBuilder::new(common.id.to_string(), SyscallType::default())
        .with_root_path(root)
        .map_err(oci)?
        .with_executor(executor)
        .with_console_socket(console);
    if let Some(streams) = streams {
        builder = builder
            .with_stdin(streams.stdin)
            .with_stdout(streams.stdout)
            .with_stderr(streams.stderr);
    }
    match job {
        Job::Init { cgroup, setup, .. } => {
            settle(setup)?;
            let init = builder.as_init(&common.run_dir).with_systemd(false).with_detach(true);
            let mut container = init.as_sibling(true).build().map_err(oci)?;
            let pid = container.state.pid.unwrap_or_default();
            cgroup
                .settle(&setup.resources)
                .map_err(|e| Failure::other("limiting the container", &e))?;
            container.start().map_err(oci)?;
            Ok(pid)
        }
        Job::Join { process, group, .. } => {
            let file = process_file(process).map_err(step("handing over the process"))?;
            let tenant = builder.as_tenant().with_process(Some(file.1)).with_detach(true);
            // On version 2, where libcontainer finds groups, it would move what has been forked into
            // this one to the container's own.
            let tenant = tenant.with_sub_cgroup(Some((*group).to_owned()));
            Ok(tenant.as_sibling(true).build().map_err(oci)?.as_raw())
        }
    }
}

/// What can only be known with the root file system mounted: user, home, working directory.
fn settle(setup: &Setup) -> Result<(), Failure> {
    let path = setup.common.run_dir.join(CONFIG_FILE);
    let bad = |e: &dyn std::error::Error| Failure::other("reading the specification", e);
    let bytes = fs::read(&path).map_err(|e| bad(&e))?;
    let mut spec: Spec = serde_json::from_slice(&bytes).map_err(|e| bad(&e))?;
    let Some(process) = spec.process_mut() else { return Ok(()) };
    limits::check(process)?;
    let cwd = process.cwd().clone();
    if cwd != Path::new("/") {
        RootDir::open(&setup.common.rootfs())
            .and_then(|root| root.find(&cwd, Missing::Directory))
            .map_err(|e| Failure::other("making the working directory", &e))?;
    }
    identify(process, &setup.common.rootfs(), &setup.user)?;
    let write = || -> io::Result<()> {
        let next = setup.common.run_dir.join("config.json.next");
        fs::write(&next, serde_json::to_vec(&spec)?)?;
        fs::rename(&next, &path)
    };
    write().map_err(|e| Failure::other("writing the specification", &e))
}

/// Puts a user into a process: numbers, groups, and a home unless the environment names one.
///
/// libcontainer would look for a home itself, through the C library, which loads what the image's own
/// `/etc/nsswitch.conf` says, with every privilege still there. So it must always find one set.
///
/// # Errors
/// As [`user::resolve`].
pub fn identify(process: &mut Process, root: &Path, name: &str) -> Result<(), Failure> {
    let identity = user::resolve(root, name)?;
    let mut user = process.user().clone();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.groups));
    process.set_user(user);
    let mut env = process.env().clone().unwrap_or_default();
    if user::home(&env).is_none() {
        user::set_home(&mut env, &identity.home);
        process.set_env(Some(env));
    }
    Ok(())
}

/// A process description as a file that nobody else can open: it may hold secrets.
fn process_file(process: &Process) -> io::Result<(OwnedFd, PathBuf)> {
    use std::os::fd::AsRawFd;
    let fd = rustix::fs::memfd_create("process", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut bytes = &serde_json::to_vec(process)?[..];
    while !bytes.is_empty() {
        let n = rustix::io::write(&fd, bytes)?;
        bytes = &bytes[n..];
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    Ok((fd, path))
}
