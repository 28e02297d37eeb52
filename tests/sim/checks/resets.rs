//! A cluster starts over only when the data are gone for certain: no copy that counted lives, nor any that is complete.

use datakeeper::cluster::state::{ClusterState, Why};

use crate::history::History;

use super::View;

pub fn check(old: &ClusterState, new: &ClusterState, view: &View<'_>, history: &History) -> Result<(), String> {
    if new.change.why != Why::Reset || new.resets != old.resets + 1 || new.epoch.0 != old.epoch.0 + 1 {
        return Err(format!("resets: dataset {} became {} by {:?}", old.dataset, new.dataset, new.change));
    }
    for (n, node) in view.nodes.iter().enumerate() {
        let Some(keeper) = node.keeper().filter(|k| k.dataset() == Some(old.dataset)) else { continue };
        let counted = old.counted_copies().any(|(_, copy)| copy == keeper.me().copy);
        // A copy that is being filled begins its log at the snapshot's position: it holds little before that.
        let complete = !keeper.is_taking_in() && keeper.log().end() >= history.end();
        if counted || complete {
            return Err(format!(
                "resets: {} started over while n{n} (copy {}, counted {counted}) holds the data up to {}, {} is acknowledged",
                new.leader.id,
                keeper.me().copy,
                keeper.log().last(),
                history.end()
            ));
        }
    }
    Ok(())
}
