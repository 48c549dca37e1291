//! What neither compiler nor clippy checks about the tree. Every rule is a function of files, and
//! has a test that shows it failing on a planted text.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "tidy/ladder.rs"]
mod ladder;
#[path = "tidy/refusals.rs"]
mod refusals;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the tree: its path below the root, and its text.
struct File {
    path: String,
    text: String,
}

/// Directories that are not part of the tree.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", "proptest-regressions"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf()
}

/// All files that are text.
fn tree() -> Vec<File> {
    let (root, mut files) = (root(), Vec::new());
    let mut rest = vec![root.clone()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                rest.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("below the root");
                files.push(File { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "only {} files found", files.len());
    files
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|f| f.path.ends_with(".rs"))
}

/// Lines with their numbers, without what follows `//`.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate();
    lines.map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
}

fn is_below(path: &str, place: &str) -> bool {
    path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a text has a word, not as a part of another one.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

#[track_caller]
fn hold(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// Purity.

// No async runtime where a process forks.

/// Crates whose programs have one thread, because they fork.
const SINGLE_THREADED: [&str; 1] = ["agent/container"];
/// What brings threads or an async runtime along. `make verify` looks at the whole tree of dependencies.
const THREADED: [&str; 9] = [
    "tokio",
    "tokio-util",
    "tokio-stream",
    "futures",
    "async-std",
    "smol",
    "tonic",
    "mio",
    "rayon",
];

const PURE_CRATES: [&str; 4] = ["types", "manager/state", "manager/planning", "agent/planning"];

/// What a pure crate cannot depend on: runtimes, wire, storage, kernel, chance, logs.
const IMPURE: [&str; 14] = [
    "tokio",
    "tonic",
    "openraft",
    "sled",
    "redb",
    "nix",
    "rustix",
    "libc",
    "reqwest",
    "rand",
    "tracing",
    "log",
    "futures",
    "shoal-proto",
];

/// What the `clippy.toml` of a pure crate must ban.
const BANS: [&str; 7] = [
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::env::var",
    "std::fs::read",
    "std::fs::File::open",
    "std::thread::spawn",
    "std::collections::HashMap",
];

/// Pure parts of crates that are not, and what they must not mention.
const PURE_MODULES: [&str; 2] = ["ctl/src/stack", "proto/src/convert"];
const IMPURE_PATHS: [&str; 7] =
    ["tokio", "std::fs", "std::env", "std::net::TcpStream", "SystemTime", "Instant", "HashMap"];

fn impure_manifests(files: &[File]) -> Vec<String> {
    banned_dependencies(files, &PURE_CRATES, &IMPURE, "a pure crate")
}

fn threaded_manifests(files: &[File]) -> Vec<String> {
    banned_dependencies(files, &SINGLE_THREADED, &THREADED, "what forks")
}

fn banned_dependencies(
    files: &[File],
    crates: &[&str],
    banned: &[&str],
    what: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in crates {
        let manifest = format!("{name}/Cargo.toml");
        let Some(file) = files.iter().find(|f| f.path == manifest) else {
            wrong.push(format!("{manifest} is missing"));
            continue;
        };
        let mut section = "";
        for line in file.text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if section.contains("dependencies") && banned.contains(&name) {
                wrong.push(format!("{manifest}: {what} cannot depend on {name}"));
            }
        }
    }
    wrong
}

fn missing_bans(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for pure in PURE_CRATES {
        let path = format!("{pure}/clippy.toml");
        let text = files.iter().find(|f| f.path == path).map_or("", |f| f.text.as_str());
        for ban in BANS.iter().filter(|ban| !text.contains(&format!("path = \"{ban}\""))) {
            wrong.push(format!("{path} does not ban {ban}"));
        }
    }
    wrong
}

fn impure_modules(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    let pure = |f: &&File| PURE_MODULES.iter().any(|place| is_below(&f.path, place));
    for file in rust(files).filter(pure).filter(|f| !is_test(&f.path)) {
        for (n, line) in code(file) {
            for banned in IMPURE_PATHS.iter().filter(|banned| has_word(line, banned)) {
                wrong.push(format!("{}:{n}: a pure module mentions {banned}", file.path));
            }
        }
    }
    wrong
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/testing")
}

#[test]
fn pure_crates_depend_on_nothing_impure() {
    hold(&impure_manifests(&tree()));
}

#[test]
fn what_forks_depends_on_no_async_runtime() {
    hold(&threaded_manifests(&tree()));
}

#[test]
fn pure_crates_have_their_bans() {
    hold(&missing_bans(&tree()));
}

#[test]
fn pure_modules_mention_nothing_impure() {
    hold(&impure_modules(&tree()));
}

// Where things may stand.

fn misplaced_unsafe(files: &[File]) -> Vec<String> {
    let word = concat!("un", "safe");
    let mut wrong = Vec::new();
    for file in rust(files).filter(|f| !is_below(&f.path, "agent/container/src/sys")) {
        for (n, line) in code(file) {
            let allowed = line.contains("unsafe_code") || line.contains('"');
            if has_word(line, word) && !allowed {
                wrong.push(format!(
                    "{}:{n}: {word} belongs into agent/container/src/sys",
                    file.path
                ));
            }
        }
    }
    wrong
}

/// Where generated protobuf types may appear, and why there.
const DOORS: [(&str, &str); 25] = [
    ("proto", "defines them"),
    ("transport", "enrols hosts, and knows how a removed one is told"),
    ("tests", "speaks to the programs as others do"),
    ("manager/tests", "speaks to the program as others do"),
    ("manager/src/api", "what people call"),
    ("manager/src/dispatcher", "what agents call"),
    ("manager/raft", "what managers say to each other and store"),
    ("manager/src/raft", "writes commands and snapshots down"),
    ("manager/src/ca", "what joining nodes call"),
    ("manager/src/bootstrap", "what the agent of this host calls"),
    ("manager/src/managers", "what managers tell each other"),
    ("manager/src/server", "puts the services together"),
    ("manager/src/forward", "passes calls on, and says by whom they were made"),
    ("manager/src/broker", "passes streams from agents to people on as they are"),
    ("agent/src/session", "calls the dispatcher"),
    ("agent/src/local", "what shoalctl calls on its own host"),
    ("agent/src/managing.rs", "calls the manager of its host"),
    ("agent/src/ledger.rs", "stores what was assigned"),
    ("agent/src/told.rs", "stores what was told of other nodes"),
    ("agent/src/testing", "plays the dispatcher in tests"),
    ("client", "calls managers and the agent of its host"),
    ("ctl/tests", "plays manager and agent for the program"),
    ("manager/benches/peers", "plays a thousand agents"),
    ("ctl/src/commands/exec.rs", "passes a terminal on as a stream"),
    ("ctl/src/progress", "names the kinds of object to watch"),
];

fn wire_types_past_doors(files: &[File]) -> Vec<String> {
    let at_door = |path: &str| {
        DOORS.iter().any(|(door, _)| is_below(path, door) || path == format!("{door}.rs"))
    };
    let mut wrong = Vec::new();
    for file in rust(files).filter(|f| !at_door(&f.path)) {
        for (n, line) in code(file) {
            if line.contains("shoal_proto::v1") {
                wrong.push(format!("{}:{n}: generated types stop at the door", file.path));
            }
        }
    }
    wrong
}

#[test]
fn unsafe_code_stands_in_one_place() {
    hold(&misplaced_unsafe(&tree()));
}

#[test]
fn wire_types_stop_at_the_door() {
    hold(&wire_types_past_doors(&tree()));
}

#[test]
fn every_door_is_still_used() {
    let files = tree();
    let mut unused = Vec::new();
    for (door, _) in DOORS {
        let module = format!("{door}.rs");
        let mut inside = rust(&files).filter(|f| is_below(&f.path, door) || f.path == module);
        if !inside.any(|f| f.text.contains("shoal_proto") || door == "proto") {
            unused.push(format!("{door} is listed as a door and is none"));
        }
    }
    hold(&unused);
}

// Size and order.

const LINES_MAX: usize = 600;

/// Files that are longer, and why.
const LONG: [(&str, &str); 1] = [("Cargo.lock", "written by cargo")];

fn long_files(files: &[File]) -> Vec<String> {
    let made = |f: &&File| !LONG.iter().any(|(path, _)| f.path == *path);
    let source = |f: &&File| [".rs", ".proto", ".sh", ".toml"].iter().any(|e| f.path.ends_with(e));
    files
        .iter()
        .filter(made)
        .filter(source)
        .filter(|f| f.text.lines().count() > LINES_MAX)
        .map(|f| format!("{} has {} lines: split it", f.path, f.text.lines().count()))
        .collect()
}

/// Rust files that no `mod` names, which the compiler never sees.
fn forgotten_modules(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    // Small programs that stand alone are built by scripts.
    let alone = |f: &&File| {
        ["examples/", "tests/bench/", "manager/planning/bench/"]
            .iter()
            .any(|d| f.path.starts_with(d))
    };
    for file in rust(files).filter(|f| !alone(f)) {
        let Some((dir, name)) = file.path.rsplit_once('/') else { continue };
        let root = ["lib.rs", "main.rs", "build.rs"].contains(&name);
        let target = ["tests", "benches", "examples", "src/bin"]
            .iter()
            .any(|kind| dir.strip_suffix(kind).is_some_and(|of| all_manifests(files).contains(of)));
        if root || target {
            continue;
        }
        // `a/b/mod.rs` is module b of a; `a/b.rs` is, too.
        let (dir, module) = match name {
            "mod.rs" => dir.rsplit_once('/').unwrap_or(("", dir)),
            _ => (dir, name.trim_end_matches(".rs")),
        };
        let parents = [
            format!("{dir}/lib.rs"),
            format!("{dir}/main.rs"),
            format!("{dir}/mod.rs"),
            format!("{dir}.rs"),
        ];
        let named = |text: &str| {
            text.lines().any(|l| l.trim().ends_with(&format!("mod {module};")))
                || text.contains(&format!("{name}\"]"))
        };
        let found = rust(files).filter(|f| parents.contains(&f.path) || same_dir(&f.path, dir));
        if !found.into_iter().any(|f| named(&f.text)) {
            wrong.push(format!("{} is compiled by nothing: no `mod {module};`", file.path));
        }
    }
    wrong
}

fn same_dir(path: &str, dir: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(own, _)| own == dir)
}

