//! Which feature level the cluster has, and which one each command needs.
//!
//! Every manager applies every command, so a command that one of them would not understand, or
//! understand in another way, must not be logged. It is refused before, by the leader, until the
//! cluster has been raised to the level that brought it.

use std::sync::Arc;

use shoal_types::level::{Level, Leveled};
use shoal_types::object::Node;

use crate::cluster_state::ClusterState;
use crate::command::Command;
use crate::rejected::Rejected;

impl ClusterState {
    /// What all managers can do. The first level while there is no cluster.
    #[must_use]
    pub fn level(&self) -> Level {
        self.cluster().map(|cluster| cluster.level).unwrap_or_default()
    }

    /// Whether a command may be logged.
    ///
    /// # Errors
    /// [`Rejected::TooNew`].
    pub fn permits(&self, command: &Command) -> Result<(), Rejected> {
        let (needed, has) = (command.level(), self.level());
        if needed > has && self.cluster().is_some() {
            return Err(Rejected::TooNew { needed, has });
        }
        Ok(())
    }

    /// The level that the cluster can be raised to now: that of its lowest manager.
    #[must_use]
    pub fn level_of_managers(&self) -> Option<Level> {
        lowest_manager(self).map(|(_, level)| level)
    }
}

/// The manager with the lowest level.
pub(crate) fn lowest_manager(state: &ClusterState) -> Option<(&Arc<Node>, Level)> {
    let managers =
        state.nodes().filter_map(|node| Some((node, node.manager_status.as_ref()?.level)));
    managers.min_by_key(|(_, level)| *level)
}

