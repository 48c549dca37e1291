//! What an image may cost before it is refused.

/// Bounds on everything that comes from outside. A layer, manifest or archive that goes beyond one
/// of them is refused with an error that names the bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of one layer, counting both the tar stream and the files' contents.
    pub layer_bytes: u64,
    /// Entries (files, directories, links, ...) of one layer; each costs an inode.
    pub layer_entries: u64,
    /// Total bytes of the paths of one layer's directories, and as many again of its whiteouts:
    /// they are kept in memory until the layer is complete.
    pub directory_path_bytes: usize,
    /// Elements of one path.
    pub path_depth: usize,
    /// Bytes of one path or link target.
    pub path_bytes: usize,
    /// Bytes of one extended tar header (long names, PAX records with extended attributes).
    pub extended_header_bytes: u64,
    /// Layers of one image; overlayfs stacks at most 500.
    pub layers: usize,
    /// Bytes of a manifest or an index. The OCI distribution specification asks registries to
    /// accept 4 MiB.
    pub manifest_bytes: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Images in one archive.
    pub archive_images: usize,
    /// Bytes of an archive, unpacked. A packed one is unpacked into the store's own directory, another one is
    /// read where it is.
    pub archive_bytes: u64,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 32 * GIB,
            layer_entries: 2_000_000,
            directory_path_bytes: 48 << 20,
            path_depth: 256,
            path_bytes: 4095,
            extended_header_bytes: MIB,
            layers: 127,
            manifest_bytes: 4 * MIB,
            config_bytes: 4 * MIB,
            archive_images: 256,
            archive_bytes: 128 * GIB,
        }
    }
}
