//! The bytes of what outlives a program, frozen. `golden/` holds a file for each format and each version
//! that there has been, and none of them is ever changed or removed: what was once written has to be
//! read for as long as a container may live that it belongs to.
//!
//! Who changes a format raises its number and runs the tests with `SHOAL_GOLDEN=new`, which writes the
//! files that are missing, and only those.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use shoal_types::time::Timestamp;

use super::file::{self, Kept};
use super::log::LogWriter;
use super::mounts::{MountSetup, MountSource};
use super::protocol::{Failure, Hello, Message, Op, PROTOCOL, Request, Status};
use super::setup::{Common, Confinement, Setup};
use crate::cgroup::{Hierarchy, Layout};
use crate::seccomp::Instruction;
use crate::{ContainerId, ExitStatus, Layers, LogLimits, NetworkMode, ProcessIdentity, Stream};

/// The log's format has no number inside: it is Docker's, and another one would be in another directory.
const LOG_VERSION: u32 = 0;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/supervise/golden")
}

/// Every file: name, version, bytes.
fn all() -> Vec<(String, u32, Vec<u8>)> {
    let files = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let (name, version) = stem.rsplit_once('-').expect("name-version");
            (name.to_owned(), version.parse().expect("a version"), fs::read(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

fn supervisor() -> ProcessIdentity {
    ProcessIdentity { pid: 4711, start_ticks: 123_456_789 }
}

fn exit() -> ExitStatus {
    ExitStatus {
        code: None,
        signal: Some(9),
        oom_killed: true,
        at: Some(Timestamp::from_nanos(1_767_225_600_000_000_001)),
        message: Some("processes in it were killed for want of memory: 2".to_owned()),
    }
}

fn setup() -> Setup {
    let hierarchy = |name: &str| Hierarchy {
        controllers: vec![name.to_owned()],
        root: Path::new("/sys/fs/cgroup").join(name),
    };
    let mount = |at: &str, source| MountSetup { at: at.into(), source, attributes: 0x0020_0001 };
    Setup {
        common: Common {
            id: ContainerId::new("c1").unwrap(),
            run_dir: "/run/shoal/containers/c1".into(),
            layout: Layout::Hierarchies(vec![hierarchy("memory"), hierarchy("pids")]),
            cgroup: "/shoal/ctr-c1".to_owned(),
            own_cgroups: true,
            home_given: true,
            read_only_root: true,
            confinement: Confinement {
                bounding: 0xa804_25fb,
                effective: 0xa804_25fb,
                permitted: 0xa804_25fb,
                no_new_privileges: true,
                seccomp: vec![Instruction { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }],
            },
        },
        state_dir: "/var/lib/shoal/containers/c1".into(),
        layers: Layers(vec!["/var/lib/shoal/images/layers/a".into()]),
        resources: LinuxResources::default(),
        cgroup_mount: true,
        network: NetworkMode::Own,
        tty: true,
        open_stdin: true,
        log: LogLimits { max_bytes: 1 << 20, max_files: 3 },
        user: "app:extra".to_owned(),
        mounts: vec![
            mount("/data", MountSource::Bind("/srv/data".into())),
            mount("/etc/hosts", MountSource::Copy("/run/shoal/hosts".into())),
            mount("/tmp", MountSource::Tmpfs(vec![("size".to_owned(), "64k".to_owned())])),
        ],
        net_sysctls: BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".into(), "0".into())]),
        labels: BTreeMap::from([("service".to_owned(), "web".to_owned())]),
    }
}

fn requests(version: u32) -> Vec<Request> {
    let hello = (version > 0).then_some(Hello { protocol: version, needs: 0 });
    let ops = [Op::Status, Op::Start, Op::Signal(15), Op::Quit];
    let numbered = (0u32..).zip(ops);
    numbered.map(|(seq, op)| Request { seq, op, hello: hello.filter(|_| seq == 0) }).collect()
}

fn messages(version: u32) -> Vec<Message> {
    let init = ProcessIdentity { pid: 4720, start_ticks: 123_456_999 };
    let reply = |seq, result| Message::Reply { seq, result };
    let status = |init| Status { supervisor: supervisor(), init };
    let text = str::to_owned;
    let mut failures = vec![
        Failure::CommandNotFound { command: text("serve") },
        Failure::CommandNotExecutable { command: text("serve"), reason: text("denied") },
        Failure::UnknownUser { user: text("app"), reason: text("not in /etc/passwd") },
        Failure::NotRunning,
        Failure::Other { stage: text("making pipes"), reason: text("too many open files") },
    ];
    failures.push(match version {
        // There was one more, which nothing has ever been answered.
        0 => Failure::Other {
            stage: text("what the supervisor was asked"),
            reason: text("it says \"no_terminal\""),
        },
        _ => Failure::Unsupported { op: text("dance") },
    });
    if version > 0 {
        failures.push(Failure::OtherVersion { reason: text("the setup has format 9") });
    }
    let hello = (version > 0).then_some(Message::Hello(Hello { protocol: version, needs: 0 }));
    let mut all: Vec<Message> = hello.into_iter().collect();
    all.extend([
        Message::Prepared,
        Message::NotPrepared(failures[4].clone()),
        reply(0, Ok(status(None))),
        reply(1, Ok(status(Some(init)))),
        Message::Exited(exit()),
        Message::Exited(ExitStatus {
            code: Some(3),
            at: Some(Timestamp::from_nanos(5)),
            ..ExitStatus::default()
        }),
    ]);
    all.extend((2u32..).zip(failures).map(|(seq, failure)| reply(seq, Err(failure))));
    all
}

fn lines<T: serde::Serialize>(all: &[T]) -> Vec<u8> {
    let line = |one: &T| [serde_json::to_vec(one).unwrap(), b"\n".to_vec()].concat();
    all.iter().flat_map(line).collect()
}

fn log() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(dir.path(), LogLimits::default()).unwrap();
    writer.output(Stream::Stdout, b"one \xf0\x9f\x90\x9f\n");
    writer.output(Stream::Stderr, b"not \xff text\n");
    writer.finish();
    fs::read(dir.path().join(super::log::file_name(0))).unwrap()
}

/// What today's program writes: name, version, bytes.
fn today() -> Vec<(&'static str, u32, Vec<u8>)> {
    fn of<T: Kept>(name: &'static str, contents: &T) -> (&'static str, u32, Vec<u8>) {
        (name, T::VERSION, file::to_bytes(contents).unwrap())
    }
    vec![
        of("setup", &setup()),
        of("supervisor", &supervisor()),
        of("exit", &exit()),
        ("requests", PROTOCOL, lines(&requests(PROTOCOL))),
        ("messages", PROTOCOL, lines(&messages(PROTOCOL))),
        ("log", LOG_VERSION, log()),
    ]
}

/// The times of a log's entries are those of the writing.
fn without_times(log: &[u8]) -> Vec<serde_json::Value> {
    let lines = log.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut entry: serde_json::Value = serde_json::from_slice(line).unwrap();
            let time = entry["time"].take();
            assert!(super::log::parse_rfc3339(time.as_str().unwrap()).is_some(), "{time}");
            entry
        })
        .collect()
}

