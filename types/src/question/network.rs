//! Whether a node's networks are as they should be, and which other nodes it reaches through its tunnel.

use serde::Serialize;

use crate::id::NodeId;
use crate::time::Timestamp;

/// What is to be looked at of a node's networks. Everything of the node's own is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkQuestion {
    /// The other nodes to which packets are sent; all of its peers if none is named.
    pub peers: Vec<NodeId>,
    /// To how many at the most. Who is left out follows from the node's id, and is another one for each
    /// node.
    pub peers_max: u64,
}

/// What a node says of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeNetworks {
    /// The largest packet that its tunnel takes, in bytes; zero if it has none.
    #[serde(rename = "MTU")]
    pub mtu: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
    /// How many peers there are to be reached.
    pub peers: u64,
    /// Those that were tried.
    pub reached: Vec<PeerReach>,
}

impl NodeNetworks {
    /// How many things it lists.
    #[must_use]
    pub fn items(&self) -> usize {
        self.findings.len() + self.notes.len() + self.reached.len()
    }
}

/// Something on a node that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What.
    pub subject: String,
    /// How it should be.
    pub expected: String,
    /// How it is.
    pub found: String,
    /// Since when the agent knows of it, by the node's clock.
    pub known_since: Timestamp,
}

/// What came of sending packets to a peer, all the way through the tunnel and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PeerReach {
    /// The peer.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people. Managers know it, and nodes leave it out.
    pub hostname: String,
    /// Where the tunnel sends to, as an address and a port; absent if the tunnel does not know the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How long ago keys were last agreed on with it, in seconds; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_age_seconds: Option<u64>,
    /// Bytes that came from it.
    pub received_bytes: u64,
    /// Bytes that went to it.
    pub sent_bytes: u64,
    /// The size of the largest packet that should pass, in bytes.
    pub full_bytes: u64,
    /// The size of the largest packet that did; zero if none was answered.
    pub passes_bytes: u64,
    /// Why it was not found out, or nothing could be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl PeerReach {
    /// Whether packets of every size pass.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.passes_bytes >= self.full_bytes && self.trouble.is_none()
    }
}

/// What one node says of its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlacedNetworks {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// What it says.
    #[serde(flatten)]
    pub networks: NodeNetworks,
}

impl PlacedNetworks {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.networks.findings.is_empty() && self.networks.reached.iter().all(PeerReach::is_whole)
    }
}
