//! Publish and subscribe: who listens to what at this node, and how a message comes to all nodes.
//!
//! ```text
//!   PUBLISH at n2 ─┬─► who listens at n2
//!                  └─ link ─► leader n1 ─┬─► who listens at n1
//!                                        └─ link ─► every other follower ─► who listens there
//! ```
//! A message is no entry of the log: it is delivered at most once, to who listens just then, and nothing waits for it. What one
//! connection publishes arrives in its order; of two publishers, nodes may see different orders. What stands between nodes is bounded
//! (`PUBLISHED_BYTES_MAX` per link): beyond, messages are dropped and counted.
//!
//! A leader announces nothing that is not acknowledged: a message waits for what its publisher wrote before, or writes in the same
//! EXEC (`held`), as the reply does. It is told to who listened when it was published and still does: subscriptions are numbered.
//!
//! Messages wait in the session of who listens, in the Keeper's order, and the connection fetches them: at the head of its next batch, or
//! when [`Effect::Push`] tells it. So none of them arrives behind the answer to an UNSUBSCRIBE. A client that does not read is closed
//! at the bounds that Redis has (`PUSHED_BYTES_MAX`).
//!
//! The semantics are those of `pubsub.c` of Redis 7.2 in cluster mode: PUBLISH answers how many listen at this node; what a connection
//! publishes to itself follows the reply of PUBLISH, or of EXEC. Keyspace notifications (`notify`) are messages of one node alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, LinkId, Offset};
use crate::base::limits::{
    PUBLISHED_BYTES_MAX, PUSHED_BYTES_MAX, PUSHED_BYTES_SLOW, PUSHED_SLOW_MS, SUBSCRIPTION_BYTES_MAX, SUBSCRIPTIONS_MAX,
};
use crate::command::{CommandError, CommandSpec, Exec, SessionCommand, glob_matches};
use crate::replication::wire::{self, PublishHead, WireError};
use crate::resp::{Args, Output, Protocol, Reply};

use super::session::{Answer, Flow, Session};
use super::tracking::Invalid;
use super::{Acks, Effect, Effects, Keeper, Notice};

const TOO_MANY: &str = "ERR this connection listens to too many channels";

/// What a name stands for that somebody listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    /// First words of the answers to subscribe and to unsubscribe.
    fn words(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Kind::Channel => (b"subscribe", b"unsubscribe"),
            Kind::Pattern => (b"psubscribe", b"punsubscribe"),
            Kind::Shard => (b"ssubscribe", b"sunsubscribe"),
        }
    }
}

/// Who is to be told, by the pattern by which it is, if by one.
type Listeners = Vec<(Option<Bytes>, Vec<ConnId>)>;

/// One of something for each [`Kind`].
type ByKind<T> = [T; 3];

/// What was published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    sharded: bool,
    /// It is told at this node alone.
    here: bool,
    /// The cluster has changed: who is at the Sentinel port is told of nothing else.
    change: bool,
    /// Subscriptions from this number on came after it.
    later: u64,
    channel: &'a [u8],
    text: &'a [u8],
}

impl<'a> Message<'a> {
    /// One that is told at this node alone.
    pub fn here(channel: &'a [u8], text: &'a [u8]) -> Message<'a> {
        Message { sharded: false, here: true, change: false, later: u64::MAX, channel, text }
    }

    /// The same, from before the subscriptions from this number on.
    pub fn before(self, later: u64) -> Message<'a> {
        Message { later, ..self }
    }
}

/// A message that is kept.
#[derive(Debug)]
struct Kept {
    sharded: bool,
    here: bool,
    later: u64,
    channel: Bytes,
    text: Bytes,
}

/// What waits to be acknowledged.
#[derive(Debug)]
enum Held {
    Message(Kept),
    /// A connection is to be told that keys are invalid.
    Invalid(ConnId, Invalid),
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Held::Message(kept) => kept.message().bytes(),
            Held::Invalid(_, invalid) => invalid.bytes(),
        }
    }
}

impl Kept {
    fn of(message: &Message<'_>) -> Kept {
        let Message { sharded, here, later, channel, text, .. } = *message;
        Kept { sharded, here, later, channel: Bytes::copy_from_slice(channel), text: Bytes::copy_from_slice(text) }
    }

