//! HTTP for operators, supervisors and load balancers: what the node says of itself, and `local`'s crash button.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | the cluster as a node sees it, JSON; the leader's word if it runs in this process |
//! | `GET /metrics` | Prometheus text format 0.0.4, every node of this process with its `node` label |
//! | `GET /healthz` | 503 once one hold of a Keeper's lock has lasted [`HOLD_DEAD_MS`], else 200, also while a node is halted |
//! | `GET /ready` | 200 while the node is in the in-sync set and serves, else 503 ([`Face::ready`]) |
//! | `GET /leader`, `/primary` | 200 at the ready leader, else 503 |
//! | `GET /replica` | 200 at a replica in sync, with `?max_lag_ms=N` one whose data are not older than that, else 503 |
//! | `GET /read` | 200 at either of both, else 503 |
//! | `POST /crash/{node}` | only in `local`: that node ends without goodbye |
//!
//! From `/healthz` on, HEAD and OPTIONS are answered as GET is, in the manner of Patroni's REST API; the body is the node's role and the epoch. With
//! `?node=NAME` one node of the process is asked, without it the one whose word `/status` gives.
//!
//! A thread and a runtime of its own. What supervisors and load balancers ask is answered from [`Node::face`], without the Keeper's lock; `/status` and
//! `/metrics` wait for it on other threads, and not for ever. Connections are bounded, and none is kept that says nothing. *Not
//! here*: authentication; the address is meant for the loopback or an operators' network.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{HOLD_DEAD_MS, Node};
use super::{clock, runtime};
use crate::base::clock::Boot;
use crate::base::limits::OPERATORS_MAX;
use crate::cluster::role::Role;
use crate::cluster::status::{NodeStatus, Status};
use crate::keeper::{Effects, Face, Keeper};

/// A connection on which no request is complete for so long is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is older than this is closed after its present request.
const CONNECTION_AGE: Duration = Duration::from_secs(60);
/// How long `/status` and `/metrics` wait for a Keeper's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// So many of them wait at once; the next is refused.
const WAITING_MAX: usize = 4;

/// The nodes of this process that run at the moment.
pub type Nodes = Arc<dyn Fn() -> Vec<Arc<Node>> + Send + Sync>;
/// Lets a node of this process end without goodbye; says what happened, or why not.
pub type CrashHook = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// A running admin listener. Dropping it ends it and waits for its thread.
pub struct Admin {
    addr: SocketAddr,
    over: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves operators on a listener that is bound already. With a crash hook, `POST /crash/{node}` exists.
    ///
    /// # Errors
    /// The system refused the thread or the listener; the operator acts.
    pub fn start(listener: std::net::TcpListener, nodes: Nodes, crash: Option<CrashHook>) -> io::Result<Admin> {
        let addr = listener.local_addr()?;
        let operators = Operators { nodes, waiting: Arc::new(Semaphore::new(WAITING_MAX)) };
        let asked = |question: Question| {
            let methods = MethodFilter::GET.or(MethodFilter::OPTIONS); // GET answers HEAD, too
            on(
                methods,
                move |State(operators): State<Operators>, uri: Uri| async move { operators.answer(question, &uri) },
            )
        };
        let mut router = Router::new()
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .route("/healthz", asked(Question::Healthy))
            .route("/ready", asked(Question::Ready))
            .route("/leader", asked(Question::Leader))
            .route("/primary", asked(Question::Leader))
            .route("/replica", asked(Question::Replica))
            .route("/read", asked(Question::Read))
            .with_state(operators);
        if let Some(hook) = crash {
            router = router.merge(Router::new().route("/crash/{node}", post(crash_node)).with_state(hook));
        }
        let over = CancellationToken::new();
        let thread = runtime::spawn("admin", tracing::info_span!("admin"), over.clone(), move || async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(&listener, router).await,
                Err(error) => tracing::error!("operators' requests are not served: {error}"),
            }
        })?;
        Ok(Admin { addr, over, thread: Some(thread) })
    }

    /// Where operators connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was logged by its hook
        }
    }
}

