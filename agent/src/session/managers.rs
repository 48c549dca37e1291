//! Which manager to go to.

use std::sync::{Mutex, PoisonError};

use shoal_transport::ManagerAddress;

use crate::identity::{IdentityError, IdentityStore};

/// The addresses of managers that this node knows, on disk and in memory.
pub struct Managers {
    store: IdentityStore,
    known: Mutex<Vec<ManagerAddress>>,
}

impl Managers {
    /// Reads what was kept.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(store: IdentityStore) -> Result<Self, IdentityError> {
        let known = parse(&store.cluster()?.managers);
        Ok(Self { store, known: Mutex::new(known) })
    }

    /// All, in order.
    #[must_use]
    pub fn all(&self) -> Vec<ManagerAddress> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one to try after `failures` failures in a row: each in turn.
    #[must_use]
    pub fn pick(&self, failures: u32) -> Option<ManagerAddress> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (failures as usize).checked_rem(known.len())?;
        known.get(at).cloned()
    }

    /// Takes over what a manager says, with `current`, the one that has said it, in front: it is
    /// the one that serves. An empty or unusable list changes nothing.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be kept; it is used nevertheless.
    pub fn learn(&self, told: &[String], current: &ManagerAddress) -> Result<(), IdentityError> {
        let mut managers = parse(told);
        if managers.is_empty() {
            return Ok(());
        }
        // Where this node reached it stays, whatever it calls itself: that way leads there.
        managers.retain(|manager| manager != current);
        managers.insert(0, current.clone());
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == managers {
                return Ok(());
            }
            known.clone_from(&managers);
        }
        let managers = managers.iter().map(ToString::to_string).collect();
        self.store.change_cluster(|cluster| cluster.managers = managers)
    }
}

fn parse(addresses: &[String]) -> Vec<ManagerAddress> {
    let mut known = Vec::new();
    for text in addresses {
        match text.parse() {
            Ok(address) if !known.contains(&address) => known.push(address),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "ignoring a manager's address"),
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ClusterFile;

    #[test]
    fn managers_are_tried_in_turn_and_learned() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = IdentityStore::new(dir.path().to_owned());
        let two = ["10.0.0.1:1".to_owned(), "10.0.0.2:1".to_owned()];
        let file = ClusterFile { managers: two.to_vec(), ..ClusterFile::default() };
        store.save_cluster(&file).expect("written");
        let managers = Managers::load(store.clone()).expect("read");
        let tried: Vec<_> = (0..3).map(|n| managers.pick(n).expect("known").to_string()).collect();
        assert_eq!(tried, ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"]);

        let current = "10.0.0.2:1".parse().expect("address");
        let told = ["10.0.0.3:1".to_owned(), "10.0.0.2:1".to_owned(), "http://x".to_owned()];
        managers.learn(&told, &current).expect("kept");
        managers.learn(&[], &current).expect("nothing");
        let expected = ["10.0.0.2:1", "10.0.0.3:1"].map(ToOwned::to_owned);
        assert_eq!(store.cluster().expect("read").managers, expected);
        assert_eq!(managers.pick(0), Some(current));
    }

    #[test]
    fn nobody_known_is_nobody_picked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let managers = Managers::load(IdentityStore::new(dir.path().to_owned())).expect("read");
        assert_eq!(managers.pick(7), None);
    }
}