/// Directories of crates, with a slash at the end.
fn all_manifests(files: &[File]) -> BTreeSet<&str> {
    files.iter().filter_map(|f| f.path.strip_suffix("Cargo.toml")).collect()
}

/// Where the drawing of the crates is.
const DRAWING: &str = "docs/architecture.md";

/// Pairs of a crate's directory and that of one it stands on, directly or not.
fn closure(mut pairs: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    loop {
        let further: Vec<_> = pairs
            .iter()
            .flat_map(|(a, b)| pairs.iter().filter(move |(c, _)| c == b).map(move |(_, d)| (a, d)))
            .map(|(a, d)| (a.clone(), d.clone()))
            .filter(|pair| !pairs.contains(pair))
            .collect();
        if further.is_empty() {
            return pairs;
        }
        pairs.extend(further);
    }
}

/// What the manifests say of the crates that are drawn: all but the tests.
fn stands_on(files: &[File]) -> BTreeSet<(String, String)> {
    let text = |path: &str| files.iter().find(|f| f.path == path).map_or("", |f| &f.text);
    let mut pairs = BTreeSet::new();
    let all: Vec<(&str, &str)> = text("Cargo.toml")
        .lines()
        .filter_map(|line| line.split_once(" = { path = \""))
        .filter_map(|(name, rest)| Some((name, rest.split('"').next()?)))
        .chain([("shoal-agent", "agent"), ("shoal-manager", "manager"), ("shoalctl", "ctl")])
        .collect();
    for (_, dir) in &all {
        let manifest = text(&format!("{dir}/Cargo.toml"));
        let mut section = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            let of = all.iter().find(|(other, _)| *other == name);
            if let Some((_, other)) = of.filter(|_| section == "[dependencies]") {
                pairs.insert(((*dir).to_owned(), (*other).to_owned()));
            }
        }
    }
    pairs
}

