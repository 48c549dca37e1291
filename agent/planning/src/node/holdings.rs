//! What of the node's containers, connections, networks, volumes and files belongs to which task, and
//! what is to be done about what belongs to none, or is missing.
//!
//! A task owns what it has from the moment it is known until it has given everything back. What is
//! being made or given back right now is the affair of whoever does it: nothing of a busy task is
//! touched. A network exists on a node as long as a task there has it. A container that is there and is to stay
//! is connected to the networks of its task and to no others, also where these have changed since it began.

use std::collections::{BTreeMap, BTreeSet};

use crate::zone::Asker;

/// What one task has on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The networks that are made for it.
    pub networks: BTreeSet<String>,
    /// Its container is there and is to stay, and which networks it has is written down: so its connections have
    /// to be these.
    pub connected: bool,
    /// Its container as one that asks for names, if it does.
    pub asks: Option<Asker>,
    /// Something is done for it right now.
    pub busy: bool,
}

/// The tasks of the node, by what their containers are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Those that have not given everything back.
    pub holders: BTreeMap<String, Held>,
    /// All that are known, also those of which only a log is left.
    pub known: BTreeSet<String>,
    /// Those of which the record was lost: their logs stay.
    pub lost: BTreeSet<String>,
}

impl Assigned {
    /// Whether a container belongs to a task that has something.
    #[must_use]
    pub fn holds(&self, container: &str) -> bool {
        self.holders.contains_key(container)
    }

    fn needs(&self, network: &str) -> bool {
        self.holders.values().any(|held| held.networks.contains(network))
    }

    /// A task whose connections are put in order.
    fn settled(&self, container: &str) -> Option<&Held> {
        self.holders.get(container).filter(|held| held.connected && !held.busy)
    }
}

/// A volume as the node has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedVolume {
    /// Who uses it.
    pub users: BTreeSet<String>,
    /// The task for which alone it was made.
    pub owner: Option<String>,
    /// Something is mounted for it.
    pub mounted: bool,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers, running or not.
    pub containers: BTreeSet<String>,
    /// Those of them of which only the log is left.
    pub logs: BTreeSet<String>,
    /// Who has leases of which networks: addresses and ports. Of whom nothing stands here nothing is known.
    pub leases: BTreeMap<String, BTreeSet<String>>,
    /// Leases whose links are gone: container and network.
    pub lost: BTreeSet<(String, String)>,
    /// Containers that names are answered to, and as whom; `None` if that was not looked at.
    pub answered: Option<BTreeMap<String, Asker>>,
    /// Networks.
    pub networks: BTreeSet<String>,
    /// Volumes, by name.
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// Containers for which files were made.
    pub files: BTreeSet<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the fields are named by what they are")]
pub enum Action {
    /// End and remove a container of no task.
    RemoveContainer { container: String, keep_log: bool },
    /// Close the sockets at which a container that is gone asked for names: they keep its network namespace.
    LetGo { container: String },
    /// Give back addresses and ports, with their links.
    Release { container: String },
    /// Disconnect a container from a network that its task does not have any more.
    Disconnect { container: String, network: String },
    /// Remove a network that no task has.
    RemoveNetwork { network: String },
    /// Strike out a user of a volume.
    EndUse { volume: String, user: String },
    /// Unmount a volume that nobody uses.
    Unmount { volume: String },
    /// Remove a volume that was made for a task that is gone.
    RemoveVolume { volume: String },
    /// Remove the files of a container that is gone.
    RemoveFiles { container: String },
    /// Connect a container to a network of its task: for the first time, or again with the same addresses if its
    /// links are gone.
    Connect { container: String, network: String },
    /// Answer names to a container to which nobody does, or as if it had other networks.
    Answer { container: String, asker: Asker },
}

