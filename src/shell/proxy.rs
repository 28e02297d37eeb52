//! Passing commands on to the leader: connections to it, one exchange at a time on each, and what became of each exchange.
//!
//! Replies that mean what they say are for the client at once ([`Early`]), and no more is read from the leader than the client takes: a pipeline of large values
//! piles nothing up here.
//!
//! One pool per client thread. A connection is used by one client at a time, and goes back into the pool once everything on it is answered; one on which
//! a client watches keys stays with that client. A request is sent once. What is known afterwards is one of four things ([`Outcome`]), and only what was
//! certainly not executed is tried again, by the caller.
//!
//! Not here: which commands are passed on and what they mean (`keeper::forward`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
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
pub const CONNECTIONS_MAX: usize = 256;
/// Of them, kept while nobody uses them.
const IDLE_MAX: usize = 64;
/// A leader that says nothing for so long, while something is due from it, is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// A client that takes nothing for so long, while replies wait for it, is not waited for any more.
const STALLED: Duration = Duration::from_secs(60);
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

/// Replies that the client may have while others are still to come: it is certain that they stand.
#[derive(Default)]
pub(super) struct Early {
    replies: RefCell<Vec<Bytes>>,
    /// Replies that were put here, taken out or not.
    given: Cell<usize>,
    bytes: Cell<usize>,
    /// So many bytes may be here before no more are read.
    room: Cell<usize>,
    /// Grows when the client takes something, or something is sent to the leader.
    progress: Cell<u64>,
}

impl Early {
    /// How many replies the client has been given so.
    pub(super) fn given(&self) -> usize {
        self.given.get()
    }

    fn give(&self, reply: Bytes) {
        self.given.set(self.given.get() + 1);
        self.bytes.set(self.bytes.get() + reply.len());
        self.replies.borrow_mut().push(reply);
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> Vec<Bytes> {
        self.bytes.set(0);
        self.replies.take()
    }

    /// Whether the leader's next replies wait until the client has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.get() >= self.room.get()
    }

    pub(super) fn set_room(&self, bytes: usize) {
        self.room.set(bytes);
    }

    /// Something has moved.
    pub(super) fn moved(&self) {
        self.progress.set(self.progress.get() + 1);
    }
}

/// What became of an exchange. Replies are those that the client was not given [`Early`].
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
    pub(super) async fn exchange(
        &self,
        node: &Node,
        forward: &Forward,
        own: Option<Upstream>,
        early: &Early,
    ) -> Outcome {
        let _permit = self.permits.acquire().await;
        if forward.watched == Watched::Ends && own.is_none() {
            return Outcome::WatchLost;
        }
        let fitting = |upstream: &Upstream| upstream.to == forward.to && upstream.protocol == forward.protocol;
        let upstream = match own.or_else(|| self.take(fitting)) {
            Some(upstream) => upstream,
            None => match Upstream::connect(node, forward).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    tracing::debug!("cannot pass commands on to {}: {error}", forward.to);
                    return Outcome::nothing();
                }
            },
        };
        upstream.exchange(node, forward, early).await
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
    /// Gives up once another node leads: who stands still is connected to as well.
    async fn connect(node: &Node, forward: &Forward) -> io::Result<Upstream> {
        let mut greeted = pin!(Upstream::greet(forward));
        let mut silent = Duration::ZERO;
        while silent < SILENCE && !is_superseded(node, &forward.to) {
            match timeout(LOOK, &mut greeted).await {
                Ok(greeted) => return greeted,
                Err(_) => silent += LOOK,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn greet(forward: &Forward) -> io::Result<Upstream> {
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

    async fn exchange(mut self, node: &Node, forward: &Forward, early: &Early) -> Outcome {
        let wanted = forward.before + forward.commands + 2;
        let each_by_itself = forward.heard && forward.before == 0 && forward.watched == Watched::No;
        let mut replies: Vec<Bytes> = Vec::new();
        let progress_before = early.progress.get();
        let Upstream { socket, input, to, .. } = &mut self;
        let (mut reader, mut writer) = socket.split();
        // Both at once: a leader that waits until its replies are read does not read requests.
        let sending = async {
            for piece in forward.request.pieces() {
                for part in piece.chunks(READ_BYTES) {
                    writer.write_all(part).await?;
                    early.moved();
                }
            }
            Ok(())
        };
        let receiving = async {
            let mut scan = ReplyScan::default();
            let mut silent = Duration::ZERO;
            while early.given() + replies.len() < wanted {
                if let Some(len) = scan.advance(input).map_err(io::Error::other)? {
                    let reply = input.split_to(len).freeze();
                    let stands = each_by_itself && replies.is_empty() && !is_redirect(&reply);
                    if stands && early.given() < forward.commands {
                        early.give(reply);
                    } else {
                        replies.push(reply);
                    }
                    continue;
                }
                input.reserve(READ_BYTES);
                let before = early.progress.get();
                let read = async {
                    // Whoever makes room polls again.
                    poll_fn(|_| if early.is_full() { Poll::Pending } else { Poll::Ready(()) }).await;
                    reader.read_buf(input).await
                };
                match timeout(LOOK, read).await {
                    Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => {
                        read?;
                        silent = Duration::ZERO;
                    }
                    Err(_) if early.progress.get() > before => silent = Duration::ZERO,
                    Err(_) if early.is_full() => {
                        silent += LOOK;
                        if silent >= STALLED {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                    Err(_) => {
                        silent += LOOK;
                        if silent >= SILENCE || is_superseded(node, to) {
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
        let sent_nothing = early.progress.get() == progress_before && early.given() == 0 && replies.is_empty();
        let complete = result.is_ok();
        sort_out(self, forward, early.given(), replies, complete, sent_nothing)
    }
}

/// Whether another node leads than the one at this address.
fn is_superseded(node: &Node, addr: &str) -> bool {
    node.with_keeper(|keeper, now, _| keeper.is_superseded(now, addr))
}

/// Whether a node answered that it does not lead: it has not executed the command.
fn is_redirect(reply: &Bytes) -> bool {
    reply.starts_with(b"-REDIRECT ")
}

/// What the replies that came mean, after those that were `given` to the client; `complete`: all have come.
fn sort_out(
    mut upstream: Upstream,
    forward: &Forward,
    given: usize,
    mut replies: Vec<Bytes>,
    complete: bool,
    sent_nothing: bool,
) -> Outcome {
    if sent_nothing && !complete {
        return Outcome::nothing();
    }
    let mut before: Vec<Bytes> = replies.drain(..forward.before.min(replies.len())).collect();
    let commands = forward.commands - given;
    let positions = replies.split_off(commands.min(replies.len()));
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
    if replies[first..].iter().all(is_redirect) && (complete || replies.len() == commands) {
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
            tracked: false,
            watched: Watched::No,
        }
    }

    /// What comes of these replies to three commands, or to EXEC behind MULTI and one command: its name, and the replies for the client.
    async fn outcome(before: usize, replies: &[&'static str], complete: bool) -> (&'static str, Vec<Bytes>) {
        let count = if before > 0 { 1 } else { 3 };
        let replies = replies.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        match sort_out(upstream().await, &forward(before, count), 0, replies, complete, false) {
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
