//! Images that need a login: they run where they are allowed to, and the password is seen by nobody.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use base64::Engine as _;
use shoal_tests::cluster::busybox_image;
use shoal_tests::eventually::within;
use shoal_tests::host::{Host, Lab, PRIVATE_REGISTRY};
use shoal_tests::skip::skip;

use crate::world::World;

/// Passwords with their hashes by bcrypt.
const FIRST: (&str, &str) =
    ("f1rst-hush-hush", "$2b$04$/gUtTi9G1aYy5Oj19hZ0Ner/1u7H5vyHd4guAaT.Ov3ycc/7pWri2");
const SECOND: (&str, &str) =
    ("n3w-hush-hush", "$2b$04$/gUtTi9G1aYy5Oj19hZ0Neef2KC8a/cAb07TpXQgw15CPuN5NN0ye");

#[test]
fn a_private_image_runs_on_every_host_and_its_password_is_seen_by_nobody() {
    if skip() {
        return;
    }
    let world = World::start(2);
    let registry = Private::start(&world.cluster.lab, FIRST);
    push(&world, "1", FIRST.0);
    without_a_login(&world);
    logs_in(&world, "wrong", false);
    logs_in(&world, FIRST.0, true);
    let words = ["--with-registry-auth", "--replicas", "2", "--replicas-max-per-node", "1"];
    let image = format!("{PRIVATE_REGISTRY}/team/app:1");
    world
        .ok(&[&["service", "create", "--name", "app"], &words[..], &[&image, "sleep", "1000"]]
            .concat());
    let tasks = world.runs("app", 2);
    assert_ne!(tasks[0].host, tasks[1].host, "{tasks:#?}");
    nobody_sees(&world, FIRST.0);

    drop(registry);
    let registry = Private::start(&world.cluster.lab, SECOND);
    push(&world, "2", SECOND.0);
    after_the_password_changed(&world);
    nobody_sees(&world, SECOND.0);
    world.ok(&["service", "rollback", "app"]);
    let back = world.runs("app", 2);
    assert!(back.iter().all(|task| task.image.ends_with("app:1")), "{back:#?}");

    logs_out(&world);
    world.ok(&["service", "rm", "app"]);
    drop(registry);
    world.end();
}

/// A registry with a password, on the switch.
struct Private(Child);

