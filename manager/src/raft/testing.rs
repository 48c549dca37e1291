//! A small state machine and members over loopback, for tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use shoal_types::id::NodeId;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;

/// Remembers every command that was applied, with its index.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Commands>>);

type Commands = Vec<(u64, Vec<u8>)>;

impl Recorder {
    pub(crate) fn applied(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().map(|(_, command)| command.clone()).collect()
    }

    /// The commands of each log entry.
    pub(crate) fn entries(&self) -> Vec<Vec<Vec<u8>>> {
        let mut entries = BTreeMap::<u64, Vec<Vec<u8>>>::new();
        for (index, command) in &*self.0.lock().unwrap() {
            entries.entry(*index).or_default().push(command.clone());
        }
        entries.into_values().collect()
    }
}

impl Machine for Recorder {
    type Answer = String;

    fn apply(&mut self, index: u64, command: &[u8]) -> Result<String, BoxError> {
        if command == b"nonsense" {
            return Err("this is no command".into());
        }
        self.0.lock().unwrap().push((index, command.to_vec()));
        Ok(format!("done {}", String::from_utf8_lossy(command)))
    }

    fn snapshot(&self) -> SnapshotEncoder {
        let commands = self.0.lock().unwrap().clone();
        Box::new(move || {
            let mut data = Vec::new();
            for (index, command) in commands {
                data.extend_from_slice(&index.to_be_bytes());
                data.extend_from_slice(&(command.len() as u64).to_be_bytes());
                data.extend_from_slice(&command);
            }
            Ok(data)
        })
    }

    fn restore(&mut self, mut data: &[u8]) -> Result<(), BoxError> {
        let number = |data: &[u8]| u64::from_be_bytes(data[..8].try_into().unwrap());
        let mut commands = Vec::new();
        while !data.is_empty() {
            let (index, length) = (number(data), number(&data[8..]) as usize);
            commands.push((index, data[16..16 + length].to_vec()));
            data = &data[16 + length..];
        }
        *self.0.lock().unwrap() = commands;
        Ok(())
    }
}

/// Plain channels.
pub(crate) struct Loopback;

impl PeerConnector for Loopback {
    fn channel<'a>(
        &'a self,
        _node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Channel, BoxError>> {
        Box::pin(async move {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            Ok(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
        })
    }
}

/// Fast enough for tests, slow enough for a busy machine.
pub(crate) fn quick() -> RaftConfig {
    RaftConfig {
        heartbeat: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(600),
        election_timeout_max: Duration::from_millis(1200),
        ..RaftConfig::default()
    }
}

/// One member, reachable on a loopback port of its own.
pub(crate) struct TestMember {
    pub(crate) node: RaftNode<String>,
    pub(crate) machine: Recorder,
    pub(crate) address: String,
    pub(crate) dir: TempDir,
    end: CancellationToken,
    server: JoinHandle<()>,
}

impl TestMember {
    /// The node of all of them: what connects them here does not ask.
    pub(crate) const NODE: u128 = 1;

    pub(crate) fn member(&self) -> Member {
        Member { node: Self::NODE.into(), address: self.address.clone() }
    }

    pub(crate) async fn start(config: &RaftConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, "127.0.0.1:0", config).await
    }

    async fn start_in(dir: TempDir, address: &str, config: &RaftConfig) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let machine = Recorder::default();
        let node = open(dir.path(), &machine, config).await;
        // Ends the connections too, which aborting the task would not.
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let server = Server::builder().add_service(node.service());
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            server.serve_with_incoming_shutdown(incoming, ended).await.unwrap();
        });
        Self { node, machine, address, dir, end, server }
    }

    /// Stops the member; its files and its address stay.
    pub(crate) async fn stop(self) -> StoppedMember {
        self.end.cancel();
        self.node.shutdown().await;
        self.server.await.unwrap();
        StoppedMember { dir: self.dir, address: self.address }
    }
}

pub(crate) struct StoppedMember {
    pub(crate) dir: TempDir,
    pub(crate) address: String,
}

impl StoppedMember {
    pub(crate) async fn restart(self, config: &RaftConfig) -> TestMember {
        TestMember::start_in(self.dir, &self.address, config).await
    }
}

/// Opens a member that has no server.
pub(crate) async fn open(dir: &Path, machine: &Recorder, config: &RaftConfig) -> RaftNode<String> {
    let opened = RaftNode::open(dir, machine.clone(), Arc::new(Loopback), config).await;
    opened.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

/// Waits until a condition holds, at most 20 s.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until one of the members leads, and gives its place.
pub(crate) async fn leader_among(members: &BTreeMap<usize, TestMember>) -> usize {
    let mut leader = None;
    eventually("a leader", || {
        leader = members
            .iter()
            .find(|(_, m)| matches!(*m.node.leader().borrow(), LeaderState::Leader { .. }))
            .map(|(place, _)| *place);
        leader.is_some()
    })
    .await;
    leader.unwrap()
}
