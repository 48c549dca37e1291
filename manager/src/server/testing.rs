//! Several managers in this process, each with a runtime of its own so that it can die at once, over real TLS.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser as _;
use shoal_manager_state::{Command, PredefinedIds};
use shoal_proto::v1::control_client::ControlClient;
use shoal_proto::v1::dispatcher_client::DispatcherClient;
use shoal_transport::MANAGER_NAME;
use shoal_types::id::{ClusterId, IdSource as _, UserId};
use shoal_types::level::Level;
use shoal_types::object::{ManagerStatus, NodeDescription};
use shoal_types::spec::{ClusterSpec, NodeRole, NodeSpec, UserRole, UserSpec};
use tokio::runtime::Runtime;

use super::*;
use crate::ca::{CertificateAuthority, JoinSecrets};
use crate::clock::RandomIds;
use crate::config::{Cli, Command as Word};
use crate::raft::LeaderState;

/// Everything here takes seconds at most; this is for machines that are very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// One manager.
pub(crate) struct One {
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) raft: RaftNode<Answer>,
    pub(crate) cluster: Cluster,
    runtime: Option<Runtime>,
    _dir: tempfile::TempDir,
}

impl One {
    fn start(ca: &CertificateAuthority, node: NodeId, address: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let own = certified(ca, PeerId::Node(node), Role::Manager);
        let (path, text) = (dir.path().to_str().expect("text"), address.to_string());
        let words =
            ["shoal-manager", "run", "--state-dir", path, "--listen", &text, "--advertise", &text];
        let Word::Run(options) = Cli::parse_from(words).command else { panic!("not asked for") };
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().expect("runtime");
        let (identity, identities) = watch::channel(Some(own));
        let stop = CancellationToken::new();
        let opened = runtime.block_on(open(&options.state_dir, identities.clone(), &stop));
        let (raft, cluster) = opened.expect("opened");
        let (serving, on) = (raft.clone(), cluster.clone());
        runtime.spawn(async move {
            let _identity = identity;
            let place = options.state_dir.join("credentials");
            // It is told of the others by the state.
            let (_nobody, named) = watch::channel(Vec::new());
            let known_by = KnownBy { identities, named };
            if let Err(error) = serve(&options, &serving, &on, known_by, place, stop).await {
                tracing::error!("{error:#}");
            }
        });
        Self { node, address, raft, cluster, runtime: Some(runtime), _dir: dir }
    }

    /// Its process dies.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.runtime.is_some() && matches!(*self.raft.leader().borrow(), LeaderState::Leader { .. })
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three of them that are one cluster.
pub(crate) struct Trio {
    pub(crate) ca: Arc<CertificateAuthority>,
    pub(crate) secrets: JoinSecrets,
    pub(crate) admin: UserId,
    pub(crate) managers: Vec<One>,
}

pub(crate) fn certified(ca: &CertificateAuthority, id: PeerId, role: Role) -> LiveCredentials {
    let key = PrivateKey::generate().expect("key");
    let issued = ca.certify(&key, id, role, clock::now()).expect("issued");
    LiveCredentials::new(issued).expect("usable")
}

impl Trio {
    pub(crate) async fn start() -> Self {
        let id = RandomIds.next_id::<ClusterId>();
        let ca = Arc::new(CertificateAuthority::create(id, clock::now()).expect("authority"));
        let secrets = JoinSecrets::generate().expect("random");
        let admin = RandomIds.next_id();
        let managers = (0..3).map(|_| {
            let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            let (ca, node, address) =
                (Arc::clone(&ca), RandomIds.next_id(), free.expect("address"));
            tokio::task::spawn_blocking(move || One::start(&ca, node, address))
        });
        let managers = futures::future::try_join_all(managers).await.expect("started");
        let trio = Self { ca, secrets, admin, managers };
        trio.form(id).await;
        trio
    }

    async fn form(&self, id: ClusterId) {
        let first = &self.managers[0];
        first.raft.initialize(first.node, &first.address.to_string()).await.expect("initialised");
        let mut leadership = first.raft.leader();
        leadership.wait_for(|s| matches!(s, LeaderState::Leader { .. })).await.expect("elected");
        let spec = UserSpec { name: "admin".into(), role: UserRole::Admin, ..UserSpec::default() };
        let mut ids = RandomIds;
        let mut commands = vec![
            Command::CreateCluster {
                id,
                spec: ClusterSpec::default(),
                root_ca: self.ca.to_stored(),
                join_tokens: self.secrets.to_stored(),
                networks: PredefinedIds {
                    bridge: ids.next_id(),
                    host: ids.next_id(),
                    none: ids.next_id(),
                },
                level: Level::OWN,
            },
            Command::CreateUser { id: self.admin, spec },
        ];
        for manager in &self.managers {
            let (raft_id, addr) = (manager.raft.id(), manager.address.to_string());
            let status = Some(ManagerStatus { raft_id, addr, level: Level::OWN });
            let spec = NodeSpec { role: NodeRole::Manager, ..NodeSpec::default() };
            let description = NodeDescription { hostname: "m".into(), ..Default::default() };
            commands.push(Command::CreateNode { id: manager.node, spec, description });
            commands.push(Command::SetManagerStatus { id: manager.node, status });
        }
        for result in first.cluster.propose_all(commands).await.expect("written") {
            result.expect("accepted");
        }
        // The leader takes in who is known to be a manager.
        let voters = || first.cluster.members().iter().filter(|member| member.voter).count();
        eventually("all vote", || async { (voters() == self.managers.len()).then_some(()) }).await;
    }

    /// The place of who leads.
    pub(crate) async fn leader(&self) -> usize {
        eventually("somebody leads", || async { self.managers.iter().position(One::leads) }).await
    }

    /// The place of one that follows.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let alive = |at: &usize| *at != leader && self.managers[*at].runtime.is_some();
        (0..self.managers.len()).find(alive).expect("one follows")
    }

    /// A new node, known to the cluster, and its credentials.
    pub(crate) async fn node(&self, role: NodeRole) -> (NodeId, LiveCredentials) {
        let id = RandomIds.next_id();
        let spec = NodeSpec { role, ..NodeSpec::default() };
        let description = NodeDescription { hostname: format!("n{id}"), ..Default::default() };
        let command = Command::CreateNode { id, spec, description };
        let leader = &self.managers[self.leader().await];
        leader.cluster.propose(command).await.expect("made");
        (id, certified(&self.ca, PeerId::Node(id), role.into()))
    }

    pub(crate) fn admin(&self) -> LiveCredentials {
        certified(&self.ca, PeerId::User(self.admin), Role::User)
    }

    pub(crate) fn channel(&self, at: usize, who: &LiveCredentials) -> Channel {
        let address = self.managers[at].address.to_string().parse().expect("address");
        client_channel(address, who.clone(), MANAGER_NAME).expect("channel")
    }

    pub(crate) fn control(&self, at: usize, who: &LiveCredentials) -> ControlClient<Channel> {
        ControlClient::new(self.channel(at, who))
    }

    pub(crate) fn dispatcher(&self, at: usize, who: &LiveCredentials) -> DispatcherClient<Channel> {
        DispatcherClient::new(self.channel(at, who))
    }
}

pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
