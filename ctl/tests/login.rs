//! `login` and `logout` as programs and people use them, against a registry that this test plays.

#![allow(clippy::unwrap_used, reason = "a test: panics are its voice")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// base64 of `user:hunter2`.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// A registry that asks for a password itself, or sends to a token server, which is itself.
fn registry(tokens: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let realm = format!("http://{address}/token");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), tokens.then_some(realm.as_str()));
        }
    });
    address
}

fn answer(mut stream: TcpStream, realm: Option<&str>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut lines, mut body) = (Vec::new(), String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let found = lines.iter().filter_map(|l| l.split_once(": "));
        found.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).next()
    };
    let length: u64 = header("content-length").map_or(0, |l| l.parse().unwrap());
    reader.take(length).read_to_string(&mut body).unwrap();
    let (path, shown) = (&lines[0], header("authorization"));
    let refused =
        |challenge: &str| format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n");
    let ok = "HTTP/1.1 200 OK\r\n".to_owned();
    let (head, said) = match realm {
        None if shown.as_deref() == Some(BASIC) => (ok, "{}"),
        None => (refused("Basic realm=x"), ""),
        Some(_) if path.starts_with("GET /token") && shown.as_deref() == Some(BASIC) => {
            (ok, r#"{"token":"t","refresh_token":"identity"}"#)
        }
        Some(_) if path.starts_with("POST /token") && body.contains("refresh_token=identity") => {
            (ok, r#"{"access_token":"t"}"#)
        }
        Some(_) if path.contains("/v2/ ") && shown.as_deref() == Some("Bearer t") => (ok, "{}"),
        Some(realm) => (refused(&format!("Bearer realm=\"{realm}\",service=\"s\"")), ""),
    };
    let length = said.len();
    let _ = write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{said}");
}

fn shoalctl(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoalctl"));
    command.args(words).env("DOCKER_CONFIG", dir).env_remove("HOME");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", dir.display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

fn run(dir: &Path, words: &[&str], input: &str) -> (bool, String) {
    let mut child = shoalctl(dir, words).spawn().unwrap();
    // It may not be read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert!(!said.contains("hunter2"), "{said}");
    (output.status.success(), said)
}

fn config(dir: &Path) -> String {
    fs::read_to_string(dir.join("config.json")).unwrap_or_default()
}

#[test]
fn a_password_is_checked_kept_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, registry) = (dir.path(), registry(false));
    let from_stdin = ["login", "-u", "user", "--password-stdin", &registry];
    let (done, words) = run(dir, &from_stdin, "wrong\n");
    assert!(!done && words.contains("does not accept this user and password"), "{words}");
    assert_eq!(config(dir), "", "what is not accepted is not kept");

    let (done, words) = run(dir, &from_stdin, "hunter2\r\n");
    assert!(done && words.contains(&format!("logged in to {registry} as user")), "{words}");
    assert!(words.contains("kept unencrypted in"), "{words}");
    assert!(config(dir).contains(&BASIC["Basic ".len()..]), "{}", config(dir));
    let mode = fs::metadata(dir.join("config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (done, words) = run(dir, &["login", &registry], "");
    assert!(done && words.contains("already"), "{words}");

    let (done, words) = run(dir, &["logout", &registry], "");
    assert!(done && words.contains("logged out of"), "{words}");
    assert!(!config(dir).contains(&registry), "{}", config(dir));
    let (done, words) = run(dir, &["logout", &registry], "");
    assert!(done && words.contains("there was no login"), "{words}");

    let (done, words) = run(dir, &["login", "-u", "user", &registry], "");
    assert!(!done && words.contains("no terminal"), "{words}");
    let output = shoalctl(dir, &["login", "-u", "user", "-p", "hunter2", &registry]).output();
    let words = said(&output.unwrap());
    assert!(words.contains("visible to other users") && words.contains("logged in"), "{words}");
}

#[test]
fn a_token_server_gives_an_identity_that_replaces_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, registry) = (dir.path(), registry(true));
    let words = ["login", "-u", "user", "--password-stdin", &registry];
    let (done, words) = run(dir, &words, "hunter2");
    assert!(done, "{words}");
    let kept = config(dir);
    assert!(kept.contains("\"identitytoken\": \"identity\""), "{kept}");
    assert!(!kept.contains(&BASIC["Basic ".len()..]), "the password is not kept: {kept}");
    let (done, words) = run(dir, &["login", &registry], "");
    assert!(done && words.contains("already"), "{words}");
}

