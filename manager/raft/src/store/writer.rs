//! The one thread that writes the log.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::types::{Entry, LogId, Vote};

use super::LogStoreError;
use super::kv::Change;
use super::log_store::Shared;
use super::records::{LogState, STATE_KEY, encode_entry, entry_key};
use super::watermark::Watermark;

/// A change of the log, answered when it is durable.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) done: oneshot::Sender<Result<(), LogStoreError>>,
}

pub(crate) enum Work {
    Vote(Vote),
    Append(Vec<Entry>),
    /// Removes this entry and all after it.
    Truncate(LogId),
    /// Removes this entry and all before it.
    Purge(LogId),
    /// Writes what was left for the next batch, and ends the thread.
    Close,
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) watermark: Watermark,
}

impl Writer {
    /// Works until the store is closed, all its handles are gone, or a write fails.
    pub(crate) fn run(self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(Job { work, done }) = jobs.recv() {
            let closing = matches!(work, Work::Close);
            let result = self.perform(work);
            if closing || result.is_err() {
                // Dropping the receiver makes every later request fail.
                self.shared.close();
                let _ = done.send(result);
                return;
            }
            // Nobody may be waiting any more; the write stands all the same.
            let _ = done.send(result);
        }
    }

    fn perform(&self, work: Work) -> Result<(), LogStoreError> {
        let mut state = self.shared.next_state();
        match work {
            Work::Vote(vote) => {
                state.vote = Some(vote);
                self.commit(state, Vec::new())
            }
            Work::Append(entries) => self.append(state, entries),
            Work::Truncate(log_id) => self.truncate(state, log_id.index),
            Work::Purge(log_id) => self.purge(state, log_id),
            Work::Close => {
                self.commit(state, Vec::new())?;
                self.watermark.sync().map_err(LogStoreError::Watermark)
            }
        }
    }

    fn append(&self, mut state: LogState, entries: Vec<Entry>) -> Result<(), LogStoreError> {
        let mut changes = Vec::with_capacity(entries.len() + 1);
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            let index = entry.log_id.index;
            if state.indexes().is_empty() {
                state.first_index = index;
            } else if index != state.indexes().end {
                return Err(LogStoreError::NotConsecutive { index });
            }
            state.last = Some(entry.log_id);
            let value = encode_entry(&entry);
            written.push((entry, value.len()));
            changes.push(Change::Put(entry_key(index), value));
        }
        self.commit(state, changes)?;
        self.shared.appended(written);
        Ok(())
    }

    fn truncate(&self, mut state: LogState, from: u64) -> Result<(), LogStoreError> {
        let indexes = state.indexes();
        let doomed = from.max(indexes.start)..indexes.end;
        state.last = if doomed.start > indexes.start && !doomed.is_empty() {
            Some(self.shared.entry(doomed.start - 1)?.log_id)
        } else if doomed.is_empty() {
            state.last
        } else {
            state.purged
        };
        // From the end backwards, so that there is never a hole.
        self.commit(state, doomed.rev().map(|i| Change::Remove(entry_key(i))).collect())?;
        self.shared.truncated(from);
        Ok(())
    }

    fn purge(&self, mut state: LogState, upto: LogId) -> Result<(), LogStoreError> {
        let indexes = state.indexes();
        let doomed = indexes.start..indexes.end.min(upto.index + 1);
        state.purged = state.purged.max(Some(upto));
        if state.last.is_none_or(|last| last.index <= upto.index) {
            state.last = state.purged;
        } else {
            state.first_index = state.first_index.max(upto.index + 1);
        }
        self.commit(state, doomed.map(|i| Change::Remove(entry_key(i))).collect())?;
        self.shared.purged(upto.index);
        Ok(())
    }

    fn commit(&self, state: LogState, mut changes: Vec<Change>) -> Result<(), LogStoreError> {
        changes.push(Change::Put(STATE_KEY.to_vec(), state.encode()));
        self.shared.with_kv(|kv| kv.commit(changes))?;
        self.watermark.advance(state.sequence).map_err(LogStoreError::Watermark)?;
        self.shared.written(state);
        Ok(())
    }
}
