//! Stack files in, specs or findings out.

mod findings;
mod growth;
mod hostile;
mod keys;
mod payloads;
mod specs;
mod unsupported;

use std::collections::BTreeMap;

use super::{Files, Input, Loaded, Problems, Source, Variables, load};

/// Files that exist only here.
#[derive(Debug, Default)]
struct Memory(BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        match self.0.get(path).map(String::as_str) {
            Some("unreadable") => Err("permission denied".to_owned()),
            text => Ok(text.map(str::to_owned)),
        }
    }
}

fn memory() -> Memory {
    let files = [
        ("/app/web.env", "A=1\nB=two words # c\nC='$A'\nSHELL_VAR\n"),
        ("/app/more.env", "A=2\n"),
        ("/app/dollar.env", "PASS=pa$word\n"),
        ("/app/bad.env", "A=1\n=x\n"),
        ("/app/secret.env", "unreadable"),
        ("/app/password", "hunter2"),
    ];
    Memory(files.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
}

fn load_all(texts: &[&str]) -> Result<Loaded, Problems> {
    load_in("/app", texts)
}

fn load_in(dir: &str, texts: &[&str]) -> Result<Loaded, Problems> {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| Source {
            name: if i == 0 { "f.yaml".to_owned() } else { format!("f{}.yaml", i + 1) },
            text: (*text).to_owned(),
        })
        .collect();
    let variables =
        [("TAG", "1.2"), ("N", "3"), ("EMPTY", ""), ("HOME", "/root"), ("SHELL_VAR", "s")];
    let variables: Variables =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    load(&Input {
        name: Some("shop"),
        fallback_name: None,
        sources: &sources,
        variables: &variables,
        dir,
        files: &memory(),
    })
}

/// The problems of a text, one on each line; empty if there are none.
fn problems(text: &str) -> String {
    load_all(&[text]).err().map(|p| p.to_string()).unwrap_or_default()
}

/// The service `web` with these lines below it.
fn web(lines: &str) -> String {
    let indented: String = lines.lines().map(|l| format!("    {l}\n")).collect();
    format!("services:\n  web:\n    image: nginx\n{indented}")
}