#[test]
fn a_credential_helper_keeps_it_instead() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, registry) = (dir.path(), registry(false));
    let here = dir.display();
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>{here}/calls\ncase $1 in store) cat >{here}/kept;; \
         get) cat {here}/kept || exit 1;; erase) rm {here}/kept;; esac\n"
    );
    let helper = dir.join("docker-credential-test");
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("config.json"), "{\"credsStore\": \"test\", \"psFormat\": \"x\"}").unwrap();
    let words = ["login", "-u", "user", "--password-stdin", &registry];
    let (done, words) = run(dir, &words, "hunter2");
    assert!(done && !words.contains("unencrypted"), "{words}");
    let kept = fs::read_to_string(dir.join("kept")).unwrap();
    assert!(kept.contains("\"Secret\":\"hunter2\""), "{kept}");
    assert!(
        !config(dir).contains("hunter2") && config(dir).contains("psFormat"),
        "{}",
        config(dir)
    );
    let (done, words) = run(dir, &["login", &registry], "");
    assert!(done && words.contains("already"), "{words}");
    let (done, words) = run(dir, &["logout", &registry], "");
    assert!(done && words.contains("logged out"), "{words}");
    assert!(!dir.join("kept").exists());
    let calls = fs::read_to_string(dir.join("calls")).unwrap();
    assert!(calls.starts_with("store\nget\n"), "an action is all that an argument says: {calls}");
}

/// Reads what a program asks until it is there.
fn asked(child: &mut Child, prompt: &str) {
    let stderr = child.stderr.as_mut().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(prompt.as_bytes()) {
        let mut byte = [0];
        stderr.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
}

/// Answers what a program asks on a terminal; what it says, and what the terminal has shown.
fn on_a_terminal(mut command: Command, answers: &[(&str, &str)]) -> (bool, String, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let other_end = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut child = command.stdin(other_end.try_clone().unwrap()).spawn().unwrap();
    let mut terminal = File::from(terminal);
    for (prompt, answer) in answers {
        asked(&mut child, prompt);
        terminal.write_all(answer.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    // Echo is on again, and all that it showed is here.
    terminal.write_all(b"end\n").unwrap();
    let mut shown = Vec::new();
    while !shown.ends_with(b"end\r\n") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        shown.push(byte[0]);
    }
    (output.status.success(), said(&output), String::from_utf8(shown).unwrap())
}

#[test]
fn what_is_typed_for_a_password_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, registry) = (dir.path(), registry(false));
    let command = shoalctl(dir, &["login", &registry]);
    let answers = [("Username: ", "user\n"), ("Password: ", "hunter2\n")];
    let (done, words, shown) = on_a_terminal(command, &answers);
    assert!(done, "{words}");
    assert_eq!(shown, "user\r\nend\r\n");
}

/// A token lets a host in: it is as good as a password.
#[test]
fn what_is_typed_for_a_join_token_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let words = ["--agent-socket", socket.to_str().unwrap(), "join", "10.0.0.1"];
    let command = shoalctl(dir.path(), &words);
    let (done, words, shown) = on_a_terminal(command, &[("Join token: ", "SHOAL-1-hush\n")]);
    // It was read, and there is nobody here to take it.
    assert!(!done && words.contains("cannot reach the agent"), "{words}");
    assert!(!words.contains("hush"), "{words}");
    assert_eq!(shown, "end\r\n");
    let command = shoalctl(dir.path(), &["join", "10.0.0.1"]);
    let (done, words, shown) = on_a_terminal(command, &[("Join token: ", "\n")]);
    assert!(!done && words.contains("no join token in standard input"), "{words}");
    assert_eq!(shown, "end\r\n");
}
