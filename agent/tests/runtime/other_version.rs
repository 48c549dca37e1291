//! Supervisors of other versions: one from before the greeting, frozen as it was then, one of the future
//! that can be understood, one that cannot, and some that do not speak at all.
//!
//! Each stands at the socket of a real supervisor of a real container, which it asks in its turn, and
//! makes the files of the run directory what its version would have written. What it says is put
//! together here by hand and not with the agent's types: it must not change when they do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// As it is.
    Ours,
    /// Protocol 0: no greeting; hangs up when it hears what it does not know, and on the ninth who comes.
    Old,
    /// Says more than is known, in messages and in files, and can be understood.
    Later,
    /// Says that it cannot be understood, and so do its files.
    Foreign,
    /// Takes connections and says nothing.
    Deaf,
    /// Hangs up at once.
    Busy,
    /// Says what is no protocol at all.
    Babbling,
}

/// Connections that protocol 0 had at the same time.
const OLD_CONNECTIONS: usize = 8;

/// Who waits for supervisors that say nothing, and how many have done so at the same time.
static WAITING: Mutex<Vec<UnixStream>> = Mutex::new(Vec::new());
pub(crate) static WAITED_AT_ONCE: AtomicUsize = AtomicUsize::new(0);

/// Says nothing to somebody, until that hangs up.
fn say_nothing(to: UnixStream) {
    to.set_nonblocking(true).unwrap();
    let mut waiting = WAITING.lock().unwrap();
    waiting.push(to);
    waiting.retain_mut(|stream| {
        let heard = std::io::copy(stream, &mut std::io::sink());
        heard.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    });
    WAITED_AT_ONCE.fetch_max(waiting.len(), Ordering::SeqCst);
}

/// Puts itself in front of the supervisor of a container.
pub(crate) fn stand(version: Version, run_dir: &Path) {
    if version == Version::Ours {
        return;
    }
    fs::rename(run_dir.join("control.sock"), run_dir.join("real.sock")).unwrap();
    for file in [run_dir.join("setup.json"), run_dir.join("supervisor.json")] {
        rewrite(version, &file);
    }
    // The whole path may be longer than a socket's.
    let dir = fs::File::open(run_dir).unwrap();
    let near = |name: &str| format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let listener = UnixListener::bind(near("control.sock")).unwrap();
    let real = near("real.sock");
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        let _dir = dir;
        for agent in listener.incoming() {
            let Ok(agent) = agent else { return };
            let (real, open) = (real.clone(), Arc::clone(&open));
            match version {
                Version::Deaf => say_nothing(agent),
                Version::Busy => drop(agent),
                _ => drop(std::thread::spawn(move || serve(version, agent, &real, &open))),
            }
        }
    });
}

/// As its version writes files.
fn rewrite(version: Version, path: &Path) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let fields = value.as_object_mut().unwrap();
    let is_setup = fields.contains_key("run_dir");
    match version {
        Version::Old => {
            fields.remove("version");
            fields.remove("needs");
        }
        Version::Later | Version::Foreign => {
            // Who supervises is said the same way for ever.
            let needs = if version == Version::Foreign && is_setup { 9 } else { 0 };
            fields.insert("version".into(), json!(9));
            fields.insert("needs".into(), json!(needs));
            fields.insert("weather".into(), json!({"wind": [1, 2, 3]}));
            if is_setup {
                fields.insert("network".into(), json!({"tunnel": {"of": "tomorrow"}}));
                fields.insert("mounts".into(), json!([{"from": "moon"}]));
                fields.remove("log");
            }
        }
        Version::Ours | Version::Deaf | Version::Busy | Version::Babbling => {}
    }
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

fn say(to: &Mutex<UnixStream>, line: &str) -> bool {
    let mut stream = to.lock().unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).is_ok()
}

fn serve(version: Version, agent: UnixStream, real: &str, open: &AtomicUsize) {
    let count = open.fetch_add(1, Ordering::SeqCst) + 1;
    let spoken = Arc::new(Mutex::new(agent.try_clone().unwrap()));
    let greets = match version {
        Version::Old if count > OLD_CONNECTIONS => false,
        Version::Later => {
            say(
                &spoken,
                r#"{"hello":{"protocol":9,"needs":1,"motto":"onwards"},"sent_by":"a shim"}"#,
            ) && say(&spoken, r#""stretching""#)
                && say(&spoken, r#"{"yawned":{"times":2}}"#)
        }
        Version::Foreign => say(&spoken, r#"{"hello":{"protocol":9,"needs":9}}"#),
        Version::Babbling => say(&spoken, "220 smtp.example.org ready"),
        _ => true,
    };
    if greets && let Ok(real) = UnixStream::connect(real) {
        let answers = real.try_clone().unwrap();
        let ends = (agent.try_clone().unwrap(), real.try_clone().unwrap());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if !tell(version, &line, &spoken) {
                    break;
                }
            }
            let _ = ends.0.shutdown(std::net::Shutdown::Both);
        });
        let mut real = real;
        for line in BufReader::new(agent).lines().map_while(Result::ok) {
            match ask(version, &line) {
                Some(line) if writeln!(real, "{line}").is_ok() => {}
                _ => break,
            }
        }
        let _ = real.shutdown(std::net::Shutdown::Both);
        let _ = ends.1.shutdown(std::net::Shutdown::Both);
        let _ = reader.join();
    }
    open.fetch_sub(1, Ordering::SeqCst);
}

/// A request as the real supervisor is asked it; `None` ends the connection.
fn ask(version: Version, line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    let (seq, op) = (value.get("seq")?.as_u64()?, value.get("op")?);
    let known = match op {
        Value::String(word) => ["start", "status", "quit"].contains(&word.as_str()),
        Value::Object(fields) => fields.keys().eq(["signal"]) || fields.keys().eq(["resize"]),
        _ => false,
    };
    (known || version != Version::Old).then(|| json!({"seq": seq, "op": op}).to_string())
}

/// What the real supervisor says, as this version says it.
fn tell(version: Version, line: &str, to: &Mutex<UnixStream>) -> bool {
    let mut value: Value = serde_json::from_str(line).unwrap();
    if value.get("hello").is_some() {
        return true;
    }
    match version {
        Version::Old => say(to, line),
        Version::Later => {
            if let Some(status) = value.pointer_mut("/reply/result/Ok") {
                status["mood"] = json!("fine");
                if status["init"].is_object() {
                    status["init"]["cgroup_id"] = json!(77);
                }
            }
            if let Some(exited) = value.get_mut("exited") {
                exited["core_dumped"] = json!(false);
            }
            if let Some(fields) = value.as_object_mut() {
                fields.insert("trace".into(), json!([1]));
            }
            say(to, r#"{"remark":"here it comes"}"#) && say(to, &value.to_string())
        }
        // In words of its own.
        _ => say(to, &json!({"response": value}).to_string()),
    }
}
