//! Decisions of a node. Pure: (assigned, observed, now) -> ordered actions.

pub mod health;
pub mod image;
pub mod lower;
pub mod network;
pub mod node;
pub mod oci;
pub mod overlay;
pub mod payload;
pub mod prune;
pub mod segment;
pub mod task;
pub mod tunnel;
pub mod usage;
pub mod verify;
pub mod volume;
pub mod zone;

#[cfg(test)]
mod testing;
