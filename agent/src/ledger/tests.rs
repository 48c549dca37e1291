use shoal_types::object::{Meta, TaskStatus};
use shoal_types::spec::{ContainerSpec, Healthcheck, NetworkSpec};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::*;
use crate::testing::assigner::task;

fn record(id: u128) -> TaskRecord {
    TaskRecord {
        task: task(id, ContainerSpec::default()),
        status: TaskStatus::new(TaskState::Running, Timestamp::from_secs(9), "started"),
        started: Some(Boot::new("first")),
        interrupted: true,
        preparation: Some(Preparation {
            image: "sha256:ab".to_owned(),
            stop_signal: 3,
            healthcheck: Some(Healthcheck { retries: 4, ..Healthcheck::default() }),
            note: "n".to_owned(),
        }),
    }
}

fn golden(name: &str, today: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/golden/{name}.hex"));
    let today = hex::encode(today);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|e| panic!("{}: {e}; to be in it:\n{today}", path.display()));
    assert_eq!(text.trim(), today, "{}", path.display());
    hex::decode(text.trim()).unwrap()
}

/// If this fails, an agent of today cannot read the ledger of an earlier one: it is the code that
/// has to change, not the file. What an earlier version has written keeps its file beside a new one.
#[test]
fn the_ledger_of_the_first_version_is_still_read() {
    let bytes = golden("ledger_task.v1", &encode(&record(7)).encode_to_vec());
    assert_eq!(read(pb::LedgerTask::decode(&*bytes).unwrap()).unwrap(), record(7));
    let network = Network {
        id: 5.into(),
        meta: Meta::default(),
        spec: NetworkSpec { name: "n".to_owned(), ..NetworkSpec::default() },
        stack_id: None,
        predefined: true,
        subnets: Vec::new(),
    };
    let networks = pb::LedgerNetworks { networks: vec![(&network).into()], version: VERSION };
    let bytes = golden("ledger_networks.v1", &networks.encode_to_vec());
    assert_eq!(pb::LedgerNetworks::decode(&*bytes).unwrap(), networks);
    let read = networks.networks.into_iter().map(Network::try_from);
    assert_eq!(read.collect::<Result<Vec<_>, _>>().unwrap(), [network]);
    let cluster_id = ClusterId::from(8).to_string();
    let term = pb::LedgerTerm { cluster_id, term: 7, version: VERSION };
    let bytes = golden("ledger_term.v1", &term.encode_to_vec());
    assert_eq!(pb::LedgerTerm::decode(&*bytes).unwrap(), term);
}

fn bytes_of(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/golden/{name}.hex"));
    hex::decode(fs::read_to_string(path).unwrap().trim()).unwrap()
}

/// Puts files into a new ledger, by their names below its directory.
fn ledger_of(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(TASKS)).unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

#[test]
fn a_ledger_from_before_there_were_versions_is_read() {
    let id = TaskId::from(7);
    let dir = ledger_of(&[
        (&format!("{TASKS}/{id}"), bytes_of("ledger_task.v0")),
        (NETWORKS, bytes_of("ledger_networks.v0")),
        (TERM, bytes_of("ledger_term.v0")),
    ]);
    let (_, loaded) = Ledger::open(dir.path()).unwrap();
    assert_eq!(loaded.tasks, [(id, record(7))].into());
    assert_eq!(loaded.networks.len(), 1);
    assert_eq!(loaded.term, Some(Term { cluster: 8.into(), number: 7 }));
    assert!(loaded.damaged.is_empty(), "{:?}", loaded.damaged);
}

/// An agent that does not know what a newer one has written would lose it, and take its tasks for
/// lost: whatever runs goes on without it.
#[test]
fn what_a_newer_agent_has_written_is_refused_and_left_alone() {
    let newer = VERSION + 1;
    let id = TaskId::from(7).to_string();
    let task = pb::LedgerTask { version: newer, ..encode(&record(7)) }.encode_to_vec();
    // What it says need not be anything that is known.
    let bare = pb::LedgerTask { version: newer, ..pb::LedgerTask::default() }.encode_to_vec();
    let networks = pb::LedgerNetworks { version: newer, networks: Vec::new() }.encode_to_vec();
    let term = pb::LedgerTerm { version: newer, ..pb::LedgerTerm::default() }.encode_to_vec();
    let name = format!("{TASKS}/{id}");
    for (name, bytes) in
        [(name.as_str(), task), (name.as_str(), bare), (NETWORKS, networks), (TERM, term)]
    {
        let dir = ledger_of(&[(name, bytes.clone()), ("x.new", b"half".to_vec())]);
        let error = Ledger::open(dir.path()).unwrap_err().to_string();
        let expected = format!("{name} has version 2, this agent reads up to 1: start the agent");
        assert!(error.contains(&expected), "{error}");
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), bytes);
        assert!(dir.path().join("x.new").exists(), "{name}");
    }
}

