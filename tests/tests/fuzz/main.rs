//! Inputs that nobody has thought of, for everything that is read from outside or from a disk.
//!
//! Each target has a corpus of real inputs (`corpus/`, and the golden bytes of stored formats), makes new
//! ones out of them that keep most of their structure, and holds what is read to more than "it did not
//! panic". Whatever gives an answer that was not seen before joins the corpus of the run.
//!
//! | variable | |
//! |---|---|
//! | `SHOAL_FUZZ_SECONDS` | how long each target runs, with inputs that are new each time; else 5, with the same inputs in the same order |
//! | `SHOAL_FUZZ_SEED` | runs the same inputs again |
//! | `SHOAL_FUZZ_INPUT` | a file: this input alone |
//!
//! A failure says the seed and writes the input, made as small as it gets, to a file. Put into the
//! target's corpus it is tried first, for ever.
//!
//! Not libFuzzer, AFL or honggfuzz: they need a nightly compiler or a C++ runtime to be led by coverage,
//! and what stable Rust gives them without it (bolero's random engine) neither mutates a corpus nor
//! knows an input's structure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says what it did"
)]

mod archives;
mod bytes;
mod driver;
mod json;
mod layers;
mod logs;
mod meter;
mod names;
mod packets;
mod protobuf;
mod questions;
mod stacks;
mod stored;
mod supervisor;
mod tars;
mod text;
mod tunnel;
