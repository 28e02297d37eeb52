//! One running node, from its bound ports to its end. The binary, `local`, tests and benches all start nodes here.
//!
//! ```no_run
//! # use datakeeper::{keeper::KeeperConfig, shell::{Coordination, Options, Server, coordination::in_process::InProcess}};
//! let config = KeeperConfig::new("n1".parse().unwrap(), "demo");
//! let server = Server::start(Options::new(config, Coordination::InProcess(InProcess::new()))).expect("loopback ports");
//! println!("redis-cli -p {}", server.client_addr().port());
//! server.stop();
//! ```

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use super::admin::Admin;
use super::coordination::in_process::{InProcess, Seat};
use super::coordination::{CoordError, Coordinator, Events};
use super::node::{Node, SetLogLevel, WriteConfig};
use super::post::Post;
use super::{clock, host, links, process, pulse, runtime, timer};
use crate::base::ids::{CopyId, HashKey, RunId};
use crate::cluster::coordinator::{CoordEvent, CoordRequest};
use crate::keeper::{Event, Keeper, KeeperConfig};
use crate::replication::pulse::{Pulse, PulseCell};

/// How long a graceful end waits for the links to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the coordination service goes on believing in a node that crashed inside this process.
const CRASHED_SESSION: Duration = Duration::from_secs(4);

/// Starts the node's access to the coordination service; its events go to the channel.
pub type StartCoordinator = Box<dyn FnOnce(Events) -> Result<Box<dyn Coordinator>, CoordError> + Send>;

/// Where the node finds its coordination service.
pub enum Coordination {
    /// In this process, shared with the other nodes that hold a clone of it.
    InProcess(InProcess),
    /// Anywhere else.
    Start(StartCoordinator),
}

