//! From the bytes of a question to those of an answer, or to who else is to be asked.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom as _;
use shoal_agent_planning::zone::{Asker, Known, Zone};

/// How long an answer may be kept, in seconds. A task that has ended is gone from the zone at once, so it
/// is as short as it may be: with 0, some programs ask again for each packet.
pub const TTL_SECONDS: u32 = 1;
/// Bytes over UDP for who says nothing about it (RFC 1035, 4.2.1).
pub const UDP_BYTES_MIN: usize = 512;
/// Bytes over UDP at the most, whatever is asked for: what passes everywhere in one packet (DNS flag day
/// 2020).
pub const UDP_BYTES_MAX: usize = 1232;
/// Bytes over TCP at the most (RFC 1035, 4.2.2).
pub const TCP_BYTES_MAX: usize = 65_535;
/// Bytes of a header (RFC 1035, 4.1.1).
const HEADER_BYTES: usize = 12;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(Vec<u8>),
    /// It is for others. Answers to it are at most so long.
    Forward(Question, usize),
    /// No question: to answer would begin a quarrel.
    Silence,
}

/// A question that others are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    metadata: Metadata,
    query: Query,
    edns: bool,
}

/// Judges what a container has said.
#[must_use]
pub fn judge(bytes: &[u8], zone: &Zone, asker: &Asker, tcp: bool) -> Verdict {
    match read(bytes, tcp) {
        Ok((question, limit)) => question.look_up(zone, asker, limit),
        Err(verdict) => verdict,
    }
}

/// A question, and how long its answer may be; if it is none that is looked up, what becomes of it. How
/// long that takes is up to whoever asks, so nothing is locked meanwhile.
pub(crate) fn read(bytes: &[u8], tcp: bool) -> Result<(Question, usize), Verdict> {
    let Some(&[high, low, flags, ..]) = bytes.get(..HEADER_BYTES) else {
        return Err(Verdict::Silence);
    };
    if flags & 0x80 != 0 {
        return Err(Verdict::Silence);
    }
    let Ok(asked) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([high, low]);
        return Err(encoded(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)));
    };
    let limit = match (tcp, &asked.edns) {
        (true, _) => TCP_BYTES_MAX,
        (false, None) => UDP_BYTES_MIN,
        (false, Some(edns)) => usize::from(edns.max_payload()).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX),
    };
    let refusal = if asked.op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if asked.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        Some(ResponseCode::BADVERS)
    } else {
        None
    };
    let (query, refusal) = match (asked.queries.as_slice(), refusal) {
        ([query], None) if query.query_class() == DNSClass::IN => (query.clone(), None),
        ([query], None) => (query.clone(), Some(ResponseCode::Refused)),
        ([query], refusal) => (query.clone(), refusal),
        (_, refusal) => {
            let code = refusal.unwrap_or(ResponseCode::FormErr);
            return Err(encoded(&Message::error_msg(asked.id, asked.op_code, code)));
        }
    };
    let question = Question { metadata: asked.metadata, query, edns: asked.edns.is_some() };
    match refusal {
        Some(code) => Err(Verdict::Answer(question.failed(code))),
        None => Ok((question, limit)),
    }
}

fn encoded(message: &Message) -> Verdict {
    message.to_vec().map_or(Verdict::Silence, Verdict::Answer)
}

impl Question {
    pub(crate) fn look_up(self, zone: &Zone, asker: &Asker, limit: usize) -> Verdict {
        let name = self.query.name().to_ascii();
        let kind = self.query.query_type();
        let is = |wanted| kind == wanted || kind == RecordType::ANY;
        let (code, data) = match zone.ask(asker, name.trim_end_matches('.')) {
            Known::Foreign => return Verdict::Forward(self, limit),
            Known::Absent => (ResponseCode::NXDomain, Vec::new()),
            Known::Addresses(mut addresses) => {
                addresses.retain(|address| match address {
                    IpAddr::V4(_) => is(RecordType::A),
                    IpAddr::V6(_) => is(RecordType::AAAA),
                });
                (ResponseCode::NoError, shuffled(addresses))
            }
            Known::Called(called) if is(RecordType::PTR) => {
                let name = Name::from_ascii(format!("{called}.")).map(PTR);
                (ResponseCode::NoError, name.into_iter().map(RData::PTR).collect())
            }
            Known::Called(_) => (ResponseCode::NoError, Vec::new()),
        };
        let mut answer = self.reply(code);
        answer.metadata.authoritative = true;
        let record = |data| Record::from_rdata(self.query.name().clone(), TTL_SECONDS, data);
        answer.answers = data.into_iter().map(record).collect();
        fitted(answer, limit)
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata = Metadata::response_from_request(&self.metadata);
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = code;
        reply.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(UDP_BYTES_MAX).unwrap_or(u16::MAX));
            reply.set_edns(edns);
        }
        reply
    }

    /// The answer that there is none, for this reason; empty if it cannot be written down.
    #[must_use]
    pub fn failed(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code).to_vec().unwrap_or_default()
    }

    /// The answer that there is one too long for UDP: the asker comes again over TCP.
    #[must_use]
    pub fn too_long(&self) -> Vec<u8> {
        let mut reply = self.reply(ResponseCode::NoError);
        reply.metadata.truncation = true;
        reply.to_vec().unwrap_or_default()
    }

    /// The number that the asker gave it.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.metadata.id
    }

    /// What bytes answer to it if they are an answer to it under this number (RFC 5452, 9.1).
    #[must_use]
    pub fn is_answered_by(&self, bytes: &[u8], id: u16) -> Option<ResponseCode> {
        let answer = Message::from_vec(bytes).ok()?;
        let answers = answer.message_type == MessageType::Response
            && answer.id == id
            && answer.queries.as_slice() == std::slice::from_ref(&self.query);
        answers.then_some(answer.metadata.response_code)
    }
}

/// In another order each time, so that askers who take the first are spread.
fn shuffled(mut addresses: Vec<IpAddr>) -> Vec<RData> {
    addresses.shuffle(&mut rand::rng());
    let record = |address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    addresses.into_iter().map(record).collect()
}

/// As many records as there is room for, and that there are more (RFC 2181, 9).
fn fitted(mut answer: Message, limit: usize) -> Verdict {
    let Ok(whole) = answer.to_vec() else { return Verdict::Silence };
    if whole.len() <= limit || answer.answers.is_empty() {
        return Verdict::Answer(whole);
    }
    let all = std::mem::take(&mut answer.answers);
    answer.metadata.truncation = true;
    let Ok(none) = answer.to_vec() else { return Verdict::Silence };
    // All of them have the question's name and so the same length.
    let each = (whole.len() - none.len()).div_ceil(all.len()).max(1);
    answer.answers = all.into_iter().take(limit.saturating_sub(none.len()) / each).collect();
    // The first may be longer than the others, which refer to its name.
    while let Ok(bytes) = answer.to_vec() {
        if bytes.len() <= limit || answer.answers.pop().is_none() {
            return Verdict::Answer(bytes);
        }
    }
    Verdict::Silence
}
