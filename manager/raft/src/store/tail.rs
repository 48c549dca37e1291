//! The newest entries in memory: replication and apply read what was just written.

use std::collections::VecDeque;

use crate::types::Entry;

/// Bounds of what is kept.
const MAX_ENTRIES: usize = 256;
const MAX_BYTES: usize = 1 << 20;

/// A run of consecutive entries that ends with the newest one, or nothing.
#[derive(Default)]
pub(crate) struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds the entry after the newest one, with its size in bytes.
    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            self.pop_front();
        }
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let (first, _) = self.entries.front()?;
        let offset = index.checked_sub(first.log_id.index)?;
        self.entries.get(usize::try_from(offset).ok()?).map(|(entry, _)| entry)
    }

    /// Forgets `index` and everything after it.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= index) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Forgets `index` and everything before it.
    pub(crate) fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::types::{LogId, Payload};

    fn entry(index: u64) -> Entry {
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
        Entry { log_id, payload: Payload::Blank }
    }

    #[test]
    fn keeps_a_bounded_run_that_ends_with_the_newest() {
        let mut tail = Tail::default();
        for index in 0..1000 {
            tail.push(entry(index), 10);
        }
        assert!(tail.get(999).is_some() && tail.get(744).is_some());
        assert!(tail.get(743).is_none() && tail.get(1000).is_none());
        tail.truncate(990);
        assert!(tail.get(989).is_some() && tail.get(990).is_none());
        tail.purge(980);
        assert!(tail.get(980).is_none() && tail.get(981).is_some());
        tail.push(entry(990), MAX_BYTES + 1);
        assert!(tail.get(990).is_none() && tail.get(989).is_none());
        assert_eq!(tail.bytes, 0);
    }
}
