//! How it is known that nothing came of a call, so that it may be made again, of another manager.

use std::error::Error;

use tonic::metadata::MetadataValue;
use tonic::{ConnectError, Status};

/// The key of what such a refusal says beside its code and its words.
const KEY: &str = "shoal-undone";

/// Marks a refusal as one of a manager that has done nothing of what was asked, because it does not lead
/// or cannot tell: another one may.
#[must_use]
pub fn undone(mut refusal: Status) -> Status {
    refusal.metadata_mut().insert(KEY, MetadataValue::from_static("yes"));
    refusal
}

/// Whether a refusal is marked by [`undone`].
#[must_use]
pub fn is_undone(status: &Status) -> bool {
    status.metadata().contains_key(KEY)
}

/// Whether a call has failed before it was sent, as no connection could be made.
#[must_use]
pub fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}
