//! The coordination service's driver: it delays, loses and repeats what the pure model then decides.
//!
//! ```text
//!   Keeper ── request ──► Client.queue ── step: takes effect, some time later ──► Model
//!      ▲                                                                           │ answers, notices
//!      └── deliver ◄── inbox, in order, each some time later ◄────────────────────┘
//! ```
//! A request is carried out again and again until its answer reached the process; one whose process died may still land.

use std::collections::VecDeque;

use datakeeper::cluster::coordinator::{CasOutcome, CoordEvent, CoordRequest, StateRead};
use datakeeper::keeper::Event;
use datakeeper::shell::coordination::model::{Client, Fate, Model, SessionId};

use crate::clock::MS;
use crate::setup::Lie;
use crate::world::{What, World};

/// The service.
#[derive(Default)]
pub struct Service {
    /// What it holds.
    pub model: Model,
    /// It answers nobody before this.
    pub down_until: u64,
}

/// One process's side of it.
#[derive(Default)]
pub struct Seat {
    /// Requests in order, and the session.
    pub client: Client,
    /// What the process will be told, and when.
    pub inbox: VecDeque<(u64, CoordEvent)>,
    last_at: u64,
    step_due: bool,
    connect_due: bool,
    /// The machine does not reach the service before this.
    pub cut_until: u64,
}

impl World {
    /// A new process looks for the service.
    pub fn service_connect_soon(&mut self, n: usize) {
        let wait = self.dice.between(MS / 10, 20 * MS);
        self.service_connect_in(n, wait);
    }

    fn service_connect_in(&mut self, n: usize, wait: u64) {
        let Some(p) = &mut self.nodes[n].process else { return };
        if !std::mem::replace(&mut p.seat.connect_due, true) {
            let what = What::ServiceConnect(n, p.generation);
            self.after(wait, what);
        }
    }

    fn service_reachable(&self, n: usize) -> bool {
        let cut = self.nodes[n].process.as_ref().map_or(0, |p| p.seat.cut_until);
        self.t >= self.service.down_until && self.t >= cut
    }

    /// A request was queued.
    pub fn service_submit(&mut self, n: usize, request: CoordRequest) {
        let Some(p) = &mut self.nodes[n].process else { return };
        p.seat.client.submit(request);
        self.service_step_soon(n);
    }

    fn service_delay(&mut self) -> u64 {
        let (low, high) = self.setup.service_delay;
        if self.dice.chance(self.setup.service_hangs) {
            self.coverage.hit("coordination: late");
            return self.dice.log_between(high, 10_000 * MS);
        }
        self.dice.log_between(low, high)
    }

    /// What the service was going to do and to say late, it does and says soon.
    pub fn end_hangs(&mut self, n: usize) {
        let soon = self.t + self.setup.service_delay.1;
        let Some(p) = &mut self.nodes[n].process else { return };
        p.seat.last_at = p.seat.last_at.min(soon);
        p.seat.inbox.iter_mut().for_each(|(at, _)| *at = (*at).min(soon));
        let (generation, waiting) = (p.generation, p.seat.inbox.len());
        for _ in 0..waiting {
            self.at(soon, What::ServiceDeliver(n, generation));
        }
        self.at(soon, What::ServiceStep(n, generation));
    }

    /// Looks at the queue, and at the session, before long.
    pub fn service_step_soon(&mut self, n: usize) {
        let wait = self.service_delay();
        let Some(p) = &mut self.nodes[n].process else { return };
        if !std::mem::replace(&mut p.seat.step_due, true) {
            let what = What::ServiceStep(n, p.generation);
            self.after(wait, what);
        }
    }

    pub fn on_service_connect(&mut self, n: usize, generation: u64) {
        let paused_until = self.nodes[n].paused_until;
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        p.seat.connect_due = false;
        if paused_until > self.t {
            let wait = paused_until - self.t;
            return self.service_connect_in(n, wait);
        }
        if !self.service_reachable(n) {
            let wait = self.dice.between(20, 200) * MS;
            return self.service_connect_in(n, wait);
        }
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        let session = p.seat.client.session();
        let mut events = p.seat.client.connect(&mut self.service.model);
        let is_new = p.seat.client.session() != session;
        let of = p.seat.client.session();
        self.trace(|| format!("n{n} reaches the service in {of:?}"));
        if is_new && session.is_some() {
            self.coverage.hit("coordination: session replaced");
        }
        if is_new && self.dice.chance(self.setup.stale_reads) {
            // A server that lags: the present follows.
            self.coverage.hit("coordination: stale read");
            let lag = self.dice.between(1, 4) as usize;
            for event in &mut events {
                match event {
                    CoordEvent::State(read) => *read = self.service.model.state_before(lag),
                    CoordEvent::Nodes { nodes, .. } => *nodes = self.service.model.nodes_before(lag),
                    _ => {}
                }
            }
            let wait = self.dice.between(1, 500) * MS;
            self.after(wait, What::ServiceCatchUp(n, generation));
        }
        for event in events {
            self.tell(n, event);
        }
        self.spread_notices();
        self.service_step_soon(n);
    }

