//! Transactions: what MULTI queues, what EXEC executes, and what WATCH lets it depend on.
//!
//! ```text
//!   MULTI ──► queue: checks, gates, QUEUED ──► EXEC ─┬─ a command could not be queued ──► EXECABORT
//!                                                    ├─ a gate is closed ──► MOVED, or wait, or refused
//!                                                    ├─ a watched key changed ──► null
//!                                                    └─ all commands, under one hold of the lock, one entry of the log
//! ```
//! All mutations of one EXEC are one entry, so every replica and every later leader has all of them or none; its replies are
//! held together like those of any batch. Commands that run in slices elsewhere run to their end here. A transaction is bounded
//! (`TRANSACTION_ARGS_MAX`, `TRANSACTION_BYTES_MAX`), so that it fits an entry and EXEC ends soon.
//!
//! Watches are this leadership's: whoever leads next knows nothing of them, so at any change of leader or epoch they count
//! as changed. WATCH is therefore redirected as a write is. An EXEC that writes needs the lease that reads need, because only
//! afterwards it is known whether anything was written.
//!
//! The semantics, and the order of the checks, are those of `multi.c` and `processCommand` of Redis 7.2 in cluster mode. Not here: a
//! way to take effects back; as in Redis, a command that fails does not keep the others from being executed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, Epoch, Offset};
use crate::base::limits::{PREFETCH_GROUP, TRANSACTION_ARGS_MAX, TRANSACTION_BYTES_MAX, WATCHED_KEYS_MAX};
use crate::command::{CommandSpec, Done, Exec, Flag, SessionCommand, find, keys_of, resolve, slot};
use crate::resp::{Args, Batch, Output, Reply};
use crate::store::{KeyHash, Watch};

use super::admission::{Gate, Gates, Held, OOM};
use super::eviction::Room;
use super::execute::{Next, Outcome};
use super::session::{Answer, Flow, Session, parse_position};
use super::{Effect, Effects, Keeper, Notice};

const NESTED: &str = "ERR MULTI calls can not be nested";
const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
const WATCH_INSIDE_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
const NOT_INSIDE: &str = "ERR Command not allowed inside a transaction";
const SSUBSCRIBE_INSIDE_EXEC: &str = "ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client";
const REWRITE_INSIDE_EXEC: &str =
    "ERR CONFIG REWRITE waits for a file, and nothing waits inside MULTI: send it by itself";
const MONITOR_INSIDE_EXEC: &str = "ERR MONITOR isn't allowed for DENY BLOCKING client";
const TOO_LARGE: &str = "ERR the transaction is too large";
const TOO_LARGE_EFFECTS: &str = "ERR the effects of the transaction are too large for one more command";
const TOO_MANY_WATCHED: &str = "ERR this connection watches too many keys";
const FAILED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// What was queued since MULTI.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    queue: Batch,
    /// Arguments of the queued commands, and their bytes.
    args: usize,
    bytes: usize,
    /// Whether there is a command that writes, that reads, that may grow the store.
    writes: bool,
    reads: bool,
    grows: bool,
    /// A command could not be queued: EXEC executes nothing, and nothing more is queued.
    failed: bool,
}

impl Transaction {
    /// Queued commands.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The commands.
    pub fn queue(&self) -> &Batch {
        &self.queue
    }

    /// Bytes that they hold.
    pub fn memory(&self) -> usize {
        self.queue.memory()
    }

    fn fail(&mut self) {
        *self = Transaction { failed: true, ..Transaction::default() };
    }

