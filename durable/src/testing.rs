//! Golden files: what each version of each format has written, kept for ever.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::format::{FileError, Format, decode, text};

/// Checks the golden files of a format in `dir`, `NAME.vVERSION.json`: there is one of the version that
/// is written today, it is read, like those of all earlier versions, as `expected`, and it is exactly
/// what is written; and a file of the next version is refused.
///
/// # Panics
/// When one of this is not so. It is the code that has to change then, not the file; a new version needs
/// a new file, and the text says what is to be in it.
pub fn check_golden<F: Format>(dir: &Path, expected: &F::Content)
where
    F::Content: PartialEq + Debug,
{
    let written = text::<F>(expected).expect("can be written");
    let written = String::from_utf8(written).expect("JSON is text");
    let parse = |text: &str| serde_json::from_str(text).expect("JSON");
    check_golden_text::<F>(dir, "json", expected, &written, parse);
}

/// As [`check_golden`], for a file in another notation, which `parse` reads.
///
/// # Panics
/// As [`check_golden`].
pub fn check_golden_text<F: Format>(
    dir: &Path,
    extension: &str,
    expected: &F::Content,
    written: &str,
    parse: impl Fn(&str) -> Value,
) where
    F::Content: PartialEq + Debug,
{
    let name = F::NAME;
    let file = |version: u32| dir.join(format!("{name}.v{version}.{extension}"));
    let today = file(F::VERSION);
    let golden = fs::read_to_string(&today)
        .unwrap_or_else(|e| panic!("{}: {e}; what is written is\n{written}", today.display()));
    assert_eq!(golden, written, "{}", today.display());
    for version in 0..=F::VERSION {
        let path = file(version);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let read = decode::<F>(&path, parse(&text));
        let read = read.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(read, *expected, "{}", path.display());
    }
    let own = serde_json::to_value(expected).expect("can be written");
    assert!(own.get("version").is_none(), "{name}: the content has a version of its own");
    let mut newer = parse(written);
    newer["version"] = (F::VERSION + 1).into();
    let refused = decode::<F>(&today, newer);
    assert!(matches!(refused, Err(FileError::Newer { .. })), "{name}: a newer one is not refused");
}