#[test]
fn what_is_written_has_a_file_of_its_version_and_is_as_it_says() {
    for (name, version, bytes) in today() {
        let path = golden().join(format!("{name}-{version}.json"));
        if !path.exists() && std::env::var("SHOAL_GOLDEN").is_ok_and(|word| word == "new") {
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if name == "log" {
            assert_eq!(without_times(&kept), without_times(&bytes), "{}", path.display());
            continue;
        }
        assert_eq!(
            String::from_utf8_lossy(&kept),
            String::from_utf8_lossy(&bytes),
            "the format has changed: it needs another number, and its file beside {}",
            path.display()
        );
    }
}

#[test]
fn everything_that_was_ever_written_is_read() {
    let files = all();
    for (name, version, bytes) in &files {
        let what = format!("{name}-{version}");
        let each = || bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        match name.as_str() {
            "setup" => {
                assert_eq!(file::from_bytes::<Setup>(bytes).unwrap(), setup(), "{what}");
                assert_eq!(file::from_bytes::<Common>(bytes).unwrap(), setup().common, "{what}");
            }
            "supervisor" => {
                assert_eq!(file::from_bytes::<ProcessIdentity>(bytes).unwrap(), supervisor());
            }
            "exit" => assert_eq!(file::from_bytes::<ExitStatus>(bytes).unwrap(), exit(), "{what}"),
            "requests" => {
                let read: Vec<_> = each().map(|line| Request::read(line).unwrap()).collect();
                // Of protocol 0 there was one more, which nothing has ever asked for.
                let known = read.into_iter().filter(|r| !matches!(r.op, Op::Unknown(_)));
                assert_eq!(known.collect::<Vec<_>>(), requests(*version), "{what}");
            }
            "messages" => {
                let read = each().map(|line| Message::read(line).unwrap().unwrap());
                assert_eq!(read.collect::<Vec<_>>(), messages(*version), "{what}");
            }
            // Read by the runtime, which has a test for it.
            "log" => assert_eq!(without_times(bytes).len(), 2, "{what}"),
            _ => panic!("nothing reads golden/{what}"),
        }
    }
    let has = |name: &str, version| files.iter().any(|(n, v, _)| n == name && *v == version);
    for (name, version, _) in today() {
        assert!((0..=version).all(|v| has(name, v)), "a version of {name} is missing");
    }
}

/// As a program of the future would have them: with fields, words and messages that are not known.
#[test]
fn what_is_not_known_is_passed_over_and_nothing_else_is_lost() {
    let init = ProcessIdentity { pid: 2, start_ticks: 3 };
    let known = [
        (
            r#"{"hello":{"protocol":9,"needs":1,"build":"x"},"trace":1}"#,
            Some(Message::Hello(Hello { protocol: 9, needs: 1 })),
        ),
        (r#""feeling_fine""#, None),
        (r#"{"feeling":{"well":true}}"#, None),
        (
            r#"{"trace":7,"reply":{"seq":4,"more":[],"result":{"Ok":{"supervisor":{"pid":1,"start_ticks":2,"x":0},"init":{"pid":2,"start_ticks":3},"paused":true}}}}"#,
            Some(Message::Reply {
                seq: 4,
                result: Ok(Status {
                    supervisor: ProcessIdentity { pid: 1, start_ticks: 2 },
                    init: Some(init),
                }),
            }),
        ),
        (
            r#"{"exited":{"code":3,"core_dumped":true}}"#,
            Some(Message::Exited(ExitStatus { code: Some(3), ..ExitStatus::default() })),
        ),
    ];
    for (line, expected) in known {
        assert_eq!(Message::read(line.as_bytes()).unwrap(), expected, "{line}");
    }
    let odd = br#"{"reply":{"seq":5,"result":{"Err":{"frozen":{"since":1}}}}}"#;
    let Some(Message::Reply { seq: 5, result: Err(Failure::Other { reason, .. }) }) =
        Message::read(odd).unwrap()
    else {
        panic!()
    };
    assert!(reason.contains("frozen"), "{reason}");
    let odd = br#"{"reply":{"seq":6,"result":{"Later":{}}}}"#;
    assert!(matches!(
        Message::read(odd).unwrap(),
        Some(Message::Reply { seq: 6, result: Err(Failure::Other { .. }) })
    ));
    let odd = br#"{"exited":{"code":"three"}}"#;
    let Some(Message::Exited(status)) = Message::read(odd).unwrap() else { panic!() };
    assert!(status.code.is_none() && status.message.unwrap().contains("three"));
    for (line, op) in [
        (r#"{"seq":1,"op":"start","wanted_by":"me"}"#, Op::Start),
        (r#"{"seq":1,"op":{"signal":15,"to":"all"}}"#, Op::Signal(15)),
        (r#"{"seq":1,"op":{"resize":{"rows":1,"cols":2}}}"#, Op::Unknown("resize".to_owned())),
        (r#"{"seq":1,"op":"dance"}"#, Op::Unknown("dance".to_owned())),
        (r#"{"seq":1}"#, Op::Unknown("a request without an operation".to_owned())),
    ] {
        assert_eq!(
            Request::read(line.as_bytes()).unwrap(),
            Request { seq: 1, op, hello: None },
            "{line}"
        );
    }
    for garbled in ["", "start", "[1", "\"start\"", "{\"seq\":"] {
        assert!(Request::read(garbled.as_bytes()).is_err(), "{garbled}");
    }
    assert!(Message::read(b"{\"reply\":").is_err());
}

#[test]
fn a_file_of_the_future_is_read_unless_it_says_that_it_cannot_be() {
    for (name, version, bytes) in
        today().into_iter().filter(|(.., b)| b.starts_with(b"{\"version\""))
    {
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        value["version"] = (version + 6).into();
        value["weather"] = serde_json::json!({"sun": [1, 2]});
        let later = serde_json::to_vec(&value).unwrap();
        value["needs"] = (version + 1).into();
        let foreign = serde_json::to_vec(&value).unwrap();
        let errors = match name {
            "setup" => {
                assert_eq!(file::from_bytes::<Setup>(&later).unwrap(), setup());
                // What those who join do not look at may have words that they do not know.
                let mut odd: serde_json::Value = serde_json::from_slice(&later).unwrap();
                odd["network"] = "tunnel".into();
                odd["mounts"][0]["source"] = "moon".into();
                let odd = serde_json::to_vec(&odd).unwrap();
                assert_eq!(file::from_bytes::<Common>(&odd).unwrap(), setup().common);
                file::from_bytes::<Common>(&foreign).unwrap_err().to_string()
            }
            "supervisor" => {
                assert_eq!(file::from_bytes::<ProcessIdentity>(&later).unwrap(), supervisor());
                file::from_bytes::<ProcessIdentity>(&foreign).unwrap_err().to_string()
            }
            "exit" => {
                assert_eq!(file::from_bytes::<ExitStatus>(&later).unwrap(), exit());
                let dir = tempfile::tempdir().unwrap();
                fs::write(dir.path().join(super::setup::EXIT_FILE), &foreign).unwrap();
                // It has ended, whatever else is said there.
                let status = super::exit::read(dir.path()).unwrap().expect("an end");
                assert_eq!(status.shell_code(), None);
                status.message.unwrap()
            }
            _ => panic!("{name} is read by nothing"),
        };
        let expected = format!(
            "format {}, which needs a program that knows format {}",
            version + 6,
            version + 1
        );
        assert!(errors.contains(&expected), "{errors}");
    }
}
