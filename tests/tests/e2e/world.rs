//! What the tests see through `shoalctl`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use shoal_tests::cluster::{Cluster, at};
use shoal_tests::eventually::eventually;

/// Bound of everything that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A task as `service ps` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) slot: u64,
    pub(crate) state: String,
    pub(crate) desired: String,
    pub(crate) error: String,
    pub(crate) pid: u64,
    pub(crate) exit: Option<i64>,
    pub(crate) image: String,
}

/// A cluster with what tests ask of it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    hosts: BTreeMap<String, String>,
}

impl World {
    pub(crate) fn start(hosts: usize) -> Self {
        Self::of(Cluster::start(hosts))
    }

    /// With a manager on each host.
    pub(crate) fn of_managers(hosts: usize) -> Self {
        Self::of(Cluster::of_managers(hosts))
    }

    fn of(cluster: Result<Cluster>) -> Self {
        let cluster = cluster.unwrap_or_else(|e| panic!("no cluster: {e:#}"));
        let nodes = cluster.json(&["node", "ls"]).unwrap();
        let names = nodes.iter().map(|n| (at(n, "/ID"), at(n, "/Description/Hostname")));
        let hosts = names.map(|(id, name)| (id.to_owned(), name.to_owned())).collect();
        Self { cluster, hosts }
    }

    /// The last look of every test.
    pub(crate) fn end(self) {
        self.cluster.nothing_left().unwrap_or_else(|e| panic!("{e:#}"));
    }

    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.cluster.ctl_ok(words).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Deploys a stack that has to converge.
    pub(crate) fn deploy(&self, stack: &str, yaml: &str) -> String {
        let said = self.cluster.deploy(stack, yaml);
        assert_eq!(said.code, 0, "{stack}: {}\n{}", said.both(), self.ps_text(stack));
        said.both()
    }

    /// Deploys a stack that cannot converge; gives what was said within a short time.
    pub(crate) fn deploy_badly(&self, stack: &str, yaml: &str) -> String {
        let file = self.cluster.stack_file(stack, yaml);
        let file = file.to_string_lossy();
        let words = ["stack", "deploy", "--timeout", "8s", "-c", &file, stack];
        let said = self.cluster.ctl(&words);
        assert_ne!(said.code, 0, "{}", said.both());
        said.both()
    }

    /// Deploys a service that cannot run, and removes it. The deploy and the list of tasks both
    /// have to say why.
    pub(crate) fn refused(&self, lines: &str, expected: &[&str]) {
        let rest =
            if lines.contains("deploy:") { "" } else { "\ndeploy: {restart_policy: {delay: 1s}}" };
        let said = self.deploy_badly("bad", &web(&format!("{lines}{rest}")));
        let listed = self.ok(&["service", "ps", "--no-trunc", "bad_web"]);
        for part in expected {
            assert!(said.contains(part), "the deploy says {part:?}:\n{said}");
            assert!(listed.contains(part), "service ps says {part:?}:\n{listed}");
        }
        self.remove("bad");
    }

    fn ps_text(&self, stack: &str) -> String {
        self.cluster.ctl(&["stack", "ps", "--no-trunc", stack]).both()
    }

    pub(crate) fn remove(&self, stack: &str) {
        self.ok(&["stack", "rm", stack]);
    }

    pub(crate) fn tasks(&self, service: &str) -> Result<Vec<Task>> {
        let tasks = self.cluster.json(&["service", "ps", service])?;
        Ok(tasks.iter().map(|task| self.task(task)).collect())
    }

    fn task(&self, value: &Value) -> Task {
        let text = |pointer: &str| at(value, pointer).to_owned();
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64);
        let node = at(value, "/NodeID");
        Task {
            id: text("/ID"),
            host: self.hosts.get(node).cloned().unwrap_or_default(),
            slot: number("/Slot").unwrap_or(0).unsigned_abs(),
            state: text("/Status/State"),
            desired: text("/DesiredState"),
            error: text("/Status/Err"),
            pid: number("/Status/ContainerStatus/PID").unwrap_or(0).unsigned_abs(),
            exit: number("/Status/ContainerStatus/ExitCode"),
            image: text("/Spec/ContainerSpec/Image"),
        }
    }

    pub(crate) fn running(&self, service: &str) -> Result<Vec<Task>> {
        let mut tasks = self.tasks(service)?;
        tasks.retain(|t| t.state == "running" && t.desired == "running");
        Ok(tasks)
    }

    /// Waits until exactly so many tasks run.
    pub(crate) fn runs(&self, service: &str, count: usize) -> Vec<Task> {
        self.until(&format!("{count} tasks of {service} run"), || {
            let running = self.running(service)?;
            ensure!(running.len() == count, "{:#?}", self.tasks(service)?);
            Ok(running)
        })
    }

    /// Waits until a task of the service has failed or cannot start, with this in its error.
    pub(crate) fn fails(&self, service: &str, expected: &str) -> Task {
        self.until(&format!("an error of {service} has {expected:?}"), || {
            let tasks = self.tasks(service)?;
            let found = tasks.iter().find(|task| task.error.contains(expected)).cloned();
            match found {
                Some(task) => Ok(task),
                None => bail!("{tasks:#?}"),
            }
        })
    }

    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<T>) -> T {
        eventually(what, PATIENCE, || look().map_err(|error| format!("{error:#}")))
    }

    pub(crate) fn logs(&self, reference: &str) -> Result<String> {
        let said = self.cluster.ctl(&["service", "logs", "--raw", reference]);
        ensure!(said.code == 0, "{}", said.both());
        Ok(said.both())
    }

    /// Waits for a line of a service's logs.
    pub(crate) fn logged(&self, reference: &str, expected: &str) -> String {
        self.until(&format!("{reference} logs {expected:?}"), || {
            let logs = self.logs(reference)?;
            ensure!(logs.contains(expected), "it logged: {logs}");
            Ok(logs)
        })
    }

    /// Waits until a page has something on it.
    pub(crate) fn page(&self, host: &str, port: u16, expected: &str) -> String {
        self.until(&format!("{host}:{port} shows {expected:?}"), || {
            let page = self.cluster.get(self.cluster.named(host), port, "/")?;
            ensure!(page.contains(expected), "it shows: {page}");
            Ok(page)
        })
    }

    /// Starts a `shoalctl` that goes on by itself, with its output in a file.
    pub(crate) fn background(&self, words: &[&str], output: &Path) -> Background {
        let file = std::fs::File::create(output).unwrap();
        let errors = file.try_clone().unwrap();
        let mut command: Command = self.cluster.lab.ctl(self.cluster.host(1));
        command.args(words).stdin(Stdio::null()).stdout(file).stderr(errors);
        Background(command.spawn().unwrap())
    }
}

/// A program that runs beside a test; killed at its end.
pub(crate) struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stack with one service `web` of busybox; the lines are its, without their indentation.
pub(crate) fn web(lines: &str) -> String {
    service("web", lines)
}

pub(crate) fn service(name: impl Display, lines: &str) -> String {
    let mut yaml = format!("services:\n  {name}:\n    stop_grace_period: 1s\n");
    if !lines.contains("image:") {
        yaml += "    image: REGISTRY/busybox:1\n";
    }
    for line in lines.lines() {
        yaml += &format!("    {line}\n");
    }
    yaml
}

/// A page on port 8080 that says so and then the container's host name.
pub(crate) fn page(text: &str) -> String {
    format!(
        "command: [sh, -c, 'mkdir -p /tmp/w; echo \"{text} $$(hostname)\" >/tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w']"
    )
}
