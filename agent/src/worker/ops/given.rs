//! Files that containers are given of secrets and configs: in memory alone, in a file system of their own that
//! nobody but root may enter, each bound into the one container that it is for.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::statfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use shoal_agent_planning::oci::{MountConfig, MountKind};
use shoal_agent_planning::payload::{Given, GivenFile};
use shoal_types::id::TaskId;

use super::Context;
use super::files::names_in;
use super::prepare::PrepareError;

/// What statfs(2) says of memory.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The files of one container.
pub(super) struct GivenFiles {
    /// Where the file system is.
    root: PathBuf,
    dir: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl GivenFiles {
    pub(super) fn new(context: &Context, task: TaskId) -> Self {
        Self::of(context, &task.to_string())
    }

    fn of(context: &Context, container: &str) -> Self {
        let root = context.given_dir();
        Self { dir: root.join(container), root, turn: Arc::clone(&context.given) }
    }

    /// Makes them anew. What is to be mounted.
    pub(super) async fn make(&self, given: Given) -> Result<Vec<MountConfig>, PrepareError> {
        if given.files.is_empty() {
            return Ok(Vec::new());
        }
        let (root, dir, turn) = (self.root.clone(), self.dir.clone(), Arc::clone(&self.turn));
        let write = move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            write_all(&root, &dir, &given.files)
        };
        let done = tokio::task::spawn_blocking(write).await;
        let done = done.unwrap_or_else(|lost| Err(lost.into()));
        done.map_err(|source| PrepareError::File { path: self.dir.clone(), source })
    }

    /// Removes them; fine if they are not there.
    pub(super) async fn remove(&self) -> io::Result<()> {
        let (root, dir, turn) = (self.root.clone(), self.dir.clone(), Arc::clone(&self.turn));
        let remove = move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            gone(fs::remove_dir_all(&dir))?;
            // The last one takes the file system with it.
            let is_empty = names_in(&root)?.is_empty();
            if is_empty { take_away(&root) } else { Ok(()) }
        };
        tokio::task::spawn_blocking(remove).await.unwrap_or_else(|lost| Err(lost.into()))
    }
}

/// What is not there is gone.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_all(root: &Path, dir: &Path, files: &[GivenFile]) -> io::Result<Vec<MountConfig>> {
    in_memory(root)?;
    gone(fs::remove_dir_all(dir))?;
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    let one = |(i, file): (usize, &GivenFile)| {
        let source = dir.join(i.to_string());
        write(&source, file)?;
        let kind = MountKind::Bind { source };
        Ok(MountConfig { destination: file.target.clone(), kind, read_only: true })
    };
    files.iter().enumerate().map(one).collect()
}

fn write(path: &Path, given: &GivenFile) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&given.data)?;
    fchown(&file, Some(given.uid), Some(given.gid))?;
    // After the owner, whose change takes bits away.
    file.set_permissions(fs::Permissions::from_mode(given.mode))
}

/// Mounts the file system if it is not there yet.
fn in_memory(root: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    if is_mounted(root)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // What is in memory stays there, where the kernel can be told so (Linux 6.4).
    match mount("tmpfs", root, "tmpfs", flags, c"mode=0700,noswap") {
        Err(rustix::io::Errno::INVAL) => Ok(mount("tmpfs", root, "tmpfs", flags, c"mode=0700")?),
        other => Ok(other?),
    }
}

fn is_mounted(root: &Path) -> io::Result<bool> {
    let above = root.parent().unwrap_or(root);
    let own = fs::metadata(root)?.dev() != fs::metadata(above)?.dev();
    Ok(own && is_memory(root)?)
}

fn is_memory(path: &Path) -> io::Result<bool> {
    // Its type differs between architectures; it is never negative.
    Ok(u64::try_from(statfs(path)?.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

/// Refuses variables where the description of a container would be on a disk.
pub(super) fn keeps_variables(context: &Context, given: &Given) -> Result<(), PrepareError> {
    let dir = &context.config.run_dir;
    if given.env.is_empty() || is_memory(dir).unwrap_or(false) {
        return Ok(());
    }
    Err(PrepareError::Exposed { dir: dir.clone() })
}

/// The containers for which files were made.
pub(super) fn owners(context: &Context) -> io::Result<BTreeSet<String>> {
    names_in(&context.given_dir())
}

/// Removes those of a container; fine if they are not there.
pub(super) async fn remove(context: &Context, container: &str) -> io::Result<()> {
    GivenFiles::of(context, container).remove().await
}

/// Takes the file system away, with all that is left in it; fine if it is not there.
pub(in crate::worker) fn remove_all(context: &Context) -> io::Result<()> {
    let _turn = context.given.lock().unwrap_or_else(PoisonError::into_inner);
    take_away(&context.given_dir())
}

/// Containers keep the files that are bound into them.
fn take_away(root: &Path) -> io::Result<()> {
    match is_mounted(root) {
        Ok(true) => unmount(root, UnmountFlags::DETACH)?,
        Ok(false) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    gone(fs::remove_dir_all(root))
}
