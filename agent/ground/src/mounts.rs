//! What is mounted where, as far as paths tell.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The mount points of this process. Known without asking any of the file systems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountTable(Vec<PathBuf>);

impl MountTable {
    /// As they are now.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn read() -> io::Result<Self> {
        Ok(Self::parse(&tokio::fs::read("/proc/self/mountinfo").await?))
    }

    /// From proc_pid_mountinfo(5).
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let point = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
        Self(text.split(|b| *b == b'\n').filter_map(point).collect())
    }

    /// The mount point of the file system that a path without links is on.
    #[must_use]
    pub fn of(&self, path: &Path) -> &Path {
        let above = self.0.iter().filter(|point| path.starts_with(point));
        above
            .max_by_key(|point| point.components().count())
            .map_or(Path::new("/"), PathBuf::as_path)
    }

    /// What is mounted at a path without links and below it: each mount once, what was mounted first last.
    pub fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.0.iter().rev().map(PathBuf::as_path).filter(move |point| point.starts_with(path))
    }
}

/// Space, tab, newline and backslash are written as a backslash with three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten().and_then(octal);
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_nearest_mount_above_it() {
        let table = MountTable::parse(
            b"25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
              26 25 0:30 / /srv/a\\040b\\134 rw shared:1 - nfs4 host:/x rw\n\
              27 26 0:31 / /srv/a\\040b\\134/in rw - tmpfs tmpfs rw\nodd\n",
        );
        for (path, expected) in [
            ("/", "/"),
            ("/srv", "/"),
            ("/srv/a", "/"),
            ("/srv/a b\\", "/srv/a b\\"),
            ("/srv/a b\\/innn", "/srv/a b\\"),
            ("/srv/a b\\/in/x/y", "/srv/a b\\/in"),
        ] {
            assert_eq!(table.of(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(MountTable::default().of(Path::new("/a")), Path::new("/"));
        let below = |path| table.below(Path::new(path)).collect::<Vec<_>>();
        assert_eq!(below("/srv/a b\\"), ["/srv/a b\\/in", "/srv/a b\\"].map(Path::new));
        assert_eq!(below("/srv/a").len(), 0, "of another name");
    }
}
