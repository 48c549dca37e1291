//! The settings of the cluster, changed while it runs.

use shoal_transport::renew;

use super::*;

async fn update(
    control: &mut ControlClient<Channel>,
    expected_version: u64,
    change: impl Fn(&mut pb::ClusterSpec),
) -> Result<pb::ClusterView, tonic::Status> {
    let cluster = control.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    let mut spec = cluster.cluster.unwrap().spec.unwrap();
    change(&mut spec);
    let request = pb::UpdateClusterRequest { expected_version, spec: Some(spec) };
    Ok(control.update_cluster(request).await?.into_inner().cluster.unwrap())
}

const HEARTBEAT: Duration = Duration::from_secs(5);
const LIFE: Duration = Duration::from_secs(2 * 3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_cluster_hold_at_once() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;

    // Two tasks in one slot: one has ended.
    let request = pb::CreateServiceRequest { spec: Some(spec("web", 1)), ..Default::default() };
    control.create_service(request).await.unwrap();
    agent.receive_until("a task", |held| held.tasks.len() == 1).await;
    agent.report(TaskState::Failed).await;
    let tasks = async |count: usize| {
        eventually("tasks come and go", || {
            let mut control = control.clone();
            async move {
                let listed = whole(control.list_tasks(pb::ListTasksRequest::default())).await;
                listed.ok().filter(|listed| listed.tasks.len() == count)
            }
        })
        .await
    };
    tasks(2).await;

    let mut admin = control.clone();
    let wrong = update(&mut admin, 1, |spec| {
        spec.heartbeat_period_nanos = 1;
        spec.task_history_retention_limit = 1001;
        spec.node_cert_expiry_nanos = 1;
    })
    .await
    .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    for field in ["heartbeat_period", "task_history_retention_limit", "node_cert_expiry"] {
        assert!(wrong.message().contains(field), "{wrong} lacks {field}");
    }
    let change = |spec: &mut pb::ClusterSpec| {
        spec.task_history_retention_limit = 0;
        spec.heartbeat_period_nanos = HEARTBEAT.as_nanos() as u64;
        spec.node_cert_expiry_nanos = LIFE.as_nanos() as u64;
    };
    let late = update(&mut admin, 7, change).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late}");
    let changed = update(&mut admin, 1, change).await.unwrap();
    assert_eq!(changed.meta.unwrap().spec_version, 2);
    assert_eq!(changed.spec.unwrap().task_history_retention_limit, 0);

    // What has ended goes, ...
    tasks(1).await;
    // ... an agent that is connected hears the period with its next heartbeat, ...
    let session_id = agent.session_id.clone();
    let beat = pb::HeartbeatRequest { session_id, ..Default::default() };
    let answer = agent.client.heartbeat(beat).await.unwrap().into_inner();
    assert_eq!(Duration::from_nanos(answer.period_nanos), HEARTBEAT);
    // ... and the next certificate ends sooner.
    let long = node.current();
    let fresh = renew(channel(address, long.clone()), &long).await.unwrap();
    let life = |credentials: &Credentials| {
        let identity = credentials.identity();
        identity.not_after.since(identity.not_before)
    };
    assert!(life(&long) > LIFE * 24, "{:?}", life(&long));
    assert!(life(&fresh) >= LIFE && life(&fresh) < LIFE * 2, "{:?}", life(&fresh));
    manager.stop().await;
}
