//! Whom the manager runs as.

use std::fs;
use std::io;

const PASSWD: &str = "/etc/passwd";

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Why there is nobody to run as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The list of users cannot be read.
    #[error("cannot read {PASSWD}")]
    Read(#[source] io::Error),
    /// No such user.
    #[error(
        "user {user:?} does not exist on this host: create it (useradd --system {user}) or name \
         another one with --manager-user"
    )]
    Unknown {
        /// As it was asked for.
        user: String,
    },
    /// Neither a name nor numbers.
    #[error("{user:?} is neither a user's name nor uid[:gid]")]
    Invalid {
        /// As it was asked for.
        user: String,
    },
}

/// Finds a user by name or by `uid[:gid]` in passwd(5).
pub(super) fn resolve(user: &str) -> Result<RunAs, UserError> {
    find(user, || fs::read_to_string(PASSWD).map_err(UserError::Read))
}

fn find(
    user: &str,
    passwd: impl FnOnce() -> Result<String, UserError>,
) -> Result<RunAs, UserError> {
    let invalid = || UserError::Invalid { user: user.to_owned() };
    if let Some((uid, gid)) = user.split_once(':') {
        let number = |text: &str| text.parse::<u32>().map_err(|_| invalid());
        return Ok(RunAs { uid: number(uid)?, gid: number(gid)? });
    }
    if user.is_empty() {
        return Err(invalid());
    }
    let passwd = passwd()?;
    let mut entries = passwd.lines().filter_map(entry);
    let is_number = user.bytes().all(|b| b.is_ascii_digit());
    let found = entries.find(|(name, id)| match is_number {
        true => user.parse() == Ok(id.uid),
        false => *name == user,
    });
    found.map(|(_, id)| id).ok_or_else(|| UserError::Unknown { user: user.to_owned() })
}

/// `name:password:uid:gid:...`
fn entry(line: &str) -> Option<(&str, RunAs)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((name, RunAs { uid, gid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nshoal:x:998:997::/:/bin/false\n";
        let table = [
            ("shoal", Some((998, 997))),
            ("998", Some((998, 997))),
            ("0", Some((0, 0))),
            ("12:34", Some((12, 34))),
            ("nobody", None),
            ("12", None),
            ("", None),
            ("a:b", None),
        ];
        for (user, expected) in table {
            let found = find(user, || Ok(passwd.to_owned()));
            assert_eq!(found.ok().map(|id| (id.uid, id.gid)), expected, "{user:?}");
        }
    }

    #[test]
    fn a_missing_user_is_named_with_the_way_out() {
        let error = find("shoal", || Ok(String::new())).expect_err("nobody");
        assert!(error.to_string().contains("useradd --system shoal"), "{error}");
    }
}
