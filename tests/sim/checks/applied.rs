//! Invariants 5 and 6: a follower applies only what is acknowledged, and what was applied is never undone while the copy lives.

use std::collections::BTreeMap;

use datakeeper::base::ids::{CopyId, Offset};
use datakeeper::keeper::Keeper;

use crate::history::History;

/// See the module.
#[derive(Default)]
pub struct Applied(BTreeMap<CopyId, Offset>);

impl Applied {
    pub fn check(&mut self, n: usize, keeper: &Keeper, history: &History) -> Result<(), String> {
        let (applied, log) = (keeper.applied(), keeper.log());
        let before = self.0.entry(keeper.me().copy).or_insert(applied);
        if applied < *before {
            return Err(format!("applied: n{n} went back from {before} to {applied} under the same copy id"));
        }
        *before = applied;
        if log.end() < applied {
            return Err(format!("applied: the log of n{n} ends at {}, {applied} is applied", log.end()));
        }
        let acknowledged = applied.min(history.end());
        let follows = keeper.leadership().is_none() && keeper.replica_may_read();
        if follows && applied > history.end() {
            return Err(format!("applied: n{n} has applied {applied}, only {} is acknowledged", history.end()));
        }
        if follows && acknowledged > log.base().offset && log.epoch_of(acknowledged) != history.epoch_of(acknowledged) {
            return Err(format!(
                "applied: entry {acknowledged} at n{n} is of epoch {:?}, the acknowledged one of {:?}",
                log.epoch_of(acknowledged),
                history.epoch_of(acknowledged)
            ));
        }
        Ok(())
    }
}
