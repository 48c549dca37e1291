//! What tests of other crates need.

pub use crate::oci::logs::lines as log_lines;
