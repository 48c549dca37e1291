//! `.env` and `env_file` files: lines of `NAME=value`.

use super::interpolate::{Found, Variables, interpolate};

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

/// Reads an environment file as Docker Compose does (its page on the syntax of env files): one
/// `NAME=VALUE` or `NAME: VALUE` a line, comments after `#`, an optional `export`. Values are bare, in
/// single quotes (taken as they are, but for `\'`) or in double quotes (with `\n`, `\r`, `\t`, `\"`, `\\`,
/// `\$` and the like); quoted ones may go over several lines. Variables in bare and double-quoted
/// values come from `outer`, then from earlier lines. A name alone has no value.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str, outer: &Variables) -> Result<EnvFile, InvalidLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut known = outer.clone();
    let mut lines = Vec::new();
    let mut found = Found::default();
    let (mut rest, mut line) = (text.as_str(), 1);
    while !rest.is_empty() {
        // An entry may go over several lines: the one where it begins is told.
        let at = |text: String| InvalidLine { line, text };
        let (entry, after) = entry(rest).map_err(at)?;
        if let Some(Written { name, value }) = entry {
            let value = value.map(|v| v.resolved(&known, &mut found)).transpose();
            let value = value.map_err(at)?;
            if let Some(value) = &value
                && !outer.contains_key(name)
            {
                known.insert(name.to_owned(), value.clone());
            }
            lines.push((name.to_owned(), value));
        }
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    Ok(EnvFile { lines, unset: found.unset.into_iter().collect() })
}

/// One entry as it stands in a file.
struct Written<'a> {
    name: &'a str,
    value: Option<Value>,
}

/// A value, with its quotes and escapes undone.
struct Value {
    text: String,
    /// Whether variables in it take their values.
    expands: bool,
}

impl Value {
    fn resolved(self, known: &Variables, found: &mut Found) -> Result<String, String> {
        if !self.expands {
            return Ok(self.text);
        }
        interpolate(&self.text, known, found).map_err(|e| e.to_string())
    }
}

/// The entry at the beginning of `text`, none if its line is empty or a comment, and what follows it.
fn entry(text: &str) -> Result<(Option<Written<'_>>, &str), String> {
    let (line, next) = text.split_once('\n').unwrap_or((text, ""));
    let bare = line.trim();
    if bare.is_empty() || bare.starts_with('#') {
        return Ok((None, next));
    }
    let begin = line.trim_start();
    let begin = begin.strip_prefix("export ").map_or(begin, str::trim_start);
    let Some(end) = begin.find(['=', ':']) else {
        let name = begin.split(" #").next().unwrap_or(begin).trim();
        return Ok((Some(Written { name: named(name)?, value: None }), next));
    };
    let name = named(begin[..end].trim_end())?;
    // From here on a quote may reach over the end of the line.
    let offset = text.len() - next.len() - usize::from(text.len() > line.len());
    let value_at = offset - (begin.len() - end - 1);
    let value = text[value_at..].trim_start_matches([' ', '\t']);
    let (value, rest) = match value.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let (text, rest) = quoted(&value[1..], quote)?;
            let (same_line, next) = rest.split_once('\n').unwrap_or((rest, ""));
            only_comment(same_line)?;
            (Value { text, expands: quote == '"' }, next)
        }
        _ => {
            let line = value.split('\n').next().unwrap_or_default();
            let end = comment_start(line).unwrap_or(line.len());
            (Value { text: line[..end].trim_end().to_owned(), expands: true }, next)
        }
    };
    Ok((Some(Written { name, value: Some(value) }), rest))
}

/// Reads an environment file as `docker service create` does: a value is the rest of its line as it
/// stands there, quotes and dollar signs included.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse_raw(text: &str) -> Result<Vec<(String, Option<String>)>, InvalidLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // As Docker's reader of lines: of a last line that nothing ends, too, one carriage return is none of it.
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let lines = lines.enumerate().map(|(i, line)| (i + 1, line.trim_start()));
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

fn named(name: &str) -> Result<&str, String> {
    // As compose-go: whatever a name begins with.
    if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c)) {
        return Ok(name);
    }
    Err(format!("{name:?} is not a variable name: expected letters, digits, '_', '.' and '-'"))
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

/// The text up to the closing quote with escapes undone, and what follows.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((out, &text[i + 1..])),
            '\\' => match chars.next() {
                Some((_, c)) if c == quote => out.push(c),
                Some((_, c)) if quote == '"' => out.push_str(&unescaped(c)),
                Some((_, c)) => out.extend(['\\', c]),
                None => break,
            },
            c => out.push(c),
        }
    }
    let kind = if quote == '"' { "double" } else { "single" };
    Err(format!("a {kind} quote is never closed"))
}

/// What a backslash and this character mean in double quotes. `\$` becomes `$$`, which interpolation
/// undoes.
fn unescaped(c: char) -> String {
    let one = match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        '$' => return "$$".to_owned(),
        other => return format!("\\{other}"),
    };
    one.to_string()
}

#[cfg(test)]
mod tests;
