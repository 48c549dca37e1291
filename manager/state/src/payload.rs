//! Secrets and configs: versions under one name, which services and tasks have which.
//!
//! A version is an object of its own, whose data never changes. A service's references are looked up when it is
//! made or changed, and its tasks take over what was found: what a task is given is fixed with the task.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use shoal_types::id::{ConfigId, SecretId, ServiceId, TaskId};
use shoal_types::object::{Config, Payload, Secret, Service, Task};
use shoal_types::spec::PayloadReference;

use crate::cluster_state::ClusterState;
use crate::index::Indexes;
use crate::query::Unresolved;
use crate::stored::Stored;

/// How many versions of a name are kept that nobody has, the latest ones.
pub(crate) const VERSIONS_KEPT: u64 = 10;

/// Second ways to secrets, or to configs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PayloadIndex<I: Ord + Clone> {
    /// All versions.
    pub(crate) names: OrdMap<(Arc<str>, u64), I>,
    /// Services that refer to a name.
    pub(crate) services: OrdSet<(Arc<str>, ServiceId)>,
    /// Wanted tasks that are given a version.
    pub(crate) tasks: OrdSet<(I, TaskId)>,
}

impl<I: Ord + Clone> Default for PayloadIndex<I> {
    fn default() -> Self {
        Self { names: OrdMap::new(), services: OrdSet::new(), tasks: OrdSet::new() }
    }
}

/// Secrets, or configs, as they are stored.
pub(crate) trait Kept: Stored + Payload<Id = <Self as Stored>::Id> {
    fn known(indexes: &Indexes) -> &PayloadIndex<<Self as Stored>::Id>;
    fn known_mut(indexes: &mut Indexes) -> &mut PayloadIndex<<Self as Stored>::Id>;
}

impl Kept for Secret {
    fn known(indexes: &Indexes) -> &PayloadIndex<SecretId> {
        &indexes.secrets
    }

    fn known_mut(indexes: &mut Indexes) -> &mut PayloadIndex<SecretId> {
        &mut indexes.secrets
    }
}

impl Kept for Config {
    fn known(indexes: &Indexes) -> &PayloadIndex<ConfigId> {
        &indexes.configs
    }

    fn known_mut(indexes: &mut Indexes) -> &mut PayloadIndex<ConfigId> {
        &mut indexes.configs
    }
}

/// A service's references to such.
pub(crate) fn references<T: Kept>(service: &Service) -> &[PayloadReference] {
    service.spec.task_template.container().map_or(&[], T::references)
}

impl Indexes {
    /// A version has come, changed or gone.
    pub(crate) fn payload<T: Kept>(&mut self, old: Option<&T>, new: Option<&T>) {
        let key = |one: &T| ((Arc::from(one.name()), one.version()), Stored::id(one));
        let (old, new) = (old.map(key), new.map(key));
        if old == new {
            return;
        }
        let names = &mut T::known_mut(self).names;
        if let Some((key, _)) = old {
            names.remove(&key);
        }
        names.extend(new);
    }

    /// A service may have other references.
    pub(crate) fn payloads_of_service<T: Kept>(
        &mut self,
        old: Option<&Service>,
        new: Option<&Service>,
    ) {
        if old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(&old.spec, &new.spec)) {
            return;
        }
        let services = &mut T::known_mut(self).services;
        let keys = |service: &Service| {
            let names = references::<T>(service).iter().map(|one| Arc::from(one.name.as_str()));
            names.map(|name| (name, service.id)).collect::<Vec<_>>()
        };
        for key in old.map(keys).unwrap_or_default() {
            services.remove(&key);
        }
        services.extend(new.map(keys).unwrap_or_default());
    }

    /// A task is wanted, or not any more. What it is given never changes.
    pub(crate) fn payloads_of_task<T: Kept>(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let given = |task: &Task| task.is_wanted() && !T::among(&task.payloads).is_empty();
        let (old, new) = (old.filter(|task| given(task)), new.filter(|task| given(task)));
        if old.is_some() == new.is_some() {
            return;
        }
        let tasks = &mut T::known_mut(self).tasks;
        let keys = |task: &Task| {
            let ids = T::among(&task.payloads).iter();
            ids.map(|id| (*id, task.id)).collect::<Vec<_>>()
        };
        for key in old.map(keys).unwrap_or_default() {
            tasks.remove(&key);
        }
        tasks.extend(new.map(keys).unwrap_or_default());
    }
}

