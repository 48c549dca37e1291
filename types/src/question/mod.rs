//! What managers ask nodes, and what nodes answer: what is there and what it uses, which no manager
//! keeps, because it changes all the time or exists on one host alone.

mod disk;
mod filter;
mod network;
mod trace;
mod usage;
mod volume;

pub use disk::{DiskPart, DiskUsage, PlacedDisk};
pub use filter::{InvalidLabelFilter, LabelFilter, LabelFilters};
pub use network::{Finding, NetworkQuestion, NodeNetworks, PeerReach, PlacedNetworks};
pub use trace::{TraceStep, Verdict};
pub use usage::{NamedUsage, NetworkUsed, NodeUsage, PlacedUsage, TaskUsage, UsageQuestion, Used};
pub use volume::{ANONYMOUS, NodeVolume, PlacedVolume};

use crate::id::NodeId;

/// A question to one node. Each may be asked again, whatever became of the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Which volumes there are; [`Answer::Volumes`].
    Volumes,
    /// Removes a volume, which nobody may use; [`Answer::Pruned`], with nothing in it if there is none
    /// of that name.
    RemoveVolume(String),
    /// Removes what nobody uses; [`Answer::Pruned`].
    Prune(Prune),
    /// What is used now; [`Answer::Usage`].
    Usage(UsageQuestion),
    /// What is kept on the disk; [`Answer::DiskUsage`].
    DiskUsage,
    /// Whether networks are as they should be; [`Answer::Networks`].
    Networks(NetworkQuestion),
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Every volume.
    Volumes(Vec<NodeVolume>),
    /// What was removed.
    Pruned(Pruned),
    /// What is used.
    Usage(NodeUsage),
    /// What is on the disk.
    DiskUsage(DiskUsage),
    /// How networks are.
    Networks(NodeNetworks),
}

/// Two parts of answers that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its parts do not belong together")]
pub struct Mismatch;

impl Answer {
    /// An answer with the next part of it. Only lists come in parts; what else is in a later part is in
    /// the first one, too.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn followed_by(self, part: Self) -> Result<Self, Mismatch> {
        match (self, part) {
            (Self::Volumes(mut all), Self::Volumes(more)) => {
                all.extend(more);
                Ok(Self::Volumes(all))
            }
            (Self::Usage(mut all), Self::Usage(more)) => {
                all.tasks.extend(more.tasks);
                Ok(Self::Usage(all))
            }
            (Self::Networks(mut all), Self::Networks(more)) => {
                all.findings.extend(more.findings);
                all.notes.extend(more.notes);
                all.reached.extend(more.reached);
                Ok(Self::Networks(all))
            }
            _ => Err(Mismatch),
        }
    }

    /// How many things it lists, and in them: what it takes in memory, however short its names are.
    #[must_use]
    pub fn items(&self) -> usize {
        match self {
            Self::Volumes(volumes) => volumes.iter().map(NodeVolume::items).sum(),
            Self::Pruned(pruned) => pruned.items(),
            Self::Usage(usage) => usage.tasks.len(),
            Self::DiskUsage(_) => 1,
            Self::Networks(networks) => networks.items(),
        }
    }
}

/// What may be removed if nobody uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prune {
    /// Volumes.
    pub volumes: Option<VolumePrune>,
    /// Images.
    pub images: Option<ImagePrune>,
    /// What is left of tasks that have ended: their logs.
    pub containers: bool,
}

/// Which images that nobody uses may be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImagePrune {
    /// Also those that have a tag, also if they were loaded by hand.
    pub all: bool,
}

/// Which volumes that nobody uses may be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumePrune {
    /// Also those that were named, whose data somebody may want.
    pub all: bool,
    /// All of them must hold.
    pub labels: LabelFilters,
}

/// What was removed on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Names of images, or ids of those that have none.
    pub images: Vec<String>,
    /// Ids of tasks of which nothing is left.
    pub containers: Vec<String>,
    /// Bytes that are free now and were not before, as far as they were counted.
    pub reclaimed_bytes: u64,
    /// What could not be removed, and why.
    pub errors: Vec<String>,
}

impl Pruned {
    /// How many things it lists.
    #[must_use]
    pub fn items(&self) -> usize {
        let Self { volumes, images, containers, reclaimed_bytes: _, errors } = self;
        volumes.len() + images.len() + containers.len() + errors.len()
    }
}

/// What was removed, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PrunedNode {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// What was removed there.
    #[serde(flatten)]
    pub pruned: Pruned,
}

/// A node that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Silent {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its name, for people.
    pub hostname: String,
    /// Why there is no answer, for people.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_one_list_belong_together() {
        let volumes = |names: &[&str]| {
            let volume =
                |name: &&str| NodeVolume { name: (*name).to_owned(), ..Default::default() };
            Answer::Volumes(names.iter().map(volume).collect())
        };
        let pruned = || Answer::Pruned(Pruned::default());
        assert_eq!(
            volumes(&["a"]).followed_by(volumes(&["b", "c"])),
            Ok(volumes(&["a", "b", "c"]))
        );
        for (first, second) in
            [(volumes(&[]), pruned()), (pruned(), volumes(&[])), (pruned(), pruned())]
        {
            assert_eq!(first.followed_by(second), Err(Mismatch));
        }
    }
}
