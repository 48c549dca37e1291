//! What takes time: one operation per step, each ending as one fact. Every one of them may be cut off
//! at any point and repeated.

mod cleanup;
mod files;
mod given;
mod prepare;
mod run;
mod stage;
mod volumes;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use shoal_agent_planning::task::TaskRecord;
use tokio::sync::Semaphore;

use super::images::Chooser;
use super::keeper::NetworkKeeper;
use super::{Drivers, WorkerConfig};
use crate::ledger::Ledger;

pub(super) use cleanup::{cleanup, forget};
pub(super) use files::{file_owners, remove_files};
pub(super) use given::remove_all as remove_given;
pub(super) use prepare::{Order, prepare};
pub(super) use run::{accept, kill, start, stop, withdraw};
pub(super) use volumes::Volumes;

/// What every operation works with.
pub(super) struct Context {
    pub config: WorkerConfig,
    pub drivers: Drivers,
    pub ledger: Ledger,
    pub chooser: Chooser,
    pub keeper: NetworkKeeper,
    /// Whoever makes or removes what containers are given.
    given: Arc<Mutex<()>>,
    preparing: Semaphore,
    starting: Semaphore,
    cleaning: Semaphore,
}

impl Context {
    pub(super) fn new(config: WorkerConfig, drivers: Drivers, ledger: Ledger) -> Self {
        let parallel = config.parallel.max(1);
        Self {
            chooser: Chooser::new(Arc::clone(&drivers.images), Arc::clone(&drivers.credentials)),
            keeper: NetworkKeeper::new(Arc::clone(&drivers.networks)),
            given: Arc::default(),
            preparing: Semaphore::new(parallel),
            starting: Semaphore::new(parallel),
            cleaning: Semaphore::new(parallel),
            config,
            drivers,
            ledger,
        }
    }

    /// Where the files of all containers are.
    pub(super) fn files_dir(&self) -> PathBuf {
        self.config.run_dir.join("files")
    }

    /// Where what they are given is, in memory.
    pub(super) fn given_dir(&self) -> PathBuf {
        self.config.run_dir.join("given")
    }
}

/// The networks of a task as the drivers call them.
pub(super) fn networks_of(record: &TaskRecord) -> impl Iterator<Item = String> + '_ {
    record.task.networks.iter().map(|n| n.network_id.to_string())
}
