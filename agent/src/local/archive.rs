//! Image archives on their way in: from a stream to a file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_proto::v1::LoadImageRequest;
use tokio::io::AsyncWriteExt as _;
use tonic::{Status, Streaming};

/// The largest archive, in bytes.
const MAX_ARCHIVE: u64 = 32 << 30;
/// The longest silence of a sender.
const PATIENCE: Duration = Duration::from_secs(60);

/// A received archive; dropping it removes the file.
pub(super) struct Archive(PathBuf);

impl Archive {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a received archive");
        }
    }
}

/// Makes the directory for archives and removes what a killed agent has left there.
pub(super) fn prepare(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for entry in std::fs::read_dir(dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

pub(super) async fn receive(
    dir: &Path,
    mut pieces: Streaming<LoadImageRequest>,
) -> Result<Archive, Status> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(format!("{}.tar", NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path).await;
    let mut file = file.map_err(|error| refused(&error))?;
    let archive = Archive(path);
    let mut size: u64 = 0;
    loop {
        let piece = match tokio::time::timeout(PATIENCE, pieces.message()).await {
            Ok(piece) => piece?,
            Err(_) => {
                let why = format!("no piece of the archive within {PATIENCE:?}");
                return Err(Status::deadline_exceeded(why));
            }
        };
        let Some(LoadImageRequest { data }) = piece else { break };
        size = size.saturating_add(data.len() as u64);
        if size > MAX_ARCHIVE {
            let why = format!("the archive is larger than {} GiB", MAX_ARCHIVE >> 30);
            return Err(Status::resource_exhausted(why));
        }
        file.write_all(&data).await.map_err(|error| refused(&error))?;
    }
    if size == 0 {
        return Err(Status::invalid_argument("the archive is empty"));
    }
    file.flush().await.map_err(|error| refused(&error))?;
    Ok(archive)
}

fn refused(error: &io::Error) -> Status {
    let message = format!("cannot keep the archive: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Status::resource_exhausted(message)
        }
        _ => Status::internal(message),
    }
}
