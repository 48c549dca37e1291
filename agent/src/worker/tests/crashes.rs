//! The agent dies, or its host, and comes back. At which call it dies: see `enumerated`.

use std::sync::Arc;

use shoal_agent_volume::VolumeDriver as _;
use shoal_types::id::TaskId;
use shoal_types::object::TaskStatus;
use shoal_types::spec::{Mount, MountKind, RestartCondition, RestartPolicy};
use shoal_types::task_state::TaskState;

use super::Lab;
use super::lab::task;
use crate::testing::assigner::mark;
use shoal_agent_runtime::fake::Call;
use shoal_agent_runtime::{
    ContainerId, ContainerSpec, ExitStatus, Layers, LogLimits, LogLine, NetworkMode, Runtime as _,
    Stream,
};

fn container(id: u128) -> ContainerId {
    TaskId::from(id).into()
}

fn starts(lab: &Lab) -> usize {
    lab.runtime.calls().iter().filter(|(_, call)| *call == Call::Start).count()
}

fn exit(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), ..ExitStatus::default() }
}

#[tokio::test]
async fn containers_live_on_under_the_same_pid() {
    let mut lab = Lab::new().await;
    let mut one = task(1, |_| {});
    one.ports = vec![super::lives::port(8000)];
    lab.assign([one]);
    let before = lab.until_state(1, TaskState::Running).await;
    lab.crash_and(|lab| assert!(lab.images.pins.all().is_empty(), "pins end with the agent")).await;
    // No manager has been heard.
    let after = lab.until_state(1, TaskState::Running).await;
    assert_eq!(lab.images.pins.all().len(), 1, "its image is kept again");
    assert_eq!(before.container_status, after.container_status);
    assert_eq!(before.port_status, after.port_status);
    assert_eq!(starts(&lab), 1);
    assert_eq!(lab.networks.leases().attachments(&TaskId::from(1).to_string()).len(), 1);
    // Its exit is still heard of.
    lab.runtime.exit(&container(1), exit(6));
    let status = lab.until_state(1, TaskState::Failed).await;
    assert_eq!(status.err, "exit code 6");
}

#[tokio::test]
async fn exits_in_the_meantime_are_reported_with_their_codes() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    lab.crash_and(|lab| {
        lab.runtime.exit(&container(1), exit(9));
        lab.runtime.exit(&container(2), exit(0));
    })
    .await;
    let status = lab.until_state(1, TaskState::Failed).await;
    assert_eq!(status.container_status.unwrap().exit_code, Some(9));
    lab.until_state(2, TaskState::Complete).await;
}

#[tokio::test]
async fn what_a_reboot_took_comes_back_and_what_had_ended_stays_ended() {
    let mut lab = Lab::new().await;
    let once = RestartPolicy { condition: RestartCondition::None, ..RestartPolicy::default() };
    let mut four = task(4, |_| {});
    Arc::make_mut(&mut four.spec).restart_policy = Some(once);
    let mut one = task(1, |_| {});
    one.ports = vec![super::lives::port(8000)];
    let none = task(3, |c| c.image = "none:1".to_owned());
    lab.assign([one, task(2, |_| {}), none, four]);
    for id in [1, 2, 4] {
        lab.until_state(id, TaskState::Running).await;
    }
    lab.runtime.exit(&container(2), exit(4));
    let two = lab.until_state(2, TaskState::Failed).await;
    let three = lab.until_state(3, TaskState::Rejected).await;
    let line = LogLine { at_nanos: 1, stream: Stream::Stdout, text: b"before\n".to_vec() };
    lab.runtime.log(&container(1), line.clone());
    let before = lab.runtime.containers()[&container(1)].clone();
    lab.history.lock().unwrap().clear();
    lab.reboot().await;
    // No manager has been heard.
    let came_back = |s: &TaskStatus| s.state == TaskState::Running && s.message == "started";
    let status = lab.until(1, came_back).await;
    let after = lab.runtime.containers()[&container(1)].clone();
    let pid = status.container_status.unwrap().pid;
    assert_eq!(i64::from(pid), i64::from(after.pid.unwrap()));
    assert_ne!(after.supervisor_pid, before.supervisor_pid, "in a container made anew");
    assert_eq!(after.log, [line], "whose log goes on");
    assert_eq!(status.port_status[0].published_port, 8000);
    let history = lab.history.lock().unwrap().clone();
    let mine = history.iter().filter(|(id, _)| *id == TaskId::from(1)).map(|(_, state)| *state);
    let climbs = mine.is_sorted_by(|before, after| after.has_reached(*before));
    assert!(climbs, "states only climb: {history:?}");
    assert_eq!(lab.until_state(2, TaskState::Failed).await.err, two.err);
    assert_eq!(lab.until_state(3, TaskState::Rejected).await.err, three.err);
    assert_eq!(lab.until_state(4, TaskState::Failed).await.err, "the host was restarted");
    assert_eq!(starts(&lab), 3 + 1);
    // Once in a boot: the agent alone dies, and nothing is left of the container.
    lab.crash_and(|lab| lab.runtime.reboot()).await;
    lab.until_state(1, TaskState::Failed).await;
    assert_eq!(starts(&lab), 3 + 1);
    lab.nothing_is_leased();
}

