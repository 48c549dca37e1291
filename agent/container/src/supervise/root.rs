//! A container's root directory, entered by descriptors only.
//!
//! Whatever acts on a container's files from outside goes through here: a plain path would follow an
//! image's links from the root of the *host*. The walk is ours, one name at a time and never through a
//! link, so that a link starts again at the container's root and `..` never climbs above it; also while
//! somebody else moves things about, as another container can in a volume.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, openat,
    openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;

/// Links followed in one walk, as the kernel bounds them (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Directories one below the other; each holds a descriptor during a walk.
const DEPTH_MAX: usize = 256;
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// The root of a container.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

/// What is made where a path ends in nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Where a path leads.
#[derive(Debug)]
pub struct Place {
    /// The file itself, for nothing but its place (`O_PATH`).
    pub fd: OwnedFd,
    /// Its path inside, without any link.
    pub path: PathBuf,
}

impl RootDir {
    /// Opens a root directory.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a file for reading, which is there.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(&self, file: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // Non-blocking: it could be a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(openat2(&self.0, file, flags, Mode::empty(), resolve)?)
    }

    /// Checks that a directory is there.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn has_directory(&self, path: &Path) -> io::Result<()> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        Ok(())
    }

    /// Finds where a path leads, through links too. What is missing is made: directories on the way,
    /// and at its end (so also at the end of a link that leads nowhere) what `missing` says.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn find(&self, path: &Path, missing: Missing) -> io::Result<Place> {
        let mut above: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut todo = parts(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                above.pop();
                continue;
            }
            let last = todo.is_empty();
            let fd = {
                let at = above.last().map_or(&self.0, |(_, fd)| fd);
                let missing = if last { missing } else { Missing::Directory };
                open_or_make(at, &name, missing)?
            };
            match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = readlinkat(&fd, "", Vec::new())?.into_bytes();
                    let target = PathBuf::from(OsString::from_vec(target));
                    if target.is_absolute() {
                        above.clear();
                    }
                    todo.extend(parts(&target));
                }
                FileType::Directory if above.len() < DEPTH_MAX => above.push((name, fd)),
                FileType::Directory => return Err(Errno::NAMETOOLONG.into()),
                _ if last => return Ok(Place { fd, path: inside(&above).join(name) }),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        let path = inside(&above);
        let fd = match above.pop() {
            Some((_, fd)) => fd,
            None => self.0.try_clone()?,
        };
        Ok(Place { fd, path })
    }

    /// Makes sure that a name right below the root is a directory and no link, so that a path through
    /// it stays inside whoever follows it. A missing one is made, a link is replaced.
    ///
    /// # Errors
    /// `NotADirectory` when it is something else, or the kernel's answer.
    pub fn settle(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
            Ok(fd) => match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
                FileType::Directory => return Ok(()),
                FileType::Symlink => unlinkat(&self.0, name, AtFlags::empty())?,
                other => {
                    let what = format!("it is {}, not a directory", describe(other));
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
                }
            },
        }
        Ok(mkdirat(&self.0, name, DIRECTORY)?)
    }
}

/// The names of a path, the first one last. `.` and the root are none.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn inside(above: &[(OsString, OwnedFd)]) -> PathBuf {
    let names = above.iter().map(|(name, _)| name.as_os_str());
    [OsStr::from_bytes(b"/")].into_iter().chain(names).collect()
}

fn open_or_make(at: &OwnedFd, name: &OsStr, missing: Missing) -> io::Result<OwnedFd> {
    let open =
        || openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let made = match missing {
        Missing::Directory => mkdirat(at, name, DIRECTORY),
        Missing::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(at.as_fd(), name, flags | OFlags::NOFOLLOW, FILE).map(drop)
        }
    };
    match made {
        Ok(()) => {
            // Whoever this process is by now; but there are file systems that know better.
            let (uid, gid) = (Some(Uid::ROOT), Some(Gid::ROOT));
            match chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::PERM) => Ok(open()?),
                Err(e) => Err(e.into()),
            }
        }
        // Somebody else was quicker.
        Err(Errno::EXIST) => Ok(open()?),
        Err(e) => Err(e.into()),
    }
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "an unknown kind of file",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn lab() -> (tempfile::TempDir, PathBuf) {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("root");
        fs::create_dir_all(root.join("plain")).unwrap();
        (host, root)
    }

    #[test]
    fn links_and_dots_stay_inside_and_what_is_missing_is_made_there() {
        let (host, root) = lab();
        symlink(host.path(), root.join("out")).unwrap();
        symlink("../../../../../..", root.join("up")).unwrap();
        symlink("nowhere/at/all", root.join("dangling")).unwrap();
        symlink("/plain", root.join("door")).unwrap();
        symlink("../run/real", root.join("plain/relative")).unwrap();
        let out = host.path().strip_prefix("/").unwrap().to_owned();
        let table = [
            ("/plain/a/b", PathBuf::from("plain/a/b")),
            ("/out/escaped", out.join("escaped")),
            ("/up/escaped", PathBuf::from("escaped")),
            ("/dangling", PathBuf::from("nowhere/at/all")),
            ("/door/x/../y", PathBuf::from("plain/y")),
            ("/plain/relative", PathBuf::from("run/real")),
            ("/", PathBuf::new()),
        ];
        for missing in [Missing::Directory, Missing::File] {
            let dir = RootDir::open(&root).unwrap();
            for (path, expected) in &table {
                let place = dir.find(Path::new(path), missing).unwrap();
                assert_eq!(place.path, Path::new("/").join(expected), "{path}");
                assert!(root.join(expected).exists(), "{path}");
            }
        }
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1, "only the root is there");
        assert!(root.join("nowhere/at/all").is_dir());
    }

    #[test]
    fn a_missing_file_is_made_and_a_file_on_the_way_refuses() {
        let (_host, root) = lab();
        let dir = RootDir::open(&root).unwrap();
        dir.find(Path::new("/etc/hosts"), Missing::File).unwrap();
        assert!(root.join("etc/hosts").is_file());
        let error = dir.find(Path::new("/etc/hosts/below"), Missing::Directory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn links_in_a_circle_and_endless_depth_end() {
        let (_host, root) = lab();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let deep = "d/".repeat(DEPTH_MAX);
        symlink(format!("{deep}x"), root.join("deep")).unwrap();
        let dir = RootDir::open(&root).unwrap();
        let error = |path: &str| dir.find(Path::new(path), Missing::Directory).unwrap_err();
        assert_eq!(error("/a").raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(error("/deep").raw_os_error(), Some(Errno::NAMETOOLONG.raw_os_error()));
    }

    #[test]
    fn a_name_is_settled_as_a_directory_or_refused() {
        let (host, root) = lab();
        symlink(host.path(), root.join("dev")).unwrap();
        fs::write(root.join("sys"), "").unwrap();
        let dir = RootDir::open(&root).unwrap();
        for name in ["dev", "proc", "plain"] {
            dir.settle(name).unwrap();
            assert!(fs::symlink_metadata(root.join(name)).unwrap().is_dir(), "{name}");
        }
        assert!(dir.settle("sys").unwrap_err().to_string().contains("regular file"));
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1);
    }
}
