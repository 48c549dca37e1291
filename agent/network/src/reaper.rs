//! Deleting links, many in one go.
//!
//! The kernel waits for all its processors whenever it deletes links, under the lock that every
//! other change of links needs, and as long for one as for a hundred. So deletions that arrive
//! while some are on their way travel together in the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::NetworkError;
use super::netlink::Links;

/// The queue of links to delete.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    queue: Mutex<Queue>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    wanted: BTreeMap<u64, BTreeSet<String>>,
}

impl Reaper {
    /// Returns when these links are gone, those included that never were.
    pub(super) async fn remove(
        &self,
        links: &Links,
        ifnames: impl IntoIterator<Item = String>,
    ) -> Result<(), NetworkError> {
        let ifnames: BTreeSet<String> = ifnames.into_iter().collect();
        if ifnames.is_empty() {
            return Ok(());
        }
        let mine = self.enter(ifnames);
        let _turn = self.turn.lock().await;
        let batch = self.queue().wanted.clone();
        // Whoever had the turn before may have taken ours along.
        if !batch.contains_key(&mine.ticket) {
            return Ok(());
        }
        links.remove_all(&batch.values().flatten().cloned().collect()).await?;
        self.queue().wanted.retain(|ticket, _| !batch.contains_key(ticket));
        Ok(())
    }

    fn enter(&self, ifnames: BTreeSet<String>) -> Ticket<'_> {
        let mut queue = self.queue();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.wanted.insert(ticket, ifnames);
        Ticket { reaper: self, ticket }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. Given up with the call that took it: names come back with the same
/// containers, and nobody may delete a link that nobody waits to see gone.
struct Ticket<'a> {
    reaper: &'a Reaper,
    ticket: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.reaper.queue().wanted.remove(&self.ticket);
    }
}
