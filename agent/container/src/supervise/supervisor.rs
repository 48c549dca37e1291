//! The supervisor itself: one thread that waits for its container, its container's output, and agents.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitStatus, pidfd_open};

use super::children::{kill_children, poll_in, readable, reap, reap_around, wait_for};
use super::control::Control;
use super::create::{self, Job};
use super::guard::Guard;
use super::log::{LogWriter, now};
use super::mounts::{self, HeldMount};
use super::protocol::{Failure, Message, Op, Status};
use super::setup::{CONTROL_SOCKET, LOG_DIR, SUPERVISOR_FILE, Setup};
use super::starting::Starting;
use super::streams::{self, Streams};
use super::{exit, file, rootfs};
use crate::ExitStatus;
use crate::ProcessIdentity;
use crate::cgroup::Cgroup;
use crate::sys;

/// How long the output of a dead container may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// A container that is silent for so long will stay: worth giving memory back.
const SETTLED: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Where libcontainer sends a terminal, in the run directory.
const CONSOLE_SOCKET: &str = "console.sock";

/// Where the container is in its life.
enum State {
    Prepared,
    Starting(Box<Starting>),
    Running { init: ProcessIdentity, pidfd: OwnedFd },
    Ended,
}

/// Everything a supervisor knows.
pub struct Supervisor {
    setup: Setup,
    cgroup: Cgroup,
    guard: Guard,
    control: Control,
    state: State,
    streams: Streams,
    log: LogWriter,
    me: ProcessIdentity,
    /// What is to be mounted in the container.
    mounts: Vec<HeldMount>,
    /// How the container's first process ended, if it was collected among others.
    collected: Option<WaitStatus>,
    /// Whether somebody asked for it to be killed.
    killed: bool,
    /// Whether memory has been given back.
    trimmed: bool,
}

impl Supervisor {
    /// Prepares a container; the working directory is its run directory.
    ///
    /// # Errors
    /// [`Failure`] naming the step; what had been made is gone.
    pub fn prepare(setup: Setup, control: &mut Control) -> Result<Self, Failure> {
        let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
        let cgroup = Cgroup::create(&setup.common.layout, &setup.common.cgroup, &setup.resources)
            .map_err(|e| Failure::other("making the control group", &e))?;
        let mut rest = || -> Result<_, Failure> {
            // Before there is anything that it would hold: mounts, sockets, the container's network.
            let guard = Guard::post(&cgroup, &setup.common.id).map_err(step("posting a guard"))?;
            let mounts = rootfs::enter(&setup)?;
            let log = LogWriter::create(&setup.state_dir.join(LOG_DIR), setup.log)
                .map_err(step("opening the log"))?;
            let me = i32::try_from(std::process::id()).ok().and_then(ProcessIdentity::of);
            let me = me.ok_or_else(|| step("reading /proc")(io::ErrorKind::NotFound.into()))?;
            file::to_bytes(&me)
                .and_then(|bytes| fs::write(SUPERVISOR_FILE, bytes))
                .map_err(step("writing the supervisor's identity"))?;
            control.listen(CONTROL_SOCKET).map_err(step("listening for agents"))?;
            Ok((log, me, guard, mounts))
        };
        match rest() {
            Ok((log, me, guard, mounts)) => {
                let (state, streams) = (State::Prepared, Streams::default());
                let control = std::mem::replace(control, Control::new(None));
                let (collected, killed, trimmed) = (None, false, false);
                Ok(Self {
                    setup,
                    cgroup,
                    guard,
                    control,
                    state,
                    streams,
                    log,
                    me,
                    mounts,
                    collected,
                    killed,
                    trimmed,
                })
            }
            Err(failure) => {
                let _ = cgroup.remove();
                Err(failure)
            }
        }
    }

    /// Serves until the container has ended and everything of it is cleaned up.
    pub fn run(mut self) {
        self.control.say_all(&Message::Prepared);
        while !matches!(self.state, State::Ended) {
            let idle = !self.wait();
            self.collect();
            if idle && matches!(self.state, State::Running { .. }) {
                self.trimmed = true;
                // Fails where it cannot be told what is mapped, and then costs memory, no more.
                let _ = sys::memory::trim();
                // To sleep at once: everything else that runs would be mapped again.
                continue;
            }
            for key in self.control.accept() {
                self.greet(key);
            }
            for (key, request) in self.control.requests() {
                self.serve(key, request.seq, request.op);
            }
            let log = &mut self.log;
            self.streams.read(|stream, bytes| log.output(stream, bytes));
            self.advance();
        }
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
        self.guard.dismiss();
    }

