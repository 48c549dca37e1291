//! Whole lives and failures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use shoal_agent_image::{ImageHealthcheck, PullPolicy, PullProgress};
use shoal_agent_network::NetworkDriver as _;
use shoal_agent_planning::task::START_PATIENCE;
use shoal_types::assignment::{AssignmentChange, TaskEndpoint};
use shoal_types::id::TaskId;
use shoal_types::image_ref::ImageReference;
use shoal_types::object::Slot;
use shoal_types::registry_auth::RegistryAuth;
use shoal_types::spec::{Mount, MountKind, PortConfig, Protocol, PublishMode};
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::task;
use crate::testing::assigner::mark;
use shoal_agent_runtime::fake::Call;
use shoal_agent_runtime::{ContainerId, ExitStatus, LogQuery, RuntimeError};

fn container(id: u128) -> ContainerId {
    TaskId::from(id).into()
}

fn exit(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), ..ExitStatus::default() }
}

pub(super) fn port(published: u16) -> PortConfig {
    PortConfig {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        target_port: 80,
        published_port: published,
        publish_mode: PublishMode::Host,
        host_ip: None,
    }
}

#[tokio::test]
async fn a_task_runs_completes_and_is_forgotten() {
    let mut lab = Lab::new().await;
    let mut one = task(1, |_| {});
    one.ports = vec![port(0)];
    lab.assign([one]);
    let status = lab.until_state(1, TaskState::Running).await;
    let status_container = status.container_status.unwrap();
    assert_eq!(status_container.container_id, TaskId::from(1).to_string());
    assert!(status_container.pid > 0);
    assert_eq!(status.port_status[0].name, "http");
    assert!(status.port_status[0].published_port > 0, "a port was chosen");
    assert_eq!(lab.networks.leases().attachments(&TaskId::from(1).to_string()).len(), 1);
    let made = lab.runtime.containers()[&container(1)].spec.clone();
    let process = made.oci.process().clone().unwrap();
    assert_eq!(process.args().clone().unwrap(), ["run"]);
    assert_eq!(lab.images.pins.all().len(), 1, "its image is kept");

    lab.runtime.exit(&container(1), exit(0));
    let status = lab.until_state(1, TaskState::Complete).await;
    assert_eq!(status.container_status.unwrap().exit_code, Some(0));
    assert!(lab.networks.leases().attachments(&TaskId::from(1).to_string()).is_empty());
    assert!(lab.runtime.containers()[&container(1)].released, "only its log is left");
    assert!(lab.images.pins.all().is_empty(), "nothing needs its image");
    assert!(lab.worker.logs(1.into(), LogQuery::default()).await.is_ok());
    lab.drop_task(1);
    lab.until_empty().await;
}

#[tokio::test]
async fn who_is_led_to_is_stopped_when_nobody_is_any_more() {
    let mut lab = Lab::new().await;
    let (mut led_to, alone) = (task(1, |_| {}), task(2, |_| {}));
    led_to.networks[0].addresses = vec!["172.20.0.9/16".parse().unwrap()];
    lab.images.led_to.send_replace([1.into(), 2.into()].into());
    lab.assign([led_to, alone]);
    for id in [1, 2] {
        lab.until_state(id, TaskState::Running).await;
        lab.want(id, DesiredState::Shutdown);
    }
    lab.until(2, |status| status.state.is_terminal()).await;
    lab.until_state(1, TaskState::Draining).await;
    let asked = |lab: &Lab, id| {
        let calls = lab.runtime.calls();
        calls.iter().any(|(of, call)| *of == container(id) && matches!(call, Call::Signal(_)))
    };
    assert!(asked(&lab, 2) && !asked(&lab, 1), "requests still come");
    lab.images.led_to.send_replace([].into());
    lab.until(1, |status| status.state.is_terminal()).await;
    assert!(asked(&lab, 1));
}

