//! Volumes as nodes have them.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::time::Timestamp;

/// Label of volumes that were made for one task and have no name of their own; its value is the task's
/// id.
pub const ANONYMOUS: &str = "io.shoal.anonymous";

/// A volume of one node. JSON has Docker's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeVolume {
    /// Unique on its node.
    pub name: String,
    /// What keeps it.
    pub driver: String,
    /// For the driver.
    pub options: BTreeMap<String, String>,
    /// Kept for people.
    pub labels: BTreeMap<String, String>,
    /// Where its data is on the host.
    pub mountpoint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Ids of the tasks that use it, also of such that are about to.
    #[serde(skip)]
    pub users: Vec<String>,
}

impl NodeVolume {
    /// Whether it was made for one task alone.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    /// It, and all that it lists.
    #[must_use]
    pub fn items(&self) -> usize {
        let Self { name: _, driver: _, options, labels, mountpoint: _, created_at: _, users } =
            self;
        1 + options.len() + labels.len() + users.len()
    }
}

/// A volume and where it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlacedVolume {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// The volume.
    #[serde(flatten)]
    pub volume: NodeVolume,
    /// Names of the tasks that use it, or their ids where the cluster does not know them.
    pub used_by: Vec<String>,
}