    /// Waits until anything can be done; `false` when nothing was for a while, once.
    fn wait(&self) -> bool {
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(8);
        fds.extend(self.control.fds());
        fds.extend(self.streams.fds());
        match &self.state {
            State::Starting(s) => {
                if !s.ended[0] {
                    fds.push(s.creator.outcome.as_fd());
                }
                if !s.ended[1] {
                    fds.push(s.creator.executed.as_fd());
                }
                fds.extend(s.console.iter().map(AsFd::as_fd));
            }
            State::Running { pidfd, .. } => fds.push(pidfd.as_fd()),
            State::Prepared | State::Ended => {}
        }
        poll_in(&fds, (!self.trimmed).then_some(SETTLED))
    }

    /// A new agent hears how things stand by asking.
    fn greet(&mut self, key: u32) {
        if matches!(self.state, State::Prepared) {
            self.control.say(key, &Message::Prepared);
        }
    }

    fn status(&self) -> Status {
        let init = match &self.state {
            State::Running { init, .. } => Some(*init),
            State::Prepared | State::Starting(_) | State::Ended => None,
        };
        Status { supervisor: self.me, init }
    }

    fn reply(&mut self, key: u32, seq: u32, result: Result<(), Failure>) {
        let result = result.map(|()| self.status());
        self.control.say(key, &Message::Reply { seq, result });
    }

    fn serve(&mut self, key: u32, seq: u32, op: Op) {
        let result = match op {
            Op::Start => return self.start(key, seq),
            Op::Status => Ok(()),
            Op::Signal(signal) => self.signal(signal),
            Op::Quit => {
                self.quit();
                Ok(())
            }
            Op::Unknown(op) => Err(Failure::Unsupported { op }),
        };
        self.reply(key, seq, result);
    }

