//! Client-side caching: who has read which keys, and that these are not any more what they were.
//!
//! ```text
//!   read by a tracking connection ──► table: key ──► connections          mutation of the key ──► who stands there, who asked for
//!   (or it asked for prefixes)                                             (noted in the store)     its prefix: "invalidate"
//! ```
//! Every node has a table of its own, of the reads that it answered. Invalidations follow from mutations, on the leader and on replicas alike,
//! as keyspace notifications do (`notify`). What makes this right:
//!
//! - A read is remembered under the hold of the lock in which it is executed, and a mutation is noted under the one in which it is applied. So a
//!   change that the read did not see comes after it, and finds it in the table. A read that took several holds may have missed
//!   one in between: its keys are called invalid behind its reply.
//! - What was passed on to the leader (`forward`) was read elsewhere: its keys, too, are called invalid behind the reply.
//! - An invalidation stands behind every reply that was written to its connection before, held or not, because pushed messages do. At a leader it
//!   also waits until the change is acknowledged, as the replies do that show it: so one that goes to another connection (REDIRECT) does not
//!   overtake a held reply with the value that it calls old. Where too much waits it goes at once, which is harmless: a client
//!   that reads again waits for the change.
//! - When the leadership begins or ends here, and when the store is filled anew, everything is called invalid (null), as by FLUSHALL.
//!
//! A table beyond `tracking-table-max-keys` calls keys invalid to make room. The semantics and texts are those of `tracking.c` of Redis
//! 7.2. Not here: a bound on the connections of one key, and on prefixes beyond those of a command's arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::base::clock::Now;
use crate::base::ids::{ConnId, Offset};
use crate::command::{CommandError, CommandSpec, Flag, KeyUse, find_spec, integer, keys_of};
use crate::resp::{Args, Output, Protocol, Reply};
use crate::store::{Event, Noted};

use super::noloop::OwnWrites;
use super::session::{Answer, Flow, Session};
use super::{Effects, Keeper};

const ONE_REDIRECT: &str = "ERR A client can only redirect to a single other client";
const NO_SUCH_CLIENT: &str = "ERR The client ID you want redirect to does not exist";
const PREFIX_WITHOUT_BCAST: &str = "ERR PREFIX option requires BCAST mode to be enabled";
const SWITCHES_BCAST: &str = "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
    with a different mode.";
const OPT_WITH_BCAST: &str = "ERR OPTIN and OPTOUT are not compatible with BCAST";
const BOTH_OPTS: &str = "ERR You can't specify both OPTIN mode and OPTOUT mode";
const SWITCHES_OPT: &str = "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
    with a different mode.";
const CACHING_WITHOUT_OPT: &str = "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
    enabled";
const YES_WITHOUT_OPTIN: &str = "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
const NO_WITHOUT_OPTOUT: &str = "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";

/// The channel of those who speak RESP2.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// What a connection is told of, and how. A session has one while CLIENT TRACKING is on.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracking {
    /// Of every key with these prefixes, whether it was read or not.
    bcast: bool,
    prefixes: BTreeSet<Bytes>,
    optin: bool,
    optout: bool,
    noloop: bool,
    /// CLIENT CACHING was called for the next command.
    caching: bool,
    /// Who is told in its place: number and connection.
    redirect: Option<(u64, ConnId)>,
    /// That one is gone.
    broken: bool,
}

impl Tracking {
    /// What CLIENT GETREDIR says, and CLIENT LIST.
    pub fn redirect(tracking: Option<&Tracking>) -> i64 {
        tracking.map_or(-1, |tracking| tracking.redirect.map_or(0, |(id, _)| id as i64))
    }

    /// Its marks in CLIENT LIST.
    pub fn marks(tracking: Option<&Tracking>) -> [(char, bool); 3] {
        let is = |what: fn(&Tracking) -> bool| tracking.is_some_and(what);
        [('t', tracking.is_some()), ('R', is(|t| t.broken)), ('B', is(|t| t.bcast))]
    }

    /// Whether it is not told of what it changes itself.
    pub fn noloop(&self) -> bool {
        self.noloop
    }

    /// Whether the keys that are read now are remembered.
    pub fn remembers(&self) -> bool {
        !self.bcast && if self.optin { self.caching } else { !(self.optout && self.caching) }
    }
}

/// What CLIENT TRACKING was told.
#[derive(Default)]
struct Options<'a> {
    redirect: Option<u64>,
    prefixes: Vec<&'a [u8]>,
    bcast: bool,
    optin: bool,
    optout: bool,
    noloop: bool,
}

