//! Of connections and names of containers.

use super::Difference;
use crate::node::holdings::Action;

/// What the plan for the node's holdings says of networks; the rest of it is about other things.
#[must_use]
pub fn differences(actions: &[Action]) -> Vec<Difference> {
    let one = |action: &Action| {
        Some(match action {
            Action::Connect { container, network } => {
                Difference::missing(format!("link of task {container} into network {network}"))
            }
            Action::Disconnect { container, network } => Difference::strange(format!(
                "link of task {container} into network {network}, which it does not have"
            )),
            Action::Answer { container, .. } => {
                Difference::missing(format!("sockets at which task {container} asks for names"))
            }
            Action::LetGo { container } => Difference::strange(format!(
                "sockets at which {container}, which is gone, asked for names"
            )),
            Action::Release { container } => {
                Difference::strange(format!("addresses and ports of {container}, which is gone"))
            }
            Action::RemoveNetwork { network } => {
                Difference::strange(format!("network {network}, which no task has"))
            }
            Action::RemoveContainer { .. }
            | Action::EndUse { .. }
            | Action::Unmount { .. }
            | Action::RemoveVolume { .. }
            | Action::RemoveFiles { .. } => return None,
        })
    };
    actions.iter().filter_map(one).collect()
}
