//! What a host has besides containers and the ledger: networks, leases, volumes, files. All of it
//! outlives the agent process.

use std::collections::{BTreeMap, BTreeSet};

use shoal_agent_planning::node::holdings::{Action, NetworkUsers, Observed, ObservedVolume};
use shoal_agent_planning::zone::Asker;
use shoal_types::id::TaskId;

/// A volume that many tasks have.
const SHARED: &str = "data";

#[derive(Debug, Default)]
pub(crate) struct Things {
    leases: BTreeMap<String, BTreeSet<String>>,
    lost: BTreeSet<(String, String)>,
    answered: BTreeMap<String, Asker>,
    networks: BTreeSet<String>,
    volumes: BTreeMap<String, ObservedVolume>,
    files: BTreeSet<String>,
    /// Who has which network, as far as the agent process knows: all that it forgets.
    keeper: BTreeMap<String, NetworkUsers<TaskId>>,
    /// Counts changes of networks, leases and links.
    changes: u64,
}

impl Things {
    pub(crate) fn observe(&self) -> Observed {
        Observed {
            containers: BTreeSet::new(),
            logs: BTreeSet::new(),
            leases: self.leases.clone(),
            lost: self.lost.clone(),
            answered: Some(self.answered.clone()),
            networks: self.networks.clone(),
            volumes: self.volumes.clone(),
            files: self.files.clone(),
        }
    }

    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// What is only in memory is gone, and the links of every lease.
    pub(crate) fn lose_power(&mut self) {
        self.changes += 1;
        self.files.clear();
        self.answered.clear();
        let all = |(task, networks): (&String, &BTreeSet<String>)| {
            let task = task.clone();
            networks.iter().map(move |network| (task.clone(), network.clone())).collect::<Vec<_>>()
        };
        self.lost = self.leases.iter().flat_map(all).collect();
    }

    /// Somebody deletes the links of a lease.
    pub(crate) fn lose(&mut self, task: &str, network: &str) {
        self.changes += 1;
        self.lost.insert((task.to_owned(), network.to_owned()));
    }

    /// Every lease: task and network.
    pub(crate) fn leases(&self) -> Vec<(String, String)> {
        let pairs = |(task, networks): (&String, &BTreeSet<String>)| {
            networks.iter().map(|network| (task.clone(), network.clone())).collect::<Vec<_>>()
        };
        self.leases.iter().flat_map(pairs).collect()
    }

    /// A process begins that knows of nobody but these.
    pub(crate) fn adopt<'a>(
        &mut self,
        holders: impl Iterator<Item = (TaskId, &'a BTreeSet<String>)>,
    ) {
        self.keeper.clear();
        for (task, networks) in holders {
            for network in networks {
                self.keeper.entry(network.clone()).or_default().enter(task);
            }
        }
    }

    pub(crate) fn acquire(&mut self, task: TaskId, network: &str) {
        self.changes += 1;
        let users = self.keeper.entry(network.to_owned()).or_default();
        users.enter(task);
        self.networks.insert(network.to_owned());
        users.made();
    }

    pub(crate) fn attach(&mut self, task: TaskId, network: &str) {
        self.changes += 1;
        let (task, network) = (task.to_string(), network.to_owned());
        self.lost.remove(&(task.clone(), network.clone()));
        self.leases.entry(task).or_default().insert(network);
    }

    pub(crate) fn answer(&mut self, task: &str, asker: Asker) {
        self.answered.insert(task.to_owned(), asker);
    }

    pub(crate) fn let_go(&mut self, task: &str) {
        self.answered.remove(task);
    }

    pub(crate) fn release(&mut self, task: &str) {
        self.changes += 1;
        self.leases.remove(task);
        self.lost.retain(|(of, _)| of != task);
    }

    /// Whether it could leave.
    pub(crate) fn leave(&mut self, task: TaskId, network: &str) -> bool {
        if !self.keeper.entry(network.to_owned()).or_default().leave(&task) {
            return true;
        }
        let removed = self.remove_network(network);
        if removed {
            self.keeper.entry(network.to_owned()).or_default().removed(&task);
        }
        removed
    }

    /// Leaves all that it has, or may have: also what it was to be disconnected from. Returns what could not be
    /// removed.
    pub(crate) fn leave_all(&mut self, task: TaskId, networks: &BTreeSet<String>) -> Vec<String> {
        let known: BTreeSet<String> = self.keeper.keys().chain(networks).cloned().collect();
        let kept = |network: &String| !self.leave(task, network);
        known.into_iter().filter(kept).collect()
    }

    /// Not while anybody is connected.
    fn remove_network(&mut self, network: &str) -> bool {
        let unused = !self.leases.values().any(|has| has.contains(network));
        if unused {
            self.changes += 1;
            self.networks.remove(network);
        }
        unused
    }

    /// One that stays, and one that is made for the task alone.
    pub(crate) fn mount(&mut self, task: TaskId) {
        let task = task.to_string();
        for (name, owner) in [(SHARED.to_owned(), None), (own(&task), Some(task.clone()))] {
            let volume = self.volumes.entry(name).or_default();
            volume.owner = owner;
            volume.users.insert(task.clone());
        }
    }

    pub(crate) fn unmount(&mut self, task: TaskId, keep_own: bool) {
        let task = task.to_string();
        for volume in self.volumes.values_mut() {
            volume.users.remove(&task);
        }
        if !keep_own {
            self.volumes.remove(&own(&task));
        }
    }

    pub(crate) fn write_files(&mut self, task: TaskId) {
        self.files.insert(task.to_string());
    }

    pub(crate) fn remove_files(&mut self, task: TaskId) {
        self.files.remove(&task.to_string());
    }

    /// Carries out what was decided; containers are somebody else's.
    pub(crate) fn perform(&mut self, action: &Action) {
        match action {
            Action::RemoveContainer { .. } | Action::Unmount { .. } => {}
            Action::LetGo { container } => self.let_go(container),
            Action::Answer { container, asker } => self.answer(container, asker.clone()),
            Action::Release { container } => self.release(container),
            Action::RemoveNetwork { network } => {
                let used = self.keeper.get(network).is_some_and(NetworkUsers::is_used);
                if !used {
                    self.remove_network(network);
                }
            }
            Action::EndUse { volume, user } => {
                if let Some(volume) = self.volumes.get_mut(volume) {
                    volume.users.remove(user);
                }
            }
            Action::RemoveVolume { volume } => {
                if self.volumes.get(volume).is_some_and(|volume| volume.users.is_empty()) {
                    self.volumes.remove(volume);
                }
            }
            Action::RemoveFiles { container } => {
                self.files.remove(container);
            }
            Action::Connect { container, network } => {
                let Ok(task) = container.parse() else { return };
                self.acquire(task, network);
                self.attach(task, network);
            }
            Action::Disconnect { container, network } => {
                let Ok(task) = container.parse() else { return };
                self.changes += 1;
                if let Some(has) = self.leases.get_mut(container) {
                    has.remove(network);
                }
                self.lost.remove(&(container.clone(), network.clone()));
                if !self.leave(task, network) {
                    self.keeper.entry(network.clone()).or_default().forsake(&task);
                }
            }
        }
    }
}

/// The volume that was made for a task alone.
fn own(task: &str) -> String {
    format!("own-{task}")
}
