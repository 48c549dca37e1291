//! Secrets and configs that a node is told, because tasks of it are to have them: nobody else's, and no longer than that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_types::object::{Payload, Task};

/// What the node was told of one kind.
#[derive(Debug, Clone)]
pub(super) struct Given<T: Payload> {
    held: BTreeMap<T::Id, One<T>>,
    /// What more or fewer tasks are given since the node was told last.
    turned: BTreeSet<T::Id>,
}

#[derive(Debug, Clone)]
struct One<T> {
    /// How many wanted tasks are given it.
    tasks: usize,
    told: Option<Arc<T>>,
}

/// What the node is to be told: what it gets, and what it is to forget.
pub(super) type Turned<T> = (Vec<Arc<T>>, Vec<<T as Payload>::Id>);

impl<T: Payload> Given<T> {
    pub(super) const fn new() -> Self {
        Self { held: BTreeMap::new(), turned: BTreeSet::new() }
    }

    /// A wanted task has come, or one has ended or gone, or is to stop.
    pub(super) fn count(&mut self, task: &Task, is_new: bool) {
        for id in T::among(&task.payloads) {
            let one = self.held.entry(*id).or_insert(One { tasks: 0, told: None });
            one.tasks = if is_new { one.tasks + 1 } else { one.tasks.saturating_sub(1) };
            self.turned.insert(*id);
        }
    }

    /// After all tasks. None is removed that a wanted task is given.
    pub(super) fn catch_up<'a>(&mut self, find: impl Fn(T::Id) -> Option<&'a Arc<T>>) -> Turned<T> {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.turned) {
            let Some(one) = self.held.get_mut(&id) else { continue };
            if one.tasks == 0 {
                gone.extend(one.told.is_some().then_some(id));
                self.held.remove(&id);
            } else if one.told.is_none() {
                one.told = find(id).cloned();
                come.extend(one.told.clone());
            }
        }
        (come, gone)
    }
}