    fn message(&self) -> Message<'_> {
        let Kept { sharded, here, later, ref channel, ref text } = *self;
        Message { sharded, here, change: false, later, channel, text }
    }
}

impl Message<'_> {
    fn bytes(&self) -> usize {
        self.channel.len() + self.text.len()
    }

    /// As a subscriber is told of it, who listens to the channel or to this pattern.
    fn encode(&self, protocol: Protocol, pattern: Option<&Bytes>) -> Bytes {
        let mut out = Output::new();
        let mut reply = Reply::new(&mut out, protocol);
        reply.push(if pattern.is_some() { 4 } else { 3 });
        match pattern {
            Some(pattern) => {
                reply.bulk(b"pmessage");
                reply.bulk(pattern);
            }
            None => reply.bulk(if self.sharded { b"smessage" } else { b"message" }),
        }
        reply.bulk(self.channel);
        reply.bulk(self.text);
        out.to_vec().into()
    }
}

/// Something for the connection whose batch is being executed.
#[derive(Debug)]
enum Own {
    /// A message, with the pattern by which it gets it.
    Message(Option<Bytes>, Kept),
    /// What does not depend on its protocol, or is in that already.
    Encoded(Bytes),
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drop {
    /// Too much waits for the link to a node.
    LinkFull,
    /// Too much waits to be acknowledged.
    Unacknowledged,
    /// This node has no leader whom it could tell.
    NoLeader,
}

/// Messages that were dropped and of which the log was not told yet: a burst, which ends when nothing was dropped for [`Drops::QUIET_MS`].
#[derive(Debug, Default)]
struct Drops {
    /// By [`Drop`].
    counts: [u64; 3],
    /// What they came to when it was looked last.
    seen: u64,
    /// Since when, and when the last ones were seen.
    burst: Option<(Boot, Boot)>,
}

impl Drops {
    /// A burst is over when nothing was dropped for so long.
    const QUIET_MS: u64 = 1_000;
    /// One that goes on is told of so often.
    const TOLD_EACH_MS: u64 = 60_000;

    /// Looks whether a burst is to be told of, and says what of it.
    fn look(&mut self, now: Boot) -> Option<String> {
        let dropped = self.counts.iter().sum();
        if dropped > self.seen {
            self.seen = dropped;
            let since = self.burst.map_or(now, |(since, _)| since);
            self.burst = Some((since, now));
        }
        let (since, last) = self.burst?;
        if now.ms_since(last) < Drops::QUIET_MS && now.ms_since(since) < Drops::TOLD_EACH_MS {
            return None;
        }
        let [full, unacknowledged, leaderless] = self.counts;
        *self = Drops::default();
        let why = [
            (full, format!("found {} MiB waiting for the link to another node", PUBLISHED_BYTES_MAX >> 20)),
            (unacknowledged, format!("found {} MiB waiting to be acknowledged", PUBLISHED_BYTES_MAX >> 20)),
            (leaderless, "were published while this node had no leader to tell them to".to_owned()),
        ];
        let why: Vec<String> =
            why.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
        let seconds = last.ms_since(since) / 1_000;
        Some(format!("{dropped} published messages were dropped within {seconds} s: {}", why.join(", ")))
    }
}

/// Who listens at this node.
#[derive(Debug, Default)]
pub(super) struct PubSub {
    /// Each with the number of its subscription.
    listeners: ByKind<BTreeMap<Bytes, BTreeMap<ConnId, u64>>>,
    /// Those of them that came to the Sentinel port.
    at_sentinel: BTreeSet<ConnId>,
    /// The number of the next subscription.
    next: u64,
    /// So many notes about keys were there, and not told, when the subscription of that number came.
    noted: Vec<(usize, u64)>,
    /// For the connection whose batch is being executed: they go behind the reply.
    own: Vec<Own>,
    /// What waits until this is acknowledged, in its order, then as it came.
    held: VecDeque<(Offset, Held)>,
    held_bytes: usize,
    drops: Drops,
}

impl PubSub {
    /// How many names of this kind somebody listens to.
    pub fn names(&self, kind: Kind) -> usize {
        self.listeners[kind as usize].len()
    }