fn stale_drawing(files: &[File]) -> Vec<String> {
    let drawing = files.iter().find(|f| f.path == DRAWING).map_or("", |f| &f.text);
    let drawn = drawing.lines().filter_map(|line| line.trim().split_once(" --> "));
    let drawn = closure(drawn.map(|(a, b)| (a.replace('_', "/"), b.replace('_', "/"))).collect());
    let real = closure(stands_on(files));
    let missing =
        real.difference(&drawn).map(|(a, b)| format!("{DRAWING}: {a} stands on {b}, too"));
    let false_ones = drawn.difference(&real);
    let false_ones = false_ones.map(|(a, b)| format!("{DRAWING}: {a} does not stand on {b}"));
    missing.chain(false_ones).collect()
}

/// What proto/build.rs compiles is what lies there; so every file must lie there.
fn stray_protos(files: &[File]) -> Vec<String> {
    let protos = files.iter().filter(|f| f.path.ends_with(".proto"));
    let mut wrong = Vec::new();
    for file in protos {
        if !file.path.starts_with("proto/shoal/v1/") {
            wrong.push(format!("{} is not compiled by proto/build.rs", file.path));
        } else if !file.text.contains("package shoal.v1;") {
            wrong.push(format!("{} is not of package shoal.v1", file.path));
        }
    }
    wrong
}