/// What a node is started with.
pub struct Options {
    /// The Keeper's settings. Overwritten here: `hash_key` and `run` (drawn from the operating system), `started`, `process_id`, `host`, and the two
    /// addresses unless they are advertised.
    pub keeper: KeeperConfig,
    /// Coordination service.
    pub coordination: Coordination,
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` that redirects name; none: the address that was bound.
    pub advertise: Option<String>,
    /// Where other nodes connect; port 0 takes a free one.
    pub repl_listen: SocketAddr,
    /// `host:port` registered for other nodes; none: the address that was bound.
    pub repl_advertise: Option<String>,
    /// Where the node is a Sentinel and nothing else; none: nowhere.
    pub sentinel_listen: Option<SocketAddr>,
    /// `host:port` of that for clients; none: the address that was bound.
    pub sentinel_advertise: Option<String>,
    /// Where operators' HTTP requests come in; none: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Threads that serve clients, at least 1.
    pub threads: usize,
    /// Writes into the configuration file, if there is one: [`KeeperConfig::config_file`].
    pub write_config: Option<WriteConfig>,
    /// Changes what this process logs; none: CONFIG SET `loglevel` has no effect.
    pub set_log_level: Option<SetLogLevel>,
    /// Counts the lines of this process's log that were dropped.
    pub log_dropped: Option<Arc<AtomicU64>>,
}

impl Options {
    /// One thread, free loopback ports, no HTTP.
    #[must_use]
    pub fn new(keeper: KeeperConfig, coordination: Coordination) -> Options {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Options {
            keeper,
            coordination,
            listen: free,
            advertise: None,
            repl_listen: free,
            repl_advertise: None,
            sentinel_listen: None,
            sentinel_advertise: None,
            admin_listen: None,
            threads: 1,
            write_config: None,
            set_log_level: None,
            log_dropped: None,
        }
    }
}

/// Why a node could not start; only the operator can act.
#[derive(Debug)]
pub enum StartError {
    /// A port is taken, or the address is not this machine's.
    Bind {
        /// Key of the configuration that names the address.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
    /// The operating system refused a thread or a runtime.
    Thread(io::Error),
    /// The coordination service cannot be used as configured.
    Coordination(CoordError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { key, addr, error } => write!(f, "{key}: cannot listen on {addr}: {error}"),
            StartError::Thread(error) => write!(f, "cannot start a thread: {error}"),
            StartError::Coordination(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Access to the coordination service, and how it ends when the node crashes.
#[allow(clippy::large_enum_variant)] // one per node
pub(super) enum Access {
    InProcess(Box<Seat>),
    Other(Box<dyn Coordinator>),
}

impl Access {
    pub(super) fn submit(&self, request: CoordRequest) {
        match self {
            Access::InProcess(seat) => seat.submit(request),
            Access::Other(coordinator) => coordinator.submit(request),
        }
    }

    fn stop(self) {
        match self {
            Access::InProcess(seat) => seat.stop(),
            Access::Other(coordinator) => coordinator.stop(),
        }
    }

    fn crash(self) {
        match self {
            Access::InProcess(seat) => seat.crash(CRASHED_SESSION),
            Access::Other(coordinator) => drop(coordinator),
        }
    }
}

/// A running node. Dropping it is a crash: end it with [`Server::stop`].
pub struct Server {
    node: Arc<Node>,
    client_addr: SocketAddr,
    repl_addr: SocketAddr,
    sentinel_addr: Option<SocketAddr>,
    admin: Option<Admin>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds the ports, then starts the threads and the coordinator.
    ///
    /// # Errors
    /// A port is taken, or the system has no threads left; nothing is left running.
    pub fn start(options: Options) -> Result<Server, StartError> {
        let Options {
            mut keeper,
            coordination,
            listen,
            advertise,
            repl_listen,
            repl_advertise,
            sentinel_listen,
            sentinel_advertise,
            admin_listen,
            threads,
            write_config,
            set_log_level,
            log_dropped,
        } = options;
        let (clients, client_addr) = bind("listen", listen)?;
        let (nodes, repl_addr) = bind("replication.listen", repl_listen)?;
        let sentinel = sentinel_listen.map(|addr| bind("sentinel.listen", addr)).transpose()?;
        let operators = admin_listen.map(|addr| bind("admin.listen", addr)).transpose()?;

        let now = clock::now();
        keeper.client_addr = advertise.unwrap_or_else(|| client_addr.to_string());
        keeper.repl_addr = repl_advertise.unwrap_or_else(|| repl_addr.to_string());
        let sentinel_addr = sentinel.as_ref().map(|(_, addr)| *addr);
        keeper.sentinel_addr = sentinel_addr.map(|bound| sentinel_advertise.unwrap_or_else(|| bound.to_string()));
        keeper.started = now.wall;
        keeper.process_id = std::process::id();
        keeper.run = RunId(u128::from_le_bytes(links::random()));
        keeper.host = host::of(client_addr, repl_addr);
        keeper.stopwatch = clock::boot;
        keeper.process = process::figures;
        keeper.parameters.push(("bind".to_owned(), client_addr.ip().to_string()));
        keeper.parameters.push(("port".to_owned(), client_addr.port().to_string()));
        keeper.parameters.push(("tcp-backlog".to_owned(), runtime::BACKLOG.to_string()));
        keeper.parameters.push(("tcp-keepalive".to_owned(), runtime::KEEPALIVE.as_secs().to_string()));
        keeper.hash_key = HashKey(links::random());
        let id = keeper.node.clone();
        let shared = &keeper.shared;
        let pulse_cell =
            Arc::new(PulseCell::new(Pulse::new(CopyId(0), shared.heartbeat_ms, shared.lease_ms, shared.promise_ms)));
        let clients_max = keeper.clients_max;
        let keeper = Keeper::new(keeper, u64::from_le_bytes(links::random()), now, pulse_cell.clone());

        let (posts, arrivals): (Vec<_>, Vec<_>) = (0..threads.max(1))
            .map(|_| {
                let (sender, receiver) = unbounded_channel();
                (Post::new(sender), receiver)
            })
            .unzip();
        let mut node = Node::new(id, clients_max, keeper, pulse_cell, posts.into(), write_config, set_log_level);
        node.log_dropped = log_dropped;
        let node = Arc::new(node);
        let mut server = Server { node, client_addr, repl_addr, sentinel_addr, admin: None, threads: Vec::new() };

        let (events, from_coordinator) = unbounded_channel();
        let (links, accepted_links) = unbounded_channel();
        let sentinel = sentinel.map(|(listener, _)| listener);
        let mut first = Some(FirstThread { clients, sentinel, from_coordinator, accepted_links });
        for (index, arrivals) in arrivals.into_iter().enumerate() {
            let node = server.node.clone();
            let first = first.take();
            server.spawn(&format!("client-{index}"), move || async move {
                if let Some(first) = first {
                    first.start(&node);
                }
                runtime::serve_clients(node, index, arrivals).await;
            })?;
        }
        let node = server.node.clone();
        server.spawn("pulse", move || async move {
            match TcpListener::from_std(nodes) {
                Ok(listener) => pulse::run(node, listener, links).await,
                Err(error) => node.fail(format!("the replication listener cannot be used: {error}")),
            }
        })?;
        if let Some((listener, _)) = operators {
            let node = server.node.clone();
            let admin = Admin::start(listener, Arc::new(move || vec![node.clone()]), None);
            server.admin = Some(admin.map_err(StartError::Thread)?);
        }

        let access = match coordination {
            Coordination::InProcess(service) => Access::InProcess(Box::new(service.connect(events))),
            Coordination::Start(start) => Access::Other(start(events).map_err(StartError::Coordination)?),
        };
        server.node.set_access(access);
        server.node.with_keeper(|keeper, now, effects| keeper.start(now, effects));
        Ok(server)
    }

    fn spawn<F, Fut>(&mut self, role: &str, body: F) -> Result<(), StartError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        // Linux shows 15 bytes of a thread's name: the node's first five, so that several in one process can be told apart.
        let id = self.node.id().as_str();
        let name = format!("{}/{role}", &id[..id.len().min(5)]);
        let span = tracing::info_span!("node", %id);
        let thread = runtime::spawn(&name, span, self.node.over.clone(), body).map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn repl_addr(&self) -> SocketAddr {
        self.repl_addr
    }

    /// Where the node is a Sentinel and nothing else, if anywhere.
    #[must_use]
    pub fn sentinel_addr(&self) -> Option<SocketAddr> {
        self.sentinel_addr
    }

    /// Where operators connect, if anywhere.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::addr)
    }

    /// What the node's threads share: its status and its role.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Writes to replication links so far: system calls, for measuring how well they are batched.
    #[must_use]
    pub fn link_sends(&self) -> u64 {
        self.node.links.sends()
    }

    /// Becomes `Some` when the node cannot go on, with the reason; whoever started it has to end it.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.node.failure.subscribe()
    }

    /// Becomes `Some` when SHUTDOWN was asked for, with whether at once; whoever started the node has to end it.
    #[must_use]
    pub fn shutdown(&self) -> watch::Receiver<Option<bool>> {
        self.node.shutdown.subscribe()
    }

    /// Leaves the cluster in good order: hands the leadership over, and waits until every client is gone or `patience` is over; and as long
    /// as too few copies would be left while another one is being filled, up to `limit`, if there is one. Then [`Server::stop`] it. Returns
    /// whether nobody needs this node's copy any more.
    pub async fn leave(&self, patience: Duration, limit: Option<Duration>) -> bool {
        self.node.handle(Event::Leave);
        let (began, mut needed) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if self.node.must_stay() {
                needed = now;
                if limit.is_some_and(|limit| now >= began + limit) {
                    return false;
                }
            } else if self.node.may_end() || now >= needed + patience {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether its end would leave too few copies while another one is being filled.
    #[must_use]
    pub fn must_stay(&self) -> bool {
        self.node.must_stay()
    }

    /// Ends the node at once and in good order: the Keeper says goodbye, the session is closed, then the threads end. Blocks for about two
    /// seconds at worst; not to be called from a thread of the node.
    pub fn stop(mut self) {
        self.node.handle(Event::Stop);
        let deadline = Instant::now() + GOODBYE;
        while !self.node.is_quiet() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(access) = self.node.take_access() {
            access.stop();
        }
        self.end();
    }

    /// Ends the node as `kill -9` would: no goodbye, sockets closed by the system, the session left to expire. Returns when
    /// its threads have ended and its ports are free.
    pub fn crash(self) {
        drop(self);
    }

    fn end(&mut self) {
        self.node.over.cancel();
        if let Some(access) = self.node.take_access() {
            access.crash();
        }
        self.admin = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of node {} panicked", self.node.id());
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes a port; `key` is what the operator changes if that fails.
///
/// # Errors
/// The port is taken, or the address is not this machine's.
pub fn bind(key: &'static str, addr: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), StartError> {
    let bound = runtime::bind(addr).and_then(|listener| {
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    });
    bound.map_err(|error| StartError::Bind { key, addr, error })
}

/// What thread 0 does beside its clients.
struct FirstThread {
    clients: std::net::TcpListener,
    sentinel: Option<std::net::TcpListener>,
    from_coordinator: UnboundedReceiver<CoordEvent>,
    accepted_links: UnboundedReceiver<std::net::TcpStream>,
}

impl FirstThread {
    fn start(mut self, node: &Arc<Node>) {
        tokio::task::spawn_local(node.clone().run_orders());
        tokio::task::spawn_local(timer::run(node.clone()));
        tokio::task::spawn_local(links::run_accepted(node.clone(), self.accepted_links));
        let for_events = node.clone();
        tokio::task::spawn_local(async move {
            while let Some(event) = self.from_coordinator.recv().await {
                for_events.handle(Event::Coord(event.into()));
            }
        });
        for (listener, at_sentinel) in [(Some(self.clients), false), (self.sentinel, true)] {
            match listener.map(TcpListener::from_std).transpose() {
                Ok(None) => {}
                Ok(Some(listener)) => {
                    tokio::task::spawn_local(runtime::accept_clients(node.clone(), listener, at_sentinel));
                }
                Err(error) => node.fail(format!("a listener for clients cannot be used: {error}")),
            }
        }
    }
}
