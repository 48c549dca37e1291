//! Volumes.

use serde::Serialize;

use super::{Driver, Labels, json};

/// A named place for data that outlives tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeSpec {
    /// Unique on its node.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// `local` with Docker's options, or another driver.
    #[serde(flatten, serialize_with = "json::driver_and_options")]
    pub driver: Driver,
}
