//! Replication links: frames in, bytes out, one task per link on thread 0.
//!
//! ```text
//!   Dial ─► connect ─► link_open ─► LinkUp ┐
//!   pulse thread ─► first frame was open ──┴► table ─► task: writer ┬─ poll_link under the lock, write outside, until Idle
//!                                                            reader └─ one read, all its whole frames under one lock
//! ```
//! The writer is woken by the first append of a tick and yields once before it asks the Keeper, so that all connections that
//! are ready run first and their entries leave in one write; the replica acknowledges alike, once per read. Bytes wait in the
//! Keeper, not here: a peer that does not read costs one turn of [`LINK_BYTES_PER_TURN`] and the kernel's buffers.
//!
//! Not here: whether a peer is alive. The Keeper hangs up; and so does the kernel, which needs no lock, when a peer answers nothing for
//! [`LINK_SILENT_MS`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::node::Node;
use crate::base::ids::LinkId;
use crate::base::limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX, LINK_BYTES_PER_TURN, LINK_SILENT_MS};
use crate::keeper::{Event, LinkPoll};
use crate::replication::wire;

/// A peer that does not answer the dial in this time counts as unreachable.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What a link still has to say when it is hung up must be gone in this time.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Read at once; also the room that a read begins with.
const READ_BYTES: usize = FRAME_BYTES_MAX;
/// Pieces given to one system call at most.
const SLICES_MAX: usize = 64;

const _: () = assert!(LINK_BYTES_PER_TURN >= FRAME_BYTES_MAX);

/// The framing of links and pulses.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX + FRAME_HEADER_BYTES_MAX).new_codec()
}

/// Has the kernel find out that a peer is gone: by probes while nothing is said, and by what is not acknowledged. As patient as the Keeper is with
/// a link beside which pulses are heard: a peer whose lock is held reads nothing for a while, and lives.
pub(super) fn watch(socket: &TcpStream) {
    const PROBE: Duration = Duration::from_secs(1);
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
    let set = socket.set_tcp_keepalive(&probes);
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(Duration::from_millis(LINK_SILENT_MS))));
    if let Err(error) = set {
        tracing::warn!("the kernel will not tell when a peer of this connection is gone: {error}");
    }
}

/// 16 bytes of the operating system's randomness.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap_or_else(|error| panic!("no randomness from the operating system: {error}"));
    bytes
}

/// One open link as the threads see it.
#[derive(Default)]
struct Link {
    /// The Keeper has bytes for it, or wants it closed.
    wake: Notify,
    /// It shall be closed when all is said.
    hang_up: Notify,
    sends: AtomicU64,
}

/// The open links of a node.
#[derive(Default)]
pub(super) struct LinkTable {
    links: Mutex<BTreeMap<LinkId, Arc<Link>>>,
    /// Writes of links that are closed.
    sends: AtomicU64,
}

impl LinkTable {
    /// Wakes a link's writer. A link that is not open yet asks the Keeper by itself when it is.
    pub(super) fn wake(&self, link: LinkId) {
        if let Some(link) = self.links.lock().get(&link) {
            link.wake.notify_one();
        }
    }

    /// Closes a link when all is said. Runs on thread 0.
    pub(super) fn hang_up(&self, link: LinkId) {
        if let Some(link) = self.links.lock().get(&link) {
            link.hang_up.notify_one();
        }
    }

    /// Dials a peer; the Keeper hears `LinkUp` or `LinkDown`. Runs on thread 0.
    pub(super) fn dial(&self, node: &Arc<Node>, id: LinkId, addr: String) {
        let link = self.open(id);
        let node = node.clone();
        tokio::task::spawn_local(async move {
            let connected = tokio::select! {
                biased; // hung up while dialling: nothing was said, nothing is owed
                () = link.hang_up.notified() => Ok(None),
                connected = connect(&addr) => connected.map(Some),
            };
            match connected {
                Ok(Some(socket)) => {
                    node.handle(Event::LinkUp { link: id, nonce: random() });
                    run(&node, id, &link, socket).await;
                }
                Ok(None) => node.links.close(id),
                Err(error) => {
                    node.links.close(id);
                    node.handle(Event::LinkDown { link: id, reason: format!("{addr}: {error}") });
                }
            }
        });
    }

    /// How often bytes were written to links so far, closed ones included: the cost of replication in system calls.
    pub(super) fn sends(&self) -> u64 {
        let open: u64 = self.links.lock().values().map(|link| link.sends.load(Ordering::Relaxed)).sum();
        open + self.sends.load(Ordering::Relaxed)
    }

    /// Whether every link is closed.
    pub(super) fn is_empty(&self) -> bool {
        self.links.lock().is_empty()
    }

