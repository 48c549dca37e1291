//! What the tables have in common, so that each rule about them is written once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use shoal_types::id::{DeploymentId, NetworkId, NodeId, ServiceId, StackId, TaskId, UserId};
use shoal_types::object::{Deployment, Meta, Network, Node, Service, Stack, Task, User};

use crate::cluster_state::ClusterState;
use crate::event::{ObjectKind, ObjectRef};
use crate::index::Indexes;
use crate::usage::NodeUsage;

/// A table: objects by id, in order of their ids.
pub(crate) type Table<T> = imbl::OrdMap<<T as Stored>::Id, Arc<T>>;

/// An object that lives in a table.
pub(crate) trait Stored: Clone + 'static {
    /// Its id.
    type Id: Copy + Ord + fmt::Display + FromStr + 'static;
    /// What it is.
    const KIND: ObjectKind;

    fn id(&self) -> Self::Id;
    fn meta(&self) -> &Meta;
    fn meta_mut(&mut self) -> &mut Meta;
    fn table(state: &ClusterState) -> &Table<Self>;
    fn table_mut(state: &mut ClusterState) -> &mut Table<Self>;
    fn wrap(object: Arc<Self>) -> ObjectRef;
    /// Enters it into the indexes.
    fn enter(&self, indexes: &mut Indexes);
    /// Takes it out of the indexes.
    fn leave(&self, indexes: &mut Indexes);
    /// Whether this object and its next version stand at the same places in the indexes.
    fn stays(&self, next: &Self) -> bool;
}

macro_rules! stored {
    ($($object:ident $id:ident $table:ident $enter:ident $leave:ident $key:expr;)*) => {$(
        impl Stored for $object {
            type Id = $id;
            const KIND: ObjectKind = ObjectKind::$object;

            fn id(&self) -> $id {
                self.id
            }

            fn meta(&self) -> &Meta {
                &self.meta
            }

            fn meta_mut(&mut self) -> &mut Meta {
                &mut self.meta
            }

            fn table(state: &ClusterState) -> &Table<Self> {
                &state.$table
            }

            fn table_mut(state: &mut ClusterState) -> &mut Table<Self> {
                &mut state.$table
            }

            fn wrap(object: Arc<Self>) -> ObjectRef {
                ObjectRef::$object(object)
            }

            fn enter(&self, indexes: &mut Indexes) {
                indexes.$enter(self);
            }

            fn leave(&self, indexes: &mut Indexes) {
                indexes.$leave(self);
            }

            fn stays(&self, next: &Self) -> bool {
                let key = $key;
                key(self) == key(next)
            }
        }
    )*};
}

stored! {
    Node NodeId nodes enter_node leave_node
        |n: &Node| (n.description.hostname.clone(), n.spec.name.clone());
    Network NetworkId networks enter_network leave_network |n: &Network| n.spec.name.clone();
    Service ServiceId services enter_service leave_service |s: &Service| s.spec.name.clone();
    Deployment DeploymentId deployments enter_deployment leave_deployment
        |d: &Deployment| (d.service_id, d.service_version);
    Stack StackId stacks enter_stack leave_stack |s: &Stack| s.spec.name.clone();
    User UserId users enter_user leave_user |u: &User| u.spec.name.clone();
    // What a task reserves never changes.
    Task TaskId tasks enter_task leave_task |t: &Task| (t.node_id, NodeUsage::counts(t));
}
