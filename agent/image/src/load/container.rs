//! The files of a layout, in a directory or inside a tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_types::image_ref::Digest;

use super::super::compression::{Compression, decompress};
use super::super::files::Scratch;
use super::super::hashing::{HashingReader, digest_of, is_too_long};
use super::super::limits::Limits;
use super::super::tar_stream::{MemberKind, TarStream};
use super::LoadError;

/// Members of an archive; a layout needs one per layer and a few more.
const MEMBERS_MAX: usize = 100_000;
/// Links followed for one name; old `docker save` archives link equal layers.
const LINKS_MAX: usize = 8;

/// Something that holds files by name.
pub(super) enum Container {
    Directory(PathBuf),
    Archive(Archive),
}

/// A tar archive, uncompressed and on disk.
pub(super) struct Archive {
    path: PathBuf,
    members: BTreeMap<String, Place>,
    /// Keeps the unpacked copy of a packed archive.
    _scratch: Option<Scratch>,
}

/// Where a member of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File {
        offset: u64,
        length: u64,
    },
    /// Another member, or one that is missing.
    Link(String),
}

/// One file of a container.
pub(crate) struct ArchiveBlob {
    _container: Arc<Container>,
    path: PathBuf,
    offset: u64,
    pub length: u64,
}

impl Container {
    pub(super) fn directory(path: &Path) -> Self {
        Self::Directory(path.to_owned())
    }

