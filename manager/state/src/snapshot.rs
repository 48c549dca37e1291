//! The state as a list of plain objects, and back. How they are written down is decided where
//! they are written.

use std::sync::Arc;

use crate::cluster_state::ClusterState;
use crate::event::{ObjectKind, ObjectRef};
use crate::stored::Stored;

/// Why objects are not the state of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Two objects of one kind have the same id, or there are two clusters.
    #[error("{kind} {id} is there twice")]
    Twice {
        /// What the objects are.
        kind: ObjectKind,
        /// Their id; of two clusters, that of the second.
        id: String,
    },
}

impl ClusterState {
    /// All objects, by kind (in the order of [`ObjectKind::ALL`]) and then by id. Copies no object.
    #[must_use]
    pub fn export(&self) -> Vec<ObjectRef> {
        fn all<T: Stored>(state: &ClusterState) -> impl Iterator<Item = ObjectRef> {
            T::table(state).values().map(|object| T::wrap(Arc::clone(object)))
        }
        use shoal_types::object::{Deployment, Network, Node, Service, Stack, Task, User};
        let cluster = self.cluster.iter().map(|c| ObjectRef::Cluster(Arc::clone(c)));
        cluster
            .chain(all::<Node>(self))
            .chain(all::<Network>(self))
            .chain(all::<Service>(self))
            .chain(all::<Deployment>(self))
            .chain(all::<Stack>(self))
            .chain(all::<Task>(self))
            .chain(all::<User>(self))
            .collect()
    }

    /// The state that consists of these objects, in any order; indexes are made anew. `applied` is
    /// the log index of the last command whose effect is in them.
    ///
    /// # Errors
    /// The objects are not those of one state.
    pub fn import(
        applied: u64,
        objects: impl IntoIterator<Item = ObjectRef>,
    ) -> Result<Self, ImportError> {
        let mut state = Self { applied, ..Self::default() };
        for object in objects {
            match object {
                ObjectRef::Cluster(cluster) => {
                    if state.cluster.is_some() {
                        let (kind, id) = (ObjectKind::Cluster, cluster.id.to_string());
                        return Err(ImportError::Twice { kind, id });
                    }
                    state.cluster = Some(cluster);
                }
                ObjectRef::Node(object) => state.enter(object)?,
                ObjectRef::Network(object) => state.enter(object)?,
                ObjectRef::Service(object) => state.enter(object)?,
                ObjectRef::Deployment(object) => state.enter(object)?,
                ObjectRef::Stack(object) => state.enter(object)?,
                ObjectRef::Task(object) => state.enter(object)?,
                ObjectRef::User(object) => state.enter(object)?,
            }
        }
        Ok(state)
    }

    fn enter<T: Stored>(&mut self, object: Arc<T>) -> Result<(), ImportError> {
        object.enter(&mut self.indexes);
        match T::table_mut(self).insert(object.id(), object) {
            None => Ok(()),
            Some(old) => Err(ImportError::Twice { kind: T::KIND, id: old.id().to_string() }),
        }
    }
}