    /// Queues a command, if there is room for it.
    fn push(&mut self, spec: &CommandSpec, args: &Args<'_>) -> Result<(), &'static str> {
        self.args += args.len();
        self.bytes += args.bytes();
        if self.args > TRANSACTION_ARGS_MAX || self.bytes > TRANSACTION_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        self.writes |= spec.flags.has(Flag::Write);
        self.reads |= spec.flags.has(Flag::Readonly);
        self.grows |= spec.flags.has(Flag::DenyOom);
        self.queue.push_args(*args);
        Ok(())
    }

    /// The slot of the first key.
    fn slot(&self) -> u16 {
        let keys = (0..self.queue.len()).find_map(|i| {
            let args = self.queue.args(i, &[]);
            keys_of(queued_spec(&args), &args).next()
        });
        keys.map_or(0, slot)
    }
}

/// The row of a command that was queued.
fn queued_spec(args: &Args<'_>) -> &'static CommandSpec {
    resolve(args).expect("only what was resolved is queued")
}

/// The keys that a connection watches, by their hashes, each as it was.
#[derive(Debug, Default)]
pub(super) struct Watches {
    /// The leadership in which the first was watched.
    epoch: Epoch,
    keys: BTreeMap<u64, Watch>,
}

impl Watches {
    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

impl Session {
    /// A command was refused: the transaction that it may belong to cannot be executed.
    pub fn fail_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.fail();
        }
    }
}

pub(super) fn multi(session: &mut Session, reply: &mut Reply<'_>) -> Answer {
    if session.transaction.is_some() {
        return Err(NESTED.into());
    }
    session.transaction = Some(Box::default());
    reply.ok();
    Ok(Flow::Done)
}

impl Keeper {
    pub(super) fn discard(&mut self, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        if session.transaction.is_none() {
            return Err(DISCARD_WITHOUT_MULTI.into());
        }
        self.end_transaction(session);
        reply.ok();
        Ok(Flow::Done)
    }

    /// At the leader alone; elsewhere the client was redirected.
    pub(super) fn watch(&mut self, session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        if session.transaction.is_some() {
            return Err(WATCH_INSIDE_MULTI.into());
        }
        let epoch = self.leading.as_ref().expect("WATCH met the gate").epoch;
        if session.watches.keys.len() + args.len() - 1 > WATCHED_KEYS_MAX {
            return Err(TOO_MANY_WATCHED.into());
        }
        if session.watches.keys.is_empty() {
            session.watches.epoch = epoch;
        }
        // What was watched under another leader has changed already; what is added makes no difference.
        if session.watches.epoch == epoch {
            for key in args.iter().skip(1) {
                let hash = self.store.hash(key);
                let (store, clock) = (&mut self.store, self.clock);
                session.watches.keys.entry(hash.0).or_insert_with(|| store.watch(hash, key, clock));
            }
        }
        reply.ok();
        Ok(Flow::Done)
    }

    pub(super) fn unwatch_command(&mut self, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        self.unwatch(session);
        reply.ok();
        Ok(Flow::Done)
    }

    /// Forgets what is queued and what is watched.
    pub(super) fn end_transaction(&mut self, session: &mut Session) {
        session.transaction = None;
        self.unwatch(session);
    }

    fn unwatch(&mut self, session: &mut Session) {
        session.watches_elsewhere = false;
        let watches = std::mem::take(&mut session.watches);
        if self.leading.as_ref().is_some_and(|l| l.epoch == watches.epoch) {
            watches.keys.into_keys().for_each(|hash| self.store.unwatch(KeyHash(hash)));
        }
    }

    /// Whether some watched key may not be any more what it was.
    pub(super) fn watched_keys_changed(&self, session: &Session) -> bool {
        let watches = &session.watches;
        let here = self.leading.as_ref().is_some_and(|l| l.epoch == watches.epoch);
        let changed =
            |(hash, watch): (&u64, &Watch)| !here || self.store.has_changed(KeyHash(*hash), *watch, self.clock);
        watches.keys.iter().any(changed)
    }

