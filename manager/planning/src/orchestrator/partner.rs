//! Tasks that share the network of others, their partners: what follows when those have ended.
//!
//! The end of a partner is no doing of whoever shares its network: that is replaced at once, with nothing counted
//! against it, and belongs to the next task of the partner's slot.

use shoal_types::object::{Node, Slot, Task};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::restart::restart_delay;
use super::{Pass, waits};
use crate::scheduler;

impl Pass<'_> {
    /// Whether the task whose network it shares has ended, or is forgotten.
    pub(super) fn has_lost_partner(&self, task: &Task) -> bool {
        task.partner.is_some_and(|id| self.view.task(id).is_none_or(|partner| !partner.is_live()))
    }

    /// Whether a task that has ended is replaced whatever it ended by: its partner has ended, too. One that was done
    /// is done.
    pub(super) fn ended_with_partner(&self, task: &Task) -> bool {
        let done = task.status.state == TaskState::Complete;
        !done && self.has_lost_partner(task) && super::is_ever_restarted(task)
    }

    /// Until when the end of a partner is waited for: a node stops a task that nobody wants to be stopped when its
    /// partner ends, and tells that first, as the partner has not given everything back until then.
    pub(super) fn awaits_end_of_partner(&self, task: &Task) -> Option<Timestamp> {
        let partner = task.partner.filter(|_| task.status.state == TaskState::Shutdown)?;
        let wanted = self.view.task(partner).is_some_and(|partner| partner.is_wanted());
        let delay = restart_delay(task);
        let until = task.status.timestamp + delay;
        (wanted && waits(until, delay, self.now)).then_some(until)
    }

    /// Whether the service shares the network of another one, or another one its own: slots with the same number belong
    /// together.
    pub(super) fn is_paired(&self) -> bool {
        let spec = &self.service.spec;
        spec.task_template.network_of.is_some() || self.view.sharers(&spec.name).next().is_some()
    }

    /// Slots in which there is a partner and no task, so many at the most.
    pub(super) fn beside_partners(&self, most: usize) -> Vec<Slot> {
        let shared = self.service.spec.task_template.network_of.as_ref();
        let Some(shared) = shared.and_then(|name| self.view.service_by_name(name)) else {
            return Vec::new();
        };
        let tasks = self.view.tasks_of_service(shared.id).filter(|t| t.desired_state.is_kept());
        let mut slots: Vec<Slot> = tasks.map(|task| task.slot).collect();
        slots.dedup();
        slots.retain(|slot| !self.known.get(*slot).used);
        slots.truncate(most);
        slots
    }

    /// Whether a node may have a task of the service whose network this one shares.
    pub(super) fn may_have_partner(&self, node: &Node) -> bool {
        let shared = self.service.spec.task_template.network_of.as_ref();
        let shared = shared.and_then(|name| self.view.service_by_name(name));
        shared.is_none_or(|shared| {
            let template = &shared.spec.task_template;
            scheduler::meets_constraints(template, node) && scheduler::has_platform(template, node)
        })
    }
}
