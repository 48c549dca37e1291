//! How managers say to a node, and it understands, that it was removed from the cluster.

use tonic::Status;
use tonic::metadata::MetadataValue;

/// The key of what a refusal says beside its code and its words.
const KEY: &str = "shoal-refusal";
const REMOVED: &str = "removed";

/// Marks a refusal as final: the cluster itself, and not one manager that may not know better, says
/// that its caller was removed. Whoever hears it gives up what it holds for the cluster.
#[must_use]
pub fn removed(mut refusal: Status) -> Status {
    refusal.metadata_mut().insert(KEY, MetadataValue::from_static(REMOVED));
    refusal
}

/// Whether a refusal is marked by [`removed`].
#[must_use]
pub fn is_removed(status: &Status) -> bool {
    status.metadata().get(KEY).is_some_and(|value| value == REMOVED)
}
