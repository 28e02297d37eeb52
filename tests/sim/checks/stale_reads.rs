//! Invariant 4: a leader that would answer a read now knows of everything that was ever acknowledged.

use crate::history::History;

use super::View;

pub fn check(view: &View<'_>, history: &History) -> Result<(), String> {
    for (n, node) in view.nodes.iter().enumerate() {
        let Some(keeper) = node.keeper() else { continue };
        if keeper.leader_may_read(node.clock.now(view.t)) && keeper.applied() < history.end() {
            return Err(format!(
                "stale reads: n{n} would read at {} while {} is acknowledged",
                keeper.applied(),
                history.end()
            ));
        }
        let ends = (keeper.log().end(), history.end());
        if keeper.leader_may_read(node.clock.now(view.t))
            && ends.1 > keeper.log().base().offset
            && keeper.log().epoch_of(ends.1) != history.epoch_of(ends.1)
        {
            return Err(format!(
                "stale reads: n{n} would read a history that ends at {}, with another entry {}",
                ends.0, ends.1
            ));
        }
    }
    Ok(())
}