    /// Those who are to be told, with the pattern by which each is; once for each that matches.
    fn listeners_of(&self, message: &Message<'_>) -> Listeners {
        let hears = |conn: &ConnId| message.change || !self.at_sentinel.contains(conn);
        let told = |(conn, number): (&ConnId, &u64)| (*number < message.later && hears(conn)).then_some(*conn);
        let all = |conns: &BTreeMap<ConnId, u64>| conns.iter().filter_map(told).collect();
        let kind = if message.sharded { Kind::Shard } else { Kind::Channel };
        let exact = self.listeners[kind as usize].get(message.channel).map(|conns| (None, all(conns)));
        let patterns = self.listeners[Kind::Pattern as usize].iter().filter(|_| !message.sharded);
        let matching = patterns.filter(|(pattern, _)| glob_matches(pattern, message.channel));
        exact.into_iter().chain(matching.map(|(pattern, conns)| (Some(pattern.clone()), all(conns)))).collect()
    }

    fn remove(&mut self, kind: Kind, name: &[u8], conn: ConnId) {
        let listeners = &mut self.listeners[kind as usize];
        if let Some(conns) = listeners.get_mut(name) {
            conns.remove(&conn);
            if conns.is_empty() {
                listeners.remove(name);
            }
        }
    }

    fn hold_message(&mut self, need: Offset, message: &Message<'_>) -> bool {
        self.hold(need, Held::Message(Kept::of(&message.before(message.later.min(self.next)))))
    }

    /// Which subscriptions came after each of the notes that are being told, in their order.
    pub fn take_noted(&mut self) -> impl Fn(usize) -> u64 + use<> {
        let noted = std::mem::take(&mut self.noted);
        move |at| noted.iter().find(|(notes, _)| at < *notes).map_or(u64::MAX, |(_, number)| *number)
    }

    /// Lets a connection be told that keys are invalid once `need` is acknowledged; `false`: too much waits.
    pub fn hold_invalid(&mut self, need: Offset, conn: ConnId, invalid: &Invalid) -> bool {
        self.hold(need, Held::Invalid(conn, invalid.clone()))
    }

    fn hold(&mut self, need: Offset, held: Held) -> bool {
        let bytes = held.bytes();
        if self.held_bytes + bytes > PUBLISHED_BYTES_MAX && !self.held.is_empty() {
            return false;
        }
        self.held_bytes += bytes;
        let at = self.held.iter().rposition(|(other, _)| *other <= need).map_or(0, |i| i + 1);
        self.held.insert(at, (need, held));
        true
    }

    /// Forgets what waits to be acknowledged.
    pub fn forget_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }
}

/// What a connection listens to. A session has one while it listens to something.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    names: ByKind<BTreeSet<Bytes>>,
    name_bytes: usize,
}

/// What a connection was not given yet, beside its replies. A session has one from the first on that it is sent.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// Since when [`PUSHED_BYTES_SLOW`] wait.
    slow_since: Option<Boot>,
    /// It is being closed, because it does not read.
    overrun: bool,
}

impl Subscriptions {
    /// Names of one kind.
    pub fn len(&self, kind: Kind) -> usize {
        self.names[kind as usize].len()
    }

    /// What the answers to subscribe and unsubscribe count.
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Shard => self.len(kind),
            Kind::Channel | Kind::Pattern => self.len(Kind::Channel) + self.len(Kind::Pattern),
        }
    }

    /// Names of all kinds, and their bytes.
    fn size(&self) -> (usize, usize) {
        (self.names.iter().map(BTreeSet::len).sum(), self.name_bytes)
    }
}

impl Inbox {
    /// Puts one more message in; whether the client reads fast enough for that.
    fn put(&mut self, now: Boot, message: Bytes) -> bool {
        self.bytes += message.len();
        self.queue.push_back(message);
        if self.bytes > PUSHED_BYTES_SLOW {
            let since = *self.slow_since.get_or_insert(now);
            self.overrun = self.bytes > PUSHED_BYTES_MAX || now.ms_since(since) > PUSHED_SLOW_MS;
        }
        if self.overrun {
            self.queue = VecDeque::new();
            self.bytes = 0;
        }
        !self.overrun
    }

