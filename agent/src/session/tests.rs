//! Sessions with a fake manager over the real transport.

mod answers;
mod future;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::ready;
use shoal_types::object::NodeDescription;

use bytes::Bytes;
use shoal_proto::v1;
use shoal_proto::v1::exec_input::Input;
use shoal_proto::v1::exec_output::Output;
use shoal_proto::v1::publish_logs_message::Message as Logs;
use shoal_proto::v1::session_message::Message;
use shoal_transport::{Credentials, LiveCredentials, Role, removed};
use shoal_types::assignment::AssignmentChange;
use shoal_types::id::TaskId;
use shoal_types::object::{TaskStatus, TunnelDescription, TunnelKey, TunnelKind};
use shoal_types::registry_auth::RegistryAuth;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;
use tokio::task::JoinHandle;
use tonic::Status;

use super::*;
use crate::identity::ClusterFile;
use crate::testing::{
    Asked, ExecSide, FakeManager, FakeWorkload, Period, ProcessSide, TestCa, eventually,
};
use shoal_agent_runtime::{ExitStatus, LogLine, Stream, TermSize};

struct Bench {
    workload: Arc<FakeWorkload>,
    standing: watch::Sender<Standing>,
    line: CredentialLine,
    member: Member,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// An answer to a heartbeat is waited for as long as is possible.
const PATIENT: Period = Period(Duration::from_secs(15));

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    fn start(credentials: LiveCredentials, managers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = IdentityStore::new(dir.path().to_owned());
        store.save_cluster(&ClusterFile { managers, ..ClusterFile::default() }).expect("written");
        let managers = Arc::new(Managers::load(store.clone()).expect("read"));
        let workload = Arc::new(FakeWorkload::default());
        let standing = watch::Sender::new(Standing::Inactive);
        let describe = || {
            let hostname = "me".to_owned();
            ready(NodeDescription { hostname, ..Default::default() }).boxed()
        };
        let line = CredentialLine::default();
        let context = SessionContext {
            line: line.clone(),
            workload: workload.clone(),
            describe: Arc::new(describe),
            standing: standing.clone(),
        };
        let manager_socket = dir.path().join("manager.sock");
        let role = Default::default();
        let member = Member { credentials, managers, store, manager_socket, role };
        let task = {
            let member = member.clone();
            tokio::spawn(async move { run(&context, &member).await })
        };
        Self { workload, standing, line, member, task, _dir: dir }
    }

    async fn with_manager() -> (Self, FakeManager) {
        Self::with(FakeManager::start(Arc::new(TestCa::new(1))).await).await
    }

    /// With a manager whose sessions outlast a host that is busy with something else.
    async fn with_patient_manager() -> (Self, FakeManager) {
        let manager = FakeManager::start(Arc::new(TestCa::new(1))).await;
        manager.seen().period = PATIENT;
        Self::with(manager).await
    }

    async fn with(manager: FakeManager) -> (Self, FakeManager) {
        let live = manager.ca.live(5, Role::Agent);
        let bench = Self::start(live, vec![manager.address.to_string()]);
        bench.sessions(&manager, 1).await;
        (bench, manager)
    }

    /// Waits for the `n`-th session and its stream of assignments.
    async fn sessions(&self, manager: &FakeManager, n: usize) {
        eventually("session", || {
            let seen = manager.seen();
            (seen.sessions.len() >= n && seen.assignments.len() >= n).then_some(())
        })
        .await;
    }

    async fn standing(&self, what: &str, expected: impl Fn(&Standing) -> bool) {
        eventually(what, || expected(&self.standing.borrow()).then_some(())).await;
    }

    async fn process(&self) -> ProcessSide {
        eventually("process", || self.workload.inner().processes.pop()).await
    }
}

fn running() -> TaskStatus {
    TaskStatus::new(TaskState::Running, Timestamp::from_secs(1), "started")
}

fn removal(task: u128) -> v1::AssignmentChange {
    (&AssignmentChange::RemoveTask(TaskId::from(task))).into()
}

