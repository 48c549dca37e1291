//! Points in time for people.

use std::time::Duration;

use shoal_types::time::Timestamp;

/// Now, by this host's clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or(0, |d| d.as_nanos());
    Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Roughly how long something took, as Docker says it: `3 minutes`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "about a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "about an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// A setting in its largest whole unit: `90 days`, `1500ms`.
pub(crate) fn exact(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, name) in [(86400, "days"), (3600, "hours"), (60, "minutes")] {
        if duration.subsec_nanos() == 0 && seconds > unit && seconds.is_multiple_of(unit) {
            return format!("{} {name}", seconds / unit);
        }
    }
    format!("{duration:?}")
}

/// `3 minutes ago`; a clock that is ahead of ours counts as now.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human(now.since(then)))
}

/// Reads a point in time: RFC 3339, with less than that in this host's time zone (`2026-01-31`,
/// `2026-01-31T12:00:00`), seconds since the Unix epoch, or how long ago it was (`10m`).
///
/// # Errors
/// What would be accepted.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    parse_in(text, now, &jiff::tz::TimeZone::system())
}

fn parse_in(text: &str, now: Timestamp, zone: &jiff::tz::TimeZone) -> Result<Timestamp, String> {
    if let Ok(ago) = crate::stack::scalar::duration(text) {
        let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        return Ok(Timestamp::from_nanos(now.as_nanos().saturating_sub(ago)));
    }
    if let Ok(seconds) = text.parse::<u64>()
        && seconds < u64::MAX / 1_000_000_000
    {
        return Ok(Timestamp::from_secs(seconds));
    }
    let civil = || {
        // An offset or a zone that cannot be read must not pass for none.
        let known = text.bytes().all(|b| b.is_ascii_digit() || b"-:.T ".contains(&b));
        let civil = text.parse::<jiff::civil::DateTime>().ok().filter(|_| known)?;
        civil.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
    };
    let parsed = text.parse::<jiff::Timestamp>().ok().or_else(civil);
    parsed
        .map(jiff::Timestamp::as_nanosecond)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Timestamp::from_nanos)
        .ok_or_else(|| {
            format!(
                "{text:?} is not a time: expected such as 10m, 2026-01-31, 2026-01-31T12:00:00, \
             2026-01-31T12:00:00Z or seconds"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_exactly() {
        for (millis, expected) in [
            (100, "100ms"),
            (1500, "1.5s"),
            (60_000, "60s"),
            (90_000, "90s"),
            (120_000, "2 minutes"),
            (7_200_000, "2 hours"),
            (90 * 86_400_000, "90 days"),
            (90 * 86_400_000 + 1, "7776000.001s"),
        ] {
            assert_eq!(exact(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn durations_in_words() {
        let cases = [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "about a minute"),
            (119, "about a minute"),
            (180, "3 minutes"),
            (3599, "59 minutes"),
            (3600, "about an hour"),
            (2 * 3600, "2 hours"),
            (3 * 86400, "3 days"),
            (20 * 86400, "2 weeks"),
            (90 * 86400, "3 months"),
            (3 * 365 * 86400, "3 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(human(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn points_in_time() {
        let now = Timestamp::from_secs(1_000_000);
        assert_eq!(parse("10m", now), Ok(Timestamp::from_secs(1_000_000 - 600)));
        assert_eq!(parse("5", now), Ok(Timestamp::from_secs(5)));
        assert_eq!(parse("1970-01-01T00:00:07Z", now), Ok(Timestamp::from_secs(7)));
        assert!(parse("yesterday", now).is_err());
        let east = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        for (text, seconds) in [
            ("1970-01-02", 22 * 3600),
            ("1970-01-01T02:00", 0),
            ("1970-01-01T02:00:07", 7),
            ("1970-01-01 02:00:07", 7),
            ("1970-01-01T02:00:07Z", 2 * 3600 + 7),
            ("1970-01-01T02:00:07+01:00", 3600 + 7),
        ] {
            assert_eq!(parse_in(text, now, &east), Ok(Timestamp::from_secs(seconds)), "{text}");
        }
        for text in ["1970-13-01", "1970-01-02T25:00", "1970-01-01T02:00:07[Nowhere/City]"] {
            assert!(parse_in(text, now, &east).is_err(), "{text}");
        }
        assert_eq!(ago(now, Timestamp::from_secs(1_000_180)), "3 minutes ago");
        assert_eq!(ago(now, Timestamp::from_secs(1)), "less than a second ago");
    }
}
