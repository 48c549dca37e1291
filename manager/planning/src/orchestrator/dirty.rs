//! Whether a task is outdated.

use std::sync::Arc;

use shoal_types::object::{Node, Service, Task};
use shoal_types::spec::TaskSpec;

/// Whether a task must be replaced for the service's present spec to be in force.
///
/// Docker's rule: equal specs are not dirty whatever the version says, so scaling and relabelling a
/// service touch no task; and a change of nothing but constraints leaves a task alone whose node
/// meets the new ones.
#[must_use]
pub fn is_dirty(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    if task.spec_version == service.meta.spec_version {
        return false;
    }
    // An update brings whatever is the latest version of what it is given.
    if !service.has_endpoint(task.endpoint.as_deref()) || task.payloads != service.payloads {
        return true;
    }
    let wanted = &service.spec.task_template;
    if Arc::ptr_eq(&task.spec, wanted) || task.spec == *wanted {
        return false;
    }
    let same_but_constraints = without_constraints(&task.spec) == without_constraints(wanted);
    let still_fits = node.is_some_and(|n| crate::scheduler::meets_constraints(wanted, n));
    !(same_but_constraints && still_fits)
}

fn without_constraints(spec: &TaskSpec) -> TaskSpec {
    let mut spec = spec.clone();
    let mut placement = spec.placement.take().unwrap_or_default();
    placement.constraints.clear();
    spec.placement = Some(placement);
    spec
}
