//! Agents that only talk.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message as _;
use shoal_proto::v1 as pb;
use shoal_proto::v1::assignment_change::Item;
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_transport::{PrivateKey, join};
use shoal_types::level::Level;
use shoal_types::object::{NodeDescription, TaskStatus, TunnelDescription, TunnelKey, TunnelKind};
use shoal_types::resources::Resources;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::PATIENCE;
use crate::cluster::{Cluster, channel};

/// Shortest time from one acknowledgement to the next, as agents have it.
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(100);

/// Of all agents together.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    /// Tasks that serve, as each agent has been told.
    pub(crate) serving: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// The same, as they have acknowledged.
    acknowledged: u64,
}

impl Count {
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.messages
    }
}

#[derive(Debug, Default)]
struct Counters {
    serving: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    acknowledged: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Agents {
    counters: Arc<Counters>,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
    tasks: JoinSet<()>,
    joined: u32,
}

impl Agents {
    pub(crate) fn count(&self) -> Count {
        let [serving, messages, bytes, acknowledged] = [
            &self.counters.serving,
            &self.counters.messages,
            &self.counters.bytes,
            &self.counters.acknowledged,
        ]
        .map(|one| one.load(Ordering::SeqCst));
        Count { serving, messages, bytes, acknowledged }
    }