    fn open(&self, id: LinkId) -> Arc<Link> {
        let link = Arc::<Link>::default();
        let former = self.links.lock().insert(id, link.clone());
        assert!(former.is_none(), "link {id} was opened twice");
        link
    }

    fn close(&self, id: LinkId) {
        if let Some(link) = self.links.lock().remove(&id) {
            self.sends.fetch_add(link.sends.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Takes over the incoming links that the pulse thread has identified, for as long as the node lives. Runs on thread 0.
pub(super) async fn run_accepted(node: Arc<Node>, mut accepted: UnboundedReceiver<std::net::TcpStream>) {
    while let Some(socket) = accepted.recv().await {
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("cannot serve a link: {error}");
                continue;
            }
        };
        watch(&socket);
        let token = u128::from_le_bytes(random());
        let id = node.with_keeper(|keeper, now, effects| keeper.link_accepted(now, random(), token, effects));
        let link = node.links.open(id);
        let node = node.clone();
        tokio::task::spawn_local(async move { run(&node, id, &link, socket).await });
    }
}

async fn connect(addr: &str) -> io::Result<TcpStream> {
    let dial = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        watch(&socket);
        socket.write_all(&wire::link_open()).await?;
        io::Result::Ok(socket)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, dial).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Runs an open link to its end, which the Keeper hears of unless it wanted it.
async fn run(node: &Arc<Node>, id: LinkId, link: &Link, mut socket: TcpStream) {
    let (reader, writer) = socket.split();
    let hung_up = Rc::new(std::cell::Cell::new(false));
    let deadline = async {
        link.hang_up.notified().await;
        hung_up.set(true);
        link.wake.notify_one();
        tokio::time::sleep(FLUSH_TIMEOUT).await;
    };
    let reason = tokio::select! {
        biased; // the end first; then acknowledgements and entries out, which others wait for; both yield after each turn
        () = deadline => None,
        end = write(node, id, link, writer, &hung_up) => end.err(),
        error = read(node, id, reader) => Some(error),
    };
    node.links.close(id);
    if let Some(reason) = reason
        && !hung_up.get()
    {
        node.handle(Event::LinkDown { link: id, reason });
    }
}

/// Writes what the Keeper has for the link, until it is hung up and all is said, or the Keeper does not know it.
async fn write(
    node: &Node,
    id: LinkId,
    link: &Link,
    mut socket: WriteHalf<'_>,
    hung_up: &std::cell::Cell<bool>,
) -> Result<(), String> {
    let mut pieces = Vec::new();
    loop {
        let poll = node.with_keeper(|keeper, now, _| keeper.poll_link(now, id, &mut pieces));
        if !pieces.is_empty() {
            write_pieces(&mut socket, pieces.drain(..).collect(), &link.sends)
                .await
                .map_err(|error| error.to_string())?;
        }
        match poll {
            LinkPoll::More => tokio::task::yield_now().await, // the reader's turn
            LinkPoll::Gone => return Ok(()),
            LinkPoll::Idle if hung_up.get() => return Ok(()),
            LinkPoll::Idle => {
                link.wake.notified().await;
                tokio::task::yield_now().await; // the tick's other connections first
            }
        }
    }
}

async fn write_pieces(socket: &mut WriteHalf<'_>, mut pieces: VecDeque<Bytes>, sends: &AtomicU64) -> io::Result<()> {
    while !pieces.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = pieces.len().min(SLICES_MAX);
        for (slice, piece) in slices.iter_mut().zip(&pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut written = socket.write_vectored(&slices[..count]).await?;
        sends.fetch_add(1, Ordering::Relaxed);
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(piece) = pieces.front_mut() {
            let part = written.min(piece.len());
            piece.advance(part);
            written -= part;
            if piece.has_remaining() {
                break;
            }
            pieces.pop_front();
        }
    }
    Ok(())
}

/// Reads until the link breaks; says why it did.
async fn read(node: &Node, id: LinkId, mut socket: ReadHalf<'_>) -> String {
    let mut codec = codec();
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    loop {
        input.reserve(READ_BYTES);
        match socket.read_buf(&mut input).await {
            Ok(0) => return "closed by the peer".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let broken = loop {
            match codec.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame.freeze()),
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if !frames.is_empty() {
            node.with_keeper(|keeper, now, effects| {
                for frame in frames.drain(..) {
                    keeper.handle(now, Event::LinkFrame { link: id, frame }, effects);
                }
            });
        }
        if let Some(reason) = broken {
            return reason;
        }
        tokio::task::yield_now().await; // the writer's turn
    }
}
