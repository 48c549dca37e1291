//! Names that people give to things.

/// The longest name: one DNS label (RFC 1035 section 2.3.4), since names are looked up in DNS.
pub const NAME_LEN_MAX: usize = 63;

/// What a name must look like, for error messages.
pub const NAME_RULE: &str = "1 to 63 characters, letters, digits, '-' and '_' inside, \
     beginning and ending with a letter or digit, as a DNS label";

/// Whether `name` may name a service, network, volume, secret, config, stack or node.
///
/// The rule is SwarmKit's, so that names carry over: a DNS label that may also contain `_`, which
/// stacks use to join their own name and the service's.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= NAME_LEN_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let long = "a".repeat(64);
        let cases = [
            ("web", true),
            ("shop_web-1", true),
            ("9", true),
            ("Web", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("_a", false),
            ("a.b", false),
            ("a b", false),
            ("ä", false),
            ("a/b", false),
            (&long, false),
            (&long[..63], true),
        ];
        for (name, ok) in cases {
            assert_eq!(is_valid(name), ok, "{name:?}");
        }
    }
}
