//! What the tables have in common, so that each rule about them is written once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use shoal_types::id::{
    ConfigId, DeploymentId, NetworkId, NodeId, SecretId, ServiceId, StackId, TaskId, UserId,
};
use shoal_types::object::{
    Config, Deployment, Meta, Network, Node, Secret, Service, Stack, Task, User,
};

use crate::cluster_state::ClusterState;
use crate::event::{ObjectKind, ObjectRef};
use crate::index::Indexes;
use crate::reach::{self, Reach};

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
    /// Takes what there was out of the indexes, and enters what there is.
    fn index(indexes: &mut Indexes, old: Option<&Self>, new: Option<&Self>);
    /// Where others see what has changed.
    fn reach(indexes: &Indexes, old: Option<&Self>, new: Option<&Self>) -> Reach;
}

macro_rules! stored {
    ($($object:ident $id:ident $table:ident $index:ident $reach:ident;)*) => {$(
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

            fn index(indexes: &mut Indexes, old: Option<&Self>, new: Option<&Self>) {
                indexes.$index(old, new);
            }

            fn reach(
                indexes: &Indexes,
                old: Option<&Self>,
                new: Option<&Self>,
            ) -> Reach {
                reach::$reach(indexes, old, new)
            }
        }
    )*};
}

stored! {
    Node NodeId nodes node node;
    Network NetworkId networks network nowhere;
    Service ServiceId services service service;
    Deployment DeploymentId deployments deployment nowhere;
    Stack StackId stacks stack nowhere;
    User UserId users user nowhere;
    Task TaskId tasks task task;
    Secret SecretId secrets payload nowhere;
    Config ConfigId configs payload nowhere;
}
