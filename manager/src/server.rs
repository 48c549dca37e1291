//! Putting a manager together and running it until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use shoal_manager_state::ClusterState;
use shoal_proto::v1::bootstrap_server::BootstrapServer;
use shoal_proto::v1::ca_server::CaServer;
use shoal_proto::v1::control_server::ControlServer;
use shoal_proto::v1::dispatcher_server::DispatcherServer;
use shoal_proto::v1::managers_server::ManagersServer;
use shoal_transport::{
    Credentials, EnrolError, IncomingLimits, LiveCredentials, ManagerAddress, PeerId, PrivateKey,
    Role, client_channel, incoming, node_name, renew_forever, server_builder, unix_incoming,
};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::api::ControlService;
use crate::auth::{AuthLayer, Membership, StateMembers};
use crate::bootstrap::BootstrapService;
use crate::broker::Broker;
use crate::ca::CaService;
use crate::cluster::Cluster;
use crate::config::RunOptions;
use crate::dispatcher::{DispatcherService, Sessions};
use crate::feed::Feed;
use crate::forward::ForwardLayer;
use crate::machine::{Answer, ClusterMachine};
use crate::managers::{self, ManagersService};
use crate::membership::{StateCa, authority};
use crate::raft::{BoxError, PeerConnector, ProposeConfig, Proposer, RaftConfig, RaftNode};
use crate::removal::RemovalLayer;
use crate::{clock, leader};

/// How long connections are waited for when the manager stops.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// The largest message that a client may send: a stack of many services.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Runs a manager until `stop`.
///
/// # Errors
/// It cannot start, or its log failed for good.
pub async fn run(options: RunOptions, mut stop: CancellationToken) -> anyhow::Result<()> {
    let credentials_dir = options.state_dir.join("credentials");
    let known =
        Credentials::load(&credentials_dir).context("cannot read this manager's credentials")?;
    let known = known.map(LiveCredentials::new).transpose()?;
    let (identity, identities) = watch::channel(known);
    let (seeds, named) = watch::channel(Vec::new());
    let requested = std::mem::take(&mut stop);
    let (raft, cluster) = open(&options.state_dir, identities.clone(), &stop).await?;
    tokio::spawn(stop_in_good_order(requested, cluster.clone(), stop.clone()));

    let bootstrap = BootstrapService::new(
        cluster.clone(),
        raft.clone(),
        credentials_dir.clone(),
        options.listen.clone(),
        identity,
        seeds,
    );
    let local = unix_incoming(&options.socket)
        .with_context(|| format!("cannot listen on {}", options.socket.display()))?;
    let local = tonic::transport::Server::builder()
        .add_service(BootstrapServer::new(bootstrap))
        .serve_with_incoming_shutdown(local, stop.clone().cancelled_owned());
    let local = tokio::spawn(local);

    let known_by = KnownBy { identities, named };
    let serve = serve(&options, &raft, &cluster, known_by, credentials_dir, stop.clone());
    let result = tokio::select! {
        result = serve => result,
        reason = raft.failed() => Err(anyhow::anyhow!("the raft log failed: {reason}")),
    };
    stop.cancel();
    raft.shutdown().await;
    // Ends with `stop`; what it answers last helps nobody.
    let _ = local.await;
    // A stale socket is replaced at the next start anyway.
    let _ = std::fs::remove_file(&options.socket);
    result
}

/// Lets others lead before this manager stops, while it still answers them.
async fn stop_in_good_order(
    requested: CancellationToken,
    cluster: Cluster,
    stop: CancellationToken,
) {
    tokio::select! {
        () = requested.cancelled() => managers::give_lead_away(&cluster).await,
        () = stop.cancelled() => {}
    }
    stop.cancel();
}

/// Opens the log and puts the state over it.
async fn open(
    state_dir: &Path,
    identities: watch::Receiver<Option<LiveCredentials>>,
    stop: &CancellationToken,
) -> anyhow::Result<(RaftNode<Answer>, Cluster)> {
    let (published, states) = watch::channel(Arc::new(ClusterState::new()));
    let feed = Feed::default();
    let machine = ClusterMachine::new(published, feed.clone());
    let dir = state_dir.join("raft");
    let connector = Arc::new(TlsConnector { identities });
    let raft = RaftNode::open(&dir, machine, connector, &RaftConfig::default())
        .await
        .with_context(|| format!("cannot open the raft log in {}", dir.display()))?;
    let (proposer, work) = Proposer::new(raft.clone(), ProposeConfig::default(), stop.clone());
    tokio::spawn(work);
    let cluster = Cluster::new(raft.clone(), proposer, states, feed);
    Ok((raft, cluster))
}

