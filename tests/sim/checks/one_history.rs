//! Invariant 2: what any leader has ever acknowledged is one sequence; and entries of equal epoch and offset are equal everywhere.

use std::collections::BTreeMap;

use datakeeper::base::ids::{CopyId, Epoch, Offset, Position};
use datakeeper::keeper::Keeper;
use datakeeper::replication::log::Entry;

use super::transactions;
use crate::history::History;

/// See the module.
#[derive(Default)]
pub struct OneHistory {
    /// Every entry that was ever in a log: a backlog may drop it before it is looked at as an acknowledged one.
    /// With the epoch of the entry before it: equal entries have equal pasts.
    entries: BTreeMap<(Offset, Epoch), (Entry, Epoch)>,
    /// Up to where the log of a copy was looked at, and the epoch there.
    seen: BTreeMap<CopyId, (Offset, Epoch)>,
    /// Up to where the acknowledgements of a leadership were looked at.
    acked: BTreeMap<(CopyId, Epoch), Offset>,
}

impl OneHistory {
    /// Looks at what is new in a node's log, and takes in what a leader has acknowledged. Returns whether there was any.
    pub fn absorb(&mut self, n: usize, keeper: &Keeper, history: &mut History) -> Result<bool, String> {
        let log = keeper.log();
        let copy = keeper.me().copy;
        let (mut from, epoch) = self.seen.get(&copy).copied().unwrap_or((log.base().offset, log.base().epoch));
        if log.end() < from || (from > log.base().offset && log.epoch_of(from) != Some(epoch)) {
            // It was cut back: everything that is retained is looked at again.
            from = log.base().offset;
        }
        if log.end() > from {
            for (epoch, entry) in log.peek_after(from) {
                let at = (entry.offset, epoch);
                let before = Offset(entry.offset.0 - 1);
                let before = log.epoch_of(before).unwrap_or(log.base().epoch);
                let (known, past) = self.entries.entry(at).or_insert_with(|| (entry.clone(), before));
                if (known.clock, &known.mutations, *past) != (entry.clock, &entry.mutations, before) {
                    return Err(format!(
                        "one history: entry {epoch}:{} of n{n} differs from the one seen before",
                        entry.offset
                    ));
                }
            }
        }
        self.seen.insert(copy, (log.end(), log.last().epoch));

        let Some((epoch, true)) = keeper.leadership() else { return Ok(false) };
        let seen = self.acked.entry((copy, epoch)).or_insert(Offset::ZERO);
        let acked = keeper.acked();
        if acked == *seen {
            return Ok(false);
        }
        *seen = acked;
        if acked > log.end() {
            return Err(format!("one history: n{n} acknowledged {acked}, its log ends at {}", log.end()));
        }
        let known = acked.min(history.end());
        if known > log.base().offset && log.epoch_of(known) != history.epoch_of(known) {
            return Err(format!(
                "one history: n{n} acknowledged {known} of epoch {:?} in epoch {epoch}, before it was of epoch {:?}",
                log.epoch_of(known),
                history.epoch_of(known)
            ));
        }
        if acked <= history.end() {
            return Ok(false);
        }
        // From the log's end back to what is known: a snapshot may have overtaken the entries before its position.
        let (mut at, mut path) = (log.last(), Vec::new());
        while at.offset > history.end() {
            let Some((entry, before)) = self.entries.get(&(at.offset, at.epoch)) else {
                return Err(format!("one history: n{n} has never had entry {at}"));
            };
            path.push((at.epoch, entry));
            at = Position { epoch: *before, offset: Offset(at.offset.0 - 1) };
        }
        if history.epoch_of(at.offset).is_some_and(|e| e != at.epoch) {
            return Err(format!(
                "one history: n{n} acknowledged entries after {at}, the history has {:?}",
                history.epoch_of(at.offset)
            ));
        }
        for (epoch, entry) in path.into_iter().rev().take_while(|(_, e)| e.offset <= acked) {
            history.push(epoch, entry);
            transactions::check(history)?;
        }
        Ok(true)
    }
}
