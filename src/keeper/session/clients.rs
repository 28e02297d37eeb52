//! Commands about all connections: CLIENT LIST, INFO, KILL, UNBLOCK, PAUSE, UNPAUSE.
//!
//! A pause is this node's alone and ends with its time; the leadership may go elsewhere meanwhile. While writes are paused nothing
//! expires: an expired key is hidden, as at a replica. What a connection begins with and what operators say is answered during any pause
//! ([`goes_on_while_paused`]): with a password, too, there is a way to end one that was asked for by mistake. Not here: links to other nodes, which are no clients here.

use std::fmt::Write;

use crate::base::clock::{Boot, Now};
use crate::base::ids::ConnId;
use crate::command::{CommandError, CommandSpec, Flag, integer};
use crate::keeper::pubsub::Kind;
use crate::keeper::tracking::Tracking;
use crate::keeper::{Effect, Effects, Keeper};
use crate::resp::{Args, Protocol, Reply};

use super::{Answer, Flow, Session, timeout_ms};

/// What CLIENT PAUSE asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::keeper) struct Pause {
    /// When it ends.
    until: Boot,
    /// Whether it holds every command, or only what writes.
    all: bool,
}

/// How CLIENT UNBLOCK ends a WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Unblock {
    /// As if its time were over.
    Timeout,
    /// With an error.
    Error,
}

/// Which connections CLIENT KILL means.
#[derive(Default)]
struct Victims<'a> {
    id: Option<u64>,
    addr: Option<&'a [u8]>,
    local_addr: Option<&'a [u8]>,
    kind: Option<Type>,
    /// Not the one that asks.
    skip_me: bool,
}

impl<'a> Victims<'a> {
    fn parse(args: &Args<'a>) -> Result<Victims<'a>, std::borrow::Cow<'static, str>> {
        if args.len() == 3 {
            return Ok(Victims { addr: Some(args.get(2)), ..Victims::default() });
        }
        let mut victims = Victims { skip_me: true, ..Victims::default() };
        let mut i = 2;
        while i < args.len() {
            let word = args.get(i);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name) && i + 1 < args.len();
            let value = || args.get(i + 1);
            if is(b"id") {
                let id = integer(value()).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                victims.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
            } else if is(b"type") {
                victims.kind = Some(type_of(value())?);
            } else if is(b"addr") {
                victims.addr = Some(value());
            } else if is(b"laddr") {
                victims.local_addr = Some(value());
            } else if is(b"user") {
                if value() != b"default" {
                    return Err(format!("ERR No such user '{}'", value().escape_ascii()).into());
                }
            } else if is(b"skipme") && value().eq_ignore_ascii_case(b"yes") {
                victims.skip_me = true;
            } else if is(b"skipme") && value().eq_ignore_ascii_case(b"no") {
                victims.skip_me = false;
            } else {
                return Err(CommandError::Syntax.to_string().into());
            }
            i += 2;
        }
        Ok(victims)
    }

    fn include(&self, session: &Session) -> bool {
        self.kind.is_none_or(|kind| kind.includes(session))
            && self.id.is_none_or(|id| id == session.id)
            && self.addr.is_none_or(|addr| addr == session.addr.as_bytes())
            && self.local_addr.is_none_or(|addr| addr == session.local_addr.as_bytes())
    }
}

/// A type of CLIENT LIST and CLIENT KILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Normal,
    PubSub,
    /// Links to other nodes are no clients here.
    Link,
}

impl Type {
    fn includes(self, session: &Session) -> bool {
        match self {
            Type::Normal => session.subscriptions.is_none(),
            Type::PubSub => session.subscriptions.is_some(),
            Type::Link => false,
        }
    }
}

fn type_of(kind: &[u8]) -> Result<Type, String> {
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(Type::Normal),
        b"pubsub" => Ok(Type::PubSub),
        b"master" | b"replica" | b"slave" => Ok(Type::Link),
        _ => Err(format!("ERR Unknown client type '{}'", kind.escape_ascii())),
    }
}

