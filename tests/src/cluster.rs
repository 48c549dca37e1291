//! A cluster on test hosts, driven by the real `shoalctl`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::eventually::within;
use crate::host::{Host, Lab, Programs, REGISTRY, Said, run, sweep};
use crate::image::ImageBuilder;

/// Bound of one `shoalctl`; its own waiting is shorter where a test expects failure.
const CTL: Duration = Duration::from_secs(90);
/// Bound of the way from nothing to nodes that are ready.
const READY: Duration = Duration::from_secs(40);

/// A cluster; removed with everything of it when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts.
    pub lab: Lab,
    baselines: Vec<std::collections::BTreeSet<String>>,
}

impl Cluster {
    /// Hosts `h1` to `hN`, the first with a manager, all of them ready. The registry has
    /// `busybox` in it.
    ///
    /// # Errors
    /// When any of it fails; everything is removed then.
    pub fn start(hosts: usize) -> Result<Self> {
        Self::joined_as("worker", hosts)
    }

    /// The same, with a manager on each host.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn of_managers(hosts: usize) -> Result<Self> {
        Self::joined_as("manager", hosts)
    }

    fn joined_as(role: &str, hosts: usize) -> Result<Self> {
        sweep()?;
        let programs = Programs::find()?;
        let lab = Lab::prepare(None, hosts, &programs)?;
        let mut cluster = Self { lab, baselines: Vec::new() };
        cluster.form(role)?;
        Ok(cluster)
    }

    fn form(&mut self, role: &str) -> Result<()> {
        self.lab.power_on()?;
        for host in &self.lab.hosts {
            host.boot()?;
        }
        self.init_and_join(role)?;
        self.push(&busybox_image()?, "busybox", "1")?;
        for host in &self.lab.hosts {
            self.baselines.push(host.inventory()?);
        }
        Ok(())
    }

    fn init_and_join(&self, role: &str) -> Result<()> {
        let Some(first) = self.lab.hosts.first() else { bail!("a cluster needs hosts") };
        self.ctl_ok(&["init", "--advertise-addr", &first.address])?;
        let token = self.ctl_ok(&["join-token", "-q", role])?;
        for host in self.lab.hosts.iter().skip(1) {
            let words = ["join", "--token", token.trim(), &first.address];
            let said = run(self.lab.ctl(host).args(words), CTL)?;
            if said.code != 0 {
                bail!("{} cannot join: {}\n{}", host.name, said.both(), host.last_words());
            }
        }
        within(READY, || {
            let nodes = self.json(&["node", "ls"])?;
            let ready = nodes.iter().filter(|n| at(n, "/Status/State") == "ready").count();
            if ready < self.lab.hosts.len() {
                bail!("{ready} of {} nodes are ready: {nodes:?}", self.lab.hosts.len());
            }
            Ok(())
        })
    }

    /// A host by its number, from 1 on.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.lab.hosts[number - 1]
    }

    /// The host of a node.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    pub fn named(&self, name: &str) -> &Host {
        self.lab.hosts.iter().find(|h| h.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// Runs `shoalctl` to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn ctl(&self, words: &[&str]) -> Said {
        match run(self.lab.ctl(self.host(1)).args(words), CTL) {
            Ok(said) => said,
            Err(error) => panic!("shoalctl {}: {error:#}", words.join(" ")),
        }
    }

    /// The same for one that has to succeed.
    ///
    /// # Errors
    /// With what it says.
    pub fn ctl_ok(&self, words: &[&str]) -> Result<String> {
        let said = run(self.lab.ctl(self.host(1)).args(words), CTL)?;
        if said.code != 0 {
            bail!("shoalctl {} ended with {}: {}", words.join(" "), said.code, said.both());
        }
        Ok(said.out)
    }

    /// Reads a list in JSON: an array, or one object per line.
    ///
    /// # Errors
    /// As [`Cluster::ctl_ok`], and when it is not JSON.
    pub fn json(&self, words: &[&str]) -> Result<Vec<Value>> {
        let words: Vec<&str> = words.iter().copied().chain(["--format", "json"]).collect();
        let text = self.ctl_ok(&words)?;
        let mut found = Vec::new();
        for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            match value.with_context(|| format!("not JSON: {text}"))? {
                Value::Array(values) => found.extend(values),
                value => found.push(value),
            }
        }
        Ok(found)
    }

    /// Applies a stack file and waits for it as `shoalctl` does.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn deploy(&self, stack: &str, yaml: &str) -> Said {
        let file = self.stack_file(stack, yaml);
        self.ctl(&["stack", "deploy", "-c", &file.to_string_lossy(), stack])
    }

    /// Writes a stack file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn stack_file(&self, stack: &str, yaml: &str) -> PathBuf {
        let file = self.lab.dir.join(format!("{stack}.yaml"));
        let yaml = yaml.replace("REGISTRY", REGISTRY);
        if let Err(error) = std::fs::write(&file, yaml) {
            panic!("cannot write {}: {error}", file.display());
        }
        file
    }

    /// Puts an image into the registry.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn push(&self, image: &ImageBuilder, repository: &str, tag: &str) -> Result<String> {
        let built = image.clone().build()?;
        self.lab.inside(|| built.push(REGISTRY, repository, tag))
    }

    /// Fetches a page from the switch, as somebody outside of the cluster does.
    ///
    /// # Errors
    /// When there is no answer, or another one than 200.
    pub fn get(&self, host: &Host, port: u16, path: &str) -> Result<String> {
        self.get_at(&format!("{}:{port}", host.address), path)
    }

    /// As [`get`](Self::get), of `address:port`.
    ///
    /// # Errors
    /// As there.
    pub fn get_at(&self, address: &str, path: &str) -> Result<String> {
        self.lab.inside(|| http_get(address, path))
    }

    /// Asserts that the hosts are as they were before anything was deployed.
    ///
    /// # Errors
    /// Names what is left.
    pub fn nothing_left(&self) -> Result<()> {
        for (host, earlier) in self.lab.hosts.iter().zip(&self.baselines) {
            host.nothing_since(earlier, Duration::from_secs(30))?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a test's voice")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in &self.lab.hosts {
                eprintln!("--- log of {}:\n{}", host.name, host.last_words());
            }
            self.keep_logs();
        }
        if let Err(error) = self.lab.remove() {
            eprintln!("the lab is not wholly removed: {error:#}");
        }
    }
}

