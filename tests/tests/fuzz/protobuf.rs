//! Protobuf messages, changed field by field without knowing their schema.

use bytes::{Buf as _, BufMut as _};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::bytes::{mutate, one, orders, pick};

/// One field as it stands on the wire.
#[derive(Debug, Clone, PartialEq)]
enum Content {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u64,
    content: Content,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.put_u8(u8::try_from(value).unwrap_or_default());
}

/// All fields, if that is what the bytes are.
fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let content = match key & 7 {
            0 => Content::Varint(varint(&mut bytes)?),
            1 => {
                let (value, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Content::Fixed64(*value)
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Content::Bytes(value.to_vec())
            }
            5 => {
                let (value, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Content::Fixed32(*value)
            }
            _ => return None,
        };
        fields.push(Field { number: key >> 3, content });
    }
    Some(fields)
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, content } in fields {
        let (kind, bytes): (u64, &[u8]) = match content {
            Content::Varint(_) => (0, &[]),
            Content::Fixed64(bytes) => (1, bytes),
            Content::Bytes(bytes) => (2, bytes),
            Content::Fixed32(bytes) => (5, bytes),
        };
        put_varint(&mut out, (number << 3) | kind);
        match content {
            Content::Varint(value) => put_varint(&mut out, *value),
            Content::Bytes(bytes) => put_varint(&mut out, bytes.len() as u64),
            _ => {}
        }
        out.extend_from_slice(bytes);
    }
    out
}

/// Changes a message in one place, mostly deep inside, with all lengths right; what is none is changed
/// byte by byte. `others` give fields to put in.
pub(crate) fn mutated(random: &mut StdRng, bytes: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let whole = random.random_bool(0.97);
    let Some(mut fields) = parse(bytes).filter(|fields| whole && !fields.is_empty()) else {
        let mut bytes = bytes.to_vec();
        mutate(random, &mut bytes, others, &["\0", "é", "a/b", "sha256:"]);
        return bytes;
    };
    let at = random.random_range(0..fields.len());
    // Down into what may be a message.
    if let Content::Bytes(inner) = &mut fields[at].content
        && random.random_bool(0.8)
    {
        *inner = mutated(random, inner, others);
        return write(&fields);
    }
    match random.random_range(0..8) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            let times = 1 << orders(random, 2, 10);
            fields.splice(at..at, std::iter::repeat_n(copy, times));
        }
        2 => {
            let with = random.random_range(0..fields.len());
            fields.swap(at, with);
        }
        3 => fields[at].number = random.random_range(1..40),
        4 | 5 => {
            let number = fields[at].number;
            let mut theirs = parse(one::<Vec<u8>>(random, others)).unwrap_or_default();
            if !theirs.is_empty() {
                let content = theirs.swap_remove(random.random_range(0..theirs.len())).content;
                fields.insert(at, Field { number, content });
            }
        }
        _ => {
            let any = [0, 1, 2, 3, 7, 127, 128, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, u64::MAX];
            fields[at].content = match &fields[at].content {
                Content::Bytes(_) => Content::Bytes(vec![b'x'; random.random_range(0..70)]),
                _ => Content::Varint(pick(random, &any)),
            };
        }
    }
    write(&fields)
}

#[test]
fn fields_are_read_and_written_as_they_are() {
    let inner = [Field { number: 1, content: Content::Varint(300) }];
    let fields = [
        Field { number: 2, content: Content::Bytes(write(&inner)) },
        Field { number: 1000, content: Content::Varint(u64::MAX) },
        Field { number: 3, content: Content::Fixed32([1, 2, 3, 4]) },
        Field { number: 4, content: Content::Fixed64([9; 8]) },
    ];
    let bytes = write(&fields);
    assert_eq!(&bytes[..5], [0x12, 3, 8, 0xac, 2]);
    assert_eq!(parse(&bytes).as_deref(), Some(&fields[..]));
    assert_eq!(parse(&bytes[..bytes.len() - 1]), None);
}
