//! Volumes without a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

use shoal_types::question::NodeVolume;

use super::{
    ImageFiles, LocalVolume, Measured, MountedVolume, VolumeConfig, VolumeDriver, VolumeError,
};

/// Grants and refuses as the real driver does, keeps no data, and can be told to fail.
#[derive(Debug, Default)]
pub struct FakeVolumes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<String, Entry>,
    made: u64,
    broken: bool,
}

#[derive(Debug)]
struct Entry {
    config: VolumeConfig,
    users: BTreeSet<String>,
    populated: bool,
    /// Something is in memory for it.
    mounted: bool,
}

impl FakeVolumes {
    /// A host without volumes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// While set, every call fails.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// How many volumes have been made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.lock().made
    }

    /// Mounts a volume for nobody.
    pub fn leave_mounted(&self, name: &str) {
        if let Some(entry) = self.lock().volumes.get_mut(name) {
            entry.mounted = true;
        }
    }

    /// Who uses a volume now.
    #[must_use]
    pub fn users(&self, name: &str) -> BTreeSet<String> {
        self.lock().volumes.get(name).map(|entry| entry.users.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Inner) -> Result<T, VolumeError>,
    ) -> BoxFuture<'_, Result<T, VolumeError>> {
        let mut inner = self.lock();
        let result = if inner.broken { Err(VolumeError::HelperGone) } else { act(&mut inner) };
        ready(result).boxed()
    }
}

impl Inner {
    fn get(&mut self, name: &str) -> Result<&mut Entry, VolumeError> {
        self.volumes.get_mut(name).ok_or_else(|| VolumeError::Unknown { name: name.to_owned() })
    }
}

impl VolumeDriver for FakeVolumes {
    fn ensure(&self, config: VolumeConfig) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.answer(|inner| {
            config.local()?;
            match inner.volumes.get(&config.name) {
                Some(entry) if !config.is_same_as(&entry.config) => {
                    return Err(VolumeError::Differs { name: config.name });
                }
                Some(_) => {}
                None => {
                    let name = config.name.clone();
                    let entry =
                        Entry { config, users: BTreeSet::new(), populated: false, mounted: false };
                    inner.volumes.insert(name, entry);
                    inner.made += 1;
                }
            }
            Ok(())
        })
    }

    fn mount(
        &self,
        name: String,
        user: String,
        image: Option<ImageFiles>,
    ) -> BoxFuture<'_, Result<MountedVolume, VolumeError>> {
        self.answer(|inner| {
            let entry = inner.get(&name)?;
            let (path, read_only) = match entry.config.local()? {
                LocalVolume::Bind { source, read_only } => (source.into(), read_only),
                LocalVolume::Directory => (PathBuf::from("/volumes").join(&name), false),
                LocalVolume::Tmpfs { flags, .. } => {
                    (PathBuf::from("/volumes").join(&name), flags.read_only)
                }
            };
            entry.users.insert(user);
            entry.mounted |= matches!(entry.config.local()?, LocalVolume::Tmpfs { .. });
            let mut mounted = MountedVolume::new(path, read_only);
            if image.is_some() && !read_only {
                mounted.populated = !std::mem::replace(&mut entry.populated, true);
            }
            Ok(mounted)
        })
    }

    fn unmount(&self, name: String, user: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.answer(|inner| {
            if let Some(entry) = inner.volumes.get_mut(&name) {
                entry.users.remove(&user);
                entry.mounted &= !entry.users.is_empty();
            }
            Ok(())
        })
    }

    fn remove(&self, name: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.answer(|inner| {
            if let Some(entry) = inner.volumes.get(&name)
                && !entry.users.is_empty()
            {
                let users = entry.users.iter().cloned().collect();
                return Err(VolumeError::InUse { name, users });
            }
            inner.volumes.remove(&name);
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<VolumeConfig>, VolumeError>> {
        self.answer(|inner| Ok(inner.volumes.values().map(|entry| entry.config.clone()).collect()))
    }

    fn describe(&self) -> BoxFuture<'_, Result<Vec<NodeVolume>, VolumeError>> {
        self.answer(|inner| {
            let described = inner.volumes.values().map(|entry| NodeVolume {
                name: entry.config.name.clone(),
                driver: "local".to_owned(),
                options: entry.config.options.clone(),
                labels: entry.config.labels.clone(),
                users: entry.users.iter().cloned().collect(),
                ..NodeVolume::default()
            });
            Ok(described.collect())
        })
    }

    fn mounted(&self) -> BoxFuture<'_, Result<BTreeSet<String>, VolumeError>> {
        self.answer(|inner| {
            let mounted = inner.volumes.iter().filter(|(_, entry)| entry.mounted);
            Ok(mounted.map(|(name, _)| name.clone()).collect())
        })
    }

    fn measure(&self, _: String) -> BoxFuture<'_, Measured> {
        ready(Measured { bytes: 0, whole: true }).boxed()
    }

    fn collect(&self, users: BTreeSet<String>) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.answer(|inner| {
            for entry in inner.volumes.values_mut() {
                entry.users.retain(|user| users.contains(user));
                entry.mounted &= !entry.users.is_empty();
            }
            Ok(())
        })
    }
}
