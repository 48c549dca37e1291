//! Signals by name and number (signal(7), Linux numbers on all but MIPS, Alpha and SPARC).

const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("POLL", 29),
];

/// The first and last real-time signal that programs can use with glibc.
const RT: (i32, i32) = (34, 64);

/// The signal's number, from a name with or without `SIG` in any case, `RTMIN+n`, `RTMAX-n`, or a
/// number from 1 to 64.
#[must_use]
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Some(*number);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RT.0 + offset(rest, '+')?
    } else {
        RT.1 - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RT.0..=RT.1).contains(&number).then_some(number)
}

/// The signal's name such as `SIGTERM`, or its number as text.
#[must_use]
pub fn name(number: i32) -> String {
    match NAMES.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN", Some(34)),
            ("RTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+99", None),
            ("SIGFOO", None),
            ("", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(40), "signal 40");
    }
}
