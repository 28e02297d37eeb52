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
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::{clock, runtime};
use crate::base::limits::HOLD_MS;
use crate::cluster::status::Status;

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
        let thread = runtime::spawn("admin", over.clone(), move || async move {
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

async fn crash_node(State(crash): State<CrashHook>, Path(node): Path<String>) -> Response {
    match crash(&node) {
        Ok(text) => format!("{text}\n").into_response(),
        Err(text) => (StatusCode::NOT_FOUND, format!("{text}\n")).into_response(),
    }
}

async fn metrics(State(nodes): State<Nodes>) -> Response {
    let readings: Vec<Status> = nodes().iter().map(|node| node.status()).collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus(&readings)).into_response()
}

fn prometheus(_readings: &[Status]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# {HOLD_MS}");
    text
}
