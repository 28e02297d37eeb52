//! HTTP for operators: what the node says of itself, in JSON and for Prometheus, and `local`'s crash button.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | the cluster as a node sees it, JSON; the leader's word if it runs in this process |
//! | `GET /metrics` | Prometheus text format 0.0.4, every node of this process with its `node` label |
//! | `GET /healthz` | 200 while no node of this process is stuck, else 503 |
//! | `POST /crash/{node}` | only in `local`: that node ends without goodbye |
//!
//! A thread and a runtime of its own: an operator's browser costs clients nothing but one short hold of the Keeper's lock per
//! request. *Not here*: authentication; the address is meant for the loopback or an operators' network.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::{clock, runtime};
use crate::cluster::role::Role;
use crate::cluster::status::{NodeStatus, Status};

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
        let mut router = Router::new()
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .with_state(nodes);
        if let Some(hook) = crash {
            router = router.merge(Router::new().route("/crash/{node}", post(crash_node)).with_state(hook));
        }
        let over = CancellationToken::new();
        let thread = runtime::spawn("admin", tracing::info_span!("admin"), over.clone(), move || async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!("operators' requests are not served any more: {error}");
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

async fn status(State(nodes): State<Nodes>) -> Response {
    let nodes = nodes();
    let speaker = nodes.iter().find(|node| node.role().leads()).or(nodes.first());
    match speaker {
        Some(node) => Json(node.status()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no node runs in this process\n").into_response(),
    }
}

async fn healthz(State(nodes): State<Nodes>) -> Response {
    let now = clock::boot();
    match nodes().iter().find(|node| node.is_stuck(now)) {
        Some(node) => (StatusCode::SERVICE_UNAVAILABLE, format!("{} is stuck\n", node.id())).into_response(),
        None => "ok\n".into_response(),
    }
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

async fn metrics(State(nodes): State<Nodes>) -> Response {
    let readings: Vec<Reading> = nodes().iter().map(|node| Reading::of(node)).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus(&readings)).into_response()
}

/// One node at one moment.
struct Reading {
    status: Status,
    clients: usize,
    link_sends: u64,
    keys: usize,
    used_memory: usize,
}

impl Reading {
    fn of(node: &Node) -> Reading {
        let (status, (keys, used_memory)) = node.with_keeper(|keeper, now, _| (keeper.status(now), keeper.usage()));
        Reading { status, clients: node.clients(), link_sends: node.links.sends(), keys, used_memory }
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
        help: "Bytes of keys, values and their tables.",
        value: |r| Some(r.used_memory as u64),
    },
    Metric {
        name: "link_sends_total",
        kind: "counter",
        help: "System calls that wrote to replication links.",
        value: |r| Some(r.link_sends),
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
    text
}