#[test]
fn files_are_short() {
    hold(&long_files(&tree()));
}

#[test]
fn no_source_file_is_forgotten() {
    hold(&forgotten_modules(&tree()));
}

#[test]
fn every_proto_is_compiled() {
    hold(&stray_protos(&tree()));
}

// Leftovers.

/// Marks of unfinished work, and traces of the machine it was written on.
const LEFTOVERS: [&str; 8] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/.cargo"),
];

fn leftovers(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        for (n, line) in file.text.lines().enumerate() {
            for mark in LEFTOVERS.iter().filter(|mark| line.contains(**mark)) {
                wrong.push(format!("{}:{}: {mark}", file.path, n + 1));
            }
        }
    }
    wrong
}

/// The one place that dependencies come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn foreign_sources(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with("Cargo.lock")) {
        for line in file.text.lines().filter_map(|line| line.strip_prefix("source = ")) {
            if line.trim_matches('"') != REGISTRY {
                wrong.push(format!("{}: a dependency comes from {line}", file.path));
            }
        }
    }
    let own = files.iter().filter(|f| f.path.contains(".cargo/"));
    wrong.extend(own.map(|f| format!("{} says where dependencies come from", f.path)));
    wrong
}

#[test]
fn the_crates_stand_as_drawn() {
    let files = tree();
    assert!(stands_on(&files).len() > 20, "{:?}", stands_on(&files));
    hold(&stale_drawing(&files));
}

#[test]
fn nothing_is_left_over() {
    hold(&leftovers(&tree()));
}

#[test]
fn dependencies_come_from_one_registry() {
    hold(&foreign_sources(&tree()));
}

// Every rule can fail.

fn planted(path: &str, text: &str) -> Vec<File> {
    vec![File { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn every_rule_finds_what_is_planted_for_it() {
    type Rule = fn(&[File]) -> Vec<String>;
    let long = "\n".repeat(LINES_MAX + 1);
    let unsafe_block = concat!("fn f() { un", "safe { g() } }");
    let cases: [(&str, Rule, &str, &str); 16] = [
        ("a does not stand on b", stale_drawing, DRAWING, "graph TD\n    a --> b"),
        ("tokio", impure_manifests, "types/Cargo.toml", "[dependencies]\ntokio.workspace = true"),
        ("rand", impure_manifests, "manager/state/Cargo.toml", "[dev-dependencies]\nrand = \"1\""),
        (
            "what forks",
            threaded_manifests,
            "agent/container/Cargo.toml",
            "[dependencies]\ntokio = \"1\"",
        ),
        ("HashMap", missing_bans, "types/clippy.toml", "disallowed-types = []"),
        ("std::fs", impure_modules, "ctl/src/stack/yaml.rs", "use std::fs;"),
        ("agent/container/src/sys", misplaced_unsafe, "ctl/src/main.rs", unsafe_block),
        ("door", wire_types_past_doors, "manager/src/leader.rs", "use shoal_proto::v1 as pb;"),
        ("door", wire_types_past_doors, "manager/src/apiary.rs", "use shoal_proto::v1::Task;"),
        ("lines", long_files, "types/src/lib.rs", &long),
        ("compiled by nothing", forgotten_modules, "types/src/lost.rs", ""),
        ("compiled by nothing", forgotten_modules, "types/src/lost/mod.rs", ""),
        ("not compiled", stray_protos, "proto/shoal/v2/new.proto", "package shoal.v2;"),
        ("lib.rs:2", leftovers, "types/src/lib.rs", concat!("\n// TO", "DO: more")),
        ("comes from", foreign_sources, "Cargo.lock", "source = \"git+https://example.org/x\""),
        (".cargo", foreign_sources, ".cargo/config.toml", "[source.crates-io]"),
    ];
    for (said, rule, path, text) in cases {
        let wrong = rule(&planted(path, text)).join("\n");
        assert!(wrong.contains(said), "{path}: {wrong:?} does not say {said:?}");
    }
    assert_eq!(
        misplaced_unsafe(&planted("agent/container/src/sys/mount.rs", unsafe_block)),
        [""; 0]
    );
    assert_eq!(
        wire_types_past_doors(&planted("client/src/lib.rs", "use shoal_proto::v1;")),
        [""; 0]
    );
}
