//! A host without namespaces: it remembers, and answers by the real zone.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use shoal_agent_planning::zone::{Asker, Known, Roll, Zone};

use super::driver::NamesDriver;
use super::keeper::NamesError;

/// Answers as the real one does, and can be told to fail.
#[derive(Debug, Default)]
pub struct FakeNames {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    zone: Zone,
    served: BTreeMap<String, (Asker, PathBuf)>,
    broken: bool,
    looks: u64,
}

impl FakeNames {
    /// While set, no process can be started, so that nobody is answered anew.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// Who has sockets.
    #[must_use]
    pub fn askers(&self) -> Vec<Asker> {
        self.lock().served.values().map(|(asker, _)| asker.clone()).collect()
    }

    /// How often it has looked.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// The agent and the process have both been killed: nothing is left but what is on disk.
    pub fn lose_everything(&self) {
        let mut inner = self.lock();
        (inner.zone, inner.served) = (Zone::default(), BTreeMap::new());
    }

    /// What a container is told of a name.
    #[must_use]
    pub fn ask(&self, container: &str, name: &str) -> Option<Vec<IpAddr>> {
        let inner = self.lock();
        let (asker, _) = inner.served.get(container)?;
        match inner.zone.ask(asker, name) {
            Known::Addresses(all) => Some(all),
            Known::Called(_) | Known::Absent | Known::Foreign => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, act: impl FnOnce(&mut Inner)) -> BoxFuture<'_, Result<(), NamesError>> {
        let mut inner = self.lock();
        if inner.broken {
            let source = io::Error::other("asked to");
            let path = PathBuf::from("names.sock");
            return ready(Err(NamesError::Process { path, source })).boxed();
        }
        act(&mut inner);
        ready(Ok(())).boxed()
    }
}

impl NamesDriver for FakeNames {
    fn tell(&self, roll: Roll) {
        let mut inner = self.lock();
        inner.zone = roll.zone(&inner.zone);
    }

    fn serve(&self, asker: Asker, netns: PathBuf) -> BoxFuture<'_, Result<(), NamesError>> {
        self.answer(move |inner| {
            inner.served.insert(asker.container.clone(), (asker, netns));
        })
    }

    fn let_go(&self, container: String) -> BoxFuture<'_, Result<(), NamesError>> {
        self.lock().served.remove(&container);
        ready(Ok(())).boxed()
    }

    fn served(&self) -> BoxFuture<'_, Option<BTreeMap<String, Asker>>> {
        let served = self.lock().served.clone().into_iter();
        ready(Some(served.map(|(id, (asker, _))| (id, asker)).collect())).boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(), NamesError>> {
        self.answer(|inner| inner.looks += 1)
    }

    fn is_answering(&self) -> BoxFuture<'_, Option<bool>> {
        let inner = self.lock();
        ready((!inner.served.is_empty()).then_some(!inner.broken)).boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.lose_everything();
        ready(()).boxed()
    }
}
