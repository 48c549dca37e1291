//! Placement constraints: `node.labels.disk == ssd`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::id::NodeId;
use crate::spec::{NodeRole, Platform};

/// One parsed constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: Key,
    equal: bool,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Id,
    Hostname,
    Role,
    Ip,
    Os,
    Arch,
    NodeLabel(String),
    EngineLabel(String),
}

/// Keys that a constraint may begin with, for error messages.
pub const KEYS: &str = "node.id, node.hostname, node.role, node.ip, node.platform.os, \
     node.platform.arch, node.labels.NAME, engine.labels.NAME";

/// Why a text is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConstraint {
    /// Neither `==` nor `!=`.
    #[error("constraint {0:?} has no operator: expected KEY==VALUE or KEY!=VALUE")]
    NoOperator(String),
    /// The key is none that we know.
    #[error("constraint {text:?} has unknown key {key:?}: expected one of {KEYS}")]
    UnknownKey {
        /// The whole text.
        text: String,
        /// Its key.
        key: String,
    },
    /// The value is missing or has characters that no label has.
    #[error("constraint {text:?} has value {value:?}: expected letters, digits and ':-_./ ' only")]
    Value {
        /// The whole text.
        text: String,
        /// Its value.
        value: String,
    },
    /// `node.ip` with something that is no address.
    #[error("constraint {text:?} has value {value:?}: expected an IP address or a CIDR subnet")]
    Ip {
        /// The whole text.
        text: String,
        /// Its value.
        value: String,
    },
}

/// What a constraint looks at.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// Its id.
    pub id: NodeId,
    /// Its host name.
    pub hostname: &'a str,
    /// Its role.
    pub role: NodeRole,
    /// Its address, if known.
    pub ip: Option<IpAddr>,
    /// Its platform.
    pub platform: &'a Platform,
    /// Labels that managers gave it.
    pub node_labels: &'a BTreeMap<String, String>,
    /// Labels that its agent was started with.
    pub engine_labels: &'a BTreeMap<String, String>,
}

impl Constraint {
    /// Parses `KEY==VALUE` or `KEY!=VALUE`; spaces around the parts do not matter.
    ///
    /// # Errors
    /// Says which part is wrong and what it may be.
    pub fn parse(text: &str) -> Result<Self, InvalidConstraint> {
        let (key, equal, value) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((k, v)), _) if !k.contains("!=") => (k, true, v),
            (_, Some((k, v))) => (k, false, v),
            _ => return Err(InvalidConstraint::NoOperator(text.to_owned())),
        };
        let (key, value) = (key.trim(), value.trim());
        let parsed = Key::parse(key).ok_or_else(|| InvalidConstraint::UnknownKey {
            text: text.to_owned(),
            key: key.to_owned(),
        })?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_./ ".contains(c);
        if value.is_empty() || !value.chars().all(allowed) {
            return Err(InvalidConstraint::Value {
                text: text.to_owned(),
                value: value.to_owned(),
            });
        }
        if parsed == Key::Ip && parse_net(value).is_none() {
            return Err(InvalidConstraint::Ip { text: text.to_owned(), value: value.to_owned() });
        }
        Ok(Self { key: parsed, equal, value: value.to_owned() })
    }

    /// Whether a node meets it. Values compare without regard to case, as in SwarmKit; a label
    /// that the node lacks counts as empty.
    #[must_use]
    pub fn matches(&self, node: &NodeFacts<'_>) -> bool {
        let same = |have: &str| have.eq_ignore_ascii_case(&self.value);
        let label = |map: &BTreeMap<String, String>, k: &str| same(map.get(k).map_or("", |v| v));
        let hit = match &self.key {
            Key::Id => same(&node.id.to_string()),
            Key::Hostname => same(node.hostname),
            Key::Role => same(node.role.as_str()),
            Key::Ip => {
                parse_net(&self.value).zip(node.ip).is_some_and(|(net, ip)| net.contains(&ip))
            }
            Key::Os => same(&node.platform.os),
            Key::Arch => same_architecture(&node.platform.architecture, &self.value),
            Key::NodeLabel(k) => label(node.node_labels, k),
            Key::EngineLabel(k) => label(node.engine_labels, k),
        };
        hit == self.equal
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = if self.equal { "==" } else { "!=" };
        match &self.key {
            Key::Id => write!(f, "node.id{op}"),
            Key::Hostname => write!(f, "node.hostname{op}"),
            Key::Role => write!(f, "node.role{op}"),
            Key::Ip => write!(f, "node.ip{op}"),
            Key::Os => write!(f, "node.platform.os{op}"),
            Key::Arch => write!(f, "node.platform.arch{op}"),
            Key::NodeLabel(k) => write!(f, "node.labels.{k}{op}"),
            Key::EngineLabel(k) => write!(f, "engine.labels.{k}{op}"),
        }?;
        f.write_str(&self.value)
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let label = |prefix: &str| {
            lower
                .starts_with(prefix)
                .then(|| text[prefix.len()..].to_owned())
                .filter(|l| !l.is_empty())
        };
        Some(match lower.as_str() {
            "node.id" => Self::Id,
            "node.hostname" => Self::Hostname,
            "node.role" => Self::Role,
            "node.ip" => Self::Ip,
            "node.platform.os" => Self::Os,
            "node.platform.arch" => Self::Arch,
            _ => label("node.labels.")
                .map(Self::NodeLabel)
                .or_else(|| label("engine.labels.").map(Self::EngineLabel))?,
        })
    }
}

