//! One client connection: bytes in, one batch at a time through the Keeper, replies out.
//!
//! ```text
//!            ┌──────── read ≤ 64 KiB ◄───────────────────────────────────────────┐
//!            ▼                                                                   │ nothing to execute,
//!   parser.advance ─► batch ─► lock · execute · unlock ─► unsent ─► one write ───┘ little unsent
//!                       ▲          │ Wait: keep the batch     ▲
//!                       └── Resume ┘ Again: yield             └─ Release: held replies may leave
//! ```
//! Replies that nothing stands before, and that wait for nobody, are written as soon as they are there and never come to `unsent`. A small
//! batch that is all that has come is executed and answered with those of other connections, outside this task (`joined`).
//! Each turn of the task does the first of these that it can, in this order: close if told to; send what may leave (it frees
//! memory, and somebody waits for it); take a joined batch back; fetch what was published, if little is unsent; go on with a batch that waited; read. Reading goes on while replies are held, up to
//! `OUTPUT_BYTES_PAUSE` of them, and for as long as the client takes nothing of them (`pile`); and a little beyond a batch that waits, so that a client that left is noticed. One that only sends nothing more gets
//! its answers first, unless what they wait for may take long.
//!
//! A big bulk is read into a vector of its own that grows with what has arrived, never with what was announced, and has no
//! byte to spare in the end; the Keeper's store takes it over as it is. Buffers are lent by the thread while there is data
//! (`buffers`). A slow or silent client holds nothing but its own queue.
//!
//! What the Keeper says the leader has to execute is sent there and waited for (`proxy`); until its replies are here the connection does nothing else, and so keeps
//! its order.
//!
//! Not here: what a command means, and whether a reply may leave.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::buffers::Buffers;
use super::joined::{self, Joined, Returned, Waiting};
use super::line::Line;
use super::node::Node;
use super::pile::Pile;
use super::post::Letter;
use super::proxy::{Early, Outcome, Pool, Upstream};
use super::runtime::Arrival;
use crate::base::ids::ConnId;
use crate::base::limits::{HOLD_MS, OUTPUT_BYTES_PAUSE, PILE_STEP_BYTES, READ_BYTES_PER_WAKE};
use crate::keeper::{Executed, Figures, Forward, Forwarded, Next, Watched, Work};
use crate::resp::{Batch, Need, Output, Parser, Protocol, ProtocolError, Reply};

/// A read is not begun with less room than this.
const READ_BYTES_MIN: usize = 16 << 10;
/// Read at once into a big bulk, at most.
const BULK_BYTES_PER_READ: usize = 1 << 20;
/// Pause before something is passed on again that the leader did not execute: it may have changed.
const FORWARD_PAUSE: Duration = Duration::from_millis(5);
/// So long it is tried.
const FORWARD_FOR: Duration = Duration::from_millis(HOLD_MS);
/// Answer to what the leader did not execute in that time.
const NOT_FORWARDED: &str = "CLUSTERDOWN The cluster is down: no leader took the command";
/// Answer to what was sent to a leader that was lost before it answered.
const UNKNOWN: &str = "UNKNOWN The leader was lost before it answered: the command may have been executed";
/// After the last reply, what the client still sends is thrown away for this long, lest its reply is lost to a reset.
const LINGER: Duration = Duration::from_millis(200);

/// One client thread's own things; its tasks share it.
pub(super) struct Worker {
    node: Arc<Node>,
    index: usize,
    lines: RefCell<HashMap<ConnId, Rc<Line>>>,
    buffers: RefCell<Buffers>,
    joined: RefCell<Joined>,
    /// The task that runs what has joined.
    runner: RefCell<Option<Waker>>,
    /// Connections to the leader, on which commands are passed on.
    leader: Pool,
}

impl Worker {
    pub(super) fn new(node: Arc<Node>, index: usize) -> Worker {
        Worker {
            node,
            index,
            lines: RefCell::default(),
            buffers: RefCell::default(),
            joined: RefCell::default(),
            runner: RefCell::default(),
            leader: Pool::default(),
        }
    }

