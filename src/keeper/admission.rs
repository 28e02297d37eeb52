//! Admission: may this node, in its role and with its lease, execute a command now; if not, what does the client hear.
//!
//! Every refusal here means *not executed*. What an election or a lease may still change is not refused but waits, up to
//! [`HOLD_MS`].

use std::borrow::Cow;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, Epoch, Position};
use crate::base::limits::{HOLD_MS, UNACKED_BYTES_MAX};
use crate::base::rules::Rule;
use crate::cluster::role::Role;
use crate::command::{Flag, Flags};
use crate::replication::in_sync::may_commit;

use super::session::{Session, host_and_port};
use super::{Effect, Effects, Keeper, WritesOnReplica};

/// Why a command is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is known yet, or the leader is not ready.
    Loading,
    /// No confirmed leader.
    NoLeader,
    /// Stopped for an operator.
    Halted,
    /// The leader is not sure that it still leads.
    NoLease,
    /// The in-sync set is too small.
    TooFew,
    /// Too much waits for acknowledgement.
    Backlog,
    /// This follower has not applied yet what the connection wants to see.
    Behind,
    /// The data of this follower may be older than it may be.
    TooOld,
}

impl Refusal {
    /// The error line, without the leading `-`.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Loading => "LOADING Redis is loading the dataset in memory",
            Refusal::NoLeader => "CLUSTERDOWN The cluster is down: no leader is confirmed",
            Refusal::Halted => "CLUSTERDOWN This node is halted and waits for an operator; see its log",
            Refusal::NoLease => "TRYAGAIN The leader cannot confirm its lease",
            Refusal::TooFew => "NOREPLICAS Not enough good replicas to write.",
            Refusal::Backlog => "TRYAGAIN Too many writes wait for the replicas",
            Refusal::Behind => "TRYAGAIN This replica has not come to the position that the connection reads after",
            Refusal::TooOld => "TRYAGAIN The data of this replica may be older than replication.max_staleness_ms",
        }
    }
}

/// What happens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It is executed.
    Serve,
    /// The client is sent to the leader.
    Moved,
    /// The client is sent to the leader if the command names a key.
    MovedByKey,
    /// The client is sent to the leader if it understands that, or refused.
    Elsewhere(Refusal),
    /// It waits; when that has lasted too long, it is refused.
    Wait(Refusal),
    /// CLIENT PAUSE holds it until then.
    Paused(Boot),
    /// It is refused at once.
    Refuse(Refusal),
}

/// The gates of one batch: only a change of role changes them while the lock is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gates {
    pub read: Gate,
    pub write: Gate,
}

/// Why a command is not executed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It is tried again when something changes.
    Waits,
    /// It is answered with this error line.
    Refused(Cow<'static, str>),
    /// The leader executes it.
    Forward,
}

/// What a write is answered by a replica that redirects nobody.
const READONLY: &str = "READONLY You can't write against a read only replica.";

/// What a write that grows the store is answered when memory is full.
pub(super) const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";

impl Gates {
    /// The gate that a command with these flags meets.
    pub fn of(self, flags: Flags) -> Gate {
        match (flags.has(Flag::Write), flags.has(Flag::Readonly)) {
            (true, _) => self.write,
            (false, true) => self.read,
            (false, false) => Gate::Serve,
        }
    }

    /// Whether some command would have to wait.
    pub fn any_waits(self) -> bool {
        [self.read, self.write].iter().any(|g| matches!(g, Gate::Wait(_)))
    }
}

impl Keeper {
    /// `asked`: since when the reads of the batch wait for a round of confirmations.
    pub(super) fn gates(&self, now: Now, asked: Option<Boot>) -> Gates {
        let both = |gate| Gates { read: gate, write: gate };
        match self.role {
            _ if self.stopping => both(Gate::Refuse(Refusal::Loading)),
            Role::Starting => both(Gate::Refuse(Refusal::Loading)),
            Role::Halted => both(Gate::Refuse(Refusal::Halted)),
            Role::Leading if self.config.rules.leaves_out(Rule::BarrierBeforeReads) && self.holds_lease(now) => {
                Gates { read: Gate::Serve, write: Gate::Wait(Refusal::Loading) }
            }
            Role::Leading | Role::Resigning => both(Gate::Wait(Refusal::Loading)),
            Role::SteppingDown => both(Gate::Wait(Refusal::NoLeader)),
            Role::Leader => self.leader_gates(now, asked),
            Role::Candidate | Role::Joining | Role::Syncing | Role::Replica => {
                let write = if self.leader_is_confirmed(now) { Gate::Moved } else { Gate::Wait(Refusal::NoLeader) };
                let may_read = self.role != Role::Joining && self.follower_may_read();
                let read = match write {
                    _ if may_read => Gate::Serve,
                    Gate::Moved => Gate::Elsewhere(Refusal::Loading),
                    _ => write,
                };
                Gates { read, write }
            }
        }
    }

