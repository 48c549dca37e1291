//! Published ports: the short forms of files and flags, and the long form of files.

use std::net::IpAddr;

use shoal_types::spec::PublishMode;

use super::node::{Entry, Node, Value};
use super::normalise::Normaliser;
use super::problem::Pos;
use super::refused;
use super::scalar;
use super::schema;

/// Ports of one range at the most.
const RANGE_MAX: u16 = 1000;

/// One port as it was written; what is absent was not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortText {
    pub(crate) target: u16,
    pub(crate) published: u16,
    pub(crate) protocol: String,
    pub(crate) host_ip: Option<IpAddr>,
}

/// Reads `[[IP:]PUBLISHED:]TARGET[/PROTOCOL]`, where both ports may be ranges of equal length.
///
/// # Errors
/// What would be accepted.
pub(crate) fn short(text: &str) -> Result<Vec<PortText>, String> {
    let form = || format!("{text:?} is not a port: expected [[IP:]PUBLISHED:]TARGET[/PROTOCOL]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{protocol:?} is not a protocol: expected tcp, udp or sctp"));
    }
    let (front, target) = match ports.rsplit_once(':') {
        Some((front, target)) => (Some(front), target),
        None => (None, ports),
    };
    let (ip, published) = match front.map(|f| f.rsplit_once(':').ok_or(f)) {
        Some(Ok((ip, published))) => (Some(ip), Some(published)),
        Some(Err(published)) => (None, Some(published)),
        None => (None, None),
    };
    let host_ip = ip.map(host_ip).transpose()?;
    let targets = range(target).ok_or_else(form)?;
    let published = match published.filter(|p| !p.is_empty()) {
        Some(text) => range(text).ok_or_else(form)?,
        None => vec![0; targets.len()],
    };
    if published.len() != targets.len() {
        return Err(format!(
            "{text:?} publishes {} ports for {}: expected ranges of equal length",
            published.len(),
            targets.len()
        ));
    }
    let pairs = targets.into_iter().zip(published);
    Ok(pairs
        .map(|(target, published)| PortText {
            target,
            published,
            protocol: protocol.clone(),
            host_ip,
        })
        .collect())
}

pub(crate) fn host_ip(text: &str) -> Result<IpAddr, String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inner.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// Where a port answers if nobody said it: on every node, or if it names an address of a host on those of its tasks.
pub(crate) const fn unsaid_mode(host_ip: Option<IpAddr>) -> PublishMode {
    if host_ip.is_some() { PublishMode::Host } else { PublishMode::Ingress }
}

/// One port, or all ports of `FIRST-LAST`; zero is none.
pub(crate) fn range(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |t: &str| scalar::whole(t).ok().and_then(|n| u16::try_from(n).ok());
    let (first, last) = (number(first)?, number(last)?);
    (first != 0 && first <= last && last - first < RANGE_MAX).then(|| (first..=last).collect())
}

/// One element of `ports` in long form.
pub(super) fn normalise(n: &mut Normaliser<'_>, node: &Node, path: &str) -> Vec<Node> {
    match &node.value {
        Value::Scalar { text, .. } => match short(text) {
            Ok(ports) => ports.iter().map(|p| long(node.at, p)).collect(),
            Err(problem) => {
                n.wrong(node.at, path, problem);
                Vec::new()
            }
        },
        Value::Map(_) => n
            .object(node, schema::PORT, path)
            .and_then(|map| check(n, map, path))
            .into_iter()
            .collect(),
        Value::Null | Value::Seq(_) => {
            n.wrong(node.at, path, format!("is {}: expected a port or a mapping", node.kind()));
            Vec::new()
        }
    }
}

fn long(at: Pos, port: &PortText) -> Node {
    let mut entries = vec![Entry::new("target", at, Node::bare(at, port.target.to_string()))];
    if port.published != 0 {
        entries.push(Entry::new("published", at, Node::text(at, port.published.to_string())));
    }
    entries.push(Entry::new("protocol", at, Node::text(at, &port.protocol)));
    if let Some(ip) = port.host_ip {
        entries.push(Entry::new("host_ip", at, Node::text(at, ip.to_string())));
    }
    Node::map(at, entries)
}

/// Checks what the table cannot say of the long form.
fn check(n: &mut Normaliser<'_>, map: Node, path: &str) -> Option<Node> {
    let mut ok = true;
    let mut wrong = |at: Pos, key: &str, text: String| {
        ok = false;
        n.wrong(at, &format!("{path}.{key}"), text);
    };
    let port = |text: &str| text.parse::<u16>().is_ok_and(|p| p != 0);
    match map.get("target") {
        None => wrong(map.at, "target", "is missing: expected the port in the container".into()),
        Some(node) if !node.as_text().is_some_and(port) => {
            wrong(node.at, "target", format!("is {}: expected 1 to 65535", node.kind()));
        }
        Some(_) => {}
    }
    if let Some(node) = map.get("published") {
        let text = node.as_text().unwrap_or_default();
        if text.contains('-') {
            wrong(node.at, "published", refused::PORT_RANGE.said(&node.kind()));
        } else if !(text == "0" || port(text)) {
            wrong(node.at, "published", format!("is {}: expected 0 to 65535", node.kind()));
        }
    }
    one_of(&map, "protocol", &["tcp", "udp", "sctp"], &mut wrong);
    one_of(&map, "mode", &["host", "ingress"], &mut wrong);
    if let Some(node) = map.get("host_ip")
        && let Err(problem) = host_ip(node.as_text().unwrap_or_default())
    {
        wrong(node.at, "host_ip", problem);
    }
    ok.then_some(map)
}

fn one_of(map: &Node, key: &str, known: &[&str], wrong: &mut impl FnMut(Pos, &str, String)) {
    if let Some(node) = map.get(key)
        && !node.as_text().is_some_and(|t| known.contains(&t))
    {
        wrong(node.at, key, format!("is {}: expected one of {}", node.kind(), known.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let ports = short(text)?;
        let show = |p: &PortText| {
            let ip = p.host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
            format!("{ip}{}->{}/{}", p.published, p.target, p.protocol)
        };
        Ok(ports.iter().map(show).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn short_forms() {
        let cases = [
            ("80", "0->80/tcp"),
            ("8080:80", "8080->80/tcp"),
            ("53:53/UDP", "53->53/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 0->80/tcp"),
            ("[::1]:8080:80", "::1 8080->80/tcp"),
            ("::1:8080:80", "::1 8080->80/tcp"),
            ("8000-8001:80-81", "8000->80/tcp, 8001->81/tcp"),
            ("80-81", "0->80/tcp, 0->81/tcp"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            ("", "is not a port"),
            ("http", "is not a port"),
            ("0", "is not a port"),
            ("65536", "is not a port"),
            ("8080:", "is not a port"),
            ("90-80", "is not a port"),
            ("1-60000:1-60000", "is not a port"),
            ("8000-8002:80", "publishes 3 ports for 1"),
            ("80/icmp", "is not a protocol"),
            ("localhost:80:80", "is not an IP address"),
        ];
        for (text, expected) in cases {
            let error = shown(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
