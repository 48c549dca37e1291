//! Paths that users name.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::VolumeError;

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
    use super::*;

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
}
