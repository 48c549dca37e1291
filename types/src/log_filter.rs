//! Which log lines a program writes when people name no more than a level.

use std::borrow::Cow;

/// The target of what was done with the cluster, and by whom.
const AUDIT: &str = "audit";

/// Plain levels with what they mean. The consensus library reports its own bookkeeping one level too
/// loudly for people who run a cluster: several lines for each heartbeat and each connection. What users
/// wrote is said at every level.
const LEVELS: [(&str, &str); 6] = [
    ("off", "off,audit=info"),
    ("error", "error,audit=info"),
    ("warn", "warn,audit=info"),
    ("info", "info,openraft=warn"),
    ("debug", "debug,openraft=info"),
    ("trace", "trace"),
];

/// The filter directives for what was asked for: a plain level is made quiet where it would flood the
/// log; directives are taken as they are. What was done with the cluster is written down in any case, but
/// for directives that name the audit themselves.
#[must_use]
pub fn directives(asked: &str) -> Cow<'_, str> {
    let level = LEVELS.iter().find(|(level, _)| level.eq_ignore_ascii_case(asked.trim()));
    if let Some((_, directives)) = level {
        return Cow::Borrowed(directives);
    }
    let target = |directive: &str| directive.split(['=', '[']).next().map(str::trim) == Some(AUDIT);
    if asked.split(',').any(target) {
        return Cow::Borrowed(asked);
    }
    let asked = if asked.trim().is_empty() { "error" } else { asked };
    Cow::Owned(format!("{asked},{AUDIT}=info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_is_made_quiet_and_the_audit_stays() {
        let table = [
            ("info", "info,openraft=warn"),
            ("INFO ", "info,openraft=warn"),
            ("debug", "debug,openraft=info"),
            ("error", "error,audit=info"),
            ("off", "off,audit=info"),
            ("trace", "trace"),
            ("info,openraft=info", "info,openraft=info,audit=info"),
            ("shoal_agent=debug", "shoal_agent=debug,audit=info"),
            ("shoal_agent[audit]=debug", "shoal_agent[audit]=debug,audit=info"),
            ("audited=warn", "audited=warn,audit=info"),
            ("warn, audit=off", "warn, audit=off"),
            ("audit,shoal_agent=debug", "audit,shoal_agent=debug"),
            ("", "error,audit=info"),
        ];
        for (asked, expected) in table {
            assert_eq!(directives(asked), expected, "{asked:?}");
        }
    }
}
