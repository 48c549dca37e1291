//! Mounts of a container.

use serde::Serialize;

use super::{Driver, Labels};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mount {
    /// What is mounted.
    #[serde(rename = "Type")]
    pub kind: MountKind,
    /// A path, a volume's name or an image; empty for an anonymous volume and for tmpfs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// Whether it cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Docker Desktop's hint; means nothing on Linux.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consistency: String,
    /// For [`MountKind::Bind`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// For [`MountKind::Volume`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeMountOptions>,
    /// For [`MountKind::Image`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// For [`MountKind::Tmpfs`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

impl Mount {
    /// Writable and without options.
    #[must_use]
    pub fn new(kind: MountKind, source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            kind,
            source: source.into(),
            target: target.into(),
            read_only: false,
            consistency: String::new(),
            bind_options: None,
            volume_options: None,
            image_options: None,
            tmpfs_options: None,
        }
    }
}

/// Kinds of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// A Windows pipe.
    Npipe,
    /// A cluster (CSI) volume.
    Cluster,
    /// The files of an image.
    Image,
}

impl MountKind {
    /// Docker's name of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Npipe => "npipe",
            Self::Cluster => "cluster",
            Self::Image => "image",
        }
    }
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave` or `rslave`; `rprivate` if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Whether mounts below the source stay behind.
    pub non_recursive: bool,
    /// Whether a missing source is made as a directory.
    pub create_mountpoint: bool,
    /// Whether read-only covers only the top mount.
    pub read_only_non_recursive: bool,
    /// Whether it fails unless read-only covers every mount below.
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeMountOptions {
    /// Whether an empty volume stays empty instead of taking the image's files.
    pub no_copy: bool,
    /// Labels of the volume if this mount creates it.
    pub labels: Labels,
    /// Only this directory of the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// How the volume is made if this mount creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<Driver>,
}

/// Options of an image mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Only this directory of the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// The most bytes it holds; zero for the kernel's default, half of memory.
    pub size_bytes: u64,
    /// Permission bits; 01777 if zero.
    pub mode: u32,
    /// Further options, each a key and perhaps a value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Vec<String>>,
}
