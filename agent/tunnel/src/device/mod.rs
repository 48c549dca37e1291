//! `shoal-agent tunnel`: the process that encrypts where the kernel does not.
//!
//! It has a session of its own and outlives the agent that has started it. It is told the name of its
//! interface on standard input and everything else, its private key among that, on its socket; it has neither
//! arguments nor an environment that say anything. Its interface stays when it ends, with addresses and routes:
//! what would have gone through the tunnel then waits for the next one, and leaves by no other way.

mod crypt;
mod flow;
mod ready;
mod server;
mod table;
#[cfg(test)]
mod tests;
mod tun;
mod udp;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{Resource, Rlimit, setrlimit, setsid, umask};
use serde::{Deserialize, Serialize};
use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::Given;
use shoal_agent_container::sys::process::{close_others, ignore_signals};
use shoal_agent_planning::segment::Offload;
use tokio::sync::mpsc;

use self::flow::Device;
use self::tun::Tun;
use crate::process::{LAST_WORDS, LOCK, SOCKET};

/// Signals that are meant for an agent in the foreground, not for what outlives it, by number: SIGHUP,
/// SIGINT, SIGQUIT, SIGPIPE, SIGTERM (signal(7)).
const IGNORED: [i32; 5] = [1, 2, 3, 13, 15];
/// Longest order, in bytes.
const ORDER_MAX: u64 = 4096;

/// What the process is told on standard input: one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) ifname: String,
}

/// What it says there, once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Its device answers, and exchanges this with the kernel.
    Ready(Offload),
    /// It cannot.
    Failed(Failure),
}

/// Why it cannot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Option<i32>,
    pub(crate) reason: String,
}

/// What it was at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Detach,
    Order,
    Lock,
    Tun,
    Listen,
    Runtime,
}

impl Step {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Detach => "detach from the agent",
            Self::Order => "read the order",
            Self::Lock => "take the lock",
            Self::Tun => "make the TUN device",
            Self::Listen => "listen on the socket",
            Self::Runtime => "start the async runtime",
        }
    }

    fn failed(self) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure { step: self, errno: error.raw_os_error(), reason: error.to_string() }
    }
}

/// The sub-command.
#[must_use]
pub fn main(given: Given) -> ExitCode {
    let (run_dir, agent) = given.into_parts();
    // Nothing else of this process owns a descriptor yet: what is closed came from whoever started it.
    let agent = UnixStream::from(agent);
    let mut held = None;
    match prepare(&run_dir, &agent, &mut held) {
        Ok((runtime, ready)) => match runtime.block_on(build(&ready.ifname, ready.listener)) {
            Ok((device, ended, listener)) => {
                say(&agent, &Said::Ready(device.able()));
                drop(agent);
                let error = runtime.block_on(server::run(&device, ended, listener));
                // The agent reads it before it starts the next one.
                let _ = fs::write(LAST_WORDS, error);
            }
            Err(failure) => say(&agent, &Said::Failed(failure)),
        },
        Err(failure) => say(&agent, &Said::Failed(failure)),
    }
    ExitCode::FAILURE
}

/// What it needs, before it says that it is ready.
struct Ready {
    ifname: String,
    listener: UnixListener,
}

/// The lock is put where it lives as long as the process.
fn prepare(
    run_dir: &Path,
    agent: &UnixStream,
    held: &mut Option<File>,
) -> Result<(tokio::runtime::Runtime, Ready), Failure> {
    detach(run_dir, agent).map_err(Step::Detach.failed())?;
    let order = read_order(agent).map_err(Step::Order.failed())?;
    *held = Some(lock().map_err(Step::Lock.failed())?);
    let listener = listen().map_err(Step::Listen.failed())?;
    // For the socket alone: packets have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Step::Runtime.failed())?;
    Ok((runtime, Ready { ifname: order.ifname, listener }))
}

/// Leaves the agent's session and whatever would end it together with the agent.
fn detach(run_dir: &Path, agent: &UnixStream) -> io::Result<()> {
    ignore_signals(&IGNORED);
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    close_others(&[&standard[..], &[agent.as_fd()]].concat())?;
    // Executed by descriptor, it would be called by the descriptor's number.
    rustix::thread::set_name(c"shoal-tunnel")?;
    // Fails for a process that leads a group already, which is as good.
    let _ = setsid();
    umask(Mode::from_raw_mode(0o077));
    // The private key would be in it.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Every container's packets go through here.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&null)?;
    std::env::set_current_dir(run_dir)
}

fn read_order(agent: &UnixStream) -> io::Result<Order> {
    let mut line = String::new();
    BufReader::new(agent.take(ORDER_MAX)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Held while this process lives.
fn lock() -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(false).write(true).mode(0o600).open(LOCK)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let own = i32::try_from(std::process::id()).ok().and_then(ProcessIdentity::of);
    let own = own.ok_or(io::ErrorKind::NotFound)?;
    file.set_len(0)?;
    serde_json::to_writer(&mut file, &own)?;
    Ok(file)
}

fn listen() -> io::Result<UnixListener> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn say(mut agent: &UnixStream, said: &Said) {
    // An agent that has gone meanwhile finds the process as it is.
    if let Ok(word) = serde_json::to_vec(said) {
        let _ = agent.write_all(&word);
    }
}

type Built = (Arc<Device>, mpsc::Receiver<String>, tokio::net::UnixListener);

/// What begins here goes on until the process ends.
async fn build(ifname: &str, listener: UnixListener) -> Result<Built, Failure> {
    let device = Tun::open(ifname).and_then(Device::new).map(Arc::new);
    let device = device.map_err(Step::Tun.failed())?;
    let ended = device.start().map_err(Step::Runtime.failed())?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(Step::Listen.failed())?;
    Ok((device, ended, listener))
}
