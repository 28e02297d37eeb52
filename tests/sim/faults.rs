//! Letting faults loose, and lifting them.

use datakeeper::base::ids::ConnId;
use datakeeper::cluster::config::ClusterConfig;
use datakeeper::cluster::state::MinInSync;
use datakeeper::keeper::{Event, Keeper, Next, Work};
use datakeeper::resp::{Batch, Output};
use datakeeper::shell::coordination::model::SessionId;

use crate::clock::MS;
use crate::setup::{FAULTS, Fault};
use crate::world::{What, World};

impl World {
    /// From now on faults happen.
    pub fn let_loose(&mut self) {
        self.faulty = true;
        if !self.setup.faults.is_empty() {
            self.after(MS, What::NextFault);
        }
    }

    pub fn on_next_fault(&mut self) {
        if !self.faulty {
            return;
        }
        let total: u64 = self.setup.faults.iter().map(|(_, w)| w).sum();
        let mut at = self.dice.below(total);
        let fault = self
            .setup
            .faults
            .iter()
            .find(|(_, w)| {
                at < *w || {
                    at -= w;
                    false
                }
            })
            .expect("weights add up")
            .0;
        self.strike(fault);
        let wait = if self.dice.chance(self.setup.bursts) {
            self.dice.log_between(MS / 2, 200 * MS)
        } else {
            self.dice.log_between(self.setup.fault_every / 8 + 1, self.setup.fault_every * 3)
        };
        self.after(wait, What::NextFault);
    }

    /// How long a fault lasts.
    fn spell(&mut self, shortest_ms: u64, longest_ms: u64) -> u64 {
        if self.dice.chance(self.setup.near_timers) {
            let promise = self.setup.config.promise_ms;
            return self.dice.between(promise / 2 * MS, promise * 2 * MS);
        }
        self.dice.log_between(shortest_ms * MS, longest_ms * MS)
    }

    /// Whether the loss of a process leaves a copy that `/state` names alive. Rarely it is lost all the same.
    fn may_lose(&mut self, n: usize) -> bool {
        let Some((state, _)) = self.service.model.state().state else { return true };
        let others = state.in_sync.iter().chain(&state.fallback).any(|m| {
            self.nodes.iter().enumerate().any(|(i, node)| i != n && node.keeper().is_some_and(|k| *k.me() == *m))
        });
        others || self.dice.chance(4)
    }

    fn count(&mut self, fault: Fault) {
        let (_, name) = FAULTS.iter().find(|(f, _)| *f == fault).expect("every fault has a name");
        self.coverage.hit(name);
        self.trace(|| format!("=== {name}"));
    }

