//! Every slot has at most one running task while its node can be reached.
//!
//! Allowed are more where the service starts new tasks before it stops old ones, and on nodes that
//! cannot be reached: what a node held when the managers lost sight of it may have been replaced,
//! and may go on until the node, back again, has done what it is told: to stop it.

use std::collections::BTreeMap;

use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::object::Slot;
use shoal_types::spec::UpdateOrder;
use shoal_types::time::Timestamp;

use super::{Moment, Running};

/// Remembers when each node was last out of sight.
#[derive(Debug, Default)]
pub struct Judge {
    lost: BTreeMap<NodeId, Timestamp>,
}

impl Judge {
    /// Looks at one moment; says what is wrong with it.
    pub fn look(&mut self, moment: &Moment<'_>) -> Vec<String> {
        for running in moment.running {
            if moment.state.is_lost(running.node) {
                self.lost.insert(running.node, moment.now);
            }
        }
        for node in moment.state.nodes().filter(|n| n.is_lost()) {
            self.lost.insert(node.id, moment.now);
        }
        let mut slots: BTreeMap<(ServiceId, Slot), Vec<&Running>> = BTreeMap::new();
        for running in moment.running.iter().filter(|r| !self.is_excused(moment.state, r)) {
            slots.entry((running.service, running.slot)).or_default().push(running);
        }
        slots
            .iter()
            .filter(|((service, _), running)| {
                running.len() > 1 && stops_first(moment.state, *service)
            })
            .map(|((service, slot), running)| {
                format!(
                    "slot {slot} of service {service} runs {} times: {running:?}",
                    running.len()
                )
            })
            .collect()
    }

    fn is_excused(&self, state: &ClusterState, running: &Running) -> bool {
        if state.is_lost(running.node) {
            return true;
        }
        let was_lost = self.lost.get(&running.node).is_some_and(|at| *at >= running.held_since);
        was_lost && !is_wanted(state, running)
    }
}

fn is_wanted(state: &ClusterState, running: &Running) -> bool {
    state.task(running.task).is_some_and(|task| task.is_wanted())
}

fn stops_first(state: &ClusterState, service: ServiceId) -> bool {
    state.service(service).is_some_and(|service| {
        let config = service.spec.update_config.as_ref();
        config.is_none_or(|config| config.order == UpdateOrder::StopFirst)
    })
}
