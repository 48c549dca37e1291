//! A host of its own for a test: directories, a control group, a runtime, and a judge at the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use shoal_agent_container::cgroup::Layout;
use shoal_agent_planning::oci::{self, ContainerConfig};
use shoal_agent_runtime::oci::{OciConfig, OciRuntime};
use shoal_agent_runtime::{
    ContainerId, ContainerSpec, ExecSession, Exit, ExitStatus, Layers, LogLimits, LogQuery,
    NetworkMode, Runtime, RuntimeError, Stream,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bound of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A test host.
pub(crate) struct Host {
    pub(crate) runtime: OciRuntime,
    pub(crate) exits: mpsc::UnboundedReceiver<Exit>,
    pub(crate) config: OciConfig,
    layer: PathBuf,
    /// Only the process that made the directories cleans up.
    tmp: Option<tempfile::TempDir>,
}

/// Whether root-only tests can run here; in CI a skip is a failure.
pub(crate) fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let busybox = busybox().is_some();
    if !(root && busybox) {
        eprintln!("SKIPPED: needs root ({root}) and a static busybox ({busybox})");
        assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure");
    }
    root && busybox
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox-static", "/bin/busybox"].map(PathBuf::from).into_iter().find(|p| p.exists())
}

fn make_layer(dir: &Path) {
    for sub in ["bin", "tmp", "etc", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::copy(busybox().unwrap(), dir.join("bin/busybox")).unwrap();
    let names = [
        "sh", "cat", "sleep", "true", "false", "echo", "id", "mount", "unshare", "dd", "head",
        "tail", "yes", "seq", "kill", "hostname", "ip", "stty", "ls", "env", "pwd", "mknod", "cut",
        "grep", "tr", "date", "wc", "ps", "readlink", "touch", "test", "usleep", "su", "setsid",
        "nc", "ping",
    ];
    for name in names {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).unwrap();
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/tmp:/bin/sh\n")
        .unwrap();
    fs::write(
        dir.join("etc/group"),
        "root:x:0:\napp:x:1001:\nextra:x:2002:app\nmore:x:2003:root\n",
    )
    .unwrap();
    fs::write(dir.join("bin/plain"), "not executable").unwrap();
    fs::write(dir.join("bin/odd"), "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.join("bin/odd"), mode).unwrap();
}

impl Host {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let tmp = tempfile::tempdir().unwrap();
        make_layer(&tmp.path().join("layer"));
        let cgroup_parent = format!("/shoal-test-{}-{number}", std::process::id());
        let mut host = Self::at(tmp.path(), &cgroup_parent);
        host.tmp = Some(tmp);
        host
    }

    /// On directories that another process has made.
    pub(crate) fn at(home: &Path, cgroup_parent: &str) -> Self {
        let config = OciConfig {
            run_dir: home.join("run"),
            state_dir: home.join("state"),
            cgroup_parent: cgroup_parent.to_owned(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_shoal-agent")),
        };
        let runtime = OciRuntime::new(config.clone()).unwrap();
        let exits = runtime.take_exits().unwrap();
        Self { runtime, exits, config, layer: home.join("layer"), tmp: None }
    }

    /// The directory that is every container's image.
    pub(crate) fn layer(&self) -> &Path {
        &self.layer
    }

    pub(crate) fn home(&self) -> &Path {
        self.config.run_dir.parent().unwrap()
    }

    /// Lets another process be this host's agent until it has started what it is to, then kills it.
    /// `role` is the ignored test that is that process; it writes the file `ready`.
    pub(crate) async fn after_an_agent(&self, role: &str) {
        let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", role, "--ignored"])
            .env("SHOAL_TEST_HOME", self.home())
            .env("SHOAL_TEST_CGROUP", &self.config.cgroup_parent)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ready = self.home().join("ready");
        let is_ready = wait_for("the agent", || ready.exists()).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
        is_ready.unwrap();
    }

    /// The directories of the group above those of the containers, as far as they are there.
    pub(crate) fn parent_groups(&self) -> Vec<PathBuf> {
        groups(self.config.cgroup_parent.trim_matches('/'))
    }

    /// Makes that group wherever containers have groups, as somebody with wishes of their own would.
    pub(crate) fn make_parent_groups(&self) -> Vec<PathBuf> {
        let roots = match self.runtime.cgroup_layout() {
            Layout::Unified { root } => vec![root.clone()],
            Layout::Hierarchies(all) => all.iter().map(|h| h.root.clone()).collect(),
        };
        for root in roots {
            fs::create_dir(root.join(self.config.cgroup_parent.trim_matches('/'))).unwrap();
        }
        self.parent_groups()
    }

    pub(crate) fn processes_in_groups(&self) -> Vec<i32> {
        let parents = groups(self.config.cgroup_parent.trim_matches('/')).into_iter();
        let own = parents.filter_map(|p| fs::read_dir(p).ok()).flatten().flatten();
        let text = own.filter_map(|e| fs::read_to_string(e.path().join("cgroup.procs")).ok());
        text.flat_map(|t| t.lines().map(|l| l.parse().unwrap()).collect::<Vec<i32>>()).collect()
    }

    pub(crate) fn spec(&self, config: &ContainerConfig) -> ContainerSpec {
        ContainerSpec {
            oci: oci::spec(config).unwrap(),
            layers: Layers(vec![self.layer.clone()]),
            network: NetworkMode::Own,
            open_stdin: false,
            log: LogLimits::default(),
            user: String::new(),
            labels: BTreeMap::new(),
        }
    }

    pub(crate) async fn start(&self, id: &ContainerId, config: &ContainerConfig) -> i32 {
        self.runtime.prepare(id, self.spec(config)).await.unwrap();
        self.runtime.start(id).await.unwrap().pid
    }

    /// The next exit, which must be this container's.
    pub(crate) async fn exit(&mut self, id: &ContainerId) -> ExitStatus {
        let exit = timeout(PATIENCE, self.exits.recv()).await.expect("no exit in time").unwrap();
        assert_eq!(exit.id, *id);
        exit.status
    }

    pub(crate) async fn log(&self, id: &ContainerId) -> String {
        self.lines(id, LogQuery::default()).await
    }

    pub(crate) async fn lines(&self, id: &ContainerId, query: LogQuery) -> String {
        let stream = self.runtime.logs(id, query).await.unwrap();
        let lines = stream.map(|l| l.unwrap().text).collect::<Vec<_>>().await.concat();
        String::from_utf8(lines).unwrap()
    }

    /// Runs a container to its end: exit, standard output, standard error.
    pub(crate) async fn run(&mut self, config: &ContainerConfig) -> (ExitStatus, String, String) {
        self.run_spec(self.spec(config)).await
    }

    /// As [`Host::run`].
    pub(crate) async fn run_spec(&mut self, spec: ContainerSpec) -> (ExitStatus, String, String) {
        let id = id("run");
        self.runtime.prepare(&id, spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        let status = self.exit(&id).await;
        let stdout = self.lines(&id, LogQuery { stderr: false, ..LogQuery::default() }).await;
        let stderr = self.lines(&id, LogQuery { stdout: false, ..LogQuery::default() }).await;
        self.runtime.remove(&id).await.unwrap();
        (status, stdout, stderr)
    }

    /// Why a container does not start.
    pub(crate) async fn refusal(&self, spec: ContainerSpec) -> RuntimeError {
        let id = id("refused");
        self.runtime.prepare(&id, spec).await.unwrap();
        let refusal = self.runtime.start(&id).await.unwrap_err();
        self.runtime.remove(&id).await.unwrap();
        refusal
    }

    /// Everything that is left of any container of this host.
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in [&self.config.run_dir, &self.config.state_dir] {
            found.extend(
                fs::read_dir(dir).unwrap().map(|e| e.unwrap().path().display().to_string()),
            );
        }
        let parent = self.config.cgroup_parent.trim_matches('/');
        for group in groups(parent) {
            let inside = fs::read_dir(&group).into_iter().flatten().flatten();
            let dirs = inside.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            found.extend(dirs.map(|e| e.path().display().to_string()));
        }
        let run_dir = self.config.run_dir.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|l| l.contains(run_dir)).map(str::to_owned));
        found.extend(processes(run_dir));
        found
    }

    /// Everything below the run directory, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.config.run_dir.clone()];
        while let Some(dir) = dirs.pop() {
            // Some are in the middle of going away.
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    dirs.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    pub(crate) async fn assert_clean(&self) {
        wait_for("everything to be gone", || self.remains().is_empty())
            .await
            .unwrap_or_else(|_| panic!("left behind: {:#?}", self.remains()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.tmp.is_none() {
            return;
        }
        // Also after a failed test: no supervisor of ours may live on.
        let parent = self.config.cgroup_parent.trim_matches('/').to_owned();
        for pid in supervisors(self.config.run_dir.to_str().unwrap()) {
            kill(pid, 9);
        }
        let until = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            for group in groups(&parent) {
                for dir in fs::read_dir(&group).into_iter().flatten().flatten() {
                    let procs = fs::read_to_string(dir.path().join("cgroup.procs"));
                    for pid in procs.unwrap_or_default().lines() {
                        kill(pid.parse().unwrap(), 9);
                    }
                    if dir.file_type().is_ok_and(|t| t.is_dir()) {
                        // Those of executions first.
                        for below in fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                            let _ = fs::remove_dir(below.path());
                        }
                        let _ = fs::remove_dir(dir.path());
                    }
                }
                let _ = fs::remove_dir(&group);
            }
            if groups(&parent).is_empty() || std::time::Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn groups(parent: &str) -> Vec<PathBuf> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    roots
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|root| root.join(parent))
        .filter(|p| p.is_dir())
        .collect()
}

/// Command lines of processes that name a directory.
fn processes(dir: &str) -> Vec<String> {
    supervisors(dir).into_iter().map(|pid| format!("process {pid}")).collect()
}

/// Processes with a directory in their command line, other than this one.
pub(crate) fn supervisors(dir: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(dir)
    };
    pids.filter(names).collect()
}

pub(crate) fn kill(pid: i32, signal: i32) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = Signal::from_named_raw(signal).unwrap();
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

pub(crate) fn command(argv: &[&str]) -> ContainerConfig {
    let argv = argv.iter().map(ToString::to_string).collect();
    ContainerConfig { argv, ..ContainerConfig::default() }
}

pub(crate) fn shell(script: &str) -> ContainerConfig {
    command(&["sh", "-c", script])
}

/// Polls a condition with a bound.
pub(crate) async fn wait_for(
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), String> {
    let polled = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, polled).await.map_err(|_| format!("waited {PATIENCE:?} for {what}"))
}

/// Reads an execution to its end: its code and its output.
pub(crate) async fn finish(mut session: ExecSession) -> (Option<i32>, Vec<(Stream, bytes::Bytes)>) {
    let mut output = Vec::new();
    while let Some(chunk) = timeout(PATIENCE, session.output.recv()).await.expect("no end in time")
    {
        output.push(chunk);
    }
    (session.wait.await.unwrap().code, output)
}

/// All output of a stream as text.
pub(crate) fn text(chunks: &[(Stream, bytes::Bytes)], stream: Stream) -> String {
    let bytes: Vec<u8> =
        chunks.iter().filter(|(s, _)| *s == stream).flat_map(|(_, b)| b.to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