#[tokio::test]
async fn a_tunnel_that_is_there_at_last_is_told() {
    let (bench, manager) = Bench::with_patient_manager().await;
    let tunnel = TunnelDescription {
        public_key: TunnelKey([1; 32]),
        port: 51820,
        addr: None,
        kind: TunnelKind::Userspace,
        keys: None,
    };
    bench.workload.tunnel.send_replace(Some(tunnel));
    bench.sessions(&manager, 2).await;
    assert_eq!(manager.seen().tunnels, [false, true]);
    bench.standing("active", |standing| *standing == Standing::Active).await;
}

async fn exec_side(manager: &FakeManager) -> ExecSide {
    eventually("exec stream", || manager.seen().execs.pop()).await
}

async fn output(side: &mut ExecSide) -> Option<v1::exec_stream_message::Message> {
    side.output.message().await.ok().flatten().and_then(|message| message.message)
}

fn start_exec(argv: &[&str], size: Option<v1::TerminalSize>) -> Message {
    Message::StartExec(v1::StartExec {
        exec_id: "e".to_owned(),
        start: Some(v1::ExecStart {
            task: TaskId::from(1).to_string(),
            argv: argv.iter().map(ToString::to_string).collect(),
            tty: size.is_some(),
            size,
            ..Default::default()
        }),
    })
}

fn said(output: Output) -> Option<v1::exec_stream_message::Message> {
    let output = v1::ExecOutput { output: Some(output) };
    Some(v1::exec_stream_message::Message::Output(output))
}

async fn type_in(side: &ExecSide, input: Input) {
    side.input.send(Ok(v1::ExecInput { input: Some(input) })).await.expect("open");
}

fn exit(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), ..ExitStatus::default() }
}

#[tokio::test]
async fn a_session_beats_takes_assignments_and_reports() {
    let (bench, manager) = Bench::with_manager().await;
    bench.standing("active", |s| *s == Standing::Active).await;
    assert_eq!(manager.seen().hostnames, ["me"]);
    eventually("heartbeats", || (manager.seen().heartbeats >= 3).then_some(())).await;

    manager.assign(v1::AssignmentsKind::Complete, 0, 4, Vec::new()).await;
    manager.assign(v1::AssignmentsKind::Incremental, 4, 5, vec![removal(9)]).await;
    let asked = eventually("both messages", || {
        let asked = bench.workload.inner().asked.clone();
        (asked.len() == 2).then_some(asked)
    })
    .await;
    let change = AssignmentChange::RemoveTask(TaskId::from(9));
    assert_eq!(asked, [Asked::All(Default::default()), Asked::Changes(vec![change])]);

    bench.workload.report(TaskId::from(3), running());
    let told = eventually("a status", || manager.seen().statuses.pop()).await;
    assert_eq!(told.task_id, TaskId::from(3).to_string());

    let peer = |addr: &str| v1::ManagerPeer { node_id: String::new(), addr: addr.to_owned() };
    let facts = v1::ClusterFacts { managers: vec![peer("10.9.9.9:1")], role: 0 };
    manager.say(Message::Facts(facts)).await;
    eventually("kept addresses", || {
        let kept = bench.member.store.cluster().expect("readable").managers;
        (kept == [manager.address.to_string(), "10.9.9.9:1".to_owned()]).then_some(())
    })
    .await;
    assert_eq!(manager.seen().sessions.len(), 1, "all in one session");
}

#[tokio::test]
async fn a_gap_asks_for_everything_again() {
    let (bench, manager) = Bench::with_patient_manager().await;
    manager.assign(v1::AssignmentsKind::Complete, 0, 1, Vec::new()).await;
    manager.assign(v1::AssignmentsKind::Incremental, 2, 3, vec![removal(1)]).await;
    eventually("a second stream", || (manager.seen().assignments.len() == 2).then_some(())).await;
    manager.assign(v1::AssignmentsKind::Complete, 0, 3, Vec::new()).await;
    eventually("everything", || (bench.workload.inner().asked.len() == 2).then_some(())).await;
    let asked = bench.workload.inner().asked.clone();
    assert!(asked.iter().all(|asked| matches!(asked, Asked::All(_))), "{asked:?}");
    assert_eq!(manager.seen().sessions.len(), 1, "the session goes on");
}

