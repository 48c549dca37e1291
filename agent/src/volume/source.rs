//! Paths that users name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use tokio::sync::Mutex as Turn;

use super::VolumeError;
use crate::blocking::FOREIGN;

/// How long the source of a bind mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// One at a time looks at a path: one on a file system that does not answer keeps its thread until
/// it does, and one such path is to cost one thread, however many containers want it.
static TURNS: Mutex<BTreeMap<PathBuf, Arc<Turn<()>>>> = Mutex::new(BTreeMap::new());

/// [`check_bind_source`] off the runtime's threads and with a limit. One that is not there is made a
/// directory if `create` says so.
///
/// # Errors
/// As [`check_bind_source`]; it cannot be made; it does not answer in time.
pub async fn find_bind_source(path: PathBuf, create: bool) -> Result<(), VolumeError> {
    let source = path.clone();
    let look = move || match check_bind_source(&source) {
        Err(VolumeError::Source { source: error, .. })
            if create && error.kind() == io::ErrorKind::NotFound =>
        {
            fs::create_dir_all(&source).map_err(VolumeError::file("make directory", source))
        }
        other => other,
    };
    in_time(path, PATIENCE, look).await
}

async fn in_time(
    path: PathBuf,
    patience: Duration,
    look: impl FnOnce() -> Result<(), VolumeError> + Send + 'static,
) -> Result<(), VolumeError> {
    let turn = turn_of(&path);
    let found = async {
        let turn = turn.lock_owned().await;
        let look = move || {
            // Given back when the file system has answered, however late.
            let _turn = turn;
            look()
        };
        FOREIGN.run(look).await.map_err(|_| VolumeError::HelperGone)?
    };
    let silent = |_| Err(VolumeError::SourceSilent { path, patience });
    tokio::time::timeout(patience, found).await.unwrap_or_else(silent)
}

fn turn_of(path: &Path) -> Arc<Turn<()>> {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = turns.get(path) {
        return turn.clone();
    }
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    turns.entry(path.to_owned()).or_default().clone()
}

/// Checks the source of a bind mount before a container is made from it.
///
/// # Errors
/// It is not absolute or contains `..`; it is not there, or cannot be looked at.
pub fn check_bind_source(path: &Path) -> Result<(), VolumeError> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(VolumeError::SourceNotAbsolute { path: path.to_owned() });
    }
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(source) => Err(VolumeError::Source { path: path.to_owned(), source }),
    }
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
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::blocking::{THREADS, VOLUMES};

    #[test]
    fn sources() {
        let dir = tempfile::tempdir().unwrap();
        check_bind_source(dir.path()).unwrap();
        let refused = |path: PathBuf, expect: &str| {
            let error = check_bind_source(&path).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        let missing = dir.path().join("missing");
        refused(missing.clone(), &format!("bind source `{}`", missing.display()));
        refused("a".into(), "bind source `a` must be an absolute path without `..`");
        refused("/a/../b".into(), "bind source `/a/../b` must be an absolute path without `..`");
    }

    #[test]
    fn subpaths() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("a/etc")).unwrap();
        assert_eq!(subpath(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
        for bad in ["", "/a", "../x", "a/../b"] {
            assert!(matches!(subpath(dir.path(), bad), Err(VolumeError::SubpathInvalid { .. })));
        }
        for bad in ["a/c", "a/etc", "a/etc/passwd"] {
            assert!(matches!(subpath(dir.path(), bad), Err(VolumeError::Subpath { .. })), "{bad}");
        }
    }

    /// However many containers want it, and however many paths there are like it.
    #[test]
    fn a_source_that_does_not_answer_holds_nobody_up() {
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        let answered = Arc::new(Mutex::new(answered));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(THREADS).enable_all().build().unwrap();
        runtime.block_on(async {
            let hang = || {
                let answered = answered.clone();
                move || {
                    let _ = answered.lock().unwrap().recv();
                    Ok(())
                }
            };
            let patience = Duration::from_millis(20);
            let same = (0..200).map(|_| in_time("/dead".into(), patience, hang()));
            for error in join_all(same).await {
                let error = error.unwrap_err().to_string();
                assert_eq!(error, "bind source `/dead` did not answer within 20ms");
            }
            // That was one thread.
            find_bind_source("/".into(), false).await.unwrap();
            let like_it = (0..200).map(|n| in_time(format!("/dead/{n}").into(), patience, hang()));
            assert!(join_all(like_it).await.iter().all(Result::is_err));
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            VOLUMES.run(|| ()).await.unwrap();
            drop(answer);
            find_bind_source("/".into(), false).await.unwrap();
        });
    }

    #[tokio::test]
    async fn a_missing_source_is_made_if_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        find_bind_source(path.clone(), false).await.unwrap_err();
        find_bind_source(path.clone(), true).await.unwrap();
        assert!(path.is_dir());
    }
}
