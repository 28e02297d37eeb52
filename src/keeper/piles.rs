//! Replies that pile up for clients that do not read, and where that ends.
//!
//! Many libraries write a whole pipeline and read then. While such a client takes nothing, the shell goes on reading and executing what it sends, and
//! tells how much waits ([`Keeper::replies_wait`]). Here is what bounds that: for each client Redis's `client-output-buffer-limit normal`, for all of
//! them together `maxmemory-clients`. Who is beyond the first, or has most when all are beyond the second, is closed, and the log says who it was
//! and why. Until then it counts as memory that is used, beside the data.
//!
//! Only clients for whom much waits are here, so one that is idle costs nothing. *Not here*: what was published (`pubsub`, with bounds of its own);
//! that a client which does read is held back instead (`shell/client_conn`).

use std::collections::BTreeMap;

use crate::base::clock::{Boot, Now};
use crate::base::ids::ConnId;
use crate::base::limits::{PUSHED_BYTES_MAX, PUSHED_BYTES_SLOW, PUSHED_SLOW_MS};

use super::{Effect, Effects, Keeper, Notice, OutputLimit};

/// What may wait for one that listens, beside what was published and is not fetched yet.
const PUBSUB_LIMIT: OutputLimit =
    OutputLimit { hard: PUSHED_BYTES_MAX as u64, soft: PUSHED_BYTES_SLOW as u64, soft_s: PUSHED_SLOW_MS / 1_000 };

/// What waits for one client.
#[derive(Clone, Copy, Debug, Default)]
struct Pile {
    bytes: usize,
    /// Since when it is beyond the soft limit.
    slow_since: Option<Boot>,
    /// The client is being closed for it.
    closing: bool,
}

/// All of them. Invariant: `bytes` is their sum.
#[derive(Debug, Default)]
pub(super) struct Piles {
    of: BTreeMap<ConnId, Pile>,
    bytes: usize,
}

impl Piles {
    /// Bytes that wait for all clients.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A connection is gone, or nothing waits for it any more.
    pub fn forget(&mut self, conn: ConnId) {
        if let Some(pile) = self.of.remove(&conn) {
            self.bytes -= pile.bytes;
        }
    }

    fn set(&mut self, conn: ConnId, bytes: usize) {
        let pile = self.of.entry(conn).or_default();
        self.bytes = self.bytes - pile.bytes + bytes;
        pile.bytes = bytes;
    }

    /// Who has most of what may still be closed for, and how much all of those have.
    fn most(&self) -> (Option<ConnId>, usize) {
        let open = || self.of.iter().filter(|(_, pile)| !pile.closing);
        let most = open().max_by_key(|(_, pile)| pile.bytes).map(|(conn, _)| *conn);
        (most, open().map(|(_, pile)| pile.bytes).sum())
    }
}

impl Pile {
    /// Which limit it is beyond, if it is.
    fn exceeds(&mut self, now: Boot, class: &str, limit: OutputLimit) -> Option<String> {
        let OutputLimit { hard, soft, soft_s } = limit;
        let beyond = |bytes: u64| bytes > 0 && self.bytes as u64 > bytes;
        if beyond(hard) {
            return Some(format!("more than the {hard} that client-output-buffer-limit {class} allows"));
        }
        if !beyond(soft) {
            self.slow_since = None;
            return None;
        }
        let since = *self.slow_since.get_or_insert(now);
        let over = now.ms_since(since) > soft_s.saturating_mul(1_000);
        over.then(|| {
            format!("and for more than {soft_s} s more than the {soft} that client-output-buffer-limit {class} allows")
        })
    }
}

impl Keeper {
    /// So many bytes of replies wait for a client, now that it was tried to send them. Whoever tells it tells every larger change of it, and when it
    /// is over.
    pub fn replies_wait(&mut self, now: Now, conn: ConnId, bytes: usize, fx: &mut Effects) {
        if bytes == 0 || self.sessions.get(conn).is_none() {
            self.piles.forget(conn);
            return;
        }
        self.piles.set(conn, bytes);
        self.end_pile(now, conn, fx);
        let most = self.settings().max_clients_memory;
        while most > 0
            && self.piles.bytes as u64 > most
            && let (Some(largest), all) = self.piles.most()
            && all as u64 > most
        {
            self.close_for_pile(
                largest,
                &format!("the most of all, who have more than maxmemory-clients ({most})"),
                fx,
            );
        }
    }