    pub fn on_service_catch_up(&mut self, n: usize, generation: u64) {
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        if p.seat.client.in_contact() {
            let nodes = self.service.model.nodes();
            self.tell(n, CoordEvent::State(self.service.model.state()));
            self.tell(n, CoordEvent::Nodes { nodes, unreadable: Vec::new(), confirmed: false });
        }
    }

    pub fn on_service_step(&mut self, n: usize, generation: u64) {
        let paused_until = self.nodes[n].paused_until;
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        p.seat.step_due = false;
        if !p.seat.client.in_contact() {
            return;
        }
        if paused_until > self.t {
            p.seat.step_due = true;
            return self.after(paused_until - self.t + MS / 10, What::ServiceStep(n, generation));
        }
        let session = p.seat.client.session().expect("it is in contact");
        if !self.service_reachable(n) {
            return self.lose_contact(n, "the service does not answer");
        }
        if !self.service.model.is_open(session) {
            return self.lose_contact(n, "the session has expired");
        }
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        let Some(request) = p.seat.client.front() else { return };
        let is_change = matches!(request, CoordRequest::Cas { .. } | CoordRequest::Bootstrap { .. });
        if self.dice.chance(self.setup.answers_lost) {
            if is_change {
                self.coverage.hit("coordination: answer of a change lost");
            }
            let p = self.nodes[n].process_of(generation).expect("just seen");
            p.seat.client.step(&mut self.service.model, Fate::AnswerLost);
            self.spread_notices();
            return self.lose_contact(n, "the connection broke");
        }
        let p = self.nodes[n].process_of(generation).expect("just seen");
        let mut answers = p.seat.client.step(&mut self.service.model, Fate::Answered);
        for answer in &mut answers {
            if let CoordEvent::Resolved { outcome, .. } = answer {
                match outcome {
                    CasOutcome::Won(_) => self.coverage.hit("coordination: change won"),
                    CasOutcome::Lost => self.coverage.hit("coordination: change lost"),
                }
                if self.setup.lie == Lie::WonForLost && *outcome == CasOutcome::Lost {
                    let version = self.service.model.state().state.map_or(0, |(_, v)| v);
                    *outcome = CasOutcome::Won(version + 1);
                }
            }
        }
        for answer in answers {
            self.tell(n, answer);
        }
        self.spread_notices();
        self.service_step_soon(n);
    }

    /// A process learns that it has no contact; it tries again before long.
    pub fn lose_contact(&mut self, n: usize, reason: &str) {
        let Some(p) = &mut self.nodes[n].process else { return };
        if !p.seat.client.in_contact() {
            return;
        }
        let event = p.seat.client.disconnect(reason);
        let (session, generation) = (p.seat.client.session(), p.generation);
        self.tell(n, event);
        if let Some(session) = session {
            self.after(self.setup.session_timeout, What::SessionExpires(session, Some((n, generation))));
        }
        let wait = self.dice.between(1, 300) * MS;
        self.service_connect_in(n, wait);
    }

    /// The timeout of a session is over, unless its process was in contact again.
    pub fn on_session_expires(&mut self, session: SessionId, owner: Option<(usize, u64)>) {
        if self.t < self.service.down_until {
            // Nobody counts timeouts while the service is away.
            let wait = self.service.down_until - self.t + self.setup.session_timeout;
            return self.after(wait, What::SessionExpires(session, owner));
        }
        if let Some((n, generation)) = owner {
            let paused = self.nodes[n].paused_until > self.t;
            if let Some(p) = self.nodes[n].process_of(generation)
                && p.seat.client.session() == Some(session)
                && p.seat.client.in_contact()
                && !paused
            {
                return;
            }
        }
        if self.service.model.is_open(session) {
            self.trace(|| format!("{session:?} expires"));
            self.coverage.hit("coordination: session expired");
            self.service.model.end_session(session);
            self.spread_notices();
        }
    }

