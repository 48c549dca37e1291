//! What grows with the cluster, for agents and users that take messages of a bounded size.

use super::*;

/// What one message may have: less than any of the lists here, more than a part.
const MESSAGE_BYTES: usize = (1 << 20) + 1024;

/// A spec of about `bytes`.
pub(super) fn large(name: &str, replicas: u64, bytes: usize) -> pb::ServiceSpec {
    let mut spec = spec(name, replicas);
    let runtime = spec.task_template.as_mut().unwrap().runtime.as_mut().unwrap();
    let pb::task_spec::Runtime::Container(container) = runtime else { panic!("{runtime:?}") };
    container.env = vec![format!("LARGE={}", "x".repeat(bytes))];
    spec
}

fn create(spec: pb::ServiceSpec) -> pb::CreateServiceRequest {
    pb::CreateServiceRequest { spec: Some(spec), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_any_length_are_read_whole_in_messages_of_bounded_size() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, control, .. } = bootstrap(dir.path(), address).await;
    let mut control = control.max_decoding_message_size(MESSAGE_BYTES);
    control.create_service(create(large("many", 3000, 4000))).await.unwrap();
    let mut expected = vec!["many".to_owned()];
    for n in 0..10 {
        let name = format!("wide-{n}");
        control.create_service(create(large(&name, 0, 500_000))).await.unwrap();
        expected.push(name);
    }

    let tasks = eventually("all tasks are listed", || {
        let mut control = control.clone();
        async move {
            let request = pb::ListTasksRequest::default();
            let tasks = whole(control.list_tasks(request)).await.unwrap();
            (tasks.tasks.len() == 3000).then_some(tasks)
        }
    })
    .await;
    assert!(tasks.encoded_len() > 10 * MESSAGE_BYTES);
    let slot = |task: &pb::Task| match task.slot.as_ref().unwrap().slot.as_ref().unwrap() {
        pb::slot::Slot::Replica(n) => *n,
        pb::slot::Slot::NodeId(node) => panic!("{node}"),
    };
    assert!(tasks.tasks.iter().map(slot).eq(1..=3000), "each once, in order");

    let listed = control.list_services(pb::ListServicesRequest { stack: None });
    let services = whole(listed).await.unwrap();
    assert!(services.encoded_len() > 4 * MESSAGE_BYTES);
    let name = |s: &pb::ServiceSummary| s.service.clone().unwrap().spec.unwrap().name;
    assert_eq!(services.services.iter().map(name).collect::<Vec<_>>(), expected);
    assert_eq!(services.services[0].desired_tasks, 3000);
    manager.stop().await;
}

/// What is listed is what was there when it was asked for, whatever happens while it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_of_one_state() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    for n in 0..8 {
        control.create_service(create(large(&format!("s{n}"), 0, 900_000))).await.unwrap();
    }
    let listed = control.clone().list_services(pb::ListServicesRequest { stack: None }).await;
    let mut parts = listed.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        if names.is_empty() {
            control.create_service(create(spec("s10", 0))).await.unwrap();
            for n in 1..8 {
                let reference = format!("s{n}");
                control.remove_service(pb::RemoveServiceRequest { reference }).await.unwrap();
            }
        }
        names.extend(part.services.into_iter().map(|s| s.service.unwrap().spec.unwrap().name));
    }
    assert_eq!(names, ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"]);
    manager.stop().await;
}

/// 400 tasks with the environment of 190 kB each, as users with large replicated services and their
/// history have them, once lost their node for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_takes_an_assignment_of_any_size() {
    const ENVIRONMENT: usize = 190_000;
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let agent = Agent::connect(channel(address, node.current()), "first").await;
    control.create_service(create(large("large", 400, ENVIRONMENT))).await.unwrap();
    // One that lags behind, and then begins anew.
    drop(agent);
    let (mut parts, mut bytes, mut largest) = (0, 0, 0);
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    let all = async {
        loop {
            let (size, more) = agent.receive().await;
            (parts, bytes, largest) = (parts + 1, bytes + size, largest.max(size));
            if agent.held.tasks.len() == 400 && !more {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE * 3, all).await.expect("everything comes");
    assert!(bytes > 400 * ENVIRONMENT, "{bytes} bytes are not all of it");
    assert!(largest <= 1 << 20, "a part of {largest} bytes");
    assert!(parts >= bytes >> 20, "{parts} parts of {bytes} bytes");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_may_be_larger_than_a_command() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 300)),
            ..Default::default()
        })
        .await
        .unwrap();
    agent.receive_until("all tasks", |held| held.tasks.len() == 300).await;
    // 3 MB, of which a command takes 2 MiB and a message 4 MiB.
    agent.report_saying(TaskState::Running, &"x".repeat(10_000)).await;
    let reference = "web".to_owned();
    let found = control.get_service(pb::GetServiceRequest { reference }).await.unwrap();
    assert_eq!(found.into_inner().service.unwrap().running_tasks, 300);
    let tasks = whole(control.list_tasks(pb::ListTasksRequest::default())).await;
    for task in tasks.unwrap().tasks {
        let message = task.status.unwrap().message;
        assert!(message.len() <= 4096 && message.ends_with("x…"), "{} bytes", message.len());
    }
    manager.stop().await;
}
