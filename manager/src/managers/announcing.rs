//! A manager tells the others what it is: when it joins, moves, is upgraded or has lost its log.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_manager_planning::managers::{announced, must_announce};
use shoal_proto::v1::AnnounceRequest;
use shoal_proto::v1::managers_client::ManagersClient;
use shoal_transport::{LiveCredentials, MANAGER_NAME, ManagerAddress, client_channel};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::ManagerStatus;
use tokio::sync::watch;
use tonic::Status;

use crate::cluster::{Cluster, ProposalError};
use crate::raft::LeaderState;

/// For one manager to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Wait before it is tried again: some other manager may lead by then.
const RETRY: Duration = Duration::from_secs(1);

/// This manager, as others are to know it.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its node.
    pub node: NodeId,
    /// `host:port` where others reach it.
    pub address: String,
}

impl Own {
    fn status(&self, raft_id: u64) -> ManagerStatus {
        ManagerStatus { raft_id, addr: self.address.clone(), level: Level::OWN }
    }
}

/// Sees to it that the cluster knows this manager as it is. `seeds` are managers that somebody has named:
/// one that has no log yet knows of no others. Ends with the runtime.
pub async fn make_known(
    cluster: Cluster,
    credentials: LiveCredentials,
    own: Own,
    mut seeds: watch::Receiver<Vec<ManagerAddress>>,
) {
    let mut leadership = cluster.leadership();
    let mut told = String::new();
    loop {
        let leads = matches!(*leadership.borrow_and_update(), LeaderState::Leader { .. });
        let status = own.status(cluster.raft_id());
        let named = seeds.borrow_and_update().clone();
        let outcome = match leads {
            true => write_down(&cluster, &own, status).await,
            false if !must_announce(&cluster.view(), own.node, &status) => Ok(()),
            false => tell_others(&cluster, &credentials, status, named).await,
        };
        let is_known =
            leads || !must_announce(&cluster.view(), own.node, &own.status(cluster.raft_id()));
        match outcome {
            Ok(()) => told.clear(),
            Err(why) if why != told => {
                tracing::warn!(why, "the cluster cannot be told of this manager yet");
                told = why;
            }
            Err(_) => {}
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            Ok(()) = seeds.changed() => {}
            () = tokio::time::sleep(RETRY), if !is_known || !told.is_empty() => {}
        }
    }
}

/// As the leader.
async fn write_down(cluster: &Cluster, own: &Own, status: ManagerStatus) -> Result<(), String> {
    let said = |status: Status| status.message().to_owned();
    let view = cluster.read().await.map_err(said)?;
    let command = match announced(&view, own.node, status) {
        Ok(Some(command)) => command,
        Ok(None) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    cluster.propose(command).await.map_err(|error: ProposalError| chain(&error).to_string())?;
    tracing::info!(address = own.address, level = %Level::OWN, "this manager is made known anew");
    Ok(())
}

/// One after the other, until the leader has heard it.
async fn tell_others(
    cluster: &Cluster,
    credentials: &LiveCredentials,
    own: ManagerStatus,
    named: Vec<ManagerAddress>,
) -> Result<(), String> {
    let others = cluster.members().into_iter().filter(|member| member.raft_id != own.raft_id);
    let known = others.filter_map(|member| member.addr.parse().ok());
    let mut seen = BTreeSet::new();
    let mut why = "no other manager is known".to_owned();
    for address in known.chain(named).filter(|address| seen.insert(address.to_string())) {
        let answer = tell(&address, credentials, &own).await;
        match answer {
            Ok(()) => return Ok(()),
            Err(status) => why = format!("{address}: {}", status.message()),
        }
    }
    Err(why)
}

async fn tell(
    address: &ManagerAddress,
    credentials: &LiveCredentials,
    own: &ManagerStatus,
) -> Result<(), Status> {
    let channel = client_channel(address.clone(), credentials.clone(), MANAGER_NAME)
        .map_err(|error| Status::internal(chain(&error).to_string()))?;
    let ManagerStatus { raft_id, addr, level } = own.clone();
    let request = AnnounceRequest { raft_id, addr, level: level.number() };
    let mut client = ManagersClient::new(channel);
    match tokio::time::timeout(PATIENCE, client.announce(request)).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {PATIENCE:?}"))),
    }
}
