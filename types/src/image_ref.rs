//! Image references: the names by which people ask for images.
//!
//! The grammar and the normalisation are those of Docker (the `distribution/reference`
//! grammar): `nginx` is `docker.io/library/nginx:latest`. Two differences, both stricter: only
//! `sha256` digests are accepted, because nothing else is verified by the image store, and a port
//! has to be a port number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod grammar;
#[cfg(test)]
mod tests;

/// The registry meant when a reference names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag meant when a reference has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository path in bytes, as in the `distribution/reference` grammar.
pub const REPOSITORY_LENGTH_MAX: usize = 255;
/// Longest tag in bytes (OCI distribution specification, "Pulling manifests").
pub const TAG_LENGTH_MAX: usize = 128;
/// Longest whole reference in bytes; more is refused before anything is looked at.
pub const REFERENCE_LENGTH_MAX: usize = 1024;

/// Repositories of the default registry without a namespace live under this one.
const OFFICIAL_NAMESPACE: &str = "library";
/// The historical name of [`DEFAULT_REGISTRY`].
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";

/// A SHA-256 digest of some content, written `sha256:<64 hexadecimal digits>`
/// (OCI image specification, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these bytes, as a hash function returned them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm: the name of a blob's file.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut out = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }

    /// The first 12 hexadecimal digits, as people see them in listings.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Parses the 64 digits alone, as [`Digest::hex`] writes them.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (lower_hex(pair[0])? << 4) | lower_hex(pair[1])?;
        }
        Some(Self(bytes))
    }
}

/// The value of one lower-case hexadecimal digit; upper case is not a digest (OCI image
/// specification, "SHA-256").
fn lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {value:?}: expected sha256: and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest {
    /// The refused text, cut when very long.
    pub value: String,
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| InvalidDigest { value: shortened(text) })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A normalised image reference: registry, repository, and a tag, a digest or both.
///
/// Holds always: the registry and the repository are not empty, and at least one of tag and digest
/// is there. With both, the digest says which image is meant and the tag is decoration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Parses and normalises what a person wrote.
    ///
    /// # Errors
    /// Names the value and the part of it that breaks the grammar.
    pub fn parse(text: &str) -> Result<Self, InvalidImageReference> {
        grammar::parse(text)
            .map_err(|fault| InvalidImageReference { value: shortened(text), fault })
    }

    /// Host and optional port of the registry, for example `docker.io` or `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry, for example `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if the reference has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest (or of the index), if the reference pins one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository without tag and digest: `docker.io/library/nginx`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The shortest text that parses to this reference, as Docker shows it: `nginx:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = if self.registry == DEFAULT_REGISTRY {
            grammar::familiar_repository(&self.repository)
                .map_or_else(|| self.name(), str::to_owned)
        } else {
            self.name()
        };
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageReference {
    type Err = InvalidImageReference;

    fn from_str(text: &str) -> Result<Self, InvalidImageReference> {
        Self::parse(text)
    }
}

impl Serialize for ImageReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {value:?}: {fault}")]
pub struct InvalidImageReference {
    /// The refused text, cut when very long.
    pub value: String,
    /// What is wrong with it.
    pub fault: ReferenceFault,
}

/// What breaks the grammar of a reference. Each one names the offending part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceFault {
    /// Nothing was written.
    #[error("it is empty")]
    Empty,
    /// Longer than [`REFERENCE_LENGTH_MAX`].
    #[error("it has {length} bytes, at most {REFERENCE_LENGTH_MAX} are accepted")]
    TooLong {
        /// Length in bytes.
        length: usize,
    },
    /// It starts with something like `https://`.
    #[error("it starts with the scheme {scheme:?}, write registry/repository:tag only")]
    Scheme {
        /// The scheme with `://`.
        scheme: String,
    },
    /// The part before the first slash is no host.
    #[error("the registry {registry:?} is not a host name or address with an optional port")]
    Registry {
        /// The refused part.
        registry: String,
    },
    /// The port of the registry is not a number from 1 to 65535.
    #[error("the registry port {port:?} is not a number from 1 to 65535")]
    Port {
        /// The refused part.
        port: String,
    },
    /// A registry and nothing behind it.
    #[error("the repository is missing")]
    RepositoryMissing,
    /// The repository has capital letters.
    #[error("the repository {repository:?} must be lower case")]
    UpperCase {
        /// The refused part.
        repository: String,
    },
    /// One element between the slashes of the repository breaks the grammar.
    #[error(
        "the repository element {element:?} must be lower-case letters and digits, separated by \
         one of '.', '_', '__' or any number of '-'"
    )]
    RepositoryElement {
        /// The refused part.
        element: String,
    },
    /// The repository is longer than [`REPOSITORY_LENGTH_MAX`].
    #[error("the repository has {length} bytes, at most {REPOSITORY_LENGTH_MAX} are accepted")]
    RepositoryTooLong {
        /// Length in bytes.
        length: usize,
    },
    /// 64 hexadecimal digits alone mean an image id and cannot be a repository.
    #[error("64 hexadecimal digits are an image id, not a repository")]
    LooksLikeId,
    /// The tag breaks the grammar.
    #[error(
        "the tag {tag:?} must be at most {TAG_LENGTH_MAX} letters, digits, '_', '.' and '-', not \
         starting with '.' or '-'"
    )]
    Tag {
        /// The refused part.
        tag: String,
    },
    /// What follows the `@` is no digest.
    #[error("the digest {digest:?} must be sha256: and 64 lower-case hexadecimal digits")]
    Digest {
        /// The refused part.
        digest: String,
    },
}

/// Error texts stay readable (and bounded) whatever was written.
fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(SHOWN_MAX).collect();
    out.push('…');
    out
}
