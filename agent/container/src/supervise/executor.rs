//! The last moments before a container's program: finding it, giving up privileges, executing it.
//!
//! libcontainer calls this from inside the new container, with every capability still there. So the
//! order is ours, and it is runc's: capabilities leave the bounding set, then the filter is loaded
//! (which without no-new-privileges needs `CAP_SYS_ADMIN`), then the rest of the capabilities go.
//! The same code confines processes that join later, for which libcontainer would load no filter.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{Signal, geteuid, set_parent_process_death_signal};
use rustix::termios::{Winsize, isatty, tcsetwinsize};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::mounts::{self, HeldMount};
use super::protocol::Failure;
use super::setup::{Common, Confinement};
use crate::TermSize;
use crate::cgroup::Entry;
use crate::sys;

/// Executes the container's program.
#[derive(Clone)]
pub struct ConfinedExecutor {
    confinement: Rc<Confinement>,
    /// Write end of a pipe whose other end is the supervisor's: closed by a successful exec, else it
    /// carries a [`Failure`].
    report: Rc<OwnedFd>,
    groups: Rc<Entry>,
    /// Whether to hide what is above the control groups.
    own_cgroups: bool,
    terminal: Option<TermSize>,
    /// What is to be mounted; none of it for who joins.
    mounts: Option<Rc<[HeldMount]>>,
    read_only_root: bool,
    found: Rc<RefCell<Option<CString>>>,
    env: Rc<RefCell<Vec<CString>>>,
}

impl ConfinedExecutor {
    /// For a container or a process that joins it. Reports through `report`; gives the terminal, if
    /// there is one, a size before the program looks; puts the container's mounts in place.
    #[must_use]
    pub fn new(
        setup: &Common,
        groups: Rc<Entry>,
        report: OwnedFd,
        terminal: Option<TermSize>,
        mounts: Option<Rc<[HeldMount]>>,
    ) -> Self {
        Self {
            confinement: Rc::new(setup.confinement.clone()),
            report: Rc::new(report),
            groups,
            own_cgroups: setup.own_cgroups,
            terminal,
            mounts,
            read_only_root: setup.read_only_root,
            found: Rc::default(),
            env: Rc::default(),
        }
    }

