//! Networks exist on a node from when the first task needs them until the last has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use shoal_agent_planning::node::holdings::NetworkUsers;
use shoal_types::id::TaskId;
use tokio::sync::Mutex;

use shoal_agent_network::{NetworkConfig, NetworkDriver, NetworkError};

/// Has networks made and removed as their users come and go ([`NetworkUsers`]). Calls about one network
/// wait for each other; others do not.
pub(super) struct NetworkKeeper {
    driver: Arc<dyn NetworkDriver>,
    networks: StdMutex<BTreeMap<String, Arc<Mutex<Kept>>>>,
    /// Which networks each task has, or may have.
    used: StdMutex<BTreeSet<(TaskId, String)>>,
}

#[derive(Default)]
struct Kept {
    /// As it was made by this process.
    made: Option<NetworkConfig>,
    users: NetworkUsers<TaskId>,
}

impl NetworkKeeper {
    pub(super) fn new(driver: Arc<dyn NetworkDriver>) -> Self {
        Self { driver, networks: StdMutex::default(), used: StdMutex::default() }
    }

    fn kept(&self, network: &str) -> Arc<Mutex<Kept>> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(networks.entry(network.to_owned()).or_default())
    }

    fn used(&self) -> MutexGuard<'_, BTreeSet<(TaskId, String)>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task of an earlier worker uses a network that exists.
    pub(super) async fn adopt(&self, task: TaskId, network: &str) {
        self.used().insert((task, network.to_owned()));
        self.kept(network).lock().await.users.enter(task);
    }

    /// A task is about to use a network: makes it if need be.
    pub(super) async fn acquire(
        &self,
        task: TaskId,
        config: &NetworkConfig,
    ) -> Result<(), NetworkError> {
        self.used().insert((task, config.id.clone()));
        let kept = self.kept(&config.id);
        let mut kept = kept.lock().await;
        kept.users.enter(task);
        if kept.made.as_ref() != Some(config) {
            self.driver.ensure_network(config.clone()).await?;
            kept.made = Some(config.clone());
            kept.users.made();
        }
        Ok(())
    }

    /// A task uses a network no more, and was disconnected from it. The last one takes it along.
    pub(super) async fn release(&self, task: TaskId, network: &str) -> Result<(), NetworkError> {
        let kept = self.kept(network);
        let mut kept = kept.lock().await;
        if kept.users.leave(&task) {
            kept.made = None;
            self.driver.remove_network(network.to_owned()).await?;
            kept.users.removed(&task);
        }
        self.used().remove(&(task, network.to_owned()));
        Ok(())
    }

    /// A task uses a network no more that could not be removed: it goes with the next look.
    pub(super) async fn forsake(&self, task: TaskId, network: &str) {
        self.kept(network).lock().await.users.forsake(&task);
        self.used().remove(&(task, network.to_owned()));
    }

    /// The networks that a task uses, as far as this process knows.
    pub(super) fn used_by(&self, task: TaskId) -> Vec<String> {
        let used = self.used();
        let own = used.range((task, String::new())..).take_while(|(user, _)| *user == task);
        own.map(|(_, network)| network.clone()).collect()
    }

    /// Removes a network that belongs to no task, unless somebody has come for it meanwhile.
    pub(super) async fn remove_unused(&self, network: &str) -> Result<(), NetworkError> {
        let kept = self.kept(network);
        let mut kept = kept.lock().await;
        if kept.users.is_used() {
            return Ok(());
        }
        kept.made = None;
        self.driver.remove_network(network.to_owned()).await
    }
}
