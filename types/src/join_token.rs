//! Join tokens: the text an operator carries to a new host.
//!
//! `SHOAL-1-<root digest>-<secret>`: the SHA-256 of the cluster's root certificate (DER), by which
//! the new host knows that it talks to the right cluster before it says anything, and a secret by
//! which the cluster knows that the host was invited. Both numbers are written in base 36.

use std::fmt;

/// What every token begins with.
const PREFIX: &str = "SHOAL";
/// The only version so far.
const VERSION: &str = "1";
/// Base-36 digits that hold 256 bits.
const DIGEST_LEN: usize = 50;
/// Base-36 digits that hold 128 bits.
const SECRET_LEN: usize = 25;

/// The SHA-256 of a root certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootDigest(pub [u8; 32]);

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base36(&self.0, DIGEST_LEN))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret half of a token: 128 random bits. It never shows itself in `Debug`, has no
/// `Display`, and must be compared in constant time, so there is no `PartialEq` either.
#[derive(Clone, Copy)]
pub struct JoinSecret([u8; 16]);

impl JoinSecret {
    /// From 128 random bits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bits, for comparing and storing.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The text that stands in a token, for storing it. For people's eyes, never for a log.
    #[must_use]
    pub fn reveal(&self) -> String {
        to_base36(&self.0, SECRET_LEN)
    }
}

impl std::str::FromStr for JoinSecret {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        from_base36("secret", text, SECRET_LEN).map(Self)
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(redacted)")
    }
}

/// A parsed join token. `Debug` hides the secret; [`JoinToken::reveal`] writes the whole token.
#[derive(Clone, Copy, Debug)]
pub struct JoinToken {
    /// Digest of the root certificate that the cluster's managers must present.
    pub root: RootDigest,
    /// What the cluster compares; it also decides the role.
    pub secret: JoinSecret,
}

/// Why a text is no join token. The secret never appears in these messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJoinToken {
    /// Not a shoal token at all.
    #[error("a join token begins with {PREFIX}-{VERSION}-, this text does not")]
    Prefix,
    /// A token of another version of shoal.
    #[error("join token has version {found:?}, this program knows version {VERSION}")]
    Version {
        /// The second field of the token.
        found: String,
    },
    /// Something was lost when the token was copied.
    #[error("join token is truncated: its {part} has {found} characters of {expected}")]
    Truncated {
        /// `root digest` or `secret`.
        part: &'static str,
        /// Characters present.
        found: usize,
        /// Characters needed.
        expected: usize,
    },
    /// Something was added when the token was copied.
    #[error("join token is too long: its {part} has {found} characters instead of {expected}")]
    TooLong {
        /// `root digest`, `secret` or `end`.
        part: &'static str,
        /// Characters present.
        found: usize,
        /// Characters needed.
        expected: usize,
    },
    /// A character that base 36 does not have.
    #[error("join token has the character {found:?} in its {part}, expected 0-9 or a-z")]
    Character {
        /// `root digest` or `secret`.
        part: &'static str,
        /// The first wrong character.
        found: char,
    },
    /// All characters are right, but no such number was ever printed.
    #[error("join token's {part} is not a number that a token can hold: it was mistyped")]
    OutOfRange {
        /// `root digest` or `secret`.
        part: &'static str,
    },
}

impl JoinToken {
    /// The text to hand to the new host. Holds the secret: for people's eyes, never for a log.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}-{VERSION}-{}-{}", self.root, self.secret.reveal())
    }
}

impl std::str::FromStr for JoinToken {
    type Err = InvalidJoinToken;

    /// Reads a token, with white space around it forgiven.
    ///
    /// # Errors
    /// The first thing that is wrong, from left to right.
    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let mut parts = text.trim().splitn(4, '-');
        if parts.next() != Some(PREFIX) {
            return Err(InvalidJoinToken::Prefix);
        }
        match parts.next() {
            Some(VERSION) => {}
            // What is no number may be a part of the secret, of a token that was not copied whole.
            Some(other) if is_version(other) => {
                return Err(InvalidJoinToken::Version { found: other.to_owned() });
            }
            _ => return Err(InvalidJoinToken::Prefix),
        }
        let root = from_base36("root digest", parts.next().unwrap_or_default(), DIGEST_LEN)?;
        let secret = parts.next().unwrap_or_default().parse()?;
        Ok(Self { root: RootDigest(root), secret })
    }
}

