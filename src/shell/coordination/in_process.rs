//! The coordination service inside one process: the pure model behind a lock, for `datakeeper local` and for tests.
//!
//! ```text
//!   node 1 ── Seat ─┐                       ┌─► events of node 1
//!   node 2 ── Seat ─┼─► lock ─► Model ──────┼─► events of node 2      every request is answered before `submit` returns
//!   node 3 ── Seat ─┘                       └─► events of node 3
//! ```
//! Nothing is delayed or lost here, and a session ends only when its node stops or crashes: the simulator, not this, is where the
//! service misbehaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::model::{Client, Fate, Model, SessionId};
use super::{Coordinator, Events};
use crate::cluster::config::ClusterConfig;
use crate::cluster::coordinator::CoordRequest;

/// The service; clones share it.
#[derive(Clone, Default)]
pub struct InProcess(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    model: Model,
    /// Sessions whose node still listens.
    listeners: BTreeMap<SessionId, Events>,
}

impl InProcess {
    /// A service that holds nothing.
    #[must_use]
    pub fn new() -> InProcess {
        InProcess::default()
    }

    /// Opens a session for a node that starts; what is there already is in `events` when this returns.
    #[must_use]
    pub fn connect(&self, events: Events) -> Seat {
        let mut shared = self.0.lock();
        let mut client = Client::new();
        for event in client.connect(&mut shared.model) {
            let _ = events.send(event);
        }
        let session = client.session().expect("it has just connected");
        shared.listeners.insert(session, events);
        Seat { service: self.clone(), session, client: Mutex::new(client) }
    }

    /// An operator writes `/config`; every node hears of it.
    pub fn set_config(&self, config: ClusterConfig) {
        let mut shared = self.0.lock();
        shared.model.set_config(config);
        shared.tell();
    }

    fn end(&self, session: SessionId, in_good_order: bool) {
        let mut shared = self.0.lock();
        shared.listeners.remove(&session);
        if in_good_order {
            shared.model.record_end(session);
        }
        shared.model.end_session(session);
        shared.tell();
    }
}

impl Shared {
    fn tell(&mut self) {
        for (session, event) in self.model.take_notices() {
            if let Some(events) = self.listeners.get(&session) {
                let _ = events.send(event);
            }
        }
    }
}

/// One node's access to an [`InProcess`] service. Dropping it ends the session.
pub struct Seat {
    service: InProcess,
    session: SessionId,
    client: Mutex<Client>,
}

impl Seat {
    /// The node dies without goodbye: it hears nothing more and its requests are dropped, while its live entry stands until
    /// `session_timeout` is over, as that of a killed process would. Does not block.
    pub fn crash(self, session_timeout: Duration) {
        self.service.0.lock().listeners.remove(&self.session);
        if session_timeout.is_zero() {
            return; // Drop ends the session.
        }
        let name = "session-expiry".to_string();
        let expire = move || {
            std::thread::sleep(session_timeout);
            drop(self);
        };
        // Without a thread the seat is dropped here: the session ends at once, which is only kinder.
        let _ = std::thread::Builder::new().name(name).spawn(expire);
    }
}

impl Coordinator for Seat {
    fn submit(&self, request: CoordRequest) {
        let mut client = self.client.lock();
        let mut shared = self.service.0.lock();
        let Some(events) = shared.listeners.get(&self.session).cloned() else { return };
        client.submit(request);
        for event in client.step(&mut shared.model, Fate::Answered) {
            let _ = events.send(event);
        }
        shared.tell();
    }

    fn stop(&self) {
        self.service.end(self.session, true);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.service.end(self.session, false);
    }
}
