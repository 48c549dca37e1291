//! The paths of a layer's entries, made safe before the kernel sees them.

use std::ops::Range;

use super::super::limits::Limits;
use super::error::{NameFault, UnpackError, lossy};

/// Prefix of a whiteout (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides everything below a directory in the layers beneath.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that start like this are the bookkeeping of aufs and mean nothing to us.
const AUFS: &[u8] = b".wh..wh.";
/// Longest name the kernel takes, in bytes.
const ELEMENT_BYTES_MAX: usize = 255;

/// A clean relative path: no empty element, no `.`, no `..`, within the limits. Empty for the
/// layer's root.
///
/// Absolute paths mean the same below the layer's root, as they do to Docker and containerd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct LayerPath(Vec<u8>);

/// What an entry asks for, judging by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An ordinary entry.
    Entry(LayerPath),
    /// This path is gone from the layers beneath.
    Whiteout(LayerPath),
    /// This directory hides what the layers beneath have in it.
    Opaque(LayerPath),
    /// Nothing.
    Ignored,
}

impl LayerPath {
    pub(super) fn parse(raw: &[u8], limits: &Limits) -> Result<Self, UnpackError> {
        Self::clean(raw, limits).map_err(|fault| UnpackError::Name { entry: shortened(raw), fault })
    }

    fn clean(raw: &[u8], limits: &Limits) -> Result<Self, NameFault> {
        if raw.is_empty() {
            return Err(NameFault::Empty);
        }
        if raw.len() > limits.path_bytes {
            return Err(NameFault::TooLong(limits.path_bytes));
        }
        if raw.contains(&0) {
            return Err(NameFault::Nul);
        }
        let mut clean = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for element in raw.split(|byte| *byte == b'/') {
            match element {
                b"" | b"." => continue,
                b".." => return Err(NameFault::DotDot),
                _ if element.len() > ELEMENT_BYTES_MAX => return Err(NameFault::ElementTooLong),
                _ => {}
            }
            depth += 1;
            if depth > limits.path_depth {
                return Err(NameFault::TooDeep(limits.path_depth));
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(element);
        }
        Ok(Self(clean))
    }

    pub(super) fn root() -> Self {
        Self::default()
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What `*at` calls take: `.` for the root.
    pub(super) fn for_kernel(&self) -> &[u8] {
        if self.is_root() { b"." } else { &self.0 }
    }

    /// The directory that holds it; nothing for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some(Self(self.0[..slash].to_vec())),
            None if self.is_root() => None,
            None => Some(Self::root()),
        }
    }

    /// The last element.
    pub(super) fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }

    /// Whether this lies below `other`.
    pub(super) fn is_below(&self, other: &Self) -> bool {
        other.is_root() || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// Its elements, outermost first. Paths in the order of these have everything below a directory
    /// right behind it.
    pub(super) fn elements(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.0.split(|byte| *byte == b'/')
    }

    /// How many elements it has.
    pub(super) fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.elements().count() }
    }

    /// What has this name in it.
    pub(super) fn join(&self, name: &[u8]) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// Everything that sorts between `path/` and what no longer starts with it.
    pub(super) fn below(&self) -> Range<Self> {
        let with = |byte| Self([&self.0[..], &[byte]].concat());
        with(b'/')..with(b'/' + 1)
    }

    fn sibling(&self, name: &[u8]) -> Self {
        let mut path = self.0[..self.0.len() - self.name().len()].to_vec();
        path.extend_from_slice(name);
        Self(path)
    }
}

/// Sorts out whiteouts. Their kind does not matter: some writers ship them as hard links.
pub(super) fn meaning(path: LayerPath) -> Result<Meaning, UnpackError> {
    let name = path.name();
    if name == OPAQUE {
        return Ok(Meaning::Opaque(path.parent().unwrap_or_default()));
    }
    if name.starts_with(AUFS) {
        return Ok(Meaning::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Entry(path)),
        Some(b"" | b"." | b"..") => {
            Err(UnpackError::Name { entry: lossy(path.bytes()), fault: NameFault::Whiteout })
        }
        Some(hidden) => Ok(Meaning::Whiteout(path.sibling(hidden))),
    }
}

/// A name for an error text, however long the archive's is.
fn shortened(raw: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    if raw.len() <= SHOWN_MAX {
        return lossy(raw);
    }
    format!("{}…", lossy(&raw[..SHOWN_MAX]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8]) -> Result<LayerPath, NameFault> {
        LayerPath::clean(raw, &Limits::default())
    }

    #[test]
    fn clean_paths_stay_below_the_root() {
        for (raw, clean) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"./a//b/.", b"a/b"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"//x/", b"x"),
            (b"./", b""),
            (b"/", b""),
            (b"..a/b..", b"..a/b.."),
        ] {
            assert_eq!(parse(raw).unwrap().bytes(), clean, "{}", lossy(raw));
        }
    }

    #[test]
    fn refused_paths_say_why() {
        let long = [b"a/".repeat(2050), b"a".to_vec()].concat();
        let deep = b"a/".repeat(257);
        for (raw, fault) in [
            (&b""[..], NameFault::Empty),
            (b"..", NameFault::DotDot),
            (b"a/../b", NameFault::DotDot),
            (b"/../x", NameFault::DotDot),
            (b"a\0b", NameFault::Nul),
            (&long, NameFault::TooLong(4095)),
            (&deep, NameFault::TooDeep(256)),
            (&[b'x'; 256], NameFault::ElementTooLong),
        ] {
            assert_eq!(parse(raw).unwrap_err(), fault);
        }
    }

    #[test]
    fn whiteouts_are_told_by_their_name() {
        let path = |raw: &[u8]| parse(raw).unwrap();
        let of = |raw: &[u8]| meaning(path(raw));
        assert_eq!(of(b"a/.wh.b").unwrap(), Meaning::Whiteout(path(b"a/b")));
        assert_eq!(of(b".wh.b").unwrap(), Meaning::Whiteout(path(b"b")));
        assert_eq!(of(b"a/.wh..wh..opq").unwrap(), Meaning::Opaque(path(b"a")));
        assert_eq!(of(b".wh..wh..opq").unwrap(), Meaning::Opaque(LayerPath::root()));
        assert_eq!(of(b".wh..wh.plnk").unwrap(), Meaning::Ignored);
        assert_eq!(of(b"a.wh.b").unwrap(), Meaning::Entry(path(b"a.wh.b")));
        for raw in [&b"a/.wh."[..], b".wh..", b".wh..."] {
            assert!(of(raw).is_err(), "{}", lossy(raw));
        }
    }

    #[test]
    fn directories_and_what_is_below_them() {
        let path = parse(b"a/b/c").unwrap();
        assert_eq!(path.elements().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!((path.depth(), LayerPath::root().depth()), (3, 0));
        assert_eq!(parse(b"a").unwrap().parent(), Some(LayerPath::root()));
        assert_eq!(LayerPath::root().parent(), None);
        assert!(parse(b"a/b").unwrap().is_below(&parse(b"a").unwrap()));
        assert!(!parse(b"ab").unwrap().is_below(&parse(b"a").unwrap()));
        assert_eq!(LayerPath::root().join(b"a").join(b"b"), parse(b"a/b").unwrap());
        for (other, below) in [("a/b", true), ("a/b/c", true), ("a", false), ("a0", false)] {
            let other = parse(other.as_bytes()).unwrap();
            assert_eq!(parse(b"a").unwrap().below().contains(&other), below, "{other:?}");
        }
    }
}
