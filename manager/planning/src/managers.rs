//! How managers fare, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_types::object::{ManagerHealth, ManagerStatus, Reachability};

/// A manager that has not answered its leader for so long does not answer. Leaders ask several times a
/// second, and a follower that hears nothing for so long wants another leader.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How a manager fares, by what its leader knows of Raft's members: how long ago each has answered, if it
/// ever has.
#[must_use]
pub fn health(
    manager: &ManagerStatus,
    leader: Option<u64>,
    members: &BTreeMap<u64, Option<Duration>>,
) -> ManagerHealth {
    let reachability = match members.get(&manager.raft_id) {
        // It is not among those who are asked: on its way in, or out.
        None => Reachability::Unknown,
        Some(Some(ago)) if *ago <= SILENCE_MAX => Reachability::Reachable,
        Some(_) => Reachability::Unreachable,
    };
    ManagerHealth { leader: leader == Some(manager.raft_id), reachability }
}

#[cfg(test)]
mod tests {
    use shoal_types::level::Level;

    use super::*;

    #[test]
    fn a_manager_is_what_its_leader_sees_of_it() {
        let members = BTreeMap::from([
            (1, Some(Duration::ZERO)),
            (2, Some(SILENCE_MAX)),
            (3, Some(SILENCE_MAX + Duration::from_millis(1))),
            (4, None),
        ]);
        let expected = [
            (1, true, Reachability::Reachable),
            (2, false, Reachability::Reachable),
            (3, false, Reachability::Unreachable),
            (4, false, Reachability::Unreachable),
            (5, false, Reachability::Unknown),
        ];
        for (raft_id, leader, reachability) in expected {
            let manager = ManagerStatus { raft_id, addr: String::new(), level: Level::FIRST };
            let found = health(&manager, Some(1), &members);
            assert_eq!(found, ManagerHealth { leader, reachability }, "{raft_id}");
        }
    }
}
