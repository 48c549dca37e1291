//! Elements of sets and maps, given to the kernel without `nft`.
//!
//! By the messages of nf_tables (linux/netfilter/nf_tables.h, nfnetlink.h), whose numbers are here because no library
//! that we use has them. All that belongs to one change is one batch, which is one datagram and one transaction: the
//! kernel takes all of it or nothing.

use std::io;

use rtnetlink::sys::Socket;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::thread::gettid;
use shoal_agent_planning::network::ruleset::{EGRESS, FAMILY, FRAMES, RawElement, RawElements};

use crate::FirewallError;
use crate::conntrack::{attribute as value, messages};
use crate::kept::KeptSocket;
use crate::ours::Own;

const SUBSYSTEM: u16 = 10 << 8;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// NFTA_GEN_ID, in network order.
const GENERATION_ID: u16 = 1;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
/// NFTA_SET_ELEM_LIST_*.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// NFTA_LIST_ELEM.
const ONE_OF_LIST: u16 = 1;
/// NFTA_SET_ELEM_*.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
/// NFTA_DATA_VALUE.
const VALUE: u16 = 1;
const NESTED: u16 = 1 << 15;
/// The longest list of elements in one message, in bytes: its length is one of 16 bits.
const LIST_MAX: usize = 60_000;
/// nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// Speaks to the kernel.
#[derive(Debug, Default)]
pub(super) struct Kernel(KeptSocket);

impl Kernel {
    /// Takes elements away and adds others. Blocks.
    ///
    /// # Errors
    /// The kernel refuses, or does not answer.
    pub(super) fn change(
        &self,
        table: &str,
        change: &[Vec<RawElements>; 2],
    ) -> Result<(), FirewallError> {
        let no_socket = |source| FirewallError::Talk { source };
        self.0.with(|socket| perform(socket, table, change), no_socket)
    }
}

impl Kernel {
    /// How many transactions there were on this host, whosever they are. Blocks, for microseconds.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or does not answer.
    pub(super) fn generation(&self) -> Result<u32, FirewallError> {
        let no_socket = |source| FirewallError::Talk { source };
        self.0.with(generation, no_socket)
    }
}

fn generation(socket: &Socket) -> Result<u32, FirewallError> {
    let talk = |source| FirewallError::Talk { source };
    let mut question = Vec::new();
    frame(&mut question, GET_GENERATION, NLM_F_REQUEST, (0, 0), 0, &[]);
    socket.send(&question, 0).map_err(talk)?;
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(talk)?;
        for (kind, body) in messages(&datagram) {
            // Behind nfgenmsg; an error has its number in that place.
            let id = || value(body.get(4..)?, GENERATION_ID)?.first_chunk().copied();
            match kind {
                NEW_GENERATION => {
                    let id = id().ok_or_else(|| talk(io::ErrorKind::InvalidData.into()))?;
                    return Ok(u32::from_be_bytes(id));
                }
                NLMSG_ERROR => {
                    let error = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(talk(io::Error::from_raw_os_error(error.saturating_neg())));
                }
                _ => {}
            }
        }
    }
}

fn perform(
    socket: &Socket,
    table: &str,
    [gone, new]: &[Vec<RawElements>; 2],
) -> Result<(), FirewallError> {
    let talk = |source| FirewallError::Talk { source };
    let (batch, last) = batch(table, gone, new);
    // Room for the batch and for what the kernel keeps beside it.
    set_socket_send_buffer_size_force(socket, batch.len() + (1 << 16))
        .map_err(|error| talk(error.into()))?;
    // The kernel does it while it takes the datagram, and tells others that this thread has.
    let _own = Own::begin(gettid().as_raw_nonzero().get().unsigned_abs());
    socket.send(&batch, 0).map_err(talk)?;
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(talk)?;
        for answer in answers(&datagram) {
            match answer {
                // Errors come in the order of messages, the answer to the last one behind all of them.
                Answer { error: 0, to } if to == last => return Ok(()),
                Answer { error: 0, .. } => {}
                Answer { error, .. } => {
                    let message = io::Error::from_raw_os_error(error).to_string();
                    return Err(FirewallError::Refused { message });
                }
            }
        }
    }
}

/// The messages of a change, and the number of the last one that is answered.
fn batch(table: &str, gone: &[RawElements], new: &[RawElements]) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    // For whom a batch is stands in the place of the number of a queue, in network order.
    frame(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, (0, SUBSYSTEM >> 8), 0, &[]);
    let lists = gone.iter().map(|of| (DELETE_ELEMENTS, 0, of));
    let lists = lists.chain(new.iter().map(|of| (NEW_ELEMENTS, NLM_F_CREATE, of)));
    let lists: Vec<_> = lists
        .flat_map(|(kind, flags, of)| parts(of).map(move |part| (kind, flags, of, part)))
        .collect();
    let last = u32::try_from(lists.len()).unwrap_or(u32::MAX);
    for (number, (kind, flags, of, part)) in (1..).zip(&lists) {
        let mut body = Vec::new();
        attribute(&mut body, LIST_TABLE, &terminated(table));
        attribute(&mut body, LIST_SET, &terminated(&of.set));
        attribute(&mut body, LIST_ELEMENTS | NESTED, part);
        let ack = if number == last { NLM_F_ACK } else { 0 };
        let flags = NLM_F_REQUEST | flags | ack;
        frame(&mut bytes, *kind, flags, (protocol_family(of.family), 0), number, &body);
    }
    frame(&mut bytes, BATCH_END, NLM_F_REQUEST, (0, SUBSYSTEM >> 8), last.saturating_add(1), &[]);
    (bytes, last)
}

/// The elements in lists that fit into a message each.
fn parts(of: &RawElements) -> impl Iterator<Item = Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for element in &of.elements {
        let mut one = Vec::new();
        attribute(&mut one, ONE_OF_LIST | NESTED, &encoded(element));
        match parts.last_mut().filter(|part| part.len() + one.len() <= LIST_MAX) {
            Some(part) => part.extend(one),
            None => parts.push(one),
        }
    }
    parts.into_iter()
}

fn encoded(element: &RawElement) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |kind: u16, value: &[u8]| {
        let mut nested = Vec::new();
        attribute(&mut nested, VALUE, value);
        attribute(&mut bytes, kind | NESTED, &nested);
    };
    add(ELEMENT_KEY, &element.key);
    if let Some(value) = &element.value {
        add(ELEMENT_DATA, value);
    }
    bytes
}

/// NFPROTO_*.
fn protocol_family(family: &str) -> u8 {
    match family {
        FRAMES => 7,
        EGRESS => 5,
        _ => {
            debug_assert_eq!(family, FAMILY);
            1
        }
    }
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn frame(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    (family, resource): (u8, u16),
    number: u32,
    body: &[u8],
) {
    let length = u32::try_from(HEADERS + body.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
}

/// What the kernel says of one message.
struct Answer {
    /// A number of errno(3), or zero.
    error: i32,
    /// The number of the message.
    to: u32,
}

fn answers(datagram: &[u8]) -> impl Iterator<Item = Answer> {
    messages(datagram).filter(|(kind, _)| *kind == NLMSG_ERROR).filter_map(|(_, body)| {
        let error = i32::from_ne_bytes(*body.first_chunk()?).checked_neg()?;
        // The header of what it is about: length, type, flags, number.
        let to = u32::from_ne_bytes(*body.get(4 + 8..)?.first_chunk()?);
        Some(Answer { error, to })
    })
}
