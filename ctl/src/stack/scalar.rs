//! Small texts with a meaning: durations, sizes, amounts of CPU, command lines. Used by stack
//! files and by flags alike.

use std::time::Duration;

/// Reads a duration as Go writes it: numbers with units `ns`, `us`, `ms`, `s`, `m`, `h`, such as
/// `1m30s` or `1.5h`; or `0`.
///
/// # Errors
/// What would be accepted.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    go_duration(text).ok_or_else(|| {
        let unit = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
        let why = if unit { "has no unit" } else { "is not a duration" };
        format!("{text:?} {why}: expected such as 500ms, 30s or 1m30s")
    })
}

fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let mut rest = text;
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(scaled(number, nanos)?)?;
        rest = tail;
    }
    // What the wire carries: nanoseconds that also fit Go's signed ones.
    i64::try_from(total).ok()?;
    Some(Duration::from_nanos(total))
}

/// A decimal number times `unit`, rounded down; `None` if it is none or too large.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    const PRECISION: u128 = 10_u128.pow(18);
    let mut place = u128::from(unit) * PRECISION;
    let mut parts = 0;
    for digit in fraction.bytes().take(18) {
        place /= 10;
        parts += u128::from(digit - b'0') * place;
    }
    u64::try_from(u128::from(whole.checked_mul(unit)?) + parts / PRECISION).ok()
}

/// Reads a number of bytes: a number with an optional unit `b`, `k`, `m`, `g`, `t`, also as `kb`
/// and `KiB`, all powers of 1024 as everywhere in Docker.
///
/// # Errors
/// What would be accepted.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => u32::MAX,
    };
    1_u64.checked_shl(shift).and_then(|unit| scaled(number, unit)).ok_or_else(|| {
        format!("{text:?} is not a number of bytes: expected such as 512k, 64m or 1.5g")
    })
}

/// Reads an amount of CPU, such as `0.5`, in billionths of one CPU.
///
/// # Errors
/// What would be accepted.
pub(crate) fn nano_cpus(text: &str) -> Result<u64, String> {
    let fraction = text.split_once('.').map_or("", |(_, f)| f);
    if fraction.len() > 9 {
        return Err(format!("{text:?} is too precise: expected at most 9 decimals"));
    }
    scaled(text, 1_000_000_000)
        .or_else(|| exponential(text))
        .ok_or_else(|| format!("{text:?} is not an amount of CPU: expected such as 0.5 or 2"))
}

/// `5e-1`, as programs print small numbers, times a thousand million.
fn exponential(text: &str) -> Option<u64> {
    let (number, exponent) = text.split_once(['e', 'E'])?;
    let exponent = exponent.parse::<i32>().ok()?.checked_add(9)?;
    match u32::try_from(exponent) {
        Ok(places) => scaled(number, 10_u64.checked_pow(places)?),
        Err(_) => None,
    }
}

/// Reads a whole number.
///
/// # Errors
/// What would be accepted.
pub(crate) fn whole(text: &str) -> Result<u64, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u64>()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| format!("{text:?} is not a whole number of 0 or more"))
}

/// Reads permission bits in octal, such as `1777`.
///
/// # Errors
/// What would be accepted.
pub(crate) fn file_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{text:?} is not a file mode: expected octal such as 1777"))
}

/// Splits a command line into words as a POSIX shell does, without expanding anything.
///
/// # Errors
/// A quote or an escape that never ends.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\\' => {
                let next = chars.next().ok_or("it ends in a lone backslash")?;
                if next != '\n' {
                    word.get_or_insert_default().push(next);
                }
            }
            '\'' => loop {
                let word = word.get_or_insert_default();
                match chars.next().ok_or("a single quote is never closed")? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                let word = word.get_or_insert_default();
                match chars.next().ok_or("a double quote is never closed")? {
                    '"' => break,
                    '\\' => match chars.next().ok_or("a double quote is never closed")? {
                        '\n' => {}
                        c @ ('"' | '\\' | '$' | '`') => word.push(c),
                        other => word.extend(['\\', other]),
                    },
                    c => word.push(c),
                }
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0", Some(0)),
            ("500ms", Some(500_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("3us", Some(3_000)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1x", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("999999999999h", None),
            ("1s ", None),
        ];
        for (text, nanos) in cases {
            assert_eq!(duration(text).ok(), nanos.map(Duration::from_nanos), "{text:?}");
        }
        assert!(duration("30").unwrap_err().contains("has no unit"));
    }

    #[test]
    fn sizes() {
        let cases = [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1.5g", Some(3 << 29)),
            ("10b", Some(10)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("-1", None),
            ("99999999999999t", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn cpus() {
        let cases = [
            ("0.5", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            ("0.000000001", Some(1)),
            (".25", Some(250_000_000)),
            ("0.0000000001", None),
            ("half", None),
            ("-1", None),
            ("1e3", Some(1_000_000_000_000)),
            ("5e-1", Some(500_000_000)),
            ("1.5E-3", Some(1_500_000)),
            ("1e-10", None),
            ("1e", None),
            ("1e99", None),
        ];
        for (text, expected) in cases {
            assert_eq!(nano_cpus(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn command_lines() {
        let cases: [(&str, &[&str]); 8] = [
            ("nginx -g 'daemon off;'", &["nginx", "-g", "daemon off;"]),
            ("a  b\tc", &["a", "b", "c"]),
            ("\"a b\"c", &["a bc"]),
            ("''", &[""]),
            ("a\\ b", &["a b"]),
            ("\"\\$x \\n\"", &["$x \\n"]),
            ("sh -c # x", &["sh", "-c", "#", "x"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text).unwrap(), expected, "{text:?}");
        }
        for text in ["'a", "\"a", "a\\"] {
            assert!(words(text).is_err(), "{text:?}");
        }
    }
}