    /// Lets one fault happen.
    pub fn strike(&mut self, fault: Fault) {
        let n = self.dice.below(self.nodes.len() as u64) as usize;
        // The leader is where it hurts.
        let n = if self.dice.chance(350) { self.leader().unwrap_or(n) } else { n };
        match fault {
            Fault::Kill | Fault::FastRestart | Fault::PowerLoss => {
                if self.nodes[n].process.is_none() || !self.may_lose(n) {
                    return;
                }
                self.count(fault);
                self.kill(n, fault != Fault::PowerLoss);
                let wait = match fault {
                    Fault::FastRestart => self.dice.log_between(MS / 20, 5 * MS),
                    _ => self.dice.log_between(5 * MS, 4_000 * MS),
                };
                self.after(wait, What::Start(n));
            }
            Fault::Pause | Fault::Busy => {
                if self.nodes[n].process.is_none() {
                    return;
                }
                self.count(fault);
                let wait = self.spell(20, if fault == Fault::Pause { 10_000 } else { 3_000 });
                let until = self.t + wait;
                let node = &mut self.nodes[n];
                if fault == Fault::Pause {
                    node.paused_until = until
                } else {
                    node.busy_until = until
                }
                self.trace(|| format!("n{n} stands still for {} ms", wait / MS));
                self.at(until, What::Wake(n));
                if fault == Fault::Pause
                    && let Some(session) = self.nodes[n].process.as_ref().and_then(|p| p.seat.client.session())
                {
                    let generation = self.nodes[n].process.as_ref().expect("just seen").generation;
                    self.after(self.setup.session_timeout, What::SessionExpires(session, Some((n, generation))));
                }
            }
            Fault::Partition | Fault::OneWay => {
                self.count(fault);
                let until = self.t + self.spell(20, 5_000);
                let side: Vec<bool> =
                    (0..self.nodes.len()).map(|i| if i == n { true } else { self.dice.chance(400) }).collect();
                self.trace(|| format!("cut {side:?} until {} ms", until / MS));
                let both = fault == Fault::Partition;
                for a in 0..side.len() {
                    for b in 0..side.len() {
                        if side[a] != side[b] && (both || side[a]) {
                            self.cut_until[a][b] = self.cut_until[a][b].max(until);
                        }
                    }
                }
            }
            Fault::Break | Fault::Stall => {
                let all: Vec<u64> = self.conns.keys().copied().collect();
                if all.is_empty() {
                    return;
                }
                self.count(fault);
                let conn = self.dice.pick(&all);
                self.trace(|| format!("connection {conn}"));
                if fault == Fault::Break {
                    self.break_connection(conn);
                } else {
                    let until = self.t + self.spell(20, 3_000);
                    let way = self.dice.below(2) as usize;
                    self.conns.get_mut(&conn).expect("just seen").ways[way].stalled_until = until;
                }
            }
            Fault::Outage => {
                if self.service.down_until > self.t {
                    return;
                }
                self.count(fault);
                self.service.down_until = self.t + self.dice.log_between(100 * MS, 10_000 * MS);
                let back = self.service.down_until;
                self.at(back, What::ServiceBack);
                for i in 0..self.nodes.len() {
                    self.service_step_soon(i);
                }
            }
            Fault::CutFromService => {
                let until = self.t + self.spell(50, 6_000);
                let Some(p) = &mut self.nodes[n].process else { return };
                p.seat.cut_until = until;
                self.count(fault);
                self.service_step_soon(n);
            }
            Fault::Expire => {
                let Some(session) = self.nodes[n].process.as_ref().and_then(|p| p.seat.client.session()) else {
                    return;
                };
                self.count(fault);
                self.service.model.end_session(session);
                self.spread_notices();
                self.service_step_soon(n);
            }
            Fault::WallStep => {
                self.count(fault);
                // Sometimes far: keys neither vanish because of that nor stay.
                let far = self.dice.pick(&[2_000, 2_000, 2_000, 3_600_000]);
                self.nodes[n].clock.wall_offset_ms += self.dice.between(0, 2 * far) as i64 - far as i64;
            }
            Fault::Reconfigure => {
                if self.service.model.state().state.is_none() {
                    return;
                }
                self.count(fault);
                let min_in_sync = self.dice.pick(&[MinInSync::Auto, MinInSync::Count(1), MinInSync::Count(2)]);
                // What was promised and leased by one set of periods is still counted on when another is in force.
                let (heartbeat_ms, suspect_ms, lease_ms, promise_ms) =
                    self.dice.pick(&[(50, 250, 400, 500), (20, 100, 160, 200), (100, 400, 800, 1_000)]);
                let periods =
                    ClusterConfig { heartbeat_ms, suspect_ms, lease_ms, promise_ms, ..self.setup.config.clone() };
                let config = ClusterConfig { min_in_sync, ..periods };
                self.service.model.set_config(config);
                self.spread_notices();
            }
            Fault::Operate => {
                let Some(leader) = self.awake_leader() else { return };
                self.count(fault);
                self.operate(leader, n);
            }
            Fault::HandOver => {
                let Some(n) = self.awake_leader() else { return };
                self.count(fault);
                let within_ms = self.dice.log_between(1, 1_000);
                self.call(n, |keeper, now, fx| keeper.begin_handover(now, None, within_ms, fx).is_ok());
            }
            Fault::Leave => {
                let Some(p) = &self.nodes[n].process else { return };
                let generation = p.generation;
                if p.stopping || !self.may_lose(n) || self.nodes[n].paused_until.max(self.nodes[n].busy_until) > self.t
                {
                    return;
                }
                self.count(fault);
                self.nodes[n].process.as_mut().expect("just seen").stopping = true;
                self.keeper_event(n, Event::Leave);
                self.after(MS, What::Leaving(n, generation, self.t + 10_000 * MS));
            }
            Fault::Stop => {
                let Some(p) = &self.nodes[n].process else { return };
                if p.stopping || !self.may_lose(n) || self.nodes[n].paused_until.max(self.nodes[n].busy_until) > self.t
                {
                    return;
                }
                self.count(fault);
                self.nodes[n].process.as_mut().expect("just seen").stopping = true;
                self.keeper_event(n, Event::Stop);
                self.record_end(n);
                self.kill(n, true);
                let wait = self.dice.log_between(5 * MS, 2_000 * MS);
                self.after(wait, What::Start(n));
            }
        }
    }

    /// A process that was told to end does so as soon as it may, or when nobody waits for it any longer.
    pub fn on_leaving(&mut self, n: usize, generation: u64, until: u64) {
        if !self.may_run(n, generation, || What::Leaving(n, generation, until)) {
            return;
        }
        let may = self.call(n, |k, now, _| (k.has_left(now), k.must_stay(now), k.is_filling()));
        let (left, kept, filling) = may.expect("it may run");
        if kept {
            self.coverage.hit("leave: kept for a copy that is filled");
        }
        if kept && self.t < until + 60_000 * MS || !left && self.t < until {
            return self.after(5 * MS, What::Leaving(n, generation, until));
        }
        let is_last = || {
            let state = self.service.model.state().state.map(|(state, _)| state.in_sync);
            let me = self.nodes[n].keeper().map(|k| k.me().clone());
            state.is_some_and(|set| set.len() == 1 && set.first() == me.as_ref())
        };
        if left && !kept && filling && is_last() {
            return self.fail(format!("last copy: n{n} has ended while another one was being filled from it"));
        }
        self.coverage.hit(if left { "leave: left" } else { "leave: ended all the same" });
        self.keeper_event(n, Event::Stop);
        self.record_end(n);
        self.kill(n, true);
        let wait = self.dice.log_between(5 * MS, 2_000 * MS);
        self.after(wait, What::Start(n));
    }

