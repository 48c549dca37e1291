//! Nodes.

use std::sync::Arc;

use shoal_manager_planning::managers::may_go;
use shoal_manager_state::{ClusterState, Command};
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::object::{Node, NodeSummary};
use shoal_types::spec::{NodeRole, NodeSpec};
use tonic::Status;

use super::asked::Asker;
use super::error::{required, vanished};
use super::parts::in_parts;
use super::{Answers, ControlService, invalid, unresolved, violations};
use crate::cluster::Cluster;
use crate::dispatcher::Sessions;

pub(super) async fn list_nodes(
    api: &ControlService,
    _: &Asker,
    _: pb::ListNodesRequest,
) -> Result<Answers<pb::ListNodesResponse>, Status> {
    let view = api.cluster.read().await?;
    let nodes: Vec<Arc<Node>> = view.nodes().cloned().collect();
    let (cluster, sessions) = (api.cluster.clone(), Arc::clone(&api.sessions));
    let nodes = nodes.into_iter().map(move |node| (&summary(&cluster, &sessions, &node)).into());
    Ok(in_parts(nodes, |nodes| pb::ListNodesResponse { nodes }))
}

/// Refuses what would cost the last manager or the quorum. This manager, which has just been asked by whoever
/// wants to know, leads: it knows who answers.
fn can_go(api: &ControlService, view: &ClusterState, node: NodeId) -> Result<(), Status> {
    may_go(view, &api.cluster.members(), node)
        .map_err(|why| Status::failed_precondition(why.to_string()))
}

/// A node with what this manager, the leader, knows of it at the moment.
fn summary(cluster: &Cluster, sessions: &Sessions, node: &Node) -> NodeSummary {
    NodeSummary {
        node: node.clone(),
        manager: cluster.manager_health(node),
        assignment: sessions.of_node(node.id).map(|session| session.progress()),
    }
}

pub(super) async fn get_node(
    api: &ControlService,
    request: pb::GetNodeRequest,
) -> Result<pb::GetNodeResponse, Status> {
    let view = api.cluster.read().await?;
    let node = view.resolve_node(&request.reference).map_err(|e| unresolved(&e))?;
    let summary = summary(&api.cluster, &api.sessions, node);
    Ok(pb::GetNodeResponse { node: Some((&summary).into()) })
}

pub(super) async fn update_node(
    api: &ControlService,
    request: pb::UpdateNodeRequest,
) -> Result<pb::UpdateNodeResponse, Status> {
    let spec: NodeSpec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    let view = api.cluster.read().await?;
    let node = view.resolve_node(&request.reference).map_err(|e| unresolved(&e))?;
    let id = node.id;
    if node.spec.role == NodeRole::Manager && spec.role != NodeRole::Manager {
        can_go(api, &view, id)?;
    }
    api.cluster
        .propose(Command::UpdateNode { id, expected: request.expected_version, spec })
        .await?;
    let view = api.written();
    let node = view.node(id).ok_or_else(|| vanished("node"))?;
    Ok(pb::UpdateNodeResponse { node: Some((&**node).into()) })
}

pub(super) async fn remove_node(
    api: &ControlService,
    request: pb::RemoveNodeRequest,
) -> Result<pb::RemoveNodeResponse, Status> {
    let view = api.cluster.read().await?;
    let node = view.resolve_node(&request.reference).map_err(|e| unresolved(&e))?;
    let id = node.id;
    can_go(api, &view, id)?;
    api.cluster.propose(Command::RemoveNode { id, force: request.force }).await?;
    Ok(pb::RemoveNodeResponse { id: id.to_string() })
}
