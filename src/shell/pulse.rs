//! The pulse thread: beats and echoes that a long command cannot hold up.
//!
//! ```text
//!   replication listener ─► first frame ─┬─ open ────────► thread 0's links
//!                                        └─ pulse hello ─► kept here: a beat to each every heartbeat_ms, echoes back
//!   PulseTo (replica) ─► one connection to the leader, dialled again until PulseStop: beats in, echoes out at once
//! ```
//! It takes the `Pulse` lock and never the Keeper's. Only when one hold of that has lasted five seconds does it fall silent, in
//! both directions: a node whose Keeper is stuck must neither keep the lead nor keep a leader in the belief that it follows.
//!
//! Pulses are a hundred bytes each way: one that does not fit into the socket's buffer has met a peer that is not reading, and
//! its connection is closed rather than queued upon.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::Decoder;

use super::clock;
use super::links::{CONNECT_TIMEOUT, codec, watch};
use super::node::{Node, PulseTarget};
use super::runtime::accept;
use crate::replication::wire::{self, Opening};

/// A connection must say in this time what it is for.
const OPENING_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that have not said it yet, at most; the next one is closed.
const OPENING_MAX: usize = 256;
/// Longest first frame: it carries a token at most.
const OPENING_BYTES_MAX: usize = 256;
/// Pause before the leader's pulse port is dialled again: the first, doubled up to the last.
const REDIAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// The incoming pulse connections, by a number of their own, each with the token that it showed.
#[derive(Default)]
struct Followers {
    next: u64,
    open: BTreeMap<u64, (u128, Rc<TcpStream>)>,
}

/// Runs the pulses for as long as the node lives.
pub(super) async fn run(node: Arc<Node>, listener: TcpListener, links: UnboundedSender<std::net::TcpStream>) {
    let followers = Rc::<RefCell<Followers>>::default();
    tokio::task::spawn_local(beat(node.clone(), followers.clone()));
    tokio::task::spawn_local(follow(node.clone()));
    let opening = Rc::new(());
    accept(&listener, "node", |socket, peer| {
        if Rc::strong_count(&opening) > OPENING_MAX {
            tracing::warn!(%peer, "{OPENING_MAX} connections have not said yet what they are for: this one is closed");
            return;
        }
        let (node, links, followers, ticket) = (node.clone(), links.clone(), followers.clone(), opening.clone());
        tokio::task::spawn_local(async move {
            let opened = match TcpStream::from_std(socket) {
                Ok(mut socket) => match timeout(OPENING_TIMEOUT, read_opening(&mut socket)).await {
                    Ok(opened) => opened.map(|opening| (socket, opening)),
                    Err(_) => Err("said nothing".to_owned()),
                },
                Err(error) => Err(error.to_string()),
            };
            drop(ticket);
            match opened {
                Ok((socket, Opening::Link)) => {
                    if let Ok(socket) = socket.into_std() {
                        let _ = links.send(socket); // fails only when the node ends
                    }
                }
                Ok((socket, Opening::Pulse(token))) => echoes(&node, &followers, socket, token).await,
                Err(reason) => tracing::debug!(%peer, "not a node: {reason}"),
            }
        });
    })
    .await;
}

/// Reads the first frame and not a byte more: what follows belongs to the link.
async fn read_opening(socket: &mut TcpStream) -> Result<Opening, String> {
    let length = socket.read_u32().await.map_err(|error| error.to_string())? as usize;
    if length > OPENING_BYTES_MAX {
        return Err(format!("a first frame of {length} bytes, at most {OPENING_BYTES_MAX} are expected"));
    }
    let mut frame = vec![0; length];
    socket.read_exact(&mut frame).await.map_err(|error| error.to_string())?;
    wire::opening(&frame).map_err(|error| error.to_string())
}

