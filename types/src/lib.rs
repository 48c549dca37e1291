//! The domain vocabulary of shoal.
//!
//! Everything here is plain data with its rules: ids, names, specs and their validation, objects,
//! the task ladder, placement constraints. The crate is pure: it does no I/O, reads no clock and
//! draws no random number. Protobuf and JSON stop at its door; `shoal-proto` converts.
//!
//! A **spec** is what a user wants and is never rewritten by the system; an **object** is a spec
//! plus an id, versions and what the system added beside it.

pub mod assignment;
pub mod capability;
pub mod constraint;
pub mod error_chain;
pub mod id;
pub mod image_ref;
pub mod join_token;
pub mod level;
pub mod log_filter;
pub mod name;
pub mod object;
pub mod question;
pub mod registry_auth;
pub mod resources;
pub mod signal;
pub mod spec;
pub mod task_state;
pub mod text;
pub mod time;
