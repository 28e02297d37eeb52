//! Passing on: what a node with `writes_on_replica: proxy` sends to the leader in a client's place.
//!
//! ```text
//!   client ──► replica ─┬─ reads ──────────► its own store, once that has applied what this client has seen
//!                       ├─ writes ─────────► leader   with the reads that follow them in the same batch
//!                       ├─ WATCH ──────────► leader   on a connection that is this client's until EXEC
//!                       ├─ MULTI … EXEC ───► leader   queued here, sent as a whole, if it writes or something is watched
//!                       └─ WAIT ───────────► answered here, with what the leader says of the client's last write
//! ```
//! The Keeper says what goes where ([`Forward`]); the shell sends it once, brings the replies and reports what became of it. A node that does not
//! lead answers `-REDIRECT`, for connections between nodes say so that they understand that: nothing is passed on twice, and what was redirected was not
//! executed and can be tried again. What was sent and not answered is never sent again.
//!
//! Behind what the client sent, the leader is asked for positions: up to where its reads showed the history, and that of the connection's last
//! write. Later reads of the client at this node wait until it has applied that (`read_after`), as after `DATAKEEPER AFTER`.
//!
//! Not here: commands about connections within a transaction that is passed on; EXEC refuses them.

use bytes::Bytes;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, Position};
use crate::cluster::role::Role;
use crate::command::{CommandSpec, Exec, Flag, SessionCommand, integer, keys_of, resolve};
use crate::resp::{Args, Batch, Output, Protocol, Reply};

use super::session::{Holders, Session, parse_position};
use super::{Keeper, WritesOnReplica};

/// Commands that are passed on together at most.
const COMMANDS_MAX: usize = 1_000;

/// What a connection that is watched for is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Any connection will do.
    No,
    /// It is this client's from now on.
    Begins,
    /// It has to be the one on which WATCH was sent, if that is still there; otherwise the answer is null. Any will do afterwards.
    Ends,
}

/// What is to be sent to the leader, and what comes back.
#[derive(Debug)]
pub struct Forward {
    /// `host:port` of the leader.
    pub to: String,
    /// Form of the replies: a connection to the leader speaks one.
    pub protocol: Protocol,
    /// What a new connection says first, and how many replies that has. An error among them means that it cannot be used.
    pub greeting: Vec<u8>,
    /// See `greeting`.
    pub greeting_replies: usize,
    /// To be sent once.
    pub request: Output,
    /// Replies that come before those for the client: of MULTI and what was queued, or what this node itself asks.
    pub before: usize,
    /// Commands of the batch that this is, each with a reply for the client. Two more replies follow them: see [`Keeper::forwarded`].
    pub commands: usize,
    /// Whether the client gets the replies (CLIENT REPLY).
    pub heard: bool,
    /// Whether the Keeper is to be told when the replies have been sent: [`Keeper::replies_sent`].
    pub tracked: bool,
    /// Whether WATCH is involved.
    pub watched: Watched,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded<'a> {
    /// It was answered; the two last replies.
    Answered {
        /// The position up to which reads at the leader show the history.
        seen: &'a [u8],
        /// The position of the last write, if one of these commands was one.
        written: Option<&'a [u8]>,
        /// The last of the replies that are not for the client, if there are any.
        told: Option<&'a [u8]>,
    },
    /// The first commands were answered; the others were not executed, and will be tried again.
    InPart {
        /// The position up to which the answered ones show the history.
        seen: Option<&'a [u8]>,
    },
    /// It was not executed, and will not be tried again.
    Refused,
    /// Whether it was executed is not known.
    Unknown,
}

/// Whether a command can stand in a transaction that is passed on.
fn can_be_queued(spec: &CommandSpec) -> bool {
    use SessionCommand::{DataKeeperAfter, DataKeeperPosition, Ping, Publish, SPublish, Unwatch};
    let Exec::Session(command) = spec.exec else { return matches!(spec.exec, Exec::Data(_)) };
    matches!(command, DataKeeperAfter | DataKeeperPosition | Ping | Publish | SPublish | Unwatch)
}

fn put_request(out: &mut Output, args: &Args<'_>) {
    let mut request = Reply::new(out, Protocol::Resp2);
    request.array(args.len());
    for i in 0..args.len() {
        match args.shared(i) {
            Some(bytes) => request.shared(bytes),
            None => request.bulk(args.get(i)),
        }
    }
}

