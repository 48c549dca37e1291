//! Images: pulled or loaded, verified, and unpacked into overlayfs layers.
//!
//! ```text
//! store       the handle: what there is, what it means, what may go      index pins files
//! pull        reference -> manifest -> configuration -> layers           registry manifest search platform
//! load        the same from an OCI layout or a `docker save` archive
//! layers      one layer: fetched once, unpacked, verified, put in place  feed turns
//! collector   removes now and then what no task has used for a while
//! unpack      tar stream -> overlayfs lower directory                    tar_stream pax compression hashing
//! ```
//!
//! Everything from outside is bounded by [`Limits`] and verified by digest before it is listed.
//! Downloads are async, unpacking runs on blocking threads, and no layer is ever held in memory.

mod collector;
mod compression;
mod error;
mod feed;
mod files;
mod hashing;
mod index;
mod layers;
mod limits;
mod load;
mod manifest;
mod pax;
mod pins;
mod platform;
mod pull;
mod search;
mod store;
mod tar_stream;
#[cfg(feature = "testing")]
pub mod testing;
mod turns;
mod unpack;

pub use collector::collect_regularly;
pub use error::{ImageError, LayerError, StoreError};
pub use limits::Limits;
pub use load::LoadError;
pub use manifest::{ImageHealthcheck, ManifestError};
pub use pax::PaxError;
pub use pins::{Pin, Pins};
pub use platform::{Platform, WrongPlatform};
pub use pull::PullProgress;
pub use shoal_agent_planning::image::PullPolicy;
pub use shoal_registry::{RegistryAuth, RegistryConfig, RegistryError};
pub use store::{GarbageReport, Held, Image, ImageStore, StoreConfig};
pub use tar_stream::TarError;
pub use turns::Parallel;
pub use unpack::{NameFault, UnpackError};

#[cfg(test)]
mod slow_tests;
