//! Names that people meet have none of the words that docs/nomenclature.md rules out: public items of the
//! crates, identifiers of the wire, commands and their help, documents. What may have one all the same
//! stands in the same document.

use clap::{Command, CommandFactory as _};

use super::{File, code, is_test, rust};

const HOME: &str = "docs/nomenclature.md";

/// What the document rules.
struct Ruled {
    /// In small letters; some are two words.
    banned: Vec<String>,
    /// Names and phrases that have one of them nevertheless, as they are written.
    excepted: Vec<String>,
}

/// First cells of the rows of a section's table.
fn rows<'a>(document: &'a str, section: &str) -> impl Iterator<Item = &'a str> {
    let section = document.split(&format!("\n{section}\n")).nth(1).unwrap_or_default();
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" |").next()).skip(1)
}

fn ruled(files: &[File]) -> Ruled {
    let document = &files.iter().find(|f| f.path == HOME).expect("the document").text;
    let banned: Vec<String> = rows(document, "## Not these")
        .flat_map(|cell| cell.split(", "))
        .map(str::to_lowercase)
        .collect();
    let excepted: Vec<String> = rows(document, "## Except")
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    assert!(banned.len() > 5 && excepted.len() > 2, "{HOME} has no such tables any more");
    Ruled { banned, excepted }
}

/// The words of a name: `NodeRole::engineLabel_x` has five.
fn words(name: &str) -> String {
    let mut words = String::from(" ");
    let mut before = ' ';
    for c in name.chars() {
        let begins = c.is_uppercase() && (before.is_lowercase() || before.is_numeric());
        if begins || !c.is_alphanumeric() {
            words.push(' ');
        }
        if c.is_alphanumeric() {
            words.extend(c.to_lowercase());
        }
        before = c;
    }
    words.push(' ');
    words
}

impl Ruled {
    /// The word that a name may not have.
    fn in_name(&self, name: &str) -> Option<&str> {
        if self.excepted.iter().any(|excepted| excepted == name) {
            return None;
        }
        self.in_words(&words(name))
    }

    fn in_words(&self, words: &str) -> Option<&str> {
        let has = |word: &&String| {
            words.contains(&format!(" {word} ")) || words.contains(&format!(" {word}s "))
        };
        self.banned.iter().find(has).map(String::as_str)
    }

    /// The same of a line of prose, in which a name may stand between others.
    fn in_prose(&self, line: &str) -> Option<&str> {
        let mut line = line.to_owned();
        // A small word alone is a field's name, and none of prose.
        let phrase = |e: &&String| e.starts_with(char::is_uppercase) || e.contains([' ', '.']);
        for excepted in self.excepted.iter().filter(phrase) {
            line = line.replace(excepted.as_str(), "-");
        }
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let prose: Vec<String> =
            line.split(|c| !part(c)).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        self.in_words(&format!(" {} ", prose.join(" ")))
    }
}

/// The name of the public item that a line declares.
fn declared(line: &str) -> Option<&str> {
    let mut rest = line.trim_start().strip_prefix("pub ")?;
    const BEFORE: [&str; 13] = [
        "async ", "const ", "unsafe ", "fn ", "struct ", "enum ", "trait ", "type ", "static ",
        "mod ", "mut ", "union ", "use ",
    ];
    while let Some(after) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        if rest.starts_with("use ") {
            // What is renamed on its way out; the rest is declared elsewhere.
            return after.rsplit_once(" as ").map(|(_, name)| name.trim_end_matches(';'));
        }
        rest = after;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then_some(&rest[..end])
}

fn public_names(file: &File) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let mut variants: Option<usize> = None;
    for (n, line) in code(file) {
        let depth = line.len() - line.trim_start().len();
        if let Some(within) = variants {
            if line.trim() == "}" && depth == within {
                variants = None;
            } else if depth == within + 4 && line.trim_start().starts_with(char::is_uppercase) {
                let name = line.trim_start();
                let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                names.push((n, &name[..end]));
            }
        }
        if line.trim_start().starts_with("pub enum ") && !line.contains('}') {
            variants = Some(depth);
        }
        names.extend(declared(line).map(|name| (n, name)));
    }
    names
}

fn banned_items(files: &[File]) -> Vec<String> {
    let ruled = ruled(files);
    let mut wrong = Vec::new();
    let is_ours = |f: &&File| !is_test(&f.path) && !f.path.starts_with("tests/");
    for file in rust(files).filter(is_ours) {
        for (n, name) in public_names(file) {
            if let Some(word) = ruled.in_name(name) {
                wrong.push(format!("{}:{n}: {name} has the word {word}: see {HOME}", file.path));
            }
        }
    }
    wrong
}

fn banned_identifiers(files: &[File]) -> Vec<String> {
    let ruled = ruled(files);
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.path.ends_with(".proto")) {
        for (n, line) in code(file) {
            for name in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if let Some(word) = ruled.in_name(name) {
                    wrong
                        .push(format!("{}:{n}: {name} has the word {word}: see {HOME}", file.path));
                }
            }
        }
    }
    wrong
}

