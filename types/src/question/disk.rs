//! What nodes keep on their disks.

use crate::id::NodeId;

/// What a node keeps on its disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Images; what several share is counted once.
    pub images: DiskPart,
    /// Containers of tasks: what they have written beside their image, without their logs.
    pub containers: DiskPart,
    /// Volumes.
    pub volumes: DiskPart,
    /// Logs of tasks.
    pub logs: DiskPart,
    /// Whether everything was counted: what takes too long is left out.
    pub whole: bool,
}

/// Things of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskPart {
    /// How many there are.
    pub count: u64,
    /// How many of them some task uses.
    pub active: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes that would be free if those went that no task uses.
    pub reclaimable_bytes: u64,
}

impl DiskPart {
    /// Adds one thing that shares nothing with others.
    pub fn add(&mut self, is_active: bool, bytes: u64) {
        self.count += 1;
        self.active += u64::from(is_active);
        self.bytes = self.bytes.saturating_add(bytes);
        if !is_active {
            self.reclaimable_bytes = self.reclaimable_bytes.saturating_add(bytes);
        }
    }
}

/// What a node keeps, with its name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlacedDisk {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// What it keeps.
    #[serde(flatten)]
    pub usage: DiskUsage,
}