    fn signal(&mut self, signal: i32) -> Result<(), Failure> {
        let State::Running { pidfd, .. } = &self.state else { return Err(Failure::NotRunning) };
        self.killed |= signal == libc::SIGKILL;
        match sys::process::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                Err(Failure::NotRunning)
            }
            other => other.map_err(|e| Failure::other("sending the signal", &e)),
        }
    }

    /// Kills what runs; its exit is recorded as usual. Without anything running this is the end.
    fn quit(&mut self) {
        self.killed = true;
        let _ = self.cgroup.kill();
        match self.state {
            State::Prepared => self.state = State::Ended,
            // Who makes a container is not in its groups yet.
            State::Starting(_) => kill_children(),
            State::Running { .. } | State::Ended => {}
        }
    }

    fn start(&mut self, key: u32, seq: u32) {
        match &mut self.state {
            State::Running { .. } => self.reply(key, seq, Ok(())),
            State::Ended => self.reply(key, seq, Err(Failure::NotRunning)),
            State::Starting(s) => s.asked.push((key, seq)),
            State::Prepared => match self.spawn() {
                Ok(mut starting) => {
                    starting.asked.push((key, seq));
                    self.state = State::Starting(Box::new(starting));
                }
                Err(failure) => self.fail(&[(key, seq)], &failure),
            },
        }
    }

    fn spawn(&mut self) -> Result<Starting, Failure> {
        let step = |stage: &'static str| move |e: io::Error| Failure::other(stage, &e);
        let console_path = self.setup.common.run_dir.join(CONSOLE_SOCKET);
        let (console, child) = if self.setup.tty {
            // Bound by its bare name: the working directory is the run directory.
            let listener = UnixListener::bind(CONSOLE_SOCKET).map_err(step("making a terminal"))?;
            (Some(listener), None)
        } else {
            let (own, child) =
                streams::pipes(self.setup.open_stdin).map_err(step("making pipes"))?;
            self.streams = own;
            (None, Some(child))
        };
        let path = console.as_ref().map(|_| console_path.as_path());
        mounts::refresh(&self.mounts)?;
        // Held no longer than until the container has them.
        let mounts = std::mem::take(&mut self.mounts).into();
        let job = Job::Init { mounts, cgroup: &self.cgroup, setup: &self.setup };
        let groups = self.cgroup.entry().map_err(step("opening the control group"))?;
        let creator = create::spawn(&self.setup.common, &Rc::new(groups), &job, child, path)?;
        let (outcome, executed) = (Vec::new(), Vec::new());
        Ok(Starting { creator, outcome, executed, ended: [false; 2], console, asked: Vec::new() })
    }

    /// Takes the next step of the container's life, if it is due.
    fn advance(&mut self) {
        match &mut self.state {
            State::Starting(starting) => {
                if let Some(terminal) = starting.progress() {
                    match terminal.and_then(Streams::terminal) {
                        Ok(streams) => self.streams = streams,
                        Err(e) => starting.executed = failure_text("taking the terminal", &e),
                    }
                }
                if starting.ended == [true; 2] {
                    self.conclude_start();
                }
            }
            State::Running { init, pidfd } => {
                if readable(pidfd) {
                    let pid = init.pid;
                    self.conclude(pid);
                }
            }
            State::Prepared | State::Ended => {}
        }
    }

    fn conclude_start(&mut self) {
        let State::Starting(starting) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let creator = wait_for(starting.creator.pid);
        let verdict = starting.verdict(creator, self.cgroup.oom_kills() > 0);
        let running = verdict.and_then(|pid| {
            self.cgroup
                .settle_started(&self.setup.resources)
                .map_err(|e| Failure::other("limiting the container", &e))?;
            let init = ProcessIdentity::of(pid).ok_or(io::ErrorKind::NotFound);
            let raw = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData);
            let pidfd = raw.and_then(|pid| {
                pidfd_open(pid, PidfdFlags::empty()).map_err(|e| io::Error::from(e).kind())
            });
            match (init, pidfd) {
                (Ok(init), Ok(pidfd)) => Ok((init, pidfd)),
                (Err(e), _) | (_, Err(e)) => {
                    Err(Failure::other("watching the container", &io::Error::from(e)))
                }
            }
        });
        if self.setup.tty {
            let _ = fs::remove_file(CONSOLE_SOCKET);
        }
        match running {
            Ok((init, pidfd)) => {
                self.state = State::Running { init, pidfd };
                self.collect();
                for (key, seq) in starting.asked {
                    self.reply(key, seq, Ok(()));
                }
                // Nothing of what was needed to start is needed again.
                self.setup.common.confinement.seccomp = Vec::new();
            }
            Err(failure) => self.fail(&starting.asked, &failure),
        }
    }

    /// The container could not be started: record it, say so, end.
    fn fail(&mut self, asked: &[(u32, u32)], failure: &Failure) {
        let _ = self.cgroup.kill();
        // Who makes a container is not in its groups yet, and may have come to them meanwhile.
        kill_children();
        let _ = self.cgroup.kill();
        reap();
        let error = failure.clone().into_error(&self.setup.common.id);
        let status = ExitStatus {
            code: error.shell_code(),
            signal: None,
            oom_killed: false,
            at: Some(now()),
            message: Some(error.to_string()),
        };
        let _ = exit::write(&self.setup.state_dir, &status);
        for (key, seq) in asked {
            self.reply(*key, *seq, Err(failure.clone()));
        }
        self.state = State::Ended;
    }

    /// The container has ended: everything it wrote goes to the log, the exit to disk, the news out.
    fn conclude(&mut self, init: i32) {
        let status = self.collected.take().or_else(|| wait_for(init));
        let at = Some(now());
        // With its first process every other one of its namespace dies; what joined from outside the
        // namespace does not.
        let _ = self.cgroup.kill();
        self.drain();
        self.log.finish();
        let signal = status.and_then(WaitStatus::terminating_signal);
        let oom_kills = self.cgroup.oom_kills();
        // Any process of it may be among those that the kernel killed, the first one only if it died
        // of that.
        let oom_killed = oom_kills > 0 && signal == Some(libc::SIGKILL) && !self.killed;
        let starved = exit::starved(oom_kills).filter(|_| !oom_killed);
        let notes: Vec<String> = self.log.loss().into_iter().chain(starved).collect();
        let mut status = ExitStatus {
            code: status.and_then(WaitStatus::exit_status),
            signal,
            oom_killed,
            at,
            message: Some(notes.join("; ")).filter(|text| !text.is_empty()),
        };
        if let Err(e) = exit::write(&self.setup.state_dir, &status) {
            let note = format!("the exit could not be recorded: {e}");
            status.message = Some(status.message.map_or(note.clone(), |m| format!("{m}; {note}")));
        }
        self.state = State::Ended;
        self.control.say_all(&Message::Exited(status));
    }

    /// Collects what has ended beside the container: the process that libcontainer puts between its
    /// creator and the container is a child of ours, and counts in the container's group until then.
    fn collect(&mut self) {
        if let State::Running { init, .. } = &self.state {
            self.collected = self.collected.or_else(|| reap_around(init.pid));
        }
    }

    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while !self.streams.ended() && Instant::now() < deadline {
            let log = &mut self.log;
            self.streams.read(|stream, bytes| log.output(stream, bytes));
            if !self.streams.ended() {
                let fds: Vec<BorrowedFd<'_>> = self.streams.fds().collect();
                poll_in(&fds, Some(Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
            }
        }
    }
}

fn failure_text(stage: &str, e: &io::Error) -> Vec<u8> {
    serde_json::to_vec(&Failure::other(stage, e)).unwrap_or_default()
}
