//! Variables in the values of a file: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR-default}`,
//! `${VAR:?error}`, `${VAR?error}`, `${VAR:+other}`, `${VAR+other}`, and `$$` for a dollar sign
//! (compose specification, "Interpolation"). Defaults may hold variables themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, Value, shorten};
use super::problem::Findings;

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Levels of `${A:-${B:-…}}` at the most.
const NESTING_MAX: usize = 20;
/// Bytes of one interpolated text at the most.
const RESULT_BYTES_MAX: usize = 1 << 20;
/// Bytes of all interpolated texts of one file at the most. A file of variables can double its longest
/// value with each line, and a stack file repeat a long one by aliases; what is sent to a manager has at
/// most 4 MiB, and a program takes 2 MiB of environment (execve(2): a quarter of the limit of its stack).
const TOTAL_BYTES_MAX: usize = 4 << 20;

/// Why a text cannot be interpolated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    #[error(
        "{0:?} holds '$' that begins no variable: expected $NAME, ${{NAME}} or $$ for '$' itself"
    )]
    Dollar(String),
    #[error("{0:?} holds \"${{\" that is never closed: expected '}}'")]
    Unclosed(String),
    #[error("{text:?} holds {expression:?}: expected NAME, or NAME with one of :- - :? ? :+ +")]
    Expression { text: String, expression: String },
    #[error("variables are nested deeper than {NESTING_MAX} levels")]
    Nesting,
    #[error("the result is longer than {RESULT_BYTES_MAX} bytes")]
    TooLong,
    #[error("the file grows beyond {TOTAL_BYTES_MAX} bytes when its variables are replaced")]
    FileTooLong,
    #[error("required variable {name} {problem}")]
    Required { name: String, problem: String },
}

/// Interpolates all values of a tree. Keys stay as they are.
pub(crate) fn tree(node: &mut Node, variables: &Variables, findings: &mut Findings) {
    let mut found = Found::default();
    texts(node, variables, &mut found, findings);
    for name in found.unset {
        findings.warn(format!("variable {name} is not set: an empty text takes its place"));
    }
}

fn texts(node: &mut Node, variables: &Variables, found: &mut Found, findings: &mut Findings) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar { text, plain } => {
            if !text.contains('$') {
                return;
            }
            match interpolate(text, variables, found) {
                Ok(result) => {
                    // `${EMPTY}` without quotes is an empty text, not a null.
                    *plain &= !result.is_empty();
                    *text = result;
                }
                Err(error) => findings.wrong(node.at, "", error.to_string()),
            }
        }
        Value::Seq(items) => items.iter_mut().for_each(|i| texts(i, variables, found, findings)),
        Value::Map(entries) => {
            for entry in entries {
                texts(&mut entry.value, variables, found, findings);
            }
        }
    }
}

/// What was found while the texts of one file were interpolated.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Variables that are not set and have no default.
    pub(crate) unset: BTreeSet<String>,
    /// Bytes of all results.
    bytes: usize,
}

/// Interpolates one text of a file.
pub(crate) fn interpolate(
    text: &str,
    variables: &Variables,
    found: &mut Found,
) -> Result<String, InvalidTemplate> {
    if found.bytes > TOTAL_BYTES_MAX {
        return Err(InvalidTemplate::FileTooLong);
    }
    let result = Template { variables, unset: &mut found.unset }.expand(text, 0)?;
    found.bytes += result.len();
    Ok(result)
}

struct Template<'a> {
    variables: &'a Variables,
    unset: &'a mut BTreeSet<String>,
}

