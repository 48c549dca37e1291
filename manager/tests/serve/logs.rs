//! Logs of a service, and what becomes of them when an agent goes away.

use shoal_proto::v1::publish_logs_message::Message as FromAgent;
use shoal_proto::v1::service_logs_response::Message as ToReader;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// An agent's stream of logs.
struct Publishing {
    task: String,
    to_manager: mpsc::Sender<pb::PublishLogsMessage>,
    call: JoinHandle<()>,
}

impl Publishing {
    async fn send(&self, message: FromAgent) {
        let message = pb::PublishLogsMessage { message: Some(message) };
        self.to_manager.send(message).await.unwrap();
    }

    async fn line(&self, time: u64) {
        let line = pb::TaskLogLine {
            task_id: self.task.clone(),
            time,
            stream: pb::OutputStream::Stdout as i32,
            line: b"x".to_vec(),
        };
        self.send(FromAgent::Lines(pb::LogBatch { lines: vec![line] })).await;
    }

    /// Ends with all there is.
    async fn end(self) {
        drop(self.to_manager);
        self.call.await.unwrap();
    }
}

/// What an agent's connection lives on. Ends with it at once, as with an agent that is killed.
struct Lifeline(Option<Runtime>);

impl Lifeline {
    fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Self(Some(runtime.worker_threads(1).enable_all().build().unwrap()))
    }

    fn channel(&self, address: SocketAddr, node: &LiveCredentials) -> Channel {
        let _inside = self.0.as_ref().unwrap().enter();
        channel(address, node.current())
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Agent {
    async fn is_asked(&mut self) -> pb::StartLogs {
        let asked = async {
            loop {
                let message = self.session.message().await.unwrap().unwrap().message;
                if let Some(pb::session_message::Message::StartLogs(start)) = message {
                    return start;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the agent is asked for logs")
    }

    /// Waits until it is asked for logs, and begins to send them.
    async fn publish(&mut self) -> (pb::LogOptions, Publishing) {
        let pb::StartLogs { subscription_id, task_ids, options } = self.is_asked().await;
        let (to_manager, messages) = mpsc::channel(4);
        let mut client = self.client.clone();
        let call = tokio::spawn(async move {
            // Fails when the connection is cut.
            let _ = client.publish_logs(ReceiverStream::new(messages)).await;
        });
        let publishing = Publishing { task: task_ids[0].clone(), to_manager, call };
        publishing.send(FromAgent::Attach(pb::LogsAttach { subscription_id })).await;
        (options.unwrap(), publishing)
    }
}

/// The time of the next line, or a warning; nothing at the end.
async fn next(logs: &mut Streaming<pb::ServiceLogsResponse>) -> Option<Result<u64, String>> {
    let message = tokio::time::timeout(PATIENCE, logs.message()).await.expect("in time").unwrap();
    Some(match message?.message.unwrap() {
        ToReader::Line(line) => Ok(line.line.unwrap().time),
        ToReader::Warning(text) => Err(text),
    })
}

async fn read(
    control: &mut ControlClient<Channel>,
    follow: bool,
) -> Streaming<pb::ServiceLogsResponse> {
    let options = pb::LogOptions { follow, stdout: true, tail: Some(9), ..Default::default() };
    let request = pb::ServiceLogsRequest { reference: "web".to_owned(), options: Some(options) };
    control.service_logs(request).await.unwrap().into_inner()
}

/// Tells of the node's only task.
async fn run_one(control: &mut ControlClient<Channel>, agent: &mut Agent) {
    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 1)),
            ..Default::default()
        })
        .await
        .unwrap();
    agent.receive_until("a task", |held| held.tasks.len() == 1).await;
    agent.report(TaskState::Running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_end_well_only_if_the_agent_lives_to_end_them() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let life = Lifeline::new();
    let mut agent = Agent::connect(life.channel(address, &node), "first").await;
    run_one(&mut control, &mut agent).await;

    let mut logs = read(&mut control, false).await;
    let (_, publishing) = agent.publish().await;
    publishing.line(10).await;
    assert_eq!(next(&mut logs).await, Some(Ok(10)));
    publishing.end().await;
    assert_eq!(next(&mut logs).await, None);

    let mut logs = read(&mut control, false).await;
    let (_, publishing) = agent.publish().await;
    publishing.line(10).await;
    assert_eq!(next(&mut logs).await, Some(Ok(10)));
    drop(life);
    let warning = "the stream of node first broke: its logs may be cut off".to_owned();
    assert_eq!(next(&mut logs).await, Some(Err(warning)));
    assert_eq!(next(&mut logs).await, None);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_logs_gets_the_rest_when_the_agent_is_back() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let life = Lifeline::new();
    let mut agent = Agent::connect(life.channel(address, &node), "first").await;
    run_one(&mut control, &mut agent).await;

    let mut logs = read(&mut control, true).await;
    let (options, publishing) = agent.publish().await;
    assert_eq!((options.since, options.tail), (None, Some(9)));
    publishing.line(10).await;
    assert_eq!(next(&mut logs).await, Some(Ok(10)));
    drop(life);
    next(&mut logs).await.unwrap().expect_err("a warning");

    let life = Lifeline::new();
    let mut agent = Agent::connect(life.channel(address, &node), "first").await;
    let (options, publishing) = agent.publish().await;
    assert_eq!((options.since, options.tail), (Some(11), None));
    publishing.line(10).await;
    publishing.line(11).await;
    assert_eq!(next(&mut logs).await, Some(Ok(11)), "no line twice, and no second warning");

    // An agent that ends its session ends its streams in the same way as when all has been sent.
    publishing.end().await;
    let mut agent = Agent::connect(life.channel(address, &node), "first").await;
    let (options, publishing) = agent.publish().await;
    assert_eq!(options.since, Some(12));
    publishing.line(12).await;
    assert_eq!(next(&mut logs).await, Some(Ok(12)));
    drop(logs);
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_down_costs_no_wait_and_only_logs_that_exist_are_missed() {
    for runs in [false, true] {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
        // Its connection stays, and nothing comes over it.
        let agent = Agent::try_connect(channel(address, node.current()), "first").await;
        let mut agent = agent.unwrap();
        let spec = Some(spec("web", 1));
        let request = pb::CreateServiceRequest { spec, ..Default::default() };
        control.create_service(request).await.unwrap();
        agent.receive_until("a task", |held| held.tasks.len() == 1).await;
        if runs {
            agent.report(TaskState::Running).await;
        }
        eventually("the host is down", || {
            let mut control = control.clone();
            async move {
                let nodes = whole(control.list_nodes(pb::ListNodesRequest {})).await.ok()?.nodes;
                let state = status(&nodes[0]).state();
                (state == pb::NodeState::Down).then_some(())
            }
        })
        .await;
        let begun = std::time::Instant::now();
        let mut logs = read(&mut control, false).await;
        if runs {
            let missing = "node first cannot be reached: its logs are missing".to_owned();
            assert_eq!(next(&mut logs).await, Some(Err(missing)));
        }
        assert_eq!(next(&mut logs).await, None, "runs: {runs}");
        // An agent that is asked has five seconds.
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        manager.stop().await;
    }
}

/// What is more than one message may name is asked for in several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_any_number_of_tasks_are_asked_for() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    let spec = Some(spec("many", 1500));
    let request = pb::CreateServiceRequest { spec, ..Default::default() };
    control.create_service(request).await.unwrap();
    agent.receive_until("all tasks", |held| held.tasks.len() == 1500).await;
    agent.report(TaskState::Running).await;
    let request = pb::ServiceLogsRequest { reference: "many".to_owned(), options: None };
    let _lines = control.service_logs(request).await.unwrap().into_inner();
    let mut asked = std::collections::BTreeSet::new();
    while asked.len() < 1500 {
        let start = agent.is_asked().await;
        assert!(start.task_ids.len() <= 1024, "an agent takes no more: {}", start.task_ids.len());
        for id in start.task_ids {
            assert!(asked.insert(id), "a task is asked for twice");
        }
    }
    manager.stop().await;
}