/// Who this manager is, and what other managers it was told of.
struct KnownBy {
    identities: watch::Receiver<Option<LiveCredentials>>,
    named: watch::Receiver<Vec<ManagerAddress>>,
}

/// Serves the API once this manager has an identity.
async fn serve(
    options: &RunOptions,
    raft: &RaftNode<Answer>,
    cluster: &Cluster,
    known_by: KnownBy,
    credentials_dir: std::path::PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let KnownBy { mut identities, named } = known_by;
    let listener = TcpListener::bind(&options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let live = tokio::select! {
        // First: what would say who this is ends with it, too.
        biased;
        () = stop.cancelled() => return Ok(()),
        known = identities.wait_for(Option::is_some) => known?.clone().context("no identity")?,
    };
    let node_id = live.current().identity().node().context("the credentials are not a node's")?;
    let sessions = Arc::new(Sessions::default());
    let broker = Broker::new(cluster.clone(), Arc::clone(&sessions));
    let control =
        ControlService::new(cluster.clone(), Arc::clone(&broker), Arc::clone(&sessions), node_id);
    let dispatcher = DispatcherService::new(cluster.clone(), Arc::clone(&sessions), broker);
    let members: Arc<dyn Membership> =
        Arc::new(StateMembers::new(cluster.changes(), cluster.leadership()));
    let own = managers::Own { node: node_id, address: options.advertise.clone() };
    tokio::spawn(leader::run(cluster.clone(), Arc::clone(&sessions)));
    tokio::spawn(managers::make_known(cluster.clone(), live.clone(), own, named));
    tokio::spawn(renew(live.clone(), cluster.clone(), credentials_dir));
    tracing::info!(listen = options.listen, advertise = options.advertise, "serving");
    let forward = {
        let connector = Arc::new(TlsConnector { identities });
        let own = live.current().identity().cluster;
        ForwardLayer::new(own, cluster.leadership(), connector, Arc::clone(&members), clock::now)
    };
    let server = server_builder()
        .layer(forward)
        .layer(RemovalLayer::new(cluster.clone()))
        .layer(AuthLayer::new(members, clock::now))
        .add_service(ControlServer::new(control).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(DispatcherServer::new(dispatcher))
        .add_service(CaServer::new(CaService::new(StateCa::new(cluster.clone()))))
        .add_service(ManagersServer::new(ManagersService::new(cluster.clone())))
        .add_service(raft.service())
        .serve_with_incoming_shutdown(
            incoming(listener, live, IncomingLimits::default()),
            stop.clone().cancelled_owned(),
        );
    tokio::select! {
        result = server => result.context("serving failed"),
        () = drained(&stop, &sessions) => Ok(()),
    }
}

/// Resolves when those who are connected have had time to hear that it is over. Streams of users
/// who watch never end by themselves.
async fn drained(stop: &CancellationToken, sessions: &Sessions) {
    stop.cancelled().await;
    sessions.end_all();
    tokio::time::sleep(DRAIN_TIME).await;
}

/// Keeps this manager's certificate fresh. It holds the authority, so it asks nobody, and gets a new
/// one also when the old one has expired while it was off.
async fn renew(live: LiveCredentials, cluster: Cluster, dir: std::path::PathBuf) {
    let request = |current: Credentials| {
        let fresh = fresh_credentials(&current, &cluster);
        let failed = |error: anyhow::Error| EnrolError::Unavailable(one_line(&error));
        std::future::ready(fresh.map_err(failed))
    };
    renew_forever(live, request, |fresh| fresh.save(&dir)).await;
}

fn fresh_credentials(current: &Credentials, cluster: &Cluster) -> anyhow::Result<Credentials> {
    let (ca, _) =
        authority(&cluster.view()).map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let node = current.identity().node().context("the credentials are not a node's")?;
    let key = PrivateKey::generate()?;
    Ok(ca.certify(&key, PeerId::Node(node), Role::Manager, clock::now())?)
}

/// Dials other managers with this one's identity, each by the name of its node: the certificate of
/// another manager, valid as it is, does not answer for it.
struct TlsConnector {
    identities: watch::Receiver<Option<LiveCredentials>>,
}

impl PeerConnector for TlsConnector {
    fn channel<'a>(
        &'a self,
        node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Channel, BoxError>> {
        Box::pin(async move {
            let live = self.identities.borrow().clone();
            let live = live.ok_or("this manager has no identity yet")?;
            let address: ManagerAddress = address.parse()?;
            Ok(client_channel(address, live, &node_name(node))?)
        })
    }
}

/// An error with all its causes on one line.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    chain(error.as_ref()).to_string()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
