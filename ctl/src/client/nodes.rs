//! What the nodes themselves are asked, through a manager.

use shoal_proto::v1 as pb;
use shoal_types::question::{PlacedDisk, PlacedUsage, PlacedVolume, Prune, PrunedNode, Silent};

use super::{Client, Result, all};

/// What those answered that did.
#[derive(Debug, Clone)]
pub(crate) struct Partial<T> {
    pub(crate) items: Vec<T>,
    /// Nodes that did not answer.
    pub(crate) silent: Vec<Silent>,
}

/// Whose usage is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsageQuery {
    /// All if none is named.
    pub(crate) nodes: Vec<String>,
    /// Services and tasks; all if none is named.
    pub(crate) references: Vec<String>,
    pub(crate) without_tasks: bool,
}

impl Client {
    /// What nodes and tasks use now.
    pub(crate) async fn usage(&self, query: &UsageQuery) -> Result<Partial<PlacedUsage>> {
        let UsageQuery { nodes, references, without_tasks } = query.clone();
        let request = pb::GetUsageRequest { nodes, references, without_tasks };
        let answer = self.rpc.clone().get_usage(request).await?.into_inner();
        Ok(Partial { items: all("nodes", answer.nodes)?, silent: all("silent", answer.silent)? })
    }

    /// The volumes of nodes, of all if none is named.
    pub(crate) async fn volumes(&self, nodes: &[String]) -> Result<Partial<PlacedVolume>> {
        let request = pb::ListVolumesRequest { nodes: nodes.to_vec() };
        let answer = self.rpc.clone().list_volumes(request).await?.into_inner();
        let items = all("volumes", answer.volumes)?;
        Ok(Partial { items, silent: all("silent", answer.silent)? })
    }

    pub(crate) async fn remove_volume(
        &self,
        name: &str,
        nodes: &[String],
    ) -> Result<Partial<PrunedNode>> {
        let request = pb::RemoveVolumeRequest { name: name.to_owned(), nodes: nodes.to_vec() };
        let answer = self.rpc.clone().remove_volume(request).await?.into_inner();
        Ok(Partial { items: all("nodes", answer.nodes)?, silent: all("silent", answer.silent)? })
    }

    /// What nodes keep on their disks, all if none is named.
    pub(crate) async fn disk_usage(&self, nodes: &[String]) -> Result<Partial<PlacedDisk>> {
        let request = pb::GetDiskUsageRequest { nodes: nodes.to_vec() };
        let answer = self.rpc.clone().get_disk_usage(request).await?.into_inner();
        Ok(Partial { items: all("nodes", answer.nodes)?, silent: all("silent", answer.silent)? })
    }

    pub(crate) async fn prune(
        &self,
        prune: &Prune,
        nodes: &[String],
    ) -> Result<Partial<PrunedNode>> {
        let request = pb::PruneNodesRequest { nodes: nodes.to_vec(), prune: Some(prune.into()) };
        let answer = self.rpc.clone().prune_nodes(request).await?.into_inner();
        Ok(Partial { items: all("nodes", answer.nodes)?, silent: all("silent", answer.silent)? })
    }
}