    /// Moves messages to `out` until that holds `upto` bytes; whether some are left.
    pub fn take(&mut self, out: &mut Output, upto: usize) -> bool {
        while out.len() < upto
            && let Some(message) = self.queue.pop_front()
        {
            self.bytes -= message.len();
            out.put_encoded_shared(&message);
        }
        if self.bytes <= PUSHED_BYTES_SLOW {
            self.slow_since = None;
        }
        !self.queue.is_empty()
    }
}

impl Session {
    /// How many names of a kind it listens to.
    pub fn listens(&self, kind: Kind) -> usize {
        self.subscriptions.as_ref().map_or(0, |s| s.len(kind))
    }

    /// What may not be executed on a connection that listens and speaks RESP2, in which messages look like replies.
    pub fn refuses(&self, spec: &CommandSpec) -> bool {
        use SessionCommand::{Ping, Quit, Reset};
        let allowed = |command: SessionCommand| command.is_confirmed() || matches!(command, Ping | Quit | Reset);
        self.protocol == Protocol::Resp2 && !matches!(spec.exec, Exec::Session(command) if allowed(command))
    }
}

/// The answer to one name of a subscribe or unsubscribe.
fn confirm(reply: &mut Reply<'_>, word: &[u8], name: Option<&[u8]>, count: usize) {
    reply.push(3);
    reply.bulk(word);
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.integer(count as i64);
}

impl Keeper {
    pub(super) fn subscribe(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        kind: Kind,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        let (names, bytes) = session.subscriptions.as_ref().map_or((0, 0), |s| s.size());
        if names + args.len() - 1 > SUBSCRIPTIONS_MAX || bytes + args.bytes() > SUBSCRIPTION_BYTES_MAX {
            return Err(TOO_MANY.into());
        }
        if session.at_sentinel {
            self.pubsub.at_sentinel.insert(conn);
        }
        let (notes, next) = (self.store.notes(), self.pubsub.next);
        if self.pubsub.noted.last().map_or(0, |(earlier, _)| *earlier) < notes {
            self.pubsub.noted.push((notes, next));
        }
        let subscriptions = session.subscriptions.get_or_insert_default();
        for name in args.iter().skip(1) {
            if !subscriptions.names[kind as usize].contains(name) {
                let name = Bytes::copy_from_slice(name);
                subscriptions.name_bytes += name.len();
                self.pubsub.listeners[kind as usize].entry(name.clone()).or_default().insert(conn, self.pubsub.next);
                self.pubsub.next += 1;
                subscriptions.names[kind as usize].insert(name);
            }
            confirm(reply, kind.words().0, Some(name), subscriptions.count(kind));
        }
        Ok(Flow::Done)
    }

    pub(super) fn unsubscribe(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        kind: Kind,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        let word = kind.words().1;
        let mut subscriptions = session.subscriptions.take().unwrap_or_default();
        let names: Vec<Bytes> = match args.len() {
            1 => subscriptions.names[kind as usize].iter().cloned().collect(),
            _ => args.iter().skip(1).map(Bytes::copy_from_slice).collect(),
        };
        for name in &names {
            if subscriptions.names[kind as usize].remove(name) {
                subscriptions.name_bytes -= name.len();
                self.pubsub.remove(kind, name, conn);
            }
            confirm(reply, word, Some(name), subscriptions.count(kind));
        }
        if names.is_empty() {
            confirm(reply, word, None, subscriptions.count(kind));
        }
        session.subscriptions = Some(subscriptions).filter(|s| s.size().0 > 0);
        Ok(Flow::Done)
    }

    /// The connection listens to nothing any more, and is told nothing.
    pub(super) fn unsubscribe_all(&mut self, conn: ConnId, session: &mut Session) {
        self.pubsub.at_sentinel.remove(&conn);
        let Some(subscriptions) = session.subscriptions.take() else { return };
        for (kind, names) in [Kind::Channel, Kind::Pattern, Kind::Shard].into_iter().zip(&subscriptions.names) {
            names.iter().for_each(|name| self.pubsub.remove(kind, name, conn));
        }
    }