/// Whether a command is answered although every one is held: it neither reads nor writes data, and nobody could look at the node or end the pause
/// without it.
pub(in crate::keeper) fn goes_on_while_paused(spec: &CommandSpec) -> bool {
    let container = spec.name.split_once('|').map_or(spec.name, |(container, _)| container);
    let on_data = spec.flags.has(Flag::Readonly) || spec.flags.has(Flag::Write);
    let asks = matches!(
        container,
        "client"
            | "cluster"
            | "command"
            | "datakeeper"
            | "info"
            | "latency"
            | "memory"
            | "role"
            | "select"
            | "sentinel"
            | "slowlog"
    );
    !on_data && (asks || spec.flags.has(Flag::Admin) || spec.flags.has(Flag::NoAuth))
}

impl Keeper {
    pub(super) fn client_kill(
        &mut self,
        session: &Session,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
        fx: &mut Effects,
    ) -> Answer {
        let victims = Victims::parse(args)?;
        let others: Vec<ConnId> =
            self.sessions.iter().filter(|(_, other)| victims.include(other)).map(|(conn, _)| conn).collect();
        let me = !victims.skip_me && victims.include(session);
        let killed = others.len() + usize::from(me);
        for conn in others {
            // What follows, in this pipeline too, does not find it any more.
            self.client_ends(conn);
            fx.push(Effect::CloseClient(conn));
        }
        match args.len() {
            3 if killed == 0 => return Err("ERR No such client".into()),
            3 => reply.ok(),
            _ => reply.integer(killed as i64),
        }
        Ok(if me { Flow::Close } else { Flow::Done })
    }

