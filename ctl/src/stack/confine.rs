//! Small values of keys that confine a container or tell it about its surroundings, in the forms
//! that compose files and Docker's flags share.

use std::net::IpAddr;

use shoal_types::spec::Ulimit;

use super::node::{Entry, Node, Value, shorten};
use super::normalise::{Normaliser, join};
use super::refused;

/// Reads `HOST:ADDRESS` or `HOST=ADDRESS`.
///
/// # Errors
/// What would be accepted.
pub(crate) fn host(text: &str) -> Result<(String, IpAddr), String> {
    let expected = || format!("{:?} is not a host: expected HOST:ADDRESS", shorten(text));
    let at = text.find(['=', ':']).ok_or_else(expected)?;
    let (name, address) = (text[..at].trim(), text[at + 1..].trim());
    if address == "host-gateway" {
        return Err(refused::HOST_GATEWAY.said(&format!("{:?}", shorten(text))));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| expected())?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(expected());
    }
    Ok((name.to_owned(), address))
}

/// A host as a spec has it: a line of hosts(5).
pub(crate) fn host_line(name: &str, address: IpAddr) -> String {
    format!("{address} {name}")
}

/// Reads a limit of a process: a number, or -1 for none.
///
/// # Errors
/// What would be accepted.
pub(crate) fn limit(text: &str) -> Result<i64, String> {
    let number = text.parse::<i64>().ok().filter(|n| *n >= -1);
    number.ok_or_else(|| format!("{:?} is not a limit: expected a number, or -1", shorten(text)))
}

/// Reads `NAME=SOFT[:HARD]`.
///
/// # Errors
/// What would be accepted.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, limits) = text.split_once('=').ok_or("expected NAME=SOFT[:HARD]")?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(Ulimit { name: name.to_owned(), soft: limit(soft)?, hard: limit(hard)? })
}

impl Normaliser<'_> {
    /// A number for both limits, or a mapping of the two.
    pub(super) fn ulimit(&mut self, node: &Node, path: &str) -> Option<Node> {
        let both = node.as_text().map(|_| [("soft", node), ("hard", node)]);
        let given: Vec<(&str, &Node)> = match (&node.value, &both) {
            (_, Some(both)) => both.to_vec(),
            (Value::Map(given), None) => {
                for entry in given.iter().filter(|e| e.key != "soft" && e.key != "hard") {
                    let path = join(path, &entry.key);
                    self.findings.wrong(entry.key_at, &path, "unknown key: expected soft, hard");
                }
                let side = |key| node.get(key).map(|value| (key, value));
                ["soft", "hard"].into_iter().filter_map(side).collect()
            }
            _ => {
                self.expected(node, path, "a number, or a mapping with soft and hard");
                return None;
            }
        };
        if given.len() != 2 {
            self.findings.wrong(node.at, path, "needs both soft and hard");
            return None;
        }
        let mut entries = Vec::new();
        for (key, value) in given {
            let number = self.scalar(value, path, limit)?;
            entries.push(Entry::new(key, value.at, Node::bare(value.at, number.to_string())));
        }
        Some(Node::map(node.at, entries))
    }

    /// A list of `HOST=ADDRESS`, or a mapping of hosts to one address or several.
    pub(super) fn hosts(&mut self, node: &Node, path: &str) -> Option<Node> {
        let mut hosts = Vec::new();
        match &node.value {
            Value::Seq(items) => {
                for (i, item) in items.iter().enumerate() {
                    hosts.push((item, format!("{path}[{i}]"), self.text(item, path)?));
                }
            }
            Value::Map(given) => {
                for entry in given {
                    let path = join(path, &entry.key);
                    let addresses = match &entry.value.value {
                        Value::Seq(items) => items.as_slice(),
                        _ => std::slice::from_ref(&entry.value),
                    };
                    for item in addresses {
                        let text = format!("{}={}", entry.key, self.text(item, &path)?);
                        hosts.push((item, path.clone(), text));
                    }
                }
            }
            Value::Scalar { .. } | Value::Null => {
                self.expected(node, path, "a list of HOST=ADDRESS or a mapping");
                return None;
            }
        }
        let mut out = Vec::new();
        for (item, path, text) in hosts {
            match host(&text) {
                Ok((name, address)) => out.push(Node::text(item.at, format!("{name}={address}"))),
                Err(problem) => self.findings.wrong(item.at, &path, problem),
            }
        }
        Some(Node::seq(node.at, out))
    }

    /// A whole number with its sign.
    pub(super) fn integer(&mut self, node: &Node, path: &str) -> Option<Node> {
        let read = |text: &str| {
            let number = text.parse::<i64>();
            number.map_err(|_| format!("{:?} is not a whole number", shorten(text)))
        };
        let number = self.scalar(node, path, read)?;
        Some(Node::bare(node.at, number.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_people_write_them() {
        let cases = [
            ("db:10.0.0.1", Ok("10.0.0.1 db")),
            ("db=10.0.0.1", Ok("10.0.0.1 db")),
            ("db:::1", Ok("::1 db")),
            ("db=[fd00::1]", Ok("fd00::1 db")),
            ("db", Err("expected HOST:ADDRESS")),
            (":10.0.0.1", Err("expected HOST:ADDRESS")),
            ("db:web", Err("expected HOST:ADDRESS")),
            (
                "me:host-gateway",
                Err("\"me:host-gateway\" is not supported yet: expected an address"),
            ),
        ];
        for (text, expected) in cases {
            match (host(text).map(|(name, ip)| host_line(&name, ip)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, expected) => panic!("{text}: {found:?} {expected:?}"),
            }
        }
    }

    #[test]
    fn ulimits_as_people_write_them() {
        let limits = |text| ulimit(text).map(|u| (u.name, u.soft, u.hard));
        assert_eq!(limits("nofile=1:2"), Ok(("nofile".to_owned(), 1, 2)));
        assert_eq!(limits("core=-1"), Ok(("core".to_owned(), -1, -1)));
        for text in ["nofile", "nofile=", "nofile=x", "nofile=1:y", "nofile=-2"] {
            assert!(limits(text).is_err(), "{text}");
        }
    }
}
