//! The simulated world: machines, their processes, and one queue of everything that is going to happen.
//!
//! Time is true time in nanoseconds; nobody in the world can read it. Each event names its process by a number that is never used
//! twice, so that what was meant for a dead process meets nobody. After each call of a Keeper the checks look at everything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use datakeeper::base::clock::Now;
use datakeeper::base::ids::{CopyId, HashKey, LinkId, Offset, RunId};
use datakeeper::cluster::coordinator::CoordRequest;
use datakeeper::cluster::registration::Host;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Acks, Effect, Effects, Event, Keeper, KeeperConfig, Level, ReadMode};
use datakeeper::replication::pulse::{Pulse, PulseCell};
use datakeeper::resp::Output;
use datakeeper::shell::coordination::model::SessionId;
use datakeeper::store::Eviction;

use crate::checks::{Checks, View};
use crate::clients::{Client, ClientConn};
use crate::clock::{Clock, MS, US};
use crate::coordinator::{Seat, Service};
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::linearizable::Op;
use crate::listeners::Listener;
use crate::network::Conn;
use crate::setup::{Lie, Setup};

/// What happens.
#[derive(Clone, Debug)]
pub enum What {
    /// A process's timer. Machine and process, as everywhere here.
    Tick(usize, u64),
    /// A machine starts a process.
    Start(usize),
    /// A machine runs on, or its Keeper's lock is free again.
    Wake(usize),
    /// A dial reaches its target, or fails.
    Dialled(usize, u64, LinkId, String),
    /// A dial has failed.
    DialFailed(usize, u64, LinkId, &'static str),
    /// A member opens a pulse connection; the number says for which wish.
    PulseDial(usize, u64, u64),
    /// The pulse thread of a process beats.
    PulseBeat(usize, u64),
    /// Bytes reach an end of a connection.
    Arrive(u64, usize),
    /// An end reads.
    Read(u64, usize),
    /// An end writes.
    Write(u64, usize),
    /// A process looks for the coordination service.
    ServiceConnect(usize, u64),
    /// The next request of a process takes effect.
    ServiceStep(usize, u64),
    /// A process hears what is next in its inbox.
    ServiceDeliver(usize, u64),
    /// A lagging server has caught up.
    ServiceCatchUp(usize, u64),
    /// The timeout of a session is over; with the process that it belonged to, if that lives.
    SessionExpires(SessionId, Option<(usize, u64)>),
    /// What a dead process had asked for lands.
    LateRequest(SessionId, Box<CoordRequest>),
    /// The coordination service is back.
    ServiceBack,
    /// A client does its next thing.
    ClientTurn(usize),
    /// A client has waited too long; the number says for which request.
    ClientTimeout(usize, u64),
    /// A request reaches a node.
    ServerInput(u64),
    /// A connection that waited tries again.
    ServerResume(u64),
    /// A node learns that a client has gone.
    ServerGone(u64),
    /// Replies reach a client.
    ReplyArrives(u64, Vec<u8>),
    /// A client learns that its connection is over.
    ConnEnds(u64),
    /// A listener does its next thing.
    ListenerTurn(usize),
    /// A node learns that a listener has gone; the number is its connection's.
    ListenerGone(usize, u64, u64),
    /// A process that was told to end looks whether it may.
    Leaving(usize, u64, u64),
    /// The next fault.
    NextFault,
}

#[derive(Debug)]
struct Due {
    at: u64,
    no: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.no) == (other.at, other.no)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.no).cmp(&(other.at, other.no))
    }
}

/// Where a link of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSeat {
    /// Being dialled.
    Dialling,
    /// On this connection, at this end.
    On(u64, usize),
}

/// A pulse connection that a member wants.
#[derive(Clone, Debug)]
pub struct PulseWish {
    pub addr: String,
    pub token: u128,
    pub number: u64,
    pub conn: Option<u64>,
}

/// One process.
pub struct Process {
    pub generation: u64,
    pub keeper: Keeper,
    pub pulse: Arc<PulseCell>,
    pub seat: Seat,
    pub links: BTreeMap<LinkId, LinkSeat>,
    pub pulse_wish: Option<PulseWish>,
    tick_at: u64,
    /// Asked to end.
    pub stopping: bool,
}