impl ClusterState {
    /// All versions of a name, the first one first.
    pub(crate) fn versions<T: Kept>(
        &self,
        name: &str,
    ) -> impl DoubleEndedIterator<Item = &Arc<T>> + use<'_, T> {
        let name: Arc<str> = name.into();
        let (from, to) = ((Arc::clone(&name), 0), (name, u64::MAX));
        let found = T::known(&self.indexes).names.range(from..=to);
        found.filter_map(|(_, id)| T::table(self).get(id))
    }

    /// One version of a name; the latest one if none is named.
    pub(crate) fn version<T: Kept>(&self, name: &str, number: Option<u64>) -> Option<&Arc<T>> {
        let Some(number) = number else { return self.versions(name).next_back() };
        let id = T::known(&self.indexes).names.get(&(name.into(), number))?;
        T::table(self).get(id)
    }

    /// Services that refer to a name.
    pub(crate) fn referring<T: Kept>(
        &self,
        name: &str,
    ) -> impl Iterator<Item = &Arc<Service>> + use<'_, T> {
        let name: Arc<str> = name.into();
        let (from, to) = ((Arc::clone(&name), 0.into()), (name, u128::MAX.into()));
        let found = T::known(&self.indexes).services.range(from..=to);
        found.filter_map(|(_, id)| self.service(*id))
    }

    /// Services that go over to a later version of a name when there is one.
    pub(crate) fn following<T: Kept>(
        &self,
        name: &str,
    ) -> impl Iterator<Item = &Arc<Service>> + use<'_, T> {
        let own = name.to_owned();
        let follows = move |service: &&Arc<Service>| {
            references::<T>(service).iter().any(|one| one.name == own && one.follows())
        };
        self.referring::<T>(name).filter(follows)
    }

    /// Names of the services that have a version, or of which a wanted task has it, in order.
    pub(crate) fn having<T: Kept>(&self, one: &T) -> Vec<String> {
        let id = Stored::id(one);
        let has = |service: &&Arc<Service>| T::among(&service.payloads).contains(&id);
        let services = self.referring::<T>(one.name()).filter(has);
        let tasks = T::known(&self.indexes).tasks.range((id, 0.into())..=(id, u128::MAX.into()));
        let tasks = tasks.filter_map(|(_, task)| self.task(*task));
        let names = services.map(|service| service.spec.name.clone());
        let mut names: Vec<String> =
            names.chain(tasks.map(|task| task.service_name.to_string())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// By id, by name (the latest version), by `name@version`, or by the beginning of an id.
    fn resolve_payload<T: Kept>(&self, reference: &str) -> Result<&Arc<T>, Unresolved> {
        let named = match reference.rsplit_once('@') {
            Some((name, number)) => number.parse().ok().and_then(|n| self.version(name, Some(n))),
            None => self.version(reference, None),
        };
        self.resolve(reference, named.as_slice())
    }
}

macro_rules! queries {
    ($($object:ident $named:ident $resolve:ident $having:ident $following:ident $what:literal;)*) => {
        impl ClusterState {$(
            #[doc = concat!("One version of the ", $what, " of this name; the latest one if none is said.")]
            #[must_use]
            pub fn $named(&self, name: &str, version: Option<u64>) -> Option<&Arc<$object>> {
                self.version(name, version)
            }

            #[doc = concat!("The version of a ", $what, " meant by an id, a name, `name@version`, or the beginning of an id.")]
            ///
            /// # Errors
            /// None, or several, are meant.
            pub fn $resolve(&self, reference: &str) -> Result<&Arc<$object>, Unresolved> {
                self.resolve_payload(reference)
            }

            #[doc = concat!("Names of the services that have a version of a ", $what, ".")]
            #[must_use]
            pub fn $having(&self, one: &$object) -> Vec<String> {
                self.having(one)
            }

            #[doc = concat!("Services that go over to a later version of a ", $what, " when there is one.")]
            pub fn $following(&self, name: &str) -> impl Iterator<Item = &Arc<Service>> + use<'_> {
                self.following::<$object>(name)
            }
        )*}
    };
}

queries! {
    Secret secret_named resolve_secret having_secret following_secret "secret";
    Config config_named resolve_config having_config following_config "config";
}