/// The keys that a command reads.
fn keys_read(args: &Args<'_>) -> Vec<Bytes> {
    let spec = resolve(args).ok().filter(|spec| spec.flags.has(Flag::Readonly));
    spec.map_or_else(Vec::new, |spec| keys_of(spec, args).map(Bytes::copy_from_slice).collect())
}

fn put_words(out: &mut Output, words: &[&[u8]]) {
    let mut request = Reply::new(out, Protocol::Resp2);
    request.array(words.len());
    words.iter().for_each(|word| request.bulk(word));
}

impl Keeper {
    /// Whether what this node does not serve itself is passed on for the connection. One that says it understands redirects gets them.
    pub(super) fn passes_on(&self, session: &Session) -> bool {
        self.config.writes_on_replica == WritesOnReplica::Proxy
            && !session.takes_redirects
            && !session.knows_slots
            && self.leader_client_addr().is_some()
    }

    /// What keeps a transaction from being passed on, if something does.
    pub(super) fn cannot_pass_on(queue: &Batch) -> Option<String> {
        let specs = (0..queue.len()).filter_map(|i| resolve(&queue.args(i, &[])).ok());
        let other = specs.into_iter().find(|spec| !can_be_queued(spec))?;
        Some(format!("ERR '{}' cannot be passed on to the leader within a transaction", other.name))
    }

    /// Makes the request of the commands of `batch` from number `at` on that are passed on together.
    pub(super) fn forward(
        &mut self,
        conn: ConnId,
        session: &mut Session,
        batch: &Batch,
        input: &[u8],
        at: usize,
    ) -> Box<Forward> {
        let own_writer = Keeper::is_own_writer(session);
        let most = if own_writer { 1 } else { COMMANDS_MAX };
        if own_writer {
            self.own_write_begins(conn);
        }
        let mut request = Output::new();
        let heard = session.hears();
        let args = batch.args(at, input);
        let (mut before, mut commands, mut watched) = (0, 1, Watched::No);
        match resolve(&args).map(|spec| spec.exec) {
            Ok(Exec::Session(SessionCommand::Exec)) => {
                if session.watches_elsewhere {
                    watched = Watched::Ends;
                }
                put_words(&mut request, &[b"MULTI"]);
                let queue = session.transaction.as_ref().expect("EXEC found one").queue();
                (0..queue.len()).for_each(|i| put_request(&mut request, &queue.args(i, &[])));
                put_words(&mut request, &[b"EXEC"]);
                before = 1 + queue.len();
            }
            Ok(Exec::Session(SessionCommand::Wait)) => {
                session.holders = Holders::Asked;
                let Position { epoch, offset } = session.written_last();
                let token = format!("0:{epoch}:{offset}");
                put_words(&mut request, &[b"DATAKEEPER", b"HOLDERS", token.as_bytes()]);
                (before, commands) = (1, 0);
            }
            Ok(Exec::Session(SessionCommand::Watch)) => {
                watched = Watched::Begins;
                put_request(&mut request, &args);
            }
            _ => {
                put_request(&mut request, &args);
                while heard && commands < most && at + commands < batch.len() {
                    let args = batch.args(at + commands, input);
                    let on_data = |spec: &&CommandSpec| spec.is_on_keys() && matches!(spec.exec, Exec::Data(_));
                    if resolve(&args).ok().filter(on_data).is_none() {
                        break;
                    }
                    put_request(&mut request, &args);
                    commands += 1;
                }
            }
        }
        if session.tracking.as_ref().is_some_and(|tracking| tracking.remembers()) {
            match &session.transaction {
                Some(transaction) => {
                    let queue = transaction.queue();
                    session.reads_elsewhere = (0..queue.len()).flat_map(|i| keys_read(&queue.args(i, &[]))).collect();
                }
                None => {
                    let passed_on = at..at + commands;
                    session.reads_elsewhere = passed_on.flat_map(|i| keys_read(&batch.args(i, input))).collect();
                }
            }
        }
        put_words(&mut request, &[b"DATAKEEPER", b"POSITION", b"READ"]);
        put_words(&mut request, &[b"DATAKEEPER", b"POSITION", b"WRITE"]);
        let (greeting, greeting_replies) = self.greeting(session.protocol);
        self.stats.forwarded += commands as u64;
        Box::new(Forward {
            to: self.leader_client_addr().unwrap_or_default().to_string(),
            protocol: session.protocol,
            greeting,
            greeting_replies,
            request,
            before,
            commands,
            heard,
            tracked: session.tracking.is_some(),
            watched,
        })
    }

