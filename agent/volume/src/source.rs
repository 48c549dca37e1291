//! Paths that users name.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use shoal_agent_ground::blocking::FOREIGN;
use shoal_agent_ground::mounts::MountTable;

use super::VolumeError;
use super::turns::Turns;

/// How long the source of a bind mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Links followed on one way, as the kernel bounds them (path_resolution(7)).
const LINKS_MAX: u32 = 40;
/// One at a time looks at a file system, by its mount point: one that does not answer keeps the thread
/// until it does, and is to cost one thread, however many paths of it are wanted.
static TURNS: Turns<PathBuf> = Turns::new();

/// Checks the source of a bind mount before a container is made from it: off the runtime's threads and
/// with a limit. One that is not there is made a directory if `create` says so.
///
/// # Errors
/// It is not absolute or contains `..`; it is not there, or cannot be looked at; it cannot be made; it
/// does not answer in time.
pub async fn find_bind_source(path: PathBuf, create: bool) -> Result<(), VolumeError> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(VolumeError::SourceNotAbsolute { path });
    }
    let source = path.clone();
    let go = move |mounts: &MountTable, way| go(&source, create, mounts, way);
    let mounts = || MountTable::read().boxed();
    in_time(path, PATIENCE, mounts, go).await
}

/// A path on its way to where it leads.
#[derive(Debug)]
struct Way {
    /// So far: a path without links.
    at: PathBuf,
    /// The names that follow, the first one last.
    todo: Vec<OsString>,
    links: u32,
}

impl Way {
    fn to(path: &Path) -> Self {
        Self { at: PathBuf::from("/"), todo: names(path), links: 0 }
    }
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// Goes on as far as the file system reaches that it is on, and asks no other one. `None` at the end.
fn go(
    source: &Path,
    create: bool,
    mounts: &MountTable,
    mut way: Way,
) -> Result<Option<Way>, VolumeError> {
    let failed = |error| VolumeError::Source { path: source.to_owned(), source: error };
    let own = mounts.of(&way.at).to_owned();
    while mounts.of(&way.at) == own {
        let Some(name) = way.todo.pop() else {
            return fs::symlink_metadata(&way.at).map(|_| None).map_err(failed);
        };
        if name == ".." {
            way.at.pop();
            continue;
        }
        let next = way.at.join(name);
        if mounts.of(&next) != own {
            way.at = next;
            continue;
        }
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                way.links += 1;
                if way.links > LINKS_MAX {
                    return Err(failed(Errno::LOOP.into()));
                }
                let target = fs::read_link(&next).map_err(failed)?;
                if target.is_absolute() {
                    way.at = PathBuf::from("/");
                }
                way.todo.extend(names(&target));
            }
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                match fs::create_dir(&next) {
                    // Somebody else was quicker.
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(VolumeError::file("make directory", next)(error));
                    }
                    _ => way.at = next,
                }
            }
            other => {
                other.map_err(failed)?;
                way.at = next;
            }
        }
    }
    Ok(Some(way))
}

/// What is waited for.
enum Stage {
    /// That somebody else's look at the file system that is mounted there ends.
    Turn(PathBuf),
    /// A thread.
    Thread,
    /// The file system.
    Answer,
}

async fn in_time<G>(
    path: PathBuf,
    patience: Duration,
    mounts: impl Fn() -> BoxFuture<'static, io::Result<MountTable>>,
    go: G,
) -> Result<(), VolumeError>
where
    G: Fn(&MountTable, Way) -> Result<Option<Way>, VolumeError> + Clone + Send + 'static,
{
    let stage = Arc::new(Mutex::new(Stage::Thread));
    let enter = |next| *stage.lock().unwrap_or_else(PoisonError::into_inner) = next;
    let found = async {
        let mut way = Way::to(&path);
        loop {
            // Each time: whoever looks may be what makes it mounted.
            let mounts = mounts().await.map_err(VolumeError::file("read", "mountinfo"))?;
            let at = mounts.of(&way.at).to_owned();
            enter(Stage::Turn(at.clone()));
            let turn = TURNS.take(at).await;
            enter(Stage::Thread);
            let (go, stage) = (go.clone(), stage.clone());
            let look = move || {
                // Given back when the file system has answered, however late.
                let _turn = turn;
                *stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Answer;
                go(&mounts, way)
            };
            match FOREIGN.run(look).await.map_err(|_| VolumeError::HelperGone)?? {
                Some(next) => way = next,
                None => return Ok(()),
            }
        }
    };
    let Ok(found) = tokio::time::timeout(patience, found).await else {
        return Err(match &*stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Turn(at) => VolumeError::SourceWaits { path, patience, at: at.clone() },
            Stage::Thread => VolumeError::SourceCrowded { path, patience },
            Stage::Answer => VolumeError::SourceSilent { path, patience },
        });
    };
    found
}

/// Path of a directory or file inside a volume. Symbolic links on the way are refused, since what
/// is in a volume was written by containers: at the time of the check the path leads nowhere else.
///
/// # Errors
/// The subpath is absolute or leads upwards, is not there, or passes a symbolic link.
pub fn subpath(volume: &Path, subpath: &str) -> Result<PathBuf, VolumeError> {
    let relative = Path::new(subpath);
    let plain = |part: Component<'_>| matches!(part, Component::CurDir | Component::Normal(_));
    if subpath.is_empty() || !relative.components().all(plain) {
        return Err(VolumeError::SubpathInvalid { subpath: subpath.to_owned() });
    }
    let failed = |source| VolumeError::Subpath {
        subpath: subpath.to_owned(),
        path: volume.to_owned(),
        source,
    };
    let root = fs::File::open(volume).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found: Result<OwnedFd, _> = openat2(&root, relative, flags, Mode::empty(), resolve);
    found.map(|_| volume.join(relative)).map_err(|errno| failed(errno.into()))
}

#[cfg(test)]
mod tests;
