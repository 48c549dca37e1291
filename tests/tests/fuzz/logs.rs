//! Logs of containers: json-file lines, as Docker writes them, too, in files that are full at some point.

use std::fs;
use std::path::Path;

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use shoal_agent_container::supervise::log::file_name;
use shoal_agent_container::supervise::setup::LOG_DIR;
use shoal_agent_runtime::testing::log_lines;
use shoal_agent_runtime::{LINE_MAX, LogLine, LogQuery, Stream};
use tempfile::TempDir;

use super::bytes::{insert, one};
use super::driver::{Answer, BOUNDS, Target, corpus, fuzz};
use super::{json, text};

/// What one entry adds to a line at most: what is read of one is bounded.
const ENTRY_MAX: usize = 256 << 10;

const WORDS: [&str; 28] = [
    "\n",
    "\r\n",
    "{",
    "}",
    "\"log\":",
    "\"log\":\"a\\n\"",
    "\"log\":null",
    "\"bytes\":\"/+k=\"",
    "\"bytes\":\"!\"",
    "\"bytes\":null",
    "\"stream\":\"stdout\"",
    "\"stream\":\"stderr\"",
    "\"stream\":\"stdin\"",
    "\"time\":\"2024-02-29T23:59:59Z\"",
    "\"time\":\"2024-02-30T25:61:61.9999999999Z\"",
    "\"time\":\"1969-12-31T23:59:59Z\"",
    "\"time\":\"2500-12-31T23:59:60.999999999Z\"",
    "\"time\":\"2024-01-01T00:00:00+02:00\"",
    "\"attrs\":{\"a\":\"b\"},",
    "\\n\"",
    "\\ud800",
    "\\u0000",
    "\\",
    "\"",
    "\0",
    "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2024-05-06T07:08:09.1Z\"}\n",
    "{\"log\":\"y\",\"stream\":\"stderr\",\"time\":\"2024-05-06T07:08:09.2Z\"}\n",
    ",",
];

fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    if random.random_bool(0.5) {
        return text::mutated(random, corpus, &WORDS);
    }
    // As trees, so that most entries stay some.
    let seed = String::from_utf8_lossy(one::<Vec<u8>>(random, corpus)).into_owned();
    let mut entries: Vec<Value> =
        seed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let others = entries.clone();
    if !entries.is_empty() {
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..entries.len());
            json::mutate(random, &mut entries[at], &others);
        }
    }
    let mut bytes = Vec::new();
    for entry in entries {
        let end = bytes.len();
        insert(&mut bytes, end, format!("{entry}\n").as_bytes());
    }
    bytes
}

/// Reads a log that stands in these files.
fn read(dir: &Path, files: &[&[u8]], query: LogQuery) -> Vec<LogLine> {
    let logs = dir.join(LOG_DIR);
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir(&logs).expect("a directory");
    for (number, bytes) in (3..).zip(files) {
        fs::write(logs.join(file_name(number)), bytes).expect("a file");
    }
    log_lines(dir, query).expect("a log")
}

fn check(dir: &Path, bytes: &[u8]) -> Answer {
    let all = LogQuery::default();
    let lines = read(dir, &[bytes], all);
    let told: usize = lines.iter().map(|line| line.text.len()).sum();
    assert!(told <= bytes.len(), "{told} bytes out of {}", bytes.len());
    for line in &lines {
        assert!(line.text.len() < LINE_MAX + ENTRY_MAX, "a line of {} bytes", line.text.len());
    }
    // Of a line that was cut off at its bound the rest follows; of others nothing is after their end.
    let whole = |line: &&LogLine| line.text.len() < LINE_MAX;
    let ended = lines.iter().filter(whole).filter(|line| line.text.last() != Some(&b'\n')).count();
    assert!(ended <= 2, "{ended} lines of two streams never end");

    // Where a file is full does not show.
    if let Some(middle) = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1) {
        let (first, second) = bytes.split_at(middle.0 + 1);
        assert_eq!(read(dir, &[first, second], all), lines, "in two files");
    }
    // The last ones, and those of one stream, are some of them.
    let tail = read(dir, &[bytes], LogQuery { tail: Some(2), ..all });
    assert_eq!(tail, lines[lines.len().saturating_sub(2)..], "the last two");
    let errors = read(dir, &[bytes], LogQuery { stdout: false, ..all });
    let expected: Vec<LogLine> =
        lines.iter().filter(|line| line.stream == Stream::Stderr).cloned().collect();
    assert_eq!(errors, expected, "of standard error");
    let Some(first) = lines.first() else { return Answer::Refused("no entry".to_owned()) };
    let since = read(dir, &[bytes], LogQuery { since_nanos: Some(first.at_nanos), ..all });
    let expected: Vec<LogLine> =
        lines.iter().filter(|line| line.at_nanos >= first.at_nanos).cloned().collect();
    assert_eq!(since, expected, "since the first");
    let until = read(dir, &[bytes], LogQuery { until_nanos: Some(first.at_nanos), ..all });
    assert!(until.iter().all(|line| line.at_nanos < first.at_nanos), "before the first");

    let kinds = [
        lines.iter().any(|line| line.stream == Stream::Stderr),
        lines.iter().any(|line| std::str::from_utf8(&line.text).is_err()),
        ended > 0,
        lines.iter().any(|line| line.text.iter().filter(|b| **b == b'\n').count() > 1),
    ];
    Answer::Read(format!("{kinds:?} {}", lines.len().min(9)))
}

#[test]
fn logs() {
    let target = Target { name: "logs", seeds: corpus("logs"), bounds: BOUNDS };
    let dir = TempDir::new().unwrap();
    fuzz(&target, make, |bytes| check(dir.path(), bytes));
}