#[tokio::test]
async fn statuses_are_sent_again_in_the_next_session() {
    let (bench, manager) = Bench::with_manager().await;
    bench.workload.report(TaskId::from(3), running());
    eventually("a status", || manager.seen().statuses.pop()).await;
    // Superseded: the stream ends with an error, as do calls with the old id.
    let old = manager.seen().sessions[0].clone();
    old.send(Err(Status::not_found("another session has begun"))).await.expect("open");
    bench.sessions(&manager, 2).await;
    let again = eventually("the status again", || manager.seen().statuses.pop()).await;
    assert_eq!(again.task_id, TaskId::from(3).to_string());
    bench.standing("active again", |s| *s == Standing::Active).await;
}

#[tokio::test]
async fn a_dead_manager_is_passed_over() {
    let manager = FakeManager::start(Arc::new(TestCa::new(1))).await;
    let dead = {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        other.local_addr().expect("address").to_string()
    };
    let live = manager.ca.live(5, Role::Agent);
    let bench = Bench::start(live, vec![dead, manager.address.to_string()]);
    bench.sessions(&manager, 1).await;
}

#[tokio::test]
async fn a_manager_that_dies_is_missed_and_found_again_elsewhere() {
    let ca = Arc::new(TestCa::new(1));
    let first = FakeManager::start(ca.clone()).await;
    let second = FakeManager::start(ca).await;
    let addresses = [&first, &second].map(|manager| manager.address.to_string());
    let bench = Bench::start(first.ca.live(5, Role::Agent), addresses.to_vec());
    bench.sessions(&first, 1).await;
    drop(first);
    bench.sessions(&second, 1).await;
    bench.standing("active", |s| *s == Standing::Active).await;
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason() {
    let (bench, manager) = Bench::with_manager().await;
    manager.seen().refuse = Some(Status::permission_denied("node 5 was removed"));
    let old = manager.seen().sessions[0].clone();
    old.send(Err(Status::aborted("ended"))).await.expect("open");
    bench
        .standing("refused", |standing| match standing {
            Standing::Refused(why) => why.contains("node 5 was removed"),
            _ => false,
        })
        .await;
}

#[tokio::test]
async fn an_assignment_that_comes_in_parts_counts_when_it_is_whole() {
    use v1::AssignmentsKind::{Complete, Incremental};
    let (bench, manager) = Bench::with_manager().await;
    let part = |kind: v1::AssignmentsKind, applies_to, more| v1::AssignmentsMessage {
        kind: kind.into(),
        applies_to,
        results_in: applies_to + 1,
        changes: vec![removal(9)],
        more,
        term: 0,
    };
    let streams = |count| {
        let manager = &manager;
        move || (manager.seen().assignments.len() == count).then_some(())
    };
    eventually("a stream", streams(1)).await;
    manager.assign_message(part(Complete, 0, true)).await;
    let session = manager.seen().sessions[0].clone();
    session.send(Err(Status::aborted("ended"))).await.expect("open");
    eventually("the next session's stream", streams(2)).await;
    // What an earlier stream has brought is no part of this one.
    manager.assign_message(part(Incremental, 1, false)).await;
    eventually("another stream", streams(3)).await;
    manager.assign_message(part(Complete, 0, true)).await;
    manager.assign_message(part(Incremental, 1, true)).await;
    // One is missing: what came before it is not enough to know what is not to be held.
    manager.assign_message(part(Incremental, 3, false)).await;
    eventually("another stream", streams(4)).await;
    assert_eq!(bench.workload.inner().asked, []);
    manager.assign_message(part(Complete, 0, true)).await;
    manager.assign_message(part(Incremental, 1, false)).await;
    manager.assign_message(part(Incremental, 2, false)).await;
    let asked = eventually("both", || {
        let asked = bench.workload.inner().asked.clone();
        (asked.len() == 2).then_some(asked)
    });
    let change = AssignmentChange::RemoveTask(TaskId::from(9));
    assert_eq!(asked.await, [Asked::All(Default::default()), Asked::Changes(vec![change])]);
}

#[tokio::test]
async fn a_node_that_cannot_take_its_assignment_says_why_until_it_can() {
    let (_bench, manager) = Bench::with_manager().await;
    let streams = |count| {
        let manager = &manager;
        move || (manager.seen().assignments.len() == count).then_some(())
    };
    for n in 1..=2 {
        eventually("a stream of assignments", streams(n)).await;
        assert!(manager.seen().unable.iter().all(String::is_empty), "once may be an accident");
        manager.assign_message(v1::AssignmentsMessage { kind: 99, ..Default::default() }).await;
    }
    let said = |expected: &'static str| {
        let manager = &manager;
        move || manager.seen().unable.last().filter(|why| why.contains(expected)).map(|_| ())
    };
    eventually("the reason", said("assignments message is unusable")).await;
    assert_eq!(manager.seen().sessions.len(), 1, "what runs is still looked after");
    eventually("one more stream of assignments", streams(3)).await;
    manager.seen().unable.clear();
    manager.assign(v1::AssignmentsKind::Complete, 0, 1, Vec::new()).await;
    let well = || manager.seen().unable.last().filter(|why| why.is_empty()).map(|_| ());
    eventually("all is well", well).await;
}

