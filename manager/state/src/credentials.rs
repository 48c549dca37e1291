//! Credentials for registries: kept beside services and in none of them, so that nothing which shows
//! objects can show one. They are no objects of the change feed either.
//!
//! A service has a credential for each repository that its present and its previous spec take their
//! image from. An update that brings none keeps what there is, also for another repository of the same
//! registry; it never goes to another registry. One that is brought replaces the former one at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::id::ServiceId;
use shoal_types::image_ref::ImageReference;
use shoal_types::object::Service;
use shoal_types::registry_auth::{RegistryAuth, RegistryAuths};
use shoal_types::spec::ServiceSpec;

use crate::cluster_state::{ClusterState, Writer};

/// A service's credentials, by repository (`registry/path`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceCredentials(pub BTreeMap<String, RegistryAuth>);

/// All credentials.
pub(crate) type Credentials = imbl::OrdMap<ServiceId, Arc<ServiceCredentials>>;

impl ServiceCredentials {
    /// The one for an image: that of its repository, else one of its registry.
    #[must_use]
    pub fn find(&self, image: &ImageReference) -> Option<&RegistryAuth> {
        let of_registry = |(name, _): &(&String, &RegistryAuth)| {
            name.split_once('/').is_some_and(|(registry, _)| registry == image.registry())
        };
        let same_registry = || self.0.iter().find(of_registry).map(|(_, auth)| auth);
        self.0.get(&image.name()).or_else(same_registry)
    }
}

impl ClusterState {
    /// The credential with which a service's image is pulled.
    #[must_use]
    pub fn registry_auth(&self, service: ServiceId, image: &str) -> Option<&RegistryAuth> {
        let image = ImageReference::parse(image).ok()?;
        self.credentials.get(&service)?.find(&image)
    }

    /// Credentials of all services, for snapshots alone.
    pub fn credentials(&self) -> impl ExactSizeIterator<Item = (ServiceId, &ServiceCredentials)> {
        self.credentials.iter().map(|(id, credentials)| (*id, &**credentials))
    }
}

pub(crate) fn image_of(spec: &ServiceSpec) -> Option<ImageReference> {
    ImageReference::parse(&spec.task_template.container()?.image).ok()
}

impl Writer<'_> {
    /// Brings a service's credentials in line with its specs.
    pub(crate) fn keep_credentials(&mut self, service: &Service) {
        let Some(known) = self.state.credentials.get(&service.id) else { return };
        let present = image_of(&service.spec);
        let previous = service.previous_spec.as_deref().and_then(image_of);
        let images = present.iter().chain(&previous);
        let kept = images.filter_map(|image| Some((image.name(), known.find(image)?.clone())));
        let kept = ServiceCredentials(kept.collect());
        self.put_credentials(service.id, kept);
    }

    /// Gives a service those that are for its image.
    pub(crate) fn give_credentials(&mut self, id: ServiceId, auths: &RegistryAuths) {
        let Some(image) = self.state.service(id).and_then(|s| image_of(&s.spec)) else { return };
        let Some(auth) = auths.get(image.registry()) else { return };
        let known = self.state.credentials.get(&id);
        let mut all = known.map(|known| ServiceCredentials::clone(known)).unwrap_or_default();
        all.0.insert(image.name(), auth.clone());
        self.put_credentials(id, all);
    }

    fn put_credentials(&mut self, id: ServiceId, all: ServiceCredentials) {
        if all.0.is_empty() {
            self.state.credentials.remove(&id);
        } else {
            self.state.credentials.insert(id, Arc::new(all));
        }
    }
}
