//! A driver that only remembers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Desired, Observed, Told, plan};
use shoal_types::object::{TunnelKey, TunnelKind};

use crate::{Comparison, Seen, Tunnel, TunnelError, TunnelState};

/// A tunnel in memory.
#[derive(Debug)]
pub struct FakeTunnel {
    public_key: TunnelKey,
    kind: TunnelKind,
    held: Mutex<(Observed, Told)>,
    fails: Mutex<Option<&'static str>>,
}

impl FakeTunnel {
    /// There is none yet.
    #[must_use]
    pub fn new(public_key: TunnelKey, kind: TunnelKind) -> Self {
        Self { public_key, kind, held: Mutex::default(), fails: Mutex::default() }
    }

    /// It cannot be made or removed any more, for this reason; or again.
    pub fn fail_with(&self, why: Option<&'static str>) {
        *self.fails.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Somebody changes what there is.
    pub fn break_with(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.held().0);
    }

    fn held(&self) -> MutexGuard<'_, (Observed, Told)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn can_be_had(&self) -> Result<(), TunnelError> {
        match *self.fails.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(TunnelError::NoTun { source: std::io::Error::other(why) }),
            None => Ok(()),
        }
    }

    fn ensured(&self, desired: &Desired) -> Result<TunnelState, TunnelError> {
        desired.check(self.public_key)?;
        self.can_be_had()?;
        let mut held = self.held();
        let (observed, told) = &mut *held;
        let done = plan(self.kind, self.public_key, desired, told, observed);
        for action in &done {
            observed.perform(self.public_key, action);
        }
        *told = desired.told();
        Ok(TunnelState {
            public_key: self.public_key,
            kind: self.kind,
            port: desired.listen_port,
            ifname: "fake".to_owned(),
            done,
        })
    }
}

impl Tunnel for FakeTunnel {
    fn public_key(&self) -> TunnelKey {
        self.public_key
    }

    fn ensure(&self, desired: Desired) -> BoxFuture<'_, Result<TunnelState, TunnelError>> {
        async move { self.ensured(&desired) }.boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Option<Seen>, TunnelError>> {
        let (observed, _) = self.held().clone();
        let device = observed.link.and(observed.device);
        let seen = device.map(|device| Seen { kind: self.kind, device });
        async move { Ok(seen) }.boxed()
    }

    fn compare(&self, desired: Desired) -> BoxFuture<'_, Result<Comparison, TunnelError>> {
        let (observed, told) = self.held().clone();
        let steps = plan(self.kind, self.public_key, &desired, &told, &observed);
        let compared = Comparison { ifname: "fake".to_owned(), observed, steps };
        async move { Ok(compared) }.boxed()
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        async move {
            self.can_be_had()?;
            *self.held() = (Observed::default(), Told::new());
            Ok(())
        }
        .boxed()
    }
}
