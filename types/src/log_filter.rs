//! Which log lines a program writes when people name no more than a level.

use std::borrow::Cow;

/// Plain levels with what they mean. The consensus library reports its own bookkeeping one level too
/// loudly for people who run a cluster: several lines for each heartbeat and each connection. What users
/// wrote is said at every level that says anything.
const LEVELS: [(&str, &str); 6] = [
    ("off", "off"),
    ("error", "error,audit=info"),
    ("warn", "warn,audit=info"),
    ("info", "info,openraft=warn"),
    ("debug", "debug,openraft=info"),
    ("trace", "trace"),
];

/// The filter directives for what was asked for: a plain level is made quiet where it would flood the
/// log; directives are taken as they are.
#[must_use]
pub fn directives(asked: &str) -> Cow<'_, str> {
    let level = LEVELS.iter().find(|(level, _)| level.eq_ignore_ascii_case(asked.trim()));
    level.map_or(Cow::Borrowed(asked), |(_, directives)| Cow::Borrowed(*directives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_is_made_quiet_and_directives_stay() {
        let table = [
            ("info", "info,openraft=warn"),
            ("INFO ", "info,openraft=warn"),
            ("debug", "debug,openraft=info"),
            ("error", "error,audit=info"),
            ("off", "off"),
            ("trace", "trace"),
            ("info,openraft=info", "info,openraft=info"),
            ("shoal_agent=debug", "shoal_agent=debug"),
            ("nonsense", "nonsense"),
            ("", ""),
        ];
        for (asked, expected) in table {
            assert_eq!(directives(asked), expected, "{asked:?}");
        }
    }
}