impl Command {
    /// The level that every manager must have to carry it out. Every field is named, so that a new
    /// one does not compile before somebody has decided.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::CreateCluster {
                id: _,
                spec,
                root_ca: _,
                join_tokens: _,
                networks: _,
                level: _,
            }
            | Self::UpdateCluster { expected_spec_version: _, spec } => spec.level(),
            Self::CreateNode { id: _, spec, description } => spec.level().max(description.level()),
            Self::UpdateNode { id: _, expected: _, spec } => spec.level(),
            // Agents' words have been left out where they are above the cluster's level.
            Self::ReportNode { id: _, description, status } => {
                description.level().max(status.level())
            }
            Self::UpdateTaskStatuses { node_id: _, statuses } => {
                statuses.iter().map(|(_, status)| status.level()).max().unwrap_or_default()
            }
            Self::SetManagerStatus { id: _, status } => status.level(),
            Self::CreateService { id: _, deployment_id: _, spec }
            | Self::UpdateService { id: _, expected: _, deployment_id: _, spec, kind: _ } => {
                spec.level()
            }
            Self::CreateNetwork { id: _, spec } => spec.level(),
            Self::ApplyStack { spec, ids: _, prune: _, expected: _, payloads } => {
                let given = !(payloads.secrets.is_empty() && payloads.configs.is_empty());
                spec.level().max(if given { Level::PAYLOADS } else { Level::FIRST })
            }
            // What it makes was permitted with the service that it is of.
            Self::CreateTask {
                id: _,
                service_id: _,
                service_version: _,
                slot: _,
                node_id: _,
                desired: _,
                start_after: _,
                rejections: _,
                level,
            } => *level,
            Self::CreateUser { id: _, spec } | Self::UpdateUser { id: _, expected: _, spec } => {
                spec.level()
            }
            // Nobody before the fourth level changes the networks of a task that it holds.
            Self::ConnectTask { id: _, network_id: _, aliases: _, addresses: _ }
            | Self::DisconnectTask { id: _, network_id: _, force: _ } => Level::DUAL,
            Self::AssignTask { id: _, node_id: _, partner } => match partner {
                Some(_) => Level::SHARED,
                None => Level::FIRST,
            },
            Self::CreateSecret { id: _, spec: _, replace: _, deployments: _ }
            | Self::CreateConfig { id: _, spec: _, replace: _, deployments: _ }
            | Self::RemoveSecret { name: _, version: _ }
            | Self::RemoveConfig { name: _, version: _ } => Level::PAYLOADS,
            Self::SetTunnelEpochs { from: _, to: _, forced: _ } => Level::KEYS,
            Self::WithRegistryAuth { auths, command } => auths.level().max(command.level()),
            Self::RaiseLevel { level: _ }
            | Self::RotateJoinToken { role: _, secret: _ }
            | Self::RemoveNode { id: _, force: _ }
            | Self::RemoveService { id: _ }
            | Self::RemoveNetwork { id: _ }
            | Self::RollBackStack { id: _, expected: _, to: _, ids: _, failed: _ }
            | Self::RemoveStack { id: _ }
            | Self::ExplainTask { id: _, err: _ }
            | Self::SetDesired { id: _, desired: _ }
            | Self::RemoveTask { id: _ }
            | Self::OrphanTask { id: _ }
            | Self::UpdateDeployment { id: _, state: _, message: _ }
            | Self::RemoveUser { id: _ } => Level::FIRST,
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::id::TaskId;
    use shoal_types::object::{ManagerStatus, Slot};
    use shoal_types::task_state::DesiredState;

    use super::*;
    use crate::rejected::RejectedCode;
    use crate::testing::{TestCluster, cluster_with_nodes, service_spec};

    const SECOND: Level = Level::new(2);

    fn manager(level: Level) -> Option<ManagerStatus> {
        Some(ManagerStatus { raft_id: 1, addr: "h:1".to_owned(), level })
    }

    fn refused(cluster: &mut TestCluster, command: Command) -> Rejected {
        cluster.try_apply(command).expect_err("refused")
    }

    #[test]
    fn the_cluster_is_raised_when_all_managers_are() {
        let (mut cluster, nodes) = cluster_with_nodes(3);
        let set = |id, level| Command::SetManagerStatus { id, status: manager(level) };
        cluster.apply(set(nodes[0], SECOND));
        cluster.apply(set(nodes[1], Level::FIRST));
        assert_eq!(cluster.state.level_of_managers(), Some(Level::FIRST));
        let refusal = refused(&mut cluster, Command::RaiseLevel { level: SECOND });
        let Rejected::ManagerTooOld { id, has, wanted, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!((*id, *has, *wanted), (nodes[1], Level::FIRST, SECOND));
        assert_eq!(refusal.code(), RejectedCode::FailedPrecondition);
        let told = refusal.to_string();
        assert!(
            told.contains(&nodes[1].to_string()) && told.contains("upgrade that one"),
            "{told}"
        );
        assert_eq!(cluster.state.level(), Level::FIRST);

        cluster.apply(set(nodes[1], SECOND));
        assert_eq!(cluster.state.level_of_managers(), Some(SECOND));
        cluster.apply(Command::RaiseLevel { level: SECOND });
        assert_eq!(cluster.state.level(), SECOND);
        let refusal = refused(&mut cluster, Command::RaiseLevel { level: Level::FIRST });
        assert_eq!(refusal, Rejected::LevelBelow { wanted: Level::FIRST, current: SECOND });
        // A manager that has gone back takes nothing away that is in use.
        cluster.apply(set(nodes[1], Level::FIRST));
        assert_eq!(cluster.state.level(), SECOND);
    }

    #[test]
    fn what_needs_more_than_the_cluster_has_is_not_logged() {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let service = cluster.add_service(service_spec("web", 1));
        let task = |level| Command::CreateTask {
            id: TaskId::from(77),
            service_id: service,
            service_version: 1,
            slot: Slot::Replica(1),
            node_id: None,
            desired: DesiredState::Running,
            start_after: None,
            rejections: 0,
            level,
        };
        assert_eq!(cluster.state.permits(&task(Level::FIRST)), Ok(()));
        let too_new = cluster.state.permits(&task(SECOND)).expect_err("too new");
        assert_eq!(too_new, Rejected::TooNew { needed: SECOND, has: Level::FIRST });
        let told = too_new.to_string();
        assert!(
            told.contains("needs feature level 2") && told.contains("cluster upgrade"),
            "{told}"
        );
        cluster.apply(Command::SetManagerStatus { id: nodes[0], status: manager(SECOND) });
        cluster.apply(Command::RaiseLevel { level: SECOND });
        assert_eq!(cluster.state.permits(&task(SECOND)), Ok(()));
        // And a node that has not got the level does not get the task, whoever planned it.
        cluster.apply(task(SECOND));
        let assign = Command::AssignTask { id: TaskId::from(77), node_id: nodes[0], partner: None };
        let refusal = refused(&mut cluster, assign);
        let expected = Rejected::NodeTooOld { node: nodes[0], has: Level::FIRST, needed: SECOND };
        assert_eq!(refusal, expected);
    }
}
