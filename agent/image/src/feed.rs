//! Bytes from an async download to a blocking reader, a few chunks ahead.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::turns::Slot;

/// Chunks in flight. They are what one read of a socket gives, 16 KiB or so.
const CHUNKS: usize = 16;

/// The download was given up; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("the download was given up")]
struct Abandoned;

enum Item {
    Chunk(Bytes),
    End,
}

/// The async end.
pub(super) struct Feeder(mpsc::Sender<Item>);

/// The blocking end.
pub(super) struct Fed {
    receiver: mpsc::Receiver<Item>,
    runtime: Handle,
    slot: Slot,
    chunk: Bytes,
    ended: bool,
}

/// Makes both ends, inside a runtime. Who reads holds the slot except while it waits.
pub(super) fn channel(slot: Slot) -> (Feeder, Fed) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let runtime = Handle::current();
    (Feeder(sender), Fed { receiver, runtime, slot, chunk: Bytes::new(), ended: false })
}

impl Feeder {
    /// Hands over bytes; `false` when the reader is gone.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        self.0.send(Item::Chunk(chunk)).await.is_ok()
    }

    /// Marks the end. Without it the reader sees an error, so that a download that is dropped
    /// half-way never looks complete.
    pub(super) async fn end(self) {
        // A reader that is gone has its reason.
        let _ = self.0.send(Item::End).await;
    }
}

impl Fed {
    fn receive(&mut self) -> Option<Item> {
        let item = match self.receiver.try_recv() {
            Ok(item) => {
                self.slot.pass_on(&self.runtime);
                Some(item)
            }
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                self.slot.leave();
                self.receiver.blocking_recv()
            }
        };
        self.slot.take(&self.runtime);
        item
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receive() {
                Some(Item::Chunk(chunk)) => self.chunk = chunk,
                Some(Item::End) => self.ended = true,
                None => return Err(io::Error::other(Abandoned)),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::turns::{Parallel, Turns};
    use super::*;

    fn slot() -> Slot {
        let turns = Turns::new(Parallel { unpacks: 1, ..Parallel::default() });
        turns.slot(&turns.pull())
    }

    /// A download that has not sent anything does not keep others from unpacking.
    #[tokio::test]
    async fn who_waits_for_a_download_holds_no_slot() {
        let turns = Turns::new(Parallel { unpacks: 1, ..Parallel::default() });
        let read = |mut fed: Fed| {
            tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                fed.read_to_end(&mut all).map(|_| all).unwrap()
            })
        };
        let (dripping, fed) = channel(turns.slot(&turns.pull()));
        let slow = read(fed);
        assert!(dripping.send(Bytes::from("drop")).await);
        for _ in 0..3 {
            let (feeder, fed) = channel(turns.slot(&turns.pull()));
            let quick = read(fed);
            assert!(feeder.send(Bytes::from("all")).await);
            feeder.end().await;
            let quick = tokio::time::timeout(std::time::Duration::from_secs(20), quick).await;
            assert_eq!(quick.unwrap().unwrap(), b"all");
        }
        dripping.end().await;
        assert_eq!(slow.await.unwrap(), b"drop");
    }

    #[tokio::test]
    async fn chunks_arrive_in_order_and_the_end_is_told_from_giving_up() {
        for whole in [true, false] {
            let (feeder, mut fed) = channel(slot());
            let reader = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                fed.read_to_end(&mut all).map(|_| all)
            });
            for part in ["one ", "", "two"] {
                assert!(feeder.send(Bytes::from(part)).await);
            }
            if whole {
                feeder.end().await;
            } else {
                drop(feeder);
            }
            let result = reader.await.unwrap();
            assert_eq!(result.ok().as_deref(), whole.then_some(&b"one two"[..]));
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_stops_the_download() {
        let (feeder, fed) = channel(slot());
        drop(fed);
        assert!(!feeder.send(Bytes::from("x")).await);
    }
}
