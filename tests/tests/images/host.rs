//! What every test here needs.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shoal_agent_image::{
    Image, ImageError, ImageStore, PullPolicy, RegistryAuth, RegistryConfig, StoreConfig,
};
use shoal_tests::image::ImageBuilder;
use shoal_types::image_ref::ImageReference;
use tempfile::TempDir;

/// A store in a directory of its own.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) store: ImageStore,
}

/// As in production, but with less patience.
pub(crate) fn config() -> StoreConfig {
    StoreConfig {
        registries: RegistryConfig {
            attempts: 2,
            first_retry: Duration::from_millis(10),
            connect_timeout: Duration::from_secs(2),
            ..RegistryConfig::default()
        },
        ..StoreConfig::default()
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = ImageStore::open(&dir.path().join("images"), config()).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Image, ImageError> {
        self.ensure(reference, PullPolicy::Missing, None).await
    }

    pub(crate) async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
    ) -> Result<Image, ImageError> {
        let held = self.store.ensure(&parse(reference), policy, auth, None).await?;
        Ok(Image::clone(&held.image))
    }

    /// Directories that are still under construction.
    pub(crate) fn leftovers(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("images/tmp")).unwrap().count()
    }

    pub(crate) fn layers(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("images/layers")).unwrap().count()
    }
}

pub(crate) fn parse(reference: &str) -> ImageReference {
    reference.parse().unwrap()
}

/// The error and everything behind it, as people see it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Two small layers: the second changes one file and hides another.
pub(crate) fn two_layers() -> ImageBuilder {
    ImageBuilder::new()
        .file("/etc/app.conf", b"old", 0o644)
        .file("/etc/gone", b"x", 0o600)
        .next_layer()
        .file("/etc/app.conf", b"new", 0o640)
        .whiteout("/etc/gone")
        .entrypoint(&["/bin/app"])
        .env("MODE", "test")
}

pub(crate) fn read(image: &Image, layer: usize, path: &str) -> Vec<u8> {
    std::fs::read(image.layers[layer].join(path)).unwrap()
}

/// Runs a program and fails with what it said.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A mount that goes away with the test.
pub(crate) struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    pub(crate) fn new(kind: &str, options: &str, at: &'a Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", kind, "-o", options, kind, at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}
