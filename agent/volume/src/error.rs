//! What can go wrong with volumes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shoal_agent_planning::volume::InvalidVolume;
use thiserror::Error;

/// Why a call of a [`VolumeDriver`](super::VolumeDriver) failed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum VolumeError {
    #[error(transparent)]
    Invalid(#[from] InvalidVolume),
    #[error("no volume `{name}` on this node")]
    Unknown { name: String },
    #[error("volume `{name}` exists with other options")]
    Differs { name: String },
    #[error("volume `{name}` is in use by {}", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("`{user}` is no id of a container")]
    User { user: String },
    #[error("bind source `{}` must be an absolute path without `..`", path.display())]
    SourceNotAbsolute { path: PathBuf },
    #[error("bind source `{}`", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("bind source `{}` did not answer within {patience:?}", path.display())]
    SourceSilent { path: PathBuf, patience: Duration },
    #[error(
        "bind source `{}` waited {patience:?} for its turn: its file system, at `{}`, did not answer",
        path.display(),
        at.display()
    )]
    SourceWaits { path: PathBuf, patience: Duration, at: PathBuf },
    #[error(
        "bind source `{}` waited {patience:?} for its turn: too many other file systems did not answer",
        path.display()
    )]
    SourceCrowded { path: PathBuf, patience: Duration },
    #[error("subpath `{subpath}` must be relative and without `..`")]
    SubpathInvalid { subpath: String },
    #[error("subpath `{subpath}` of `{}`", path.display())]
    Subpath { subpath: String, path: PathBuf, source: io::Error },
    #[error("{what} `{}`", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] shoal_durable::FileError),
    #[error("the image's files at `{}` are nested deeper than {limit}", target.display())]
    TooDeep { target: PathBuf, limit: usize },
    #[error("a helper thread of the volume driver ended early")]
    HelperGone,
}

impl VolumeError {
    /// Whether asking again without a change by the user is pointless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_)
                | Self::Differs { .. }
                | Self::SourceNotAbsolute { .. }
                | Self::SubpathInvalid { .. }
                | Self::TooDeep { .. }
        )
    }

    /// For `map_err`.
    pub(super) fn file<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source: source.into() }
    }
}
