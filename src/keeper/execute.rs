//! Executing a client's batch, under one hold of the lock.
//!
//! Two passes per group of commands: hash the keys and touch their buckets and entries, then execute in order; so the memory
//! misses of neighbouring commands overlap. Each command with effects becomes one entry of the log. The replies of a batch are
//! held together until everything they tell of is acknowledged.

use crate::base::clock::Now;
use crate::base::ids::{ConnId, Offset, Position};
use crate::base::limits::{OUTPUT_BYTES_PAUSE, PREFETCH_GROUP};
use crate::cluster::role::Role;
use crate::command::{
    CommandError, CommandSpec, Ctx, DataFn, Done, Exec, Flag, Lookups, SessionCommand, find, find_spec, keys_of,
    resolve, slot,
};
use crate::replication::in_sync::may_commit;
use crate::resp::{Args, Batch, Output, Protocol, Reply};
use crate::store::{Event as KeyEvent, KeyHash, Mutation};

use super::admission::{Gate, Gates, Held, OOM};
use super::eviction::{EVICTION_WORK, Room};
use super::session::{Flow, Session, goes_on_while_paused};
use super::{Acks, Effects, Forward, Keeper, SWEEP_MS, Touched};

/// Keys that one hold of the lock looks at for expiry: some 40 µs if all are due.
const EXPIRE_WORK: usize = 64;
/// Holds of one burst. They follow each other at once, but for what clients have asked meanwhile: the busier they are, the less expiry gets.
const EXPIRE_HOLDS: usize = 16;

/// How far a burst of active expiry has come.
#[derive(Debug, Default)]
pub(super) struct Burst {
    holds: usize,
    /// Keys that were due.
    due: usize,
}

/// What is to be executed for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    pub conn: ConnId,
    pub batch: &'a Batch,
    /// What it was parsed from.
    pub input: &'a [u8],
    /// The command that comes first.
    pub from: usize,
    /// What [`Keeper::touch`] found out, where it was asked.
    pub touch: Option<Touch>,
}

/// How far a batch came.
#[derive(Debug)]
pub struct Executed {
    /// Commands executed, counted from where this call began.
    pub commands: usize,
    /// The replies just written are held under this number; without one they wait only for the connection's earlier ones.
    pub seq: Option<u64>,
    /// What comes next.
    pub next: Next,
    /// With [`Next::Forward`]: what is to be passed on.
    pub forward: Option<Box<Forward>>,
    /// Whether the client watches keys at the leader, through this node.
    pub watches_elsewhere: bool,
    /// Whether it has shown the password, or needs none.
    pub trusted: bool,
}

/// What the connection does after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The batch is done.
    Done,
    /// Keep the rest of the batch and its bytes; [`super::Effect::Resume`] follows.
    Wait,
    /// Unlock, let others run, call again with the rest.
    Again,
    /// The leader executes what comes next: pass it on, report by [`Keeper::forwarded`], then call again with what is behind it.
    Forward,
    /// Send what is written and held, then close.
    CloseAfter,
}