    /// Runs what has joined, for as long as the thread lives.
    pub(super) async fn run_joined_batches(self: Rc<Worker>) {
        poll_fn(|cx| {
            *self.runner.borrow_mut() = Some(cx.waker().clone());
            self.run_joined();
            Poll::<()>::Pending
        })
        .await;
    }

    /// Executes what has joined, and sends what may leave.
    fn run_joined(&self) {
        self.joined.borrow_mut().run(&self.node, &self.buffers);
    }

    /// Hands a letter to the connection it is for; one for a connection that is gone is thrown away.
    pub(super) fn hand_out(&self, letter: Letter) {
        let lines = self.lines.borrow();
        let find = |conn| lines.get(&conn).map(Rc::as_ref).into_iter();
        match letter {
            Letter::Release { conn, seq } => find(conn).for_each(|line: &Line| {
                line.released.set(line.released.get().max(seq));
                line.wake();
            }),
            Letter::Resume(conn) => find(conn).for_each(|line: &Line| {
                line.resume.set(true);
                line.wake();
            }),
            Letter::Push(conn) => find(conn).for_each(|line: &Line| {
                line.pushed.set(true);
                line.wake();
            }),
            Letter::Close(conn) => find(conn).for_each(|line: &Line| {
                line.close.set(true);
                line.wake();
            }),
            Letter::CloseIdle(conn) => find(conn).for_each(|line: &Line| {
                line.close_idle.set(true);
                line.wake();
            }),
            Letter::CloseAll => lines.values().for_each(|line| {
                line.close.set(true);
                line.wake();
            }),
        }
    }

    /// Serves one client from its first byte to its last.
    pub(super) async fn serve(self: Rc<Worker>, arrival: Arrival) {
        let peer = arrival.peer;
        // A `let` on its own: what `match` or `if let` looks at would keep its room in the task beside what is moved out of it.
        let Some(mut client) = Client::greet(&self, arrival) else {
            return self.node.posts[self.index].gone();
        };
        let why = client.run().await;
        tracing::debug!(conn = client.conn.0, %peer, "client gone: {why}");
        drop(client);
        self.node.posts[self.index].gone();
    }
}

/// What is being done with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is none.
    Idle,
    /// Execute it from this command on.
    Execute(usize),
    /// The same, once `Resume` has come.
    Wait(usize),
    /// Pass on what the Keeper made of the commands from this one on.
    Forward(usize),
}

/// What a turn of the task brought.
enum News {
    Close,
    Sent,
    Pushed,
    Resume,
    /// The batch may go on: the client does not read, so what it gets piles up.
    Stands,
    Returned(Box<Returned>),
    Read(usize),
}

/// A big bulk that is being read.
struct Bulk {
    bytes: Vec<u8>,
    len: usize,
}

struct Client {
    worker: Rc<Worker>,
    conn: ConnId,
    line: Rc<Line>,
    socket: OwnedReadHalf,
    parser: Parser,
    /// What the Keeper said last; the parser's limits follow it.
    trusted: bool,
    /// The batch's bytes, then whatever came after. Without capacity while the connection is idle.
    input: Vec<u8>,
    /// Bytes at the front of `input` that belong to `batch`.
    consumed: usize,
    /// Whether bytes have come that the parser has not seen.
    unparsed: bool,
    /// Lent, like `input`.
    batch: Batch,
    turn: Turn,
    bulk: Option<Bulk>,
    /// What the client did wrong after the batch; answered behind it.
    offence: Option<ProtocolError>,
    /// The client sends nothing more, and the batch that waits goes on all the same.
    read_all: bool,
    /// Nothing is read any more: the connection closes when all is sent.
    ending: bool,
    /// Bytes that came, and that were handed to `unsent`, of which the Keeper was not told yet.
    uncounted: (u64, u64),
    /// What waits for the client, while that is much.
    pile: Option<Box<Pile>>,
    /// What the proxy needs to know, if this connection has ever needed it.
    proxied: Option<Box<Proxied>>,
}