    /// The gates of one client. Who was connected while this node led is sent to the new leader with its reads too: it would not
    /// notice that they are a replica's now.
    pub(super) fn gates_of(&self, now: Now, session: &Session) -> Gates {
        let mut gates = self.gates(now, session.reads_asked);
        if self.leading.is_none() && session.since <= self.led_until {
            gates.read = gates.write;
        }
        if self.leading.is_none() && gates.read == Gate::Serve {
            gates.read = self.replica_read_gate(now, session, gates.write);
        }
        if gates.write == Gate::Serve
            && let Some(until) = self.paused(now, false)
        {
            gates.write = Gate::Paused(until);
        }
        gates
    }

    /// The gate of reads that this follower could answer.
    fn replica_read_gate(&self, now: Now, session: &Session, write: Gate) -> Gate {
        let limit = self.config.max_staleness_ms;
        if session.takes_redirects && !session.readonly {
            // As Valkey has it: who can be redirected reads at a replica only if it said so.
            return write;
        }
        if self.config.reads_need_readonly && !session.readonly {
            // As a Redis cluster has it, where what names no key belongs nowhere else.
            return if write == Gate::Moved { Gate::MovedByKey } else { write };
        }
        if session.read_after > self.shown() {
            return Gate::Wait(Refusal::Behind);
        }
        if limit > 0 && self.staleness_ms(now) > limit {
            let elsewhere = self.leader_is_confirmed(now);
            return if elsewhere { Gate::Elsewhere(Refusal::TooOld) } else { Gate::Refuse(Refusal::TooOld) };
        }
        Gate::Serve
    }

    /// Whether no entry with this position will ever come: a later epoch has another in its place. Only what was not acknowledged by the whole
    /// in-sync set is lost so (`acks: leader`).
    pub(super) fn is_lost(&self, position: Position) -> bool {
        self.log.epochs().iter().any(|(epoch, first)| *epoch > position.epoch && *first <= position.offset)
    }

    /// The position up to which this node's store shows the history. Positions compare by their epochs first: so one that is lost, because a later epoch has
    /// another entry in its place (`acks: leader`), or because the cluster has started over empty since, is waited for only until something of that epoch is here.
    pub(super) fn shown(&self) -> Position {
        let epoch = self.log.epoch_of(self.applied).unwrap_or(self.log.base().epoch);
        Position { epoch, offset: self.applied }
    }

    fn leader_gates(&self, now: Now, asked: Option<Boot>) -> Gates {
        let state = &self.known.as_ref().expect("a leader knows the state").state;
        let enough = may_commit(state, self.pending.as_ref().map(|p| &p.want));
        let write = if !enough {
            Gate::Refuse(Refusal::TooFew)
        } else if self.log.bytes_after(self.acked) > UNACKED_BYTES_MAX || self.fill_goes_first() {
            Gate::Wait(Refusal::Backlog)
        } else {
            Gate::Serve
        };
        Gates { read: if self.may_read(now, asked) { Gate::Serve } else { Gate::Wait(Refusal::NoLease) }, write }
    }

    /// Lets a command, or a transaction, through a gate, or says what stops it; `slot` is that of its first key.
    pub(super) fn pass(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        gate: Gate,
        slot: impl FnOnce() -> u16,
    ) -> Option<Held> {
        let text = match gate {
            Gate::Serve => return None,
            Gate::Moved | Gate::MovedByKey | Gate::Elsewhere(_) if self.passes_on(session) => {
                session.wait_until = None;
                return Some(Held::Forward);
            }
            Gate::Moved | Gate::MovedByKey => self.redirect(now, conn, session, None, slot),
            Gate::Elsewhere(refusal) => self.redirect(now, conn, session, Some(refusal), slot),
            Gate::Wait(refusal) => {
                if refusal == Refusal::Backlog
                    && self.leading.as_ref().is_some_and(|l| now.boot < l.progress.plus_ms(HOLD_MS))
                {
                    // A very large value is on its way to the replicas: as long as it moves, there is an end to the wait.
                    session.wait_until = None;
                }
                if self.may_wait(now, conn, &mut session.wait_until) {
                    if refusal == Refusal::NoLease {
                        self.ask_for_round(now, conn, &mut session.reads_asked);
                    }
                    if refusal == Refusal::Behind {
                        self.behind.insert(conn, session.read_after);
                    }
                    return Some(Held::Waits);
                }
                if refusal == Refusal::Behind && self.leader_is_confirmed(now) {
                    return self.pass(now, conn, session, Gate::Elsewhere(refusal), slot);
                }
                refusal.text().into()
            }
            Gate::Paused(until) => {
                self.waiting.insert(conn, until);
                return Some(Held::Waits);
            }
            Gate::Refuse(refusal) => refusal.text().into(),
        };
        session.wait_until = None;
        Some(Held::Refused(text))
    }

