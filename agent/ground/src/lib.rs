//! What the crates of an agent stand on.

pub mod backoff;
pub mod blocking;
pub mod disk;
pub mod mounts;
#[cfg(feature = "testing")]
pub mod testing;
