//! How commands and snapshots are written down: protobuf of `command.proto`, so that a newer
//! manager reads what an older one wrote.
//!
//! What cannot be read is an error that stops the manager. Skipping a command that others have
//! applied would make this manager's state another one than theirs.

mod command;
mod shared_specs;
mod snapshot;

#[cfg(test)]
mod tests;

pub use command::{CommandError, TimedCommand, decode_command, encode_command};
pub use snapshot::{SnapshotError, read_snapshot, write_snapshot};
