//! `local`: a whole cluster in one process, to try things out: elections, redirects, and what a crash does.
//!
//! Every node has its own threads, ports and Keeper; they share the in-process coordination service and one admin address.
//! `POST /crash/{node}` ends a node as `kill -9` would; a second later it starts again on its old ports, empty.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cli::LocalOptions;
use super::config::Config;
use super::server::{options, room_for_clients};
use super::signals::Signals;
use super::telemetry::LogHandle;
use crate::base::ids::NodeId;
use crate::shell::admin::{Admin, CrashHook, Nodes};
use crate::shell::coordination::in_process::InProcess;
use crate::shell::{Coordination, Server, SetLogLevel, StartError, bind};

/// How long a crashed node stays away: long enough for the others to elect.
const AWAY: Duration = Duration::from_secs(1);

/// Runs the nodes until the process is told to stop.
#[must_use]
pub fn run(local: LocalOptions, config: Config, log: LogHandle) -> ExitCode {
    match super::ask(serve(local, config, log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => super::complain(1, &reason),
    }
}

/// # Errors
/// Why the nodes could not start, or one could not go on; for the operator.
async fn serve(local: LocalOptions, config: Config, log: LogHandle) -> Result<(), String> {
    let mut signals = Signals::listen(log.clone())?;
    let (crashed, crashes) = unbounded_channel();
    let mut one = options(&config, Coordination::InProcess(InProcess::new()));
    one.threads = config.threads.unwrap_or(1);
    let clients_max = room_for_clients(local.nodes.into(), &one)?;
    let cluster =
        Cluster::start(local, config, clients_max, log.set_level, crashed).map_err(|error| error.to_string())?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, local.admin_port));
    let (listener, _) = bind("--admin-port", addr).map_err(|error| error.to_string())?;
    let admin = Admin::start(listener, cluster.nodes(), Some(cluster.crash_hook()))
        .map_err(|error| format!("cannot serve operators: {error}"))?;
    print!("{}", cluster.welcome(admin.addr()));
    let failed = tokio::select! {
        biased; // nothing is lost by stopping first
        _ = signals.end() => Ok(()),
        ended = cluster.replace_crashed(crashes) => ended,
    };
    drop(admin); // no crash while the nodes say goodbye
    let _ = writeln!(std::io::stdout(), "stopping"); // the terminal may be gone
    cluster.stop();
    failed
}

/// One node and where it is found; the ports stay its own over crashes.
struct Seat {
    id: NodeId,
    client_addr: SocketAddr,
    repl_addr: SocketAddr,
    /// None between a crash and the restart.
    server: Option<Server>,
}

#[derive(Clone)]
struct Cluster {
    config: Arc<Config>,
    /// The nodes have one log: the latest word of any of them counts.
    set_log_level: SetLogLevel,
    service: InProcess,
    /// Clients that each node may have.
    clients_max: usize,
    seats: Arc<Mutex<Vec<Seat>>>,
    /// Numbers of seats that have become empty.
    crashed: UnboundedSender<usize>,
}

