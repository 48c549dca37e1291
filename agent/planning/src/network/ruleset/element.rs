//! Elements of sets and maps, as people, `nft` and the kernel have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};

use super::SetName;
use crate::network::{Family, Mac, Protocol};

/// Bytes of an interface name in the kernel.
const NAME_LENGTH: usize = 16;
/// What parts of a key are filled up to in the kernel, in bytes.
const REGISTER: usize = 4;

/// One word of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Name(String),
    Address(IpAddr),
    Prefix(IpAddr, u8),
    /// An address as a number, which nft shows of what it has no name for.
    Raw(Ipv6Addr),
    Mac(Mac),
    Protocol(Protocol),
    Port(u16),
    /// A number that is drawn.
    Slot(u32),
    Mark(u32),
}

impl Word {
    fn text(&self) -> String {
        match self {
            // Quoted, so that an interface name is never read as a keyword.
            Self::Name(name) => format!("\"{name}\""),
            Self::Address(address) => address.to_string(),
            Self::Prefix(address, len) => format!("{address}/{len}"),
            Self::Raw(address) => format!("{:#x}", address.to_bits()),
            Self::Mac(mac) => mac.to_string(),
            Self::Protocol(protocol) => protocol.to_string(),
            Self::Port(number) => number.to_string(),
            Self::Slot(number) => number.to_string(),
            Self::Mark(mark) => format!("{mark:#x}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Name(name) => json!(name),
            Self::Prefix(address, len) => {
                json!({ "prefix": { "addr": address.to_string(), "len": len } })
            }
            Self::Address(_) | Self::Raw(_) | Self::Mac(_) | Self::Protocol(_) => {
                json!(self.text())
            }
            Self::Port(number) => json!(number),
            Self::Slot(number) => json!(number),
            Self::Mark(mark) => json!(mark),
        }
    }

    /// As the kernel has it; `None` of a prefix, which is a range there.
    fn bytes(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Name(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(NAME_LENGTH, 0);
                bytes
            }
            Self::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Address(IpAddr::V6(address)) | Self::Raw(address) => address.octets().to_vec(),
            Self::Prefix(..) => return None,
            Self::Mac(mac) => mac.0.to_vec(),
            Self::Protocol(protocol) => vec![protocol.number()],
            Self::Port(port) => port.to_be_bytes().to_vec(),
            // What the kernel computes has its own byte order.
            Self::Slot(slot) => slot.to_ne_bytes().to_vec(),
            Self::Mark(mark) => mark.to_ne_bytes().to_vec(),
        })
    }
}

/// One element: a key, and in a map what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Vec<Word>,
    pub(super) value: Vec<Word>,
}

/// An element as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawElement {
    /// Its key.
    pub key: Vec<u8>,
    /// In a map, what it leads to.
    pub value: Option<Vec<u8>>,
}

impl Element {
    pub(super) fn text(&self) -> String {
        let join = |words: &[Word]| words.iter().map(Word::text).collect::<Vec<_>>().join(" . ");
        if self.value.is_empty() {
            join(&self.key)
        } else {
            format!("{} : {}", join(&self.key), join(&self.value))
        }
    }

    pub(super) fn key_text(&self) -> String {
        Self { key: self.key.clone(), value: Vec::new() }.text()
    }

    /// The shape in which `nft -j list table` shows it (libnftables-json(5)).
    pub(super) fn json(&self) -> Value {
        let join = |words: &[Word]| match words {
            [word] => word.json(),
            words => json!({ "concat": words.iter().map(Word::json).collect::<Vec<_>>() }),
        };
        if self.value.is_empty() {
            join(&self.key)
        } else {
            json!([join(&self.key), join(&self.value)])
        }
    }

    /// As the kernel has it; `None` where it has a range.
    pub(super) fn raw(&self) -> Option<RawElement> {
        let value = if self.value.is_empty() { None } else { Some(joined(&self.value)?) };
        Some(RawElement { key: joined(&self.key)?, value })
    }
}

/// Of several words each begins at a register.
fn joined(words: &[Word]) -> Option<Vec<u8>> {
    if let [word] = words {
        return word.bytes();
    }
    let mut all = Vec::new();
    for word in words {
        all.extend(word.bytes()?);
        all.resize(all.len().next_multiple_of(REGISTER), 0);
    }
    Some(all)
}

/// Elements by their set and its family.
pub(super) type Elements = BTreeMap<(SetName, Family), BTreeSet<Element>>;

/// Collects elements; none of IPv6 where there is none.
#[derive(Debug, Default)]
pub(super) struct Collector {
    v6: bool,
    pub(super) found: Elements,
}

impl Collector {
    pub(super) fn new(v6: bool) -> Self {
        Self { v6, found: Elements::new() }
    }

    /// The families that there are.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let v6 = self.v6;
        Family::ALL.into_iter().filter(move |family| v6 || *family == Family::V4)
    }

    pub(super) fn has_v6(&self) -> bool {
        self.v6
    }

    /// To a set that there is once.
    pub(super) fn add(&mut self, set: SetName, key: Vec<Word>, value: Vec<Word>) {
        self.add_of(Family::V4, set, key, value);
    }

    pub(super) fn add_of(
        &mut self,
        family: Family,
        set: SetName,
        key: Vec<Word>,
        value: Vec<Word>,
    ) {
        if self.v6 || family == Family::V4 {
            self.found.entry((set, family)).or_default().insert(Element { key, value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_the_width_of_its_type() {
        let words = [
            (Word::Name("shb".to_owned()), b"shb\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
            (Word::Address([10, 0, 5, 7].into()), vec![10, 0, 5, 7]),
            (Word::Mac(Mac([2, 3, 4, 5, 6, 7])), vec![2, 3, 4, 5, 6, 7, 0, 0]),
            (Word::Protocol(Protocol::Sctp), vec![132, 0, 0, 0]),
            (Word::Port(80), vec![0, 80, 0, 0]),
            (Word::Slot(3), 3u32.to_ne_bytes().to_vec()),
            (Word::Mark(0x1000_0007), 0x1000_0007u32.to_ne_bytes().to_vec()),
        ];
        for (word, padded) in &words {
            let one = Element { key: vec![word.clone()], value: vec![] }.raw().unwrap();
            assert!(padded.starts_with(&one.key) && one.value.is_none(), "{word:?}");
            let two = vec![word.clone(), word.clone()];
            let two = Element { key: two.clone(), value: two }.raw().unwrap();
            assert_eq!(two.key, [&padded[..], padded].concat(), "{word:?}");
            assert_eq!(two.value, Some(two.key));
        }
        let prefix = Word::Prefix([10, 0, 0, 0].into(), 8);
        assert_eq!(Element { key: vec![prefix], value: vec![] }.raw(), None);
    }
}
