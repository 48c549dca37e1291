//! Addresses of managers as people write them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port that managers listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4242;

/// `host:port`, `host`, `1.2.3.4:port`, `[v6]:port` or a bare IPv6 address; without a port it means
/// [`DEFAULT_PORT`]. Names are resolved at each connection attempt, not here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagerAddress {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not an address: {why}; expected host:port such as 10.0.0.1:4242")]
pub struct InvalidAddress {
    /// The refused text.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl ManagerAddress {
    /// Host name or address without brackets, and port.
    #[must_use]
    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl From<std::net::SocketAddr> for ManagerAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for ManagerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ManagerAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |why| InvalidAddress { value: text.chars().take(300).collect(), why };
        if text.contains("://") {
            return Err(invalid("it has a scheme"));
        }
        let (host, port) = split(text).map_err(invalid)?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port != 0 => port,
                _ => return Err(invalid("its port is not a number from 1 to 65535")),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Host and port as written.
fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address between the brackets")?;
        return match after {
            "" => Ok((host, None)),
            _ => Ok((host, Some(after.strip_prefix(':').ok_or("no colon after the bracket")?))),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.len() > 253 || !host.chars().all(of_a_name) {
        return Err("its host is neither a name nor an IP address");
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let table = [
            ("10.0.0.1:4242", Ok("10.0.0.1:4242")),
            ("10.0.0.1", Ok("10.0.0.1:4242")),
            ("node-1.example.org:99", Ok("node-1.example.org:99")),
            ("[::1]:5000", Ok("[::1]:5000")),
            ("[::1]", Ok("[::1]:4242")),
            ("fd00::7", Ok("[fd00::7]:4242")),
            ("", Err("it has no host")),
            (":4242", Err("it has no host")),
            ("a:0", Err("its port is not a number from 1 to 65535")),
            ("a:70000", Err("its port is not a number from 1 to 65535")),
            ("a:b:c", Err("its port is not a number from 1 to 65535")),
            ("https://a:1", Err("it has a scheme")),
            ("[::1", Err("the bracket is not closed")),
            ("[::1]4", Err("no colon after the bracket")),
            ("[a]:4", Err("no IPv6 address between the brackets")),
            ("a b", Err("its host is neither a name nor an IP address")),
        ];
        for (text, expected) in table {
            let read = text.parse::<ManagerAddress>();
            let read = read.as_ref().map(ToString::to_string).map_err(|e| e.why);
            assert_eq!(read, expected.map(str::to_owned), "{text:?}");
        }
    }
}