    /// PUBLISH and SPUBLISH.
    pub(super) fn publish(
        &mut self,
        now: Now,
        session: &Session,
        sharded: bool,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
        fx: &mut Effects,
    ) -> Answer {
        if !session.executing_transaction
            && let Some(until) = self.paused(now, false)
        {
            return Ok(Flow::Block { until });
        }
        let message =
            Message { sharded, here: false, change: false, later: u64::MAX, channel: args.get(1), text: args.get(2) };
        let end = self.log.end();
        let need = if self.scratch.is_empty() { session.written.offset.min(end) } else { end.next() };
        let waits = need > self.acked && self.leading.is_some() && self.config.acks == Acks::InSync;
        let receivers = if !waits {
            self.announce(now, &message, None, fx)
        } else if self.pubsub.hold_message(need, &message) {
            self.pubsub.listeners_of(&message).iter().map(|(_, conns)| conns.len()).sum()
        } else {
            self.drop_published(Drop::Unacknowledged);
            0
        };
        reply.integer(receivers as i64);
        Ok(Flow::Done)
    }

    /// What was acknowledged may be told.
    pub(super) fn announce_held(&mut self, now: Now, fx: &mut Effects) {
        while let Some((_, held)) = self.pubsub.held.pop_front_if(|(need, _)| *need <= self.acked) {
            self.pubsub.held_bytes -= held.bytes();
            match held {
                Held::Message(kept) => _ = self.announce(now, &kept.message(), None, fx),
                Held::Invalid(conn, invalid) => self.tell_invalid(now, conn, invalid, fx),
            }
        }
    }

    /// Tells of something at this node alone, once the entry at `need` is acknowledged, if it has to be.
    pub(super) fn announce_here(&mut self, now: Now, message: &Message<'_>, need: Option<Offset>, fx: &mut Effects) {
        match need {
            None => _ = self.announce(now, message, None, fx),
            Some(need) if self.pubsub.hold_message(need, message) => {}
            Some(_) => self.drop_published(Drop::Unacknowledged),
        }
    }

    /// A message is dropped, here or on its way to another node.
    fn drop_published(&mut self, why: Drop) {
        self.stats.published_dropped += 1;
        self.pubsub.drops.counts[why as usize] += 1;
    }

    /// Tells the log of messages that were dropped, once per burst.
    pub(super) fn tell_drops(&mut self, now: Boot, fx: &mut Effects) {
        fx.extend(self.pubsub.drops.look(now).map(Notice::warn));
    }

    /// Tells those who listen here, and the other nodes but the one on the link that it came `from`; returns how many they are here.
    fn announce(&mut self, now: Now, message: &Message<'_>, from: Option<LinkId>, fx: &mut Effects) -> usize {
        let listeners = self.pubsub.listeners_of(message);
        self.tell_listeners(now, message, &listeners, fx);
        if !message.here {
            self.tell_nodes(message, from, fx);
        }
        listeners.iter().map(|(_, conns)| conns.len()).sum()
    }

    /// Tells those who listen here that the cluster has changed, as a Sentinel would. A pattern has to begin with a sign, or its connection to
    /// have used SENTINEL: others mean what applications publish.
    pub(super) fn announce_change(&mut self, now: Now, channel: &str, text: &str, fx: &mut Effects) {
        let message = Message { change: true, ..Message::here(channel.as_bytes(), text.as_bytes()) };
        let mut listeners = self.pubsub.listeners_of(&message);
        for (pattern, conns) in &mut listeners {
            let by_sign = |p: &Bytes| matches!(p.strip_prefix(b"[").unwrap_or(p), [b'+' | b'-', ..]);
            if pattern.as_ref().is_some_and(|pattern| !by_sign(pattern)) {
                conns.retain(|conn| self.sessions.get_mut(*conn).is_some_and(|session| session.sentinel));
            }
        }
        self.tell_listeners(now, &message, &listeners, fx);
    }

    /// Puts a message before those who listen here.
    fn tell_listeners(&mut self, now: Now, message: &Message<'_>, listeners: &Listeners, fx: &mut Effects) {
        for (pattern, conns) in listeners {
            let mut encoded: [Option<Bytes>; 2] = [None, None];
            for conn in conns {
                let Some(session) = self.sessions.get_mut(*conn) else {
                    // It is the one whose batch is being executed.
                    self.pubsub.own.push(Own::Message(pattern.clone(), Kept::of(message)));
                    continue;
                };
                let protocol = session.protocol;
                let bytes = encoded[usize::from(protocol == Protocol::Resp3)]
                    .get_or_insert_with(|| message.encode(protocol, pattern.as_ref()));
                let bytes = bytes.clone();
                self.deliver(now.boot, *conn, bytes, fx);
            }
        }
    }