/// Serves each connection by a task of its own. At the bound the oldest connection is closed for the newest: who opens many and says nothing
/// keeps no supervisor out.
async fn serve(listener: &TcpListener, router: Router) {
    let mut open = VecDeque::<AbortHandle>::new();
    runtime::accept(listener, "operator", |socket, peer| {
        open.retain(|connection| !connection.is_finished());
        if open.len() >= OPERATORS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let router = router.clone();
        let connection = spawn_local(async move {
            if let Err(error) = serve_one(socket, router).await {
                tracing::debug!(%peer, "an operator's connection is over: {error}");
            }
        });
        open.push_back(connection.abort_handle());
    })
    .await;
}

async fn serve_one(socket: std::net::TcpStream, router: Router) -> Result<(), String> {
    let socket = TcpStream::from_std(socket).map_err(|error| error.to_string())?;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router)));
    tokio::select! {
        biased; // what is done is done
        served = &mut connection => return served.map_err(|error| error.to_string()),
        () = sleep(CONNECTION_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    match timeout(REQUEST_TIMEOUT, connection).await {
        Ok(served) => served.map_err(|error| error.to_string()),
        Err(_) => Err("too old".to_owned()),
    }
}

/// What the requests share.
#[derive(Clone)]
struct Operators {
    nodes: Nodes,
    /// Room for those that wait for a Keeper's lock.
    waiting: Arc<Semaphore>,
}

/// What is asked without the Keeper's lock.
#[derive(Clone, Copy)]
enum Question {
    Healthy,
    Ready,
    Leader,
    Replica,
    Read,
}

impl Question {
    /// Whether the node is what is asked for.
    fn is_so(self, node: &Node, face: &Face, now: Boot, max_lag_ms: Option<u64>) -> bool {
        match self {
            Question::Healthy => !node.is_held_for(now, HOLD_DEAD_MS),
            Question::Ready => face.ready,
            Question::Leader => face.leads(),
            Question::Replica => face.follows(now, max_lag_ms),
            Question::Read => face.leads() || face.follows(now, max_lag_ms),
        }
    }
}

impl Operators {
    fn answer(&self, question: Question, uri: &Uri) -> Response {
        let lags = matches!(question, Question::Replica | Question::Read);
        let asked = match Asked::parse(uri.query().unwrap_or_default(), lags) {
            Ok(asked) => asked,
            Err(reason) => return (StatusCode::BAD_REQUEST, reason + "\n").into_response(),
        };
        let (nodes, now) = ((self.nodes)(), clock::boot());
        if let (Question::Healthy, None) = (question, &asked.node) {
            let stuck = nodes.iter().find(|node| !question.is_so(node, &node.face(), now, None));
            return match stuck {
                Some(node) => (StatusCode::SERVICE_UNAVAILABLE, format!("{} is stuck\n", node.id())).into_response(),
                None => "ok\n".into_response(),
            };
        }
        let node = match &asked.node {
            Some(name) => nodes.iter().find(|node| node.id().as_str() == name),
            None => speaker(&nodes),
        };
        let Some(node) = node else {
            let names: Vec<&str> = nodes.iter().map(|node| node.id().as_str()).collect();
            let reason = format!("no such node runs in this process; there are: {}\n", names.join(", "));
            return (StatusCode::NOT_FOUND, reason).into_response();
        };
        let face = node.face();
        let code = match question.is_so(node, &face, now, asked.max_lag_ms) {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (code, format!("{} {}\n", face.role, face.epoch)).into_response()
    }

    /// Asks nodes on a thread that may wait for their locks; `what` is none if that took too long.
    async fn wait<T: Send + 'static>(
        &self,
        what: impl FnOnce(Vec<Arc<Node>>) -> Option<T> + Send + 'static,
    ) -> Result<T, Response> {
        let busy = || {
            let reason = "a node of this process is busy with a long command; ask again in a moment\n";
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        };
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else { return Err(busy()) };
        let nodes = (self.nodes)();
        if nodes.is_empty() {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "no node runs in this process\n").into_response());
        }
        let answer = spawn_blocking(move || {
            let answer = what(nodes);
            drop(permit);
            answer
        });
        answer.await.ok().flatten().ok_or_else(busy)
    }
}

/// The node whose word counts for a process of several: the leader, if it is among them.
fn speaker(nodes: &[Arc<Node>]) -> Option<&Arc<Node>> {
    nodes.iter().find(|node| node.face().role.leads()).or(nodes.first())
}

