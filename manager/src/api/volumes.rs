//! Volumes, which nodes have and no manager keeps; and what nodes may remove.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_manager_planning::volume::{NotRemoved, placed, removal};
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::question::{
    Answer, PlacedDisk, PlacedVolume, Prune, PrunedNode, Question, Silent,
};
use shoal_types::spec::UserSpec;
use tonic::Status;

use super::asked::Asker;
use super::error::required;
use super::parts::with_silent;
use super::{Answers, ControlService, invalid, unresolved};

/// The nodes that are meant; all if none is named.
pub(super) fn meant(view: &ClusterState, references: &[String]) -> Result<Vec<NodeId>, Status> {
    if references.is_empty() {
        return Ok(view.nodes().map(|node| node.id).collect());
    }
    let one = |r: &String| view.resolve_node(r).map(|node| node.id).map_err(|e| unresolved(&e));
    references.iter().map(one).collect()
}

/// The same question to each.
fn all(nodes: Vec<NodeId>, question: &Question) -> impl Iterator<Item = (NodeId, Question)> {
    nodes.into_iter().map(|node| (node, question.clone()))
}

/// Calls of one caller that ask nodes at the same time: they have half of the places at the most.
pub(super) const QUESTIONS_MAX: usize = 4;

impl ControlService {
    pub(super) async fn ask(
        &self,
        asker: &Asker,
        view: &ClusterState,
        asked: impl IntoIterator<Item = (NodeId, Question)>,
    ) -> Result<crate::broker::NodeAnswers, Status> {
        // Only the leader has the nodes' sessions.
        self.cluster.must_lead()?;
        let _share = self.questions.take(asker)?;
        Ok(self.broker.ask(view, asked).await)
    }

    async fn volumes(
        &self,
        asker: &Asker,
        nodes: &[String],
        user: Option<&UserSpec>,
    ) -> Result<(Arc<ClusterState>, Vec<PlacedVolume>, Vec<Silent>), Status> {
        let view = self.cluster.read().await?;
        let answers = self.ask(asker, &view, all(meant(&view, nodes)?, &Question::Volumes)).await?;
        let mut found = BTreeMap::new();
        for (node, answer) in answers.answers {
            if let Answer::Volumes(volumes) = answer {
                found.insert(node, volumes);
            }
        }
        // Tasks may have come since.
        let view = self.cluster.view();
        let placed = placed(&view, found, user);
        Ok((view, placed, answers.silent))
    }

    async fn prune(
        &self,
        asker: &Asker,
        view: &ClusterState,
        nodes: Vec<NodeId>,
        question: &Question,
    ) -> Result<(Vec<PrunedNode>, Vec<Silent>), Status> {
        let answers = self.ask(asker, view, all(nodes, question)).await?;
        let mut pruned = Vec::new();
        for (node_id, answer) in answers.answers {
            if let Answer::Pruned(what) = answer {
                let hostname = view.hostname(node_id);
                pruned.push(PrunedNode { node_id, hostname, pruned: what });
            }
        }
        Ok((pruned, answers.silent))
    }
}

pub(super) async fn list_volumes(
    api: &ControlService,
    asker: &Asker,
    request: pb::ListVolumesRequest,
) -> Result<Answers<pb::ListVolumesResponse>, Status> {
    let user = asker.bound().map(|user| &user.spec);
    let (_, volumes, silent) = api.volumes(asker, &request.nodes, user).await?;
    Ok(with_silent(
        volumes.into_iter().map(pb::PlacedVolume::from),
        |volumes| pb::ListVolumesResponse { volumes, silent: Vec::new() },
        silent,
        |silent| pb::ListVolumesResponse { volumes: Vec::new(), silent },
    ))
}

pub(super) async fn remove_volume(
    api: &ControlService,
    asker: &Asker,
    request: pb::RemoveVolumeRequest,
) -> Result<Answers<pb::RemoveVolumeResponse>, Status> {
    let name = request.name;
    let (view, volumes, silent) = api.volumes(asker, &request.nodes, None).await?;
    let nodes = removal(&volumes, &name, &silent).map_err(|error| {
        let text = error.to_string();
        match error {
            NotRemoved::InUse { .. } => Status::failed_precondition(text),
            NotRemoved::Unknown { .. } => Status::not_found(text),
        }
    })?;
    let (nodes, more) = api.prune(asker, &view, nodes, &Question::RemoveVolume(name)).await?;
    Ok(with_silent(
        nodes.into_iter().map(pb::PrunedNode::from),
        |nodes| pb::RemoveVolumeResponse { nodes, silent: Vec::new() },
        silent.into_iter().chain(more),
        |silent| pb::RemoveVolumeResponse { nodes: Vec::new(), silent },
    ))
}

pub(super) async fn prune_nodes(
    api: &ControlService,
    asker: &Asker,
    request: pb::PruneNodesRequest,
) -> Result<Answers<pb::PruneNodesResponse>, Status> {
    let prune: Prune = required(request.prune, "prune")?.try_into().map_err(|e| invalid(&e))?;
    let view = api.cluster.read().await?;
    let nodes = meant(&view, &request.nodes)?;
    let (nodes, silent) = api.prune(asker, &view, nodes, &Question::Prune(prune)).await?;
    Ok(with_silent(
        nodes.into_iter().map(pb::PrunedNode::from),
        |nodes| pb::PruneNodesResponse { nodes, silent: Vec::new() },
        silent,
        |silent| pb::PruneNodesResponse { nodes: Vec::new(), silent },
    ))
}

pub(super) async fn get_disk_usage(
    api: &ControlService,
    asker: &Asker,
    request: pb::GetDiskUsageRequest,
) -> Result<Answers<pb::GetDiskUsageResponse>, Status> {
    let view = api.cluster.read().await?;
    let answers =
        api.ask(asker, &view, all(meant(&view, &request.nodes)?, &Question::DiskUsage)).await?;
    let mut placed: Vec<PlacedDisk> = Vec::new();
    for (node_id, answer) in answers.answers {
        if let Answer::DiskUsage(usage) = answer {
            let hostname = view.hostname(node_id);
            placed.push(PlacedDisk { node_id, hostname, usage });
        }
    }
    placed.sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
    Ok(with_silent(
        placed.into_iter().map(pb::PlacedDisk::from),
        |nodes| pb::GetDiskUsageResponse { nodes, silent: Vec::new() },
        answers.silent,
        |silent| pb::GetDiskUsageResponse { nodes: Vec::new(), silent },
    ))
}