/// One machine.
pub struct Node {
    pub name: String,
    pub clock: Clock,
    pub process: Option<Process>,
    /// False after a loss of power, until the next start.
    pub powered: bool,
    /// How often it was started again after one.
    starts: u64,
    /// Its processes stand still until then.
    pub paused_until: u64,
    /// Its Keeper's lock is taken until then.
    pub busy_until: u64,
    /// Copy of its last process, for the lie about it.
    pub last_copy: Option<CopyId>,
}

impl Node {
    /// The process, if it is still that one.
    pub fn process_of(&mut self, generation: u64) -> Option<&mut Process> {
        self.process.as_mut().filter(|p| p.generation == generation)
    }

    /// The Keeper of the process there is.
    pub fn keeper(&self) -> Option<&Keeper> {
        self.process.as_ref().map(|p| &p.keeper)
    }
}

/// Lines kept for a failure's story.
const TRACE_LINES: usize = 4_000;
/// More events than this in one run mean that something spins.
const EVENTS_MAX: u64 = 3_000_000;

/// See the module.
pub struct World {
    pub setup: Setup,
    pub dice: Dice,
    pub t: u64,
    pub step: u64,
    queue: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    pub nodes: Vec<Node>,
    pub conns: BTreeMap<u64, Conn>,
    pub numbers: u64,
    /// Until when nothing gets from one machine to another.
    pub cut_until: Vec<Vec<u64>>,
    pub service: Service,
    pub clients: Vec<Client>,
    pub client_conns: BTreeMap<u64, ClientConn>,
    pub listeners: Vec<Listener>,
    /// When what was acknowledged had grown to what.
    pub ends: Vec<(u64, Offset)>,
    pub ops: Vec<Op>,
    pub checks: Checks,
    pub coverage: Coverage,
    /// Whether faults are let loose.
    pub faulty: bool,
    /// Whether clients go on by themselves.
    pub working: bool,
    /// At some moment no copy that `/state` names was alive.
    pub lost_all: bool,
    pub failure: Option<String>,
    hash: u64,
    tracing: bool,
    story: VecDeque<String>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(setup: Setup, tracing: bool) -> World {
        let mut dice = Dice::new(setup.seed);
        let n = setup.nodes;
        let nodes = (0..n)
            .map(|i| Node {
                name: format!("n{i}"),
                clock: Clock {
                    boot_offset: dice.between(1, 1 << 40),
                    rate_ppm: dice.between(0, 2_000) as i64 - 1_000,
                    wall_offset_ms: dice.between(0, 4_000) as i64 - 2_000,
                },
                process: None,
                powered: true,
                starts: 0,
                paused_until: 0,
                busy_until: 0,
                last_copy: None,
            })
            .collect();
        let mut world = World {
            dice,
            t: 0,
            step: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            nodes,
            conns: BTreeMap::new(),
            numbers: 0,
            cut_until: vec![vec![0; n]; n],
            service: Service::default(),
            clients: Vec::new(),
            client_conns: BTreeMap::new(),
            listeners: Vec::new(),
            ends: Vec::new(),
            ops: Vec::new(),
            checks: Checks::new(n, setup.outcomes_only),
            coverage: Coverage::default(),
            faulty: false,
            working: true,
            lost_all: false,
            failure: None,
            hash: 0xcbf2_9ce4_8422_2325,
            tracing,
            story: VecDeque::new(),
            setup,
        };
        if world.setup.lie == Lie::SlowClock {
            world.nodes[0].clock.rate_ppm = -500_000;
        }
        for i in 0..n {
            let wait = world.dice.below(200 * MS);
            world.after(wait, What::Start(i));
        }
        world.make_clients();
        world.make_listeners();
        world
    }

    /// A fresh number.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Lets something happen at a time.
    pub fn at(&mut self, at: u64, what: What) {
        self.scheduled += 1;
        self.queue.push(Reverse(Due { at: at.max(self.t), no: self.scheduled, what }));
    }

