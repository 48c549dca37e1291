//! Images for tests and the demo, built from bytes and pushed to a registry on this host.
//!
//! ```no_run
//! use shoal_tests::image::{ImageBuilder, LocalRegistry};
//!
//! let registry = LocalRegistry::start()?;
//! let pushed = ImageBuilder::new()
//!     .file("/bin/busybox", &std::fs::read("/bin/busybox")?, 0o755)
//!     .symlink("/bin/sh", "busybox")
//!     .entrypoint(&["/bin/sh", "-c"])
//!     .build()?
//!     .push(registry.address(), "demo/shell", "1")?;
//! # anyhow::Ok(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

mod push;
mod registry;

pub use registry::LocalRegistry;

/// How layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// Not at all.
    None,
    /// As most layers there are.
    #[default]
    Gzip,
    /// As newer builders do.
    Zstd,
}

/// Whose media types a manifest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// The OCI image specification's.
    #[default]
    Oci,
    /// Docker's, schema version 2.
    Docker,
}

/// Builds an image, layer by layer. Equal input gives equal digests.
#[derive(Debug, Clone, Default)]
pub struct ImageBuilder {
    layers: Vec<Vec<u8>>,
    current: Vec<u8>,
    known_dirs: BTreeSet<String>,
    config: BTreeMap<String, Value>,
    env: Vec<String>,
    labels: BTreeMap<String, String>,
    packing: Packing,
    family: Family,
    platform: Option<(String, String)>,
}

/// An image in memory: its documents and packed layers.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration, whose digest is the image's id.
    pub config: Blob,
    /// Packed layers, lowest first.
    pub layers: Vec<Blob>,
    /// Digests of the layers before packing, `sha256:…`, lowest first.
    pub diff_ids: Vec<String>,
    platform: (String, String),
}

/// Some content and how it is called.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The content.
    pub bytes: Vec<u8>,
    /// `sha256:…` of the content.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
}