    /// Tells the connection that is being executed something, in its protocol.
    pub(super) fn tell_own(&mut self, bytes: Bytes) {
        self.pubsub.own.push(Own::Encoded(bytes));
    }

    /// Puts something that is encoded into a connection's inbox; closes the connection if it does not read.
    pub(super) fn deliver(&mut self, now: Boot, conn: ConnId, bytes: Bytes, fx: &mut Effects) {
        let Some(session) = self.sessions.get_mut(conn) else {
            // It is the one whose batch is being executed.
            self.tell_own(bytes);
            return;
        };
        let inbox = session.inbox.get_or_insert_default();
        if inbox.overrun {
            return;
        }
        let idle = inbox.queue.is_empty();
        if !inbox.put(now, bytes) {
            let text = format!("closing client {} ({}): too much was published for it", session.id, session.addr);
            self.stats.overrun_closed += 1;
            fx.extend([Effect::CloseClient(conn), Notice::warn(text)]);
        } else if idle {
            fx.push(Effect::Push(conn));
        }
    }

    /// A leader tells every follower, a follower its leader.
    fn tell_nodes(&mut self, message: &Message<'_>, from: Option<LinkId>, fx: &mut Effects) {
        let (epoch, links): (_, Vec<LinkId>) = match (&self.leading, &self.following) {
            (Some(leading), _) => {
                let takers = self.links.iter().filter(|(id, link)| link.takes_published() && Some(**id) != from);
                (leading.epoch, takers.map(|(id, _)| *id).collect())
            }
            (None, _) if from.is_some() => return,
            (None, Some(f)) if f.accepted => (f.epoch, f.link.into_iter().collect()),
            (None, _) => {
                self.drop_published(Drop::NoLeader);
                return;
            }
        };
        if links.is_empty() {
            return;
        }
        let frames = wire::publish(epoch, message.sharded, message.channel, message.text);
        for link in links {
            if !self.send_published(link, &frames, fx) {
                self.drop_published(Drop::LinkFull);
            }
        }
    }

    /// A message came from another node.
    pub(super) fn on_published(
        &mut self,
        now: Now,
        link: LinkId,
        head: &PublishHead,
        body: &Bytes,
        fx: &mut Effects,
    ) -> Result<(), WireError> {
        let Some((channel, text)) = body.split_at_checked(head.channel as usize) else {
            return Err(WireError(format!("a channel of {} bytes in a message of {}", head.channel, body.len())));
        };
        let message = Message { sharded: head.sharded, here: false, change: false, later: u64::MAX, channel, text };
        self.announce(now, &message, Some(link), fx);
        Ok(())
    }

    /// What the connection that is being executed was told, behind its reply.
    pub(super) fn take_own(&mut self, protocol: Protocol, out: &mut Output) {
        for own in self.pubsub.own.drain(..) {
            out.put_encoded_shared(&match own {
                Own::Message(pattern, kept) => kept.message().encode(protocol, pattern.as_ref()),
                Own::Encoded(bytes) => bytes,
            });
        }
    }

    /// The same, unless the reply is to be dropped: then it comes once that is gone.
    pub(super) fn take_own_behind_reply(&mut self, session: &Session, out: &mut Output) {
        if session.hears() {
            self.take_own(session.protocol, out);
        }
    }

    /// Moves what was published for `conn` to `out`, until that holds `upto` bytes; whether something is left. To be called after
    /// [`Effect::Push`], which is not repeated before everything was taken.
    pub fn take_pushed(&mut self, conn: ConnId, out: &mut Output, upto: usize) -> bool {
        let inbox = self.sessions.get_mut(conn).and_then(|session| session.inbox.as_mut());
        inbox.is_some_and(|inbox| inbox.take(out, upto))
    }