    /// Until so many nodes have each been told of as many tasks more, and nothing follows.
    pub(crate) async fn settle(&self, before: Count, nodes: u64) -> Result<()> {
        let serving = before.serving + nodes * nodes;
        let what = format!("{nodes} nodes are told of each other's tasks");
        self.until(&what, |count| count.serving >= serving && count.is_acknowledged()).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let count = self.count();
        ensure!(count.serving == serving, "told of {}, expected {serving}", count.serving);
        Ok(())
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Count) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is_so(&self.count()) {
            if let Some(error) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                return Err(error.context("an agent has ended"));
            }
            ensure!(Instant::now() < end, "not yet: {what}: {:?}", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// One more node, once it has a session.
    pub(crate) async fn join(&mut self, cluster: &Cluster) -> Result<()> {
        self.joined += 1;
        let key = PrivateKey::generate()?;
        let manager = cluster.address.to_string().parse()?;
        let token = cluster.token.parse()?;
        let credentials = join(manager, &token, &key, pb::NodeHints::default()).await?;
        let client = DispatcherClient::new(channel(cluster.address, credentials)?);
        let agent = Agent::open(client, self.joined, Arc::clone(&self.counters)).await?;
        let failure = Arc::clone(&self.failure);
        self.tasks.spawn(async move {
            if let Err(error) = agent.live().await {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        Ok(())
    }
}

struct Agent {
    client: DispatcherClient<Channel>,
    session_id: String,
    session: Streaming<pb::SessionMessage>,
    assignments: Streaming<pb::AssignmentsMessage>,
    counters: Arc<Counters>,
    serving: BTreeSet<String>,
    running: BTreeSet<String>,
}

impl Agent {
    async fn open(
        mut client: DispatcherClient<Channel>,
        number: u32,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let description = Some(description(number));
        let request = pb::SessionRequest { description, ..Default::default() };
        let mut session = client.session(request).await?.into_inner();
        let first = session.message().await?.and_then(|first| first.message);
        let Some(pb::session_message::Message::Started(started)) = first else {
            bail!("no session: {first:?}")
        };
        let session_id = started.session_id;
        let request =
            pb::AssignmentsRequest { session_id: session_id.clone(), message_bytes_max: 0 };
        let assignments = client.assignments(request).await?.into_inner();
        let (serving, running) = Default::default();
        Ok(Self { client, session_id, session, assignments, counters, serving, running })
    }

    async fn live(mut self) -> Result<()> {
        let (applied, changed) = watch::channel((0, 0));
        let acknowledges = acknowledge(
            self.client.clone(),
            self.session_id.clone(),
            changed,
            Arc::clone(&self.counters),
        );
        let beats = beat(self.client.clone(), self.session_id.clone());
        let follows = async {
            loop {
                tokio::select! {
                    message = self.assignments.message() => {
                        let message = message?.context("assignments end")?;
                        let sequence = message.results_in;
                        let running = take(&mut self.serving, &mut self.running, &self.counters, message);
                        applied.send_modify(|applied| *applied = (sequence, applied.1 + 1));
                        if !running.is_empty() {
                            report(&mut self.client, &self.session_id, running).await?;
                        }
                    }
                    message = self.session.message() => { message?.context("the session ends")?; }
                }
            }
        };
        tokio::select! {
            end = acknowledges => end,
            end = beats => end,
            end = follows => end,
        }
    }
}

/// Takes in a message. Returns which tasks are to run.
fn take(
    serving: &mut BTreeSet<String>,
    known: &mut BTreeSet<String>,
    counters: &Counters,
    message: pb::AssignmentsMessage,
) -> Vec<String> {
    counters.bytes.fetch_add(message.encoded_len() as u64, Ordering::SeqCst);
    let mut running = Vec::new();
    for change in message.changes {
        let update = change.action == pb::AssignmentAction::Update as i32;
        match change.item {
            Some(Item::Task(task)) if update && known.insert(task.id.clone()) => {
                running.push(task.id);
            }
            Some(Item::Endpoint(endpoint)) => {
                let was = serving.contains(&endpoint.task_id);
                match (was, update && endpoint.serving) {
                    (false, true) => {
                        serving.insert(endpoint.task_id);
                        counters.serving.fetch_add(1, Ordering::SeqCst);
                    }
                    (true, false) => {
                        serving.remove(&endpoint.task_id);
                        counters.serving.fetch_sub(1, Ordering::SeqCst);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    counters.messages.fetch_add(1, Ordering::SeqCst);
    running
}

async fn report(
    client: &mut DispatcherClient<Channel>,
    session_id: &str,
    running: Vec<String>,
) -> Result<()> {
    let status = TaskStatus::new(TaskState::Running, Timestamp::from_secs(1), "");
    let updates: Result<Vec<pb::TaskStatusUpdate>> =
        running.into_iter().map(|id| Ok((&(id.parse()?, status.clone())).into())).collect();
    let session_id = session_id.to_owned();
    let request = pb::UpdateTaskStatusRequest { session_id, updates: updates? };
    client.update_task_status(request).await?;
    Ok(())
}

/// `changed` has the last message's number, and how many there were.
async fn acknowledge(
    mut client: DispatcherClient<Channel>,
    session_id: String,
    mut changed: watch::Receiver<(u64, u64)>,
    counters: Arc<Counters>,
) -> Result<()> {
    let mut told = 0;
    loop {
        changed.changed().await?;
        let (applied, messages) = *changed.borrow_and_update();
        let session_id = session_id.clone();
        client.acknowledge(pb::AcknowledgeRequest { session_id, applied }).await?;
        counters.acknowledged.fetch_add(messages - told, Ordering::SeqCst);
        told = messages;
        tokio::time::sleep(ACKNOWLEDGE_PAUSE).await;
    }
}

async fn beat(mut client: DispatcherClient<Channel>, session_id: String) -> Result<()> {
    loop {
        let session_id = session_id.clone();
        let request = pb::HeartbeatRequest { session_id, ..Default::default() };
        let period = client.heartbeat(request).await?.into_inner().period_nanos;
        tokio::time::sleep(Duration::from_nanos(period)).await;
    }
}

pub(crate) fn description(number: u32) -> pb::NodeDescription {
    let mut key = [7; 32];
    for (byte, of) in key.iter_mut().zip(number.to_be_bytes()) {
        *byte = of;
    }
    let tunnel = TunnelDescription {
        public_key: TunnelKey(key),
        port: 51820,
        addr: Some(std::net::Ipv4Addr::from(0x0a80_0000 + number).into()),
        kind: TunnelKind::Kernel,
        // One for ever.
        keys: None,
    };
    let description = NodeDescription {
        hostname: format!("n{number}"),
        resources: Resources {
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 30,
            ..Default::default()
        },
        tunnel: Some(tunnel),
        level: Level::OWN,
        ..Default::default()
    };
    (&description).into()
}