    /// Lets something happen later.
    pub fn after(&mut self, wait: u64, what: What) {
        self.at(self.t + wait, what);
    }

    /// Notes a line for the story of a failure; costs nothing unless the run is traced.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("{:>10.3} ms  {}", self.t as f64 / MS as f64, line());
            if self.story.len() == TRACE_LINES {
                self.story.pop_front();
            }
            self.story.push_back(line);
        }
    }

    /// The last lines of the story.
    pub fn story(&self) -> String {
        self.story.iter().map(|l| format!("{l}\n")).collect()
    }

    /// What happened, as one number: equal for equal seeds.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn stir(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(23);
    }

    /// Ends the run with a complaint; the first one counts.
    pub fn fail(&mut self, text: impl Into<String>) {
        if self.failure.is_none() {
            let text = text.into();
            self.trace(|| format!("FAILURE: {text}"));
            self.failure = Some(text);
        }
    }

    /// Lets everything happen up to a time.
    ///
    /// # Errors
    /// A check has failed.
    pub fn run_until(&mut self, end: u64) -> Result<(), String> {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= end) {
            let Reverse(due) = self.queue.pop().expect("just seen");
            self.t = due.at;
            self.step += 1;
            self.stir(due.at);
            self.stir(due.no);
            self.dispatch(due.what);
            if self.step > EVENTS_MAX {
                self.fail("something spins: too many events");
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.t = end;
        Ok(())
    }

    fn dispatch(&mut self, what: What) {
        match what {
            What::Tick(n, g) => self.on_tick(n, g),
            What::Start(n) => self.start(n),
            What::Wake(n) => self.on_wake(n),
            What::Dialled(n, g, link, addr) => self.on_dialled(n, g, link, &addr),
            What::DialFailed(n, g, link, reason) => self.on_dial_failed(n, g, link, reason),
            What::PulseDial(n, g, number) => self.on_pulse_dial(n, g, number),
            What::PulseBeat(n, g) => self.on_pulse_beat(n, g),
            What::Arrive(conn, way) => self.on_arrive(conn, way),
            What::Read(conn, end) => self.on_read(conn, end),
            What::Write(conn, end) => self.on_write(conn, end),
            What::ServiceConnect(n, g) => self.on_service_connect(n, g),
            What::ServiceStep(n, g) => self.on_service_step(n, g),
            What::ServiceDeliver(n, g) => {
                if self.may_run(n, g, || What::ServiceDeliver(n, g)) {
                    self.on_service_deliver(n, g);
                }
            }
            What::ServiceCatchUp(n, g) => self.on_service_catch_up(n, g),
            What::SessionExpires(session, owner) => self.on_session_expires(session, owner),
            What::LateRequest(session, request) => self.on_late_request(session, &request),
            What::ServiceBack => self.on_service_back(),
            What::ClientTurn(c) => self.on_client_turn(c),
            What::ClientTimeout(c, serial) => self.on_client_timeout(c, serial),
            What::ServerInput(cc) => self.on_server_input(cc),
            What::ServerResume(cc) => self.on_server_resume(cc),
            What::ServerGone(cc) => self.on_server_gone(cc),
            What::ReplyArrives(cc, bytes) => self.on_reply(cc, &bytes),
            What::ConnEnds(cc) => self.on_conn_ends(cc),
            What::ListenerTurn(i) => self.on_listener_turn(i),
            What::ListenerGone(n, g, id) => self.on_listener_gone(n, g, id),
            What::Leaving(n, g, until) => self.on_leaving(n, g, until),
            What::NextFault => self.on_next_fault(),
        }
    }

    /// Whether that process lives and its Keeper can be called now; if it lives and cannot, `again` happens when it can.
    pub fn may_run(&mut self, n: usize, generation: u64, again: impl FnOnce() -> What) -> bool {
        if self.nodes[n].process_of(generation).is_none() {
            return false;
        }
        let until = self.nodes[n].paused_until.max(self.nodes[n].busy_until);
        if until > self.t {
            let wait = until - self.t + self.dice.below(2 * MS);
            self.after(wait, again());
            return false;
        }
        true
    }

    /// Starts a process on a machine that has none.
    pub fn start(&mut self, n: usize) {
        if self.nodes[n].process.is_some() {
            return;
        }
        if !self.nodes[n].powered {
            self.nodes[n].powered = true;
            self.nodes[n].starts += 1;
            self.nodes[n].clock.boot_offset = self.dice.between(MS, 1 << 36);
        }
        self.nodes[n].paused_until = 0;
        self.nodes[n].busy_until = 0;
        let s = &self.setup;
        let mut config = KeeperConfig::new(self.nodes[n].name.parse().expect("a node's name"), "sim");
        config.client_addr = format!("client-{n}:1");
        config.repl_addr = format!("repl-{n}:1");
        config.rank = n as u32;
        config.rules = s.rules;
        config.shared = s.config.clone();
        config.backlog_bytes = s.backlog_bytes;
        config.chunk_bytes = s.chunk_bytes;
        if s.confirms >> n & 1 == 1 {
            config.read_mode = ReadMode::Confirm;
        }
        config.secret = s.secret.then(|| b"a secret".to_vec());
        config.max_staleness_ms = s.max_staleness_ms;
        if s.acks_leader {
            config.acks = Acks::Leader;
        }
        if s.max_memory > 0 {
            (config.settings.max_memory, config.settings.eviction) = (s.max_memory, Eviction::VolatileRandom);
        }
        config.hash_key = HashKey(self.dice.nonce());
        let mut now = self.nodes[n].clock.now(self.t);
        config.started = now.wall;
        config.started.0 += self.number();
        config.run = RunId(u128::from(self.number()));
        config.host = Some(Host {
            boot_id: format!("machine {n}, start {}", self.nodes[n].starts),
            network: 1,
            machine_id: Some(format!("machine {n}")),
            client_bound: config.client_addr.clone(),
            repl_bound: config.repl_addr.clone(),
        });
        now.boot = self.nodes[n].clock.boot(self.t);
        let generation = self.number();
        let mut seed = self.dice.bits();
        if self.setup.lie == Lie::SameCopyAgain {
            seed = 7_000 + n as u64;
        }
        let pulse = Arc::new(PulseCell::new(Pulse::new(CopyId(0), 50, 400, 500)));
        let keeper = Keeper::new(config, seed, now, Arc::clone(&pulse));
        self.nodes[n].process = Some(Process {
            generation,
            keeper,
            pulse,
            seat: Seat::default(),
            links: BTreeMap::new(),
            pulse_wish: None,
            tick_at: u64::MAX,
            stopping: false,
        });
        self.trace(|| format!("n{n} starts (process {generation})"));
        self.call(n, |keeper, now, fx| keeper.start(now, fx));
        self.service_connect_soon(n);
        let wait = self.dice.below(50 * MS);
        self.after(wait, What::PulseBeat(n, generation));
    }

    /// Ends a process. `told`: the other sides of its connections see that.
    pub fn kill(&mut self, n: usize, told: bool) {
        let Some(process) = self.nodes[n].process.take() else { return };
        self.trace(|| format!("n{n} dies (process {}, {}), told {told}", process.generation, process.keeper.role()));
        self.nodes[n].last_copy = Some(process.keeper.me().copy);
        self.nodes[n].powered = told;
        self.end_connections(n, process.generation, told);
        self.end_client_connections(n, process.generation, told);
        self.abandon_seat(process.seat);
        self.checks.died(n);
        self.note_losses();
    }

    /// Whether none of the copies that `/state` names lives, in sync or complete (fallback).
    pub fn note_losses(&mut self) {
        if let Some((state, _)) = self.service.model.state().state {
            let alive = |m: &datakeeper::cluster::state::Member| {
                self.nodes.iter().any(|node| node.keeper().is_some_and(|k| *k.me() == *m))
            };
            if !state.in_sync.iter().chain(&state.fallback).any(alive) && !self.lost_all {
                self.lost_all = true;
                self.coverage.hit("every copy that counts lost");
                self.trace(|| "every copy that counts is lost".to_string());
            }
        }
    }

    fn on_wake(&mut self, n: usize) {
        if let Some(p) = &self.nodes[n].process {
            let generation = p.generation;
            if self.nodes[n].paused_until <= self.t {
                self.trace(|| format!("n{n} runs on"));
                self.at(self.t, What::Tick(n, generation));
                self.service_step_soon(n);
            }
        }
    }

    fn on_tick(&mut self, n: usize, generation: u64) {
        let t = self.t;
        if let Some(p) = self.nodes[n].process_of(generation)
            && p.tick_at <= t
        {
            p.tick_at = u64::MAX;
        }
        if !self.may_run(n, generation, || What::Tick(n, generation)) {
            return;
        }
        let due = self.nodes[n].keeper().expect("just seen").next_deadline() <= self.nodes[n].clock.boot(t);
        if due {
            self.keeper_event(n, Event::Tick);
        } else {
            self.schedule_tick(n);
        }
    }

    fn schedule_tick(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(p) = &node.process else { return };
        let deadline = p.keeper.next_deadline();
        if deadline.0 == u64::MAX {
            return;
        }
        let slack = 30 * US + self.dice.below(MS);
        let at = node.clock.time_of(deadline).max(self.t) + slack;
        let p = self.nodes[n].process.as_mut().expect("just seen");
        // A timer that is set a little earlier than needed does no harm; one that is set late is set anew.
        if at + MS < p.tick_at {
            p.tick_at = at;
            let what = What::Tick(n, p.generation);
            self.at(at, what);
        }
    }

    /// One event for a Keeper.
    pub fn keeper_event(&mut self, n: usize, event: Event) {
        self.call(n, |keeper, now, fx| keeper.handle(now, event, fx));
    }

    /// One call of a Keeper: its effects are carried out, and everything is checked.
    pub fn call<R>(&mut self, n: usize, f: impl FnOnce(&mut Keeper, Now, &mut Effects) -> R) -> Option<R> {
        let now = self.nodes[n].clock.now(self.t);
        let p = self.nodes[n].process.as_mut()?;
        let was = p.keeper.role();
        let mut fx = Effects::new();
        let result = f(&mut p.keeper, now, &mut fx);
        let is = p.keeper.role();
        if was != is {
            self.coverage.hit(&format!("role: {was} -> {is}"));
            self.trace(|| format!("n{n} is {is}"));
        }
        self.perform(n, fx);
        self.schedule_tick(n);
        self.check_node(n);
        Some(result)
    }

    /// Carries out the effects of a call that the caller had kept back.
    pub fn carry_out(&mut self, n: usize, fx: Effects) {
        self.perform(n, fx);
        self.schedule_tick(n);
    }

    fn perform(&mut self, n: usize, fx: Effects) {
        for effect in fx {
            let Some(p) = &mut self.nodes[n].process else { return };
            let generation = p.generation;
            match effect {
                Effect::Dial { link, addr } => {
                    p.links.insert(link, LinkSeat::Dialling);
                    let wait = self.dial_time();
                    self.after(wait, What::Dialled(n, generation, link, addr));
                }
                Effect::WakeLink(link) => {
                    if let Some(LinkSeat::On(conn, end)) = p.links.get(&link).copied() {
                        self.write_soon(conn, end);
                    }
                }
                Effect::Hangup(link) => self.hang_up(n, link),
                Effect::PulseTo { addr, token } => self.pulse_to(n, Some((addr, token))),
                Effect::PulseStop if self.setup.lie == Lie::EchoWhileFrozen => {}
                Effect::PulseStop => self.pulse_to(n, None),
                Effect::Coord(request) => {
                    self.trace(|| {
                        format!("n{n} asks {}", format!("{request:?}").chars().take(110).collect::<String>())
                    });
                    self.service_submit(n, *request);
                }
                Effect::Release { conn, seq } => {
                    self.release(n, conn.0, seq);
                    self.listener_released(conn.0, seq);
                }
                Effect::Resume(conn) => {
                    let wait = self.dice.between(US, 50 * US);
                    self.after(wait, What::ServerResume(conn.0));
                }
                Effect::Push(conn) => {
                    let mut out = Output::new();
                    let _ = p.keeper.take_pushed(conn, &mut out, usize::MAX);
                    self.listener_pushed(conn.0, out.to_vec());
                }
                Effect::CloseClient(conn) => {
                    self.listener_closed(conn.0);
                    self.coverage.hit("client closed: nothing was acknowledged in time");
                    self.close_client(conn.0);
                }
                // A client that has nothing outstanding comes back on another connection: nothing to see here.
                Effect::CloseIdle(_) => {}
                Effect::CloseClients => {
                    self.coverage.hit("clients closed");
                    self.listeners_closed(n);
                    let all: Vec<u64> =
                        self.client_conns.iter().filter(|(_, cc)| cc.node == n).map(|(id, _)| *id).collect();
                    all.into_iter().for_each(|cc| self.close_client(cc));
                }
                Effect::WriteConfig { .. } => unreachable!("simulated nodes have no file"),
                Effect::Log(_) | Effect::Shutdown { .. } => {}
                Effect::Exit { reason } => self.fail(format!("n{n} exits: {reason}")),
                Effect::Notice(notice) => {
                    // That no leader is found for ten seconds may be so; that it ends is for the convergence check.
                    let true_alarm = notice.text.starts_with("no leader, and this node")
                        || notice.text.contains("does not answer here")
                        || self.lost_all && notice.text.contains("ALL DATA ARE LOST")
                        || self.lost_all && notice.text.contains("by an operator")
                        || self.lost_all && notice.text.contains("total_loss: halt waits for an operator");
                    if notice.level == Level::Error && !true_alarm {
                        self.fail(format!("n{n} says at ERROR: {notice}"));
                    }
                    self.count_notice(&notice.text);
                    self.trace(|| format!("n{n} {notice}"));
                }
            }
        }
    }

    /// What is told says what was reached.
    fn count_notice(&mut self, text: &str) {
        for (part, name) in [
            ("on from", "resync: partial"),
            ("cut back", "resync: partial with truncation"),
            ("full resync from", "resync: full begun"),
            ("full resync complete", "resync: full complete"),
            ("was interrupted", "resync: full interrupted"),
            ("epoch changed before", "resync: full overtaken by an election"),
            ("gave copy", "copy given up"),
            ("has to resync fully", "copy cannot be continued"),
            ("stepping down", "leader stepped down"),
            ("as a fallback copy", "fallback copy stands"),
            ("out of the in-sync set", "set shrunk"),
            ("into the in-sync set", "set expanded"),
            ("lost the change", "change lost"),
            ("standing for", "stood"),
            ("nothing acknowledged for", "deaf link closed"),
        ] {
            if text.contains(part) {
                self.coverage.hit(name);
            }
        }
    }

    /// Checks what one call may have changed.
    fn check_node(&mut self, n: usize) {
        let view = View { t: self.t, nodes: &self.nodes, model: &self.service.model };
        if let Err(text) = self.checks.after_call(n, &view, &mut self.coverage) {
            self.fail(text);
        }
        let end = self.checks.history.end();
        if self.ends.last().is_some_and(|(_, last)| *last > end) {
            self.ends.clear();
        }
        if self.ends.last().is_none_or(|(_, last)| *last < end) {
            self.ends.push((self.t, end));
        }
    }

    /// What was acknowledged at that time; nothing is known of what was before a reset.
    pub fn end_at(&self, t: u64) -> Offset {
        let known = self.ends.partition_point(|(at, _)| *at <= t);
        known.checked_sub(1).map_or(Offset::ZERO, |i| self.ends[i].1)
    }

    /// Checks what a change of `/state` may have broken.
    pub fn check_state(&mut self) {
        let view = View { t: self.t, nodes: &self.nodes, model: &self.service.model };
        if let Err(text) = self.checks.after_state(&view) {
            self.fail(text);
        }
        self.note_losses();
    }

    /// The ready leader of the present epoch, if there is one.
    pub fn leader(&self) -> Option<usize> {
        let (state, _) = self.service.model.state().state?;
        self.nodes
            .iter()
            .position(|node| node.keeper().is_some_and(|k| k.role() == Role::Leader && *k.me() == state.leader))
    }
}