fn is_version(text: &str) -> bool {
    (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `bytes` as one big-endian number in base 36, `len` digits with leading zeros.
fn to_base36(bytes: &[u8], len: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; len];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = (rest << 8) | u32::from(*byte);
            // Both fit: the rest of a division by 36 is below 36, so `value / 36` is below 256.
            *byte = (value / 36) as u8;
            rest = value % 36;
        }
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[rest as usize];
    }
    digits.into_iter().map(char::from).collect()
}

/// The reverse of [`to_base36`], for exactly `len` digits.
fn from_base36<const N: usize>(
    part: &'static str,
    text: &str,
    expected: usize,
) -> Result<[u8; N], InvalidJoinToken> {
    let found = text.chars().count();
    if found < expected {
        return Err(InvalidJoinToken::Truncated { part, found, expected });
    }
    if found > expected {
        return Err(InvalidJoinToken::TooLong { part, found, expected });
    }
    let mut number = [0u8; N];
    for c in text.chars() {
        let digit = c.to_digit(36).filter(|_| !c.is_ascii_uppercase());
        let mut carry = digit.ok_or(InvalidJoinToken::Character { part, found: c })?;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return Err(InvalidJoinToken::OutOfRange { part });
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken { root: RootDigest([0xab; 32]), secret: JoinSecret::from_bytes([0xcd; 16]) }
    }

    fn error(text: &str) -> String {
        text.parse::<JoinToken>().expect_err("must be refused").to_string()
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let good = token().reveal();
        let table = [
            (String::new(), "begins with SHOAL-1-"),
            ("SWMTKN-1-abc-def".into(), "begins with SHOAL-1-"),
            (good.to_lowercase(), "begins with SHOAL-1-"),
            ("SHOAL".into(), "begins with SHOAL-1-"),
            (good.replace("SHOAL-1-", "SHOAL-2-"), "has version \"2\""),
            (good.replace("SHOAL-1-", "SHOAL-"), "begins with SHOAL-1-"),
            ("SHOAL-1-".into(), "truncated: its root digest has 0 characters of 50"),
            (good[..40].into(), "truncated: its root digest has 32 characters of 50"),
            (good[..58].into(), "truncated: its secret has 0 characters of 25"),
            (good[..good.len() - 1].into(), "truncated: its secret has 24 characters of 25"),
            (format!("{good}0"), "too long: its secret has 26 characters"),
            (format!("{good}-x"), "too long: its secret has 27 characters"),
            (format!("SHOAL-1-{}-{}", "_".repeat(50), "0".repeat(25)), "character '_'"),
            (format!("SHOAL-1-{}-{}", "0".repeat(50), "Z".repeat(25)), "character 'Z'"),
            (format!("SHOAL-1-{}-{}", "z".repeat(50), "0".repeat(25)), "root digest is not a num"),
            (format!("SHOAL-1-{}-{}", "0".repeat(50), "z".repeat(25)), "secret is not a number"),
        ];
        for (text, expected) in table {
            let message = error(&text);
            assert!(message.contains(expected), "{text:?}: {message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let text = token().reveal();
        let secret = text.rsplit('-').next().expect("has parts");
        assert!(!format!("{:?}", token()).contains(secret));
    }

    #[test]
    fn white_space_around_is_forgiven() {
        let text = format!("  {}\n", token().reveal());
        assert_eq!(text.parse::<JoinToken>().map(|t| t.root), Ok(token().root));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(root: [u8; 32], secret: [u8; 16]) {
            let token = JoinToken { root: RootDigest(root), secret: JoinSecret(secret) };
            let text = token.reveal();
            prop_assert_eq!(text.len(), "SHOAL-1-".len() + DIGEST_LEN + 1 + SECRET_LEN);
            let read: JoinToken = text.parse().expect("own text");
            prop_assert_eq!(read.root.0, root);
            prop_assert_eq!(read.secret.0, secret);
        }

        #[test]
        fn any_text_is_answered(text in "(SHOAL-1-)?[0-9a-z-]{0,90}") {
            let _ = text.parse::<JoinToken>();
        }
    }
}
