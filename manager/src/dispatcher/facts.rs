//! What agents are told of the cluster: where its managers are, and what their node is.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_manager_planning::managers::role_told;
use shoal_manager_planning::reached::reached;
use shoal_manager_state::{ClusterState, Event, ObjectRef};
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;

use super::sessions::{Session, Sessions};

fn managers(view: &ClusterState) -> Vec<pb::ManagerPeer> {
    let peer = |(id, addr): (NodeId, &str)| pb::ManagerPeer {
        node_id: id.to_string(),
        addr: addr.to_owned(),
    };
    reached(view).map(peer).collect()
}

fn facts(view: &ClusterState, managers: &[pb::ManagerPeer], node: NodeId) -> pb::ClusterFacts {
    let role = view.node(node).map(|node| role_told(node)).unwrap_or_default();
    pb::ClusterFacts { managers: managers.to_vec(), role: pb::NodeRole::from(role) as i32 }
}

/// Tells the agent of a session what it should know, if that is new to it.
///
/// # Errors
/// `UNAVAILABLE` if the agent does not take its messages.
pub(super) fn tell(view: &ClusterState, session: &Session) -> Result<(), tonic::Status> {
    session.tell(view.applied_index(), facts(view, &managers(view), session.node))
}

/// Tells agents what has changed while their sessions go on.
pub struct Telling {
    sessions: Arc<Sessions>,
    /// As all have been told; nothing if that is not known.
    managers: Option<Vec<pb::ManagerPeer>>,
    /// Nodes that may be something else than they were.
    changed: BTreeSet<NodeId>,
}

impl Telling {
    /// Has told nobody yet.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, managers: None, changed: BTreeSet::new() }
    }

    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        if let ObjectRef::Node(node) = &event.object {
            self.changed.insert(node.id);
        }
    }

    /// Begins anew: some events were missed.
    pub fn forget(&mut self) {
        self.managers = None;
    }

    /// Tells those for whom something is new.
    pub fn tell(&mut self, view: &ClusterState) {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() && self.managers.is_some() {
            return;
        }
        let managers = managers(view);
        let sessions = match self.managers.as_ref() == Some(&managers) {
            true => changed.into_iter().filter_map(|node| self.sessions.of_node(node)).collect(),
            false => self.sessions.all(),
        };
        for session in sessions {
            let told = session.tell(view.applied_index(), facts(view, &managers, session.node));
            if let Err(status) = told {
                tracing::warn!(node = %session.node, error = status.message(), "ending a session");
                session.ended.cancel();
            }
        }
        self.managers = Some(managers);
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};
    use shoal_proto::v1::session_message::Message;
    use shoal_types::id::SessionId;
    use shoal_types::level::Level;
    use shoal_types::object::ManagerStatus;
    use shoal_types::time::Timestamp;
    use tokio::sync::mpsc::Receiver;

    use super::*;

    struct Bench {
        cluster: TestCluster,
        nodes: Vec<NodeId>,
        telling: Telling,
        messages: Vec<Receiver<pb::SessionMessage>>,
    }

    impl Bench {
        fn new() -> Self {
            let (cluster, nodes) = cluster_with_nodes(2);
            let sessions = Arc::<Sessions>::default();
            let open = |node: &NodeId| {
                let (id, first) = (SessionId::from(1), pb::SessionMessage::default());
                let (_, mut messages) = sessions.open(*node, id, 7, Timestamp::ZERO, first);
                messages.try_recv().expect("the first one");
                messages
            };
            let messages = nodes.iter().map(open).collect();
            Self { cluster, telling: Telling::new(sessions), nodes, messages }
        }

        /// What each node has heard since: how many managers there are, and its role.
        fn heard(&mut self) -> Vec<Vec<(usize, pb::NodeRole)>> {
            self.cluster.events().iter().for_each(|event| self.telling.hear(event));
            self.telling.tell(&self.cluster.state);
            let read = |messages: &mut Receiver<pb::SessionMessage>| {
                let messages = std::iter::from_fn(|| messages.try_recv().ok());
                messages
                    .map(|message| match message.message {
                        Some(Message::Facts(facts)) => (facts.managers.len(), facts.role()),
                        other => panic!("{other:?}"),
                    })
                    .collect()
            };
            self.messages.iter_mut().map(read).collect()
        }

        fn set(&mut self, at: usize, status: Option<u64>) {
            let addr = format!("h{at}:1");
            let status = status.map(|raft_id| ManagerStatus { raft_id, addr, level: Level::FIRST });
            self.cluster.apply(Command::SetManagerStatus { id: self.nodes[at], status });
        }
    }

    #[test]
    fn agents_hear_what_is_new_and_nothing_else() {
        use pb::NodeRole::{Agent, Manager};
        let mut bench = Bench::new();
        assert_eq!(bench.heard(), [[(0, Manager)], [(0, Agent)]]);
        bench.set(0, Some(1));
        assert_eq!(bench.heard(), [[(1, Manager)], [(1, Agent)]]);
        let none: [Vec<(usize, pb::NodeRole)>; 2] = [vec![], vec![]];
        bench.cluster.set_node(bench.nodes[1], shoal_types::object::NodeState::Down);
        assert_eq!(bench.heard(), none);
        bench.telling.forget();
        assert_eq!(bench.heard(), none, "they know already");

        // One that is to go stays what it is until it takes part no more.
        bench.set(1, Some(2));
        assert_eq!(bench.heard(), [[(2, Manager)], [(2, Manager)]]);
        bench.set(1, None);
        assert_eq!(bench.heard(), [[(1, Manager)], [(1, Agent)]]);
        let node = bench.cluster.state.node(bench.nodes[1]).expect("there").clone();
        let spec = shoal_types::spec::NodeSpec {
            role: shoal_types::spec::NodeRole::Manager,
            ..node.spec.clone()
        };
        let expected = node.meta.spec_version;
        bench.cluster.apply(Command::UpdateNode { id: node.id, expected, spec });
        assert_eq!(
            bench.heard(),
            [vec![], vec![(1, Manager)]],
            "the others know as much as before"
        );
    }
}
