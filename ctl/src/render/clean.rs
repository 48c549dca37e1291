//! Text that others wrote, made fit for a terminal: nothing in it moves the cursor, changes colours,
//! talks to the terminal or turns the direction of what follows; what would is shown as an escape.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a terminal, or a reader's eye, would be led astray by a character: control characters of
/// both sets (C1 holds a one-character CSI), separators of lines that are no newline, what turns
/// the direction of text (Unicode's bidirectional algorithm, UAX 9), and what is never seen at all.
const fn is_harmful(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Text of several lines: newlines and tabs stay, what harms is shown as an escape.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    rewritten(text, |c| is_harmful(c) && !matches!(c, '\n' | '\t'), escape)
}

/// Text that has to be one line, such as a cell: newlines and tabs become blanks.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    rewritten(text, is_harmful, |out, c| match c {
        '\n' | '\t' => out.push(' '),
        c => escape(out, c),
    })
}

/// JSON stays the same document: within its strings, the only place where such characters can be,
/// they become JSON's own escapes.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let harms = |c| is_harmful(c) && !matches!(c, '\n' | '\t');
    rewritten(text, harms, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn escape(out: &mut String, c: char) {
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\t' => out.write_str("\\t"),
        '\r' => out.write_str("\\r"),
        '\0'..='\u{9f}' => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

fn rewritten(
    text: &str,
    harms: impl Fn(char) -> bool,
    replace: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&harms) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harms(c) { replace(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn what_would_act_on_a_terminal_is_shown() {
        let cases = [
            ("plain, ünï → 漢字 👩‍👩‍👧", "plain, ünï → 漢字 👩‍👩‍👧"),
            ("a\x1b[2Jb", "a\\x1b[2Jb"),
            ("title\x1b]0;x\x07", "title\\x1b]0;x\\x07"),
            ("one character\u{9b}31m", "one character\\x9b31m"),
            ("over\rwritten", "over\\rwritten"),
            ("back\x08\x7f", "back\\x08\\x7f"),
            ("user\u{202e}nimda", "user\\u{202e}nimda"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
        ];
        for (text, shown) in cases {
            assert_eq!(lines(text), shown, "{text:?}");
            assert_eq!(one_line(text), shown, "{text:?}");
        }
        assert_eq!(lines("a\n\tb"), "a\n\tb");
        assert_eq!(one_line("a\n\tb"), "a  b");
    }

    #[test]
    fn json_says_the_same_as_before() {
        let value =
            serde_json::json!({ "a": "\u{9b}x\x1b \u{202e} \u{e0041} \n", "b": [1, "\x7f"] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let cleaned = json(&text);
            assert!(!cleaned.contains(|c| is_harmful(c) && c != '\n'), "{cleaned:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
        }
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    /// Whoever writes to a terminal in another way writes what nobody has cleaned.
    #[test]
    fn nothing_else_writes_to_the_terminal() {
        // Bytes of containers, which their reader asked for as they are; a fixed text; asking the
        // terminal for its size; bars, which draw cleaned words.
        let allowed = [
            "render/mod.rs",
            "render/clean.rs",
            "commands/exec.rs",
            "commands/service/logs.rs",
            "terminal.rs",
            "progress/reporter.rs",
        ];
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        sources(&src, &mut found);
        assert!(found.len() > 40, "{found:?}");
        for path in found {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            for way in ["stdout()", "stderr()", "println!", "print!("] {
                assert!(allowed.contains(&name.as_str()) || !text.contains(way), "{name}: {way}");
            }
        }
    }
}
