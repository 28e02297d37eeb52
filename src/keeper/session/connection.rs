//! Commands about one's own connection: HELLO, AUTH, CLIENT (but for what is in `clients`), SELECT, PING, QUIT, RESET, READONLY, READWRITE, ASKING.
//!
//! There is one user, `default`, and at most one password. Passwords are compared by their digests: neither time nor length
//! tells how much of a guess was right.

use sha2::{Digest, Sha256};

use crate::base::clock::Now;
use crate::base::ids::{ConnId, Position};
use crate::command::{CommandError, REDIS_VERSION, integer};
use crate::keeper::Keeper;
use crate::resp::{Args, Output, Protocol, Reply};

use super::{Answer, Flow, Replies, Session};

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the default user. \
    Are you sure your configuration is correct?";
const HELLO_BEFORE_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same \
    time";

pub(super) fn ping(session: &Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    match args.len() {
        // Among messages, a lone reply could not be told from them.
        1 | 2 if session.subscriptions.is_some() && session.protocol == Protocol::Resp2 => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(if args.len() == 2 { args.get(1) } else { b"" });
        }
        1 => reply.simple("PONG"),
        2 => reply.bulk(args.get(1)),
        _ => return Err(CommandError::WrongArity("ping").to_string().into()),
    }
    Ok(Flow::Done)
}

pub(super) fn select(args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    match integer(args.get(1)) {
        Ok(0) => reply.ok(),
        Ok(_) => return Err("ERR SELECT is not allowed in cluster mode".into()),
        Err(error) => return Err(error.to_string().into()),
    }
    Ok(Flow::Done)
}

pub(super) fn quit(reply: &mut Reply<'_>) -> Answer {
    reply.ok();
    Ok(Flow::Close)
}

pub(super) fn asking(reply: &mut Reply<'_>) -> Answer {
    reply.ok();
    Ok(Flow::Done)
}

/// Sets a flag of the session.
pub(super) fn set(flag: &mut bool, to: bool, reply: &mut Reply<'_>) -> Answer {
    *flag = to;
    reply.ok();
    Ok(Flow::Done)
}

/// CLIENT CAPA: what the client says it can do. What is not known here does no harm.
pub(super) fn capa(session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    session.takes_redirects |= args.iter().skip(2).any(|word| word.eq_ignore_ascii_case(b"redirect"));
    reply.ok();
    Ok(Flow::Done)
}

/// Sets a flag of the session to the ON or OFF of the last argument.
pub(super) fn switch(flag: &mut bool, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    let word = args.get(2);
    let to = word.eq_ignore_ascii_case(b"on");
    if !to && !word.eq_ignore_ascii_case(b"off") {
        return Err(CommandError::Syntax.to_string().into());
    }
    set(flag, to, reply)
}

pub(super) fn id(session: &Session, reply: &mut Reply<'_>) -> Answer {
    reply.integer(session.id as i64);
    Ok(Flow::Done)
}

/// CLIENT REPLY; only ON is answered.
pub(super) fn reply_mode(session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    let mode = args.get(2);
    if mode.eq_ignore_ascii_case(b"on") {
        session.replies = Replies::All;
        reply.ok();
    } else if mode.eq_ignore_ascii_case(b"off") {
        session.replies = Replies::None;
    } else if mode.eq_ignore_ascii_case(b"skip") {
        if session.replies != Replies::None {
            session.replies = Replies::SkipNext;
        }
    } else {
        return Err(CommandError::Syntax.to_string().into());
    }
    Ok(Flow::Done)
}

pub(super) fn get_name(session: &Session, reply: &mut Reply<'_>) -> Answer {
    if session.name.is_empty() {
        reply.null()
    } else {
        reply.bulk(session.name.as_bytes())
    }
    Ok(Flow::Done)
}

pub(super) fn set_name(session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    session.name = printable(args.get(2)).ok_or(BAD_NAME)?;
    reply.ok();
    Ok(Flow::Done)
}

pub(super) fn set_info(session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    let option = args.get(2);
    let shown = option.escape_ascii();
    let field = if option.eq_ignore_ascii_case(b"lib-name") {
        &mut session.library.0
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        &mut session.library.1
    } else {
        return Err(format!("ERR Unrecognized option '{shown}'").into());
    };
    *field = printable(args.get(3))
        .ok_or_else(|| format!("ERR {shown} cannot contain spaces, newlines or special characters."))?;
    reply.ok();
    Ok(Flow::Done)
}

/// The text, if it is one that CLIENT LIST can show: printable ASCII without blanks.
fn printable(text: &[u8]) -> Option<String> {
    text.iter().all(u8::is_ascii_graphic).then(|| text.iter().map(|byte| char::from(*byte)).collect())
}

