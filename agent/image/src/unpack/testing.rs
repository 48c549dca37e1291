//! Hand-made archives for tests.

use tar::{Builder, EntryType, Header};

/// A tar archive built entry by entry; names go in as they are, safe or not.
pub(crate) struct Archive {
    builder: Builder<Vec<u8>>,
}

/// The properties of one entry.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) path: String,
    pub(crate) link: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) mtime: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn new(kind: EntryType, path: &str) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            link: String::new(),
            mode: if kind == EntryType::Directory { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: 1_000_000_000,
            body: Vec::new(),
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub(crate) fn file(path: &str, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..Self::new(EntryType::Regular, path) }
    }

    pub(crate) fn dir(path: &str) -> Self {
        Self::new(EntryType::Directory, path)
    }

    pub(crate) fn symlink(path: &str, target: &str) -> Self {
        Self { link: target.to_owned(), ..Self::new(EntryType::Symlink, path) }
    }

    pub(crate) fn hard_link(path: &str, target: &str) -> Self {
        Self { link: target.to_owned(), ..Self::new(EntryType::Link, path) }
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        Self { owner: (uid, gid), ..self }
    }

    pub(crate) fn device(self, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.to_owned(), value.to_vec()));
        self
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { builder: Builder::new(Vec::new()) }
    }

    /// The bytes of an archive with these entries.
    pub(crate) fn of(entries: &[Entry]) -> Vec<u8> {
        let mut archive = Self::new();
        for entry in entries {
            archive.push(entry);
        }
        archive.finish()
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        let mut pax: Vec<(&str, &[u8])> =
            entry.pax.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        if entry.path.len() > 100 {
            pax.push(("path", entry.path.as_bytes()));
        }
        if entry.link.len() > 100 {
            pax.push(("linkpath", entry.link.as_bytes()));
        }
        if !pax.is_empty() {
            self.builder.append_pax_extensions(pax).unwrap();
        }
        let mut header = Header::new_ustar();
        copy_into(&mut header.as_old_mut().name, entry.path.as_bytes());
        copy_into(&mut header.as_old_mut().linkname, entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(entry.body.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        header.set_cksum();
        self.builder.append(&header, entry.body.as_slice()).unwrap();
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

fn copy_into(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}
