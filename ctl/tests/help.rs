//! Help as the program itself gives it, for every command that it has.

#![allow(clippy::unwrap_used, reason = "a test: panics are its voice")]

use std::process::{Command, Output};

fn shoalctl(words: &[String]) -> Output {
    let dir = std::env::temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoalctl"));
    command.args(words).env("SHOAL_CONFIG", dir.join("no-such-directory")).env("HOME", dir);
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Names below a heading of a help page.
fn commands(page: &str) -> Vec<String> {
    let below = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = below.take_while(|line| !line.is_empty());
    // What a name is explained with may go over several lines.
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// What a noun alone gives: as Docker, its help on standard output, and no failure.
fn look(path: &[String], nouns: &mut usize, verbs: &mut usize) {
    let page = shoalctl(&[path, &["--help".to_owned()]].concat());
    assert!(page.status.success(), "{path:?}");
    let below = commands(&out(&page));
    if below.is_empty() {
        *verbs += 1;
        let page = out(&page);
        for part in ["Usage: shoalctl", "\nExamples:\n", "\nGlobal options:\n"] {
            assert!(page.contains(part), "{path:?}: {part}\n{page}");
        }
        return;
    }
    *nouns += 1;
    let alone = shoalctl(path);
    let err = String::from_utf8(alone.stderr.clone()).unwrap();
    assert_eq!((alone.status.code(), err.as_str()), (Some(0), ""), "{path:?}");
    assert_eq!(commands(&out(&alone)), below, "{path:?}");
    assert!(out(&alone).contains("Usage: shoalctl"), "{path:?}");
    for name in below {
        look(&[path, &[name]].concat(), nouns, verbs);
    }
}

#[test]
fn every_noun_alone_prints_its_help_and_ends_well() {
    let (mut nouns, mut verbs) = (0, 0);
    look(&[], &mut nouns, &mut verbs);
    assert!(nouns > 8 && verbs > 50, "{nouns} nouns, {verbs} verbs");
    let unknown = shoalctl(&["service".to_owned(), "no-such-verb".to_owned()]);
    assert_eq!(unknown.status.code(), Some(2), "what makes no sense is a mistake");
}