/// What to do, in this order: processes before what they use, connections at the end.
#[must_use]
pub fn plan(assigned: &Assigned, observed: &Observed) -> Vec<Action> {
    let gone = |container: &&String| !assigned.holders.contains_key(*container);
    let mut actions = Vec::new();
    for container in observed.containers.iter().filter(|c| !assigned.known.contains(*c)) {
        let keep_log = assigned.lost.contains(container);
        if keep_log && observed.logs.contains(container) {
            continue;
        }
        actions.push(Action::RemoveContainer { container: container.clone(), keep_log });
    }
    let unasked = observed.answered.iter().flat_map(BTreeMap::keys).filter(gone);
    actions.extend(unasked.map(|c| Action::LetGo { container: c.clone() }));
    let released = observed.leases.keys().filter(gone);
    actions.extend(released.map(|c| Action::Release { container: c.clone() }));
    let links = Links::of(assigned, observed);
    actions.extend(links.surplus.iter().map(|(container, network)| {
        let (container, network) = (container.clone(), network.clone());
        Action::Disconnect { container, network }
    }));
    let unneeded = |network: &&String| !assigned.needs(network) && !links.stays.contains(*network);
    let networks = observed.networks.iter().filter(unneeded);
    actions.extend(networks.map(|network| Action::RemoveNetwork { network: network.clone() }));
    for (name, volume) in &observed.volumes {
        plan_volume(assigned, name, volume, &mut actions);
    }
    let files = observed.files.iter().filter(gone);
    actions.extend(files.map(|c| Action::RemoveFiles { container: c.clone() }));
    actions.extend(links.missing.iter().map(|(container, network)| {
        let (container, network) = (container.clone(), network.clone());
        Action::Connect { container, network }
    }));
    for (container, held) in &assigned.holders {
        let Some(asker) = held.asks.as_ref().filter(|_| assigned.settled(container).is_some())
        else {
            continue;
        };
        let as_wanted = match &observed.answered {
            Some(answered) => answered.get(container) == Some(asker),
            None => !links.are_others(container),
        };
        if !as_wanted {
            let (container, asker) = (container.clone(), asker.clone());
            actions.push(Action::Answer { container, asker });
        }
    }
    actions
}

/// Containers and networks: what is to be disconnected, what is to be connected, and what else has a lease.
#[derive(Debug, Default)]
struct Links {
    surplus: BTreeSet<(String, String)>,
    /// In order of its containers and networks: new ones and lost ones.
    missing: BTreeSet<(String, String)>,
    /// Containers among these that get a network which they did not have.
    grown: BTreeSet<String>,
    /// Networks of which a task keeps a lease.
    stays: BTreeSet<String>,
}

impl Links {
    fn of(assigned: &Assigned, observed: &Observed) -> Self {
        let mut links = Self::default();
        let pair = |container: &String, network: &String| (container.clone(), network.clone());
        for (container, has) in &observed.leases {
            let Some(held) = assigned.settled(container) else {
                if assigned.holds(container) {
                    links.stays.extend(has.iter().cloned());
                }
                continue;
            };
            let missing = held.networks.difference(has).map(|network| pair(container, network));
            let before = links.missing.len();
            links.missing.extend(missing);
            if links.missing.len() > before {
                links.grown.insert(container.clone());
            }
            let surplus = has.difference(&held.networks).map(|network| pair(container, network));
            links.surplus.extend(surplus);
        }
        let lost = observed.lost.iter().filter(|(container, network)| {
            assigned.settled(container).is_some_and(|held| held.networks.contains(network))
        });
        links.missing.extend(lost.cloned());
        links
    }

    /// Whether a container gets other networks than it had.
    fn are_others(&self, container: &str) -> bool {
        self.grown.contains(container) || self.surplus.iter().any(|(of, _)| of == container)
    }
}

