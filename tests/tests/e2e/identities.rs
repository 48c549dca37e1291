//! Who is let in, and who is told why not.

use anyhow::ensure;
use shoal_tests::eventually::eventually;
use shoal_tests::host::{Host, Lab, Programs, Role, Said, run, sweep};
use shoal_tests::skip::skip;
use shoal_transport::Credentials;

use crate::world::PATIENCE;

/// Hosts that are in no cluster yet.
pub(crate) struct Hosts {
    pub(crate) lab: Lab,
}

impl Hosts {
    pub(crate) fn start(count: usize) -> Self {
        sweep().unwrap();
        let lab = Lab::prepare(None, count, &Programs::find().unwrap()).unwrap();
        let hosts = Self { lab };
        hosts.lab.power_on().unwrap();
        for host in &hosts.lab.hosts {
            host.boot().unwrap();
        }
        hosts
    }

    pub(crate) fn init(&self, contexts: &str, host: &Host) {
        self.ok(contexts, host, &["init", "--advertise-addr", &host.address]);
    }

    /// `shoalctl` with the contexts of one name, on the machine of a host.
    fn ctl(&self, contexts: &str, host: &Host, words: &[&str]) -> Said {
        let mut command = self.lab.ctl(host);
        command.env("SHOAL_CONFIG", self.lab.dir.join(contexts));
        run(command.args(words), PATIENCE).unwrap()
    }

    pub(crate) fn ok(&self, contexts: &str, host: &Host, words: &[&str]) -> String {
        let said = self.ctl(contexts, host, words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.both());
        said.out
    }

    fn refused(&self, contexts: &str, host: &Host, words: &[&str], expected: &[&str]) {
        let said = self.ctl(contexts, host, words);
        assert_ne!(said.code, 0, "{words:?}: {}", said.both());
        for part in expected {
            assert!(said.both().contains(part), "{words:?} says {part:?}: {}", said.both());
        }
    }
}

impl Drop for Hosts {
    #[expect(clippy::print_stderr, reason = "a test's voice")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in &self.lab.hosts {
                eprintln!("--- log of {}:\n{}", host.name, host.last_words());
            }
        }
        if let Err(error) = self.lab.remove() {
            eprintln!("the lab is not wholly removed: {error:#}");
        }
    }
}

#[test]
fn strangers_are_told_why() {
    if skip() {
        return;
    }
    let hosts = Hosts::start(3);
    let [first, second, third] = &hosts.lab.hosts[..] else { panic!("three hosts") };
    hosts.init("one", first);
    hosts.init("other", second);
    let token = |contexts: &str, host: &Host| {
        hosts.ok(contexts, host, &["join-token", "-q", "worker"]).trim().to_owned()
    };
    let right = tokens(&hosts, &token("one", first), &token("other", second));

    // Let in once; nothing joins by a repeat, and it says so.
    let words = ["join", "--token", &right, &first.address];
    hosts.ok("one", third, &words);
    hosts.refused("one", third, &words, &["this cluster already", "leave it first"]);
    eventually("the host is a member", PATIENCE, || {
        let nodes = hosts.ok("one", first, &["node", "ls", "--format", "json"]);
        ensure!(nodes.contains("\"h3\"") && !nodes.contains("\"h2\""), "{nodes}");
        Ok::<_, anyhow::Error>(())
    });
    foreign_certificates(&hosts);
}

/// Gives the token that is good in the end.
fn tokens(hosts: &Hosts, old: &str, others: &str) -> String {
    let [first, _, third] = &hosts.lab.hosts[..] else { panic!("three hosts") };
    let join = |token: &str, expected: &[&str]| {
        hosts.refused("one", third, &["join", "--token", token, &first.address], expected);
    };
    join("SHOAL-1-nonsense", &["join token"]);
    join(others, &["the token belongs to another cluster"]);
    // The digest of this cluster's root, the secret of the other's token.
    let (root, _) = old.rsplit_once('-').unwrap();
    let (_, secret) = others.rsplit_once('-').unwrap();
    join(&format!("{root}-{secret}"), &["token"]);
    // The old one after a new one was made.
    let rotated = hosts.ok("one", first, &["join-token", "-q", "--rotate", "worker"]);
    join(old, &["token"]);
    rotated.trim().to_owned()
}

/// A user of one cluster who talks to the other.
fn foreign_certificates(hosts: &Hosts) {
    let [first, second, _] = &hosts.lab.hosts[..] else { panic!("three hosts") };
    let load = |contexts: &str| {
        let dir = hosts.lab.dir.join(contexts).join("credentials/default");
        (Credentials::load(&dir).unwrap().unwrap(), dir)
    };
    let ((ours, _), (theirs, dir)) = (load("one"), load("other"));
    let contexts = hosts.lab.dir.join("other/contexts.yaml");
    let text = std::fs::read_to_string(&contexts).unwrap();
    std::fs::write(&contexts, text.replace(&second.address, &first.address)).unwrap();
    // It does not trust what answers there.
    let words = ["node", "ls"];
    hosts.refused("other", first, &words, &["certificate was issued by another cluster's CA"]);
    // It does, but what it shows is worth nothing there.
    let mixed = Credentials::from_pem(
        theirs.chain_pem().to_owned(),
        theirs.key_pem().clone(),
        ours.root_pem().to_owned(),
    );
    mixed.unwrap().save(&dir).unwrap();
    let who = format!("certificate of {}", theirs.identity().id);
    hosts.refused("other", first, &words, &[&who, "was issued by another cluster's CA"]);
}

/// A cluster that was made a hundred days ago and has been off ever since: everybody's certificate
/// has expired. libfaketime sets the clock of the host's programs.
#[test]
fn certificates_that_expired_are_named() {
    if skip() {
        return;
    }
    let hosts = Hosts::start(1);
    let host = &hosts.lab.hosts[0];
    host.crash(Role::Agent).unwrap();
    let past = [
        ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1"),
        ("FAKETIME", "-100d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    host.start_agent_with(&past).unwrap();
    hosts.init("one", host);
    // Its manager lives in the past: what it shows has expired for us.
    hosts.refused("one", host, &["node", "ls"], &["cannot trust", "its certificate expired on"]);

    // A manager certifies itself; what we show has expired for it.
    host.crash(Role::Agent).unwrap();
    host.crash(Role::Manager).unwrap();
    host.start_agent().unwrap();
    eventually("the manager says what has expired", PATIENCE, || {
        let said = hosts.ctl("one", host, &["node", "ls"]);
        ensure!(said.both().contains("certificate of user"), "{}", said.both());
        ensure!(said.code != 0 && said.both().contains("expired on"), "{}", said.both());
        Ok::<_, anyhow::Error>(())
    });
    // Root of a manager's host gets in again, and the host's own agent does so by itself.
    hosts.ok("one", host, &["context", "create", "--local"]);
    eventually("the node is back", PATIENCE, || {
        let log = std::fs::read_to_string(host.log())?;
        let since = log.split("renewed a certificate on request").nth(1);
        ensure!(since.is_some_and(|log| log.contains("session began")), "no session since");
        let nodes = hosts.ok("one", host, &["node", "ls"]);
        ensure!(nodes.contains("Ready"), "{nodes}");
        Ok::<_, anyhow::Error>(())
    });
}