fn banned_prose(files: &[File]) -> Vec<String> {
    let ruled = ruled(files);
    let mut wrong = Vec::new();
    let told = |f: &&File| f.path.ends_with(".md") && f.path != HOME;
    for file in files.iter().filter(told) {
        for (n, line) in file.text.lines().enumerate() {
            if let Some(word) = ruled.in_prose(line) {
                wrong.push(format!("{}:{}: has the word {word}: see {HOME}", file.path, n + 1));
            }
        }
    }
    wrong
}

/// Names and help of a command and of all below it.
fn banned_commands(ruled: &Ruled, command: &Command, path: &str, wrong: &mut Vec<String>) {
    let path = format!("{path} {}", command.get_name());
    let mut names: Vec<String> = command.get_all_aliases().map(str::to_owned).collect();
    names.push(command.get_name().to_owned());
    for arg in command.get_arguments() {
        names.extend(
            arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|n| (*n).to_owned()),
        );
        names.extend(arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string));
        let values = arg.get_possible_values();
        names.extend(values.iter().map(|value| value.get_name().to_owned()));
    }
    for name in names {
        if let Some(word) = ruled.in_name(&name) {
            wrong.push(format!("{path}: {name} has the word {word}: see {HOME}"));
        }
    }
    for line in command.clone().render_long_help().to_string().lines() {
        if let Some(word) = ruled.in_prose(line) {
            wrong.push(format!("{path} --help: {line:?} has the word {word}: see {HOME}"));
        }
    }
    for below in command.get_subcommands() {
        banned_commands(ruled, below, &path, wrong);
    }
}

#[test]
fn public_items_have_none_of_the_words() {
    super::hold(&banned_items(&super::tree()));
}

#[test]
fn the_wire_has_none_of_the_words() {
    super::hold(&banned_identifiers(&super::tree()));
}

#[test]
fn documents_have_none_of_the_words() {
    super::hold(&banned_prose(&super::tree()));
}

#[test]
fn commands_have_none_of_the_words() {
    let ruled = ruled(&super::tree());
    let mut wrong = Vec::new();
    let programs = [
        shoal_ctl::command(),
        shoal_agent::config::Cli::command(),
        shoal_manager::config::Cli::command(),
    ];
    for program in &programs {
        banned_commands(&ruled, program, "", &mut wrong);
    }
    super::hold(&wrong);
}

/// An exception that nothing needs any more is none.
#[test]
fn every_exception_is_still_there() {
    let files = super::tree();
    let ruled = ruled(&files);
    let used = |name: &String| {
        let has = |f: &&File| f.path != HOME && !f.path.starts_with("tests/tests/tidy");
        files.iter().filter(has).any(|f| f.text.contains(name.as_str()))
    };
    for name in &ruled.excepted {
        assert!(used(name), "{HOME}: {name} is nowhere");
        assert!(ruled.in_words(&words(name)).is_some(), "{HOME}: {name} needs no exception");
    }
}

#[test]
fn a_word_is_found_wherever_it_stands() {
    let document = "\n## Not these\n\n| not | but |\n|---|---|\n| swarm | cluster |\n\
                    | master, slave, pod | x |\n| daemon, replica set, engine | y |\n\n\
                    ## Except\n\n| name | why |\n|---|---|\n| `EngineX`, `engine` | z |\n\
                    | `swarm mode` | z |\n";
    let with = |path: &str, text: &str| {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        vec![file(HOME, document), file(path, text)]
    };
    let items = [
        ("pub mod daemon;", true),
        ("pub struct SwarmSpec {", true),
        ("    pub masters: Vec<Node>,", true),
        ("pub async fn pod_of(", true),
        ("pub const fn replica_set() {", true),
        ("pub enum A {\n    /// x\n    MasterNode(u8),\n}", true),
        ("pub use a::B as Daemon;", true),
        ("pub struct EngineX {", false),
        ("    pub engine: EngineX,", false),
        ("mod daemon;", false),
        ("// pub mod daemon;", false),
        ("pub fn swarmkit() {", false),
        ("enum A {\n    Master,\n}", false),
    ];
    for (text, found) in items {
        assert_eq!(!banned_items(&with("a/src/lib.rs", text)).is_empty(), found, "{text}");
    }
    let identifiers =
        [("  string pod_name = 3;", true), ("  EngineX engine = 4;", false), ("// a pod", false)];
    for (text, found) in identifiers {
        assert_eq!(!banned_identifiers(&with("a.proto", text)).is_empty(), found, "{text}");
    }
    let prose = [
        ("Every Pod of it", true),
        ("a swarm", true),
        ("in swarm mode", false),
        ("SwarmKit", false),
        ("an engine", true),
        ("`a_daemon`", false),
    ];
    for (text, found) in prose {
        assert_eq!(!banned_prose(&with("docs/a.md", text)).is_empty(), found, "{text}");
    }
    let ruled = ruled(&with("", ""));
    let mut wrong = Vec::new();
    let command = Command::new("x")
        .subcommand(Command::new("pod").about("Good"))
        .subcommand(Command::new("y").about("A daemon").alias("masters"))
        .arg(clap::Arg::new("z").long("swarm-size").help("Good"));
    banned_commands(&ruled, &command, "", &mut wrong);
    for place in [" x: swarm-size ", " x pod: pod ", " x y: masters ", " x y --help: \"A daemon"] {
        assert!(wrong.iter().any(|w| w.starts_with(place)), "{place}: {wrong:#?}");
    }
}