#[tokio::test]
async fn sessions_that_break_at_once_are_begun_ever_less_often() {
    let (bench, manager) = Bench::with_manager().await;
    let begun = Instant::now();
    for n in 1..=5 {
        bench.sessions(&manager, n).await;
        let newest = manager.seen().sessions[n - 1].clone();
        newest.send(Err(Status::aborted("ended"))).await.expect("open");
    }
    bench.sessions(&manager, 6).await;
    // The pauses double from a tenth of a second on, less what chance takes.
    let pauses = begun.elapsed();
    assert!(pauses > Duration::from_millis(1000), "five pauses took {pauses:?}");
}

#[tokio::test]
async fn many_statuses_come_in_parts() {
    let (bench, manager) = Bench::with_manager().await;
    for task in 0..40 {
        let mut status = running();
        status.err = "x".repeat(200_000);
        bench.workload.report(TaskId::from(task), status);
    }
    eventually("all", || (manager.seen().statuses.len() == 40).then_some(())).await;
    assert_eq!(manager.seen().sessions.len(), 1, "in one session");
}

/// Lets the agent try again at once, as new credentials do.
fn hurry(bench: &Bench) {
    let same = bench.member.credentials.current();
    bench.member.credentials.replace(same).expect("usable");
}

fn left(bench: &Bench) -> usize {
    bench.workload.inner().asked.iter().filter(|asked| **asked == Asked::Leave).count()
}

/// Ends the agent's session in this way, and has every later one refused so.
async fn refuse(manager: &FakeManager, status: Status) {
    manager.seen().refuse = Some(status.clone());
    let session = manager.seen().sessions.last().expect("a session").clone();
    session.send(Err(status)).await.expect("open");
}

fn says(what: &'static str) -> impl Fn(&Standing) -> bool {
    move |standing| matches!(standing, Standing::Refused(why) if why.contains(what))
}

#[tokio::test]
async fn a_node_that_was_removed_stops_its_containers_and_says_so() {
    let (bench, manager) = Bench::with_manager().await;
    bench.workload.inner().cannot_leave = Some("busy".to_owned());
    let refusal = || Status::unauthenticated("node 5 is not a member of this cluster (any more)");
    refuse(&manager, removed(refusal())).await;
    bench.standing("says why not", says("its containers cannot be stopped: busy")).await;
    hurry(&bench);
    bench.standing("stopped", says("(any more); its containers were stopped")).await;
    assert_eq!(left(&bench), 2, "what fails is tried again");
}

