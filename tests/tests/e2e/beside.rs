//! A host that has Docker, too: Debian's, which came first, and closed what is forwarded.
//!
//! `make test-docker` installs it; the other profiles of the test runner pass over what is here (`.config/nextest.toml`).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use shoal_tests::host::{Host, REGISTRY, kill, succeed};
use shoal_tests::skip::{busybox, skip};

use crate::guests::FIREWALL;
use crate::overlay::{all_reach_all, stack};
use crate::published::{all_answer, lines};
use crate::world::{PATIENCE, World};

/// A container of Docker's, and the port of its host that it answers on.
const GUEST: &str = "guest";
const PORT: u16 = 8090;
/// How long something that must not come about is waited for.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// Docker on a host, until dropped.
struct Docker<'a> {
    host: &'a Host,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl<'a> Docker<'a> {
    fn start(host: &'a Host) -> Result<Self> {
        let mut docker = Self { host, dir: tempfile::tempdir()?, daemon: None };
        docker.begin()?;
        Ok(docker)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn begin(&mut self) -> Result<()> {
        let log = || File::options().create(true).append(true).open(self.path("log"));
        let mut command = self.host.command("dockerd")?;
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(self.path(name));
        }
        command.arg("--host").arg(format!("unix://{}", self.path("sock").display()));
        command.args(["--storage-driver", "vfs"]).stdin(Stdio::null());
        self.daemon = Some(command.stdout(log()?).stderr(log()?).spawn().context("start dockerd")?);
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(error) = self.say(&["version"]) {
            if std::time::Instant::now() > deadline {
                let said = std::fs::read_to_string(self.path("log"))?;
                bail!("Docker does not come: {error:#}\n{said}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn say(&self, words: &[&str]) -> Result<String> {
        let mut command = self.host.command("docker")?;
        let socket = format!("unix://{}", self.path("sock").display());
        succeed(command.arg("--host").arg(socket).args(words), PATIENCE)
    }

    /// A container that answers with a page, also on a port that is not published.
    fn run_guest(&self) -> Result<()> {
        let bin = self.path("root/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy(busybox().context("a static busybox is needed")?, bin.join("busybox"))?;
        let (root, archive) = (self.path("root"), self.path("busybox.tar"));
        let mut tar = Command::new("tar");
        succeed(tar.arg("-cf").arg(&archive).arg("-C").arg(root).arg("bin"), PATIENCE)?;
        self.say(&["import", &archive.to_string_lossy(), "busybox"])?;
        let serve = "busybox mkdir /w; echo a guest > /w/index.html; busybox httpd -p 81 -h /w; exec busybox httpd -f -p 80 -h /w";
        let port = format!("{PORT}:80");
        let run = [
            "run",
            "-d",
            "--name",
            GUEST,
            "-p",
            &port,
            "busybox",
            "/bin/busybox",
            "sh",
            "-c",
            serve,
        ];
        self.say(&run).map(drop)
    }

    /// What a command says inside of it.
    fn inside(&self, script: &str) -> Result<String> {
        self.say(&["exec", GUEST, "/bin/busybox", "sh", "-c", script])
    }

    fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let pid = daemon.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let deadline = std::time::Instant::now() + PATIENCE;
        while daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            if std::time::Instant::now() > deadline {
                kill(pid.parse().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // Not asserted: a panic here would hide the one that is under way.
        let _ = self.say(&["rm", "-f", GUEST]);
        self.end();
    }
}

/// The chain in which Docker asks others to say what passes.
fn user_chain(host: &Host) -> Result<String> {
    // As its owner looks at it: what iptables cannot show it refuses to touch.
    succeed(host.command("iptables")?.args(["-S", "DOCKER-USER"]), PATIENCE)
}

fn page_of(script_address: &str) -> String {
    format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {script_address} | busybox tail -1"
    )
}

/// Each has what it had: Docker's ports and containers, shoal's ports, networks and containers.
fn all_is_well(world: &World, docker: &Docker<'_>) {
    all_answer(world);
    all_reach_all(world);
    let said = world.until("Docker's port answers", || world.cluster.get(docker.host, PORT, "/"));
    assert_eq!(said.trim(), "a guest");
    let out = page_of(&REGISTRY.replace(':', " "));
    let said = world.until("a guest goes out", || docker.inside(&out));
    assert!(!said.is_empty(), "what a registry says of /");
}

/// What is not published is reached from neither side.
fn each_keeps_to_itself(world: &World, docker: &Docker<'_>) {
    let guest = ["inspect", "-f", "{{.NetworkSettings.IPAddress}}", GUEST];
    let guest: Ipv4Addr = docker.say(&guest).unwrap().trim().parse().unwrap();
    let [task] = &world.runs("far_web", 1)[..] else { panic!("one task") };
    let ours = world.ok(&["exec", &task.id, "ip", "-4", "-o", "addr", "show", "eth0"]);
    let ours = ours.split_whitespace().find_map(|word| word.split_once('/')).unwrap().0.to_owned();
    let from_ours = |address: String| world.ok(&["exec", &task.id, "sh", "-c", &page_of(&address)]);
    world.until("what is published is for all", || {
        let said = from_ours(format!("{} {PORT}", docker.host.address));
        ensure!(said.trim() == "a guest", "{said:?}");
        Ok(())
    });
    assert_eq!(from_ours(format!("{guest} 81")).trim(), "");
    assert_eq!(docker.inside(&page_of(&format!("{ours} 8080"))).unwrap().trim(), "");
    // Nor from the wire, by somebody who knows the way.
    let way = format!(
        "-n {} route replace {ours}/32 via {}",
        world.cluster.lab.switch(),
        docker.host.address
    );
    succeed(Command::new("ip").args(way.split_whitespace()), PATIENCE).unwrap();
    let at = SocketAddr::new(ours.parse().unwrap(), 8080);
    let asked =
        world.cluster.lab.inside(|| Ok(TcpStream::connect_timeout(&at, IMPATIENCE).is_ok()));
    assert!(!asked.unwrap(), "{ours} answers");
}

#[test]
fn docker_and_the_firewall_of_a_host_go_on_beside_networks_that_span_hosts() {
    if skip() {
        return;
    }
    let world = World::start(3);
    let host = world.cluster.named("h2");
    let mut docker = Docker::start(host).unwrap();
    docker.run_guest().unwrap();
    let policy =
        succeed(host.command("iptables").unwrap().args(["-S", "FORWARD"]), PATIENCE).unwrap();
    assert!(
        policy.starts_with("-P FORWARD DROP"),
        "what Docker does to a host that was closed: {policy}"
    );

    let on = "deploy: {placement: {constraints: ['node.hostname==h2']}, update_config:";
    let web = crate::world::service("web", &lines().replace("deploy: {update_config:", on));
    world.deploy("far", &web);
    world.deploy("net", &stack());
    world.runs("net_web", 3);
    all_is_well(&world, &docker);
    each_keeps_to_itself(&world, &docker);
    let chain = user_chain(host).unwrap();
    assert!(chain.contains("shoal sh") && chain.trim_end().ends_with("-j RETURN"), "{chain}");

    // Docker begins anew, and its guest with it.
    docker.end();
    docker.begin().unwrap();
    docker.say(&["start", GUEST]).unwrap();
    all_is_well(&world, &docker);
    each_keeps_to_itself(&world, &docker);

    // The service of nftables begins anew, which takes Docker's rules away until Docker does, too.
    let firewall = world.cluster.lab.dir.join("nftables.conf");
    std::fs::write(&firewall, FIREWALL).unwrap();
    succeed(host.command("nft").unwrap().arg("-f").arg(&firewall), PATIENCE).unwrap();
    all_answer(&world);
    all_reach_all(&world);
    docker.end();
    docker.begin().unwrap();
    docker.say(&["start", GUEST]).unwrap();
    all_is_well(&world, &docker);

    world.remove("net");
    world.remove("far");
    world.until("nothing is said in Docker's chain any more", || {
        let chain = user_chain(host)?;
        ensure!(!chain.contains("shoal"), "{chain}");
        Ok(())
    });
    drop(docker);
    // What Docker and the firewall leave, they leave.
    for words in [
        "ip link delete docker0",
        "nft delete table inet filter",
        "nft delete table ip filter",
        "nft delete table ip nat",
    ] {
        let mut words = words.split(' ');
        let mut command = host.command(words.next().unwrap()).unwrap();
        succeed(command.args(words), PATIENCE).unwrap();
    }
    world.end();
}