    /// Ties this process's life to its supervisor's, until it changes its user: the end that cannot be
    /// shed is by control group, see [`super::guard`].
    fn tie(&self) -> Result<(), Failure> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| {
            Failure::other("tying the container to its supervisor", &io::Error::from(e))
        })?;
        if !self.supervised() {
            sys::process::exit_now(1);
        }
        Ok(())
    }

    /// Completes the container's files.
    fn mount(&self, spec: &Spec) -> Result<(), Failure> {
        let Some(mounts) = &self.mounts else { return Ok(()) };
        mounts::place(mounts, spec)?;
        if self.read_only_root { mounts::protect_root() } else { Ok(()) }
    }

    /// Closes what a name could lead through that the kernel looks up for the program: the program's own
    /// or its interpreter's, below `/proc/self/fd`. Close-on-exec comes too late for that.
    fn let_go(&self) -> io::Result<()> {
        let [stdin, stdout, stderr] =
            [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        sys::process::close_others(&[stdin, stdout, stderr, self.report.as_fd()])
    }

    fn tell(&self, failure: &Failure) {
        if let Ok(text) = serde_json::to_vec(failure) {
            // Shorter than a pipe's buffer, so it is written whole.
            let _ = rustix::io::write(&*self.report, &text);
        }
    }

    /// Gives up what the container may not have.
    fn confine(&self) -> io::Result<()> {
        let c = &*self.confinement;
        for bit in 0..64 {
            let cap = CapabilitySet::from_bits_retain(1 << bit);
            if c.bounding & (1 << bit) != 0 {
                continue;
            }
            match capability_is_in_bounding_set(cap) {
                Ok(true) => remove_capability_from_bounding_set(cap)?,
                Ok(false) => {}
                // Past the kernel's last one.
                Err(_) => break,
            }
        }
        clear_ambient_capability_set()?;
        if c.no_new_privileges {
            set_no_new_privs(true)?;
        }
        sys::seccomp::install(&c.seccomp)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::from_bits_retain(c.effective),
                permitted: CapabilitySet::from_bits_retain(c.permitted),
                inheritable: CapabilitySet::empty(),
            },
        )?;
        Ok(())
    }

    /// Whether whoever reads the reports is still there.
    fn supervised(&self) -> bool {
        let mut fds = [PollFd::new(&*self.report, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
    }

    fn run(&self, spec: &Spec) -> Result<(), Failure> {
        let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
        let argv = argv(spec);
        let Some(path) = self.found.borrow().clone() else {
            return Err(Failure::CommandNotFound { command: command(spec) });
        };
        if let Some(size) = self.terminal {
            let (ws_row, ws_col) = (size.rows, size.cols);
            let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(rustix::stdio::stdin(), size);
        }
        own_streams().map_err(step("handing over the standard streams"))?;
        sys::process::reset_signals();
        self.groups.join().map_err(|e| Failure::other("joining the control groups", &e))?;
        if self.own_cgroups {
            sys::process::unshare(UnshareFlags::NEWCGROUP)
                .map_err(step("hiding the host's control groups"))?;
        }
        self.let_go().map_err(step("closing what is not the container's"))?;
        self.confine().map_err(step("confining the container"))?;
        // Again after the last change of credentials, which may have cleared it.
        self.tie()?;
        let error = sys::process::execve(&path, &argv, &self.env.borrow());
        let command = command(spec);
        Err(match error.kind() {
            // The file is there, so its interpreter is not.
            io::ErrorKind::NotFound => Failure::CommandNotExecutable {
                command,
                reason: "its interpreter is not in the container".to_owned(),
            },
            _ => Failure::CommandNotExecutable { command, reason: error.to_string() },
        })
    }
}

/// Gives the standard streams to the container's user, who else could not open `/dev/stdout` anew. Not
/// a device that others use too, but a terminal; the group stays, which for a terminal is `tty`.
fn own_streams() -> io::Result<()> {
    let me = geteuid();
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = fstat(fd)?;
        let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if stat.st_uid == me.as_raw() || (device && !isatty(fd)) {
            continue;
        }
        match fchown(fd, Some(me), None) {
            // A file of somebody's whose file system has no owners or cannot be written.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn command(spec: &Spec) -> String {
    let args = spec.process().as_ref().and_then(|p| p.args().as_ref());
    args.and_then(|a| a.first()).cloned().unwrap_or_default()
}

fn argv(spec: &Spec) -> Vec<CString> {
    let args = spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default();
    args.into_iter().filter_map(|a| CString::new(a).ok()).collect()
}

/// Looks a command up as a shell does, relative to the working directory when it has a slash.
fn find(command: &str, env: &[String]) -> Result<CString, Failure> {
    let not_found = || Failure::CommandNotFound { command: command.to_owned() };
    let refused = |reason: &str| Failure::CommandNotExecutable {
        command: command.to_owned(),
        reason: reason.to_owned(),
    };
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let candidates: Vec<String> = match command.contains('/') {
        true => vec![command.to_owned()],
        false => {
            path.split(':').filter(|d| !d.is_empty()).map(|d| format!("{d}/{command}")).collect()
        }
    };
    let mut verdict = not_found();
    for candidate in candidates {
        match std::fs::metadata(&candidate) {
            Ok(m) if m.is_dir() => verdict = refused("it is a directory"),
            Ok(m) if m.permissions().mode() & 0o111 == 0 => verdict = refused("permission denied"),
            Ok(_) => return CString::new(candidate).map_err(|_| not_found()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                verdict = refused("permission denied");
            }
            Err(_) => {}
        }
    }
    Err(verdict)
}

impl Executor for ConfinedExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        match self.run(spec) {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.tell(&failure);
                // Whoever is above owns descriptors that may be closed.
                sys::process::exit_now(1)
            }
        }
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let env = spec.process().as_ref().and_then(|p| p.env().clone()).unwrap_or_default();
        // From here on this process waits, for as long as its creator takes.
        match self.tie().and_then(|()| self.mount(spec)).and_then(|()| find(&command(spec), &env)) {
            Ok(path) => {
                *self.found.borrow_mut() = Some(path);
                Ok(())
            }
            Err(failure) => {
                self.tell(&failure);
                Err(ExecutorValidationError::ArgValidationError("command".to_owned()))
            }
        }
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let mut all: Vec<CString> =
            envs.into_iter().filter_map(|(k, v)| CString::new(format!("{k}={v}")).ok()).collect();
        all.sort();
        *self.env.borrow_mut() = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, mode: u32| {
            let p = dir.path().join(name);
            std::fs::write(&p, "").unwrap();
            std::fs::set_permissions(&p, std::fs::Permissions::from_mode(mode)).unwrap();
            p.to_str().unwrap().to_owned()
        };
        let (good, plain) = (file("good", 0o755), file("plain", 0o644));
        let at = dir.path().to_str().unwrap().to_owned();
        let env = [format!("PATH=/nowhere::{at}")];
        assert_eq!(find("good", &env).unwrap().to_str().unwrap(), good);
        assert_eq!(find(&good, &env).unwrap().to_str().unwrap(), good);
        assert!(matches!(find("nope", &env), Err(Failure::CommandNotFound { .. })));
        assert!(matches!(find("/nope", &env), Err(Failure::CommandNotFound { .. })));
        assert!(matches!(find("plain", &env), Err(Failure::CommandNotExecutable { .. })));
        assert!(matches!(find(&plain, &env), Err(Failure::CommandNotExecutable { .. })));
        assert!(matches!(find(&at, &env), Err(Failure::CommandNotExecutable { .. })));
    }
}
