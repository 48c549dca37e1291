//! Planning twice changes nothing: what is planned and done at one instant leaves nothing to plan
//! at that instant, and no plan made on the present state is refused.

use shoal_manager_state::{ClusterState, Command, Event, apply};
use shoal_types::time::Timestamp;

/// Rounds in which planners that wait for each other must have finished.
pub const ROUNDS_MAX: usize = 16;

/// Plans on a copy of the state, does what was planned, and so on until nothing is planned any
/// more. `plan` is asked as the leader would ask all of its planners, and told what has happened since
/// it was asked before. The state in which nothing is left to do.
///
/// # Errors
/// What is wrong with that.
pub fn judge(
    state: &ClusterState,
    now: Timestamp,
    mut plan: impl FnMut(&ClusterState, &[Event]) -> Vec<Command>,
) -> Result<ClusterState, String> {
    let mut state = state.clone();
    let mut rounds = Vec::new();
    let mut events = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let planned = plan(&state, &events);
        if planned.is_empty() {
            return Ok(state);
        }
        for command in &planned {
            let index = state.applied_index() + 1;
            if let Err(rejected) = apply(&mut state, index, now, command.clone()) {
                return Err(format!("{command:?} was planned and is refused: {rejected}"));
            }
        }
        events = state.take_events();
        rounds.push(planned);
    }
    Err(format!("planning does not come to rest: {rounds:#?}"))
}
