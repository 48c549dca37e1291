//! Writing a small file so that a crash or a power cut leaves the old or the new content.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What a file has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// A power cut: it is on the disk when the write returns.
    PowerCut,
    /// The end of its writer, at any moment, but no power cut: for what describes something that does
    /// not outlive one either. Costs no barrier.
    Crash,
}

/// Replaces `path` with `content`: temporary file beside it with `mode`, fsync, rename, fsync of the
/// directory. Missing directories are made with mode 0700. May be repeated after any failure; two
/// writers of the same path at once are the caller's mistake.
///
/// # Errors
/// Whatever the file system answers; the old content is then still there.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_file_as(path, content, mode, Lasting::PowerCut)
}

/// As [`write_file`], for as long as `lasting` says.
///
/// # Errors
/// As [`write_file`].
pub fn write_file_as(path: &Path, content: &[u8], mode: u32, lasting: Lasting) -> io::Result<()> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "path has no file name");
    let name = path.file_name().ok_or_else(no_name)?;
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".tmp");
    let temporary = dir.join(temporary_name);
    // A left-over of a killed writer may have another mode: never write a secret into it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    if lasting == Lasting::PowerCut {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)?;
    match lasting {
        Lasting::PowerCut => File::open(dir)?.sync_all(),
        Lasting::Crash => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_and_keeps_the_mode_whatever_a_killed_writer_left() {
        for lasting in [Lasting::PowerCut, Lasting::Crash] {
            let dir = tempfile::tempdir().expect("temp dir");
            let path = dir.path().join("deep/er/key.pem");
            write_file_as(&path, b"one", 0o600, lasting).expect("first");
            std::fs::write(dir.path().join("deep/er/.key.pem.tmp"), b"left over").expect("litter");
            write_file_as(&path, b"two", 0o600, lasting).expect("second");
            assert_eq!(std::fs::read(&path).expect("read"), b"two");
            let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let names = std::fs::read_dir(dir.path().join("deep/er")).expect("list").count();
            assert_eq!(names, 1, "no temporary file stays");
        }
    }
}
