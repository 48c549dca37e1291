//! Mounts of a container.

use shoal_types::spec::{
    BindOptions, ImageOptions, Mount, MountKind, TmpfsOptions, VolumeMountOptions,
};

use super::field;
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(Mount {
    kind: Choice,
    source: Same,
    target: Same,
    read_only: Same,
    consistency: Same,
    bind_options: OptionalMessage,
    volume_options: OptionalMessage,
    image_options: OptionalMessage,
    tmpfs_options: OptionalMessage,
});

choice!(MountKind { Bind, Volume, Tmpfs, Npipe, Cluster, Image });

message!(BindOptions {
    propagation: Same,
    non_recursive: Same,
    create_mountpoint: Same,
    read_only_non_recursive: Same,
    read_only_force_recursive: Same,
});

message!(VolumeMountOptions {
    no_copy: Same,
    labels: Same,
    subpath: Same,
    driver_config: OptionalMessage,
});

message!(ImageOptions { subpath: Same });

impl From<&TmpfsOptions> for pb::TmpfsOptions {
    fn from(value: &TmpfsOptions) -> Self {
        let TmpfsOptions { size_bytes, mode, options } = value;
        let options = options.iter().map(|words| pb::TmpfsOption { words: words.clone() });
        Self { size_bytes: *size_bytes, mode: *mode, options: options.collect() }
    }
}

impl TryFrom<pb::TmpfsOptions> for TmpfsOptions {
    type Error = InvalidMessage;

    fn try_from(wire: pb::TmpfsOptions) -> Result<Self, InvalidMessage> {
        let pb::TmpfsOptions { size_bytes, mode, options } = wire;
        Ok(Self { size_bytes, mode, options: options.into_iter().map(|o| o.words).collect() })
    }
}

by_value!(TmpfsOptions => pb::TmpfsOptions);
