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

/// What an environment file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvFile {
    /// Names in their order, with their values.
    pub lines: Vec<(String, Option<String>)>,
    /// Variables in values that nobody has set, so that nothing took their place.
    pub unset: Vec<String>,
}

impl EnvFile {
    /// What people should know, of a file of this name.
    pub fn warnings<'a>(&'a self, file: &'a str) -> impl Iterator<Item = String> + 'a {
        self.unset.iter().map(move |name| {
            let hint = "write $$ for a dollar sign, or put the value in single quotes";
            format!("{file}: variable {name} is not set: an empty text takes its place; {hint}")
        })
    }
}

/// Reads an environment file: comments after `#`, an optional `export`, values bare, in single
/// quotes (taken as they are) or in double quotes (with `\n`, `\r`, `\t`, `\"`, `\\`, `\$`).
/// Variables in bare and double-quoted values come from `outer`, then from earlier lines. A name
/// without `=` has no value.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str, outer: &Variables) -> Result<EnvFile, InvalidLine> {
    let mut known = outer.clone();
    let mut found = EnvFile::default();
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
        let value = value.map(|v| self::value(v, &known, &mut found.unset)).transpose();
        let value = value.map_err(at)?;
        if let Some(value) = &value
            && !outer.contains_key(name)
        {
            known.insert(name.to_owned(), value.clone());
        }
        found.lines.push((name.to_owned(), value));
    }
    found.unset.sort();
    found.unset.dedup();
    Ok(found)
}

/// Reads an environment file as `docker service create` does: a value is the rest of its line as it
/// stands there, quotes and dollar signs included.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse_raw(text: &str) -> Result<Vec<(String, Option<String>)>, InvalidLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim_start()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read = |(number, line): (usize, &str)| {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            let text = format!(
                "{name:?} is not a variable name: expected NAME=VALUE without spaces in the name"
            );
            return Err(InvalidLine { line: number, text });
        }
        Ok((name.to_owned(), value))
    };
    lines.map(read).collect()
}

fn is_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn value(text: &str, known: &Variables, unset: &mut Vec<String>) -> Result<String, String> {
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
            expand(&inner, known, unset)
        }
        _ => {
            let end = comment_start(text).unwrap_or(text.len());
            expand(text[..end].trim_end(), known, unset)
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

fn expand(text: &str, known: &Variables, unset: &mut Vec<String>) -> Result<String, String> {
    interpolate(text, known, unset).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let outer = Variables::from([("OUT".to_owned(), "outer".to_owned())]);
        let lines = parse(text, &outer).map_err(|e| e.to_string())?.lines;
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
    fn what_nobody_set_is_told() {
        let file =
            parse("PASS=pa$word\nA='$quoted'\nB=$PASS ${OUT-} ${word}", &Variables::new()).unwrap();
        assert_eq!(file.unset, ["word"]);
        let told: Vec<String> = file.warnings("x.env").collect();
        assert!(told[0].starts_with("x.env: variable word is not set"), "{told:?}");
    }

    #[test]
    fn raw_lines_are_taken_as_they_are() {
        let read = |text: &str| parse_raw(text).map_err(|e| e.to_string());
        let line = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let text = "\u{feff}# no\n\n  A=\"x\" #y \nPASS=pa$word\nHERE\nB=\r\n";
        let expected = [
            line("A", Some("\"x\" #y ")),
            line("PASS", Some("pa$word")),
            line("HERE", None),
            line("B", Some("")),
        ];
        assert_eq!(read(text).unwrap(), expected);
        assert!(
            read("A=1\nA B=2").unwrap_err().starts_with("line 2: \"A B\" is not a variable name")
        );
        assert!(read("=2").is_err());
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