/// What of this client goes through this node to the leader.
#[derive(Default)]
struct Proxied {
    /// To be passed on.
    forward: Option<Box<Forward>>,
    /// The connection on which it watches keys, and nothing else is sent but WATCH and EXEC.
    own: Option<Upstream>,
    /// There was one, which is gone: whatever is watched on another, EXEC has to find that something changed.
    watch_lost: bool,
    /// Since when the present commands are tried, without success.
    since: Option<Instant>,
}

/// What a client is told for whom there is no room.
pub(super) const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

impl Client {
    /// Makes the connection known to the Keeper; none, and the client is told so, if there are too many.
    fn greet(worker: &Rc<Worker>, Arrival { socket, peer, at_sentinel }: Arrival) -> Option<Client> {
        let posts = &worker.node.posts;
        let conn = ConnId((posts[worker.index].next_given() + 1) * posts.len() as u64 + worker.index as u64);
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%peer, "cannot serve the client: {error}");
                return None;
            }
        };
        let local = socket.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let figures = Arc::new(Figures::new(socket.as_raw_fd()));
        let (welcome, trusted, stopping) = worker.node.with_keeper(|keeper, now, _| {
            let welcome = match at_sentinel {
                false => keeper.client_connected(now, conn, peer.to_string(), local),
                true => keeper.sentinel_client_connected(now, conn, peer.to_string(), local),
            };
            keeper.client_figures(conn, figures.clone());
            (welcome, keeper.is_trusted(conn), keeper.is_stopping())
        });
        if !welcome {
            // A node that stops is as if nobody listened any more, which is so in a moment.
            if !stopping {
                tracing::warn!("a client was turned away: as many are connected as may be");
                let _ = socket.try_write(FULL); // a new socket has room for that
            }
            return None;
        }
        let (socket, write_half) = socket.into_split();
        let line = Rc::new(Line::new(write_half, figures));
        worker.lines.borrow_mut().insert(conn, line.clone());
        let mut parser = Parser::new();
        parser.set_trusted(trusted);
        Some(Client {
            worker: worker.clone(),
            conn,
            line,
            socket,
            parser,
            trusted,
            input: Vec::new(),
            consumed: 0,
            unparsed: false,
            batch: Batch::default(),
            turn: Turn::Idle,
            bulk: None,
            offence: None,
            read_all: false,
            ending: false,
            uncounted: (0, 0),
            pile: None,
            proxied: None,
        })
    }

    /// Runs the connection to its end; says why it ended.
    async fn run(&mut self) -> String {
        loop {
            self.tell_pile();
            self.note_input();
            let piles_up = self.pile.as_ref().is_some_and(|pile| pile.stands());
            if let Turn::Execute(from) = self.turn
                && (self.line.unsent_bytes() < OUTPUT_BYTES_PAUSE || piles_up && !self.line.close.get())
            {
                self.execute(from);
                if matches!(self.turn, Turn::Execute(_)) || piles_up {
                    tokio::task::yield_now().await; // a slice: the others first
                }
                continue;
            }
            if let Turn::Forward(from) = self.turn {
                if let Err(why) = Box::pin(self.pass_on(from)).await {
                    return why;
                }
                continue;
            }
            if self.ending && self.line.unsent.borrow().is_empty() {
                self.linger().await;
                return "done".to_owned();
            }
            match poll_fn(|cx| self.poll_news(cx)).await {
                Ok(News::Close) => return "told to close".to_owned(),
                Ok(News::Sent) => self.pile.iter_mut().for_each(|pile| pile.moved()),
                Ok(News::Stands) => {}
                Ok(News::Pushed) => self.take_pushed(),
                Ok(News::Resume) => {
                    if let Turn::Wait(from) = self.turn {
                        self.turn = Turn::Execute(from);
                    }
                }
                Ok(News::Returned(returned)) => self.take_back(*returned),
                Ok(News::Read(bytes)) => {
                    self.uncounted.0 += bytes as u64;
                    self.unparsed |= bytes > 0;
                    self.note_input();
                    if self.line.joined.get() {
                        self.worker.run_joined();
                        if let Some(returned) = self.line.returned.take() {
                            self.take_back(*returned);
                        }
                    }
                    match self.turn {
                        Turn::Wait(_) if bytes == 0 && self.goes_on_soon() => self.read_all = true,
                        Turn::Idle | Turn::Wait(_) if bytes == 0 && !self.line.joined.get() => self.end(),
                        Turn::Idle if self.unparsed => self.take_in(),
                        _ => {} // the end of a stream can be read again
                    }
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    /// The first thing that can be done now, in the order the file's header argues.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<News>> {
        self.line.register(cx.waker());
        if self.line.close.get() {
            return Poll::Ready(Ok(News::Close));
        }
        if self.line.may_leave()
            && let Poll::Ready(sent) = self.line.poll_write(cx, &self.worker.buffers)
        {
            return Poll::Ready(sent.map(|()| News::Sent));
        }
        if let Some(returned) = self.line.returned.take() {
            return Poll::Ready(Ok(News::Returned(returned)));
        }
        if self.line.pushed.get() && !self.ending && self.line.unsent_bytes() < OUTPUT_BYTES_PAUSE {
            return Poll::Ready(Ok(News::Pushed));
        }
        if matches!(self.turn, Turn::Wait(_)) && self.line.resume.take() {
            return Poll::Ready(Ok(News::Resume));
        }
        let room = self.has_room(cx);
        if room && matches!(self.turn, Turn::Execute(_)) {
            return Poll::Ready(Ok(News::Stands));
        }
        if room && self.may_read() {
            let read = self.poll_read(cx).map_ok(News::Read);
            if read.is_pending() && self.line.close_idle.get() && self.is_idle() {
                return Poll::Ready(Ok(News::Close));
            }
            return read;
        }
        Poll::Pending
    }

    /// Whether nothing is outstanding: all that came is answered and sent.
    fn is_idle(&self) -> bool {
        let nothing_unsent = self.line.unsent.borrow().is_empty() && !self.line.joined.get();
        self.turn == Turn::Idle && nothing_unsent && self.input.is_empty() && self.bulk.is_none()
    }

    fn goes_on_soon(&self) -> bool {
        self.worker.node.with_keeper(|keeper, _, _| keeper.goes_on_soon(self.conn))
    }

    /// Whether more may wait for the client: little does, or it does not read. What is held for the Keeper says nothing about the client.
    fn has_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.line.unsent_bytes() < OUTPUT_BYTES_PAUSE {
            return true;
        }
        self.line.may_leave() && self.pile.get_or_insert_default().poll_stands(cx)
    }

    /// Shows how much has come that is not executed; a joined batch shows itself until it is.
    fn note_input(&self) {
        let bulk = self.bulk.as_ref().map_or((0, 0), |bulk| (bulk.bytes.len(), bulk.bytes.capacity()));
        let (received, room) = (self.input.len() + bulk.0, self.input.capacity() + bulk.1);
        let joined = if self.line.joined.get() { self.line.figures.received() } else { 0 };
        self.line.figures.note_input(received.max(joined), room - received);
    }

    /// Tells the Keeper how much waits for the client, if that has changed by much; it may close the connection for that.
    fn tell_pile(&mut self) {
        let unsent = self.line.unsent_bytes();
        if unsent < PILE_STEP_BYTES && self.pile.is_none() {
            return;
        }
        if self.pile.get_or_insert_default().tells(unsent) {
            let node = &self.worker.node;
            node.with_keeper(|keeper, now, effects| keeper.replies_wait(now, self.conn, unsent, effects));
        }
        if unsent == 0 {
            self.pile = None;
        }
    }

    fn may_read(&self) -> bool {
        let room = match self.turn {
            Turn::Idle => true,
            Turn::Execute(_) | Turn::Forward(_) => false,
            Turn::Wait(_) if self.read_all => false,
            Turn::Wait(_) => match &self.bulk {
                Some(bulk) => bulk.bytes.len() < bulk.len,
                None => self.input.len() - self.consumed < READ_BYTES_PER_WAKE,
            },
        };
        room && !self.ending && self.offence.is_none()
    }

    /// One read, into the bulk or into a lent buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = if let Some(Bulk { bytes, len }) = &mut self.bulk {
            let missing = *len - bytes.len();
            if bytes.capacity() == bytes.len() {
                bytes.reserve_exact(missing.min(bytes.len().max(READ_BYTES_PER_WAKE)));
            }
            let room = (bytes.capacity() - bytes.len()).min(missing).min(BULK_BYTES_PER_READ);
            pin!(self.socket.read_buf(&mut bytes.limit(room))).poll(cx)
        } else {
            if self.input.capacity() < READ_BYTES_PER_WAKE {
                let mut lent = self.worker.buffers.borrow_mut().input();
                lent.extend_from_slice(&self.input);
                self.input = lent;
            } else if self.input.capacity() - self.input.len() < READ_BYTES_MIN {
                self.input.reserve(READ_BYTES_PER_WAKE); // doubles at least
            }
            let room = (self.input.capacity() - self.input.len()).min(READ_BYTES_PER_WAKE);
            pin!(self.socket.read_buf(&mut (&mut self.input).limit(room))).poll(cx)
        };
        if read.is_pending() {
            self.give_back_room();
            self.note_input();
        }
        read
    }

    /// Nothing has come: a lent buffer goes back, and what is left over in it is kept in as many bytes as it takes.
    fn give_back_room(&mut self) {
        if self.input.len() < self.input.capacity() / 4 {
            let left_over = self.input.as_slice().to_vec();
            let lent = std::mem::replace(&mut self.input, left_over);
            self.worker.buffers.borrow_mut().take_input(lent);
        }
        if let Some(Bulk { bytes, .. }) = &mut self.bulk
            && bytes.len() < READ_BYTES_MIN
        {
            bytes.shrink_to_fit();
        }
    }

    /// Parses what has come: a batch to execute, a big bulk to read, an offence, or nothing whole yet.
    fn take_in(&mut self) {
        if let Some(bulk) = self.bulk.take_if(|bulk| bulk.bytes.len() == bulk.len) {
            self.parser.supply_bulk(Bytes::from(bulk.bytes));
        }
        if self.bulk.is_some() {
            return;
        }
        self.unparsed = false;
        self.batch = self.worker.buffers.borrow_mut().batch();
        match self.parser.advance(&self.input, &mut self.batch) {
            Ok(progress) => {
                self.consumed = progress.consumed;
                self.unparsed = progress.need == Need::Nothing && progress.consumed < self.input.len(); // a full batch
                if let Need::Bulk { len, have } = progress.need {
                    let mut bytes = Vec::new();
                    bytes.reserve_exact(len.min(have.max(READ_BYTES_PER_WAKE)));
                    bytes.extend_from_slice(&self.input[self.input.len() - have..]);
                    self.input.truncate(self.input.len() - have);
                    self.bulk = Some(Bulk { bytes, len });
                }
            }
            Err(offence) => self.offence = Some(offence),
        }
        if self.batch.is_empty() {
            self.batch_done();
        } else if self.may_join() {
            self.join();
        } else {
            self.turn = Turn::Execute(0);
        }
    }

    /// Whether the batch can be executed outside this task: it is small and all that has come, and concerns nobody but the Keeper.
    fn may_join(&self) -> bool {
        self.consumed == self.input.len()
            && self.input.len() <= joined::BYTES_MAX
            && self.batch.len() <= joined::COMMANDS_MAX
            && self.trusted
            && self.bulk.is_none()
            && self.offence.is_none()
            && self.proxied.is_none()
    }

    /// Hands the batch over, to be executed with those of other connections.
    fn join(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let uncounted = std::mem::take(&mut self.uncounted);
        let waiting = self.worker.joined.borrow_mut().push(self.conn, &self.line, batch, &self.input, uncounted);
        self.input.clear();
        self.consumed = 0;
        match waiting {
            Waiting::First => self.worker.runner.borrow().iter().for_each(Waker::wake_by_ref),
            Waiting::More => {}
            Waiting::Enough => self.worker.run_joined(),
        }
    }

    /// Goes on with a batch that was executed with others, if it needs that.
    fn take_back(&mut self, Returned { executed, batch, mut input }: Returned) {
        self.batch = batch;
        self.consumed = input.len();
        input.extend_from_slice(&self.input);
        self.input = input;
        self.go_on(0, executed);
    }

    /// Lets the Keeper execute the batch from one command on.
    fn execute(&mut self, from: usize) {
        let mut output = self.worker.buffers.borrow_mut().output();
        let executed = self.worker.node.with_keeper(|keeper, now, effects| {
            let work = Work { conn: self.conn, batch: &self.batch, input: &self.input, from, touch: None };
            let executed = keeper.execute(now, work, &mut output, effects);
            let (bytes_in, bytes_out) = std::mem::take(&mut self.uncounted);
            keeper.count_bytes(bytes_in, bytes_out + output.len() as u64);
            executed
        });
        self.line.send(executed.seq, output, &mut self.worker.buffers.borrow_mut());
        self.go_on(from, executed);
    }

    /// Goes on after the batch was executed from a command on.
    fn go_on(&mut self, from: usize, executed: Executed) {
        if self.trusted != executed.trusted {
            self.trusted = executed.trusted;
            self.parser.set_trusted(self.trusted);
        }
        if let Some(forward) = executed.forward {
            self.proxied.get_or_insert_default().forward = Some(forward);
        }
        if let Some(proxied) = &mut self.proxied
            && !executed.watches_elsewhere
        {
            proxied.own = None; // closing it ends its watches
            proxied.watch_lost = false;
        }
        let from = from + executed.commands;
        match executed.next {
            Next::Done => self.batch_done(),
            Next::Wait => {
                self.turn = Turn::Wait(from);
                self.read_all = false; // what it waits for now may take longer
            }
            Next::Again => self.turn = Turn::Execute(from),
            Next::Forward => self.turn = Turn::Forward(from),
            Next::CloseAfter => self.end(),
        }
    }

    /// Passes commands on to the leader, from one on.
    ///
    /// # Errors
    /// Why this connection is over.
    async fn pass_on(&mut self, from: usize) -> Result<(), String> {
        let worker = self.worker.clone();
        let proxied = self.proxied.as_mut().expect("the Keeper said what to pass on");
        let forward = proxied.forward.take().expect("the Keeper said what to pass on");
        let own = proxied.own.take_if(|_| forward.watched != Watched::No);
        let watching = own.is_some();
        let own = own.filter(Upstream::is_alive);
        let own_lives = own.is_some();
        let since = *proxied.since.get_or_insert_with(Instant::now);
        let early = Early::default();
        early.set_room(OUTPUT_BYTES_PAUSE);
        let outcome = {
            let mut exchange = pin!(worker.leader.exchange(&worker.node, &forward, own, &early));
            poll_fn(|cx| {
                self.line.register(cx.waker());
                if self.line.close.get() {
                    return Poll::Ready(Err("told to close".to_owned()));
                }
                loop {
                    if let Poll::Ready(outcome) = exchange.as_mut().poll(cx) {
                        return Poll::Ready(Ok(outcome));
                    }
                    let waits = early.is_full();
                    if let Err(error) = self.send_early(cx, &early) {
                        return Poll::Ready(Err(error.to_string()));
                    }
                    if !waits || early.is_full() {
                        return Poll::Pending;
                    }
                }
            })
            .await?
        };
        let given = early.given();
        let report = |what: Forwarded<'_>| {
            worker.node.with_keeper(|keeper, _, _| keeper.forwarded(self.conn, forward.watched, what));
        };
        let mut output = worker.buffers.borrow_mut().output();
        early.take().iter().for_each(|reply| output.put_encoded_shared(reply));
        let proxied = self.proxied.get_or_insert_default();
        proxied.watch_lost |= watching && (!own_lives || !matches!(outcome, Outcome::Answered { .. }));
        let (replies, error) = match outcome {
            Outcome::Answered { replies, seen, written, told, upstream } => {
                report(Forwarded::Answered { seen: &seen, written: written.as_deref(), told: told.as_deref() });
                match forward.watched {
                    Watched::Begins if proxied.watch_lost => {} // closing it ends its watches
                    Watched::Begins => proxied.own = Some(upstream),
                    Watched::No | Watched::Ends => worker.leader.put(upstream),
                }
                (replies, None)
            }
            Outcome::WatchLost => {
                report(Forwarded::Refused);
                Reply::new(&mut output, forward.protocol).null_array();
                (Vec::new(), None)
            }
            Outcome::NotExecuted { replies, seen } if since.elapsed() < FORWARD_FOR => {
                // The Keeper looks again where to: this node itself may lead by now.
                if forward.heard {
                    replies.iter().for_each(|reply| output.put_encoded_shared(reply));
                }
                let done = given + replies.len();
                if done > 0 {
                    report(Forwarded::InPart { seen: seen.as_deref() });
                }
                self.push(output);
                self.replies_sent(&forward, &early).await?;
                tokio::time::sleep(FORWARD_PAUSE).await;
                self.turn = Turn::Execute(from + done);
                return Ok(());
            }
            Outcome::NotExecuted { replies, .. } => {
                report(Forwarded::Refused);
                (replies, Some(NOT_FORWARDED))
            }
            Outcome::Unknown { replies } => {
                report(Forwarded::Unknown);
                (replies, Some(UNKNOWN))
            }
        };
        replies.iter().for_each(|reply| output.put_encoded_shared(reply));
        if let Some(error) = error {
            let mut reply = Reply::new(&mut output, forward.protocol);
            (given + replies.len()..forward.commands).for_each(|_| reply.error(error));
        }
        if !forward.heard {
            output.clear();
        }
        self.push(output);
        self.replies_sent(&forward, &early).await?;
        self.proxied.get_or_insert_default().since = None;
        self.turn = Turn::Execute(from + forward.commands);
        Ok(())
    }

    /// Tells the Keeper that replies are on their way, if it wants to know.
    async fn replies_sent(&mut self, forward: &Forward, early: &Early) -> Result<(), String> {
        if forward.tracked {
            let sent = poll_fn(|cx| Poll::Ready(self.send_early(cx, early))).await;
            sent.map_err(|error| error.to_string())?;
            self.worker.node.with_keeper(|keeper, _, _| keeper.replies_sent(self.conn));
        }
        Ok(())
    }

    /// Sends what may leave, first of all what has come from the leader meanwhile.
    fn send_early(&mut self, cx: &mut Context<'_>, early: &Early) -> io::Result<()> {
        let replies = early.take();
        if !replies.is_empty() {
            let mut output = self.worker.buffers.borrow_mut().output();
            replies.iter().for_each(|reply| output.put_encoded_shared(reply));
            self.push(output);
        }
        while self.line.may_leave() {
            match self.line.poll_write(cx, &self.worker.buffers) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => break,
            }
            early.moved();
            self.pile.iter_mut().for_each(|pile| pile.moved());
        }
        self.tell_pile();
        // From the leader, too, more is read for a client that does not read.
        let room = match self.line.unsent_bytes() {
            unsent if unsent < OUTPUT_BYTES_PAUSE => OUTPUT_BYTES_PAUSE - unsent,
            _ if self.has_room(cx) => OUTPUT_BYTES_PAUSE,
            _ => 0,
        };
        early.set_room(room);
        Ok(())
    }

    /// Fetches what was published for this client; it stands behind every reply that was written before, held or not.
    fn take_pushed(&mut self) {
        let mut output = self.worker.buffers.borrow_mut().output();
        let node = &self.worker.node;
        let more = node.with_keeper(|keeper, _, _| {
            let more = keeper.take_pushed(self.conn, &mut output, OUTPUT_BYTES_PAUSE);
            keeper.count_bytes(0, output.len() as u64);
            more
        });
        self.line.pushed.set(more);
        self.hand_over(None, output);
    }

    /// The batch is executed: its bytes go; then the offence behind it, or the bytes that came meanwhile.
    fn batch_done(&mut self) {
        self.turn = Turn::Idle;
        self.give_back_batch();
        self.input.drain(..self.consumed);
        self.consumed = 0;
        if let Some(offence) = self.offence.take() {
            tracing::debug!(conn = self.conn.0, "protocol error: {offence}");
            let mut output = self.worker.buffers.borrow_mut().output();
            Reply::new(&mut output, Protocol::Resp2).error(&format!("ERR Protocol error: {offence}"));
            self.push(output);
            self.end();
        } else if self.unparsed {
            self.take_in();
        }
    }

    fn give_back_batch(&mut self) {
        self.worker.buffers.borrow_mut().take_batch(std::mem::take(&mut self.batch));
    }

    /// Queues what was not written by the Keeper, and so is not counted by it yet.
    fn push(&mut self, output: Output) {
        self.uncounted.1 += output.len() as u64;
        self.hand_over(None, output);
    }

    /// Queues replies, held under `seq` if there is one.
    fn hand_over(&mut self, seq: Option<u64>, output: Output) {
        self.line.push(seq, output, &mut self.worker.buffers.borrow_mut());
    }

    /// Nothing is read or executed any more; what is unsent still leaves when it may.
    fn end(&mut self) {
        self.worker.node.with_keeper(|keeper, _, _| keeper.client_ends(self.conn));
        self.ending = true;
        self.turn = Turn::Idle;
        self.bulk = None;
        self.consumed = 0;
        self.give_back_batch();
        let input = std::mem::take(&mut self.input);
        self.worker.buffers.borrow_mut().take_input(input);
    }

    /// A close with unread bytes resets the connection, and the reset may overtake the last reply: read them, for a while.
    async fn linger(&mut self) {
        let mut scratch = self.worker.buffers.borrow_mut().input();
        let _ = tokio::time::timeout(LINGER, async {
            poll_fn(|cx| self.line.poll_shutdown(cx)).await?;
            while self.socket.read_buf(&mut scratch).await? > 0 {
                scratch.clear();
            }
            io::Result::Ok(())
        })
        .await;
        self.worker.buffers.borrow_mut().take_input(scratch);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let over = self.worker.node.over.is_cancelled();
        if self.line.joined.get() && !over {
            self.worker.run_joined(); // what has come is executed, whatever ended the connection
        }
        self.worker.lines.borrow_mut().remove(&self.conn);
        self.give_back_batch();
        self.worker.buffers.borrow_mut().take_input(std::mem::take(&mut self.input));
        if !over {
            let (bytes_in, bytes_out) = self.uncounted;
            self.worker.node.with_keeper(|keeper, _, _| {
                keeper.count_bytes(bytes_in, bytes_out);
                keeper.client_gone(self.conn);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_bytes<F: Future>(_: impl Fn(Rc<Worker>, Arrival) -> F) -> usize {
        size_of::<F>()
    }

    /// Of the 2 KiB that an idle connection may take in all.
    #[test]
    fn a_connections_task_is_small() {
        let bytes = task_bytes(Worker::serve);
        assert!(bytes <= 1_024, "{bytes} bytes");
    }
}