impl Cluster {
    fn start(
        local: LocalOptions,
        config: Config,
        clients_max: usize,
        set_log_level: SetLogLevel,
        crashed: UnboundedSender<usize>,
    ) -> Result<Cluster, StartError> {
        let (service, seats) = (InProcess::new(), Arc::default());
        let cluster = Cluster { config: Arc::new(config), set_log_level, service, clients_max, seats, crashed };
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for i in 0..local.nodes {
            let port = if local.port == 0 { 0 } else { local.port + i };
            let id: NodeId = format!("n{}", i + 1).parse().expect("a letter and a number make a node name");
            let server = cluster.start_node(&id, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), free)?;
            let (client_addr, repl_addr) = (server.client_addr(), server.repl_addr());
            cluster.seats.lock().push(Seat { id, client_addr, repl_addr, server: Some(server) });
        }
        Ok(cluster)
    }

    fn start_node(&self, id: &NodeId, listen: SocketAddr, repl_listen: SocketAddr) -> Result<Server, StartError> {
        let mut options = options(&self.config, Coordination::InProcess(self.service.clone()));
        options.keeper.node = id.clone();
        options.keeper.clients_max = self.clients_max;
        options.listen = listen;
        options.advertise = None;
        options.repl_listen = repl_listen;
        options.repl_advertise = None;
        options.sentinel_listen = None;
        options.admin_listen = None;
        options.threads = self.config.threads.unwrap_or(1);
        options.set_log_level = Some(self.set_log_level.clone());
        Server::start(options)
    }

    /// The nodes that run at the moment, for the admin address.
    fn nodes(&self) -> Nodes {
        let seats = self.seats.clone();
        Arc::new(move || seats.lock().iter().filter_map(|seat| Some(seat.server.as_ref()?.node().clone())).collect())
    }

    fn crash_hook(&self) -> CrashHook {
        let cluster = self.clone();
        Arc::new(move |name| {
            let (index, server) = {
                let mut seats = cluster.seats.lock();
                let Some(index) = seats.iter().position(|seat| seat.id.as_str() == name) else {
                    let names: Vec<&str> = seats.iter().map(|seat| seat.id.as_str()).collect();
                    return Err(format!("there is no node {name}; there are {}", names.join(", ")));
                };
                let server = seats[index].server.take();
                (index, server.ok_or_else(|| format!("{name} has crashed already and is not back yet"))?)
            };
            server.crash();
            let _ = cluster.crashed.send(index); // fails only while the process stops
            Ok(format!("{name} has crashed; it comes back empty in {AWAY:?}"))
        })
    }

    /// Starts crashed nodes again. Returns when a client wants the process to end (SHUTDOWN), or when a node cannot go on, with the reason.
    async fn replace_crashed(&self, mut crashes: UnboundedReceiver<usize>) -> Result<(), String> {
        let (ended, mut ends) = unbounded_channel();
        for seat in &*self.seats.lock() {
            watch(seat, &ended);
        }
        loop {
            tokio::select! {
                biased; // a node that cannot go on ends the process; no use replacing others
                Some(end) = ends.recv() => return end,
                Some(index) = crashes.recv() => {
                    tokio::time::sleep(AWAY).await;
                    let (id, client_addr, repl_addr) = {
                        let seat = &self.seats.lock()[index];
                        (seat.id.clone(), seat.client_addr, seat.repl_addr)
                    };
                    match self.start_node(&id, client_addr, repl_addr) {
                        Ok(server) => {
                            let seat = &mut self.seats.lock()[index];
                            seat.server = Some(server);
                            watch(seat, &ended);
                        }
                        Err(error) => return Err(format!("{id} cannot come back: {error}")),
                    }
                }
            }
        }
    }

    fn welcome(&self, operators: SocketAddr) -> String {
        let seats = self.seats.lock();
        let mut text = format!("DataKeeper, {} in this process:\n", count(seats.len(), "node"));
        for seat in &*seats {
            let _ = writeln!(text, "  {}  {}", seat.id, seat.client_addr);
        }
        let first = &seats[0];
        let last = &seats[seats.len() - 1];
        let (port, other) = (first.client_addr.port(), last.client_addr.port());
        let connect = |flag_default: u16, addr: SocketAddr| {
            if addr.port() == flag_default { String::new() } else { format!(" --connect {addr}") }
        };
        let at = connect(6379, first.client_addr);
        let at_operators = connect(8081, operators);
        let _ = writeln!(text, "  operators: http://{operators}/status and /metrics\nTry:");
        let _ = writeln!(text, "  redis-cli -c -p {port} set greeting hello");
        let _ = writeln!(text, "  redis-cli -c -p {other} get greeting");
        let _ = writeln!(text, "  datakeeper status{at}");
        if seats.len() > 1 {
            let _ = writeln!(text, "  datakeeper admin crash {}{at_operators}    and status again", first.id);
        }
        text.push_str("Ctrl-C stops. Everything is in memory and gone then.\n");
        text
    }

    /// Ends all nodes at once, so that nobody elects on the way out.
    fn stop(&self) {
        let servers: Vec<Server> = self.seats.lock().iter_mut().filter_map(|seat| seat.server.take()).collect();
        std::thread::scope(|scope| {
            for server in servers {
                scope.spawn(|| server.stop());
            }
        });
    }
}

/// Reports the failure of a seat's node, should there be one, or that a client told it to end.
fn watch(seat: &Seat, ended: &UnboundedSender<Result<(), String>>) {
    let Some(server) = &seat.server else { return };
    let (id, ended, mut failure, mut shutdown) = (seat.id.clone(), ended.clone(), server.failure(), server.shutdown());
    tokio::spawn(async move {
        let end = tokio::select! {
            biased; // as in `server`
            failed = failure.wait_for(Option::is_some) => match failed {
                Ok(reason) => Err(format!("node {id}: {}", reason.clone().unwrap_or_default())),
                Err(_) => return,
            },
            asked = shutdown.wait_for(Option::is_some) => match asked {
                Ok(_) => Ok(()),
                Err(_) => return,
            },
        };
        let _ = ended.send(end);
    });
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