    /// The error line that sends a client to the leader, in the words that its connection understands; one that understands none is
    /// refused its read for `read`, or told that this is a replica.
    pub(super) fn redirect(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        read: Option<Refusal>,
        slot: impl FnOnce() -> u16,
    ) -> Cow<'static, str> {
        let Some(addr) = self.leader_client_addr().map(str::to_string) else { return Refusal::NoLeader.text().into() };
        self.note_redirect(now, conn, session);
        let (host, port) = host_and_port(&addr);
        match self.config.writes_on_replica {
            _ if session.takes_redirects => format!("REDIRECT {host}:{port}").into(),
            WritesOnReplica::Readonly if !session.knows_slots => read.map_or(READONLY, Refusal::text).into(),
            _ => {
                self.stats.redirects += 1;
                format!("MOVED {} {host}:{port}", slot()).into()
            }
        }
    }

    /// Whether this follower has heard its leader so lately that clients can be sent there.
    pub(super) fn leader_is_confirmed(&self, now: Now) -> bool {
        // After a handover, and on the way out, what `/state` just said is enough.
        let told = self.leaving && self.known_leader().is_some();
        let handed_over = |epoch: Epoch| self.handed_over.is_some_and(|resigned| resigned < epoch);
        told || self.following.as_ref().is_some_and(|f| {
            (f.accepted || handed_over(f.epoch)) && now.boot.ms_since(f.heard) < self.shared.promise_ms
        })
    }

    /// Where clients reach the leader, if one is known and it is not this node.
    pub(super) fn leader_client_addr(&self) -> Option<&str> {
        let leader = self.known_leader()?;
        self.nodes.iter().find(|n| n.registration.id == leader.id).map(|n| n.registration.client_addr.as_str())
    }

    /// Lets `conn` wait until something changes; `false` once it has waited for [`HOLD_MS`].
    pub(super) fn may_wait(&mut self, now: Now, conn: ConnId, wait_until: &mut Option<Boot>) -> bool {
        let until = *wait_until.get_or_insert(now.boot.plus_ms(HOLD_MS));
        if now.boot >= until {
            return false;
        }
        self.waiting.insert(conn, until);
        true
    }

    /// Whether what a connection waits for is what reads wait for in any healthy cluster. Then its batch is executed to the end, although the client may
    /// be gone. Who leaves an election, a pause or WAIT has given up: what it sent is not to be executed long after.
    #[must_use]
    pub fn goes_on_soon(&self, conn: ConnId) -> bool {
        self.confirming.contains_key(&conn) || self.behind.contains_key(&conn) || !self.waiting.contains(conn)
    }

    /// Something changed that waiting commands may have waited for: each is tried again.
    pub(super) fn resume_waiting(&mut self, fx: &mut Effects) {
        fx.extend(self.waiting.take().map(Effect::Resume));
    }

    /// Acknowledgements moved: commands that count them are tried again.
    pub(super) fn resume_blocked(&mut self, fx: &mut Effects) {
        if !self.blocked.is_empty() {
            for conn in std::mem::take(&mut self.blocked) {
                if self.waiting.remove(conn) {
                    fx.push(Effect::Resume(conn));
                }
            }
        }
    }

    /// When a wait ends next.
    pub(super) fn wait_deadline(&self) -> Option<Boot> {
        let held = self.holds.oldest().map(|since| since.plus_ms(HOLD_MS));
        let held = held.map(|at| at.max(self.leading.as_ref().map_or(Boot(0), |l| l.progress.plus_ms(HOLD_MS))));
        self.waiting.deadline().into_iter().chain(held).min()
    }

    /// Ends the waits that have lasted too long: waiting commands are tried a last time, and connections with replies whose
    /// writes were not acknowledged in time, while nothing moved, are closed: the outcome is unknown.
    pub(super) fn expire_waits(&mut self, now: Now, fx: &mut Effects) {
        if self.wait_deadline().is_none_or(|at| now.boot < at) {
            return;
        }
        while let Some(conn) = self.waiting.pop_due(now.boot) {
            fx.push(Effect::Resume(conn));
        }
        let stuck = self.leading.as_ref().is_none_or(|l| now.boot >= l.progress.plus_ms(HOLD_MS));
        if stuck && now.boot.0 > HOLD_MS * 1_000_000 {
            let late = self.holds.take_older(Boot(now.boot.0 - HOLD_MS * 1_000_000 + 1));
            fx.extend(late.into_iter().map(Effect::CloseClient));
        }
    }
}
