//! Forgetting flows that connection tracking would keep on the wrong way.
//!
//! The address of a flow is translated by what the table said when its first packet passed. UDP
//! has no end of a connection, so a client that keeps sending would reach a container that is gone,
//! or miss one that has just been published, for as long as it sends. So when a UDP port of the
//! host changes hands, or a backend of a service or of a port is withdrawn, the flows to it are deleted and their next
//! packet is a first one again. Connections to a backend go on until it is not there any more: it may be told to stop
//! only once they have ended. Then they are deleted as well, so that who has one hears of it with his next packet.
//!
//! By ctnetlink (linux/netfilter/nfnetlink_conntrack.h), whose numbers are here because no library
//! that we use has them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::sys::Socket;

use super::kept::KeptSocket;
use super::{Protocol, PublishedPort};

const CTNETLINK_GET: u16 = (1 << 8) | 1;
const CTNETLINK_DELETE: u16 = (1 << 8) | 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FLOW_ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
/// Nested and byte order flags of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;
const UDP: u8 = 17;
/// Both families.
const AF_UNSPEC: u8 = 0;
/// nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// What the kernel tracks.
#[derive(Debug, Default)]
pub(super) struct Tracked(KeptSocket);

impl Tracked {
    /// Deletes the flows from anywhere to these UDP ports of the host, whose addresses are `own`.
    /// Blocks; call it in the network namespace of the host.
    ///
    /// # Errors
    /// The kernel refuses. Flows that end meanwhile are no error.
    pub(super) fn forget(&self, ports: &[PublishedPort], own: &BTreeSet<IpAddr>) -> io::Result<()> {
        let ports: Vec<&PublishedPort> =
            ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.forget_those(|flow| {
            let local = flow.destination.is_loopback() || own.contains(&flow.destination);
            let meant = |port: &&PublishedPort| {
                port.host_port == flow.destination_port && port.answers_at(flow.destination)
            };
            flow.protocol == UDP && local && ports.iter().any(meant)
        })
    }

    /// Deletes these flows, whoever has begun them. The next packet of one is led somewhere else; of a connection that
    /// is somebody who knows nothing of it, and says so by a reset. Blocks; call it in the network namespace of the
    /// host.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub(super) fn forget_astray(&self, astray: &Astray) -> io::Result<()> {
        if *astray == Astray::default() {
            return Ok(());
        }
        self.forget_those(|flow| astray.has(flow))
    }

    fn forget_those(&self, wanted: impl Fn(&Flow) -> bool) -> io::Result<()> {
        let forget = |socket: &Socket| {
            let doomed = flows(socket, wanted)?;
            doomed.iter().try_for_each(|flow| delete(socket, flow))
        };
        self.0.with(forget, |error| error)
    }
}

/// Flows that were led somewhere and are not to go on there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Astray {
    /// Of UDP: addresses of services, with backends that are withdrawn.
    pub(super) backends: BTreeSet<(IpAddr, IpAddr)>,
    /// Of UDP: published ports, with the addresses that they lead to no more, which are those of containers or of other
    /// nodes.
    pub(super) slots: BTreeSet<(u16, IpAddr)>,
    /// Of any protocol: who is not there any more. Who waits for them to end is not among them.
    pub(super) gone: BTreeSet<IpAddr>,
}

impl Astray {
    fn has(&self, flow: &Flow) -> bool {
        let Flow { protocol, destination, destination_port, answers, .. } = flow;
        let is_led = answers != destination;
        let by_udp = *protocol == UDP
            && (self.backends.contains(&(*destination, *answers))
                || self.slots.contains(&(*destination_port, *answers)));
        is_led && (by_udp || self.gone.contains(answers))
    }
}

/// One flow, as far as it matters here.
struct Flow {
    protocol: u8,
    destination: IpAddr,
    destination_port: u16,
    /// Who answers.
    answers: IpAddr,
    /// `nfgen_family` of what names it.
    family: u8,
    /// The attributes that name it to the kernel, as the kernel wrote them.
    key: Vec<u8>,
}

fn flows(socket: &Socket, wanted: impl Fn(&Flow) -> bool) -> io::Result<Vec<Flow>> {
    socket.send(&message(CTNETLINK_GET, NLM_F_REQUEST | NLM_F_DUMP, AF_UNSPEC, &[]), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&datagram) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => acknowledged(body)?,
                _ => found.extend(flow(body).filter(&wanted)),
            }
        }
    }
}

fn delete(socket: &Socket, flow: &Flow) -> io::Result<()> {
    let request = message(CTNETLINK_DELETE, NLM_F_REQUEST | NLM_F_ACK, flow.family, &flow.key);
    socket.send(&request, 0)?;
    let (datagram, _) = socket.recv_from_full()?;
    for (kind, body) in messages(&datagram) {
        if kind == NLMSG_ERROR {
            match acknowledged(body) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// A message about a family.
fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence and port: one question at a time, so the answer is to it.
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// The messages of a datagram: type, and what follows the netlink header.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message or of another attribute: type, value, all of it.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        let padded = length.next_multiple_of(4).min(bytes.len());
        let (whole, rest) = bytes.split_at(padded);
        bytes = rest;
        Some((kind, value, whole))
    })
}

/// The value of the first attribute of a type.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value)
}

/// An address of either family in a tuple.
fn address(tuple: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    let all = attribute(tuple, TUPLE_IP)?;
    match attribute(all, v4) {
        Some(bytes) => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        None => Some(IpAddr::from(*attribute(all, v6)?.first_chunk::<16>()?)),
    }
}

fn flow(body: &[u8]) -> Option<Flow> {
    let family = *body.first()?;
    let body = body.get(4..)?;
    let tuple = attribute(body, TUPLE_ORIGINAL)?;
    let destination = address(tuple, IP_V4_DESTINATION, IP_V6_DESTINATION)?;
    let reply = attribute(body, TUPLE_REPLY)?;
    let transport = attribute(tuple, TUPLE_PROTOCOL)?;
    let port = attribute(transport, PROTOCOL_DESTINATION_PORT)?;
    let named = |kind: u16| matches!(kind, TUPLE_ORIGINAL | FLOW_ID | ZONE);
    Some(Flow {
        protocol: *attribute(transport, PROTOCOL_NUMBER)?.first()?,
        destination,
        destination_port: u16::from_be_bytes(*port.first_chunk()?),
        answers: address(reply, IP_V4_SOURCE, IP_V6_SOURCE)?,
        family,
        key: attributes(body)
            .filter(|(kind, _, _)| named(*kind))
            .flat_map(|(_, _, whole)| whole.iter().copied())
            .collect(),
    })
}

/// The verdict of an error message; zero is an acknowledgement.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, body) in messages(&bytes) {
                let _ = flow(body);
                let _ = acknowledged(body);
            }
            let _ = flow(&bytes);
        }
    }
}