impl Blob {
    fn new(bytes: Vec<u8>, media_type: &str) -> Self {
        let digest = digest_of(&bytes);
        Self { bytes, digest, media_type: media_type.to_owned() }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:…` of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl ImageBuilder {
    /// An image with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file owned by root; directories above it are made.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: &[u8], mode: u32) -> Self {
        self.parents(path);
        self.append(&header(EntryType::Regular, path, "", mode), bytes);
        self
    }

    /// A directory owned by root.
    #[must_use]
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.parents(path);
        self.known_dirs.insert(path.trim_matches('/').to_owned());
        self.append(&header(EntryType::Directory, path, "", mode), &[]);
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.parents(path);
        self.append(&header(EntryType::Symlink, path, target, 0o777), &[]);
        self
    }

    /// Hides a path of the layers beneath.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.file(&format!("{dir}/.wh.{name}"), b"", 0)
    }

    /// Everything below a directory of this host: files, directories and symbolic links, with
    /// their modes, owned by root.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(mut self, from: &Path, to: &str) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut entries: Vec<_> = fs::read_dir(from)
            .and_then(Iterator::collect)
            .with_context(|| format!("read {}", from.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let inside = format!("{}/{}", to.trim_end_matches('/'), entry.file_name().display());
            let stat = fs::symlink_metadata(&path)?;
            let mode = stat.permissions().mode() & 0o7777;
            if stat.is_dir() {
                self = self.dir(&inside, mode).tree(&path, &inside)?;
            } else if stat.is_symlink() {
                self = self.symlink(&inside, &fs::read_link(&path)?.display().to_string());
            } else {
                self = self.file(&inside, &fs::read(&path)?, mode);
            }
        }
        Ok(self)
    }

    /// Ends the current layer; what follows is in the next.
    #[must_use]
    pub fn next_layer(mut self) -> Self {
        self.finish_layer();
        self
    }

    /// A whole layer, as an uncompressed tar archive of any kind.
    #[must_use]
    pub fn raw_layer(mut self, tar: Vec<u8>) -> Self {
        self.finish_layer();
        self.layers.push(tar);
        self
    }

    /// The entrypoint.
    #[must_use]
    pub fn entrypoint(self, argv: &[&str]) -> Self {
        self.set("Entrypoint", json!(argv))
    }

    /// The command.
    #[must_use]
    pub fn cmd(self, argv: &[&str]) -> Self {
        self.set("Cmd", json!(argv))
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// User and group: `name`, `uid`, `uid:gid`, ...
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    /// The working directory.
    #[must_use]
    pub fn workdir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The signal that stops it.
    #[must_use]
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    /// A path that gets a volume of its own.
    #[must_use]
    pub fn volume(self, path: &str) -> Self {
        self.set("Volumes", json!({ path: {} }))
    }

    /// A port, as `8080/tcp`.
    #[must_use]
    pub fn expose(self, port: &str) -> Self {
        self.set("ExposedPorts", json!({ port: {} }))
    }

    /// Docker's health check, as its JSON object (`Test`, `Interval` in nanoseconds, ...).
    #[must_use]
    pub fn healthcheck(self, check: Value) -> Self {
        self.set("Healthcheck", check)
    }

    /// How layers are packed.
    #[must_use]
    pub fn packing(self, packing: Packing) -> Self {
        Self { packing, ..self }
    }

    /// Whose media types are used.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// Operating system and architecture, if not this host's.
    #[must_use]
    pub fn platform(self, os: &str, architecture: &str) -> Self {
        Self { platform: Some((os.to_owned(), architecture.to_owned())), ..self }
    }

    /// The finished image.
    ///
    /// # Errors
    /// When a layer cannot be packed.
    pub fn build(mut self) -> Result<BuiltImage> {
        self.finish_layer();
        let platform = self.platform.clone().unwrap_or_else(host_platform);
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| digest_of(layer)).collect();
        let layers: Vec<Blob> =
            self.layers.iter().map(|layer| self.pack(layer)).collect::<Result<_>>()?;
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "os": platform.0,
            "architecture": platform.1,
            "config": self.container_config(),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (config_type, manifest_type) = match self.family {
            Family::Oci => (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
            ),
            Family::Docker => (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            ),
        };
        let config = Blob::new(serde_json::to_vec(&config)?, config_type);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(serde_json::to_vec(&manifest)?, manifest_type);
        Ok(BuiltImage { manifest, config, layers, diff_ids, platform })
    }

    fn container_config(&self) -> Value {
        let mut config = self.config.clone();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let has_path = self.env.iter().any(|entry| entry.starts_with("PATH="));
        let mut env = if has_path { Vec::new() } else { vec![path] };
        env.extend(self.env.iter().cloned());
        config.insert("Env".to_owned(), json!(env));
        if !self.labels.is_empty() {
            config.insert("Labels".to_owned(), json!(self.labels));
        }
        json!(config)
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    fn parents(&mut self, path: &str) {
        let path = path.trim_matches('/').to_owned();
        for (at, _) in path.match_indices('/') {
            let dir = &path[..at];
            if self.known_dirs.insert(dir.to_owned()) {
                self.append(&header(EntryType::Directory, dir, "", 0o755), &[]);
            }
        }
    }

    fn append(&mut self, header: &[u8], body: &[u8]) {
        // The size comes last, as it is the body that knows it.
        let mut block = Header::from_byte_slice(&header[header.len() - 512..]).clone();
        block.set_size(body.len() as u64);
        block.set_cksum();
        self.current.extend_from_slice(&header[..header.len() - 512]);
        self.current.extend_from_slice(block.as_bytes());
        self.current.extend_from_slice(body);
        pad(&mut self.current);
    }

    fn finish_layer(&mut self) {
        if !self.current.is_empty() {
            let mut layer = std::mem::take(&mut self.current);
            layer.extend_from_slice(&[0; 1024]);
            self.layers.push(layer);
        }
        self.known_dirs.clear();
    }

    fn pack(&self, layer: &[u8]) -> Result<Blob> {
        let (suffix, bytes) = match self.packing {
            Packing::None => ("", layer.to_vec()),
            Packing::Gzip => {
                let level = flate2::Compression::new(6);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(layer)?;
                ("gzip", encoder.finish()?)
            }
            Packing::Zstd => ("zstd", zstd::encode_all(layer, 3)?),
        };
        let media_type = match (self.family, suffix) {
            (Family::Oci, "") => "application/vnd.oci.image.layer.v1.tar".to_owned(),
            (Family::Oci, suffix) => format!("application/vnd.oci.image.layer.v1.tar+{suffix}"),
            (Family::Docker, "") => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
            (Family::Docker, suffix) => {
                format!("application/vnd.docker.image.rootfs.diff.tar.{suffix}")
            }
        };
        Ok(Blob::new(bytes, &media_type))
    }
}

impl BuiltImage {
    /// Puts other bytes in a packed layer's place, under their own digest: what the configuration
    /// says of the layer no longer fits.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn replace_layer(&mut self, index: usize, bytes: Vec<u8>) -> Result<()> {
        let layer = self.layers.get_mut(index).context("there is no such layer")?;
        *layer = Blob::new(bytes, &layer.media_type);
        let mut manifest: Value = serde_json::from_slice(&self.manifest.bytes)?;
        manifest["layers"] = self.layers.iter().map(Blob::descriptor).collect();
        self.manifest = Blob::new(serde_json::to_vec(&manifest)?, &self.manifest.media_type);
        Ok(())
    }

    /// `sha256:…` of the configuration.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// Writes an OCI layout with this one image, under `name` if that is not empty.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write_layout(&self, dir: &Path, name: &str) -> Result<()> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            fs::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.bytes)?;
        }
        let mut entry = self.manifest.descriptor();
        entry["platform"] = self.platform_json();
        if !name.is_empty() {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(dir.join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        Ok(())
    }

    /// Pushes to a registry (`host:port`, plain http); returns the manifest's digest.
    ///
    /// # Errors
    /// When the registry refuses, with what it says.
    pub fn push(&self, registry: &str, repository: &str, tag: &str) -> Result<String> {
        self.push_as(registry, repository, tag, None)
    }

    /// The same with `user:password`.
    ///
    /// # Errors
    /// When the registry refuses, with what it says.
    pub fn push_as(
        &self,
        registry: &str,
        repository: &str,
        tag: &str,
        credentials: Option<&str>,
    ) -> Result<String> {
        let target = push::Target { registry, repository, credentials };
        for blob in self.layers.iter().chain([&self.config]) {
            target.blob(blob)?;
        }
        target.manifest(&self.manifest, tag)?;
        Ok(self.manifest.digest.clone())
    }

    fn platform_json(&self) -> Value {
        json!({"os": self.platform.0, "architecture": self.platform.1})
    }
}

/// Pushes images for several platforms as one; returns the index's digest.
///
/// # Errors
/// When the registry refuses, with what it says.
pub fn push_index(
    registry: &str,
    repository: &str,
    tag: &str,
    family: Family,
    images: &[&BuiltImage],
) -> Result<String> {
    let mut entries = Vec::new();
    for image in images {
        image.push(registry, repository, &image.manifest.digest)?;
        let mut entry = image.manifest.descriptor();
        entry["platform"] = image.platform_json();
        entries.push(entry);
    }
    let media_type = match family {
        Family::Oci => "application/vnd.oci.image.index.v1+json",
        Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let index = Blob::new(serde_json::to_vec(&index)?, media_type);
    push::Target { registry, repository, credentials: None }.manifest(&index, tag)?;
    Ok(index.digest)
}

/// This host in the words of the OCI image specification.
fn host_platform() -> (String, String) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ("linux".to_owned(), architecture.to_owned())
}

/// A header block, with a PAX record before it when the path is too long for it.
fn header(kind: EntryType, path: &str, link: &str, mode: u32) -> Vec<u8> {
    let path = path.trim_start_matches('/');
    let mut bytes = Vec::new();
    if path.len() > 100 || link.len() > 100 {
        let mut builder = tar::Builder::new(Vec::new());
        let records = [("path", path.as_bytes()), ("linkpath", link.as_bytes())];
        let records = records.into_iter().filter(|(_, value)| !value.is_empty());
        // Writing to memory cannot fail.
        if builder.append_pax_extensions(records).is_ok()
            && let Ok(written) = builder.into_inner()
        {
            bytes.extend_from_slice(&written[..written.len() - 1024]);
        }
    }
    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    for (field, text) in [(&mut fields.name, path), (&mut fields.linkname, link)] {
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text.as_bytes()[..length]);
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_704_067_200);
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}