    /// PUBSUB CHANNELS and SHARDCHANNELS.
    pub(super) fn pubsub_channels(&self, kind: Kind, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        if args.len() > 3 {
            return Err(CommandError::unknown_use(args.get(0), args.get(1)).to_string().into());
        }
        let fits = |name: &&Bytes| args.len() == 2 || glob_matches(args.get(2), name);
        let names = self.pubsub.listeners[kind as usize].keys().filter(fits);
        reply.array(names.clone().count());
        names.for_each(|name| reply.bulk(name));
        Ok(Flow::Done)
    }

    /// PUBSUB NUMSUB and SHARDNUMSUB.
    pub(super) fn pubsub_numsub(&self, kind: Kind, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let names = args.tail(2);
        reply.array(2 * names.len());
        for name in names.iter() {
            reply.bulk(name);
            reply.integer(self.pubsub.listeners[kind as usize].get(name).map_or(0, |conns| conns.len() as i64));
        }
        Ok(Flow::Done)
    }

    pub(super) fn pubsub_numpat(&self, reply: &mut Reply<'_>) -> Answer {
        reply.integer(self.pubsub.names(Kind::Pattern) as i64);
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Boot {
        Boot(0).plus_ms(ms)
    }

    #[test]
    fn inbox_ends_at_the_hard_bound_and_when_it_is_long_for_long() {
        let mib = Bytes::from(vec![b'x'; 1 << 20]);
        let mut fast = Inbox::default();
        let room = PUSHED_BYTES_MAX >> 20;
        assert!((0..room).all(|_| fast.put(at(0), mib.clone())));
        assert!(!fast.put(at(0), mib.clone()), "one too many");
        assert!(fast.overrun && fast.queue.is_empty() && fast.bytes == 0);

        let mut slow = Inbox::default();
        let room = PUSHED_BYTES_SLOW >> 20;
        assert!((0..=room).all(|_| slow.put(at(0), mib.clone())));
        assert!(slow.put(at(PUSHED_SLOW_MS), mib.clone()));
        let mut out = Output::new();
        assert!(slow.take(&mut out, 2 << 20), "not all was taken");
        assert_eq!(out.len(), 2 << 20);
        assert!(slow.put(at(PUSHED_SLOW_MS + 1), mib.clone()), "it has read meanwhile");
        assert!(!slow.put(at(2 * PUSHED_SLOW_MS + 2), mib), "it has not");
    }

    #[test]
    fn burst_of_drops_is_told_once_with_its_number_or_now_and_then_if_it_goes_on() {
        let mut drops = Drops::default();
        assert_eq!(drops.look(at(0)), None);
        drops.counts = [3, 0, 0];
        assert_eq!(drops.look(at(100)), None);
        drops.counts = [5, 0, 1];
        assert_eq!(drops.look(at(1_000)), None);
        assert_eq!(drops.look(at(1_999)), None, "it may go on");
        let told = drops.look(at(2_000)).expect("it is over");
        assert!(told.starts_with("6 published messages were dropped within 0 s: 5 found 16 MiB"), "{told}");
        assert!(told.ends_with(", 1 were published while this node had no leader to tell them to"), "{told}");
        assert_eq!(drops.look(at(9_000)), None);
        let told = (0..=700).filter_map(|i| {
            drops.counts[1] += 1;
            drops.look(at(10_000 + i * 100))
        });
        assert_eq!(told.count(), 1, "once a minute");
    }

    #[test]
    fn held_messages_go_by_what_they_need_and_are_bounded() {
        let mut pubsub = PubSub::default();
        let text = vec![b'x'; PUBLISHED_BYTES_MAX / 2];
        let message = |channel: &'static [u8]| Message::here(channel, &text);
        assert!(pubsub.hold_message(Offset(9), &message(b"b")));
        assert!(!pubsub.hold_message(Offset(9), &message(b"c")), "too much waits");
        assert!(pubsub.hold_message(Offset(8), &Message::here(b"a", b"")));
        let needs: Vec<_> = pubsub.held.iter().map(|(need, held)| (need.0, held.bytes())).collect();
        assert_eq!(needs, [(8, 1), (9, 1 + text.len())]);
        pubsub.forget_held();
        assert!(pubsub.hold_message(Offset(9), &message(b"c")));
    }
}