    /// How a connection to the leader begins.
    fn greeting(&self, protocol: Protocol) -> (Vec<u8>, usize) {
        let mut out = Output::new();
        let version: &[u8] = if protocol == Protocol::Resp3 { b"3" } else { b"2" };
        let name = format!("proxy-{}", self.me.id);
        let mut hello: Vec<&[u8]> = vec![b"HELLO", version];
        if let Some(password) = &self.config.password {
            hello.extend([&b"AUTH"[..], b"default", password]);
        }
        hello.extend([&b"SETNAME"[..], name.as_bytes()]);
        put_words(&mut out, &hello);
        put_words(&mut out, &[b"CLIENT", b"CAPA", b"redirect"]);
        (out.to_vec(), 2)
    }

    /// Whether another node than the one at this address certainly leads by now; it may be this one.
    #[must_use]
    pub fn is_superseded(&self, now: Now, addr: &str) -> bool {
        let confirmed = self.leader_client_addr().filter(|_| self.leader_is_confirmed(now));
        self.role == Role::Leader || confirmed.is_some_and(|leads| leads != addr)
    }

    /// Something that was passed on for this connection is over.
    pub fn forwarded(&mut self, conn: ConnId, watched: Watched, what: Forwarded<'_>) {
        self.stats.forwarded_unknown += u64::from(what == Forwarded::Unknown);
        let Some(mut session) = self.sessions.take(conn) else { return };
        if session.holders == Holders::Asked {
            let number = |reply: &[u8]| integer(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?).ok();
            session.holders = Holders::Told(match what {
                Forwarded::Answered { told, .. } => told.and_then(number),
                Forwarded::InPart { .. } | Forwarded::Refused | Forwarded::Unknown => None,
            });
            self.own_write_ends(conn, None);
            return self.sessions.put_back(conn, session);
        }
        if session.transaction.is_some() {
            // It was EXEC.
            self.end_transaction(&mut session);
        }
        session.end_caching();
        session.replied_elsewhere();
        let position = |reply: &[u8]| {
            let token = reply.split(|byte| *byte == b'\n').nth(1)?.strip_suffix(b"\r")?;
            parse_position(token).ok()
        };
        let own = match what {
            Forwarded::Answered { written, .. } => written.and_then(position),
            Forwarded::InPart { .. } | Forwarded::Refused | Forwarded::Unknown => None,
        };
        self.own_write_ends(conn, own);
        match what {
            // Whatever was acknowledged is in the log of a member.
            Forwarded::InPart { seen } => session.note_seen(seen.and_then(position).or(Some(self.log.last()))),
            Forwarded::Answered { seen, written, .. } => {
                session.watches_elsewhere |= watched == Watched::Begins;
                session.note_seen(position(seen));
                if let Some(written) = written.and_then(position) {
                    session.written_elsewhere = session.written_elsewhere.max(written);
                    session.note_seen(Some(written));
                }
            }
            Forwarded::Unknown => session.note_seen(Some(self.log.last())),
            Forwarded::Refused => {}
        }
        if watched == Watched::Ends && !matches!(what, Forwarded::InPart { .. }) {
            session.watches_elsewhere = false;
        }
        self.sessions.put_back(conn, session);
    }

    /// The replies have been sent, as far as the client takes them. What was read for a client that tracks is called invalid now: this node would not notice
    /// when it changes.
    pub fn replies_sent(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let read = std::mem::take(&mut session.reads_elsewhere);
        if !read.is_empty() {
            self.tracking.owe(conn, read);
            self.upkeep_at = Boot(0);
        }
    }
}

impl Session {
    /// Later reads show what is there at this position.
    pub(super) fn note_seen(&mut self, position: Option<Position>) {
        self.read_after = self.read_after.max(position.unwrap_or_default());
    }
}
