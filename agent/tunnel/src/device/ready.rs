//! Waiting in threads that do nothing else.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};

/// Waits until one of these can be read or written, or has failed, which the next attempt says: which. None, if none could
/// be in that time.
pub(super) fn wait<const N: usize>(
    on: [(BorrowedFd<'_>, PollFlags); N],
    at_most: Option<Duration>,
) -> Result<[bool; N], Errno> {
    let mut polled = on.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let at_most = at_most.and_then(|at_most| Timespec::try_from(at_most).ok());
    retry_on_intr(|| poll(&mut polled, at_most.as_ref()))?;
    Ok(polled.map(|polled| !polled.revents().is_empty()))
}