#[tokio::test]
async fn what_was_learned_is_acknowledged_when_it_is_followed() {
    let lab = Lab::new().await;
    lab.networks.be_followed();
    lab.worker.change(Vec::new(), mark(1, 1));
    assert_eq!(lab.worker.applied("test", 0).await, 1);
    let endpoint = TaskEndpoint {
        task_id: 5.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        slot: Slot::Replica(1),
        node_id: 9.into(),
        networks: Vec::new(),
        ports: Vec::new(),
        affinity: None,
        locality: None,
        serving: false,
    };
    let change = AssignmentChange::UpdateEndpoint(Arc::new(endpoint));
    lab.worker.change(vec![change], mark(1, 2));
    let mut view = lab.networks.overlay();
    let revision = view.wait_for(|view| !view.endpoints.is_empty()).await.unwrap().revision;
    assert!(lab.worker.applied("test", 1).now_or_never().is_none(), "others may still come");
    lab.networks.has_followed(revision);
    assert_eq!(lab.worker.applied("test", 1).await, 2);
}

#[tokio::test]
async fn what_fails_says_why() {
    let mut lab = Lab::new().await;
    lab.networks.bind_host_port(8080);
    let missing = task(1, |c| c.image = "nothing:1".to_owned());
    let bad = task(2, |c| c.image = "No Image".to_owned());
    let bind = Mount {
        kind: MountKind::Bind,
        source: "/does/not/exist".to_owned(),
        target: "/in".to_owned(),
        read_only: false,
        consistency: String::new(),
        bind_options: None,
        volume_options: None,
        image_options: None,
        tmpfs_options: None,
    };
    let bound = task(3, |c| c.mounts = vec![bind]);
    let mut taken = task(4, |_| {});
    taken.ports = vec![port(8080)];
    let not_found = RuntimeError::CommandNotFound { command: "nope".to_owned() };
    lab.runtime.fail(Some(&container(5)), Call::Start, not_found);
    let refused = RuntimeError::CannotConfine { reason: "no seccomp".to_owned() };
    lab.runtime.fail(Some(&container(6)), Call::Prepare, refused);
    let tasks = [missing, bad, bound, taken, task(5, |_| {}), task(6, |_| {})];
    lab.assign(tasks);
    let cases = [
        (1, TaskState::Rejected, "image docker.io/library/nothing:1 does not exist"),
        (2, TaskState::Rejected, "invalid image reference \"No Image\""),
        (3, TaskState::Rejected, "mounts[0].source: bind source `/does/not/exist`: No such file"),
        (4, TaskState::Rejected, "port already in use: 0.0.0.0:8080->80/tcp"),
        (5, TaskState::Failed, "command \"nope\" not found in the container"),
        (6, TaskState::Rejected, "this host cannot confine containers: no seccomp"),
    ];
    for (id, state, err) in cases {
        let status = lab.until_state(id, state).await;
        assert!(status.err.starts_with(err), "{}", status.err);
    }
    let code = lab.until_state(5, TaskState::Failed).await.container_status.unwrap().exit_code;
    assert_eq!(code, Some(127));
    lab.nothing_is_leased();
    for id in 1..=6 {
        lab.drop_task(id);
    }
    lab.until_empty().await;
}

#[tokio::test]
async fn what_a_mute_supervisor_cannot_do_stands_in_the_status_while_it_lasts() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    lab.runtime.mute(&container(1), Some("it speaks protocol 9"));
    let status = lab.until(1, |s| !s.err.is_empty()).await;
    assert_eq!(status.state, TaskState::Running, "it goes on");
    let said = "its supervisor does not help this agent (it speaks protocol 9): it goes on";
    assert!(status.err.starts_with(said), "{}", status.err);
    lab.runtime.mute(&container(1), None);
    lab.until(1, |s| s.err.is_empty()).await;
    lab.runtime.mute(&container(1), Some("it does not answer"));
    lab.until(1, |s| !s.err.is_empty()).await;
    lab.want(1, DesiredState::Shutdown);
    let status = lab.until_state(1, TaskState::Shutdown).await;
    assert_eq!(status.err, "", "what has ended has no limits");
    let status = lab.until(2, |s| s.state == TaskState::Running).await;
    assert_eq!(status.err, "", "the other one is well");
}

