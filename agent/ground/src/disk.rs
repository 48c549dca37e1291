//! How much of the disk is used below a directory, counted within bounds: what containers leave there
//! has any shape.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

use crate::blocking::MEASURE;

/// How long counting may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Entries that are looked at.
const ENTRIES_MAX: u64 = 4_000_000;
/// Files with several names that are remembered, to be counted once.
const LINKED_MAX: usize = 256 << 10;
/// Directories inside of each other; each holds a descriptor while what is below it is counted.
const DEPTH_MAX: usize = 128;
/// Bytes of a block as the kernel counts them (stat(2)).
const BLOCK: u64 = 512;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes on the disk, of files with several names once.
    pub bytes: u64,
    /// Whether that is all.
    pub whole: bool,
}

/// Counts what is below a directory, on a thread of the class for it, where `find` says which; nothing
/// if that says none. What cannot be read is not whole.
pub async fn measure(find: impl FnOnce() -> Option<PathBuf> + Send + 'static) -> Measured {
    let until = Instant::now() + TIME_MAX;
    let work = move || match find() {
        Some(dir) => count(&dir, until, LINKED_MAX).unwrap_or_default(),
        None => Measured { bytes: 0, whole: true },
    };
    MEASURE.run(work).await.unwrap_or_default()
}

/// Follows no link and leaves the file system of `dir` nowhere.
fn count(dir: &Path, until: Instant, linked_max: usize) -> io::Result<Measured> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, dir, flags, Mode::empty())?;
    let own = rustix::fs::fstat(&top)?;
    let mut all = Measured { bytes: blocks(&own), whole: true };
    let mut seen: HashSet<u64> = HashSet::new();
    let mut open = vec![Dir::new(top)?];
    let mut entries = 0;
    while let Some(current) = open.last_mut() {
        let Some(entry) = current.read() else {
            open.pop();
            continue;
        };
        entries += 1;
        if entries > ENTRIES_MAX || (entries % 256 == 0 && Instant::now() > until) {
            all.whole = false;
            break;
        }
        // What goes away meanwhile is not there.
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = statat(current.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != own.st_dev {
            continue;
        }
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_dir && stat.st_nlink > 1 && seen.len() == linked_max && !seen.contains(&stat.st_ino)
        {
            all.whole = false;
            break;
        }
        if is_dir || stat.st_nlink <= 1 || seen.insert(stat.st_ino) {
            all.bytes += blocks(&stat);
        }
        if is_dir {
            let below = openat(current.fd()?, name, flags, Mode::empty()).and_then(Dir::new);
            match below {
                Ok(below) if open.len() < DEPTH_MAX => open.push(below),
                _ => all.whole = false,
            }
        }
    }
    Ok(all)
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn files_are_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(&outside, vec![1; 1 << 20]).unwrap();
        symlink(&outside, inside.join("file")).unwrap();
        symlink("..", inside.join("a/up")).unwrap();
        let empty = count(&inside, far(), LINKED_MAX).unwrap();
        assert!(empty.whole && empty.bytes < 1 << 16, "{empty:?}");
        fs::write(inside.join("a/b/data"), vec![1; 3 << 20]).unwrap();
        fs::hard_link(inside.join("a/b/data"), inside.join("again")).unwrap();
        let full = count(&inside, far(), LINKED_MAX).unwrap();
        let more = full.bytes - empty.bytes;
        assert!(full.whole && (3 << 20..(3 << 20) + 65_536).contains(&more), "{more}");
    }

    #[test]
    fn what_is_too_deep_or_takes_too_long_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        for _ in 0..DEPTH_MAX + 4 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        let found = count(dir.path(), far(), LINKED_MAX).unwrap();
        assert!(!found.whole && found.bytes >= 1 << 20, "{found:?}");
        let wide = tempfile::tempdir().unwrap();
        for n in 0..300 {
            fs::write(wide.path().join(n.to_string()), b"").unwrap();
        }
        assert!(!count(wide.path(), Instant::now(), LINKED_MAX).unwrap().whole);
        assert!(count(wide.path(), far(), LINKED_MAX).unwrap().whole);
        assert!(count(&wide.path().join("none"), far(), LINKED_MAX).is_err());
    }

    #[test]
    fn files_with_several_names_are_remembered_within_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..4 {
            let file = dir.path().join(n.to_string());
            fs::write(&file, vec![1; 1 << 20]).unwrap();
            fs::hard_link(&file, dir.path().join(format!("{n}-again"))).unwrap();
        }
        let whole = count(dir.path(), far(), 4).unwrap();
        assert!(whole.whole && (4 << 20..5 << 20).contains(&whole.bytes), "{whole:?}");
        let part = count(dir.path(), far(), 3).unwrap();
        assert!(!part.whole && (3 << 20..4 << 20).contains(&part.bytes), "{part:?}");
    }
}
