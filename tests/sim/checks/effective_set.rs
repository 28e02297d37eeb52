//! Invariant 9: while a leader's epoch is the present one, every member that `/state` names is one that it waits for.

use datakeeper::keeper::Keeper;

use super::View;

pub fn check(n: usize, keeper: &Keeper, view: &View<'_>) -> Result<(), String> {
    let (Some((epoch, _)), Some((state, version))) = (keeper.leadership(), view.model.state().state) else {
        return Ok(());
    };
    if state.epoch != epoch || state.leader != *keeper.me() {
        return Ok(());
    }
    let effective = keeper.effective_set();
    match state.in_sync.iter().find(|m| !effective.contains(m)) {
        None => Ok(()),
        Some(m) => Err(format!(
            "effective set: leader n{n} does not wait for {} ({}), /state v{version} names it",
            m.id, m.copy
        )),
    }
}
