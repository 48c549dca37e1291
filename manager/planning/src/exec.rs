//! Where a process runs that a user starts beside a task's own.

use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::Task;
use shoal_types::task_state::TaskState;

/// Why a process cannot be started in a task's container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has none, or none any more.
    #[error("task {name} ({id}) is {state}, not running")]
    NotRunning {
        /// The task's name.
        name: String,
        /// Its id.
        id: TaskId,
        /// Its state.
        state: TaskState,
    },
    /// Its node is silent.
    #[error("node {host} cannot be reached")]
    Unreachable {
        /// The node's host name.
        host: String,
    },
}

/// The node that has the task's container.
///
/// # Errors
/// There is no container, or its node cannot be reached.
pub fn node_of(view: &ClusterState, task: &Task) -> Result<NodeId, Refused> {
    let state = task.status.state;
    let not_running = || Refused::NotRunning { name: task.name(), id: task.id, state };
    let node = task.node_id.filter(|_| state.has_container()).ok_or_else(not_running)?;
    match view.node(node).is_some_and(|n| n.is_reachable()) {
        true => Ok(node),
        false => Err(Refused::Unreachable { host: view.hostname(node) }),
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{cluster_with_nodes, service_spec};
    use shoal_types::object::NodeState;

    use super::*;

    #[test]
    fn a_process_is_started_where_the_container_is() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let web = cluster.add_service(service_spec("web", 1));
        let id = cluster.add_running(web, 1, nodes[0]);
        let mut task = Task::clone(cluster.state.task(id).unwrap());
        for state in TaskState::ALL {
            use TaskState::{Draining, Running, Starting};
            task.status.state = state;
            let found = node_of(&cluster.state, &task);
            match state {
                Starting | Running | Draining => assert_eq!(found, Ok(nodes[0]), "{state}"),
                _ => {
                    let text = format!("task web.1 ({id}) is {state}, not running");
                    assert_eq!(found.unwrap_err().to_string(), text);
                }
            }
        }
        task.status.state = TaskState::Running;
        for (state, reached) in [(NodeState::Ready, true), (NodeState::Down, false)] {
            cluster.set_node(nodes[0], state);
            assert_eq!(node_of(&cluster.state, &task).is_ok(), reached, "{state:?}");
        }
        let silent = node_of(&cluster.state, &task).unwrap_err().to_string();
        assert!(silent.starts_with("node ") && silent.ends_with(" cannot be reached"), "{silent}");
    }
}
