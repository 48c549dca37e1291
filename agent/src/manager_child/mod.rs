//! The manager of this host: started, watched, restarted, taken over and stopped.
//!
//! It is a child in a process group of its own. An agent that is told to end stops it; one that is
//! killed leaves it running, and the next agent takes it over instead of starting a second one.

mod process;
mod user;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use shoal_agent_ground::backoff::Backoff;
use shoal_types::error_chain::chain;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use user::{RunAs, UserError};

use crate::identity::ManagerEndpoint;
use process::Process;

/// Between two starts of a manager that ends by itself.
const RESTART: Backoff =
    Backoff { first: Duration::from_millis(200), last: Duration::from_secs(10) };
/// After this time a manager counts as one that works, and its next end as the first.
const SETTLED: Duration = Duration::from_secs(10);
/// How long it may take to end when it is told to; then it is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Why there is no manager.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Nobody to run it as.
    #[error("cannot run a manager")]
    User(#[source] UserError),
    /// A directory for it cannot be made.
    #[error("cannot prepare {} for the manager", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("cannot start the manager {}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// How a manager is run.
pub struct ManagerConfig {
    /// Gives the program; asked at each start.
    pub program: Box<dyn Fn() -> PathBuf + Send + Sync>,
    /// A user's name or `uid[:gid]`.
    pub user: String,
    /// What must survive a reboot; made for the manager alone.
    pub state_dir: PathBuf,
    /// For its socket; made for the manager alone.
    pub run_dir: PathBuf,
    /// Where it is written down which process it is; root's.
    pub pid_file: PathBuf,
    /// For its log.
    pub log_format: &'static str,
    /// For its log.
    pub log_level: String,
}

impl ManagerConfig {
    /// The manager's local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("manager.sock")
    }

    fn arguments(&self, endpoint: &ManagerEndpoint) -> Vec<OsString> {
        let socket = self.socket();
        let pairs: [(&str, &OsStr); 6] = [
            ("--state-dir", self.state_dir.as_os_str()),
            ("--socket", socket.as_os_str()),
            ("--listen", endpoint.listen.as_ref()),
            ("--advertise", endpoint.advertise.as_ref()),
            ("--log-format", self.log_format.as_ref()),
            ("--log-level", self.log_level.as_ref()),
        ];
        let flags = pairs.iter().flat_map(|(flag, value)| [OsStr::new(flag), value]);
        std::iter::once(OsStr::new("run")).chain(flags).map(OsStr::to_owned).collect()
    }
}

/// Where the manager stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagerState {
    /// There is none and none is wanted.
    Stopped,
    /// It runs; whether it serves is another question.
    Running {
        /// Its process.
        pid: i32,
    },
    /// It ended, or could not be started; it will be tried again.
    Waiting {
        /// Why, for people.
        why: String,
    },
}

/// The manager of this host. Dropping it leaves the process running.
pub struct ManagerChild {
    config: Arc<ManagerConfig>,
    want: watch::Sender<Option<ManagerEndpoint>>,
    state: watch::Receiver<ManagerState>,
    task: JoinHandle<()>,
}

impl Drop for ManagerChild {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ManagerChild {
    /// Watches from now on; nothing runs before [`ManagerChild::ensure`]. Must be called within a
    /// tokio runtime.
    #[must_use]
    pub fn new(config: ManagerConfig) -> Self {
        let config = Arc::new(config);
        let (want, wanted) = watch::channel(None);
        let (say, state) = watch::channel(ManagerState::Stopped);
        let task = tokio::spawn(supervise(config.clone(), wanted, say));
        Self { config, want, state, task }
    }

    /// How it is run.
    #[must_use]
    pub fn config(&self) -> &ManagerConfig {
        &self.config
    }

    /// Whether somebody could be found to run it as, so that `init` can say so at once.
    ///
    /// # Errors
    /// [`UserError`].
    pub fn check_user(&self) -> Result<RunAs, UserError> {
        user::resolve(&self.config.user)
    }

    /// From now on there is to be a manager: one that runs is taken over, else one is started.
    pub fn ensure(&self, endpoint: ManagerEndpoint) {
        self.want.send_if_modified(|want| {
            let changed = want.as_ref() != Some(&endpoint);
            *want = Some(endpoint);
            changed
        });
    }

    /// Where it stands, as that changes.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<ManagerState> {
        self.state.clone()
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ManagerState {
        self.state.borrow().clone()
    }

    /// Ends it, however it was started, and returns when it is gone.
    pub async fn stop(&self) {
        self.want.send_replace(None);
        let mut state = self.state.clone();
        // Fails only when the task is gone, and then so are we.
        let _ = state.wait_for(|state| *state == ManagerState::Stopped).await;
        // One that an earlier agent left and that nobody has asked for since.
        if let Some(mut process) = process::find(&self.config) {
            end(&mut process).await;
        }
        process::forget(&self.config.pid_file);
    }
}

async fn supervise(
    config: Arc<ManagerConfig>,
    mut wanted: watch::Receiver<Option<ManagerEndpoint>>,
    say: watch::Sender<ManagerState>,
) {
    let mut failures = 0;
    loop {
        let Some(endpoint) = wanted.borrow_and_update().clone() else {
            failures = 0;
            say.send_replace(ManagerState::Stopped);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let began = Instant::now();
        let why = match obtain(&config, &endpoint) {
            Ok(mut process) => {
                say.send_replace(ManagerState::Running { pid: process.pid() });
                tokio::select! {
                    how = process.ended() => format!("the manager ended: {how}"),
                    changed = wanted.changed() => {
                        end(&mut process).await;
                        process::forget(&config.pid_file);
                        if changed.is_err() {
                            return;
                        }
                        continue;
                    }
                }
            }
            Err(error) => chain(&error).to_string(),
        };
        failures = if began.elapsed() > SETTLED { 1 } else { failures + 1 };
        let wait = RESTART.wait(failures, rand::rng().random());
        tracing::error!(why, ?wait, "no manager for now, starting it again");
        say.send_replace(ManagerState::Waiting { why });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

fn obtain(config: &ManagerConfig, endpoint: &ManagerEndpoint) -> Result<Process, ManagerError> {
    if let Some(process) = process::find(config) {
        tracing::info!(pid = process.pid(), "took over the manager that runs already");
        return Ok(process);
    }
    let run_as = user::resolve(&config.user).map_err(ManagerError::User)?;
    for dir in [&config.state_dir, &config.run_dir] {
        own(dir, run_as).map_err(|source| ManagerError::Directory { path: dir.clone(), source })?;
    }
    let process = process::spawn(config, endpoint, run_as)?;
    tracing::info!(pid = process.pid(), "started the manager");
    Ok(process)
}

/// Makes a directory that `run_as` alone may enter.
fn own(dir: &Path, run_as: RunAs) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    chown(dir, Some(run_as.uid), Some(run_as.gid))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

async fn end(process: &mut Process) {
    process.signal(rustix::process::Signal::TERM);
    if tokio::time::timeout(STOP_GRACE, process.ended()).await.is_err() {
        tracing::warn!(pid = process.pid(), "the manager does not end, killing it");
        process.signal(rustix::process::Signal::KILL);
        process.ended().await;
    }
}
