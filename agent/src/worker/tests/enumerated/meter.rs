//! Counts what an agent does to its host, and ends it there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use tokio::sync::Notify;

/// Where in a call the agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Nothing of it has happened.
    Before,
    /// It has happened, and nobody was told.
    After,
}

/// A death: at which call, and where in it.
pub(super) type Death = (usize, Point);

#[derive(Debug, Default)]
struct Inner {
    /// Whether calls count.
    armed: bool,
    calls: Vec<&'static str>,
    death: Option<Death>,
    dead: bool,
    /// Calls of this name are answered and not carried out: a bug.
    left_out: Option<&'static str>,
}

/// Every call of a driver and of the ledger passes here.
#[derive(Debug, Default)]
pub(super) struct Meter {
    inner: Mutex<Inner>,
    died: Notify,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// It is carried out.
    Goes,
    /// It is carried out, and that is the last that the agent does.
    GoesAtLast,
    /// It comes to nothing: the agent is dead.
    Never,
    /// It is answered as if it had been carried out.
    LeftOut,
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on calls count, and one of them is the last, if there are so many.
    pub(super) fn arm(&self, death: Option<Death>) {
        let mut inner = self.lock();
        (inner.armed, inner.death) = (true, death);
        inner.calls.clear();
    }

    /// Plants a bug.
    pub(super) fn leave_out(&self, name: &'static str) {
        self.lock().left_out = Some(name);
    }

    /// The agent is gone, and if it died at the call where it was to, the next one lives as long as it likes.
    pub(super) fn next_life(&self) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.dead) {
            inner.death = None;
        }
    }

    /// The calls since it was armed, in order.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.lock().calls.clone()
    }

    pub(super) fn begin(&self, name: &'static str) -> Pass {
        let mut inner = self.lock();
        if inner.dead {
            return Pass::Never;
        }
        if inner.armed {
            inner.calls.push(name);
        }
        let last = inner.death.filter(|(call, _)| inner.armed && *call == inner.calls.len());
        match last {
            Some((_, Point::Before)) => {
                drop(inner);
                self.die();
                Pass::Never
            }
            Some((_, Point::After)) => Pass::GoesAtLast,
            None if inner.left_out == Some(name) => Pass::LeftOut,
            None => Pass::Goes,
        }
    }

    /// Nothing that the agent does reaches the host any more.
    pub(super) fn die(&self) {
        self.lock().dead = true;
        self.died.notify_one();
    }

    /// Waits for the agent to die.
    pub(super) async fn death(&self) {
        while !self.lock().dead {
            self.died.notified().await;
        }
    }
}

/// A call of a driver.
pub(super) fn pass<'a, T: Send + 'a>(
    meter: &Arc<Meter>,
    name: &'static str,
    act: impl FnOnce() -> BoxFuture<'a, T> + Send + 'a,
) -> BoxFuture<'a, T> {
    let meter = Arc::clone(meter);
    async move {
        let passed = meter.begin(name);
        if passed == Pass::Never {
            return pending().await;
        }
        let done = act().await;
        if passed == Pass::GoesAtLast {
            meter.die();
            return pending().await;
        }
        done
    }
    .boxed()
}

/// The same of one that a bug may leave out.
pub(super) fn pass_or_leave_out<'a, E: Send + 'a>(
    meter: &Arc<Meter>,
    name: &'static str,
    act: impl FnOnce() -> BoxFuture<'a, Result<(), E>> + Send + 'a,
) -> BoxFuture<'a, Result<(), E>> {
    let inner = Arc::clone(meter);
    let or_nothing = move || match inner.lock().left_out == Some(name) {
        true => futures::future::ready(Ok(())).boxed(),
        false => act(),
    };
    pass(meter, name, or_nothing)
}