    /// The process ends in good order: if it reaches the service, that is noted, and its session is closed.
    pub fn record_end(&mut self, n: usize) {
        let reachable = self.service_reachable(n);
        let seat = self.nodes[n].process.as_ref().map(|p| &p.seat).filter(|_| reachable);
        let session = seat.filter(|seat| seat.client.in_contact()).and_then(|seat| seat.client.session());
        if let Some(session) = session {
            self.coverage.hit("coordination: end recorded");
            self.service.model.record_end(session);
            self.service.model.end_session(session);
            self.spread_notices();
        }
    }

    /// The process died: its session lasts until it times out, and what it had asked for may still happen.
    pub fn abandon_seat(&mut self, seat: Seat) {
        let Some(session) = seat.client.session() else { return };
        self.after(self.setup.session_timeout, What::SessionExpires(session, None));
        if let Some(request @ (CoordRequest::Cas { .. } | CoordRequest::Bootstrap { .. })) = seat.client.front()
            && self.dice.chance(600)
        {
            let wait = self.dice.log_between(MS, 2 * self.setup.session_timeout);
            self.after(wait, What::LateRequest(session, Box::new(request.clone())));
        }
    }

    pub fn on_late_request(&mut self, session: SessionId, request: &CoordRequest) {
        if self.t < self.service.down_until {
            return;
        }
        let before = self.service.model.state();
        self.service.model.apply(session, request);
        if self.service.model.state() != before {
            self.coverage.hit("coordination: change of a dead process landed");
            self.trace(|| format!("a change of a dead process landed: {request:?}"));
        }
        self.spread_notices();
    }

    /// Puts an event into a process's inbox.
    fn tell(&mut self, n: usize, event: CoordEvent) {
        let wait = self.service_delay();
        let t = self.t;
        let merge = self.dice.chance(300);
        let Some(p) = &mut self.nodes[n].process else { return };
        if merge && let CoordEvent::State(StateRead { confirmed: false, .. }) = event {
            // Notices that come close together are one: only the present is read.
            p.seat.inbox.retain(|(_, e)| !matches!(e, CoordEvent::State(StateRead { confirmed: false, .. })));
        }
        let at = p.seat.last_at.max(t + wait);
        p.seat.last_at = at;
        p.seat.inbox.push_back((at, event));
        let what = What::ServiceDeliver(n, p.generation);
        self.at(at, what);
    }

    pub fn on_service_deliver(&mut self, n: usize, generation: u64) {
        let t = self.t;
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        if p.seat.inbox.front().is_none_or(|(at, _)| *at > t) {
            return;
        }
        let (_, event) = p.seat.inbox.pop_front().expect("just seen");
        self.trace(|| format!("n{n} hears {}", brief(&event)));
        self.keeper_event(n, Event::Coord(Box::new(event)));
    }

    /// Watchers hear of what changed.
    pub fn spread_notices(&mut self) {
        for (session, event) in self.service.model.take_notices() {
            let owner = self.nodes.iter().position(|node| {
                node.process
                    .as_ref()
                    .is_some_and(|p| p.seat.client.session() == Some(session) && p.seat.client.in_contact())
            });
            if let Some(n) = owner {
                self.tell(n, event);
            }
        }
        self.check_state();
    }
}

fn brief(event: &CoordEvent) -> String {
    match event {
        CoordEvent::State(read) => match &read.state {
            Some((s, v)) => {
                let set: Vec<String> =
                    s.in_sync.iter().map(|m| format!("{}/{:.6}", m.id, m.copy.to_string())).collect();
                let (epoch, leader, why) = (s.epoch, &s.leader.id, s.change.why);
                format!(
                    "state v{v} epoch {epoch} leader {leader} in sync [{}] {why:?} confirmed {}",
                    set.join(" "),
                    read.confirmed
                )
            }
            None => "state absent".to_string(),
        },
        CoordEvent::Nodes { nodes, confirmed, .. } => {
            let all: Vec<String> = nodes
                .iter()
                .map(|n| {
                    format!(
                        "{}/{:.6}{}",
                        n.registration.id,
                        n.registration.copy.to_string(),
                        if n.live.is_some() { "" } else { " gone" }
                    )
                })
                .collect();
            format!("nodes [{}] confirmed {confirmed}", all.join(", "))
        }
        other => format!("{other:?}").chars().take(150).collect(),
    }
}