fn plan_volume(
    assigned: &Assigned,
    name: &str,
    volume: &ObservedVolume,
    actions: &mut Vec<Action>,
) {
    let named = || name.to_owned();
    let (living, gone): (Vec<&String>, Vec<&String>) =
        volume.users.iter().partition(|user| assigned.holders.contains_key(*user));
    actions
        .extend(gone.iter().map(|user| Action::EndUse { volume: named(), user: (*user).clone() }));
    if !living.is_empty() {
        return;
    }
    // Whoever was the last to leave has it unmounted.
    if volume.mounted && gone.is_empty() {
        actions.push(Action::Unmount { volume: named() });
    }
    if volume.owner.as_ref().is_some_and(|owner| !assigned.known.contains(owner)) {
        actions.push(Action::RemoveVolume { volume: named() });
    }
}

/// Who has a network, and what follows from it: it is made for the first and removed with the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUsers<T: Ord> {
    users: BTreeSet<T>,
    /// It is there, as far as this process knows.
    made: bool,
}

impl<T: Ord> Default for NetworkUsers<T> {
    fn default() -> Self {
        Self { users: BTreeSet::new(), made: false }
    }
}

impl<T: Ord> NetworkUsers<T> {
    /// Somebody has it from now on. Entered before it is made: where that is cut off, leaving removes
    /// what there is.
    pub fn enter(&mut self, user: T) {
        self.users.insert(user);
    }

    /// It was made.
    pub fn made(&mut self) {
        self.made = true;
    }

    /// Whether it has to be removed before this user may leave; else the user has left.
    pub fn leave(&mut self, user: &T) -> bool {
        if self.users.iter().any(|other| other != user) {
            self.users.remove(user);
            return false;
        }
        self.made = self.made || self.users.contains(user);
        self.made
    }