impl<'a> Options<'a> {
    fn parse(args: &Args<'a>, exists: impl Fn(u64) -> bool) -> Result<Options<'a>, std::borrow::Cow<'static, str>> {
        let mut options = Options::default();
        let mut i = 3;
        while i < args.len() {
            let word = args.get(i);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            let more = i + 1 < args.len();
            match () {
                () if is(b"redirect") && more => {
                    i += 1;
                    if options.redirect.is_some() {
                        return Err(ONE_REDIRECT.into());
                    }
                    let id = integer(args.get(i)).map_err(|error| error.to_string())?;
                    let id = u64::try_from(id).ok().filter(|id| exists(*id)).ok_or(NO_SUCH_CLIENT)?;
                    options.redirect = Some(id);
                }
                () if is(b"prefix") && more => {
                    i += 1;
                    options.prefixes.push(args.get(i));
                }
                () if is(b"bcast") => options.bcast = true,
                () if is(b"optin") => options.optin = true,
                () if is(b"optout") => options.optout = true,
                () if is(b"noloop") => options.noloop = true,
                () => return Err(CommandError::Syntax.to_string().into()),
            }
            i += 1;
        }
        Ok(options)
    }

    /// Whether a connection that tracks so far in that way may do this.
    fn check(&self, so_far: Option<&Tracking>) -> Result<(), std::borrow::Cow<'static, str>> {
        if !self.bcast && !self.prefixes.is_empty() {
            return Err(PREFIX_WITHOUT_BCAST.into());
        }
        if so_far.is_some_and(|tracking| tracking.bcast != self.bcast) {
            return Err(SWITCHES_BCAST.into());
        }
        if self.bcast && (self.optin || self.optout) {
            return Err(OPT_WITH_BCAST.into());
        }
        if self.optin && self.optout {
            return Err(BOTH_OPTS.into());
        }
        if so_far.is_some_and(|tracking| tracking.optin && self.optout || tracking.optout && self.optin) {
            return Err(SWITCHES_OPT.into());
        }
        let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
        let refused = |a: &[u8], which: &str, b: &[u8]| {
            let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
            format!(
                "ERR Prefix '{a}' overlaps with {which} prefix '{b}'. Prefixes for a single client must not overlap."
            )
        };
        for (i, prefix) in self.prefixes.iter().enumerate() {
            let mut known = so_far.iter().flat_map(|tracking| &tracking.prefixes);
            if let Some(other) = known.find(|other| overlap(prefix, other)) {
                return Err(refused(prefix, "an existing", other).into());
            }
            if let Some(other) = self.prefixes[i + 1..].iter().find(|other| overlap(prefix, other)) {
                return Err(refused(prefix, "another provided", other).into());
            }
        }
        Ok(())
    }
}

/// What became invalid: these keys, or all.
#[derive(Clone, Debug)]
pub(super) struct Invalid(Option<Vec<Bytes>>);

impl Invalid {
    /// Bytes that it takes while it waits.
    pub fn bytes(&self) -> usize {
        64 + self.0.iter().flatten().map(|key| key.len() + 32).sum::<usize>()
    }

    fn write(&self, reply: &mut Reply<'_>) {
        match &self.0 {
            Some(keys) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| reply.bulk(key));
            }
            None => reply.null(),
        }
    }

    /// As a connection of that protocol is told.
    fn encode(&self, protocol: Protocol) -> Bytes {
        let mut out = Output::new();
        let mut reply = Reply::new(&mut out, protocol);
        match protocol {
            Protocol::Resp3 => {
                reply.push(2);
                reply.bulk(b"invalidate");
            }
            Protocol::Resp2 => {
                reply.array(3);
                reply.bulk(b"message");
                reply.bulk(CHANNEL);
            }
        }
        self.write(&mut reply);
        out.to_vec().into()
    }
}

/// Who is to be told of what, at this node.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Connections that have read a key since it changed.
    keys: BTreeMap<Box<[u8]>, BTreeSet<ConnId>>,
    /// Connections in `keys`, each as often as it stands there.
    items: usize,
    /// Connections with CLIENT TRACKING.
    tracking: BTreeSet<ConnId>,
    prefixes: BTreeMap<Bytes, BTreeSet<ConnId>>,
    /// The last key that made room.
    evicted: Box<[u8]>,
    /// What is to be told once no session is out.
    later: Vec<(ConnId, Invalid)>,
    /// Which entries are the own writes of clients with NOLOOP.
    pub own: OwnWrites,
}

impl Table {
    /// Connections with CLIENT TRACKING.
    pub fn clients(&self) -> usize {
        self.tracking.len()
    }