    /// Queues a command of a transaction, or refuses it; `None` if it is one that is executed at once.
    #[allow(clippy::too_many_arguments)] // the state of one batch, borrowed apart
    pub(super) fn queue(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        gates: &mut Gates,
        spec: &'static CommandSpec,
        args: &Args<'_>,
        out: &mut Output,
    ) -> Option<Outcome> {
        use SessionCommand::{DataKeeperAfter, Discard, Multi, Quit, Reset, Watch};
        if matches!(spec.exec, Exec::Session(Multi | SessionCommand::Exec | Discard | Watch | Quit | Reset)) {
            return None;
        }
        if matches!(spec.exec, Exec::Session(DataKeeperAfter)) {
            // It counts from now on: EXEC waits for it before all its commands, not in their midst.
            session.note_seen(parse_position(args.get(2)).ok());
            *gates = self.gates_of(now, session);
        }
        let first_slot = || keys_of(spec, args).next().map_or(0, slot);
        // Queueing takes memory, too, so everything is refused.
        let room = self.make_room(|| args.bytes());
        let refused: Option<Cow<'static, str>> = match gates.of(spec.flags) {
            _ if spec.flags.has(Flag::NoMulti) => Some(NOT_INSIDE.into()),
            // EXEC passes all of it on.
            Gate::Moved | Gate::MovedByKey | Gate::Elsewhere(_) if self.passes_on(session) => {
                self.push(session, spec, args)
            }
            Gate::Moved => Some(self.redirect(now, conn, session, None, first_slot)),
            Gate::MovedByKey if spec.keys.first > 0 => Some(self.redirect(now, conn, session, None, first_slot)),
            Gate::Elsewhere(refusal) => Some(self.redirect(now, conn, session, Some(refusal), first_slot)),
            Gate::Refuse(refusal) => Some(refusal.text().into()),
            Gate::Serve | Gate::MovedByKey | Gate::Wait(_) | Gate::Paused(_) if room == Room::Full => Some(OOM.into()),
            Gate::Serve | Gate::MovedByKey | Gate::Wait(_) | Gate::Paused(_) if room == Room::Again => {
                return Some(Outcome::Stop(Next::Again));
            }
            // What it would wait for, EXEC waits for.
            Gate::Serve | Gate::MovedByKey | Gate::Wait(_) | Gate::Paused(_) => self.push(session, spec, args),
        };
        let Some(text) = refused else {
            Reply::new(out, session.protocol).simple("QUEUED");
            return Some(Outcome::Next);
        };
        session.fail_transaction();
        Some(self.reject(spec, session.protocol, &text, out))
    }