    /// Whether anybody has it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.users.is_empty()
    }

    /// Somebody has it no more, and it is still there: it goes with whoever looks for what nobody has.
    pub fn forsake(&mut self, user: &T) {
        self.users.remove(user);
    }

    /// It was removed.
    pub fn removed(&mut self, user: &T) {
        self.made = false;
        self.users.remove(user);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whoever does not know who is answered does nothing about it.
    fn answered(observed: &mut Observed) -> &mut BTreeMap<String, Asker> {
        observed.answered.as_mut().expect("nobody has looked")
    }

    /// What the actions make of the node: the judge of the plan.
    fn perform(observed: &mut Observed, actions: &[Action]) {
        for action in actions {
            match action {
                Action::RemoveContainer { container, keep_log: true } => {
                    assert!(observed.containers.contains(container));
                    assert!(observed.logs.insert(container.clone()));
                }
                Action::RemoveContainer { container, .. } => {
                    assert!(observed.containers.remove(container));
                }
                Action::Release { container } => {
                    assert!(observed.leases.remove(container).is_some());
                    let answered = observed.answered.as_ref();
                    let held = answered.is_some_and(|answered| answered.contains_key(container));
                    assert!(!held, "it keeps its namespace");
                    observed.lost.retain(|(of, _)| of != container);
                }
                Action::RemoveNetwork { network } => {
                    let users = observed.leases.values().filter(|has| has.contains(network));
                    assert_eq!(users.count(), 0, "{network} connects somebody");
                    assert!(observed.networks.remove(network));
                }
                Action::EndUse { volume, user } => {
                    let volume = observed.volumes.get_mut(volume).unwrap();
                    assert!(volume.users.remove(user));
                    volume.mounted &= !volume.users.is_empty();
                }
                Action::Unmount { volume } => {
                    let volume = observed.volumes.get_mut(volume).unwrap();
                    assert!(volume.users.is_empty() && std::mem::take(&mut volume.mounted));
                }
                Action::RemoveVolume { volume } => {
                    assert!(observed.volumes.remove(volume).unwrap().users.is_empty());
                }
                Action::RemoveFiles { container } => assert!(observed.files.remove(container)),
                Action::Connect { container, network } => {
                    let was_lost = observed.lost.remove(&(container.clone(), network.clone()));
                    let has = observed.leases.entry(container.clone()).or_default();
                    assert!(has.insert(network.clone()) || was_lost, "it is connected");
                    observed.networks.insert(network.clone());
                }
                Action::Disconnect { container, network } => {
                    assert!(observed.leases.get_mut(container).unwrap().remove(network));
                    observed.lost.remove(&(container.clone(), network.clone()));
                }
                Action::LetGo { container } => {
                    assert!(answered(observed).remove(container).is_some());
                }
                Action::Answer { container, asker } => {
                    if let Some(answered) = &mut observed.answered {
                        let before = answered.insert(container.clone(), asker.clone());
                        assert_ne!(before.as_ref(), Some(asker));
                    }
                }
            }
        }
    }

    fn some(names: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
        prop::collection::btree_set(prop::sample::select(names).prop_map(str::to_owned), 0..4)
    }

    fn seen<T: Strategy>(all: T) -> impl Strategy<Value = Option<T::Value>> {
        prop::option::weighted(0.8, all)
    }

    const TASKS: &[&str] = &["a", "b", "c", "d"];
    const NETWORKS: &[&str] = &["front", "back", "old"];

    fn assigned() -> impl Strategy<Value = Assigned> {
        let held = (some(NETWORKS), any::<bool>(), any::<bool>(), any::<bool>());
        let held = held.prop_map(|(networks, connected, asks, busy)| Held {
            networks,
            connected,
            asks: asks.then(|| asker_on(1)),
            busy,
        });
        let name = prop::sample::select(TASKS).prop_map(str::to_owned);
        let holders = prop::collection::btree_map(name, held, 0..4);
        (holders, some(TASKS), some(TASKS)).prop_map(|(holders, more, lost)| {
            let known = holders.keys().cloned().chain(more).collect();
            Assigned { holders, known, lost }
        })
    }

    fn asker_on(networks: usize) -> Asker {
        let networks = NETWORKS.iter().take(networks).map(|&name| name.to_owned()).collect();
        Asker { networks, ..Asker::default() }
    }

    fn askers() -> impl Strategy<Value = BTreeMap<String, Asker>> {
        let name = prop::sample::select(TASKS).prop_map(str::to_owned);
        prop::collection::btree_map(name, (0..3usize).prop_map(asker_on), 0..4)
    }

    /// A node can have anything on it.
    fn observed(assigned: Assigned) -> impl Strategy<Value = (Assigned, Observed)> {
        let volume = (some(TASKS), prop::option::of(prop::sample::select(TASKS)), any::<bool>());
        let volume = volume.prop_map(|(users, owner, mounted)| ObservedVolume {
            users,
            owner: owner.map(str::to_owned),
            mounted,
        });
        let volumes = prop::collection::btree_map("[v-z]", volume, 0..4);
        let name = prop::sample::select(TASKS).prop_map(str::to_owned);
        let leases = prop::collection::btree_map(name, some(NETWORKS), 0..4);
        let rest =
            (some(TASKS), some(TASKS), some(TASKS), seen(askers()), some(NETWORKS), any::<bool>());
        (leases, volumes, rest).prop_map(move |(leases, volumes, rest)| {
            let (containers, logs, files, answered, mut networks, all_lost): (
                _,
                BTreeSet<_>,
                _,
                _,
                _,
                _,
            ) = rest;
            leases.values().for_each(|has| networks.extend(has.iter().cloned()));
            let pairs =
                leases.iter().flat_map(|(c, has)| has.iter().map(|n| (c.clone(), n.clone())));
            let lost = pairs.filter(|_| all_lost).collect();
            let logs = logs.intersection(&containers).cloned().collect();
            let observed =
                Observed { containers, logs, leases, lost, answered, networks, volumes, files };
            (assigned.clone(), observed)
        })
    }

    proptest! {
        #[test]
        fn performing_a_plan_leaves_nothing_to_plan_and_what_tasks_have(
            (assigned, before) in assigned().prop_flat_map(observed),
        ) {
            let mut node = before.clone();
            let actions = plan(&assigned, &node);
            perform(&mut node, &actions);
            prop_assert_eq!(plan(&assigned, &node), vec![]);
            for (task, held) in &assigned.holders {
                let settled = held.connected && !held.busy;
                let has = before.leases.get(task).map(|has| if settled { &held.networks } else { has });
                prop_assert_eq!(node.leases.get(task).filter(|_| has.is_some()), has);
                prop_assert_eq!(node.files.contains(task), before.files.contains(task));
                prop_assert_eq!(node.containers.contains(task), before.containers.contains(task));
                for network in held.networks.iter().filter(|n| before.networks.contains(*n)) {
                    prop_assert!(node.networks.contains(network));
                }
                for (name, volume) in before.volumes.iter().filter(|(_, v)| v.users.contains(task)) {
                    let after = &node.volumes[name];
                    prop_assert!(after.users.contains(task) && after.mounted == volume.mounted);
                }
                if let (Some(after), Some(before)) = (&node.answered, &before.answered) {
                    let asks = held.asks.as_ref().filter(|_| settled);
                    prop_assert_eq!(after.get(task), asks.or(before.get(task)));
                }
                let lost = |node: &Observed| node.lost.iter().filter(|(c, _)| c == task).count();
                prop_assert_eq!(lost(&node), if settled { 0 } else { lost(&before) });
            }
            // What is nobody's goes, but for the volumes that people named.
            let held = |task: &String| assigned.holders.contains_key(task);
            prop_assert!(node.leases.keys().all(held) && node.files.iter().all(held));
            prop_assert!(node.answered.iter().flat_map(BTreeMap::keys).all(held));
            prop_assert!(node.volumes.values().flat_map(|v| &v.users).all(held));
            for task in node.containers.iter().filter(|task| !assigned.known.contains(*task)) {
                prop_assert!(assigned.lost.contains(task) && node.logs.contains(task));
            }
            let used = |volume: &ObservedVolume| !volume.users.is_empty();
            prop_assert!(node.volumes.values().all(|v| used(v) || !v.mounted));
            for (name, volume) in before.volumes.iter().filter(|(_, v)| v.owner.is_none()) {
                prop_assert!(node.volumes.contains_key(name), "{volume:?}");
            }
        }
    }

    /// What is not known of a container it keeps, and who hears of a change hears of all that follows.
    #[test]
    fn a_container_has_the_networks_that_its_task_has() {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let held = Held {
            networks: set(&["front", "back"]),
            connected: true,
            asks: Some(asker_on(2)),
            busy: false,
        };
        let assigned = |held: &Held| Assigned {
            holders: [("a".to_owned(), held.clone())].into(),
            known: set(&["a"]),
            ..Assigned::default()
        };
        let leases = [("a".to_owned(), set(&["front", "old"]))].into();
        let observed = Observed { leases, networks: set(&["front", "old"]), ..Observed::default() };
        let (container, network) = ("a".to_owned(), |name: &str| name.to_owned());
        let expected = [
            Action::Disconnect { container: container.clone(), network: network("old") },
            Action::RemoveNetwork { network: network("old") },
            Action::Connect { container: container.clone(), network: network("back") },
            Action::Answer { container, asker: asker_on(2) },
        ];
        assert_eq!(plan(&assigned(&held), &observed), expected);
        // Not while something is done for it, and not before it is written down. Its networks stay meanwhile.
        for held in [Held { busy: true, ..held.clone() }, Held { connected: false, ..held.clone() }]
        {
            assert_eq!(plan(&assigned(&held), &observed), []);
        }
        assert_eq!(plan(&assigned(&held), &Observed::default()), [], "nothing is known of it");
    }

    #[test]
    fn a_network_is_made_for_the_first_and_removed_with_the_last() {
        let mut users = NetworkUsers::default();
        assert!(!users.leave(&1), "nobody ever had it");
        users.enter(1);
        users.made();
        users.enter(2);
        assert!(!users.leave(&1));
        assert!(users.leave(&2) && users.leave(&2), "until it is gone");
        users.removed(&2);
        assert!(!users.leave(&2));
        // Making it was cut off.
        users.enter(3);
        assert!(users.leave(&3));
    }
}