    /// Keys, connections over all keys, prefixes.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.keys.len(), self.items, self.prefixes.len())
    }

    /// Whether something is still to be told.
    #[inline]
    pub fn owes(&self) -> bool {
        !self.later.is_empty()
    }

    /// These keys are called invalid behind what the connection was just answered.
    pub fn owe(&mut self, conn: ConnId, keys: Vec<Bytes>) {
        self.later.push((conn, Invalid(Some(keys))));
    }

    fn remember(&mut self, key: &[u8], conn: ConnId) {
        let added = match self.keys.get_mut(key) {
            Some(conns) => conns.insert(conn),
            None => self.keys.insert(key.into(), BTreeSet::from([conn])).is_none(),
        };
        self.items += usize::from(added);
    }

    fn forget(&mut self, key: &[u8]) -> BTreeSet<ConnId> {
        let conns = self.keys.remove(key).unwrap_or_default();
        self.items -= conns.len();
        conns
    }

    /// A key to make room, each in its turn.
    fn make_room(&mut self) -> Option<(Box<[u8]>, BTreeSet<ConnId>)> {
        let behind = (Bound::Excluded(&*self.evicted), Bound::Unbounded);
        let key = self.keys.range::<[u8], _>(behind).next().or(self.keys.first_key_value())?.0.clone();
        self.evicted.clone_from(&key);
        let conns = self.forget(&key);
        Some((key, conns))
    }

    /// Who asked for the prefix of this key.
    fn by_prefix(&self, key: &[u8]) -> impl Iterator<Item = (&Bytes, ConnId)> {
        let named = self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix));
        named.flat_map(|(prefix, conns)| conns.iter().map(move |conn| (prefix, *conn)))
    }
}

impl Session {
    /// Whether it is told of what it has read: not if it has changed to prefixes since.
    fn is_told_of_reads(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| !tracking.bcast)
    }

    /// CLIENT CACHING was for what is over.
    pub fn end_caching(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.caching = false;
        }
    }

    /// A command was answered, executed or refused. CLIENT CACHING is for the next one, whatever that is, or for the next transaction as a whole, whatever
    /// comes of that; commands of CLIENT do not count.
    #[cold]
    pub fn end_caching_behind(&mut self, args: &Args<'_>) {
        let of_client = find_spec(args).is_ok_and(|spec| spec.name.starts_with("client|"));
        if self.transaction.is_none() && !of_client {
            self.end_caching();
        }
    }
}

