//! What is mounted into a container, before anybody has looked at the host.

use std::path::PathBuf;

use shoal_types::assignment::AssignedTask;
pub use shoal_types::question::ANONYMOUS;
use shoal_types::spec::{ContainerSpec, Mount, MountKind, VolumeMountOptions, refused_place};

use super::{ImageDefaults, LowerError, invalid, unsupported};
use crate::volume::VolumeConfig;

/// Permission bits of a tmpfs that says nothing: everybody, sticky.
const TMPFS_MODE: u32 = 0o1777;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// Absolute place inside.
    pub target: PathBuf,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// What is there.
    pub source: Source,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// Whether a missing one is made as a directory.
        create: bool,
        /// The field it comes from, for messages.
        field: String,
    },
    /// A volume of this node.
    Volume {
        /// Which, and how it is made.
        config: VolumeConfig,
        /// Whether it takes the image's files when it is empty.
        copy: bool,
        /// Whether it goes with the task.
        anonymous: bool,
    },
    /// Memory.
    Tmpfs {
        /// The most it holds, in bytes.
        size_bytes: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
    },
}

/// The user's mounts, then the image's volumes at places that nobody has taken.
pub(super) fn plan(
    task: &AssignedTask,
    spec: &ContainerSpec,
    image: &ImageDefaults,
) -> Result<Vec<PlannedMount>, LowerError> {
    let mut planned = Vec::new();
    for (i, mount) in spec.mounts.iter().enumerate() {
        let source = source(task, i, mount)?;
        let field = format!("mounts[{i}].target");
        let target = target(&field, mount.kind, &mount.source, &mount.target)?;
        planned.push(PlannedMount { target, read_only: mount.read_only, source });
    }
    for (i, place) in image.volumes.iter().enumerate() {
        let target = target("volume of the image", MountKind::Volume, "", place)?;
        if planned.iter().any(|m: &PlannedMount| m.target == target) {
            continue;
        }
        let config = anonymous(task, &format!("i{i}"), None);
        let source = Source::Volume { config, copy: true, anonymous: true };
        planned.push(PlannedMount { target, read_only: false, source });
    }
    Ok(planned)
}

fn target(field: &str, kind: MountKind, source: &str, text: &str) -> Result<PathBuf, LowerError> {
    let plain = text.starts_with('/') && !text.split('/').any(|part| part == "..");
    // Through the components, so that a trailing slash makes no difference.
    let path: PathBuf = PathBuf::from(text).components().collect();
    if !plain || path.parent().is_none() {
        return Err(invalid(field, text, "is not an absolute path below the root without '..'"));
    }
    match refused_place(kind, source, text) {
        Some(why) => Err(invalid(field, text, why)),
        None => Ok(path),
    }
}

fn source(task: &AssignedTask, i: usize, mount: &Mount) -> Result<Source, LowerError> {
    let field = |name: &str| format!("mounts[{i}].{name}");
    match mount.kind {
        MountKind::Bind => {
            let options = mount.bind_options.clone().unwrap_or_default();
            if !matches!(options.propagation.as_str(), "" | "rprivate") {
                let what = format!("propagation {}", options.propagation);
                return Err(unsupported(field("bind_options.propagation"), what));
            }
            let reach = options.non_recursive || options.read_only_non_recursive;
            if reach {
                return Err(unsupported(field("bind_options"), "choosing how far a bind reaches"));
            }
            Ok(Source::Bind {
                path: PathBuf::from(&mount.source),
                create: options.create_mountpoint,
                field: field("source"),
            })
        }
        MountKind::Volume => {
            let options = mount.volume_options.as_ref();
            if options.is_some_and(|o| !o.subpath.is_empty()) {
                return Err(unsupported(field("volume_options.subpath"), "a volume's subpath"));
            }
            let copy = !options.is_some_and(|o| o.no_copy);
            if mount.source.is_empty() {
                let config = anonymous(task, &format!("m{i}"), options);
                return Ok(Source::Volume { config, copy, anonymous: true });
            }
            let config = VolumeConfig::of_mount(&mount.source, options);
            Ok(Source::Volume { config, copy, anonymous: false })
        }
        MountKind::Tmpfs => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            if !options.options.is_empty() {
                let what = "further tmpfs options";
                return Err(unsupported(field("tmpfs_options.options"), what));
            }
            Ok(Source::Tmpfs {
                size_bytes: Some(options.size_bytes).filter(|size| *size != 0),
                mode: if options.mode == 0 { TMPFS_MODE } else { options.mode },
            })
        }
        MountKind::Npipe | MountKind::Cluster | MountKind::Image => {
            Err(unsupported(field("type"), mount.kind.as_str()))
        }
    }
}

/// Named after the task, so that whoever cleans up after it finds it without a record.
fn anonymous(
    task: &AssignedTask,
    which: &str,
    options: Option<&VolumeMountOptions>,
) -> VolumeConfig {
    let mut config = VolumeConfig::of_mount(format!("{}-{which}", task.id), options);
    config.labels.insert(ANONYMOUS.to_owned(), task.id.to_string());
    config
}
