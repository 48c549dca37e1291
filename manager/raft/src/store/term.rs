//! The way out when a group was brought back from an old copy of a disk: whoever has obeyed leaders of
//! later terms obeys none of an earlier one.

use std::path::{Path, PathBuf};

use crate::types::Vote;

use super::LogStoreError;
use super::log_store::LogStore;
use super::open::DATABASE;
use super::writer::Work;

/// The highest term that anybody may ask for: it leaves room for elections.
const TERM_MAX: u64 = 1 << 62;

/// Why a term was not raised.
#[derive(Debug, thiserror::Error)]
pub enum RaiseTermError {
    /// Nothing is there.
    #[error("there is no raft log in {}", .0.display())]
    Absent(PathBuf),
    /// It has no leader, and no terms.
    #[error("the raft log in {} belongs to no cluster yet", .0.display())]
    Pristine(PathBuf),
    /// It would leave no room for elections.
    #[error("{0} is no term: expected at most {TERM_MAX}")]
    Term(u64),
    /// The log cannot be read or written. A member that runs has it open.
    #[error(transparent)]
    Store(#[from] LogStoreError),
}

/// Gives the member whose log is in `dir`, and does not run, a vote of a later term than it knows and
/// than `above`: the next leader of its group has a later one still. Returns the term of that vote.
/// Nothing else in the log changes.
///
/// # Errors
/// See [`RaiseTermError`]. Nothing was changed then, unless the disk failed.
pub async fn raise_term(dir: &Path, above: u64) -> Result<u64, RaiseTermError> {
    if above > TERM_MAX {
        return Err(RaiseTermError::Term(above));
    }
    let database = dir.join(DATABASE);
    let prepare = |source| LogStoreError::Prepare { path: database.clone(), source };
    // Opening would make one.
    if !database.try_exists().map_err(prepare)? {
        return Err(RaiseTermError::Absent(dir.to_owned()));
    }
    let store = LogStore::<()>::open(dir)?;
    let raised = if store.is_pristine() {
        Err(RaiseTermError::Pristine(dir.to_owned()))
    } else {
        let state = store.shared.next_state();
        let voted = state.vote.map_or(0, |vote| vote.leader_id.term);
        let written = state.last.map_or(0, |last| last.leader_id.term);
        let term = above.max(voted).max(written) + 1;
        let vote = Vote::new(term, state.raft_id);
        store.perform(Work::Vote(vote)).await.map(|()| term).map_err(Into::into)
    };
    store.close().await?;
    raised
}