#[tokio::test]
async fn a_start_that_hangs_is_given_up_and_leaves_nothing() {
    let mut lab = Lab::new().await;
    lab.runtime.hang_start(&container(1));
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Starting).await;
    lab.want(1, DesiredState::Shutdown);
    lab.clock.advance(START_PATIENCE);
    // Whatever is heard makes the worker look at its clock.
    lab.want(1, DesiredState::Shutdown);
    lab.until_state(1, TaskState::Shutdown).await;
    assert!(lab.runtime.containers()[&container(1)].released, "only its log is left");
    lab.nothing_is_leased();
    lab.drop_task(1);
    lab.until_empty().await;
}

#[tokio::test]
async fn stopping_gives_time_and_then_kills() {
    let mut lab = Lab::new().await;
    lab.runtime.ignore_term(&container(2));
    let patient = task(1, |_| {});
    let stubborn = task(2, |c| c.stop_grace_period = Some(Duration::from_millis(50)));
    lab.assign([patient, stubborn]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    lab.want(1, DesiredState::Shutdown);
    lab.want(2, DesiredState::Shutdown);
    let status = lab.until_state(1, TaskState::Shutdown).await;
    assert_eq!(status.container_status.unwrap().exit_code, Some(0));
    let status = lab.until_state(2, TaskState::Shutdown).await;
    assert_eq!(status.container_status.unwrap().signal, Some(9));
    let calls = lab.runtime.calls();
    assert!(calls.contains(&(container(1), Call::Signal(15))));
    assert!(!calls.contains(&(container(1), Call::Signal(9))));
    assert!(calls.contains(&(container(2), Call::Signal(9))));
}

#[tokio::test]
async fn a_slow_pull_blocks_nobody_and_can_be_given_up() {
    let mut lab = Lab::new().await;
    let slow = ImageReference::parse("slow:1").unwrap();
    lab.images.slow.lock().unwrap().insert(slow);
    let mut tasks: Vec<_> = (1..=40).map(|i| task(i, |c| c.image = "slow:1".to_owned())).collect();
    tasks.extend((41..=140).map(|i| task(i, |_| {})));
    let begin = Instant::now();
    lab.assign(tasks);
    for id in 41..=140 {
        lab.until_state(id, TaskState::Running).await;
    }
    eprintln!("100 tasks over fakes: {:?}", begin.elapsed());
    let status = lab.until(1, |s| s.message.starts_with("pulling")).await;
    assert_eq!(status.message, "pulling docker.io/library/slow:1");
    let asked = lab
        .images
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter(|(r, _)| r.repository() == "library/slow")
        .count();
    assert_eq!(asked, 1, "one question for all who wait");
    for id in 1..=40 {
        lab.assignment.tasks.get_mut(&id.into()).unwrap().desired_state = DesiredState::Shutdown;
    }
    lab.worker.assign_all(lab.assignment.clone(), mark(0, 1));
    for id in 1..=40 {
        lab.until_state(id, TaskState::Shutdown).await;
    }
    lab.worker.leave().await.unwrap();
    lab.until_empty().await;
}

#[tokio::test]
async fn latest_is_asked_for_but_an_unreachable_registry_is_no_reason_to_fail() {
    let mut lab = Lab::new().await;
    lab.images.add("app:latest", None);
    *lab.images.unreachable.lock().unwrap() = true;
    lab.assign([task(1, |c| c.image = "app".to_owned()), task(2, |_| {})]);
    let status = lab.until_state(1, TaskState::Running).await;
    assert!(status.message.starts_with("started; using the image of this node: cannot pull"));
    lab.until_state(2, TaskState::Running).await;
    let asked = lab.images.asked.lock().unwrap().clone();
    let policy = |tag| asked.iter().find(|(r, _)| r.tag() == Some(tag)).unwrap().1;
    assert_eq!(policy("latest"), PullPolicy::Always);
    assert_eq!(policy("1"), PullPolicy::Missing);
    lab.assign([task(3, |c| c.image = "absent".to_owned())]);
    let status = lab.until_state(3, TaskState::Rejected).await;
    assert!(status.err.starts_with("cannot pull image docker.io/library/absent:latest"));
}

#[tokio::test]
async fn health_gates_running_and_its_loss_is_a_failure() {
    let mut lab = Lab::new().await;
    let check = |command: &str| ImageHealthcheck {
        test: vec!["CMD".to_owned(), command.to_owned()],
        interval: 10_000_000,
        timeout: 0,
        start_period: 0,
        start_interval: 0,
        retries: 2,
    };
    lab.images.add("good:1", Some(check("good")));
    lab.images.add("bad:1", Some(check("bad")));
    lab.runtime.exec_code(&["bad"], 1);
    lab.assign([
        task(1, |c| c.image = "good:1".to_owned()),
        task(2, |c| c.image = "bad:1".to_owned()),
    ]);
    lab.until_state(1, TaskState::Running).await;
    let status = lab.until_state(2, TaskState::Failed).await;
    assert_eq!(status.err, "unhealthy: the health check ended with exit code 1");
    let ran = lab.history.lock().unwrap().contains(&(2.into(), TaskState::Running));
    assert!(!ran, "it was never healthy");
    lab.runtime.exec_code(&["good"], 1);
    lab.until_state(1, TaskState::Failed).await;
}

/// However often a pull moves on, and a check fails, managers hear of it once a second at most.
#[tokio::test]
async fn what_a_task_waits_for_is_told_and_seldom() {
    let mut lab = Lab::new().await;
    let slow = ImageReference::parse("slow:1").unwrap();
    lab.images.slow.lock().unwrap().insert(slow.clone());
    let check = ImageHealthcheck {
        test: vec!["CMD-SHELL".to_owned(), "curl -f http://localhost/".to_owned()],
        interval: 1_000_000_000,
        timeout: 0,
        start_period: 60_000_000_000,
        start_interval: 1_000_000_000,
        retries: 2,
    };
    lab.images.add("slow:1", Some(check));
    lab.runtime.exec_code(&["/bin/sh", "-c", "curl -f http://localhost/"], 7);
    lab.assign([task(1, |c| c.image = "slow:1".to_owned())]);
    lab.until_state(1, TaskState::Preparing).await;
    let begun = Instant::now();
    let images = Arc::clone(&lab.images);
    let moves = tokio::spawn(async move {
        for n in 0.. {
            if let Some(progress) = &*images.pulls.lock().unwrap() {
                progress.send_replace(PullProgress {
                    layers: 3,
                    layers_done: 1,
                    bytes: 90_000_000,
                    bytes_done: n * 100_000,
                    trouble: (n > 150).then(|| "try 2 of 4, after: no route to host".to_owned()),
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let status = lab.until(1, |s| s.message.contains("of 90.0 MB, 1 of 3 layers")).await;
    assert!(status.message.starts_with("pulling docker.io/library/slow:1; "), "{status:?}");
    let status = lab.until(1, |s| s.message.contains("try 2 of 4")).await;
    assert!(status.message.contains("slow:1, try 2 of 4, after: no route to host; "), "{status:?}");
    let told = lab.history.lock().unwrap().len() as u64;
    let seconds = begun.elapsed().as_secs();
    assert!(told <= 2 + seconds, "{told} statuses in {seconds} s");

    moves.abort();
    lab.images.slow.lock().unwrap().clear();
    lab.images.hurry.notify_one();
    let status = lab.until(1, |s| s.message.contains("none of them counts yet")).await;
    assert_eq!(status.state, TaskState::Starting);
    let check = "started, not healthy yet: the health check \"curl -f http://localhost/\"";
    assert!(status.message.starts_with(check), "{status:?}");
    assert!(status.message.contains("the health check ended with exit code 7"), "{status:?}");
    lab.runtime.exec_code(&["/bin/sh", "-c", "curl -f http://localhost/"], 0);
    let status = lab.until_state(1, TaskState::Running).await;
    assert_eq!(status.message, "started");
}

#[tokio::test]
async fn cleaning_up_is_tried_until_it_works() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.networks.set_broken(true);
    lab.runtime.exit(&container(1), exit(3));
    let status = lab.until_state(1, TaskState::Failed).await;
    assert!(status.err.starts_with("exit code 3; cleaning up: "), "{}", status.err);
    lab.networks.set_broken(false);
    let status = lab.until(1, |s| !s.err.contains("cleaning")).await;
    assert_eq!(status.err, "exit code 3");
    lab.nothing_is_leased();
}

#[tokio::test]
async fn volumes_are_released_and_anonymous_ones_removed() {
    use shoal_agent_volume::VolumeDriver as _;
    let mut lab = Lab::new().await;
    let volume = |source: &str, target: &str| Mount {
        kind: MountKind::Volume,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: false,
        consistency: String::new(),
        bind_options: None,
        volume_options: None,
        image_options: None,
        tmpfs_options: None,
    };
    lab.assign([task(1, |c| c.mounts = vec![volume("db", "/db"), volume("", "/scratch")])]);
    lab.until_state(1, TaskState::Running).await;
    assert_eq!(lab.volumes.list().await.unwrap().len(), 2);
    lab.crash().await;
    assert_eq!(lab.volumes.users("db").len(), 1, "taken over");
    lab.worker.assign_all(lab.assignment.clone(), mark(0, 1));
    lab.want(1, DesiredState::Shutdown);
    lab.until_state(1, TaskState::Shutdown).await;
    let names: Vec<_> = lab.volumes.list().await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["db"]);
    assert!(lab.volumes.users("db").is_empty());
}

/// What its manager says is shown to the registry, for its own service alone.
#[tokio::test]
async fn an_image_is_pulled_with_the_credential_of_its_task() {
    let mut lab = Lab::new().await;
    let auth = RegistryAuth::Token("t".to_owned());
    for name in ["private:1", "private:2"] {
        lab.images.add(name, None);
        let reference = ImageReference::parse(name).unwrap();
        let image = lab.images.known.lock().unwrap().remove(&reference).unwrap();
        lab.images.private.lock().unwrap().insert(reference, image);
    }
    let of = |id: u128, service: u128, image: &str| {
        let mut task = task(id, |c| c.image = image.to_owned());
        task.service_id = service.into();
        task
    };
    let known = [(1.into(), None), (2.into(), Some(auth.clone()))];
    lab.images.credentials.lock().unwrap().extend(known);

    lab.assign([of(1, 71, "private:1")]);
    let denied = "cannot pull image docker.io/library/private:1: access to library/private on \
                  registry docker.io is denied: it does not exist, or it needs credentials";
    let hint = " (hint: shoalctl login docker.io, then deploy with --with-registry-auth)";
    let status = lab.until_state(1, TaskState::Rejected).await;
    assert_eq!(status.err, format!("{denied}{hint}"));

    lab.assign([of(2, 72, "private:1")]);
    lab.until_state(2, TaskState::Running).await;
    let shown = lab.images.shown.lock().unwrap().clone();
    assert_eq!(shown, [None, Some(auth)]);

    // As with Docker: who may run on a node may use what lies there.
    lab.assign([of(3, 71, "private:1")]);
    lab.until_state(3, TaskState::Running).await;

    // No manager answers for this one.
    lab.assign([of(4, 72, "private:2")]);
    let status = lab.until_state(4, TaskState::Rejected).await;
    let unasked = "no manager could be asked for a login (nobody is there within 10s): ";
    assert_eq!(status.err, format!("{unasked}{}", denied.replace(":1", ":2")));
}