impl Cluster {
    #[expect(clippy::print_stderr, reason = "a test's voice")]
    fn keep_logs(&self) {
        let to = std::env::temp_dir().join(format!("shoal-failed-{}", self.lab.name));
        let kept = std::fs::create_dir_all(&to).is_ok()
            && self.lab.hosts.iter().all(|host| {
                std::fs::copy(host.log(), to.join(format!("{}.log", host.name))).is_ok()
            });
        if kept {
            eprintln!("--- whole logs are in {}", to.display());
        }
    }
}

/// A text in JSON, by its pointer; empty if it is not there.
#[must_use]
pub fn at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A busybox with the usual names, as an image.
///
/// # Errors
/// When this machine has no static busybox.
pub fn busybox_image() -> Result<ImageBuilder> {
    let program = crate::skip::busybox().context("a static busybox is needed")?;
    let bytes = std::fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let mut image = ImageBuilder::new().file("bin/busybox", &bytes, 0o755).dir("tmp", 0o1777);
    let names = [
        "sh", "cat", "sleep", "true", "false", "echo", "id", "mount", "unshare", "dd", "head",
        "tail", "seq", "kill", "hostname", "ip", "stty", "ls", "env", "pwd", "grep", "tr", "date",
        "wc", "ps", "touch", "test", "usleep", "httpd", "nc", "wget", "mkdir", "rm", "df", "tty",
        "nslookup", "sort", "uniq",
    ];
    for name in names {
        image = image.symlink(&format!("bin/{name}"), "busybox");
    }
    let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/tmp:/bin/sh\n";
    Ok(image
        .file("etc/passwd", passwd, 0o644)
        .file("etc/group", b"root:x:0:\napp:x:1001:\n", 0o644)
        .env("PATH", "/bin")
        .cmd(&["sh"]))
}

fn http_get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let limit = Duration::from_secs(3);
    let to = address.parse().with_context(|| format!("{address} is no address"))?;
    let mut stream = std::net::TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an answer of http")?;
    if !head.lines().next().unwrap_or_default().contains(" 200") {
        bail!("{address}{path} answers {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
