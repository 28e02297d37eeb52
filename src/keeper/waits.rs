//! Connections whose next command waits, and until when: for a role, a lease, room, or acknowledgements.
//!
//! Found by connection when something happens, and by deadline when nothing does. The earliest deadline is asked for at every hold of the
//! Keeper's lock, so it must not depend on how many wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::Boot;
use crate::base::ids::ConnId;

/// See the module. Invariant: both hold the same pairs.
#[derive(Debug, Default)]
pub(super) struct Waits {
    until: BTreeMap<ConnId, Boot>,
    by_deadline: BTreeSet<(Boot, ConnId)>,
}

impl Waits {
    /// Lets `conn` wait until then, whatever it waited for before.
    pub fn insert(&mut self, conn: ConnId, until: Boot) {
        self.remove(conn);
        self.until.insert(conn, until);
        self.by_deadline.insert((until, conn));
    }

    /// Ends a wait; whether there was one.
    pub fn remove(&mut self, conn: ConnId) -> bool {
        let until = self.until.remove(&conn);
        until.is_some_and(|until| self.by_deadline.remove(&(until, conn)))
    }

    /// Whether `conn` waits.
    #[must_use]
    pub fn contains(&self, conn: ConnId) -> bool {
        self.until.contains_key(&conn)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Those that wait until just then.
    pub fn until(&self, deadline: Boot) -> impl Iterator<Item = ConnId> {
        self.by_deadline.range((deadline, ConnId(0))..=(deadline, ConnId(u64::MAX))).map(|(_, conn)| *conn)
    }

    /// When a wait ends next.
    #[must_use]
    pub fn deadline(&self) -> Option<Boot> {
        self.by_deadline.first().map(|(until, _)| *until)
    }

    /// Takes out the next whose time is over.
    pub fn pop_due(&mut self, now: Boot) -> Option<ConnId> {
        let (_, conn) = self.by_deadline.first().copied().filter(|(until, _)| now >= *until)?;
        self.remove(conn);
        Some(conn)
    }

    /// Takes all of them out, in order of their numbers.
    pub fn take(&mut self) -> impl Iterator<Item = ConnId> {
        std::mem::take(self).until.into_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::jitter::Jitter;

    #[test]
    fn whoever_waits_is_found_by_number_and_by_deadline() {
        let mut waits = Waits::default();
        for (conn, until) in [(1, 30), (2, 10), (3, 20), (2, 40)] {
            waits.insert(ConnId(conn), Boot(until));
        }
        assert_eq!((waits.len(), waits.deadline()), (3, Some(Boot(20))), "a later wait takes the place of the former");
        assert_eq!([10, 30, 40].map(|at| waits.until(Boot(at)).count()), [0, 1, 1]);
        assert!(waits.contains(ConnId(2)) && waits.remove(ConnId(3)) && !waits.remove(ConnId(3)));
        assert_eq!(
            (waits.pop_due(Boot(29)), waits.pop_due(Boot(30)), waits.pop_due(Boot(39))),
            (None, Some(ConnId(1)), None)
        );
        assert_eq!(waits.take().collect::<Vec<_>>(), [ConnId(2)]);
        assert_eq!((waits.len(), waits.deadline()), (0, None));
    }

    #[test]
    fn deadlines_agree_with_a_scan_of_all() {
        let (mut waits, mut all) = (Waits::default(), BTreeMap::new());
        let mut rng = Jitter::new(1);
        for now in 0..5_000 {
            let conn = ConnId(rng.below(40));
            if rng.below(3) == 0 {
                assert_eq!(waits.remove(conn), all.remove(&conn).is_some());
            } else {
                let until = Boot(now + rng.below(100));
                waits.insert(conn, until);
                all.insert(conn, until);
            }
            while let Some(due) = waits.pop_due(Boot(now)) {
                assert!(all.remove(&due).is_some_and(|until| until <= Boot(now)));
            }
            assert_eq!((waits.deadline(), waits.len()), (all.values().min().copied(), all.len()));
        }
    }
}