/// A file that is there and that nobody gets to read, whatever is in it.
#[test]
fn what_cannot_be_read_is_not_taken_for_damaged() {
    let id = TaskId::from(7).to_string();
    for name in [&format!("{TASKS}/{id}"), NETWORKS, TERM] {
        let dir = ledger_of(&[("x.new", b"half".to_vec())]);
        // Nothing is mapped at the first address of a process: its reading fails as that of a bad disk.
        std::os::unix::fs::symlink("/proc/self/mem", dir.path().join(name)).unwrap();
        let error = Ledger::open(dir.path()).unwrap_err();
        assert!(matches!(error, LedgerError::Io { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(dir.path().join("x.new").exists(), "{name}");
    }
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, loaded) = Ledger::open(dir.path()).unwrap();
    assert!(loaded.tasks.is_empty() && loaded.networks.is_empty());
    let many: Vec<_> = (1..=100).map(|id| ledger.save(&record(id))).collect();
    for written in many {
        written.await.unwrap();
    }
    let half = TaskRecord { started: None, interrupted: false, preparation: None, ..record(1) };
    ledger.save(&half).await.unwrap();
    ledger.remove(2.into()).await.unwrap();
    ledger.remove(2.into()).await.unwrap();
    let network = Network {
        id: 5.into(),
        meta: Meta::default(),
        spec: NetworkSpec { name: "n".to_owned(), ..NetworkSpec::default() },
        stack_id: None,
        predefined: false,
        subnets: Vec::new(),
    };
    let networks: BTreeMap<_, _> = [(network.id, Arc::new(network))].into();
    ledger.save_networks(&networks).await.unwrap();
    let term = Term { cluster: 8.into(), number: 7 };
    ledger.save_term(term).await.unwrap();
    let (_, loaded) = Ledger::open(dir.path()).unwrap();
    assert_eq!(loaded.tasks.len(), 99);
    assert_eq!(loaded.tasks[&1.into()], half);
    assert_eq!(loaded.tasks[&3.into()], record(3));
    assert_eq!(loaded.networks, networks);
    assert_eq!(loaded.term, Some(term));
    assert!(loaded.damaged.is_empty());
}

#[tokio::test]
async fn the_last_of_several_changes_of_a_task_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path()).unwrap();
    for round in 0..20 {
        let mut last = record(1);
        let first = ledger.save(&last);
        let removed = ledger.remove(1.into());
        last.status.message = round.to_string();
        let second = ledger.save(&last);
        for written in [first, removed, second, ledger.flush()] {
            written.await.unwrap();
        }
        let (_, loaded) = Ledger::open(dir.path()).unwrap();
        assert_eq!(loaded.tasks[&1.into()], last);
    }
}

#[tokio::test]
async fn a_refusal_of_the_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path()).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(matches!(ledger.save(&record(1)).await, Err(LedgerError::Io { .. })));
}

/// Also where both are written in one go, and the agent is killed in the middle of it.
#[test]
fn no_task_is_on_disk_before_its_networks() {
    let dir = tempfile::tempdir().unwrap();
    let (networks, task) = (dir.path().join(NETWORKS), dir.path().join("1"));
    // Writing stands still at a pipe that nobody reads.
    let pipe = networks.with_extension("new");
    let (mode, kind) = (rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let (changes, queue) = mpsc::channel();
    for path in [networks, task.clone()] {
        let (answer, _) = oneshot::channel();
        changes.send(Change { path, what: What::Write(vec![1]), answer }).unwrap();
    }
    drop(changes);
    let writer = std::thread::spawn(move || write_all(&queue));
    let until = std::time::Instant::now() + std::time::Duration::from_millis(300);
    while std::time::Instant::now() < until {
        assert!(!task.exists());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(File::open(&pipe).unwrap());
    writer.join().unwrap();
    assert!(task.exists());
}
