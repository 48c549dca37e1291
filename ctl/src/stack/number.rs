//! Numbers as YAML means them. Docker's tools read YAML 1.1 with the additions of Go's library, where
//! a number without quotes may be written in other bases: `0o17` and `017` are 15, as is `0xf`.

use super::node::{Node, Value};
use super::normalise::Normaliser;
use super::scalar;

/// Decimal numbers that are permission bits as people write them, in octal.
const MODES_MEANT_OCTAL: [&str; 16] = [
    "400", "440", "444", "500", "550", "555", "600", "640", "644", "660", "664", "666", "700",
    "750", "755", "777",
];

/// The decimal digits of a whole number that is written otherwise; `None` for any other text.
fn in_decimal(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = digits.replace('_', "");
    let of = |prefix: [&str; 2], radix| {
        let digits = plain.strip_prefix(prefix[0]).or_else(|| plain.strip_prefix(prefix[1]))?;
        u64::from_str_radix(digits, radix).ok()
    };
    let number = of(["0x", "0X"], 16)
        .or_else(|| of(["0o", "0O"], 8))
        .or_else(|| of(["0b", "0B"], 2))
        .or_else(|| of(["0", "0"], 8))
        .or_else(|| plain.parse().ok())?;
    Some(format!("{sign}{number}"))
}

impl Normaliser<'_> {
    /// The text of a number: without quotes as YAML means it, in quotes as it stands.
    pub(super) fn number(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.text(node, path)?;
        let plain = matches!(node.value, Value::Scalar { plain: true, .. });
        Some(in_decimal(&text).filter(|_| plain).unwrap_or(text))
    }

    /// Permission bits: a number without quotes is one, which is what `docker compose config` writes;
    /// in quotes it is octal. The result is octal.
    pub(super) fn file_mode(&mut self, node: &Node, path: &str) -> Option<Node> {
        let text = self.text(node, path)?;
        let plain = matches!(node.value, Value::Scalar { plain: true, .. });
        let read = match in_decimal(&text).filter(|_| plain).and_then(|n| n.parse::<u32>().ok()) {
            Some(mode) if mode <= 0o7777 => Ok(mode),
            Some(mode) => Err(format!(
                "{text} is {mode:#o}, which is no file mode: expected octal such as \"1777\" in \
                 quotes, or 0o1777"
            )),
            None => scalar::file_mode(&text),
        };
        match read {
            Ok(mode) => {
                if plain && MODES_MEANT_OCTAL.contains(&text.as_str()) {
                    self.findings.warn(format!(
                        "{path}: {text} without quotes is decimal, {mode:#o}: if octal is meant, \
                         write \"{text}\" or 0o{text}"
                    ));
                }
                Some(Node::text(node.at, format!("{mode:04o}")))
            }
            Err(problem) => {
                self.findings.wrong(node.at, path, problem);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        let cases = [
            ("12", Some("12")),
            ("0", Some("0")),
            ("017", Some("15")),
            ("0o17", Some("15")),
            ("0xF", Some("15")),
            ("0b1111", Some("15")),
            ("1_000", Some("1000")),
            ("-010", Some("-8")),
            ("+5", Some("5")),
            ("08", Some("8")),
            ("1.5", None),
            ("64m", None),
            ("", None),
            ("_1", None),
            ("x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(in_decimal(text).as_deref(), expected, "{text:?}");
        }
    }
}
