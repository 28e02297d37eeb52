//! Invariant 11: nothing is acknowledged while the in-sync set is too small, nor while a change that would make it so is undecided.

use datakeeper::keeper::Keeper;

/// `keeper` has just acknowledged something.
pub fn check(n: usize, keeper: &Keeper) -> Result<(), String> {
    let (state, version) = keeper.known_state().ok_or("minimum: a leader knows the state")?;
    for (what, s) in [("confirmed", Some(state)), ("pending", keeper.pending_change().map(|p| p.0))] {
        if let Some(s) = s.filter(|s| s.in_sync.len() < s.min_required()) {
            return Err(format!(
                "minimum: n{n} acknowledged {} with {} of {} members in the {what} set (v{version})",
                keeper.acked(),
                s.in_sync.len(),
                s.min_required()
            ));
        }
    }
    Ok(())
}