/// The leader's side: a beat to every follower, each heartbeat.
async fn beat(node: Arc<Node>, followers: Rc<RefCell<Followers>>) {
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        let now = clock::now();
        let (beat, heartbeat_ms) = {
            let mut pulse = node.pulse.lock();
            (pulse.beat(now), pulse.heartbeat_ms())
        };
        if let Some(beat) = beat
            && !node.is_stuck(now.boot)
        {
            for (token, socket) in followers.borrow().open.values() {
                if !node.pulse.lock().opened(*token) || !send(socket, &beat) {
                    let _ = SockRef::from(&**socket).shutdown(Shutdown::Both); // its task sees the end and takes it out
                }
            }
        }
        next = (next + Duration::from_millis(heartbeat_ms.max(1))).max(Instant::now()); // a late beat is not made up for
    }
}

/// Writes a small frame whole, or says that it could not be.
fn send(socket: &TcpStream, frame: &Bytes) -> bool {
    socket.try_write(frame).is_ok_and(|written| written == frame.len())
}

/// The leader's side of one pulse connection: echoes in, until it ends.
async fn echoes(node: &Node, followers: &RefCell<Followers>, socket: TcpStream, token: u128) {
    if !node.pulse.lock().opened(token) {
        tracing::debug!("a pulse connection showed a token that this node did not give out");
        return;
    }
    if let Some(beat) = node.pulse.lock().beat(clock::now()) {
        send(&socket, &beat); // the first at once: a new leader waits for its leases
    }
    watch(&socket);
    let socket = Rc::new(socket);
    let id = {
        let followers = &mut *followers.borrow_mut();
        followers.next += 1;
        followers.open.insert(followers.next, (token, socket.clone()));
        followers.next
    };
    let taken = |frame: &[u8]| node.pulse.lock().echoed(clock::now(), token, frame).map_err(|error| error.to_string());
    let reason = read_frames(&socket, taken).await;
    tracing::debug!("a follower's pulse connection is over: {reason}");
    followers.borrow_mut().open.remove(&id);
}

/// The replica's side: one connection to the leader that the Keeper names, dialled again whenever it breaks.
async fn follow(node: Arc<Node>) {
    let mut target = node.pulse_to.subscribe();
    loop {
        let to = target.borrow_and_update().clone();
        tokio::select! {
            biased; // another leader makes the present connection void
            changed = target.changed() => if changed.is_err() { return },
            () = async {
                match to {
                    Some(to) => follow_one(&node, &to).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

async fn follow_one(node: &Node, to: &PulseTarget) {
    let mut pause = REDIAL.0;
    loop {
        let connected = timeout(CONNECT_TIMEOUT, async {
            let mut socket = TcpStream::connect(&to.addr).await?;
            socket.set_nodelay(true)?;
            watch(&socket);
            socket.write_all(&wire::pulse_hello(to.token)).await?;
            io::Result::Ok(socket)
        });
        let reason = match connected.await {
            Ok(Ok(socket)) => {
                let mut heard = false;
                let reason = read_frames(&socket, |frame| {
                    let now = clock::now();
                    heard = true;
                    match node.pulse.lock().heard(now, frame).map_err(|error| error.to_string())? {
                        Some(_) if node.is_stuck(now.boot) => Ok(()),
                        Some(echo) if !send(&socket, &echo) => Err("the leader does not read".to_owned()),
                        Some(_) | None => Ok(()),
                    }
                });
                let reason = reason.await;
                if heard {
                    pause = REDIAL.0;
                }
                reason
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        tracing::debug!("pulse connection to {} is over: {reason}", to.addr);
        sleep(pause).await;
        pause = (pause * 2).min(REDIAL.1);
    }
}

/// Gives every frame of a pulse connection to `take` until the connection breaks or `take` refuses; says why.
async fn read_frames(socket: &TcpStream, mut take: impl FnMut(&[u8]) -> Result<(), String>) -> String {
    let mut codec = codec();
    let mut input = BytesMut::new();
    loop {
        if let Err(error) = socket.readable().await {
            return error.to_string();
        }
        input.reserve(1 << 10);
        match socket.try_read_buf(&mut input) {
            Ok(0) => return "closed by the peer".to_owned(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return error.to_string(),
        }
        loop {
            match codec.decode(&mut input) {
                Ok(Some(frame)) => {
                    if let Err(reason) = take(&frame) {
                        return reason;
                    }
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
    }
}
