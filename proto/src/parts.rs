//! Cutting what grows with the state into messages of bounded size.

use std::iter::Peekable;

use prost::Message;

/// Bytes that one part of something larger has at the most, unless a single item alone has more.
pub const PART_BYTES: usize = 1 << 20;

/// What a repeated field's key and length take beside an item, at the most: a key and a length are
/// varints of at most 5 and 10 bytes.
const OVERHEAD: usize = 15;

/// Groups items in their order, so that what each group takes on the wire is bounded by bytes and
/// not by count. An item that is larger alone makes a group of its own.
///
/// Lazy: no more than a group and an item are taken from the source at a time.
pub struct Parts<I: Iterator, S> {
    items: Peekable<I>,
    bytes: usize,
    size: S,
}

impl<M: Message, I: Iterator<Item = M>> Parts<I, fn(&M) -> usize> {
    /// Groups of messages of at most so many bytes, as elements of a repeated field.
    pub fn new(items: impl IntoIterator<IntoIter = I>, bytes: usize) -> Self {
        let size: fn(&M) -> usize = |item| item.encoded_len().saturating_add(OVERHEAD);
        Self { items: items.into_iter().peekable(), bytes, size }
    }
}

impl<I: Iterator, S: FnMut(&I::Item) -> usize> Parts<I, S> {
    /// Whether there are more groups.
    pub fn more(&mut self) -> bool {
        self.items.peek().is_some()
    }
}

impl<I: Iterator, S: FnMut(&I::Item) -> usize> Iterator for Parts<I, S> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Vec<I::Item>> {
        let first = self.items.next()?;
        let mut left = self.bytes.saturating_sub((self.size)(&first));
        let mut part = vec![first];
        while let Some(next) = self.items.peek() {
            let size = (self.size)(next);
            if size > left {
                break;
            }
            left -= size;
            part.extend(self.items.next());
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::{LogBatch, TaskLogLine};

    fn lines(sizes: &[usize]) -> Vec<TaskLogLine> {
        let line = |size: &usize| TaskLogLine { line: vec![7; *size], ..Default::default() };
        sizes.iter().map(line).collect()
    }

    #[test]
    fn a_large_item_goes_alone() {
        let all = lines(&[10, 400, 500, 1, 1, 990, 2000, 3, 3]);
        let counts: Vec<usize> = Parts::new(all, 1000).map(|part| part.len()).collect();
        assert_eq!(counts, [5, 1, 1, 2]);
        assert_eq!(Parts::new(lines(&[]), 1000).next(), None);
        assert!(!Parts::new(lines(&[]), 1000).more());
    }

    proptest! {
        /// Nothing is lost, doubled or moved; no part is over the bound but one of a single item;
        /// and no part could have taken the first item of the next.
        #[test]
        fn parts_keep_the_order_and_the_bound(
            sizes in prop::collection::vec(prop_oneof![0..50_usize, 0..3000_usize], 0..60),
            bytes in 1..4000_usize,
        ) {
            let all = lines(&sizes);
            let parts: Vec<Vec<TaskLogLine>> = Parts::new(all.clone(), bytes).collect();
            prop_assert_eq!(parts.concat(), all);
            for (at, part) in parts.iter().enumerate() {
                prop_assert!(!part.is_empty());
                let size = LogBatch { lines: part.clone() }.encoded_len();
                prop_assert!(part.len() == 1 || size <= bytes, "{size} bytes of {bytes}");
                if let Some(next) = parts.get(at + 1) {
                    let own: usize = part.iter().map(|l| l.encoded_len() + OVERHEAD).sum();
                    prop_assert!(own + next[0].encoded_len() + OVERHEAD > bytes, "it had room");
                }
            }
        }
    }
}