    /// Closes those who have been beyond the soft limit for too long.
    pub(super) fn end_slow_piles(&mut self, now: Now, fx: &mut Effects) {
        if self.piles.bytes == 0 {
            return;
        }
        let conns: Vec<ConnId> = self.piles.of.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.end_pile(now, conn, fx));
    }

    fn end_pile(&mut self, now: Now, conn: ConnId, fx: &mut Effects) {
        // Who listens gets no more by asking for something else meanwhile.
        let listens = self.sessions.get(conn).is_some_and(|session| session.subscriptions.is_some());
        let (class, limit) = match listens {
            true => ("pubsub", PUBSUB_LIMIT),
            false => ("normal", self.settings().output_limit),
        };
        let pile = self.piles.of.get_mut(&conn).filter(|pile| !pile.closing);
        if let Some(why) = pile.and_then(|pile| pile.exceeds(now.boot, class, limit)) {
            self.close_for_pile(conn, &why, fx);
        }
    }

    fn close_for_pile(&mut self, conn: ConnId, why: &str, fx: &mut Effects) {
        let Some(pile) = self.piles.of.get_mut(&conn) else { return };
        pile.closing = true;
        let bytes = pile.bytes;
        if let Some(session) = self.sessions.get(conn) {
            let text = format!(
                "closing client {} ({}{}): {bytes} bytes of replies wait that it does not read, {why}",
                session.id,
                session.addr,
                if session.name.is_empty() { String::new() } else { format!(", {}", session.name) },
            );
            fx.push(Notice::warn(text));
        }
        self.stats.overrun_closed += 1;
        fx.push(Effect::CloseClient(conn));
    }

    /// Bytes that the data takes, and replies that wait: what `memory.max_bytes` is about.
    pub(super) fn used_memory(&self) -> usize {
        self.store.used_memory() + self.piles.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Boot {
        Boot(0).plus_ms(ms)
    }

    #[test]
    fn pile_is_too_large_at_once_or_after_some_time_and_not_if_it_shrank_meanwhile() {
        let limit = OutputLimit { hard: 100, soft: 50, soft_s: 2 };
        let mut pile = Pile { bytes: 100, ..Pile::default() };
        assert_eq!(pile.exceeds(at(0), "normal", limit), None);
        assert_eq!(pile.exceeds(at(2_000), "normal", limit), None);
        pile.bytes = 50;
        assert_eq!(pile.exceeds(at(2_001), "normal", limit), None, "it has read meanwhile");
        pile.bytes = 51;
        assert_eq!(pile.exceeds(at(3_000), "normal", limit), None);
        assert!(pile.exceeds(at(5_001), "normal", limit).is_some_and(|why| why.contains("2 s")));
        pile.bytes = 101;
        assert!(pile.exceeds(at(5_001), "normal", limit).is_some_and(|why| why.contains("100")));
        assert_eq!(
            pile.exceeds(at(9_000), "normal", OutputLimit { hard: 0, soft: 0, soft_s: 0 }),
            None,
            "0 is no limit"
        );
    }

    #[test]
    fn sum_follows_what_comes_and_goes() {
        let mut piles = Piles::default();
        piles.set(ConnId(1), 10);
        piles.set(ConnId(2), 30);
        piles.set(ConnId(1), 25);
        assert_eq!((piles.bytes(), piles.of[&ConnId(1)].bytes, piles.most()), (55, 25, (Some(ConnId(2)), 55)));
        piles.of.get_mut(&ConnId(2)).unwrap().closing = true;
        assert_eq!(piles.most(), (Some(ConnId(1)), 25), "who is closed already is not closed again");
        piles.forget(ConnId(2));
        piles.forget(ConnId(2));
        assert_eq!(piles.bytes(), 25);
    }
}
