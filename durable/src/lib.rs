//! Small files that survive crashes and versions.
//!
//! [`write_file`] replaces a file so that a crash or a power cut leaves the old or the new content.
//! A [`Format`] is a kind of JSON file that names its version: every version of shoal reads those
//! of all earlier ones ([`Format::upgrade`]) and refuses newer ones by saying so.
//!
//! The crate blocks and knows no runtime, so that everybody can use it, the supervisor of a container
//! too.

mod file;
mod format;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use file::{Lasting, write_file, write_file_as};
pub use format::{Fields, FileError, Format, decode, envelope, read, text, write};
