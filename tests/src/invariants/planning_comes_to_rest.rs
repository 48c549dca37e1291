//! Planning twice changes nothing: what is planned and done at one instant leaves nothing to plan
//! at that instant, and no plan made on the present state is refused.

use shoal_manager_state::{ClusterState, Command, apply};
use shoal_types::time::Timestamp;

/// Rounds in which planners that wait for each other must have finished.
pub const ROUNDS_MAX: usize = 16;

/// Plans on a copy of the state, does what was planned, and so on until nothing is planned any
/// more; says what is wrong with that. `plan` is asked as the leader would ask all of its planners.
pub fn judge(
    state: &ClusterState,
    now: Timestamp,
    mut plan: impl FnMut(&ClusterState) -> Vec<Command>,
) -> Vec<String> {
    let mut state = state.clone();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let planned = plan(&state);
        if planned.is_empty() {
            return Vec::new();
        }
        for command in &planned {
            let index = state.applied_index() + 1;
            if let Err(rejected) = apply(&mut state, index, now, command.clone()) {
                return vec![format!("{command:?} was planned and is refused: {rejected}")];
            }
        }
        state.take_events();
        rounds.push(planned);
    }
    vec![format!("planning does not come to rest: {rounds:#?}")]
}