impl Keeper {
    pub(super) fn client_tracking(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        let found = |id: u64| {
            if id == session.id {
                return Some(conn);
            }
            self.sessions.iter().find(|(_, other)| other.id == id).map(|(conn, _)| conn)
        };
        let options = Options::parse(args, |id| found(id).is_some())?;
        if args.get(2).eq_ignore_ascii_case(b"off") {
            self.stop_tracking(conn, session);
        } else if args.get(2).eq_ignore_ascii_case(b"on") {
            options.check(session.tracking.as_deref())?;
            let redirect = options.redirect.and_then(|id| Some((id, found(id)?)));
            let mut prefixes = session.tracking.take().map(|tracking| tracking.prefixes).unwrap_or_default();
            if options.bcast {
                let all = [&b""[..]];
                let asked = if options.prefixes.is_empty() { &all[..] } else { &options.prefixes };
                prefixes.extend(asked.iter().map(|prefix| Bytes::copy_from_slice(prefix)));
            }
            for prefix in &prefixes {
                self.tracking.prefixes.entry(prefix.clone()).or_default().insert(conn);
            }
            let Options { bcast, optin, optout, noloop, .. } = options;
            let tracking = Tracking { bcast, prefixes, optin, optout, noloop, caching: false, redirect, broken: false };
            session.tracking = Some(Box::new(tracking));
            if self.tracking.tracking.insert(conn) && self.tracking.clients() == 1 {
                self.settle_notes();
            }
        } else {
            return Err(CommandError::Syntax.to_string().into());
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// CLIENT TRACKING OFF; the table forgets the connection when it comes by it.
    pub(super) fn stop_tracking(&mut self, conn: ConnId, session: &mut Session) {
        let Some(tracking) = session.tracking.take() else { return };
        for prefix in &tracking.prefixes {
            if let Some(conns) = self.tracking.prefixes.get_mut(prefix) {
                conns.remove(&conn);
                if conns.is_empty() {
                    self.tracking.prefixes.remove(prefix);
                }
            }
        }
        self.tracking.tracking.remove(&conn);
        self.tracking.own.forget(conn);
        if self.tracking.clients() == 0 {
            (self.tracking.keys, self.tracking.items) = Default::default();
            self.settle_notes();
        }
    }

    /// A command was executed on a tracking connection: its keys are remembered, if it read.
    #[cold]
    pub(super) fn track(&mut self, conn: ConnId, session: &mut Session, spec: &CommandSpec, args: &Args<'_>) {
        let sliced = std::mem::take(&mut session.sliced);
        let Some(tracking) = &mut session.tracking else { return };
        if spec.flags.has(Flag::Readonly) && spec.keys.usage != KeyUse::NotKey && tracking.remembers() {
            for key in keys_of(spec, args) {
                if sliced {
                    self.tracking.owe(conn, vec![Bytes::copy_from_slice(key)]);
                } else {
                    self.tracking.remember(key, conn);
                }
            }
        }
        let most = self.settings().tracking_keys_max;
        while most > 0 && self.tracking.keys.len() as u64 > most {
            let Some((key, conns)) = self.tracking.make_room() else { break };
            let invalid = Invalid(Some(vec![Bytes::from(key)]));
            let sessions = &self.sessions;
            let readers = conns.into_iter().filter(|conn| sessions.get(*conn).is_none_or(Session::is_told_of_reads));
            self.tracking.later.extend(readers.map(|conn| (conn, invalid.clone())));
        }
    }

    /// Tells who has read what was changed, once the entry at `need` is acknowledged, if it has to be.
    pub(super) fn invalidate(
        &mut self,
        now: Now,
        by: Option<ConnId>,
        notes: &[Noted],
        need: Option<Offset>,
        fx: &mut Effects,
    ) {
        let mut told = std::mem::take(&mut self.tracking.later);
        // As in Redis, a message for each prefix.
        let mut by_prefix: BTreeMap<(Bytes, ConnId), BTreeSet<Bytes>> = BTreeMap::new();
        let notes = if self.tracking.clients() > 0 { notes } else { &[] };
        let entry_of = self.tracking.own.take_ends();
        for (at, noted) in notes.iter().enumerate() {
            match noted {
                Noted::Changed { key, event, .. } => {
                    // What a command meets is not its doing.
                    let by = by.filter(|_| !matches!(event, Event::Expired | Event::Evicted));
                    let own = by.filter(|conn| {
                        let session = self.sessions.get(*conn);
                        session.is_some_and(|s| s.tracking.as_ref().is_some_and(|tracking| tracking.noloop))
                    });
                    let name = Bytes::copy_from_slice(key);
                    let others = |conn: &ConnId| Some(*conn) != own;
                    let mut readers = self.tracking.forget(key);
                    if let Some(own) = own.filter(|own| readers.remove(own)) {
                        // It may have read the key again within its batch.
                        self.tracking.remember(key, own);
                    }
                    readers.retain(|conn| self.sessions.get(*conn).is_none_or(Session::is_told_of_reads));
                    let entry = entry_of(at);
                    readers.retain(|conn| {
                        let is_own = self.is_own_change(*conn, key, *event, entry);
                        if is_own {
                            self.tracking.remember(key, *conn);
                        }
                        !is_own
                    });
                    told.extend(readers.into_iter().map(|conn| (conn, Invalid(Some(vec![name.clone()])))));
                    let asked: Vec<(Bytes, ConnId)> =
                        self.tracking.by_prefix(key).map(|(prefix, conn)| (prefix.clone(), conn)).collect();
                    for (prefix, conn) in asked.into_iter().filter(|(_, conn)| others(conn)) {
                        if !self.is_own_change(conn, key, *event, entry) {
                            by_prefix.entry((prefix, conn)).or_default().insert(name.clone());
                        }
                    }
                }
                Noted::Cleared => {
                    (self.tracking.keys, self.tracking.items) = Default::default();
                    told.extend(self.tracking.tracking.iter().map(|conn| (*conn, Invalid(None))));
                }
                Noted::Missed(_) => {}
            }
        }
        self.forget_applied_writes();
        let keys = |keys: BTreeSet<Bytes>| Invalid(Some(keys.into_iter().collect()));
        told.extend(by_prefix.into_iter().map(|((_, conn), invalid)| (conn, keys(invalid))));
        for (conn, invalid) in told {
            if need.is_none_or(|need| !self.pubsub.hold_invalid(need, conn, &invalid)) {
                self.tell_invalid(now, conn, invalid, fx);
            }
        }
    }

    /// Everything that anybody has read here may be otherwise now.
    pub(super) fn invalidate_all(&mut self, now: Now, fx: &mut Effects) {
        self.tracking.own.clear();
        self.settle_notes();
        self.invalidate(now, None, &[Noted::Cleared], None, fx);
    }

    /// Tells one connection, or whoever it redirects to.
    pub(super) fn tell_invalid(&mut self, now: Now, conn: ConnId, invalid: Invalid, fx: &mut Effects) {
        if self.sessions.executing() == Some(conn) {
            self.tracking.later.push((conn, invalid));
            return;
        }
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let protocol = session.protocol;
        let Some(tracking) = &mut session.tracking else { return };
        let Some((id, target)) = tracking.redirect else {
            if protocol == Protocol::Resp3 {
                self.deliver(now.boot, conn, invalid.encode(protocol), fx);
            }
            return;
        };
        if self.sessions.executing() == Some(target) {
            self.tracking.later.push((conn, invalid));
            return;
        }
        match self.sessions.get(target).filter(|other| !other.ending) {
            Some(other) if other.protocol == Protocol::Resp3 => {
                self.deliver(now.boot, target, invalid.encode(Protocol::Resp3), fx);
            }
            Some(other) if other.subscriptions.is_some() => {
                self.deliver(now.boot, target, invalid.encode(Protocol::Resp2), fx);
            }
            Some(_) => {}
            None => {
                if let Some(tracking) = self.sessions.get_mut(conn).and_then(|session| session.tracking.as_mut()) {
                    tracking.broken = true;
                }
                if protocol == Protocol::Resp3 {
                    let mut out = Output::new();
                    let mut reply = Reply::new(&mut out, protocol);
                    reply.push(2);
                    reply.bulk(b"tracking-redir-broken");
                    reply.integer(id as i64);
                    self.deliver(now.boot, conn, out.to_vec().into(), fx);
                }
            }
        }
    }
}

pub(super) fn caching(session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    let tracking = session.tracking.as_mut().ok_or(CACHING_WITHOUT_OPT)?;
    let word = args.get(2);
    match () {
        () if word.eq_ignore_ascii_case(b"yes") && !tracking.optin => return Err(YES_WITHOUT_OPTIN.into()),
        () if word.eq_ignore_ascii_case(b"no") && !tracking.optout => return Err(NO_WITHOUT_OPTOUT.into()),
        () if word.eq_ignore_ascii_case(b"yes") || word.eq_ignore_ascii_case(b"no") => tracking.caching = true,
        () => return Err(CommandError::Syntax.to_string().into()),
    }
    reply.ok();
    Ok(Flow::Done)
}

pub(super) fn get_redir(session: &Session, reply: &mut Reply<'_>) -> Answer {
    reply.integer(Tracking::redirect(session.tracking.as_deref()));
    Ok(Flow::Done)
}

pub(super) fn tracking_info(session: &Session, reply: &mut Reply<'_>) -> Answer {
    let tracking = session.tracking.as_deref();
    let is = |what: fn(&Tracking) -> bool| tracking.is_some_and(what);
    let flags = [
        ("off", tracking.is_none()),
        ("on", tracking.is_some()),
        ("bcast", is(|t| t.bcast)),
        ("optin", is(|t| t.optin)),
        ("caching-yes", is(|t| t.optin && t.caching)),
        ("optout", is(|t| t.optout)),
        ("caching-no", is(|t| t.optout && t.caching)),
        ("noloop", is(|t| t.noloop)),
        ("broken_redirect", is(|t| t.broken)),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(_, on)| *on).map(|(flag, _)| *flag).collect();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(Tracking::redirect(tracking));
    reply.bulk(b"prefixes");
    let prefixes: Vec<&Bytes> = tracking.iter().flat_map(|tracking| &tracking.prefixes).collect();
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_makes_room_with_each_key_in_its_turn() {
        let mut table = Table::default();
        for key in [b"a", b"b", b"c"] {
            table.remember(key, ConnId(1));
        }
        table.remember(b"a", ConnId(1));
        table.remember(b"a", ConnId(2));
        assert_eq!(table.sizes(), (3, 4, 0));
        let next = |table: &mut Table| table.make_room().map(|(key, conns)| (key[0], conns.len()));
        assert_eq!(next(&mut table), Some((b'a', 2)));
        assert_eq!(next(&mut table), Some((b'b', 1)));
        table.remember(b"a", ConnId(3));
        assert_eq!(next(&mut table), Some((b'c', 1)), "a had its turn");
        assert_eq!(next(&mut table), Some((b'a', 1)));
        assert_eq!(next(&mut table), None);
        assert_eq!(table.sizes(), (0, 0, 0));
    }
}
