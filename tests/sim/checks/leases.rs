//! Invariant 8: whatever lease a leader counts on is covered by an unexpired promise of that member, at every real instant; and
//! nobody stands before its promise is over.

use datakeeper::cluster::state::Why;

use super::{PerNode, View};

/// Whether each node stood at its last call.
#[derive(Default)]
pub struct Leases(PerNode<bool>);

impl Leases {
    /// Looks whether node `n` has begun to stand in this call.
    pub fn stands(&mut self, n: usize, view: &View<'_>) -> Result<(), String> {
        let node = &view.nodes[n];
        let Some(keeper) = node.keeper() else { return Ok(()) };
        let stands = keeper.pending_change().is_some_and(|(want, _)| want.change.why == Why::Elect);
        let stood = std::mem::replace(self.0.entry(n).or_insert(false), stands);
        let now = node.clock.boot(view.t);
        if stands && !stood && keeper.promised() > now {
            return Err(format!(
                "leases: n{n} stands {} ms before its promise is over",
                (keeper.promised().0 - now.0) / 1_000_000
            ));
        }
        Ok(())
    }
}

/// Compares each lease with the promise that it rests on.
pub fn covered(view: &View<'_>) -> Result<(), String> {
    for (n, node) in view.nodes.iter().enumerate() {
        let Some(keeper) = node.keeper().filter(|k| k.leadership().is_some()) else { continue };
        for member in keeper.effective_set() {
            let Some(lease) = keeper.lease_from(member.copy).filter(|until| *until > node.clock.boot(view.t)) else {
                continue;
            };
            let holder = view.nodes.iter().enumerate().find(|(_, m)| m.keeper().is_some_and(|k| *k.me() == member));
            let Some((m, holder)) = holder else { continue };
            let promised = holder.keeper().expect("just seen").promised();
            let (lease, promise) = (node.clock.time_of(lease), holder.clock.time_of(promised));
            if lease > promise {
                return Err(format!(
                    "leases: n{n} counts on n{m} for {} us longer than it has promised",
                    (lease - promise) / 1_000
                ));
            }
        }
    }
    Ok(())
}