    /// Queues a command of a transaction that has not failed; says why that cannot be.
    fn push(&self, session: &mut Session, spec: &CommandSpec, args: &Args<'_>) -> Option<Cow<'static, str>> {
        let transaction = session.transaction.as_mut().expect("a command is queued after MULTI");
        if transaction.failed { None } else { transaction.push(spec, args).err().map(Cow::from) }
    }

    /// An EXEC that is refused as any command may be, for its arguments or for where it came, ends the transaction, and the watches even without one.
    pub(super) fn refuse_exec(&mut self, session: &mut Session, text: Cow<'_, str>, out: &mut Output) -> Outcome {
        self.end_transaction(session);
        let spec = find(b"exec").expect("it has a row");
        self.reject(spec, session.protocol, &refused(text), out)
    }

    /// EXEC.
    #[allow(clippy::too_many_arguments)] // the state of one batch, borrowed apart
    pub(super) fn exec(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        spec: &'static CommandSpec,
        gates: Gates,
        args: &Args<'_>,
        out: &mut Output,
        need: &mut Offset,
        fx: &mut Effects,
    ) -> Outcome {
        let protocol = session.protocol;
        let began = self.calls.last_reading();
        let refusal = match &session.transaction {
            None => Some(EXEC_WITHOUT_MULTI),
            Some(transaction) => transaction.failed.then_some(FAILED),
        };
        if let Some(text) = refusal {
            if session.transaction.is_some() {
                self.end_transaction(session);
            }
            self.calls.failed(spec);
            self.count_exec(now, session, spec, args, began);
            return self.refuse(protocol, text, out);
        }
        let transaction = session.transaction.take().expect("there is one");
        let elsewhere = session.watches_elsewhere && self.leading.is_none();
        let depends = transaction.writes || transaction.reads || session.watches.len() > 0;
        for (gate, met) in [(gates.write, transaction.writes || elsewhere), (gates.read, depends)] {
            if !met {
                continue;
            }
            match self.pass(now, conn, session, gate, || transaction.slot()) {
                None => {}
                Some(Held::Waits) => {
                    session.transaction = Some(transaction);
                    return Outcome::Stop(Next::Wait);
                }
                Some(Held::Refused(text)) => {
                    self.end_transaction(session);
                    return self.reject(spec, protocol, &refused(text), out);
                }
                Some(Held::Forward) => {
                    if let Some(text) = Keeper::cannot_pass_on(&transaction.queue) {
                        self.end_transaction(session);
                        return self.reject(spec, protocol, &refused(text.into()), out);
                    }
                    // It ends when the leader has answered.
                    session.transaction = Some(transaction);
                    return Outcome::Forward;
                }
            }
        }
        session.wait_until = None;
        if transaction.grows {
            match self.make_room(|| transaction.bytes) {
                Room::Enough => {}
                Room::Again => {
                    session.transaction = Some(transaction);
                    return Outcome::Stop(Next::Again);
                }
                Room::Full => {
                    self.end_transaction(session);
                    return self.reject(spec, protocol, &refused(OOM.into()), out);
                }
            }
        }
        let changed = session.watches_elsewhere || self.watched_keys_changed(session);
        self.unwatch(session);
        if changed {
            self.count_exec(now, session, spec, args, began);
            Reply::new(out, protocol).null_array();
            return Outcome::Next;
        }
        let queue = &transaction.queue;
        let slow_before = std::mem::take(&mut self.calls.slow);
        session.executing_transaction = true;
        let begun = out.mark();
        Reply::new(out, protocol).array(queue.len());
        let (mut from, mut closes, mut overrun) = (0, false, false);
        let most = usize::try_from(self.settings().output_limit.hard).unwrap_or(usize::MAX);
        while from < queue.len() {
            let group = (queue.len() - from).min(PREFETCH_GROUP);
            let mut touched = [None; PREFETCH_GROUP];
            self.touch_group(queue, &[], from, &mut touched[..group]);
            for (i, touched) in touched[..group].iter().enumerate() {
                let hash = touched.map(|(_, hash)| hash);
                self.calls.at = from + i;
                closes |= self.exec_one(now, conn, session, &queue.args(from + i, &[]), hash, out, need, fx);
            }
            self.end_run(now, session, queue, &[]);
            from += group;
            if most > 0 && out.len() > most {
                // All of it happens, and nobody is told: more replies than may wait are not even gathered.
                overrun |= session.hears();
                out.rewind(begun);
            }
        }
        self.calls.slow = slow_before;
        session.executing_transaction = false;
        self.count_exec(now, session, spec, args, began);
        self.stats.commands += queue.len() as u64;
        if !self.scratch.is_empty() {
            *need = self.append(session);
        }
        if overrun {
            self.stats.overrun_closed += 1;
            let (id, addr) = (session.id, &session.addr);
            let why = format!(
                "the replies of its EXEC are more than the {most} bytes that client-output-buffer-limit normal allows"
            );
            fx.extend([Notice::warn(format!("closing client {id} ({addr}): {why}")), Effect::CloseClient(conn)]);
        }
        if closes { Outcome::Stop(Next::CloseAfter) } else { Outcome::Next }
    }

    /// EXEC was executed.
    fn count_exec(&mut self, now: Now, session: &Session, spec: &'static CommandSpec, args: &Args<'_>, began: Boot) {
        self.calls.called_since(spec, began);
        if !self.monitors.is_empty() {
            self.show_monitors(now, session, spec, args);
        }
    }

    /// Executes one command of a transaction to its end; its effects stay in `scratch`. Whether the connection ends with EXEC's reply.
    #[allow(clippy::too_many_arguments)] // the state of one batch, borrowed apart
    fn exec_one(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        args: &Args<'_>,
        first_key: Option<KeyHash>,
        out: &mut Output,
        need: &mut Offset,
        fx: &mut Effects,
    ) -> bool {
        let spec = queued_spec(args);
        let quick = self.calls.is_quick(spec, args);
        if !quick {
            self.calls.end_run();
        }
        let closes = match spec.exec {
            Exec::Data(run) => {
                if spec.flags.has(Flag::Write) && self.scratch.len() + args.bytes() > TRANSACTION_BYTES_MAX {
                    self.reject(spec, session.protocol, TOO_LARGE_EFFECTS, out);
                    return false;
                }
                loop {
                    let (result, emitted) = self.call(now, session, spec, run, args, first_key, out);
                    if emitted > 0 {
                        self.note_touched(spec, args, first_key, self.log.end().next());
                    } else if spec.is_on_keys() {
                        *need = (*need).max(self.saw(spec, args, first_key));
                    }
                    match result {
                        Ok(Done::More) => {}
                        Ok(Done::Done) => break,
                        Err(error) => {
                            self.calls.failed(spec);
                            self.refuse(session.protocol, &error.text(), out);
                            break;
                        }
                    }
                }
                session.slice = Default::default();
                false
            }
            Exec::Session(SessionCommand::SSubscribe) => {
                self.reject(spec, session.protocol, SSUBSCRIBE_INSIDE_EXEC, out);
                return false;
            }
            Exec::Session(SessionCommand::ConfigRewrite) => {
                self.reject(spec, session.protocol, REWRITE_INSIDE_EXEC, out);
                return false;
            }
            Exec::Session(SessionCommand::Monitor) => {
                self.reject(spec, session.protocol, MONITOR_INSIDE_EXEC, out);
                return false;
            }
            Exec::Session(command) => {
                let errors = self.stats.errors;
                let mut flow = self.session_command(now, conn, session, command, args, out, fx);
                if let Flow::Block { .. } = flow {
                    // Nothing waits within a transaction: as if its time were over.
                    session.wait_until = Some(now.boot);
                    flow = self.session_command(now, conn, session, command, args, out, fx);
                }
                if command == SessionCommand::DataKeeperPosition {
                    *need = (*need).max(self.log.end());
                }
                session.wait_until = None;
                if self.stats.errors > errors {
                    self.calls.failed(spec);
                }
                flow == Flow::Close
            }
            Exec::Container => unreachable!("a container has no row that resolves"),
        };
        self.count_executed(now, conn, session, spec, args, quick);
        closes
    }
}

/// The error line of an EXEC that was refused: as it is if it tells the client where or when to try again.
fn refused(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.split(' ').next() {
        Some("MOVED" | "REDIRECT" | "CLUSTERDOWN" | "TRYAGAIN") => text,
        _ => {
            let why = text.strip_prefix("ERR ").unwrap_or(&text);
            format!("EXECABORT Transaction discarded because of: {why}").into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_is_bounded() {
        let mut batch = Batch::new();
        batch.push_command(&vec![&b"DEL"[..]; TRANSACTION_ARGS_MAX / 2]);
        let args = batch.args(0, &[]);
        let spec = queued_spec(&args);
        let mut transaction = Transaction::default();
        assert_eq!(transaction.push(spec, &args), Ok(()));
        assert_eq!(transaction.push(spec, &args), Ok(()));
        assert_eq!((transaction.len(), transaction.bytes), (2, 3 * TRANSACTION_ARGS_MAX));
        assert_eq!(transaction.push(spec, &args.tail(args.len() - 2)), Err(TOO_LARGE));
        transaction.fail();
        assert_eq!((transaction.len(), transaction.memory()), (0, 0), "what is never executed is not kept");
    }
}
