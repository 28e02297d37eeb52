//! Passing commands on to the leader: connections to it, one exchange at a time on each, and what became of each exchange.
//!
//! One pool per client thread. A connection is used by one client at a time, and goes back into the pool once everything on it is answered; one on which
//! a client watches keys stays with that client. A request is sent once. What is known afterwards is one of four things ([`Outcome`]), and only what was
//! certainly not executed is tried again, by the caller.
//!
//! Not here: which commands are passed on and what they mean (`keeper::forward`).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::node::Node;
use crate::keeper::{Forward, Watched};
use crate::resp::{Protocol, ReplyScan};

/// Connections of one thread to the leader at most; who needs one more waits for one.
const CONNECTIONS_MAX: usize = 256;
/// Of them, kept while nobody uses them.
const IDLE_MAX: usize = 64;
/// A leader that says nothing for so long, while something is due from it, is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a silent leader is compared with the one that the Keeper knows.
const LOOK: Duration = Duration::from_millis(50);
/// Room for one read.
const READ_BYTES: usize = 64 << 10;

/// A connection to the leader.
pub(super) struct Upstream {
    socket: TcpStream,
    to: String,
    protocol: Protocol,
    input: BytesMut,
    /// What the leader last said of the last write on it.
    written: Bytes,
}

/// The connections of one client thread.
pub(super) struct Pool {
    idle: RefCell<Vec<Upstream>>,
    permits: Rc<Semaphore>,
}

/// What became of an exchange.
pub(super) enum Outcome {
    /// Everything is answered.
    Answered {
        /// For the client.
        replies: Vec<Bytes>,
        /// The two positions, as replies; the second only if it is of this exchange.
        seen: Bytes,
        written: Option<Bytes>,
        /// The last of the replies that are not for the client.
        told: Option<Bytes>,
        upstream: Upstream,
    },
    /// The first of the commands are answered; what follows was not executed. With the position up to which those show the history, if there are any.
    NotExecuted { replies: Vec<Bytes>, seen: Option<Bytes> },
    /// The first of the commands are answered; of what follows it is not known.
    Unknown { replies: Vec<Bytes> },
    /// The connection on which keys were watched is gone: they count as changed.
    WatchLost,
}

impl Outcome {
    fn nothing() -> Outcome {
        Outcome::NotExecuted { replies: Vec::new(), seen: None }
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { idle: RefCell::default(), permits: Rc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Pool {
    /// Sends a request to the leader and waits for its replies; on `own`, if there is one: the connection on which the client watches keys.
    pub(super) async fn exchange(&self, node: &Node, forward: &Forward, own: Option<Upstream>) -> Outcome {
        let _permit = self.permits.acquire().await;
        if forward.watched == Watched::Ends && own.is_none() {
            return Outcome::WatchLost;
        }
        let fitting = |upstream: &Upstream| upstream.to == forward.to && upstream.protocol == forward.protocol;
        let upstream = match own.or_else(|| self.take(fitting)) {
            Some(upstream) => upstream,
            None => match timeout(SILENCE, Upstream::connect(forward)).await {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(error)) => {
                    tracing::debug!("cannot pass commands on to {}: {error}", forward.to);
                    return Outcome::nothing();
                }
                Err(_) => return Outcome::nothing(),
            },
        };
        upstream.exchange(node, forward).await
    }

    /// Takes a connection back once its client needs it no more.
    pub(super) fn put(&self, upstream: Upstream) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX && upstream.input.is_empty() {
            idle.push(upstream);
        }
    }

    /// A living one that fits; those that are dead are dropped on the way.
    fn take(&self, fitting: impl Fn(&Upstream) -> bool) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(&fitting) {
            let upstream = idle.swap_remove(at);
            if upstream.is_alive() {
                return Some(upstream);
            }
        }
        idle.retain(Upstream::is_alive); // to another leader, or in another protocol
        None
    }
}

