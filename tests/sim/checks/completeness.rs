//! Invariant 1: each copy that `/state` names has every acknowledged entry in its log.

use crate::history::History;

use super::View;

pub fn check(view: &View<'_>, history: &History) -> Result<(), String> {
    let Some((state, version)) = view.model.state().state else { return Ok(()) };
    let end = history.end();
    for member in &state.in_sync {
        // A copy that is dead claims nothing.
        let Some((n, keeper)) =
            view.nodes.iter().enumerate().find_map(|(n, node)| Some((n, node.keeper().filter(|k| k.me() == member)?)))
        else {
            continue;
        };
        let log = keeper.log();
        if log.end() < end {
            return Err(format!(
                "completeness: n{n} is in sync in /state v{version}, its log ends at {}, {end} is acknowledged",
                log.last()
            ));
        }
        // Entries of equal epoch and offset are equal, with everything before them (see `one_history`).
        if end > log.base().offset && log.epoch_of(end) != history.epoch_of(end) {
            return Err(format!(
                "completeness: n{n} is in sync in /state v{version}, its entry {end} is of epoch {:?}, the acknowledged one of {:?}",
                log.epoch_of(end),
                history.epoch_of(end)
            ));
        }
    }
    Ok(())
}
