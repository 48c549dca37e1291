//! What a stack file can say and shoal cannot do stands in a document.

use super::super::schema::{ATTACHMENT, ENV_FILE, Key, MOUNT, PORT, ROOT, Rule, Shape};

/// Every key that is refused, or is only allowed to say what is the case anyway.
fn refused() -> Vec<(String, String)> {
    let mut all = Vec::new();
    of_keys(&mut all, "", ROOT);
    all
}

fn of_keys(all: &mut Vec<(String, String)>, above: &str, keys: &[Key]) {
    for key in keys {
        let path = format!("{above}{}", key.name);
        match key.rule {
            Rule::Is(shape) => of_shape(all, &path, &shape),
            Rule::Obsolete => all.push((path, "means nothing any more; a warning".to_owned())),
            Rule::Refused { reason, hint: "" } => all.push((path, reason.to_owned())),
            Rule::Refused { reason, hint } => all.push((path, format!("{reason}; {hint}"))),
            Rule::OnlyFalse { reason } => all.push((path, format!("{reason}, unless it is false"))),
        }
    }
}

fn of_shape(all: &mut Vec<(String, String)>, path: &str, shape: &Shape) {
    match shape {
        Shape::Object(keys) => of_keys(all, &format!("{path}."), keys),
        Shape::MapOf(shape) => of_shape(all, &format!("{path}.*"), shape),
        Shape::ListOf(shape) => of_shape(all, &format!("{path}[]"), shape),
        Shape::Ports => of_keys(all, &format!("{path}[]."), PORT),
        Shape::Mounts => of_keys(all, &format!("{path}[]."), MOUNT),
        Shape::Attachments => of_keys(all, &format!("{path}.*."), ATTACHMENT),
        Shape::EnvFiles => of_keys(all, &format!("{path}[]."), ENV_FILE),
        _ => {}
    }
}

#[test]
fn the_document_lists_exactly_the_keys_that_are_refused() {
    let document = include_str!("../../../../docs/unsupported.md");
    let rows: Vec<String> =
        refused().into_iter().map(|(key, why)| format!("| `{key}` | {why} |")).collect();
    let section = document.split("## Stack files").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(listed, rows, "docs/unsupported.md is to have:\n{}", rows.join("\n"));
}
