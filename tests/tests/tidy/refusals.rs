//! What `shoalctl` refuses because it is not done stands in its tables, and so in docs/unsupported.md: a
//! text that says so stands nowhere else.

use super::{File, code, rust};

/// The tables.
const TABLES: [&str; 3] =
    ["ctl/src/stack/schema.rs", "ctl/src/stack/refused.rs", "ctl/src/tips.rs"];

/// How such a text goes.
const SAYINGS: [&str; 8] = [
    "not supported",
    "unsupported",
    "not implemented",
    "not possible yet",
    "cannot yet",
    "for Windows only",
    "means nothing on",
    "has no meaning",
];

pub(super) fn refusals_outside_tables(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    let of_ctl = |path: &str| path.starts_with("ctl/src/") && !path.contains("/tests");
    for file in rust(files).filter(|f| of_ctl(&f.path) && !TABLES.contains(&f.path.as_str())) {
        // Tests that stand in the file of what they test are at its end.
        let tests = code(file).find(|(_, line)| line.trim() == "mod tests {").map(|(n, _)| n);
        let told =
            code(file).filter(|(n, line)| line.contains('"') && tests.is_none_or(|t| *n < t));
        for (n, line) in told {
            for saying in SAYINGS.iter().filter(|saying| line.contains(*saying)) {
                wrong.push(format!(
                    "{}:{n}: {saying:?} is said by a row of {}",
                    file.path, TABLES[1]
                ));
            }
        }
    }
    wrong
}

#[test]
fn what_is_not_supported_is_said_by_tables_alone() {
    let files = super::tree();
    for table in TABLES {
        assert!(files.iter().any(|f| f.path == table), "{table} is no file");
    }
    super::hold(&refusals_outside_tables(&files));
}

#[test]
fn a_refusal_outside_of_the_tables_is_found() {
    let planted = [
        ("ctl/src/stack/port.rs", "let why = \"ranges are not supported yet\";", true),
        ("ctl/src/commands/node.rs", "Err(\"{name} is for Windows only\")", true),
        ("ctl/src/stack/port.rs", "// \"ranges\" are not supported", false),
        ("ctl/src/stack/schema.rs", "const LATER: &str = \"is not supported yet\";", false),
        ("ctl/src/a.rs", "mod tests {\n    assert!(x.contains(\"not supported\"));", false),
        ("agent/src/a.rs", "\"not supported\"", false),
    ];
    for (path, text, found) in planted {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(!refusals_outside_tables(&[file]).is_empty(), found, "{text}");
    }
}
