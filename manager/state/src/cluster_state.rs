//! The whole state of a cluster: tables, indexes and the one way to write to them.

use std::sync::Arc;

use shoal_types::object::{
    Cluster, Config, Deployment, Network, Node, Secret, Service, Stack, Task, User,
};
use shoal_types::time::Timestamp;

use crate::credentials::Credentials;
use crate::event::{Action, Event, ObjectRef};
use crate::index::Indexes;
use crate::reach::Reach;
use crate::stored::{Stored, Table};

/// The whole state of a cluster.
///
/// Cloning is cheap whatever the size: the maps share their nodes, and a write copies only the
/// path to what it writes. So a clone is a view that never changes under its reader.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterState {
    pub(crate) applied: u64,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: Table<Node>,
    pub(crate) networks: Table<Network>,
    pub(crate) services: Table<Service>,
    pub(crate) deployments: Table<Deployment>,
    pub(crate) stacks: Table<Stack>,
    pub(crate) tasks: Table<Task>,
    pub(crate) users: Table<User>,
    pub(crate) secrets: Table<Secret>,
    pub(crate) configs: Table<Config>,
    pub(crate) credentials: Credentials,
    pub(crate) indexes: Indexes,
    pub(crate) feed: Vec<Event>,
}

impl ClusterState {
    /// The state of a cluster before its first command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Log index of the last command that was applied or rejected; 0 before the first.
    #[must_use]
    pub const fn applied_index(&self) -> u64 {
        self.applied
    }

    /// Notes that a log entry without command was passed.
    pub fn pass(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    /// Whether both states have the same members, nodes and users, for all that the tables show
    /// without a look at each. False may also mean that a member changed to and fro.
    #[must_use]
    pub fn shares_members_with(&self, other: &Self) -> bool {
        self.nodes.ptr_eq(&other.nodes) && self.users.ptr_eq(&other.users)
    }

    /// Takes the change feed: what was written since it was last taken, in order of writing.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.feed)
    }
}

/// Where and when a command takes effect. All writing goes through here, so that every write
/// carries its version, reaches the indexes and appears in the change feed.
pub(crate) struct Writer<'a> {
    pub(crate) state: &'a mut ClusterState,
    pub(crate) index: u64,
    pub(crate) now: Timestamp,
}

impl Writer<'_> {
    /// Adds an object that was made with the present version.
    pub(crate) fn create<T: Stored>(&mut self, object: T) {
        T::index(&mut self.state.indexes, None, Some(&object));
        let reach = T::reach(&self.state.indexes, None, Some(&object));
        let object = Arc::new(object);
        T::table_mut(self.state).insert(object.id(), Arc::clone(&object));
        self.record(Action::Create, T::wrap(object), reach);
    }

    /// Replaces an object by a changed one; its spec is as it was.
    pub(crate) fn update<T: Stored>(&mut self, mut object: T) {
        object.meta_mut().touch(self.index, self.now);
        self.replace(object);
    }

    /// Replaces an object by one with another spec.
    pub(crate) fn update_spec<T: Stored>(&mut self, mut object: T) {
        object.meta_mut().touch_spec(self.index, self.now);
        self.replace(object);
    }

    fn replace<T: Stored>(&mut self, object: T) {
        let object = Arc::new(object);
        let old = T::table_mut(self.state).insert(object.id(), Arc::clone(&object));
        T::index(&mut self.state.indexes, old.as_deref(), Some(&object));
        let reach = T::reach(&self.state.indexes, old.as_deref(), Some(&object));
        self.record(Action::Update, T::wrap(object), reach);
    }

    /// Removes an object, if it is there.
    pub(crate) fn remove<T: Stored>(&mut self, id: T::Id) {
        if let Some(old) = T::table_mut(self.state).remove(&id) {
            T::index(&mut self.state.indexes, Some(&old), None);
            let reach = T::reach(&self.state.indexes, Some(&old), None);
            self.record(Action::Remove, T::wrap(old), reach);
        }
    }

    /// Makes or replaces the cluster's own object.
    pub(crate) fn put_cluster(&mut self, cluster: Cluster) {
        let action = if self.state.cluster.is_some() { Action::Update } else { Action::Create };
        let cluster = Arc::new(cluster);
        self.state.cluster = Some(Arc::clone(&cluster));
        self.record(action, ObjectRef::Cluster(cluster), Reach::default());
    }

    fn record(&mut self, action: Action, object: ObjectRef, reach: Reach) {
        self.state.feed.push(Event { index: self.index, time: self.now, action, object, reach });
    }
}
