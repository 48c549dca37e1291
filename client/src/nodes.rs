//! What the nodes themselves are asked, through a manager.

use shoal_proto::v1 as pb;
use shoal_types::question::{
    PlacedDisk, PlacedNetworks, PlacedUsage, PlacedVolume, Prune, PrunedNode, Silent, TraceStep,
};

use super::{Client, Result, all, parts};

/// What those answered that did.
#[derive(Debug, Clone)]
pub struct Partial<T> {
    /// What came.
    pub items: Vec<T>,
    /// Nodes that did not answer.
    pub silent: Vec<Silent>,
}

/// Whose usage is wanted.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// All if none is named.
    pub nodes: Vec<String>,
    /// Services and tasks; all if none is named.
    pub references: Vec<String>,
    /// Only what the nodes use.
    pub without_tasks: bool,
}

/// What nodes have answered, in whatever parts it comes.
macro_rules! partial {
    ($self:ident . $method:ident ( $request:expr ) . $field:ident) => {{
        let mut found = Partial { items: Vec::new(), silent: Vec::new() };
        let answer = $self.rpc.clone().$method($request).await?.into_inner();
        parts::each(answer, |part| {
            found.items.extend(all(stringify!($field), part.$field)?);
            found.silent.extend(all("silent", part.silent)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }};
}

impl Client {
    /// What nodes and tasks use now.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Partial<PlacedUsage>> {
        let UsageQuery { nodes, references, without_tasks } = query.clone();
        let request = pb::GetUsageRequest { nodes, references, without_tasks };
        partial!(self.get_usage(request).nodes)
    }

    /// The volumes of nodes, of all if none is named.
    pub async fn volumes(&self, nodes: &[String]) -> Result<Partial<PlacedVolume>> {
        let request = pb::ListVolumesRequest { nodes: nodes.to_vec() };
        partial!(self.list_volumes(request).volumes)
    }

    /// Removes a volume by name on nodes, on all if none is named.
    pub async fn remove_volume(&self, name: &str, nodes: &[String]) -> Result<Partial<PrunedNode>> {
        let request = pb::RemoveVolumeRequest { name: name.to_owned(), nodes: nodes.to_vec() };
        partial!(self.remove_volume(request).nodes)
    }

    /// What nodes keep on their disks, all if none is named.
    pub async fn disk_usage(&self, nodes: &[String]) -> Result<Partial<PlacedDisk>> {
        let request = pb::GetDiskUsageRequest { nodes: nodes.to_vec() };
        partial!(self.get_disk_usage(request).nodes)
    }

    /// Whether nodes' networks are as they should be: those of the nodes that have tasks on one of these networks, of
    /// all nodes if none is named. Each tries to reach so many others at the most.
    pub async fn verify_networks(
        &self,
        networks: &[String],
        peers_max: u64,
    ) -> Result<Partial<PlacedNetworks>> {
        let request = pb::VerifyNetworksRequest { networks: networks.to_vec(), peers_max };
        partial!(self.verify_networks(request).nodes)
    }

    /// The way of a packet from a task or node to somewhere.
    pub async fn trace_network(&self, source: &str, destination: &str) -> Result<Vec<TraceStep>> {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        let request = pb::TraceNetworkRequest { source, destination };
        let answer = self.rpc.clone().trace_network(request).await?.into_inner();
        all("steps", answer.steps)
    }

    /// Removes what is unused on nodes, on all if none is named.
    pub async fn prune(&self, prune: &Prune, nodes: &[String]) -> Result<Partial<PrunedNode>> {
        let request = pb::PruneNodesRequest { nodes: nodes.to_vec(), prune: Some(prune.into()) };
        partial!(self.prune_nodes(request).nodes)
    }
}
