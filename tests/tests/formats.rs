//! Everything that is stored has golden bytes: what each version has written is kept in the tree, and read
//! for ever. This finds what has none; the tests beside the formats read them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const SKIPPED: [&str; 3] = [".git", "target", "proptest-regressions"];

/// What is stored as protobuf, as `proto/src/convert/tests/numbers.rs` lists it, and a golden file of it.
const MESSAGES: [(&str, &str); 9] = [
    ("LogEntry", "entry_membership.v1.hex"),
    ("LogState", "state.v1.hex"),
    ("Command", "create_cluster.hex"),
    ("SnapshotHeader", "snapshot.v1.hex"),
    ("SnapshotRecord", "snapshot_users.hex"),
    ("LedgerTask", "ledger_task.v1.hex"),
    ("LedgerNetworks", "ledger_networks.v1.hex"),
    ("LedgerTerm", "ledger_term.v1.hex"),
    ("LedgerTold", "ledger_told.v1.hex"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A kind of file with a version, as its source declares it.
#[derive(Debug, PartialEq)]
struct Declared {
    kind: String,
    name: String,
    version: u32,
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The formats that a source file declares outside its tests.
fn declared(source: &str) -> Vec<Declared> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let of = |part: &str| {
        let kind = part.split([' ', '{']).next()?.to_owned();
        let name = between(part, "const NAME: &'static str = \"", "\"")?.to_owned();
        let version = between(part, "const VERSION: u32 = ", ";")?.parse().ok()?;
        Some(Declared { kind, name, version })
    };
    source.split("impl Format for ").skip(1).map(|part| of(part).expect("a whole format")).collect()
}

/// What a format lacks: a golden file of its version, or a test that reads its files.
fn lacking(format: &Declared, source: &str, golden: &BTreeSet<String>) -> Vec<String> {
    let Declared { kind, name, version } = format;
    let file = |ending: &str| format!("{name}.v{version}.{ending}");
    let mut wrong = Vec::new();
    if ![file("json"), file("yaml")].iter().any(|file| golden.contains(file)) {
        wrong.push(format!("{kind} has no golden file {name}.v{version}"));
    }
    let checks = ["check_golden::<", "check_golden_text::<"].map(|call| format!("{call}{kind}>"));
    if !checks.iter().any(|check| source.contains(check)) {
        wrong.push(format!("no test reads the golden files of {kind}"));
    }
    wrong
}

#[test]
fn everything_stored_has_golden_bytes() {
    let all = files(&root());
    let golden: BTreeSet<String> = all
        .iter()
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with("golden")))
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    let (mut wrong, mut formats) = (Vec::new(), 0);
    for path in all.iter().filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let source = fs::read_to_string(path).expect("text");
        // Not this file's own texts.
        if path.ends_with("tests/tests/formats.rs") {
            continue;
        }
        for format in declared(&source) {
            formats += 1;
            let lacking = lacking(&format, &source, &golden);
            wrong.extend(lacking.into_iter().map(|what| format!("{}: {what}", path.display())));
        }
    }
    assert!(formats >= 8, "only {formats} formats found");

    let numbers = fs::read_to_string(root().join("proto/src/convert/tests/numbers.rs"));
    let numbers = numbers.expect("it lists what is stored");
    let stored = between(&numbers, "const STORED", "];").expect("a list");
    let stored: BTreeSet<&str> =
        stored.split("\".shoal.v1.").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(stored, MESSAGES.map(|(message, _)| message).into(), "messages that are stored");
    for (message, file) in MESSAGES {
        if !golden.contains(file) {
            wrong.push(format!("{message} has no golden file {file}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_format_without_golden_bytes_is_found() {
    let source = "impl Format for Fish {\n    const NAME: &'static str = \"fish\";\n    \
                  const VERSION: u32 = 3;\n}\n";
    let fish = Declared { kind: "Fish".to_owned(), name: "fish".to_owned(), version: 3 };
    assert_eq!(declared(source), [fish]);
    let fish = &declared(source)[0];
    let old = BTreeSet::from(["fish.v2.json".to_owned()]);
    assert_eq!(
        lacking(fish, source, &old),
        ["Fish has no golden file fish.v3", "no test reads the golden files of Fish"]
    );
    let whole = format!("{source}#[cfg(test)] check_golden::<Fish>(&dir, &fish);");
    let golden = BTreeSet::from(["fish.v3.json".to_owned()]);
    assert!(lacking(fish, &whole, &golden).is_empty());
}
