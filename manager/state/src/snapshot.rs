//! The state as a list of plain objects, and back. How they are written down is decided where
//! they are written.

use std::sync::Arc;

use shoal_types::id::ServiceId;
use shoal_types::spec::Protocol;

use crate::addresses;
use crate::cluster_state::ClusterState;
use crate::credentials::ServiceCredentials;
use crate::event::{ObjectKind, ObjectRef};
use crate::ports;
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
    /// Objects of one kind share names, which the commands that make them never let happen.
    #[error("{objects} {kind} objects have {names} names")]
    Names {
        /// What the objects are.
        kind: ObjectKind,
        /// How many there are.
        objects: usize,
        /// How many names they have.
        names: usize,
    },
    /// Two have the same address, or addresses of one subnet are on two networks.
    #[error("{first} and {second} have addresses in common")]
    Addresses {
        /// One of them, such as `task ID`.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two services have the same port, of which one at least has it on every node.
    #[error("services {first} and {second} both have port {port}/{}", protocol.as_str())]
    Ports {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// One of them.
        first: ServiceId,
        /// The other one.
        second: ServiceId,
    },
    /// A service has credentials twice, or there is no such service.
    #[error("the credentials of service {id} are there twice, or it is not")]
    Credentials {
        /// Its id.
        id: ServiceId,
    },
}

impl ClusterState {
    /// All objects, by kind (in the order of [`ObjectKind::ALL`]) and then by id. Copies no object.
    #[must_use]
    pub fn export(&self) -> Vec<ObjectRef> {
        fn all<T: Stored>(state: &ClusterState) -> impl Iterator<Item = ObjectRef> {
            T::table(state).values().map(|object| T::wrap(Arc::clone(object)))
        }
        use shoal_types::object::{
            Config, Deployment, Network, Node, Secret, Service, Stack, Task, User,
        };
        let cluster = self.cluster.iter().map(|c| ObjectRef::Cluster(Arc::clone(c)));
        cluster
            .chain(all::<Node>(self))
            .chain(all::<Network>(self))
            .chain(all::<Service>(self))
            .chain(all::<Deployment>(self))
            .chain(all::<Stack>(self))
            .chain(all::<Task>(self))
            .chain(all::<User>(self))
            .chain(all::<Secret>(self))
            .chain(all::<Config>(self))
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
                ObjectRef::Secret(object) => state.enter(object)?,
                ObjectRef::Config(object) => state.enter(object)?,
            }
        }
        let shared = state.name_counts().into_iter().find(|(_, objects, names)| objects != names);
        if let Some((kind, objects, names)) = shared {
            return Err(ImportError::Names { kind, objects, names });
        }
        if let Some((first, second)) = addresses::clashes(&state).into_iter().next() {
            return Err(ImportError::Addresses { first, second });
        }
        if let Some(clash) = ports::clashes(&state).into_iter().next() {
            let ports::Clash { protocol, port, first, second } = clash;
            return Err(ImportError::Ports { port, protocol, first, second });
        }
        Ok(state)
    }

    /// How many objects there are of each kind whose names are unique, and how many names they have.
    pub(crate) fn name_counts(&self) -> [(ObjectKind, usize, usize); 6] {
        let have = &self.indexes;
        [
            (ObjectKind::Service, self.services.len(), have.service_names.len()),
            (ObjectKind::Network, self.networks.len(), have.network_names.len()),
            (ObjectKind::Stack, self.stacks.len(), have.stack_names.len()),
            (ObjectKind::User, self.users.len(), have.user_names.len()),
            (ObjectKind::Secret, self.secrets.len(), have.secrets.names.len()),
            (ObjectKind::Config, self.configs.len(), have.configs.names.len()),
        ]
    }

    /// The same state with these credentials for registries, which [`ClusterState::export`] leaves out.
    ///
    /// # Errors
    /// They are not those of this state's services.
    pub fn with_credentials(
        mut self,
        all: impl IntoIterator<Item = (ServiceId, ServiceCredentials)>,
    ) -> Result<Self, ImportError> {
        for (id, credentials) in all {
            let known = self.service(id).is_some();
            if !known || self.credentials.insert(id, Arc::new(credentials)).is_some() {
                return Err(ImportError::Credentials { id });
            }
        }
        Ok(self)
    }

    fn enter<T: Stored>(&mut self, object: Arc<T>) -> Result<(), ImportError> {
        T::index(&mut self.indexes, None, Some(&object));
        match T::table_mut(self).insert(object.id(), object) {
            None => Ok(()),
            Some(old) => Err(ImportError::Twice { kind: T::KIND, id: old.id().to_string() }),
        }
    }
}