impl Template<'_> {
    fn expand(&mut self, text: &str, depth: usize) -> Result<String, InvalidTemplate> {
        if depth > NESTING_MAX {
            return Err(InvalidTemplate::Nesting);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            out.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            rest = if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                after
            } else if let Some(after) = after.strip_prefix('{') {
                let end = closing(after).ok_or_else(|| InvalidTemplate::Unclosed(shorten(text)))?;
                out.push_str(&self.expression(text, &after[..end], depth)?);
                &after[end + 1..]
            } else {
                let len = name_len(after);
                if len == 0 {
                    return Err(InvalidTemplate::Dollar(shorten(text)));
                }
                out.push_str(&self.plain(&after[..len]));
                &after[len..]
            };
            // With the text up to the next one.
            let plain = rest.find('$').unwrap_or(rest.len());
            if out.len() + plain > RESULT_BYTES_MAX {
                return Err(InvalidTemplate::TooLong);
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn plain(&mut self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_else(|| {
            if !self.unset.contains(name) {
                self.unset.insert(name.to_owned());
            }
            String::new()
        })
    }

    fn expression(
        &mut self,
        text: &str,
        expression: &str,
        depth: usize,
    ) -> Result<String, InvalidTemplate> {
        let (name, rest) = expression.split_at(name_len(expression));
        let (colon, operator) = match rest.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let invalid = || InvalidTemplate::Expression {
            text: shorten(text),
            expression: format!("${{{}}}", shorten(expression)),
        };
        if name.is_empty() {
            return Err(invalid());
        }
        let value = self.variables.get(name);
        let given = value.is_some_and(|v| !colon || !v.is_empty());
        let mut chars = operator.chars();
        match (chars.next(), chars.as_str()) {
            (None, _) if !colon => Ok(self.plain(name)),
            (Some('-' | '?'), _) if given => Ok(value.cloned().unwrap_or_default()),
            (Some('-'), default) => self.expand(default, depth + 1),
            (Some('+'), other) if given => self.expand(other, depth + 1),
            (Some('+'), _) => Ok(String::new()),
            (Some('?'), error) => {
                let problem = self.expand(error, depth + 1)?;
                let problem = match (problem.is_empty(), value.is_some()) {
                    (false, _) => format!("is missing: {problem}"),
                    (true, true) => "is empty".to_owned(),
                    (true, false) => "is not set".to_owned(),
                };
                Err(InvalidTemplate::Required { name: name.to_owned(), problem })
            }
            _ => Err(invalid()),
        }
    }
}

/// Bytes of the variable name at the start of a text.
fn name_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_') {
        return 0;
    }
    bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
}

/// Where the brace that is open at the start of a text closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut previous = b' ';
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if previous == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(i),
            b'}' => depth -= 1,
            _ => {}
        }
        previous = byte;
    }
    None
}

/// Writes a text so that interpolation gives it back.
pub(crate) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let variables = Variables::from([
            ("A".to_owned(), "1".to_owned()),
            ("EMPTY".to_owned(), String::new()),
            ("DOLLAR".to_owned(), "$A".to_owned()),
        ]);
        let mut found = Found::default();
        let result = interpolate(text, &variables, &mut found).map_err(|e| e.to_string())?;
        let unset: Vec<String> = found.unset.into_iter().collect();
        Ok(if unset.is_empty() { result } else { format!("{result}|{}", unset.join(",")) })
    }

    #[test]
    fn forms() {
        let cases = [
            ("plain", "plain"),
            ("$A ${A}", "1 1"),
            ("$$A $${A}", "$A ${A}"),
            ("${B:-x}${B-y}", "xy"),
            ("${EMPTY:-x}", "x"),
            ("<${EMPTY-x}>", "<>"),
            ("${A:+yes}${EMPTY:+no}${EMPTY+set}${B+no}", "yesset"),
            ("${B:-${C:-${A}}}", "1"),
            ("${B:-a}b}", "ab}"),
            ("${A:?need}", "1"),
            ("$DOLLAR", "$A"),
            ("[$B]", "[]|B"),
            ("${A}ä${B:-ö}", "1äö"),
            ("${B:-{}}", "{}"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            ("a$", "begins no variable"),
            ("$1", "begins no variable"),
            ("${A", "never closed"),
            ("${}", "expected NAME"),
            ("${A:}", "expected NAME"),
            ("${A:=x}", "expected NAME"),
            ("${A b}", "expected NAME"),
            ("${B:?say why}", "required variable B is missing: say why"),
            ("${EMPTY:?}", "required variable EMPTY is empty"),
            ("${B?}", "required variable B is not set"),
        ];
        for (text, expected) in cases {
            let error = expand(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let tail = format!("${{A}}{}", "x".repeat(RESULT_BYTES_MAX));
        assert!(expand(&tail).is_err_and(|e| e.contains("longer than")));
        let deep = format!("{}x{}", "${B:-".repeat(30), "}".repeat(30));
        assert!(expand(&deep).unwrap_err().contains("nested deeper"));
    }
}
