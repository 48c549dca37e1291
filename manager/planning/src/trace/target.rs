//! What a destination is called.

use std::net::{IpAddr, SocketAddr};

use shoal_types::spec::Protocol;

use super::Untraceable;

/// Where a packet is to go, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name, or an address.
    pub(super) host: Host,
    /// The port, if one was named.
    pub(super) port: Option<u16>,
    pub(super) protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, Untraceable> {
        let unclear = || Untraceable::Destination { text: text.to_owned() };
        let (rest, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((rest, "sctp")) => (rest, Protocol::Sctp),
            Some(_) => return Err(unclear()),
        };
        let has_protocol = rest.len() != text.len();
        if let Ok(address) = rest.parse::<IpAddr>() {
            let host = Host::Address(address);
            return if has_protocol {
                Err(unclear())
            } else {
                Ok(Self { host, port: None, protocol })
            };
        }
        if let Ok(at) = rest.parse::<SocketAddr>() {
            return Ok(Self { host: Host::Address(at.ip()), port: Some(at.port()), protocol });
        }
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| unclear())?)),
            None if has_protocol => return Err(unclear()),
            None => (rest, None),
        };
        if name.is_empty() || name.contains([':', '/', ' ']) || port == Some(0) {
            return Err(unclear());
        }
        Ok(Self { host: Host::Name(name.to_owned()), port, protocol })
    }
}