/// What pass 1 found out about a command on keys: its row, and the hash of its first key.
pub type Touch = (&'static CommandSpec, KeyHash);

/// What became of one command.
pub(super) enum Outcome {
    Next,
    /// It is answered; whether what follows it may be executed is to be asked anew.
    Look,
    Stop(Next),
    /// The leader executes it.
    Forward,
}

impl Keeper {
    /// Executes what a connection has asked; replies go to `out`. The batches that are executed under one hold of the lock have the same `now`.
    ///
    /// An unknown connection, and one that ends, gets nothing and is told to close.
    pub fn execute(&mut self, now: Now, work: Work<'_>, out: &mut Output, fx: &mut Effects) -> Executed {
        let Work { conn, batch, input, from, touch } = work;
        let Some(mut session) = self.sessions.take(conn) else {
            return Executed {
                commands: 0,
                seq: None,
                next: Next::CloseAfter,
                forward: None,
                watches_elsewhere: false,
                trusted: false,
            };
        };
        if session.ending {
            return self.end_batch(conn, session, 0, None, Next::CloseAfter, None);
        }
        self.waiting.remove(conn);
        self.behind.remove(&conn);
        self.confirming.remove(&conn);
        let mut end = batch.len();
        if self.pause.is_some()
            && let Some(until) = self.paused(now, true)
        {
            let goes_on = |at: &usize| resolve(&batch.args(*at, input)).is_ok_and(goes_on_while_paused);
            end = from + (from..end).take_while(goes_on).count();
            if end == from {
                self.waiting.insert(conn, until);
                return self.end_batch(conn, session, 0, None, Next::Wait, None);
            }
        }
        if self.role == Role::Leader {
            self.tick(now);
            self.store.tell_clock(self.clock);
        }
        self.store.tell_time(now.boot);
        self.store.be_quiet(session.no_touch);
        self.eviction_work = EVICTION_WORK;
        self.calls.begin(now.boot);
        let mut gates = self.gates_of(now, &session);
        let end_before = self.log.end();
        let mut need = Offset::ZERO;
        let mut done = from;
        let mut next = Next::Done;
        let mut forward = None;
        session.active_at = now.boot;
        if let Some(inbox) = &mut session.inbox {
            // What was published before these commands stands before their replies.
            inbox.take(out, usize::MAX);
        }
        'batch: while done < end {
            let group = (end - done).min(PREFETCH_GROUP);
            let mut found;
            let touched = match group {
                1 => &[touch][..],
                _ => {
                    found = [None; PREFETCH_GROUP];
                    self.touch_group(batch, input, done, &mut found[..group]);
                    &found[..group]
                }
            };
            for touched in touched {
                let args = batch.args(done, input);
                self.calls.at = done;
                let unheard = session.replies.begin().then(|| out.mark());
                let outcome = self.command(now, conn, &mut session, &mut gates, &args, *touched, out, &mut need, fx);
                if let Some(mark) = unheard
                    && session.replies.end(matches!(outcome, Outcome::Next | Outcome::Look))
                {
                    out.rewind(mark);
                    self.take_own(session.protocol, out); // what is pushed is no reply
                }
                if matches!(outcome, Outcome::Next | Outcome::Look) && session.tracking.is_some() {
                    session.end_caching_behind(&args);
                }
                match outcome {
                    Outcome::Next => {
                        done += 1;
                        if out.len() > OUTPUT_BYTES_PAUSE && done < batch.len() {
                            // The shell sends before it calls again: a batch of large reads piles nothing up.
                            next = Next::Again;
                            break 'batch;
                        }
                    }
                    Outcome::Look => {
                        done += 1;
                        break 'batch;
                    }
                    Outcome::Forward => {
                        forward = Some(self.forward(conn, &mut session, batch, input, done));
                        next = Next::Forward;
                        break 'batch;
                    }
                    Outcome::Stop(stop) => {
                        done += usize::from(stop == Next::CloseAfter);
                        next = stop;
                        break 'batch;
                    }
                }
            }
            if done < batch.len() {
                self.end_run(now, &session, batch, input);
            }
        }
        self.end_run(now, &session, batch, input);
        if next == Next::Done && done < batch.len() {
            next = Next::Again;
        }
        if self.log.end() > end_before {
            self.advance(now, fx);
            self.wake_followers(fx);
            self.evict_soon(now);
        }
        self.take_own(session.protocol, out);
        fx.append(&mut self.deferred);
        if self.confirming.contains_key(&conn) {
            self.wake_followers(fx);
        }
        if matches!(next, Next::Done | Next::CloseAfter | Next::Forward) {
            session.reads_asked = None;
        }
        let seq = (need > self.acked && self.config.acks == Acks::InSync && self.leading.is_some()).then(|| {
            session.held_seq += 1;
            self.holds.push(need, conn, session.held_seq, now.boot);
            session.held_seq
        });
        self.stats.commands += (done - from) as u64;
        if next == Next::CloseAfter {
            self.let_go(conn, &mut session);
        }
        let executed = self.end_batch(conn, session, done - from, seq, next, forward);
        if self.store.has_notes() || self.tracking.owes() {
            self.tell_notes(now, Some(conn), fx);
        }
        executed
    }

    /// Puts the session back, and says how far its batch came.
    fn end_batch(
        &mut self,
        conn: ConnId,
        session: Box<Session>,
        commands: usize,
        seq: Option<u64>,
        next: Next,
        forward: Option<Box<Forward>>,
    ) -> Executed {
        let (watches_elsewhere, trusted) = (session.watches_elsewhere, session.trusted);
        self.sessions.put_back(conn, session);
        Executed { commands, seq, next, forward, watches_elsewhere, trusted }
    }

    /// Pass 1: starts loading what pass 2 will look at.
    pub(super) fn touch_group(&self, batch: &Batch, input: &[u8], from: usize, touched: &mut [Option<Touch>]) {
        for (i, touch) in touched.iter_mut().enumerate() {
            *touch = self.touch_command(&batch.args(from + i, input));
        }
        touched.iter().flatten().for_each(|touch| self.touch_entry(touch));
    }

    /// Pass 1 over the batches of several connections, one call for each: starts loading the bucket that the command of a batch of one will look at.
    #[must_use]
    pub fn touch(&self, batch: &Batch, input: &[u8]) -> Option<Touch> {
        if batch.len() == 1 { self.touch_command(&batch.args(0, input)) } else { None }
    }

    /// Then, one call for each: starts loading the entry.
    pub fn touch_entry(&self, touch: &Touch) {
        self.store.touch_entry(touch.1);
    }

    fn touch_command(&self, args: &Args<'_>) -> Option<Touch> {
        let spec = resolve(args).ok().filter(|spec| spec.keys.first == 1 && matches!(spec.exec, Exec::Data(_)))?;
        let hash = self.store.hash(args.get(1));
        self.store.touch(hash);
        Some((spec, hash))
    }

    /// How long the commands executed under this hold of the lock have taken, in nanoseconds.
    #[must_use]
    pub fn spent_since(&self, now: Now) -> u64 {
        self.calls.last_reading().0.saturating_sub(now.boot.0)
    }

    #[allow(clippy::too_many_arguments)] // the state of one batch, borrowed apart
    fn command(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        gates: &mut Gates,
        args: &Args<'_>,
        touched: Option<Touch>,
        out: &mut Output,
        need: &mut Offset,
        fx: &mut Effects,
    ) -> Outcome {
        let protocol = session.protocol;
        let first_key = touched.map(|(_, hash)| hash);
        let spec = match touched.map_or_else(|| resolve(args), |(spec, _)| Ok(spec)) {
            Ok(spec) => spec,
            Err(error @ CommandError::WrongArity("exec")) => return self.refuse_exec(session, error.text(), out),
            Err(error) => {
                session.fail_transaction();
                if let Ok(spec) = find_spec(args) {
                    self.calls.rejected(spec);
                }
                // An HTTP request, which a page in somebody's browser can send here: its body is not to be taken for commands.
                let name = args.get(0);
                let http = name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
                if session.trusted && !session.at_sentinel && find(name).is_none() {
                    self.note_unknown(name, &session.library.0, fx);
                }
                let outcome = self.refuse(protocol, &error.text(), out);
                return if http { Outcome::Stop(Next::CloseAfter) } else { outcome };
            }
        };
        if !session.trusted && !spec.flags.has(Flag::NoAuth) {
            return self.reject(spec, protocol, "NOAUTH Authentication required.", out);
        }
        if session.at_sentinel && !session.asks_sentinel(spec) {
            let text = CommandError::unknown_command(args.get(0), args.iter().skip(1)).text().into_owned();
            return self.reject(spec, protocol, &text, out);
        }
        if session.subscriptions.is_some() && session.refuses(spec) {
            let text = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                spec.name
            );
            if matches!(spec.exec, Exec::Session(SessionCommand::Exec)) {
                return self.refuse_exec(session, text.into(), out);
            }
            session.fail_transaction();
            return self.reject(spec, protocol, &text, out);
        }
        session.last_command = spec.name;
        if session.transaction.is_some()
            && let Some(outcome) = self.queue(now, conn, session, gates, spec, args, out)
        {
            return outcome;
        }
        let quick = self.calls.is_quick(spec, args);
        if !quick {
            self.calls.end_run();
        }
        match spec.exec {
            Exec::Data(run) => {
                session.has_worked = true;
                let write = spec.flags.has(Flag::Write);
                let gate = gates.of(spec.flags);
                if gate != Gate::Serve
                    && let Some(outcome) = self.stop_at(now, conn, session, spec, args, gate, out)
                {
                    return outcome;
                }
                if spec.flags.has(Flag::DenyOom)
                    && let Some(outcome) = self.stop_without_room(session, spec, args, out)
                {
                    return outcome;
                }
                let before = out.mark();
                let (result, emitted) = self.call(now, session, spec, run, args, first_key, out);
                if write && emitted == 0 && gates.read != Gate::Serve && matches!(result, Ok(Done::Done)) {
                    // A write that changes nothing is a read: no follower is asked for what it answers, so it needs the lease.
                    out.rewind(before);
                    if let Some(outcome) = self.stop_at(now, conn, session, spec, args, gates.read, out) {
                        return outcome;
                    }
                }
                session.wait_until = None;
                if emitted > 0 {
                    *need = self.append(session);
                    self.note_touched(spec, args, first_key, *need);
                } else if self.acked < self.log.end() && spec.is_on_keys() {
                    *need = (*need).max(self.saw(spec, args, first_key));
                }
                match result {
                    Ok(Done::Done) => {}
                    Ok(Done::More) => {
                        session.spent_ns += self.calls.alone();
                        session.sliced = true;
                        return Outcome::Stop(Next::Again);
                    }
                    Err(error) => {
                        self.calls.failed(spec);
                        self.refuse(protocol, &error.text(), out);
                    }
                }
                session.slice = Default::default();
                self.count_executed(now, conn, session, spec, args, quick);
                Outcome::Next
            }
            Exec::Session(SessionCommand::Exec) => {
                let outcome = self.exec(now, conn, session, spec, *gates, args, out, need, fx);
                self.take_own_behind_reply(session, out);
                *gates = self.gates_of(now, session);
                // It may have paused everything.
                if self.pause.is_some() && matches!(outcome, Outcome::Next) { Outcome::Look } else { outcome }
            }
            Exec::Session(command) => {
                if matches!(command, SessionCommand::Watch | SessionCommand::DataKeeperHolders)
                    && session.transaction.is_none()
                    && self.role != Role::Leader
                    && let Some(outcome) = self.stop_at(now, conn, session, spec, args, gates.write, out)
                {
                    return outcome;
                }
                let errors = self.stats.errors;
                let flow = self.session_command(now, conn, session, command, args, out, fx);
                self.take_own_behind_reply(session, out);
                if !matches!(flow, Flow::Block { .. } | Flow::Ask) {
                    if self.stats.errors > errors {
                        self.calls.failed(spec);
                    }
                    self.count_executed(now, conn, session, spec, args, quick);
                }
                if command == SessionCommand::DataKeeperPosition {
                    *need = (*need).max(self.log.end());
                }
                // It may have changed the role (FAILOVER), or what the connection asks for (READONLY).
                *gates = self.gates_of(now, session);
                match flow {
                    Flow::Done => {
                        session.wait_until = None;
                        if self.pause.is_some() { Outcome::Look } else { Outcome::Next }
                    }
                    Flow::Block { until } => {
                        self.waiting.insert(conn, until);
                        self.blocked.insert(conn);
                        Outcome::Stop(Next::Wait)
                    }
                    Flow::Ask => Outcome::Forward,
                    Flow::Close => Outcome::Stop(Next::CloseAfter),
                }
            }
            Exec::Container => self.reject(spec, protocol, &CommandError::WrongArity(spec.name).text(), out),
        }
    }

    /// A command was executed to its end: it is counted, and measured by itself unless it is quick.
    #[inline(always)]
    pub(super) fn count_executed(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        spec: &'static CommandSpec,
        args: &Args<'_>,
        quick: bool,
    ) {
        if quick {
            self.calls.called(spec);
        } else {
            self.executed_alone(now, session, spec, args);
        }
        if session.tracking.is_some() {
            self.track(conn, session, spec, args);
        }
    }

    fn executed_alone(&mut self, now: Now, session: &mut Session, spec: &'static CommandSpec, args: &Args<'_>) {
        let nanos = std::mem::take(&mut session.spent_ns) + self.calls.alone();
        self.calls.called_alone(spec, nanos);
        if self.calls.is_slow(nanos) {
            self.note_slow(now, session, args, nanos);
        }
        if !self.monitors.is_empty() {
            self.show_monitors(now, session, spec, args);
        }
    }

    /// Measures the quick commands executed since the last reading.
    #[inline]
    pub(super) fn end_run(&mut self, now: Now, session: &Session, batch: &Batch, input: &[u8]) {
        self.calls.end_run();
        if !self.calls.slow.is_empty() {
            for (at, nanos) in std::mem::take(&mut self.calls.slow) {
                self.note_slow(now, session, &batch.args(at, input), nanos);
            }
        }
    }

    /// Answers a command with an error in place of executing it.
    pub(super) fn reject(
        &mut self,
        spec: &'static CommandSpec,
        protocol: Protocol,
        text: &str,
        out: &mut Output,
    ) -> Outcome {
        self.calls.rejected(spec);
        self.refuse(protocol, text, out)
    }

    /// Answers a command with an error.
    pub(super) fn refuse(&mut self, protocol: Protocol, text: &str, out: &mut Output) -> Outcome {
        if !text.starts_with("MOVED ") {
            self.stats.error(text);
        }
        Reply::new(out, protocol).error(text);
        Outcome::Next
    }

    /// Lets a command through a gate that may be closed, or says what became of it.
    #[allow(clippy::too_many_arguments)] // see `command`
    fn stop_at(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        spec: &'static CommandSpec,
        args: &Args<'_>,
        gate: Gate,
        out: &mut Output,
    ) -> Option<Outcome> {
        if gate == Gate::MovedByKey && spec.keys.first == 0 {
            return None;
        }
        let slot = || keys_of(spec, args).next().map_or(0, slot);
        match self.pass(now, conn, session, gate, slot)? {
            Held::Waits => Some(Outcome::Stop(Next::Wait)),
            Held::Refused(text) => Some(self.reject(spec, session.protocol, &text, out)),
            Held::Forward => Some(Outcome::Forward),
        }
    }

    /// Makes room for a command, or says what became of it.
    #[inline]
    fn stop_without_room(
        &mut self,
        session: &Session,
        spec: &'static CommandSpec,
        args: &Args<'_>,
        out: &mut Output,
    ) -> Option<Outcome> {
        match self.make_room(|| args.bytes()) {
            Room::Enough => None,
            Room::Again => Some(Outcome::Stop(Next::Again)),
            Room::Full => Some(self.reject(spec, session.protocol, OOM, out)),
        }
    }

    /// Calls a data command's function once. Returns what it said and how many mutations it left in `scratch`.
    #[allow(clippy::too_many_arguments)] // see `command`
    #[inline]
    pub(super) fn call(
        &mut self,
        now: Now,
        session: &mut Session,
        spec: &'static CommandSpec,
        run: DataFn,
        args: &Args<'_>,
        first_key: Option<KeyHash>,
        out: &mut Output,
    ) -> (Result<Done, CommandError>, u32) {
        let on_keys = spec.is_on_keys();
        let expire = on_keys && self.may_delete();
        // Whole walks delete nothing on their way; below the minimum, nobody does.
        let clock = match () {
            () if !on_keys => now.wall,
            () if expire && spec.keys.first > 0 => self.clock,
            () => self.hiding_clock(),
        };
        let hand = spec.moves && self.may_use_hand();
        let mut ctx = Ctx {
            store: &mut self.store,
            reply: Reply::new(out, session.protocol),
            log: &mut self.scratch,
            clock,
            wall_ahead_ms: self.wall_ahead_ms,
            expire,
            misses: self.tells_misses && spec.flags.has(Flag::Readonly),
            hand,
            first_key,
            chance: &mut self.rng,
            slice: &mut session.slice,
            emitted: 0,
            lookups: Lookups::default(),
        };
        let result = run(&mut ctx, args);
        let (emitted, lookups) = (ctx.emitted, ctx.lookups);
        self.stats.expired_keys += u64::from(lookups.expired);
        // A command that runs in slices looks again in each; its last one counts.
        if spec.flags.has(Flag::Readonly) && !matches!(result, Ok(Done::More)) {
            self.stats.hits += u64::from(lookups.hits);
            self.stats.misses += u64::from(lookups.misses);
        }
        (result, emitted)
    }

    /// Makes an entry of what was emitted; returns its offset.
    pub(super) fn append(&mut self, session: &mut Session) -> Offset {
        let epoch = self.leading.as_ref().expect("only a leader executes commands with effects").epoch;
        let offset = self.log.append(epoch, self.clock, &mut self.scratch);
        self.applied = offset;
        session.written = Position { epoch, offset };
        offset
    }

    /// Notes that the command's keys were touched by the entry at `offset`.
    pub(super) fn note_touched(
        &mut self,
        spec: &'static CommandSpec,
        args: &Args<'_>,
        first_key: Option<KeyHash>,
        offset: Offset,
    ) {
        if spec.keys.first == 0 {
            self.touched.all = offset;
        } else if spec.keys.last == 1 {
            let hash = first_key.unwrap_or_else(|| self.store.hash(args.get(1)));
            self.touched.set(hash.0, offset);
        } else if args.len() > Touched::SLOTS {
            self.touched.all = offset;
        } else {
            for key in keys_of(spec, args) {
                self.touched.set(self.store.hash(key).0, offset);
            }
        }
    }

    /// Last entry that the command can have seen effects of.
    pub(super) fn saw(&self, spec: &'static CommandSpec, args: &Args<'_>, first_key: Option<KeyHash>) -> Offset {
        if spec.keys.first == 0 {
            return self.log.end();
        }
        match first_key {
            Some(hash) if spec.keys.last == 1 => self.touched.of(hash.0),
            _ if spec.keys.last != 1 && args.len() > Touched::SLOTS => self.log.end(),
            _ => keys_of(spec, args).map(|k| self.touched.of(self.store.hash(k).0)).max().unwrap_or(self.log.end()),
        }
    }

    /// Whether an expired key is deleted by a logged entry, and one that has to go for others. A leader with too small a set only hides
    /// what has expired: the entry could not be acknowledged, and every read that it touches would wait for it. So does one whose writes are
    /// paused.
    pub(super) fn may_delete(&self) -> bool {
        let pending = self.pending.as_ref().map(|p| &p.want);
        self.role == Role::Leader
            && self.pause.is_none()
            && self.known.as_ref().is_some_and(|k| may_commit(&k.state, pending))
    }

    /// Deletes some of the keys whose time has come, as one entry. Returns for how many milliseconds to pause then: not at all within a burst, a short time
    /// if much of what the burst looked at was due.
    pub(super) fn expire_due(&mut self, now: Now, fx: &mut Effects) -> u64 {
        self.tick(now);
        if !self.may_delete() {
            return SWEEP_MS;
        }
        let mut due: Vec<Box<[u8]>> = Vec::new();
        let goes_on = self.store.due(self.clock, EXPIRE_WORK, &mut |key| due.push(key.into()));
        self.burst.holds += 1;
        self.burst.due += due.len();
        if !due.is_empty() {
            let end = self.log.end().next();
            for key in &due {
                self.delete_unasked(self.store.hash(key), key, KeyEvent::Expired, end);
            }
            self.stats.expired_keys += due.len() as u64;
            self.append_unasked();
            self.advance(now, fx);
            self.wake_followers(fx);
        }
        if goes_on && self.burst.holds < EXPIRE_HOLDS {
            return 0;
        }
        let burst = std::mem::take(&mut self.burst);
        if burst.due * 8 > burst.holds * EXPIRE_WORK { 1 } else { SWEEP_MS }
    }

    /// Deletes a key that no command deletes, in the entry at `end` that is being built.
    pub(super) fn delete_unasked(&mut self, hash: KeyHash, key: &[u8], event: KeyEvent, end: Offset) {
        let mutation = Mutation::Delete { key, event };
        mutation.encode(&mut self.scratch);
        self.store.apply_hashed(hash, &mutation);
        self.touched.set(hash.0, end);
    }

    /// Makes an entry of these deletions.
    pub(super) fn append_unasked(&mut self) {
        let epoch = self.leading.as_ref().expect("only a leader deletes").epoch;
        self.applied = self.log.append(epoch, self.clock, &mut self.scratch);
    }
}
