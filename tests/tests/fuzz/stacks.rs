//! What people write into files: stack files, the variables in them, environment files.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use shoal_ctl::stack::{
    EnvFile, Files, Input, Loaded, Problems, Source, Variables, load, parse_env_file,
    parse_raw_env_file, to_yaml,
};
use shoal_proto::v1 as pb;
use shoal_types::spec::StackSpec;
use shoal_types::spec::TaskRuntime;

use super::driver::{Answer, BOUNDS, Bounds, Target, corpus, files, fuzz};
use super::text;

/// Findings of one load at most.
const FINDINGS_MAX: usize = 100;
/// Bytes of one text after interpolation at most, and of all of a file.
const VALUE_BYTES_MAX: usize = 1 << 20;
const VALUES_BYTES_MAX: usize = 5 << 20;
/// Stands between the parts of an input: stack files that are merged, and `env_file`s behind `= env`.
const NEXT: &str = "\n=== ";

/// Files that exist only in an input.
struct Memory(BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        Ok(self.0.get(path).cloned())
    }
}

fn variables() -> Variables {
    let long = "v".repeat(2000);
    let pairs = [
        ("TAG", "1.2"),
        ("N", "3"),
        ("EMPTY", ""),
        ("HOME", "/root"),
        ("DOLLAR", "$TAG"),
        ("LONG", long.as_str()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn load_text(text: &str, dir: &str) -> (Vec<Source>, Result<Loaded, Problems>) {
    let mut sources = Vec::new();
    let mut env = BTreeMap::new();
    for (n, part) in text.split(NEXT).enumerate() {
        match part.split_once('\n') {
            Some(("env", content)) if n > 0 => {
                let name = format!("/app/{}.env", ["a", "b", "c"][env.len().min(2)]);
                env.insert(name, content.to_owned());
            }
            _ => sources.push(Source { name: format!("{n}.yaml"), text: part.to_owned() }),
        }
    }
    let outcome = load(&Input {
        name: None,
        fallback_name: Some("fuzz"),
        sources: &sources,
        variables: &variables(),
        dir,
        files: &Memory(env),
    });
    (sources, outcome)
}

/// Whether every finding stands where there is something in a file.
fn refusal_holds(sources: &[Source], problems: &Problems) -> Answer {
    assert!(!problems.list.is_empty(), "refused without a reason");
    assert!(problems.list.len() <= FINDINGS_MAX, "{} findings", problems.list.len());
    let told = problems.to_string();
    for problem in &problems.list {
        assert!(!problem.text.is_empty());
        let Some(at) = problem.at else { continue };
        let source = sources.get(at.source).unwrap_or_else(|| panic!("no such file: {problem:?}"));
        // As YAML breaks lines; a finding may be at the end, behind the last line.
        let lines: Vec<&str> = source.text.split('\n').flat_map(|l| l.split('\r')).collect();
        assert!(at.line >= 1 && at.line <= lines.len() + 1, "{problem:?} of {} lines", lines.len());
        assert!(at.column >= 1, "{problem:?}");
        let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(at.column <= longest + 2, "{problem:?}: the longest line has {longest} characters");
        let place = format!("{}:{}:{}: ", source.name, at.line, at.column);
        assert!(told.contains(&place), "{told:?} does not name {place:?}");
    }
    Answer::Refused(problems.list[0].text.clone())
}

/// Whether a stack is the same when its long form is loaded, and behind the wire.
fn stack_holds(loaded: &Loaded) -> Answer {
    let spec = &loaded.spec;
    spec.validate().unwrap_or_else(|violations| panic!("loaded, and invalid: {violations}"));
    let message = pb::StackSpec::from(spec);
    let read = StackSpec::try_from(message).unwrap_or_else(|e| panic!("over the wire: {e}"));
    assert_eq!(&read, spec, "over the wire");
    let printed = to_yaml(&loaded.config).expect("a document");
    let named = loaded.config.get("name").is_some();
    let again = load(&Input {
        name: None,
        fallback_name: (!named).then_some("fuzz"),
        sources: &[Source { name: "config".to_owned(), text: printed.clone() }],
        variables: &variables(),
        dir: "/elsewhere",
        files: &Memory(BTreeMap::new()),
    });
    // Files of variables are not in the long form; that they are missing is said.
    if !printed.contains("env_file") {
        let again = again.unwrap_or_else(|e| panic!("its long form is refused: {e}\n{printed}"));
        assert_eq!(&again.spec, spec, "its long form says something else:\n{printed}");
    }
    let parts = (spec.services.len(), spec.networks.len(), spec.volumes.len());
    let service = spec.services.values().next().map(|service| {
        let task = &service.task_template;
        let TaskRuntime::Container(container) = &task.runtime else { return String::new() };
        let many = [
            container.env.len(),
            container.mounts.len(),
            container.command.as_ref().map_or(0, Vec::len),
            container.args.as_ref().map_or(0, Vec::len),
            usize::from(container.healthcheck.is_some()),
            usize::from(task.resources.is_some()),
            usize::from(task.placement.is_some()),
        ];
        many.map(|n| if n > 0 { '+' } else { '-' }).iter().collect()
    });
    Answer::Read(format!("{:?} {service:?}", [parts.0, parts.1, parts.2].map(|n| n > 0)))
}

const YAML_WORDS: [&str; 84] = [
    ": ",
    "- ",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a",
    "<<: *a",
    "<<: [*a, *b]",
    "&b ",
    "*b",
    "!!str ",
    "!!int ",
    "!x ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "# c",
    "? ",
    "%YAML 1.2\n",
    "---\n",
    "...\n",
    "\t",
    "~",
    "null",
    "é",
    "\u{feff}",
    "\u{2028}",
    "$TAG",
    "${N}",
    "${EMPTY:-x}",
    "${NONE:-$N}",
    "${NONE:?why}",
    "${",
    "$$",
    "$",
    "$LONG",
    "${LONG}",
    "true",
    "no",
    "0",
    "-1",
    "0x10",
    "1e3",
    "1_0",
    ".inf",
    "18446744073709551616",
    "1m30s",
    "64m",
    "80:80",
    "8000-8010:80-90/udp",
    "127.0.0.1::80",
    "[::1]:80:80",
    "./a:/b:ro",
    "v:/v",
    "/run",
    "services:",
    "image: nginx",
    "environment:",
    "env_file: a.env",
    "ports:",
    "volumes:",
    "networks:",
    "deploy:",
    "replicas: 2",
    "mode: global",
    "command: ",
    "healthcheck:",
    "test: [CMD, x]",
    "extra_hosts: ['a:1.2.3.4']",
    "configs: [c]",
    "secrets: [s]",
    "x-any: ",
    "external: true",
    "name: n",
    "constraints: [node.role == manager]",
    "labels:",
    "dns: 1.1.1.1",
    "sysctls: {net.core.somaxconn: 1}",
    "=== env\nA=1\n",
];

#[test]
fn stacks() {
    let mut seeds = corpus("stacks");
    for dir in ["../examples/hello", "../examples/shop"] {
        let yaml = |(path, _): &(std::path::PathBuf, _)| path.ends_with("stack.yaml");
        seeds.extend(files(dir).into_iter().filter(yaml).map(|(_, bytes)| bytes));
    }
    // A load goes over each node some times, and over what aliases stand for.
    let bounds = Bounds {
        time: Duration::from_millis(500),
        time_per_byte: Duration::from_micros(20),
        memory: 128 << 20,
    };
    fuzz(
        &Target { name: "stacks", seeds, bounds },
        |random, corpus| text::mutated(random, corpus, &YAML_WORDS),
        |input| {
            let text = String::from_utf8_lossy(input);
            let (sources, outcome) = load_text(&text, "/app");
            match outcome {
                Ok(loaded) => stack_holds(&loaded),
                Err(problems) => refusal_holds(&sources, &problems),
            }
        },
    );
}

const TEMPLATE_WORDS: [&str; 30] = [
    "$",
    "$$",
    "${",
    "}",
    "{",
    ":-",
    "-",
    ":?",
    "?",
    ":+",
    "+",
    "TAG",
    "N",
    "EMPTY",
    "NONE",
    "LONG",
    "$LONG",
    "${LONG}",
    "${TAG}",
    "$N",
    "${NONE:-",
    "${NONE:-$LONG}",
    "${EMPTY:-",
    "${N:+",
    "${N?",
    "_",
    " ",
    "é",
    "\n",
    "$DOLLAR",
];

/// One value of a stack file, in double quotes.
fn value_of(text: &str) -> Result<String, Problems> {
    let quoted = serde_json::to_string(text).expect("text");
    let file = format!("services: {{s: {{image: i, environment: {{V: {quoted}}}}}}}\n");
    let (_, outcome) = load_text(&file, "/app");
    let spec = outcome?.spec;
    let service = spec.services.values().next().expect("a service");
    let TaskRuntime::Container(container) = &service.task_template.runtime else { panic!("none") };
    let value = container.env.first().and_then(|entry| entry.strip_prefix("V="));
    Ok(value.expect("the variable").to_owned())
}

/// What can stand in double quotes as it is, and in an environment.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || (!c.is_control() && !"\u{feff}\u{fffe}\u{ffff}".contains(c)))
}

#[test]
fn interpolation() {
    let target = Target { name: "interpolation", seeds: corpus("interpolation"), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| text::mutated(random, corpus, &TEMPLATE_WORDS),
        |input| {
            let text: String = String::from_utf8_lossy(input).replace(NEXT, " ");
            if !is_plain(&text) {
                return Answer::Refused("not printable".to_owned());
            }
            // Doubled, a dollar sign is nothing but one.
            let doubled = value_of(&text.replace('$', "$$"));
            if text.len() <= VALUE_BYTES_MAX {
                assert_eq!(doubled.expect("a text"), text, "doubled");
            }
            match value_of(&text) {
                Ok(value) => {
                    assert!(value.len() <= VALUE_BYTES_MAX, "{} bytes", value.len());
                    if !text.contains('$') {
                        assert_eq!(value, text);
                    }
                    let forms = ["${", "$$", ":-", ":+", "?"].map(|form| text.contains(form));
                    Answer::Read(format!("{forms:?} {}", value.len().ilog2_or_zero()))
                }
                Err(problems) => Answer::Refused(problems.list[0].text.clone()),
            }
        },
    );
}

trait Log2 {
    fn ilog2_or_zero(self) -> char;
}

impl Log2 for usize {
    /// The order of a length, as a letter.
    fn ilog2_or_zero(self) -> char {
        self.checked_ilog2().and_then(|n| char::from_digit(n + 10, 36)).unwrap_or('-')
    }
}

const ENV_WORDS: [&str; 34] = [
    "=",
    ":",
    "\n",
    "\r\n",
    "'",
    "\"",
    "\\",
    "\\n",
    "\\$",
    "#",
    " #",
    "export ",
    "A",
    "B=$A",
    "$A$A",
    "${A}",
    "${NONE:-x}",
    "${NONE}",
    "$$",
    "$",
    "${",
    "}",
    "\u{feff}",
    "\t",
    " ",
    "é=1",
    ".",
    "-",
    "_",
    "$LONG",
    "LONG=$LONG$LONG",
    "A=\"\n\"",
    "'\n'",
    "\0",
];

#[test]
fn env_files() {
    let target = Target { name: "env_files", seeds: corpus("env_files"), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| {
            let mut bytes = text::mutated(random, corpus, &ENV_WORDS);
            // The second way of reading is asked for by the first byte.
            if random.random_bool(0.2) && bytes.first() != Some(&b'\x01') {
                bytes.insert(0, 1);
            }
            bytes
        },
        |input| {
            let text = String::from_utf8_lossy(input);
            match text.strip_prefix('\x01') {
                Some(text) => raw_holds(text),
                None => env_holds(&text),
            }
        },
    );
}

fn place_holds(text: &str, line: usize, why: &str) -> Answer {
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&line), "line {line} of {lines}: {why}");
    assert!(!why.is_empty());
    Answer::Refused(why.to_owned())
}

