//! Tasks that share the network of others: each goes to the node of its partner, the task of the same slot of the
//! service whose network its own shares.

use std::collections::BTreeMap;

use shoal_manager_state::ClusterState;
use shoal_types::object::{Slot, Task};
use shoal_types::spec::ServiceMode;
use shoal_types::task_state::DesiredState;

use super::filter::{Need, explain, first_refusal};
use super::{Placing, is_pending};

/// Whether a task is to be beside another one.
pub(super) fn shares(task: &Task) -> bool {
    task.spec.network_of.is_some()
}

/// The task whose network a task is to share now; or why there is none.
///
/// # Errors
/// For people.
pub(super) fn partner<'a>(view: &'a ClusterState, task: &Task) -> Result<&'a Task, String> {
    let name = task.spec.network_of.as_deref().unwrap_or_default();
    let own_stack = view.service(task.service_id).and_then(|service| service.stack_id);
    let shared = view.service_by_name(name).filter(|shared| shared.stack_id == own_stack);
    let Some(shared) = shared else {
        return Err(format!("waits for service {name:?}, whose network it shares: there is none"));
    };
    let slot = task.slot;
    // Those of an earlier spec may share the network of others themselves, until they are replaced.
    let wanted =
        || view.tasks_of_slot(shared.id, slot).filter(|one| one.is_wanted() && !shares(one));
    let placed = wanted().filter(|one| one.node_id.is_some() && one.status.state.is_placed());
    // One that waits out a delay comes after one that runs.
    let runs = |one: &Task| one.desired_state == DesiredState::Running;
    if let Some(found) = placed.max_by_key(|one| (runs(one), one.meta.created_at, one.id)) {
        return Ok(found);
    }
    let why = match (wanted().next(), shared.spec.mode, slot) {
        (Some(_), ..) => "it has no node yet".to_owned(),
        (None, ServiceMode::Replicated { replicas }, Slot::Replica(number))
            if number > replicas =>
        {
            format!("the service has {replicas} replicas")
        }
        (None, ..) => "there is none yet".to_owned(),
    };
    Err(format!("waits for task {name}.{slot}, whose network it shares: {why}"))
}

impl Placing<'_, '_> {
    /// Tasks that share the network of others, each on the one node where that is.
    pub(super) fn shared(&mut self) {
        for id in std::mem::take(&mut self.memory.shared) {
            let view = self.look.view;
            let Some(task) = view.task(id).filter(|task| is_pending(task)) else { continue };
            if self.is_held(task) {
                continue;
            }
            let planned = self.plan.commands.len();
            match partner(view, task) {
                Ok(partner) => self.beside(task, partner),
                Err(why) => self.tell(task, &why),
            }
            // Looked at again: it may be that nothing comes of the plan.
            if self.plan.commands.len() > planned {
                self.memory.note(task);
            }
        }
    }

    fn beside(&mut self, task: &Task, partner: &Task) {
        let need = Need::of(self.look.view, task);
        let found = partner.node_id.and_then(|node| Some((node, self.look.node(node)?)));
        let Some((node, info)) = found else { return };
        match first_refusal(&need, &info) {
            None => self.assign(task, node, Some(partner.id)),
            Some(refusal) => {
                let why = explain(&BTreeMap::from([(refusal, 1)]));
                let name = partner.name();
                self.tell(
                    task,
                    &format!("{why}: its place is beside task {name}, whose network it shares"),
                );
                self.memory.waits_beside(task.id, node);
            }
        }
    }
}
