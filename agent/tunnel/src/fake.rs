//! A driver that only remembers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Desired, Observed, Side, Told, plan};
use shoal_types::object::{TunnelKey, TunnelKind};

use crate::{Comparison, EpochKey, Seen, Tunnel, TunnelError, TunnelState};

/// A tunnel in memory.
#[derive(Debug)]
pub struct FakeTunnel {
    first: TunnelKey,
    side: Side,
    key: Mutex<Option<EpochKey>>,
    kind: TunnelKind,
    held: Mutex<(Observed, Told)>,
    fails: Mutex<Option<&'static str>>,
    wires: Mutex<BTreeSet<u32>>,
    blind: AtomicBool,
}

impl FakeTunnel {
    /// There is none yet; it will have this key in the first epoch of its side.
    #[must_use]
    pub fn new(first: TunnelKey, kind: TunnelKind, side: Side) -> Self {
        let (held, fails) = (Mutex::default(), Mutex::default());
        let blind = AtomicBool::new(false);
        let wires = Mutex::new([1500].into());
        Self { first, side, key: Mutex::default(), kind, held, fails, wires, blind }
    }

    /// The key that it will have in an epoch.
    #[must_use]
    pub fn key_of(&self, epoch: u64) -> TunnelKey {
        let mut bytes = self.first.0;
        for (byte, of_epoch) in bytes.iter_mut().rev().zip((epoch & !1).to_le_bytes()) {
            *byte ^= of_epoch;
        }
        TunnelKey(bytes)
    }

    fn held_key(&self) -> MutexGuard<'_, Option<EpochKey>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> Result<TunnelKey, TunnelError> {
        let key = *self.held_key();
        key.map(|key| key.public_key).ok_or(TunnelError::NoKey { ifname: "fake".to_owned() })
    }

    /// It cannot be made or removed any more, for this reason; or again.
    pub fn fail_with(&self, why: Option<&'static str>) {
        *self.fails.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Packets to other hosts leave by interfaces that take so much, in bytes.
    pub fn set_wires(&self, wires: impl IntoIterator<Item = u32>) {
        *self.held_wires() = wires.into_iter().collect();
    }

    fn held_wires(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest packet of the interface, if there is one.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.held().0.link.map(|link| link.mtu)
    }

    /// It cannot be observed any more; or again.
    pub fn set_blind(&self, blind: bool) {
        self.blind.store(blind, Ordering::Relaxed);
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
        let own = self.own()?;
        desired.check(own)?;
        self.can_be_had()?;
        let mut held = self.held();
        let (observed, told) = &mut *held;
        let done = plan(self.kind, own, desired, told, observed);
        for action in &done {
            observed.perform(own, action);
        }
        *told = desired.told();
        Ok(TunnelState {
            public_key: own,
            kind: self.kind,
            port: desired.listen_port,
            ifname: "fake".to_owned(),
            done,
        })
    }
}

impl Tunnel for FakeTunnel {
    fn key(&self) -> Option<EpochKey> {
        *self.held_key()
    }

    fn turn(&self, epoch: u64) -> BoxFuture<'_, Result<EpochKey, TunnelError>> {
        async move {
            if Side::of(epoch) != self.side {
                return Err(TunnelError::OtherSide { ifname: "fake".to_owned(), epoch });
            }
            let key = EpochKey { epoch, public_key: self.key_of(epoch) };
            if self.held_key().replace(key) != Some(key) {
                self.held().1.clear();
            }
            Ok(key)
        }
        .boxed()
    }

    fn forget(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        async move {
            self.remove().await?;
            *self.held_key() = None;
            Ok(())
        }
        .boxed()
    }

    fn ensure(&self, desired: Desired) -> BoxFuture<'_, Result<TunnelState, TunnelError>> {
        async move { self.ensured(&desired) }.boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Option<Seen>, TunnelError>> {
        let (observed, _) = self.held().clone();
        let device = observed.link.and(observed.device);
        let seen = device.map(|device| Seen { kind: self.kind, device });
        let answer = match self.blind.load(Ordering::Relaxed) {
            true => Err(TunnelError::NoTun { source: std::io::Error::other("blind") }),
            false => Ok(seen),
        };
        async move { answer }.boxed()
    }

    fn compare(&self, desired: Desired) -> BoxFuture<'_, Result<Comparison, TunnelError>> {
        async move {
            let own = self.own()?;
            let (observed, told) = self.held().clone();
            let steps = plan(self.kind, own, &desired, &told, &observed);
            Ok(Comparison { ifname: "fake".to_owned(), observed, steps })
        }
        .boxed()
    }

    fn wires(&self, to: BTreeSet<IpAddr>) -> BoxFuture<'_, Result<BTreeSet<u32>, TunnelError>> {
        let wires = if to.is_empty() { BTreeSet::new() } else { self.held_wires().clone() };
        async move { Ok(wires) }.boxed()
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
