//! `.env` and `env_file` files: lines of `NAME=value`.

use super::interpolate::{Variables, interpolate};

/// What one line of an environment file is wrong about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct InvalidLine {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what would be accepted.
    pub text: String,
}

/// Reads an environment file: comments after `#`, an optional `export`, values bare, in single
/// quotes (taken as they are) or in double quotes (with `\n`, `\r`, `\t`, `\"`, `\\`, `\$`).
/// Variables in bare and double-quoted values come from `outer`, then from earlier lines. A name
/// without `=` has no value.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str, outer: &Variables) -> Result<Vec<(String, Option<String>)>, InvalidLine> {
    let mut known = outer.clone();
    let mut found = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (i, line) in text.lines().enumerate() {
        let at = |text: String| InvalidLine { line: i + 1, text };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim())),
            None => (line, None),
        };
        if !is_name(name) {
            return Err(at(format!(
                "{name:?} is not a variable name: expected letters, digits, '_', '.' and '-'"
            )));
        }
        let value = value.map(|v| self::value(v, &known)).transpose().map_err(at)?;
        if let Some(value) = &value
            && !outer.contains_key(name)
        {
            known.insert(name.to_owned(), value.clone());
        }
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

fn is_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn value(text: &str, known: &Variables) -> Result<String, String> {
    match text.chars().next() {
        Some('\'') => {
            let inner = &text[1..];
            let end = inner.find('\'').ok_or("a single quote is never closed")?;
            only_comment(&inner[end + 1..])?;
            Ok(inner[..end].to_owned())
        }
        Some('"') => {
            let (inner, rest) =
                double_quoted(&text[1..]).ok_or("a double quote is never closed")?;
            only_comment(rest)?;
            expand(&inner, known)
        }
        _ => {
            let end = comment_start(text).unwrap_or(text.len());
            expand(text[..end].trim_end(), known)
        }
    }
}

/// Where ` #` begins a comment in a bare value.
fn comment_start(text: &str) -> Option<usize> {
    if text.starts_with('#') {
        return Some(0);
    }
    text.find(" #").or_else(|| text.find("\t#"))
}

fn only_comment(rest: &str) -> Result<(), String> {
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(());
    }
    Err(format!("{rest:?} follows the closing quote"))
}

/// The text up to the closing quote with escapes undone, and what follows. `\$` becomes `$$`,
/// which interpolation undoes.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                '$' => out.push_str("$$"),
                c @ ('"' | '\\') => out.push(c),
                other => out.extend(['\\', other]),
            },
            c => out.push(c),
        }
    }
    None
}

fn expand(text: &str, known: &Variables) -> Result<String, String> {
    interpolate(text, known, &mut Vec::new()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let outer = Variables::from([("OUT".to_owned(), "outer".to_owned())]);
        let lines = parse(text, &outer).map_err(|e| e.to_string())?;
        let show = |(n, v): (String, Option<String>)| match v {
            Some(v) => format!("{n}={v}"),
            None => n,
        };
        Ok(lines.into_iter().map(show).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn lines() {
        let cases = [
            ("A=1\n# no\n\nB = two words # c", "A=1|B=two words"),
            ("export A=x#y", "A=x#y"),
            ("A='$B # \"' # c", "A=$B # \""),
            ("A=\"a\\nb \\$X \\\"\"", "A=a\nb $X \""),
            ("A=1\nB=${A}2\nC=$OUT\nOUT=x\nD=$OUT", "A=1|B=12|C=outer|OUT=x|D=outer"),
            ("A\nB=", "A|B="),
            ("\u{feff}A=1\r\nB=2\r\n", "A=1|B=2"),
            ("A=${NO:-def}", "A=def"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            ("A=1\n=2", "line 2: \"\" is not a variable name"),
            ("A B=2", "\"A B\" is not a variable name"),
            ("A='x", "never closed"),
            ("A=\"x", "never closed"),
            ("A='x' y", "follows the closing quote"),
            ("A=${x", "never closed"),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