    /// The leader, if it can be called now.
    fn awake_leader(&self) -> Option<usize> {
        self.leader().filter(|n| {
            let node = &self.nodes[*n];
            node.process.is_some() && node.paused_until.max(node.busy_until) <= self.t
        })
    }

    /// Gives node `leader` an operator's command, perhaps about node `about`, and does not wait for the answer.
    fn operate(&mut self, leader: usize, about: usize) {
        let about = format!("n{about}");
        let peak = self.dice.between(1, self.nodes.len() as u64).to_string();
        let minimum = self.dice.pick(&["auto", "1", "2"]);
        let command: &[&str] = match self.dice.below(3) {
            0 => &["FORGET", &about],
            1 => &["LOWER-PEAK", &peak],
            _ => &["SET-CONFIG", "min_in_sync", minimum],
        };
        if self.give_command(leader, command) {
            self.coverage.hit(&format!("operator: {} begun", command[0]));
        }
    }

    /// Nobody leads, and a loss is not proven, or `total_loss` leaves it to an operator: somebody who knows of every process goes on with what
    /// is left, or starts over empty.
    pub fn operator_decides(&mut self) {
        let Some((state, _)) = self.service.model.state().state else { return };
        let holds = |k: &&Keeper| k.dataset() == Some(state.dataset) && !k.is_taking_in();
        let holders = self.nodes.iter().enumerate().filter_map(|(n, node)| Some((n, node.keeper().filter(holds)?)));
        match holders.max_by_key(|(_, k)| k.log().end()).map(|(n, _)| n) {
            Some(n) => {
                self.coverage.hit("operator: ADOPT");
                self.checks.give_up();
                self.give_command(n, &["ADOPT", &format!("n{n}")]);
            }
            None => {
                self.coverage.hit("operator: RESET");
                for n in 0..self.nodes.len() {
                    self.give_command(n, &["RESET"]);
                }
            }
        }
    }

    /// Gives a node an operator's command, and does not wait for the answer. Whether it has begun.
    fn give_command(&mut self, n: usize, command: &[&str]) -> bool {
        let words = [&["DATAKEEPER"], command, &["CONFIRM", "sim"]].concat();
        self.trace(|| format!("n{n} is told {}", words.join(" ")));
        let mut batch = Batch::new();
        batch.push_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let conn = ConnId(self.number());
        let waits = self.call(n, |k, now, fx| {
            k.client_connected(now, conn, "operator:1".to_string(), format!("client-{n}:1"));
            let executed =
                k.execute(now, Work { conn, batch: &batch, input: b"", from: 0, touch: None }, &mut Output::new(), fx);
            k.client_gone(conn);
            executed.next == Next::Wait
        });
        waits == Some(true)
    }

    pub fn on_service_back(&mut self) {
        if self.service.down_until != self.t {
            // It came back before, or goes away for longer.
            return;
        }
        if self.dice.chance(400) {
            // It was away for so long that it takes every session for dead.
            self.coverage.hit("coordination: back, all sessions expired");
            let sessions: Vec<_> = self
                .nodes
                .iter()
                .filter_map(|node| node.process.as_ref().and_then(|p| p.seat.client.session()))
                .collect();
            for session in sessions {
                self.service.model.end_session(session);
            }
            self.spread_notices();
            (0..self.nodes.len()).for_each(|n| self.service_step_soon(n));
        }
    }

    /// Everything is well again, or will be at the time returned, when the last pause ends: from then on the cluster has to
    /// find to itself.
    pub fn lift_faults(&mut self) -> u64 {
        self.trace(|| "=== faults are lifted".to_string());
        self.faulty = false;
        let t = self.t;
        (self.setup.answers_lost, self.setup.service_hangs) = (0, 0);
        if self.service.down_until > t {
            self.service.down_until = t;
            self.on_service_back();
        }
        // A session that should have expired while the service was away does so now.
        let living = |s: &SessionId| {
            let mut processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
            processes.any(|p| p.seat.client.session() == Some(*s))
        };
        let dead: Vec<SessionId> = self.service.model.sessions().filter(|s| !living(s)).collect();
        for session in dead {
            self.after(self.setup.session_timeout, What::SessionExpires(session, None));
        }
        for row in &mut self.cut_until {
            row.iter_mut().for_each(|until| *until = (*until).min(t));
        }
        for conn in self.conns.values_mut() {
            for way in &mut conn.ways {
                way.stalled_until = way.stalled_until.min(t);
            }
        }
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            if let Some(p) = &mut node.process {
                p.seat.cut_until = p.seat.cut_until.min(t);
            } else {
                self.after(MS, What::Start(n));
            }
            self.at(t, What::Wake(n));
            self.end_hangs(n);
        }
        self.nodes.iter().map(|n| n.paused_until.max(n.busy_until)).max().unwrap_or(t).max(t)
    }
}
