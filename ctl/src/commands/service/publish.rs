//! `--publish`: short as in stack files, or `published=8080,target=80,protocol=tcp,mode=host`.

use std::fmt;
use std::str::FromStr;

use shoal_types::spec::{PortConfig, Protocol, PublishMode};

use super::pairs::{fields, needed};
use crate::stack::{host_ip, short_port, unsaid_mode};

/// Ports of one flag, and whether they answer on the nodes of tasks alone though nobody said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) is_narrow: bool,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return long(text);
        }
        let ports: Vec<PortConfig> = short_port(text)?
            .into_iter()
            .map(|p| {
                Ok(PortConfig {
                    name: String::new(),
                    protocol: protocol(&p.protocol)?,
                    target_port: p.target,
                    published_port: p.published,
                    publish_mode: unsaid_mode(p.host_ip),
                    host_ip: p.host_ip,
                })
            })
            .collect::<Result<_, String>>()?;
        let is_narrow = ports.iter().any(|port| port.host_ip.is_some());
        Ok(Self { ports, is_narrow })
    }
}

fn long(text: &str) -> Result<Publish, String> {
    let mut port = PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: 0,
        published_port: 0,
        publish_mode: PublishMode::Host,
        host_ip: None,
    };
    let mut said_host = false;
    let number = |key: &str, value: &str| {
        let number = value.parse::<u16>().ok().filter(|n| *n != 0);
        number.ok_or_else(|| format!("{key}={value}: expected a port, 1 to 65535"))
    };
    for (key, value) in fields(text) {
        let value = needed(key, value)?;
        match key {
            "target" => port.target_port = number(key, value)?,
            "published" => port.published_port = number(key, value)?,
            "protocol" => port.protocol = protocol(value)?,
            "host_ip" => port.host_ip = Some(host_ip(value)?),
            "name" => value.clone_into(&mut port.name),
            // Docker's tools say `ingress` where nothing was said.
            "mode" => match value {
                "host" => said_host = true,
                "ingress" => said_host = false,
                _ => return Err(format!("mode={value}: expected host or ingress")),
            },
            _ => {
                return Err(format!(
                    "{key} is unknown: expected target, published, protocol, mode, host_ip, name"
                ));
            }
        }
    }
    if port.target_port == 0 {
        return Err("target is missing: the port in the container".to_owned());
    }
    if !said_host {
        port.publish_mode = unsaid_mode(port.host_ip);
    }
    let is_narrow = !said_host && port.host_ip.is_some();
    Ok(Publish { ports: vec![port], is_narrow })
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("protocol={text}: expected tcp, udp or sctp")),
    }
}

/// `--publish-rm`: `TARGET[/PROTOCOL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpublish {
    target: u16,
    protocol: Protocol,
}

impl Unpublish {
    pub(super) fn fits(&self, port: &PortConfig) -> bool {
        (port.target_port, port.protocol) == (self.target, self.protocol)
    }
}

impl fmt::Display for Unpublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.target, self.protocol.as_str())
    }
}

impl FromStr for Unpublish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, name) = text.split_once('/').unwrap_or((text, "tcp"));
        let target = target.parse().map_err(|_| format!("{target:?} is no port"))?;
        Ok(Self { target, protocol: protocol(name)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::words;

    #[test]
    fn both_forms() {
        let cases = [
            ("8080:80", "*:8080->80/tcp", PublishMode::Ingress, false),
            ("published=8080,target=80,mode=host", "*:8080->80/tcp", PublishMode::Host, false),
            ("target=53,protocol=udp,published=53", "*:53->53/udp", PublishMode::Ingress, false),
            ("127.0.0.1:1:2", "127.0.0.1:1->2/tcp", PublishMode::Host, true),
            ("host_ip=10.0.0.1,published=1,target=2", "10.0.0.1:1->2/tcp", PublishMode::Host, true),
            ("host_ip=10.0.0.1,target=2,mode=host", "2/tcp", PublishMode::Host, false),
            ("target=80", "80/tcp", PublishMode::Ingress, false),
            ("target=80,published=81,mode=ingress", "*:81->80/tcp", PublishMode::Ingress, false),
        ];
        for (text, expected, mode, is_narrow) in cases {
            let publish: Publish = text.parse().unwrap();
            assert_eq!(words::ports(&publish.ports), expected, "{text}");
            assert_eq!(
                (publish.ports[0].publish_mode, publish.is_narrow),
                (mode, is_narrow),
                "{text}"
            );
        }
        for text in ["published=80", "target=80,mode=x", "target=0", "target=80,x=1", "x"] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }
}