/// What a HELLO asks for.
#[derive(Default)]
struct Greeting<'a> {
    protocol: Option<Protocol>,
    credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<String>,
}

impl<'a> Greeting<'a> {
    fn parse(args: &Args<'a>) -> Result<Greeting<'a>, std::borrow::Cow<'static, str>> {
        let mut greeting = Greeting::default();
        if args.len() > 1 {
            greeting.protocol = Some(match integer(args.get(1)) {
                Ok(2) => Protocol::Resp2,
                Ok(3) => Protocol::Resp3,
                Ok(_) => return Err("NOPROTO unsupported protocol version".into()),
                Err(_) => return Err("ERR Protocol version is not an integer or out of range".into()),
            });
        }
        let mut at = 2;
        while at < args.len() {
            let option = args.get(at);
            let left = args.len() - at - 1;
            if option.eq_ignore_ascii_case(b"auth") && left >= 2 {
                greeting.credentials = Some((args.get(at + 1), args.get(at + 2)));
                at += 3;
            } else if option.eq_ignore_ascii_case(b"setname") && left >= 1 {
                greeting.name = Some(printable(args.get(at + 1)).ok_or(BAD_NAME)?);
                at += 2;
            } else {
                return Err(format!("ERR Syntax error in HELLO option '{}'", option.escape_ascii()).into());
            }
        }
        Ok(greeting)
    }
}

impl Keeper {
    /// Nothing changes unless all of it can be granted.
    pub(super) fn hello(&self, now: Now, session: &mut Session, args: &Args<'_>, out: &mut Output) -> Answer {
        let greeting = Greeting::parse(args)?;
        if let Some((user, password)) = greeting.credentials {
            self.log_in(session, user, password)?;
        }
        if !session.trusted {
            return Err(HELLO_BEFORE_AUTH.into());
        }
        session.protocol = greeting.protocol.unwrap_or(session.protocol);
        session.name = greeting.name.unwrap_or(std::mem::take(&mut session.name));
        let proto = match session.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        let role = if self.is_sure_leader(now) { "master" } else { "replica" };
        let (mode, role) = if session.at_sentinel { ("sentinel", None) } else { ("cluster", Some(role)) };
        let mut reply = Reply::new(out, session.protocol);
        let text = |reply: &mut Reply<'_>, key: &str, value: &str| {
            reply.bulk(key.as_bytes());
            reply.bulk(value.as_bytes());
        };
        reply.map(7 + usize::from(role.is_some()));
        text(&mut reply, "server", "redis");
        text(&mut reply, "version", REDIS_VERSION);
        reply.bulk(b"proto");
        reply.integer(proto);
        reply.bulk(b"id");
        reply.integer(session.id as i64);
        text(&mut reply, "mode", mode);
        if let Some(role) = role {
            text(&mut reply, "role", role);
        }
        reply.bulk(b"modules");
        reply.array(0);
        text(&mut reply, "datakeeper_version", env!("CARGO_PKG_VERSION"));
        Ok(Flow::Done)
    }

    pub(super) fn auth(&self, session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        match args.len() {
            2 if self.config.password.is_none() => return Err(NO_PASSWORD_SET.into()),
            2 => self.log_in(session, b"default", args.get(1))?,
            3 => self.log_in(session, args.get(1), args.get(2))?,
            _ => return Err(CommandError::Syntax.to_string().into()),
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// A wrong password takes no trust away that was there.
    fn log_in(&self, session: &mut Session, user: &[u8], password: &[u8]) -> Result<(), &'static str> {
        let right = self.config.password.as_ref().is_none_or(|wanted| same_secret(wanted, password));
        if user != b"default" || !right {
            return Err(WRONG_PASSWORD);
        }
        session.trusted = true;
        Ok(())
    }

    /// The connection is as if it were new; the library behind it is still the same.
    pub(super) fn reset(&mut self, conn: ConnId, session: &mut Session, out: &mut Output) -> Answer {
        self.end_transaction(session);
        self.unsubscribe_all(conn, session);
        self.stop_monitoring(conn, session);
        self.stop_tracking(conn, session);
        session.inbox = None;
        session.protocol = Protocol::Resp2;
        session.trusted = self.config.password.is_none();
        session.name.clear();
        (session.readonly, session.no_evict, session.no_touch) = (false, false, false);
        self.store.be_quiet(false);
        session.replies = Replies::All;
        (session.sentinel, session.knows_slots, session.takes_redirects) = (session.at_sentinel, false, false);
        session.has_worked = false;
        (session.read_after, session.written_elsewhere) = (Position::default(), Position::default());
        Reply::new(out, session.protocol).simple("RESET");
        Ok(Flow::Done)
    }
}

/// Compares without telling by its time where the first difference is.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(b.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
