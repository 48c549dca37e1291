//! Files that mean harm.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{load_all, problems};

const GOOD: &str = "\
x-env: &env {A: '1', B: \"two\"}
services:
  web:
    image: nginx:${TAG}
    command: sh -c 'sleep 1'
    environment: {<<: *env, C: $$x}
    ports: ['8080:80/tcp', {target: 90, published: 90, mode: host}]
    volumes: ['data:/data:ro', './a:/b', {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    networks: [front]
    healthcheck: {test: [CMD, 'true'], interval: 1m30s}
    deploy:
      mode: replicated
      replicas: 2
      resources: {limits: {cpus: '0.5', memory: 64m}}
networks: {front: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}
volumes: {data: {}}
";

#[test]
fn the_good_file_is_good() {
    assert_eq!(problems(GOOD), "");
}

fn bomb(levels: usize, width: usize, leaf: &str) -> String {
    let mut text = format!("x-0: &a0 {leaf}\n");
    for level in 1..=levels {
        let aliases = vec![format!("*a{}", level - 1); width].join(", ");
        let _ = writeln!(text, "x-{level}: &a{level} [{aliases}]");
    }
    text
}

#[test]
fn aliases_that_explode_are_refused_at_once() {
    let long = format!("'{}'", "x".repeat(100_000));
    let deep: String = (1..200).map(|i| format!("x-{i}: &a{i} [*a{}]\n", i - 1)).collect();
    let cases = [
        (bomb(9, 9, "lol"), "nodes when its aliases are replaced"),
        (bomb(30, 2, "lol"), "nodes when its aliases are replaced"),
        (bomb(3, 10, &long), "bytes when its aliases are replaced"),
        (format!("x-0: &a0 x\n{deep}"), "nesting is deeper than 100 levels"),
        (format!("x-a: {}{}", "[".repeat(150), "]".repeat(150)), "nesting is deeper"),
        ("[".repeat(100_000), "f.yaml:1:"),
        ("x".repeat(5 << 20), "the file is larger than"),
        (
            format!("x-a: {}{}{}", "&a [".repeat(90), "x, ".repeat(10_000), "]".repeat(90)),
            "nodes when",
        ),
        (
            format!("x-a: &a '{}$HOME'\nx-b: [{}]", "x".repeat(25_000), "*a, ".repeat(500)),
            "when its variables",
        ),
        (format!("x: {}", "? ".repeat(50_000)), "f.yaml:1:"),
    ];
    for (text, expected) in cases {
        let start = Instant::now();
        let found = problems(&text);
        assert!(found.contains(expected), "{}", &found[..found.len().min(500)]);
        assert!(start.elapsed() < Duration::from_secs(1), "{expected}: {:?}", start.elapsed());
    }
}

#[test]
fn a_file_that_is_wrong_everywhere_does_not_say_so_for_ever() {
    let mut text = "services:\n  web:\n    image: i\n".to_owned();
    for i in 0..10_000 {
        let _ = writeln!(text, "    nokey{i}: 1");
    }
    let start = Instant::now();
    assert_eq!(load_all(&[&text]).unwrap_err().list.len(), 100);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is cut out of a good file, put into it or doubled in it, the answer is a spec or
    /// findings, never a panic.
    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, "[ -~äé\\n]{0,6}"), 1..8),
    ) {
        let mut chars: Vec<char> = GOOD.chars().collect();
        for (index, cut, put) in edits {
            let at = index.index(chars.len() + 1);
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, put.chars());
        }
        let text: String = chars.into_iter().collect();
        let _ = load_all(&[&text]);
        let _ = load_all(&[GOOD, &text]);
    }

    #[test]
    fn texts_out_of_yaml_words_never_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "services", "web", "image", ":", ": ", "- ", "\n", "  ", "    ", "{", "}", "[", "]", ",",
            "&a ", "*a", "<<", "!!str ", "!x ", "|", ">", "'", "\"", "#", "?", "%", "$", "${A:-", "}",
            "---", "...", "\t", "deploy", "ports", "80:80", "~", "null", "é",
        ]), 0..60),
    ) {
        let _ = load_all(&[&words.concat()]);
    }
}