#[tokio::test]
async fn a_node_that_is_refused_for_anything_else_keeps_its_containers() {
    let (bench, manager) = Bench::with_manager().await;
    for (n, (refusal, what)) in [
        (Status::unauthenticated("the certificate has expired"), "expired"),
        // A manager that has not heard of the node yet, or speaks for itself alone.
        (Status::unauthenticated("node 5 is not a member of this cluster (any more)"), "not a"),
        (Status::permission_denied("node 5 has role worker and may not"), "may not"),
    ]
    .into_iter()
    .enumerate()
    {
        if n == 0 {
            refuse(&manager, refusal).await;
        } else {
            manager.seen().refuse = Some(refusal);
            hurry(&bench);
        }
        bench.standing("refused", says(what)).await;
    }
    manager.seen().refuse = Some(Status::unavailable("gone"));
    hurry(&bench);
    let pending = |standing: &Standing| matches!(standing, Standing::Pending(_));
    bench.standing("pending", pending).await;
    assert_eq!(left(&bench), 0);
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_and_says_so() {
    let manager = FakeManager::start(Arc::new(TestCa::new(1))).await;
    let stranger = TestCa::new(2);
    // It trusts the manager, but was not issued by its authority.
    let own = stranger.credentials(5, Role::Agent);
    let mixed = Credentials::from_pem(
        own.chain_pem().to_owned(),
        own.key_pem().clone(),
        manager.ca.root_pem.clone(),
    );
    let live = LiveCredentials::new(mixed.expect("fits")).expect("usable");
    let bench = Bench::start(live, vec![manager.address.to_string()]);
    bench
        .standing("refused", |standing| match standing {
            Standing::Refused(why) => why.contains("another cluster's CA"),
            _ => false,
        })
        .await;
}

#[tokio::test]
async fn another_role_renews_the_certificate() {
    let (bench, manager) = Bench::with_manager().await;
    manager.seen().role = Some(Role::Manager);
    let role = v1::NodeRole::Manager.into();
    manager.say(Message::Facts(v1::ClusterFacts { managers: Vec::new(), role })).await;
    eventually("a manager's certificate", || {
        let role = bench.member.credentials.current().identity().role;
        (role == Role::Manager).then_some(())
    })
    .await;
    let kept = bench.member.store.credentials().expect("readable").expect("kept");
    assert_eq!(kept.identity().role, Role::Manager);
}

#[tokio::test]
async fn logs_are_sent_and_stopped() {
    let (bench, manager) = Bench::with_manager().await;
    let line = |text: &str| LogLine {
        at_nanos: 7,
        stream: Stream::Stderr,
        text: text.as_bytes().to_vec(),
    };
    bench.workload.inner().logs.insert(TaskId::from(1), vec![line("one\n"), line("two")]);
    let start = |follow| {
        let options = v1::LogOptions { follow, stdout: true, stderr: true, ..Default::default() };
        Message::StartLogs(v1::StartLogs {
            subscription_id: "s".to_owned(),
            task_ids: [1, 2].map(|id| TaskId::from(id).to_string()).to_vec(),
            options: Some(options),
        })
    };
    manager.say(start(true)).await;
    let lines = |manager: &FakeManager| {
        let seen = manager.seen();
        let lines = seen.logs.iter().filter_map(|message| match &message.message {
            Some(Logs::Lines(batch)) => Some(batch.lines.clone()),
            _ => None,
        });
        lines.flatten().collect::<Vec<_>>()
    };
    eventually("both lines", || (lines(&manager).len() == 2).then_some(())).await;
    let got = lines(&manager);
    assert_eq!((got[0].line.as_slice(), got[1].line.as_slice()), (&b"one"[..], &b"two"[..]));
    assert_eq!((got[0].time, got[0].stream()), (7, v1::OutputStream::Stderr));
    let first = manager.seen().logs[0].message.clone();
    assert!(matches!(first, Some(Logs::Attach(a)) if a.subscription_id == "s"));
    let warned = manager.seen().logs.iter().any(
        |m| matches!(&m.message, Some(Logs::Warning(w)) if w.contains(&TaskId::from(2).to_string())),
    );
    assert!(warned, "the unknown task is a warning");
    assert_eq!(manager.seen().logs_ended, 0, "it follows");

    manager.say(Message::StopLogs(v1::StopLogs { subscription_id: "s".to_owned() })).await;
    eventually("the end", || (manager.seen().logs_ended == 1).then_some(())).await;
    // The same name again is a new stream, and without following it ends by itself.
    manager.say(start(false)).await;
    eventually("the second end", || (manager.seen().logs_ended == 2).then_some(())).await;
    assert_eq!(lines(&manager).len(), 4);
}

#[tokio::test]
async fn a_process_is_bridged_both_ways() {
    let (bench, manager) = Bench::with_manager().await;
    let size = v1::TerminalSize { rows: 5, columns: 6 };
    manager.say(start_exec(&["sh"], Some(size))).await;
    let mut side = exec_side(&manager).await;
    let attach = output(&mut side).await;
    assert!(
        matches!(attach, Some(v1::exec_stream_message::Message::Attach(a)) if a.exec_id == "e")
    );
    let mut process = bench.process().await;
    assert_eq!(process.spec.tty, Some(TermSize { rows: 5, cols: 6 }));
    assert_eq!(output(&mut side).await, said(Output::Started(v1::Nothing {})));

    type_in(&side, Input::Stdin(b"ls\n".to_vec())).await;
    assert_eq!(process.stdin.recv().await, Some(Bytes::from_static(b"ls\n")));
    type_in(&side, Input::Resize(v1::TerminalSize { rows: 7, columns: 8 })).await;
    assert_eq!(process.resize.recv().await, Some(TermSize { rows: 7, cols: 8 }));
    type_in(&side, Input::CloseStdin(v1::Nothing {})).await;
    assert_eq!(process.stdin.recv().await, None);

    process.output.send((Stream::Stdout, Bytes::from_static(b"a"))).await.expect("open");
    process.output.send((Stream::Stderr, Bytes::from_static(b"b"))).await.expect("open");
    drop(process.output);
    process.exit.send(exit(3)).expect("waited for");
    assert_eq!(output(&mut side).await, said(Output::Stdout(b"a".to_vec())));
    assert_eq!(output(&mut side).await, said(Output::Stderr(b"b".to_vec())));
    assert_eq!(output(&mut side).await, said(Output::Exit(v1::ExecExit { code: 3 })));
    assert_eq!(output(&mut side).await, None);
    assert_eq!(manager.seen().sessions.len(), 1);
}

#[tokio::test]
async fn who_breaks_off_ends_the_process() {
    let (bench, manager) = Bench::with_manager().await;
    manager.say(start_exec(&["sh"], None)).await;
    let side = exec_side(&manager).await;
    let process = bench.process().await;
    drop(side);
    tokio::time::timeout(Duration::from_secs(10), process.output.closed()).await.expect("killed");

    // The end of the session, too.
    manager.say(start_exec(&["sh"], None)).await;
    let _side = exec_side(&manager).await;
    let process = bench.process().await;
    let old = manager.seen().sessions[0].clone();
    old.send(Err(Status::aborted("ended"))).await.expect("open");
    tokio::time::timeout(Duration::from_secs(10), process.output.closed()).await.expect("killed");
}

#[tokio::test]
async fn a_process_that_cannot_start_says_why() {
    let (_bench, manager) = Bench::with_manager().await;
    manager.say(start_exec(&["missing"], None)).await;
    let mut side = exec_side(&manager).await;
    output(&mut side).await;
    assert_eq!(output(&mut side).await, said(Output::Started(v1::Nothing {})));
    let Some(v1::exec_stream_message::Message::Output(text)) = output(&mut side).await else {
        panic!("no text")
    };
    let Some(Output::Stderr(text)) = text.output else { panic!("no text") };
    assert!(String::from_utf8_lossy(&text).contains("\"missing\" not found"));
    assert_eq!(output(&mut side).await, said(Output::Exit(v1::ExecExit { code: 127 })));
}

#[tokio::test]
async fn a_process_without_a_program_is_refused() {
    let (_bench, manager) = Bench::with_manager().await;
    manager.say(start_exec(&[], None)).await;
    let mut side = exec_side(&manager).await;
    output(&mut side).await;
    let Some(v1::exec_stream_message::Message::Failed(failed)) = output(&mut side).await else {
        panic!("started")
    };
    assert_eq!(failed.code, i32::from(tonic::Code::InvalidArgument));
    assert!(failed.message.contains("argv"), "{}", failed.message);
}