    /// Ends the WAIT of another connection.
    pub(super) fn client_unblock(&mut self, args: &Args<'_>, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        let how = match args.len() {
            3 => Unblock::Timeout,
            4 if args.get(3).eq_ignore_ascii_case(b"timeout") => Unblock::Timeout,
            4 if args.get(3).eq_ignore_ascii_case(b"error") => Unblock::Error,
            4 => return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
            _ => return Err(CommandError::Syntax.to_string().into()),
        };
        let id = integer(args.get(2)).map_err(|error| error.to_string())?;
        let (blocked, waiting) = (&self.blocked, &self.waiting);
        let target = self.sessions.iter_mut().find(|(conn, other)| {
            i64::try_from(other.id) == Ok(id)
                && other.last_command == "wait"
                && blocked.contains(conn)
                && waiting.contains(*conn)
        });
        let found = target.map(|(conn, other)| {
            other.unblocked = Some(how);
            conn
        });
        if let Some(conn) = found {
            self.waiting.remove(conn);
            self.blocked.remove(&conn);
            fx.push(Effect::Resume(conn));
        }
        reply.integer(i64::from(found.is_some()));
        Ok(Flow::Done)
    }

    /// A second pause prolongs the first, and makes it no milder.
    pub(super) fn client_pause(&mut self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let all = match args.len() {
            3 => true,
            4 if args.get(3).eq_ignore_ascii_case(b"all") => true,
            4 if args.get(3).eq_ignore_ascii_case(b"write") => false,
            4 => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".into()),
            _ => return Err(CommandError::Syntax.to_string().into()),
        };
        let ms = timeout_ms(now, args.get(2))?;
        let earlier = self.pause.filter(|pause| pause.until > now.boot);
        self.pause = Some(Pause {
            until: now.boot.plus_ms(ms).max(earlier.map_or(Boot(0), |pause| pause.until)),
            all: all || earlier.is_some_and(|pause| pause.all),
        });
        reply.ok();
        Ok(Flow::Done)
    }

    pub(super) fn client_unpause(&mut self, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        if self.pause.take().is_some() {
            self.resume_waiting(fx);
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// Until when commands are held: every one, or (`all` is false) what writes.
    pub(in crate::keeper) fn paused(&self, now: Now, all: bool) -> Option<Boot> {
        self.pause.filter(|pause| pause.until > now.boot && (pause.all || !all)).map(|pause| pause.until)
    }

    pub(super) fn client_info(&self, now: Now, conn: ConnId, session: &Session, reply: &mut Reply<'_>) -> Answer {
        let mut text = String::new();
        self.describe_client(now, conn, session, &mut text);
        reply.verbatim("txt", text.as_bytes());
        Ok(Flow::Done)
    }

    pub(super) fn client_list(
        &self,
        now: Now,
        conn: ConnId,
        session: &Session,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        let mut ids: Option<Vec<u64>> = None;
        let mut kind: Option<Type> = None;
        match args.len() {
            2 => {}
            4 if args.get(2).eq_ignore_ascii_case(b"type") => {
                kind = Some(type_of(args.get(3))?);
            }
            4.. if args.get(2).eq_ignore_ascii_case(b"id") => {
                let wanted = args.tail(3);
                let wanted = wanted.iter().map(|id| integer(id).ok().and_then(|id| u64::try_from(id).ok()));
                ids = Some(wanted.collect::<Option<_>>().ok_or("ERR Invalid client ID")?);
            }
            _ => return Err(CommandError::Syntax.to_string().into()),
        }
        if let Some(ids) = &mut ids {
            ids.sort_unstable();
        }
        let mut all: Vec<(ConnId, &Session)> = self.sessions.iter().chain([(conn, session)]).collect();
        all.sort_unstable_by_key(|(_, session)| session.id);
        let mut text = String::new();
        for (conn, session) in all {
            let of_kind = kind.is_none_or(|kind| kind.includes(session));
            if of_kind && ids.as_ref().is_none_or(|ids| ids.binary_search(&session.id).is_ok()) {
                self.describe_client(now, conn, session, &mut text);
            }
        }
        reply.verbatim("txt", text.as_bytes());
        Ok(Flow::Done)
    }

    /// One line of CLIENT LIST: the fields of Redis 7.2 as far as they are something here, and `watch`.
    fn describe_client(&self, now: Now, conn: ConnId, s: &Session, text: &mut String) {
        let tracking = s.tracking.as_deref();
        let [tracks, broken, broadcast] = Tracking::marks(tracking);
        let marks = [
            ('O', s.monitors),
            ('P', s.subscriptions.is_some()),
            ('x', s.transaction.is_some()),
            ('b', self.waiting.contains(conn)),
            tracks,
            broken,
            broadcast,
            ('d', self.watched_keys_changed(s)),
            ('r', s.readonly),
            ('e', s.no_evict),
            ('T', s.no_touch),
        ];
        let mut flags: String = marks.iter().filter(|(_, on)| *on).map(|(mark, _)| mark).collect();
        if flags.is_empty() {
            flags.push('N');
        }
        let (age, idle) = (now.boot.ms_since(s.since) / 1_000, now.boot.ms_since(s.active_at) / 1_000);
        let (queued, queued_bytes) = s.transaction.as_ref().map_or((-1, 0), |t| (t.len() as i64, t.memory()));
        let (mut fd, mut input, mut output) = (String::new(), String::new(), String::new());
        if let Some(figures) = &s.figures {
            let ((received, spare), (unsent, pieces)) = (figures.input(), figures.output());
            let own = size_of::<Session>() + s.name.len() + s.addr.len() + s.local_addr.len();
            let total = own + received + spare + queued_bytes + unsent;
            fd = format!(" fd={}", figures.fd);
            input = format!(" qbuf={received} qbuf-free={spare}");
            output = format!(" obl={unsent} oll={pieces} omem={unsent} tot-mem={total}");
        }
        let protocol = if s.protocol == Protocol::Resp3 { 3 } else { 2 };
        writeln!(
            text,
            "id={} addr={} laddr={}{fd} name={} age={age} idle={idle} flags={flags} db=0 sub={} psub={} ssub={} multi={queued} \
             watch={}{input} multi-mem={queued_bytes}{output} events=r cmd={} user=default \
             redir={} resp={protocol} lib-name={} lib-ver={}",
            s.id,
            s.addr,
            s.local_addr,
            s.name,
            s.listens(Kind::Channel),
            s.listens(Kind::Pattern),
            s.listens(Kind::Shard),
            s.watches.len(),
            s.last_command,
            Tracking::redirect(tracking),
            s.library.0,
            s.library.1
        )
        .expect("a String takes any text");
    }
}