/// The parameters of a request.
#[derive(Default, Debug, PartialEq, Eq)]
struct Asked {
    node: Option<String>,
    max_lag_ms: Option<u64>,
}

impl Asked {
    /// `lags`: whether an age is a matter of this request.
    fn parse(query: &str, lags: bool) -> Result<Asked, String> {
        let mut asked = Asked::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("node", name) => asked.node = Some(name.to_owned()),
                ("max_lag_ms", ms) if lags => match ms.parse() {
                    Ok(ms) => asked.max_lag_ms = Some(ms),
                    Err(_) => return Err(format!("max_lag_ms={ms}: want a whole number of milliseconds")),
                },
                (name, _) => {
                    let known = if lags { "node and max_lag_ms" } else { "node" };
                    return Err(format!("there is no parameter {name:?} here; want {known}"));
                }
            }
        }
        Ok(asked)
    }
}

async fn status(State(operators): State<Operators>) -> Response {
    let status = operators.wait(|nodes| speaker(&nodes)?.status_within(LOCK_PATIENCE)).await;
    status.map_or_else(|refusal| refusal, |status| Json(status).into_response())
}

/// A page in an operator's browser can send a POST anywhere, but not with a header of ours.
async fn crash_node(State(crash): State<CrashHook>, Path(node): Path<String>, headers: HeaderMap) -> Response {
    if headers.get("datakeeper-confirm").is_none_or(|word| word != "crash") {
        return (StatusCode::FORBIDDEN, "header DataKeeper-Confirm: crash is missing\n").into_response();
    }
    match crash(&node) {
        Ok(text) => format!("{text}\n").into_response(),
        Err(text) => (StatusCode::NOT_FOUND, format!("{text}\n")).into_response(),
    }
}

async fn metrics(State(operators): State<Operators>) -> Response {
    let read = |nodes: Vec<Arc<Node>>| nodes.iter().map(|node| Reading::of(node)).collect::<Option<Vec<Reading>>>();
    match operators.wait(read).await {
        Ok(readings) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus(&readings)).into_response(),
        Err(refusal) => refusal,
    }
}

/// One node at one moment.
struct Reading {
    status: Status,
    clients: usize,
    link_sends: u64,
    keys: usize,
    used_memory: usize,
    log_dropped: Option<u64>,
    unknown: Vec<(&'static str, String, u64)>,
}

impl Reading {
    /// None if the Keeper's lock was not to be had.
    fn of(node: &Node) -> Option<Reading> {
        let read =
            |keeper: &mut Keeper, now, _: &mut Effects| (keeper.status(now), keeper.usage(), keeper.unknown_commands());
        let (status, (keys, used_memory), unknown) = node.with_keeper_within(LOCK_PATIENCE, read)?;
        let log_dropped = node.log_dropped.as_ref().map(|dropped| dropped.load(Ordering::Relaxed));
        Some(Reading {
            status,
            clients: node.clients(),
            link_sends: node.links.sends(),
            keys,
            used_memory,
            unknown,
            log_dropped,
        })
    }

    /// What the node says of itself; none before it is registered.
    fn own(&self) -> Option<&NodeStatus> {
        self.status.nodes.iter().find(|node| node.id == self.status.node)
    }