#[tokio::test]
async fn what_a_task_wrote_into_volumes_of_its_own_is_there_after_a_reboot() {
    let mut lab = Lab::new().await;
    let mount = Mount {
        kind: MountKind::Volume,
        source: String::new(),
        target: "/data".to_owned(),
        read_only: false,
        consistency: String::new(),
        bind_options: None,
        volume_options: None,
        image_options: None,
        tmpfs_options: None,
    };
    lab.assign([task(1, |c| c.mounts = vec![mount])]);
    lab.until_state(1, TaskState::Running).await;
    let made = lab.volumes.list().await.unwrap();
    lab.reboot().await;
    lab.until(1, |s| s.state == TaskState::Running && s.message == "started").await;
    assert_eq!(lab.volumes.list().await.unwrap(), made);
    assert_eq!((made.len(), lab.volumes.made()), (1, 1), "it is the same one");
    lab.worker.leave().await.unwrap();
    assert!(lab.volumes.list().await.unwrap().is_empty(), "they go with the task");
}

#[tokio::test]
async fn what_a_host_stopped_in_good_order_comes_back_with_it() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.worker.halt().await.unwrap();
    lab.until(1, |s| s.message == "stopped: the host is shut down").await;
    assert_eq!(lab.runtime.containers()[&container(1)].pid, None);
    lab.reboot().await;
    let status = lab.until(1, |s| s.message == "started").await;
    assert_eq!(status.state, TaskState::Running);
    assert!(lab.runtime.containers()[&container(1)].pid.is_some());
}

#[tokio::test]
async fn what_belongs_to_nobody_is_removed() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let spec = ContainerSpec {
        oci: oci_spec::runtime::Spec::default(),
        layers: Layers(Vec::new()),
        network: NetworkMode::Own,
        open_stdin: false,
        log: LogLimits::default(),
        user: String::new(),
        labels: std::collections::BTreeMap::new(),
    };
    lab.runtime.prepare(&container(99), spec.clone()).await.unwrap();
    lab.runtime.start(&container(99)).await.unwrap();
    let foreign = ContainerId::new("by-hand").unwrap();
    lab.runtime.prepare(&foreign, spec).await.unwrap();
    std::fs::create_dir_all(lab.dir.path().join("run/files/stray")).unwrap();
    lab.crash().await;
    let left: Vec<ContainerId> = lab.runtime.containers().into_keys().collect();
    assert_eq!(left, [container(1)]);
    assert!(!lab.dir.path().join("run/files/stray").exists());
    assert!(lab.dir.path().join("run/files").join(container(1).as_str()).exists());
}

