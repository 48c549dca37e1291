//! Whether the node's networks are as they should be, and which other nodes it reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_dns::NamesDriver;
use shoal_agent_network::NetworkDriver;
use shoal_agent_planning::tunnel::SeenPeer;
use shoal_agent_planning::tunnel::wide::expected;
use shoal_agent_planning::verify::{Compared, Difference, Known, of_holdings, sample};
use shoal_agent_tunnel::{Reached, reach};
use shoal_types::error_chain::chain;
use shoal_types::id::NodeId;
use shoal_types::question::{NetworkQuestion, NodeNetworks, PeerReach};
use tokio::sync::Mutex;

use crate::overlay::{OverlayHandle, SeenFrom, SeenLink};
use crate::worker::{Clock, Drivers, WorkerHandle};

/// How long other nodes are tried.
const REACH: Duration = Duration::from_secs(20);
/// Nodes that are tried for one question, at the most.
const PEERS_MAX: usize = 1024;

/// Looks at the networks of a node.
pub(super) struct Networks {
    worker: WorkerHandle,
    driver: Arc<dyn NetworkDriver>,
    names: Arc<dyn NamesDriver>,
    clock: Arc<dyn Clock>,
    overlay: OverlayHandle,
    /// Held while other nodes are tried: packets of one look at a time.
    known: Mutex<Known>,
}

impl Networks {
    pub(super) fn new(worker: WorkerHandle, drivers: &Drivers, overlay: OverlayHandle) -> Self {
        Self {
            worker,
            driver: Arc::clone(&drivers.networks),
            names: Arc::clone(&drivers.names),
            clock: Arc::clone(&drivers.clock),
            overlay,
            known: Mutex::default(),
        }
    }

    pub(super) async fn look(&self, asked: &NetworkQuestion) -> NodeNetworks {
        let (host, overseen, tasks) =
            tokio::join!(self.driver.compare(), self.overlay.compare(), self.of_tasks());
        let mut all = NodeNetworks::default();
        for Compared { findings, notes } in [host, overseen.compared, tasks] {
            all.findings.extend(findings);
            all.notes.extend(notes);
        }
        if let Some(from) = overseen.from {
            self.try_peers(asked, from, &mut all).await;
        }
        all
    }

    /// Connections and names of containers.
    async fn of_tasks(&self) -> Compared {
        let (differing, answering) =
            tokio::join!(self.worker.differing(), self.names.is_answering());
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        match differing {
            Ok(actions) => all.extend(of_holdings(&actions)),
            Err(error) => notes.push(chain(&error).to_string()),
        }
        if answering == Some(false) {
            all.push(Difference::new("process that answers names", "answers", "does not"));
        }
        let now = self.clock.now().wall;
        Compared { findings: self.known.lock().await.findings(all, now), notes }
    }

    async fn try_peers(&self, asked: &NetworkQuestion, from: SeenFrom, all: &mut NodeNetworks) {
        let SeenFrom { own, ifnames, mtu, home, peers, .. } = from;
        let meant: BTreeSet<NodeId> = asked.peers.iter().copied().collect();
        let peers: BTreeMap<NodeId, SeenLink> = peers
            .into_iter()
            .filter(|(node, _)| meant.is_empty() || meant.contains(node))
            .collect();
        (all.mtu, all.peers) = (u64::from(mtu), peers.len() as u64);
        let max = usize::try_from(asked.peers_max).unwrap_or(PEERS_MAX).min(PEERS_MAX);
        let chosen = sample(own, peers.keys().copied().collect(), max);
        let address = |node: &NodeId| {
            let link = peers.get(node)?;
            Some((link.address?, link.by.clone()))
        };
        let addresses: Vec<(Ipv4Addr, String)> = chosen.iter().filter_map(address).collect();
        let mut came = match home {
            Some(home) if !addresses.is_empty() => {
                match reach(&ifnames, home, addresses, mtu, REACH).await {
                    Ok(came) => came,
                    Err(error) => {
                        all.notes.push(format!("cannot try to reach other nodes: {error}"));
                        return;
                    }
                }
            }
            _ => BTreeMap::new(),
        };
        for node in chosen {
            let Some(SeenLink { address, seen, .. }) = peers.get(&node) else { continue };
            let none = |why: &str| Reached { passes: 0, trouble: Some(why.to_owned()) };
            let reached = match address {
                Some(_) if home.is_none() => none("this node has no address in the tunnel"),
                Some(address) => came.remove(address).unwrap_or_default(),
                None => none("it has no address in the tunnel"),
            };
            all.reached.push(told(node, seen.as_ref(), mtu, reached));
        }
    }
}

fn told(node_id: NodeId, seen: Option<&SeenPeer>, full: u32, reached: Reached) -> PeerReach {
    let Reached { passes, trouble } = reached;
    PeerReach {
        node_id,
        hostname: String::new(),
        endpoint: seen.and_then(|seen| seen.endpoint).map(|at| at.to_string()),
        handshake_age_seconds: seen.and_then(|s| s.handshake_age).map(|age| age.as_secs()),
        received_bytes: seen.map_or(0, |seen| seen.rx_bytes),
        sent_bytes: seen.map_or(0, |seen| seen.tx_bytes),
        full_bytes: expected(full, passes).into(),
        passes_bytes: passes.into(),
        trouble,
    }
}
