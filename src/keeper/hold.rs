//! Replies that wait for the in-sync set.
//!
//! One queue, ordered by the offset that each needs, then by arrival; what is acknowledged leaves from the front. A connection's
//! own order is kept by the shell, which sends nothing held under a higher number before a lower one.

use std::collections::VecDeque;

use crate::base::clock::Boot;
use crate::base::ids::{ConnId, Offset};

/// Replies of one batch.
#[derive(Clone, Copy, Debug)]
struct Held {
    need: Offset,
    conn: ConnId,
    seq: u64,
    since: Boot,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Holds(VecDeque<Held>);

impl Holds {
    /// Holds the replies that `conn` numbered `seq` until `need` is acknowledged.
    pub fn push(&mut self, need: Offset, conn: ConnId, seq: u64, since: Boot) {
        let held = Held { need, conn, seq, since };
        let at = self.0.iter().rposition(|h| h.need <= need).map_or(0, |i| i + 1);
        self.0.insert(at, held);
    }

    /// The next connection and number that may leave, given what is acknowledged.
    pub fn pop(&mut self, acked: Offset) -> Option<(ConnId, u64)> {
        self.0.pop_front_if(|h| h.need <= acked).map(|h| (h.conn, h.seq))
    }

    /// Since when the longest wait lasts.
    #[must_use]
    pub fn oldest(&self) -> Option<Boot> {
        self.0.front().map(|h| h.since)
    }

    /// Takes out the connections that have waited since before `since`.
    pub fn take_older(&mut self, since: Boot) -> Vec<ConnId> {
        let mut late: Vec<ConnId> = self.0.iter().filter(|h| h.since < since).map(|h| h.conn).collect();
        late.sort_unstable();
        late.dedup();
        self.0.retain(|h| late.binary_search(&h.conn).is_err());
        late
    }

    /// Forgets a connection that has gone.
    pub fn forget(&mut self, conn: ConnId) {
        self.0.retain(|h| h.conn != conn);
    }

    /// Forgets everything: the outcomes are unknown.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Batches that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_order_of_what_they_need_then_of_arrival() {
        let mut holds = Holds::default();
        holds.push(Offset(5), ConnId(1), 1, Boot(1));
        holds.push(Offset(9), ConnId(2), 1, Boot(2));
        holds.push(Offset(5), ConnId(3), 1, Boot(3));
        assert_eq!(holds.pop(Offset(4)), None);
        assert_eq!(holds.pop(Offset(5)), Some((ConnId(1), 1)));
        assert_eq!(holds.pop(Offset(5)), Some((ConnId(3), 1)));
        assert_eq!(holds.pop(Offset(8)), None);
        assert_eq!(holds.pop(Offset(9)), Some((ConnId(2), 1)));
    }

    #[test]
    fn only_connections_that_waited_too_long_are_taken_out() {
        let mut holds = Holds::default();
        holds.push(Offset(5), ConnId(1), 1, Boot(10));
        holds.push(Offset(6), ConnId(2), 1, Boot(20));
        holds.push(Offset(7), ConnId(1), 2, Boot(30));
        assert_eq!(holds.take_older(Boot(15)), [ConnId(1)]);
        assert_eq!((holds.len(), holds.oldest()), (1, Some(Boot(20))));
    }
}