    /// Finds the members of an archive; a packed one is unpacked into `tmp`, the store's own
    /// directory, for as long as the container lives.
    pub(super) fn archive(path: &Path, tmp: &Path, limits: &Limits) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(LoadError::io("open it"))?;
        let (unpacked, compression) = decompress(file).map_err(LoadError::io("read it"))?;
        let (path, scratch) = if compression == Compression::None {
            (path.to_owned(), None)
        } else {
            let scratch = Scratch::create(tmp).map_err(|error| {
                LoadError::io("make a temporary directory")(io::Error::other(error))
            })?;
            let copy = scratch.path().join("archive.tar");
            unpack(unpacked, &copy, limits.archive_bytes)?;
            (copy, Some(scratch))
        };
        let file = File::open(&path).map_err(LoadError::io("open it"))?;
        let length = file.metadata().map_err(LoadError::io("read it"))?.len();
        if length > limits.archive_bytes {
            return Err(too_large(limits.archive_bytes));
        }
        let members = scan(BufReader::with_capacity(1 << 16, file), limits)?;
        Ok(Self::Archive(Archive { path, members, _scratch: scratch }))
    }

    pub(super) fn has(self: &Arc<Self>, name: &str) -> bool {
        self.find(name).is_ok()
    }

    pub(super) fn find(self: &Arc<Self>, name: &str) -> Result<ArchiveBlob, LoadError> {
        let missing = || LoadError::Missing { name: name.to_owned() };
        let (path, offset, length) = match &**self {
            Self::Directory(dir) => {
                // Names come from documents: only those below the directory are files of it.
                let clean = clean(name).ok_or_else(missing)?;
                let path = dir.join(clean);
                let stat = std::fs::metadata(&path).map_err(|_| missing())?;
                if !stat.is_file() {
                    return Err(missing());
                }
                (path, 0, stat.len())
            }
            Self::Archive(archive) => {
                let (offset, length) = archive.place(name).ok_or_else(missing)?;
                (archive.path.clone(), offset, length)
            }
        };
        Ok(ArchiveBlob { _container: Arc::clone(self), path, offset, length })
    }

    /// A small document, whole.
    pub(super) fn document(self: &Arc<Self>, name: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
        let blob = self.find(name)?;
        if blob.length > limit {
            return Err(LoadError::TooLarge { what: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        blob.open()?.take(limit).read_to_end(&mut bytes).map_err(LoadError::io("read it"))?;
        Ok(bytes)
    }

    /// A small document that is found by its digest, and verified.
    pub(super) fn by_digest(
        self: &Arc<Self>,
        digest: Digest,
        limit: u64,
    ) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(&digest);
        let bytes = self.document(&name, limit)?;
        let actual = digest_of(&bytes);
        if actual != digest {
            return Err(LoadError::DigestMismatch { name, expected: digest, actual });
        }
        Ok(bytes)
    }
}

/// Where a layout keeps a blob (OCI image specification, "Image Layout").
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Archive {
    fn place(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(name)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&name)? {
                Place::File { offset, length } => return Some((*offset, *length)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

impl ArchiveBlob {
    /// The file it is in, and where it begins there.
    pub(crate) fn place(&self) -> (&Path, u64) {
        (&self.path, self.offset)
    }

    /// The bytes, from the start.
    pub(crate) fn open(&self) -> Result<impl Read + Send + use<>, LoadError> {
        let mut file = File::open(&self.path).map_err(LoadError::io("open it"))?;
        file.seek(SeekFrom::Start(self.offset)).map_err(LoadError::io("read it"))?;
        Ok(file.take(self.length))
    }
}

fn unpack(packed: impl Read, copy: &Path, limit: u64) -> Result<(), LoadError> {
    let mut file = File::create(copy).map_err(LoadError::io("make a temporary file"))?;
    match io::copy(&mut HashingReader::new(packed, limit), &mut file) {
        Ok(_) => Ok(()),
        Err(error) => Err(match is_too_long(&error) {
            Some(limit) => too_large(limit),
            None => LoadError::io("unpack it")(error),
        }),
    }
}

fn too_large(limit: u64) -> LoadError {
    LoadError::TooLarge { what: "the archive".to_owned(), limit }
}

fn scan(reader: impl Read, limits: &Limits) -> Result<BTreeMap<String, Place>, LoadError> {
    let mut archive = TarStream::new(reader, limits);
    let mut members = BTreeMap::new();
    while let Some(member) = archive.next_member().map_err(LoadError::Tar)? {
        if members.len() >= MEMBERS_MAX {
            return Err(LoadError::TooMany { what: "members", limit: MEMBERS_MAX });
        }
        let Some(name) = std::str::from_utf8(&member.path).ok().and_then(clean) else { continue };
        let place = match member.kind {
            MemberKind::File => Place::File { offset: archive.offset(), length: member.size },
            MemberKind::Symlink | MemberKind::HardLink => {
                let Ok(target) = std::str::from_utf8(&member.link) else { continue };
                // A symbolic link counts from its own directory, a hard link from the top.
                let base = match member.kind {
                    MemberKind::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir),
                    _ => "",
                };
                let Some(target) = clean(&format!("{base}/{target}")) else { continue };
                Place::Link(target)
            }
            _ => continue,
        };
        members.insert(name, place);
    }
    Ok(members)
}

/// A path from the top of a container, or nothing if it leads out of it.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::super::super::unpack::testing::{Archive as Tar, Entry};
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b", Some("a/b")),
            ("/a", Some("a")),
            ("x/../a", Some("a")),
            ("../a", None),
            ("x/../../a", None),
            ("", None),
        ] {
            assert_eq!(clean(name).as_deref(), expected, "{name}");
        }
    }

    /// Whatever it is packed with.
    #[test]
    fn an_archive_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive.tar");
        let plain = Tar::of(&[Entry::file("one", &[7; 4000])]);
        let limits = Limits { archive_bytes: plain.len() as u64, ..Limits::default() };
        let less = Limits { archive_bytes: limits.archive_bytes - 1, ..Limits::default() };
        for bytes in [zstd::encode_all(&plain[..], 3).unwrap(), plain] {
            std::fs::write(&path, &bytes).unwrap();
            Container::archive(&path, dir.path(), &limits).map(drop).unwrap();
            let refused = Container::archive(&path, dir.path(), &less).map(drop).unwrap_err();
            let LoadError::TooLarge { what, limit } = refused else { panic!("{refused}") };
            assert_eq!((what.as_str(), limit), ("the archive", less.archive_bytes));
        }
    }

    #[test]
    fn members_are_found_by_their_place_and_through_links() {
        let bytes = Tar::of(&[
            Entry::file("./one/layer.tar", b"first"),
            Entry::symlink("two/layer.tar", "../one/layer.tar"),
            Entry::hard_link("three", "one/layer.tar"),
            Entry::symlink("loop", "loop"),
            Entry::symlink("out", "../../etc/passwd"),
        ]);
        let members = scan(&bytes[..], &Limits::default()).unwrap();
        let archive = Archive { path: PathBuf::new(), members, _scratch: None };
        for name in ["one/layer.tar", "two/layer.tar", "three"] {
            let (offset, length) = archive.place(name).unwrap();
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&bytes[at..at + usize::try_from(length).unwrap()], b"first", "{name}");
        }
        assert_eq!(archive.place("loop"), None);
        assert_eq!(archive.place("out"), None);
    }
}
