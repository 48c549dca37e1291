//! Members over loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::testing::{Recorder, open};
use super::{LeaderState, Member, RaftConfig, RaftNode};

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

    /// Makes another one a voter of the group that this one leads.
    pub(crate) async fn add_voter(&self, other: &Self) {
        let id = other.node.id();
        self.node.add_learner(id, other.member()).await.unwrap();
        let member = || self.node.members().into_iter().find(|m| m.id == id).unwrap();
        eventually("it has caught up", || member().lag == Some(0)).await;
        self.node.promote(id).await.unwrap();
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
