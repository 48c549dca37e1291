//! A disk in memory that records what is done to it, so that tests can cut its power anywhere.

use std::io;
use std::sync::{Arc, Mutex};

use rand::Rng as _;
use rand::rngs::StdRng;

const SECTOR: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

/// The disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    content: Vec<u8>,
    operations: Vec<Operation>,
    failing: bool,
}

impl Disk {
    pub(crate) fn with(content: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { content, ..State::default() })))
    }

    /// The content now, and the operations since this was last called.
    pub(crate) fn take(&self) -> (Vec<u8>, Vec<Operation>) {
        let mut state = self.0.lock().unwrap();
        (state.content.clone(), std::mem::take(&mut state.operations))
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.0.lock().unwrap().operations.clone()
    }

    pub(crate) fn fail_syncs(&self) {
        self.0.lock().unwrap().failing = true;
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().failing = false;
    }

    fn perform(&self, operation: Operation) {
        let mut state = self.0.lock().unwrap();
        apply(&mut state.content, &operation);
        state.operations.push(operation);
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let start = offset as usize;
        let data =
            state.content.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.perform(Operation::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.0.lock().unwrap().failing {
            return Err(io::Error::other("the disk is failing"));
        }
        self.perform(Operation::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.perform(Operation::Write { offset: offset as usize, data: data.to_vec() });
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, data } => {
            content.resize(content.len().max(offset + data.len()), 0);
            content[*offset..offset + data.len()].copy_from_slice(data);
        }
        Operation::SetLen(len) => content.resize(*len, 0),
        Operation::Sync => {}
    }
}

/// What a power cut may leave after these operations, the last of them just begun: all that was
/// flushed, and of the rest any subset of the sectors, one of them torn anywhere.
pub(crate) fn power_cut(before: &[u8], operations: &[Operation], random: &mut StdRng) -> Vec<u8> {
    let flushed = operations.iter().rposition(|op| *op == Operation::Sync).map_or(0, |at| at + 1);
    let mut content = before.to_vec();
    for operation in &operations[..flushed] {
        apply(&mut content, operation);
    }
    let percent_kept = random.random_range(0..=100);
    for operation in &operations[flushed..] {
        match operation {
            Operation::Write { offset, data } => {
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if random.random_range(0..100) >= percent_kept {
                        continue;
                    }
                    let whole = random.random_range(0..16) > 0;
                    let bytes =
                        if whole { sector.len() } else { random.random_range(0..sector.len()) };
                    let start = offset + number * SECTOR;
                    // Beyond the length that reached the disk nothing is found again.
                    let end = (start + bytes).min(content.len());
                    if start < end {
                        content[start..end].copy_from_slice(&sector[..end - start]);
                    }
                }
            }
            Operation::SetLen(len) if random.random() => content.resize(*len, 0),
            Operation::SetLen(_) | Operation::Sync => {}
        }
    }
    content
}
