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

/// Files of `/proc` that others may stand for, as runc allows them (for lxcfs(1) and its like).
const PROC_FILES: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Why a mount of some kind cannot be at a place, among the kernel's own file systems; `None` when it
/// can. The source is the host's path of a bind.
///
/// Docker's users bind the host's `/dev` and `/sys` or files into them, and put memory below; a volume
/// there, which an image can ask for too, would only hide what holds the container.
#[must_use]
pub fn refused_place(kind: MountKind, source: &str, target: &str) -> Option<String> {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
        parts.map(str::to_owned).collect()
    };
    let place = parts(target);
    let (top, below) = place.split_first()?;
    let bind = kind == MountKind::Bind;
    match (top.as_str(), below.join("/").as_str()) {
        ("proc", "") if bind && parts(source) == ["proc"] => None,
        ("proc", "") => Some("is /proc: expected nothing there but a bind of /proc".to_owned()),
        ("proc", file) if bind && PROC_FILES.contains(&file) => None,
        ("proc", _) => {
            let files = PROC_FILES.join(", ");
            Some(format!("is in /proc: expected nothing there but binds of files to {files}"))
        }
        ("dev" | "sys", "") if bind => None,
        ("dev" | "sys", "") => Some(format!("is /{top}: expected nothing there but a bind")),
        ("dev" | "sys", _) if bind || kind == MountKind::Tmpfs => None,
        ("dev", _) if below.first().is_some_and(|name| name == "shm") => None,
        ("dev", _) => Some("is in /dev: expected a bind, tmpfs, or /dev/shm".to_owned()),
        ("sys", _) => Some("is in /sys: expected a bind or tmpfs".to_owned()),
        _ => None,
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
    /// Whether it fails unless read-only covers every mount below, as it does here in any case.
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
