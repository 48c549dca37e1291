//! What planners remember hides nothing from them: where they have nothing left to do, planners that
//! look at everything for the first time have nothing to do either.

use shoal_manager_state::Command;

/// Says what is wrong with planners that came to rest, if others who remember nothing then plan this.
#[must_use]
pub fn judge(planned_afresh: &[Command]) -> Option<String> {
    let some = !planned_afresh.is_empty();
    some.then(|| format!("was forgotten by those who remember: {planned_afresh:#?}"))
}
