//! Invariant 8: while a leader holds the leases of all whom it waits for, so that it may read, each is covered by an unexpired promise
//! of that member, at every real instant; and nobody stands before its promise is over.
//!
//! Once one of them stood, which ended its promise for ever, the others owe that leader nothing: a successor that reads without
//! leases may have told them so.

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
        let now = node.clock.boot(view.t);
        let members = keeper.effective_set().into_iter().filter(|m| m.copy != keeper.me().copy);
        let leases = members.map(|m| keeper.lease_from(m.copy).filter(|until| *until > now).map(|until| (m, until)));
        // One that has run out keeps this leader from reading, whatever it has of others.
        let Some(leases) = leases.collect::<Option<Vec<_>>>() else { continue };
        for (member, lease) in leases {
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
