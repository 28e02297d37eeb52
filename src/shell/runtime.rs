//! The threads of a node, and the acceptor that spreads clients over them.
//!
//! One tokio `current_thread` runtime per thread: no work stealing, nothing `Send` on the hot path, scratch buffers without
//! locks. One listener, whose sockets go to the thread with the fewest: `SO_REUSEPORT` spreads unevenly and hides a server
//! that was left running on the same port.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::client_conn::{FULL, Worker};
use super::node::Node;

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 1024;
/// A client from which nothing was heard for this long is asked whether it is still there.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(300);
/// Pause after the system refused a socket: it has none left, and asking again at once would not find one.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A client's socket on its way to its thread.
pub(super) struct Arrival {
    pub(super) socket: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// It came to the Sentinel port.
    pub(super) at_sentinel: bool,
}

/// Takes a port. `SO_REUSEADDR` lets a restarted node have the port of the one before; a port in use is still refused.
///
/// # Errors
/// The operating system's; the operator acts.
pub(super) fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Raises this process's soft limit of open files to the hard one, as Redis does: a shell's usual 1,024 would bound the number
/// of clients. Returns the limit that holds now; none if there is none.
pub fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    match rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current, // may always be raised to the hard limit; if not, what holds is what was
    }
}

/// Starts a thread that runs `body` on a runtime of its own until it ends or the node is over, then drops all its tasks.
///
/// # Errors
/// The operating system refused the thread or the runtime.
pub(super) fn spawn<F, Fut>(
    name: &str,
    span: tracing::Span,
    over: CancellationToken,
    body: F,
) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _node = span.entered(); // once per thread: what any task logs names the node
        // A local runtime cannot leave the thread that it is made on.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        match builder.enable_io().enable_time().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                drop(tell); // nothing went wrong
                runtime.block_on(async { over.run_until_cancelled(body()).await });
                runtime.shutdown_background(); // a name that is still being looked up is not waited for
            }
            Err(error) => tell.send(error).unwrap_or_default(),
        }
    })?;
    told.recv().map_or(Ok(thread), Err)
}

/// Serves the clients that are sent to one thread, for as long as the node lives.
pub(super) async fn serve_clients(node: Arc<Node>, index: usize, mut arrivals: UnboundedReceiver<Arrival>) {
    let worker = Rc::new(Worker::new(node.clone(), index));
    let postman = worker.clone();
    tokio::task::spawn_local(async move { node.posts[index].run(postman).await });
    tokio::task::spawn_local(worker.clone().run_joined_batches());
    while let Some(arrival) = arrivals.recv().await {
        tokio::task::spawn_local(worker.clone().serve(arrival));
    }
}

/// Accepts clients and sends each to the thread that has the fewest, for as long as the node lives. Those that are too many are turned away here, before
/// they wait for a thread: each has an open file, and files are kept for other things.
pub(super) async fn accept_clients(node: Arc<Node>, listener: TcpListener, at_sentinel: bool) {
    accept(&listener, "client", |mut socket, peer| {
        if node.clients() >= node.clients_max {
            node.with_keeper(|keeper, _, _| keeper.count_rejected());
            tracing::warn!(%peer, "a client was turned away: {} are connected", node.clients_max);
            let _ = socket.write(FULL); // a new socket has room for that
            return;
        }
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        if let Err(error) = SockRef::from(&socket).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%peer, "no keep-alive: {error}");
        }
        if let Some(post) = node.posts.iter().rev().min_by_key(|post| post.load()) {
            post.send(Arrival { socket, peer, at_sentinel });
        }
    })
    .await;
}

/// Accepts for ever; a socket that the system refuses costs a pause, not the listener. `NODELAY` is set.
pub(super) async fn accept(listener: &TcpListener, whom: &str, mut take: impl FnMut(std::net::TcpStream, SocketAddr)) {
    let mut refused = 0_u64;
    loop {
        let accepted = match listener.accept().await {
            Ok((socket, peer)) => {
                socket.set_nodelay(true).and_then(|()| socket.into_std()).map(|socket| (socket, peer))
            }
            Err(error) => Err(error),
        };
        match accepted {
            Ok((socket, peer)) => {
                if refused > 0 {
                    tracing::warn!("{whom} sockets are accepted again, after {refused} refusals");
                    refused = 0;
                }
                take(socket, peer);
            }
            Err(error) if is_the_peers(&error) => tracing::debug!("a {whom} left before it was accepted: {error}"),
            Err(error) => {
                if refused == 0 {
                    tracing::warn!("cannot accept a {whom}, trying again every {REFUSED_PAUSE:?}: {error}");
                }
                refused += 1;
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

/// Whether an accept failed for a reason that concerns this one socket only.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected)
}