impl Private {
    fn start(lab: &Lab, (_, hash): (&str, &str)) -> Self {
        let dir = lab.dir.join("private");
        fs::create_dir_all(&dir).unwrap();
        let shown = dir.display();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {shown}/data\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {shown}/htpasswd\n\
             http:\n  addr: {PRIVATE_REGISTRY}\n"
        );
        fs::write(dir.join("htpasswd"), format!("user:{hash}\n")).unwrap();
        fs::write(dir.join("config.yml"), config).unwrap();
        let mut command = lab.on_switch("docker-registry");
        command.arg("serve").arg(dir.join("config.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Self(command.spawn().unwrap());
        let connect = || Ok(TcpStream::connect(PRIVATE_REGISTRY).map(|_| ())?);
        lab.inside(|| within(Duration::from_secs(20), connect)).unwrap();
        started
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn push(world: &World, tag: &str, password: &str) {
    let image = busybox_image().unwrap().next_layer();
    let image = image.file("etc/motd", tag.as_bytes(), 0o644).build().unwrap();
    let credentials = format!("user:{password}");
    let push = || image.push_as(PRIVATE_REGISTRY, "team/app", tag, Some(&credentials));
    world.cluster.lab.inside(push).unwrap();
}

fn without_a_login(world: &World) {
    let image = format!("{PRIVATE_REGISTRY}/team/app:1");
    let create = ["service", "create", "--name", "denied", "--timeout", "8s", &image];
    let said = world.cluster.ctl(&create);
    assert_ne!(said.code, 0, "{}", said.both());
    let listed = world.ok(&["service", "ps", "--no-trunc", "denied"]);
    for part in ["it needs credentials", "shoalctl login 10.99.0.1:5001", "--with-registry-auth"] {
        assert!(listed.contains(part), "service ps says {part:?}: {listed}");
    }
    assert!(said.both().contains("it needs credentials"), "{}", said.both());
    world.ok(&["service", "rm", "denied"]);
}

fn logs_in(world: &World, password: &str, accepted: bool) {
    let mut command = world.cluster.lab.ctl(world.cluster.host(1));
    command.args(["login", "-u", "user", "--password-stdin", "--plain-http", PRIVATE_REGISTRY]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), accepted, "{said}");
    assert!(accepted || said.contains("does not accept this user and password"), "{said}");
}

/// Without a new login the new image is denied; with one it runs, although nothing else changes.
fn after_the_password_changed(world: &World) {
    let image = format!("{PRIVATE_REGISTRY}/team/app:2");
    let said =
        world.cluster.ctl(&["service", "update", "--timeout", "10s", "--image", &image, "app"]);
    assert_ne!(said.code, 0, "{}", said.both());
    assert!(said.both().contains("it needs other credentials"), "{}", said.both());
    logs_in(world, SECOND.0, true);
    world.ok(&["service", "update", "--with-registry-auth", "app"]);
    let tasks = world.runs("app", 2);
    assert!(tasks.iter().all(|task| task.image.ends_with("app:2")), "{tasks:#?}");
}

fn logs_out(world: &World) {
    let config = world.cluster.lab.dir.join("docker/config.json");
    let mode = fs::metadata(&config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read_to_string(&config).unwrap().contains(PRIVATE_REGISTRY));
    world.ok(&["logout", PRIVATE_REGISTRY]);
    assert!(!fs::read_to_string(&config).unwrap().contains(PRIVATE_REGISTRY));
    let said = world.cluster.ctl(&[
        "service",
        "update",
        "--with-registry-auth",
        "--detach",
        "--label-add",
        "a=b",
        "app",
    ]);
    let note = format!("there is no login for {PRIVATE_REGISTRY} here");
    assert!(said.code == 0 && said.both().contains(&note), "{}", said.both());
}

/// Looks wherever a password could have got to.
fn nobody_sees(world: &World, password: &str) {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{password}"));
    let shows = |bytes: &[u8]| {
        let has = |secret: &str| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        has(password) || has(&basic)
    };
    for words in [
        &["service", "inspect", "app"][..],
        &["--format", "json", "service", "ls"],
        &["--format", "json", "service", "ps", "app"],
        &["--format", "json", "ps"],
        &["events", "--since", "1h", "--until", "0s"],
        &["--format", "json", "events", "--since", "1h", "--until", "0s"],
        &["info"],
    ] {
        let said = world.ok(words);
        assert!(!said.is_empty() && !shows(said.as_bytes()), "{words:?}: {said}");
    }
    for host in [world.cluster.host(1), world.cluster.host(2)] {
        let log = fs::read(host.log()).unwrap();
        assert!(!log.is_empty() && !shows(&log), "the log of {}", host.name);
        for process in fs::read_dir("/proc").unwrap().flatten() {
            for file in ["cmdline", "environ"] {
                // It may have ended, or be nothing but a number.
                let bytes = fs::read(process.path().join(file)).unwrap_or_default();
                assert!(!shows(&bytes), "{}/{file}", process.path().display());
            }
        }
        on_disk(host, &shows);
    }
}

/// Managers keep it, for their own eyes; agents do not.
fn on_disk(host: &Host, shows: &dyn Fn(&[u8]) -> bool) {
    let manager = host.state_dir().join("manager");
    let mut kept = 0;
    for file in files([host.state_dir(), host.run_dir()].into()) {
        if !shows(&fs::read(&file).unwrap_or_default()) {
            continue;
        }
        assert!(file.starts_with(&manager), "{}", file.display());
        let closed =
            |path: &Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 == 0);
        assert!(file.ancestors().take_while(|p| p.starts_with(&manager)).any(closed), "{file:?}");
        kept += 1;
    }
    assert_eq!(kept > 0, host.name == "h1", "{} has it in {kept} files", host.name);
}

fn files(mut rest: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => rest.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
