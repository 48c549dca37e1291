//! Which credential a node gets.

use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::registry_auth::RegistryAuth;

/// The node has no such task, or the task has ended. What others have is not told apart from what
/// nobody has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node} has no task {task} whose image is to be pulled")]
pub struct NoSuchTask {
    /// Who asked.
    pub node: NodeId,
    /// What for.
    pub task: TaskId,
}

/// The credential with which a node pulls the image of a task of its own, if there is one for the
/// image's registry.
///
/// # Errors
/// [`NoSuchTask`].
pub fn registry_auth(
    view: &ClusterState,
    node: NodeId,
    task: TaskId,
) -> Result<Option<&RegistryAuth>, NoSuchTask> {
    let own = view.task(task).filter(|t| t.node_id == Some(node) && t.is_wanted());
    let own = own.ok_or(NoSuchTask { node, task })?;
    let Some(container) = own.spec.container() else { return Ok(None) };
    Ok(view.registry_auth(own.service_id, &container.image))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_manager_state::Command;
    use shoal_manager_state::testing::{cluster_with_nodes, service_spec};
    use shoal_types::id::IdSource as _;
    use shoal_types::task_state::{DesiredState, TaskState};

    use super::*;

    #[test]
    fn only_the_node_of_a_task_that_is_wanted_gets_it() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
        let spec = Arc::new(service_spec("web", 1));
        let auth = RegistryAuth::Token("t".to_owned());
        let auths = [("docker.io".to_owned(), auth.clone())].into();
        let command = Box::new(Command::CreateService { id, deployment_id, spec });
        cluster.apply(Command::WithRegistryAuth { auths, command });
        let pending = cluster.add_task(id, 2);
        let task = cluster.add_task(id, 1);
        let (own, other) = (nodes[0], nodes[1]);
        let ask = |cluster: &shoal_manager_state::testing::TestCluster, node, task| {
            registry_auth(&cluster.state, node, task).map(Option::<&RegistryAuth>::cloned)
        };
        assert!(ask(&cluster, own, pending).is_err(), "it has no node yet");
        cluster.apply(Command::AssignTask { id: task, node_id: own, partner: None });
        assert_eq!(ask(&cluster, own, task), Ok(Some(auth)));
        let refused = ask(&cluster, other, task).unwrap_err();
        let nothing = ask(&cluster, other, 999.into()).unwrap_err();
        let same = nothing.to_string().replace(&nothing.task.to_string(), &task.to_string());
        assert_eq!(refused.to_string(), same, "nobody learns what others have");
        cluster.report(task, TaskState::Failed);
        assert!(ask(&cluster, own, task).is_err(), "it has ended");

        let plain = cluster.add_service(service_spec("plain", 1));
        let task = cluster.add_running(plain, 1, other);
        assert_eq!(ask(&cluster, other, task), Ok(None));
        cluster.apply(Command::SetDesired { id: task, desired: DesiredState::Shutdown });
        assert!(ask(&cluster, other, task).is_err(), "it is to stop");
    }
}