    /// The worst of what is known of the replicas in the in-sync set; none unless the node leads some.
    fn worst_lag(&self, lag: impl Fn(&NodeStatus) -> Option<u64>) -> Option<u64> {
        self.status.nodes.iter().filter(|node| node.in_sync).filter_map(lag).max()
    }
}

/// A row of `/metrics`.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// None: this node does not know it.
    value: fn(&Reading) -> Option<u64>,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "leader",
        kind: "gauge",
        help: "1 if the node is the ready leader.",
        value: |r| Some(u64::from(r.status.role == Role::Leader.as_str())),
    },
    Metric {
        name: "halted",
        kind: "gauge",
        help: "1 if the node waits for an operator.",
        value: |r| Some(u64::from(r.status.role == Role::Halted.as_str())),
    },
    Metric {
        name: "epoch",
        kind: "gauge",
        help: "Latest leadership that the node saw confirmed.",
        value: |r| Some(r.status.epoch.0),
    },
    Metric {
        name: "wall_clock_apart_ms",
        kind: "gauge",
        help: "How far the leader's wall clock is from the clock by which keys expire, ms.",
        value: |r| Some(r.status.wall_clock_ahead_ms.unsigned_abs()),
    },
    Metric {
        name: "in_sync_members",
        kind: "gauge",
        help: "Members of the in-sync set, leader included, as the node sees it.",
        value: |r| Some(r.status.nodes.iter().filter(|node| node.in_sync).count() as u64),
    },
    Metric {
        name: "min_in_sync",
        kind: "gauge",
        help: "Fewest members that may accept writes.",
        value: |r| Some(u64::from(r.status.min_in_sync_effective)),
    },
    Metric {
        name: "end_offset",
        kind: "gauge",
        help: "Last entry in the node's log.",
        value: |r| Some(r.own()?.end?.0),
    },
    Metric {
        name: "applied_offset",
        kind: "gauge",
        help: "Last entry in the node's store.",
        value: |r| Some(r.own()?.applied?.0),
    },
    Metric {
        name: "acked_offset",
        kind: "gauge",
        help: "Last entry that the whole in-sync set has confirmed, as far as the node knows.",
        value: |r| Some(r.own()?.acked?.0),
    },
    Metric {
        name: "lag_entries",
        kind: "gauge",
        help: "Entries that the slowest in-sync replica has not confirmed; only where the node leads.",
        value: |r| r.worst_lag(|node| node.lag_entries),
    },
    Metric {
        name: "lag_ms",
        kind: "gauge",
        help: "Age of the oldest of them.",
        value: |r| r.worst_lag(|node| node.lag_ms),
    },
    Metric {
        name: "coordinator_connected",
        kind: "gauge",
        help: "1 while the coordination service is in contact.",
        value: |r| Some(u64::from(r.status.coordinator.connected)),
    },
    Metric {
        name: "resets_total",
        kind: "counter",
        help: "How often the cluster started over empty.",
        value: |r| Some(r.status.resets),
    },
    Metric { name: "connected_clients", kind: "gauge", help: "Client connections.", value: |r| Some(r.clients as u64) },
    Metric { name: "keys", kind: "gauge", help: "Keys in the store.", value: |r| Some(r.keys as u64) },
    Metric {
        name: "used_memory_bytes",
        kind: "gauge",
        help: "Bytes of keys, values and their tables, and of replies that clients do not read.",
        value: |r| Some(r.used_memory as u64),
    },
    Metric {
        name: "link_sends_total",
        kind: "counter",
        help: "System calls that wrote to replication links.",
        value: |r| Some(r.link_sends),
    },
    Metric {
        name: "log_lines_dropped_total",
        kind: "counter",
        help: "Lines of this process's log that were dropped, because nobody read them or they could not be written.",
        value: |r| r.log_dropped,
    },
];

/// The readings in Prometheus' text format; values that a node does not know are left out.
fn prometheus(readings: &[Reading]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, value } in METRICS {
        let _ = writeln!(text, "# HELP datakeeper_{name} {help}\n# TYPE datakeeper_{name} {kind}");
        for reading in readings {
            if let Some(value) = value(reading) {
                let node = reading.status.node.as_str(); // letters, digits and -_. only: nothing to escape
                let _ = writeln!(text, "datakeeper_{name}{{node=\"{node}\"}} {value}");
            }
        }
    }
    let name = "datakeeper_unknown_commands";
    let _ = writeln!(text, "# HELP {name} Commands that there are not, by command and library.\n# TYPE {name} counter");
    for reading in readings {
        let node = reading.status.node.as_str();
        for (command, library, count) in &reading.unknown {
            let _ = writeln!(text, "{name}{{node=\"{node}\",command=\"{command}\",library=\"{library}\"}} {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_what_is_none_is_named() {
        let some = Asked { node: Some("n2".to_owned()), max_lag_ms: Some(50) };
        assert_eq!(Asked::parse("node=n2&max_lag_ms=50", true), Ok(some));
        assert_eq!(Asked::parse("", false), Ok(Asked::default()));
        for (query, lags, wanted) in [
            ("max_lag_ms=soon", true, "want a whole number of milliseconds"),
            ("max_lag_ms=5", false, "want node"),
            ("lag=5", true, "want node and max_lag_ms"),
        ] {
            let reason = Asked::parse(query, lags).expect_err(query);
            assert!(reason.contains(wanted), "{query}: {reason}");
        }
    }
}
