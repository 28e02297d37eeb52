//! Invariant 11: nothing is acknowledged while the in-sync set is too small, nor while a change that would make it so is undecided.

use datakeeper::base::ids::ChangeId;
use datakeeper::keeper::Keeper;

use super::PerNode;

/// The change that each node had pending after its last call.
#[derive(Default)]
pub struct Minimum(PerNode<Option<ChangeId>>);

impl Minimum {
    /// Looks at a call; `grown`: it has acknowledged something.
    pub fn check(&mut self, n: usize, keeper: &Keeper, grown: bool) -> Result<(), String> {
        let pending = keeper.pending_change().map(|p| p.0);
        let id = pending.map(|p| p.change.id);
        // A change that this very call has asked for came after what the call acknowledged.
        let was_pending = std::mem::replace(self.0.entry(n).or_default(), id) == id;
        let Some((state, version)) = keeper.known_state().filter(|_| grown) else { return Ok(()) };
        for (what, s) in [("confirmed", Some(state)), ("pending", pending.filter(|_| was_pending))] {
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
}