#[tokio::test]
async fn nobody_on_the_host_gets_to_the_files_of_containers() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut lab = Lab::new().await;
    let files = lab.dir.path().join("run/files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o755)).unwrap();
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    for dir in [&files, &files.join(container(1).as_str())] {
        let mode = std::fs::metadata(dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", dir.display());
    }
}

#[tokio::test]
async fn a_damaged_ledger_file_harms_nobody_else() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let tasks = lab.dir.path().join("ledger/tasks");
    std::fs::write(tasks.join("garbage"), b"\xff\xff\xff").unwrap();
    std::fs::write(tasks.join("half.new"), b"half").unwrap();
    lab.crash().await;
    lab.until_state(1, TaskState::Running).await;
    assert!(tasks.join("garbage").exists(), "left for people to look at");
    assert!(!tasks.join("half.new").exists());
}

#[tokio::test]
async fn a_task_whose_record_is_damaged_is_not_run_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    for id in [1, 2] {
        lab.until_state(id, TaskState::Running).await;
    }
    let record = lab.dir.path().join("ledger/tasks").join(TaskId::from(1).to_string());
    std::fs::write(&record, b"\xff\xff\xff").unwrap();
    lab.crash().await;
    assert!(record.exists(), "left for people to look at");
    let assignment = lab.assignment.clone();
    lab.worker.assign_all(assignment, mark(0, 1));
    let status = lab.until_state(1, TaskState::Failed).await;
    assert!(status.err.starts_with("its record on this node is damaged"), "{}", status.err);
    lab.until_state(2, TaskState::Running).await;
    assert_eq!(starts(&lab), 2, "each once");
    let left = lab.runtime.containers()[&container(1)].clone();
    assert!(left.pid.is_none() && left.released, "only its log is left");
    // The end is in the ledger by now, and remembered.
    lab.crash().await;
    let assignment = lab.assignment.clone();
    lab.worker.assign_all(assignment, mark(0, 1));
    lab.until_state(1, TaskState::Failed).await;
    lab.worker.leave().await.unwrap();
    lab.until_empty().await;
}

/// Nothing else would write it down, as long as nothing changes, and a reboot would find tasks whose
/// network nobody knows.
#[tokio::test]
async fn networks_that_the_disk_refused_are_written_down_later() {
    let mut lab = Lab::new().await;
    let block = lab.dir.path().join("ledger/networks.new");
    std::fs::create_dir_all(&block).unwrap();
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    std::fs::remove_dir(&block).unwrap();
    let applied = lab.worker.applied("test", 0);
    tokio::time::timeout(std::time::Duration::from_secs(20), applied).await.unwrap();
    lab.reboot().await;
    lab.until(1, |s| s.state == TaskState::Running).await;
}

/// What a stop of the host had begun is brought to its end where the host did not stop after all: its
/// ports may be closed already.
#[tokio::test]
async fn a_stop_of_the_host_that_was_called_off_leaves_no_port_closed() {
    let mut lab = Lab::new().await;
    lab.runtime.ignore_term(&container(1));
    let mut one = task(1, |_| {});
    one.ports = vec![super::lives::port(8000)];
    lab.assign([one]);
    lab.until_state(1, TaskState::Running).await;
    let worker = lab.worker.clone();
    let halt = tokio::spawn(async move { worker.halt().await });
    lab.until(1, |s| s.port_status.is_empty()).await;
    halt.abort();
    lab.crash().await;
    // It is told to stop as it was to be; a stubborn one is killed in the end.
    lab.until(1, |s| s.port_status.is_empty()).await;
    lab.clock.advance(std::time::Duration::from_secs(60));
    lab.worker.look_around();
    let status = lab.until(1, |s| !s.port_status.is_empty()).await;
    assert_eq!(status.state, TaskState::Running);
    let published = format!("{:?}", lab.networks.leases());
    assert!(published.contains("8000"), "{published}");
    assert_eq!(starts(&lab), 2);
}

#[tokio::test]
async fn a_node_that_leaves_keeps_nothing_of_a_task_whose_record_is_damaged() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let record = lab.dir.path().join("ledger/tasks").join(TaskId::from(1).to_string());
    std::fs::write(&record, b"\xff\xff\xff").unwrap();
    lab.crash().await;
    assert!(!lab.runtime.containers().is_empty(), "its log");
    lab.worker.leave().await.unwrap();
    lab.until_empty().await;
}
