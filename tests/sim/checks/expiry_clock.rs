//! The clock that keys expire by goes on at a leader as time does, within a tenth, wherever its wall clock is set.

use datakeeper::base::clock::Wall;
use datakeeper::base::ids::{CopyId, Epoch};

use super::{PerNode, View};
use crate::clock::MS;

/// A leader's clock was last looked at by itself at most so long ago, ms: a node may stand still.
const LATE_MS: u64 = 15_000;

/// Since when each leader is looked at, and what its clock showed then.
#[derive(Default)]
pub struct ExpiryClock(PerNode<(CopyId, Epoch, u64, Wall)>);

impl ExpiryClock {
    /// Looks at node `n` after a call.
    pub fn check(&mut self, n: usize, view: &View<'_>) -> Result<(), String> {
        let Some(keeper) = view.nodes[n].keeper() else { return Ok(()) };
        let Some(epoch) = keeper.leadership().map(|(epoch, _)| epoch).filter(|_| keeper.expiry_clock() > Wall(0))
        else {
            self.0.remove(&n);
            return Ok(());
        };
        let (copy, shown) = (keeper.me().copy, keeper.expiry_clock());
        let first = self.0.entry(n).or_insert((copy, epoch, view.t, shown));
        if (first.0, first.1) != (copy, epoch) {
            *first = (copy, epoch, view.t, shown);
        }
        let (passed, went) = ((view.t - first.2) / MS, shown.0.saturating_sub(first.3.0));
        // A boot clock may go wrong by a thousandth.
        if went > passed * 112 / 100 + LATE_MS || went + LATE_MS < passed * 88 / 100 {
            return Err(format!("expiry clock: it went on by {went} ms at n{n} in {passed} ms"));
        }
        Ok(())
    }
}