fn env_holds(text: &str) -> Answer {
    let EnvFile { lines, unset } = match parse_env_file(text, &variables()) {
        Ok(file) => file,
        Err(error) => return place_holds(text, error.line, &error.text),
    };
    let bytes: usize = lines.iter().filter_map(|(_, v)| v.as_ref()).map(String::len).sum();
    assert!(bytes <= VALUES_BYTES_MAX, "{bytes} bytes of values out of {}", text.len());
    // In single quotes every value means itself, and nothing else does.
    // A line ends in a file as it does on every host: of `\r\n` only `\n` is read.
    let plain = |v: &String| !v.contains('\\') && !v.contains("\r\n") && !v.ends_with('\r');
    let whole = lines.iter().all(|(_, v)| v.as_ref().is_none_or(plain));
    if whole {
        let written: String = lines
            .iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}='{}'\n", value.replace('\'', "\\'")),
                None => format!("{name}\n"),
            })
            .collect();
        let again = parse_env_file(&written, &Variables::new());
        let again = again.unwrap_or_else(|e| panic!("written again: {e}\n{written}"));
        assert_eq!(again, EnvFile { lines: lines.clone(), unset: Vec::new() }, "{written}");
    }
    let kinds = [
        lines.iter().any(|(_, value)| value.is_none()),
        lines.iter().any(|(_, value)| value.as_ref().is_some_and(|v| v.contains('\n'))),
        !unset.is_empty(),
        text.contains('"'),
        text.contains('\''),
    ];
    Answer::Read(format!("{kinds:?} {}", bytes.ilog2_or_zero()))
}

fn raw_holds(text: &str) -> Answer {
    match parse_raw_env_file(text) {
        Ok(lines) => {
            let line = |(name, value): &(String, Option<String>)| match value {
                Some(value) => format!("{name}={value}\r\n"),
                None => format!("{name}\r\n"),
            };
            // A line ends with both characters, so that a value may end with a carriage return of its own;
            // and a mark of the order of bytes at the beginning of a file is none of its text.
            let written = format!("\n{}", lines.iter().map(line).collect::<String>());
            assert_eq!(parse_raw_env_file(&written).as_ref(), Ok(&lines), "{written}");
            Answer::Read("raw".to_owned())
        }
        Err(error) => place_holds(text, error.line, &error.text),
    }
}
