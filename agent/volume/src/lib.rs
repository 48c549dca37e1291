//! Volumes of this host: data that outlives containers.
//!
//! The worker talks to a [`VolumeDriver`]: [`LocalVolumes`] is the real one, `FakeVolumes` the
//! one for tests of everything above. For a container with a volume it calls, in this order,
//! [`ensure`](VolumeDriver::ensure) and [`mount`](VolumeDriver::mount), with the image's files unless
//! the mount says `nocopy`, and puts the answered path into the container as a bind mount. When the
//! container is gone it calls [`unmount`](VolumeDriver::unmount).

mod copy;
mod error;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod files;
mod local;
mod overlay;
mod source;
mod turns;

use std::collections::BTreeSet;
use std::path::PathBuf;

use futures::future::BoxFuture;
pub use shoal_agent_planning::volume::{InvalidVolume, LocalVolume, MountFlags, VolumeConfig};
use shoal_types::question::NodeVolume;

pub use self::error::VolumeError;
#[cfg(any(test, feature = "fake"))]
pub use self::fake::FakeVolumes;
pub use self::local::LocalVolumes;
pub use self::source::{find_bind_source, subpath};
pub use shoal_agent_ground::disk::Measured;

/// A volume ready to be put into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// Directory of the host, or file for a volume that binds one.
    pub path: PathBuf,
    /// Must be put into the container read-only, whatever the mount says.
    pub read_only: bool,
    /// Whether it was empty and given the image's files just now.
    pub populated: bool,
}

impl MountedVolume {
    const fn new(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, populated: false }
    }
}

/// The files of an image, as far as a new volume takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// Directories of the unpacked layers, the topmost first, in overlayfs form.
    pub layers: Vec<PathBuf>,
    /// Where the volume is mounted in the container: absolute.
    pub target: PathBuf,
}

/// The volumes of one host, as the worker sees them. Every call may be repeated, also after a
/// crash in the middle, and then finishes what was begun.
pub trait VolumeDriver: Send + Sync {
    /// Makes a volume exist.
    ///
    /// # Errors
    /// The configuration is invalid, or a volume of that name has other options.
    fn ensure(&self, config: VolumeConfig) -> BoxFuture<'_, Result<(), VolumeError>>;

    /// Makes a volume ready for one user, a container. Users are remembered over a restart of the
    /// agent.
    ///
    /// With the files of an image, those at the place where the volume will be mounted are copied into
    /// the volume, if that is empty and may be written to, with owners, modes, times and extended
    /// attributes; the volume's own directory gets those of the image's. A copy that was cut off is
    /// gone when the next user comes.
    ///
    /// # Errors
    /// There is no such volume, what it binds is not there, the kernel or the file system refuses.
    fn mount(
        &self,
        name: String,
        user: String,
        image: Option<ImageFiles>,
    ) -> BoxFuture<'_, Result<MountedVolume, VolumeError>>;

    /// Ends the use of a volume. What is mounted for nobody is unmounted.
    ///
    /// # Errors
    /// The kernel refuses.
    fn unmount(&self, name: String, user: String) -> BoxFuture<'_, Result<(), VolumeError>>;

    /// Removes a volume with its data. One that is not there is removed already. What a volume
    /// binds is left alone.
    ///
    /// # Errors
    /// It is in use; the file system refuses.
    fn remove(&self, name: String) -> BoxFuture<'_, Result<(), VolumeError>>;

    /// Every volume whose configuration can be read, with where it is and who uses it.
    ///
    /// # Errors
    /// The file system refuses.
    fn describe(&self) -> BoxFuture<'_, Result<Vec<NodeVolume>, VolumeError>>;

    /// The volumes for which the driver has mounted something that is still there.
    ///
    /// # Errors
    /// The file system refuses.
    fn mounted(&self) -> BoxFuture<'_, Result<BTreeSet<String>, VolumeError>>;

    /// How much of the disk the data of a volume takes; nothing for what a volume binds, and what is not
    /// there.
    fn measure(&self, name: String) -> BoxFuture<'_, Measured>;

    /// Every volume whose configuration can be read.
    ///
    /// # Errors
    /// The file system refuses.
    fn list(&self) -> BoxFuture<'_, Result<Vec<VolumeConfig>, VolumeError>>;

    /// Ends all uses but those of these users. Volumes stay.
    ///
    /// # Errors
    /// The kernel refuses; everything is tried before the first is returned.
    fn collect(&self, users: BTreeSet<String>) -> BoxFuture<'_, Result<(), VolumeError>>;
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod root_tests;
