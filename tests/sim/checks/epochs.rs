//! Invariant 3: one leader per epoch; epochs grow by one; the leader is in the in-sync set.

use std::collections::BTreeMap;

use datakeeper::base::ids::Epoch;
use datakeeper::cluster::state::Member;

use super::View;

/// See the module.
#[derive(Default)]
pub struct Epochs {
    leaders: BTreeMap<Epoch, Member>,
    version: Option<i32>,
}

impl Epochs {
    pub fn check(&mut self, view: &View<'_>) -> Result<(), String> {
        let Some((state, version)) = view.model.state().state else { return Ok(()) };
        if self.version == Some(version) {
            return Ok(());
        }
        self.version = Some(version);
        let last = self.leaders.last_key_value().map_or(Epoch(0), |(e, _)| *e);
        if state.epoch != last && state.epoch.0 != last.0 + 1 {
            return Err(format!("epochs: {} follows {last}", state.epoch));
        }
        if !state.names(&state.leader) {
            return Err(format!("epochs: leader {} of epoch {} is not in sync", state.leader.id, state.epoch));
        }
        let leader = self.leaders.entry(state.epoch).or_insert_with(|| state.leader.clone());
        if *leader != state.leader {
            return Err(format!("epochs: epoch {} is led by {} and by {}", state.epoch, leader.id, state.leader.id));
        }
        Ok(())
    }
}