impl Upstream {
    async fn connect(forward: &Forward) -> io::Result<Upstream> {
        let socket = TcpStream::connect(&forward.to).await?;
        socket.set_nodelay(true)?;
        let mut upstream = Upstream {
            socket,
            to: forward.to.clone(),
            protocol: forward.protocol,
            input: BytesMut::new(),
            written: Bytes::new(),
        };
        upstream.socket.write_all(&forward.greeting).await?;
        let mut scan = ReplyScan::default();
        for _ in 0..forward.greeting_replies {
            let reply = loop {
                if let Some(len) = scan.advance(&upstream.input).map_err(io::Error::other)? {
                    break upstream.input.split_to(len);
                }
                upstream.input.reserve(READ_BYTES);
                if upstream.socket.read_buf(&mut upstream.input).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            if reply.starts_with(b"-") {
                return Err(io::Error::other(reply.escape_ascii().to_string()));
            }
        }
        Ok(upstream)
    }

    /// Whether the other side has neither closed it nor sent what nobody asked for.
    pub(super) fn is_alive(&self) -> bool {
        let mut byte = [0];
        matches!(self.socket.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn exchange(mut self, node: &Node, forward: &Forward) -> Outcome {
        let wanted = forward.before + forward.commands + 2;
        let mut replies: Vec<Bytes> = Vec::with_capacity(wanted);
        let progress = Cell::new(0_u64);
        let Upstream { socket, input, to, .. } = &mut self;
        let (mut reader, mut writer) = socket.split();
        // Both at once: a leader that waits until its replies are read does not read requests.
        let sending = async {
            for piece in forward.request.pieces() {
                for part in piece.chunks(READ_BYTES) {
                    writer.write_all(part).await?;
                    progress.set(progress.get() + 1);
                }
            }
            Ok(())
        };
        let receiving = async {
            let mut scan = ReplyScan::default();
            let mut silent = Duration::ZERO;
            while replies.len() < wanted {
                if let Some(len) = scan.advance(input).map_err(io::Error::other)? {
                    replies.push(input.split_to(len).freeze());
                    continue;
                }
                input.reserve(READ_BYTES);
                let before = progress.get();
                match timeout(LOOK, reader.read_buf(input)).await {
                    Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => {
                        read?;
                        silent = Duration::ZERO;
                    }
                    Err(_) if progress.get() > before => silent = Duration::ZERO,
                    Err(_) => {
                        silent += LOOK;
                        let leads = node.with_keeper(|keeper, now, _| {
                            keeper.forwards_to(now).is_none_or(|addr| addr == to.as_str())
                        });
                        if silent >= SILENCE || !leads {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                }
            }
            io::Result::Ok(())
        };
        let result = tokio::try_join!(sending, receiving);
        if let Err(error) = &result {
            tracing::debug!("passing commands on to {to}: {error}");
        }
        let sent_nothing = progress.get() == 0 && replies.is_empty();
        let complete = result.is_ok();
        sort_out(self, forward, replies, complete, sent_nothing)
    }
}

/// Whether a node answered that it does not lead: it has not executed the command.
fn is_redirect(reply: &Bytes) -> bool {
    reply.starts_with(b"-REDIRECT ")
}

/// What the replies that came mean; `complete`: all have come.
fn sort_out(
    mut upstream: Upstream,
    forward: &Forward,
    mut replies: Vec<Bytes>,
    complete: bool,
    sent_nothing: bool,
) -> Outcome {
    if sent_nothing && !complete {
        return Outcome::nothing();
    }
    let mut before: Vec<Bytes> = replies.drain(..forward.before.min(replies.len())).collect();
    let positions = replies.split_off(forward.commands.min(replies.len()));
    let refused = before.iter().chain(&replies).position(is_redirect);
    let Some(refused) = refused else {
        if !complete {
            return Outcome::Unknown { replies };
        }
        let [seen, written] = positions.try_into().expect("all have come");
        let own = written != upstream.written && written.starts_with(b"$") && !written.starts_with(b"$-");
        upstream.written = written.clone();
        return Outcome::Answered { replies, seen, written: own.then_some(written), told: before.pop(), upstream };
    };
    if refused < before.len() {
        // A transaction of which something was not even queued.
        return Outcome::nothing();
    }
    let first = refused - before.len();
    if replies[first..].iter().all(is_redirect) && (complete || replies.len() == forward.commands) {
        replies.truncate(first);
        return Outcome::NotExecuted { replies, seen: positions.into_iter().next() };
    }
    // Between commands that were executed there are some that were not: each has its own answer.
    for reply in replies.iter_mut().filter(|reply| is_redirect(reply)) {
        *reply = Bytes::from_static(b"-TRYAGAIN The leader has changed: the command was not executed\r\n");
    }
    Outcome::Unknown { replies }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Output;

    async fn upstream() -> Upstream {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (to, protocol) = (String::new(), Protocol::Resp2);
        Upstream { socket, to, protocol, input: BytesMut::new(), written: Bytes::from_static(b"$5\r\n0:1:3\r\n") }
    }

    fn forward(before: usize, commands: usize) -> Forward {
        Forward {
            to: String::new(),
            protocol: Protocol::Resp2,
            greeting: Vec::new(),
            greeting_replies: 0,
            request: Output::new(),
            before,
            commands,
            heard: true,
            watched: Watched::No,
        }
    }

    /// What comes of these replies to three commands, or to EXEC behind MULTI and one command: its name, and the replies for the client.
    async fn outcome(before: usize, replies: &[&'static str], complete: bool) -> (&'static str, Vec<Bytes>) {
        let count = if before > 0 { 1 } else { 3 };
        let replies = replies.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        match sort_out(upstream().await, &forward(before, count), replies, complete, false) {
            Outcome::Answered { replies, written: Some(_), .. } => ("written", replies),
            Outcome::Answered { replies, .. } => ("answered", replies),
            Outcome::NotExecuted { replies, .. } => ("not executed", replies),
            Outcome::Unknown { replies } => ("unknown", replies),
            Outcome::WatchLost => ("watch lost", Vec::new()),
        }
    }

    #[tokio::test]
    async fn only_what_was_certainly_not_executed_may_be_tried_again() {
        const MOVED: &str = "-REDIRECT h:1\r\n";
        const SEEN: &str = "$5\r\n0:1:9\r\n";
        const EARLIER: &str = "$5\r\n0:1:3\r\n";
        let cases: &[(usize, &[&'static str], bool, &str, usize)] = &[
            (0, &["+OK\r\n", "+OK\r\n", ":1\r\n", SEEN, SEEN], true, "written", 3),
            (0, &["+OK\r\n", "+OK\r\n", ":1\r\n", SEEN, EARLIER], true, "answered", 3),
            (0, &["+OK\r\n", "+OK\r\n", ":1\r\n", SEEN, "$-1\r\n"], true, "answered", 3),
            (0, &["+OK\r\n", MOVED, MOVED, SEEN, SEEN], true, "not executed", 1),
            (0, &[MOVED, MOVED, MOVED], false, "not executed", 0),
            (0, &["+OK\r\n", MOVED], false, "unknown", 2),
            (0, &[MOVED, "+OK\r\n", MOVED, SEEN, SEEN], true, "unknown", 3),
            (0, &["+OK\r\n"], false, "unknown", 1),
            (0, &[], false, "unknown", 0),
            (2, &["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n", SEEN, SEEN], true, "written", 1),
            (2, &["+OK\r\n", MOVED, "-EXECABORT x\r\n", SEEN, SEEN], true, "not executed", 0),
            (2, &["+OK\r\n", "+QUEUED\r\n", MOVED, SEEN, SEEN], true, "not executed", 0),
            (2, &["+OK\r\n", "+QUEUED\r\n"], false, "unknown", 0),
        ];
        for (before, replies, complete, want, count) in cases {
            let (name, given) = outcome(*before, replies, *complete).await;
            assert_eq!((name, given.len()), (*want, *count), "{replies:?}");
            assert!(!given.iter().any(is_redirect), "a client was given {given:?}");
        }
    }
}
