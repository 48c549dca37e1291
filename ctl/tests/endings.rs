//! What programs read last when a command ends before anything began.

#![allow(clippy::unwrap_used, reason = "a test: panics are its voice")]

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shoal_client::context::{Context, Store};
use shoal_manager::ca::CertificateAuthority;
use shoal_manager::clock;
use shoal_transport::{PeerId, Role};
use shoal_types::id::{ClusterId, UserId};

fn spawn(dir: &tempfile::TempDir, line: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_shoalctl"))
        .args(line.split_whitespace())
        .current_dir(dir.path())
        .env("SHOAL_CONFIG", dir.path().join("config"))
        .env_remove("SHOAL_CONTEXT")
        .env("SHOAL_AGENT_SOCKET", dir.path().join("none.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, the last line as JSON, and what people read.
fn ended(child: Child) -> (i32, serde_json::Value, String) {
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let last = out.lines().last().unwrap_or("null");
    let record = serde_json::from_str(last).unwrap();
    (output.status.code().unwrap_or(-1), record, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn errors_before_anything_began_end_with_a_record() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.yaml"), "services: {web: {imige: x}}\n").unwrap();
    let lines = [
        ("stack deploy --format json -c bad.yaml shop", 1, "error", "imige"),
        ("--format json stack deploy -c none.yaml shop", 1, "error", "none.yaml"),
        ("stack rm --format json shop", 1, "error", "there is no context"),
        ("stack rollback --format=json shop", 1, "error", "there is no context"),
        ("service create --format json nginx", 1, "error", "there is no context"),
        ("service scale --format json web=two", 2, "usage-error", "SERVICE=REPLICAS"),
        ("service rm --format json web", 1, "error", "there is no context"),
        ("service update --format json --frob web", 2, "usage-error", "--frob"),
        (
            "node update --format json --availability drain --wait h1",
            1,
            "error",
            "there is no context",
        ),
        ("node rm --format json h1 h2", 1, "error", "there is no context"),
        ("network rm --format json n", 1, "error", "there is no context"),
        ("user rm --format json u", 1, "error", "there is no context"),
        ("volume rm --format json v", 1, "error", "there is no context"),
        ("image rm --format json x y", 1, "error", "none.sock"),
        ("context rm --format json a b", 1, "error", "\"b\""),
        ("service logs --format json web", 1, "error", "there is no context"),
        ("stats --format json", 1, "error", "there is no context"),
        ("events --format json", 1, "error", "there is no context"),
    ];
    for (line, code, outcome, reason) in lines {
        let (exit, record, told) = ended(spawn(&dir, line));
        assert_eq!(exit, code, "{line}: {told}");
        assert_eq!(record["Event"], "outcome", "{line}: {record}");
        assert_eq!(record["Version"], 1, "{line}");
        assert_eq!(record["ExitCode"], code, "{line}");
        assert_eq!(record["Outcome"], outcome, "{line}");
        assert!(record["Reason"].as_str().unwrap().contains(reason), "{line}: {record}");
        assert!(record["Time"].as_str().unwrap().ends_with('Z'), "{line}: {record}");
        assert!(told.starts_with("error: "), "people are told as well: {told}");
    }
}

#[test]
fn a_signal_ends_with_a_record_even_while_the_manager_is_silent() {
    for (signal, code, outcome) in
        [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")]
    {
        let dir = tempfile::tempdir().unwrap();
        // A manager that takes the connection and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ca = CertificateAuthority::create(ClusterId::from(1), clock::now()).unwrap();
        let user = PeerId::User(UserId::from(7));
        let credentials = ca.issue_credentials(user, Role::User, clock::now()).unwrap();
        let context = Context {
            cluster: ca.cluster().to_string(),
            endpoints: vec![listener.local_addr().unwrap().to_string()],
            managers: Vec::new(),
        };
        Store::at(dir.path().join("config")).add("mine", context, &credentials).unwrap();
        let child = spawn(&dir, "service rm --format json web");
        // Once it has said something it waits for an answer, and listens for signals.
        let (mut connection, _) = listener.accept().unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        connection.read_exact(&mut [0]).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let (exit, record, told) = ended(child);
        drop(connection);
        assert_eq!(exit, code, "{told}");
        assert_eq!(record["Outcome"], outcome, "{record}");
        assert_eq!(record["ExitCode"], code, "{record}");
    }
}