fn parse_net(text: &str) -> Option<ipnet::IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(ipnet::IpNet::from))
}

/// Whether two names mean the same architecture: people use the kernel's and Go's interchangeably.
#[must_use]
pub fn same_architecture(a: &str, b: &str) -> bool {
    let go = |name: &str| match name.to_ascii_lowercase().as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    go(a) == go(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> bool {
        let labels = BTreeMap::from([("disk".to_owned(), "SSD".to_owned())]);
        let platform = Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() };
        let node = NodeFacts {
            id: NodeId::from(1),
            hostname: "host-1",
            role: NodeRole::Agent,
            ip: Some(IpAddr::from([10, 0, 0, 7])),
            platform: &platform,
            node_labels: &labels,
            engine_labels: &BTreeMap::new(),
        };
        Constraint::parse(text).unwrap().matches(&node)
    }

    #[test]
    fn matching() {
        let cases = [
            ("node.hostname==host-1", true),
            ("node.hostname != host-1", false),
            ("node.role==worker", true),
            ("node.role==manager", false),
            ("node.labels.disk==ssd", true),
            ("node.labels.disk!=hdd", true),
            ("node.labels.rack==1", false),
            ("node.labels.rack!=1", true),
            ("engine.labels.disk==ssd", false),
            ("node.ip==10.0.0.0/24", true),
            ("node.ip==10.0.0.8", false),
            ("node.platform.arch==x86_64", true),
            ("node.platform.os==linux", true),
            ("node.id==0000000000000000000000001", true),
        ];
        for (text, expected) in cases {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        let cases = [
            ("node.role", "has no operator"),
            ("node.rol==manager", "unknown key \"node.rol\""),
            ("node.labels.==x", "unknown key"),
            ("node.role==", "has value \"\""),
            ("node.role==a;b", "has value \"a;b\""),
            ("node.ip==ten", "an IP address or a CIDR"),
        ];
        for (text, expected) in cases {
            let error = Constraint::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn displayed_form_parses_to_the_same() {
        for text in ["node.labels.a==b", "engine.labels.a!=b", "node.ip==10.0.0.0/8", "node.id==x"]
        {
            let parsed = Constraint::parse(text).unwrap();
            assert_eq!(parsed.to_string(), text);
        }
    }
}
