//! Links and pulses: what the shell's tasks and the network between them do.

use bytes::Bytes;
use datakeeper::base::ids::LinkId;
use datakeeper::keeper::{Event, LinkPoll};
use datakeeper::replication::wire::{self, Frame, Opening};

use crate::clock::{MS, US};
use crate::network::{Conn, Piece, Seat, frames};
use crate::setup::Lie;
use crate::world::{LinkSeat, PulseWish, What, World};

/// Bytes of pulses that may be unread before the pulse thread leaves one out.
const PULSE_WINDOW: usize = 4_000;

/// Bytes that arrive together at most.
const PIECE_BYTES_MAX: usize = 16 << 10;

impl World {
    fn delay(&mut self) -> u64 {
        self.setup.latency + self.dice.below(self.setup.jitter + 1)
    }

    pub fn dial_time(&mut self) -> u64 {
        2 * self.delay()
    }

    fn node_at(&self, addr: &str) -> usize {
        let number = addr.trim_start_matches("repl-").trim_end_matches(":1");
        number.parse().expect("a replication address of this world")
    }

    /// Connects two machines, as far as their kernels can. `Err`: what the dialler sees, and whether it sees it at once.
    fn connect(&mut self, n: usize, generation: u64, seat: Seat, addr: &str) -> Result<u64, (&'static str, bool)> {
        let to = self.node_at(addr);
        let blocked = self.cut_until[n][to] > self.t || self.cut_until[to][n] > self.t || !self.nodes[to].powered;
        if blocked {
            return Err(("timed out", false));
        }
        let Some(p) = &self.nodes[to].process else { return Err(("refused", true)) };
        let conn = Conn::new((n, generation), seat, (to, p.generation));
        let id = self.number();
        self.conns.insert(id, conn);
        Ok(id)
    }

    pub fn on_dialled(&mut self, n: usize, generation: u64, link: LinkId, addr: &str) {
        if !self.may_run(n, generation, || What::Dialled(n, generation, link, addr.to_string())) {
            return;
        }
        let p = self.nodes[n].process_of(generation).expect("it may run");
        if p.links.get(&link) != Some(&LinkSeat::Dialling) {
            return;
        }
        match self.connect(n, generation, Seat::Link(link), addr) {
            Ok(conn) => {
                let p = self.nodes[n].process_of(generation).expect("it may run");
                p.links.insert(link, LinkSeat::On(conn, 0));
                self.put(conn, 0, wire::link_open());
                let nonce = self.dice.nonce();
                self.trace(|| format!("n{n} link {link} to {addr} is connection {conn}"));
                self.keeper_event(n, Event::LinkUp { link, nonce });
                self.write_soon(conn, 0);
            }
            Err((reason, at_once)) => {
                self.coverage.hit(if at_once { "dial refused" } else { "dial timed out" });
                let wait = if at_once { 0 } else { self.dice.between(100, 1_000) * MS };
                self.after(wait, What::DialFailed(n, generation, link, reason));
            }
        }
    }

    pub fn on_dial_failed(&mut self, n: usize, generation: u64, link: LinkId, reason: &'static str) {
        if !self.may_run(n, generation, || What::DialFailed(n, generation, link, reason)) {
            return;
        }
        let p = self.nodes[n].process_of(generation).expect("it may run");
        if p.links.remove(&link).is_some() {
            self.keeper_event(n, Event::LinkDown { link, reason: reason.to_string() });
        }
    }

    /// The writer of an end gets a turn before long.
    pub fn write_soon(&mut self, conn: u64, end: usize) {
        let wait = self.dice.between(5 * US, 100 * US);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if !c.ends[end].closed && !std::mem::replace(&mut c.ends[end].write_due, true) {
            self.after(wait, What::Write(conn, end));
        }
    }

    fn read_soon(&mut self, conn: u64, end: usize, wait: u64) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if !c.ends[end].closed && !std::mem::replace(&mut c.ends[end].read_due, true) {
            self.after(wait, What::Read(conn, end));
        }
    }

    pub fn on_write(&mut self, conn: u64, end: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let e = c.ends[end].clone();
        c.ends[end].write_due = false;
        let Seat::Link(link) = e.seat else { return };
        if e.closed {
            return;
        }
        if !self.may_run(e.node, e.generation, || What::Write(conn, end)) {
            if let Some(c) = self.conns.get_mut(&conn) {
                c.ends[end].write_due = true;
            }
            return;
        }
        for _ in 0..4 {
            if self.conns[&conn].ways[end].unread > self.setup.window_bytes {
                // The reader's progress wakes it again.
                self.coverage.hit("writer waits for a slow reader");
                return;
            }
            match self.poll(conn, end, link) {
                LinkPoll::Idle => return,
                LinkPoll::More => {}
                LinkPoll::Gone => {
                    let p = self.nodes[e.node].process_of(e.generation).expect("it may run");
                    p.links.remove(&link);
                    return self.close(conn, end);
                }
            }
        }
        self.write_soon(conn, end);
    }

    /// Asks the Keeper for the bytes of a link and puts them on the wire.
    fn poll(&mut self, conn: u64, end: usize, link: LinkId) -> LinkPoll {
        let c = &self.conns[&conn];
        let (n, peer) = (c.ends[end].node, c.ends[1 - end].node);
        let now = self.nodes[n].clock.now(self.t);
        let p = self.nodes[n].process.as_mut().expect("it may run");
        let mut out: Vec<Bytes> = Vec::new();
        let poll = p.keeper.poll_link(now, link, &mut out);
        let bytes = Bytes::from(out.concat());
        for frame in frames(bytes.clone()) {
            match wire::decode(&frame) {
                Ok(Frame::Ack(ack)) => self.saw_ack(n, ack.epoch, "acknowledged"),
                Ok(Frame::Append(_, head, _)) if self.setup.lie == Lie::AckForAnother && head.count > 0 => {
                    self.lie_about_ack(n, link, peer, head.first.0 + u64::from(head.count) - 1);
                }
                Ok(_) => {}
                Err(error) => self.fail(format!("n{n} writes what it could not read itself: {error}")),
            }
        }
        if !bytes.is_empty() {
            self.put(conn, end, bytes);
        }
        poll
    }

    /// The lie: an acknowledgement that no member gave.
    fn lie_about_ack(&mut self, n: usize, link: LinkId, peer: usize, to: u64) {
        let Some(member) = self.nodes[peer].process.as_ref() else { return };
        let p = self.nodes[n].process.as_ref().expect("it writes");
        let Some((epoch, _)) = p.keeper.leadership() else { return };
        let ack = wire::Ack {
            epoch,
            copy: member.keeper.me().copy,
            matched: datakeeper::base::ids::Offset(to),
            applied: datakeeper::base::ids::Offset(0),
            sent_at: 0,
            promise_ms: 500,
            clock: datakeeper::base::clock::Wall(0),
            whole: true,
        };
        let frame = wire::ack(&ack).slice(4..);
        self.keeper_event(n, Event::LinkFrame { link, frame });
    }

    /// Puts bytes on the wire, whole or in pieces.
    pub fn put(&mut self, conn: u64, end: usize, mut bytes: Bytes) {
        let (cuts, bandwidth) = (self.setup.cuts, self.setup.bandwidth);
        loop {
            let take = if bytes.len() > 1 && self.dice.chance(cuts) {
                self.dice.between(1, bytes.len() as u64 - 1) as usize
            } else {
                bytes.len()
            };
            // The first bytes of much arrive long before the last ones.
            let take = take.min(PIECE_BYTES_MAX);
            let piece = bytes.split_to(take);
            let is_stream = self.conns.get(&conn).is_some_and(|c| matches!(c.ends[end].seat, Seat::Link(_)));
            let queue = if is_stream { self.setup.queue } else { 0 };
            let wait = self.delay() + queue + take as u64 * MS / bandwidth;
            self.send_piece(conn, end, wait, Piece::Data(piece));
            if bytes.is_empty() {
                return;
            }
        }
    }

    fn send_piece(&mut self, conn: u64, end: usize, wait: u64, piece: Piece) {
        let t = self.t;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let way = &mut c.ways[end];
        // A slow link delays what comes after as well.
        let take = if let Piece::Data(b) = &piece { b.len() } else { 0 };
        let busy = take as u64 * MS / self.setup.bandwidth;
        let at = (t + wait).max(way.last_at + busy);
        way.last_at = at;
        way.unread += take;
        way.wire.push_back((at, piece));
        if !std::mem::replace(&mut way.arrive_due, true) {
            self.at(at, What::Arrive(conn, end));
        }
    }

    pub fn on_arrive(&mut self, conn: u64, w: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (from, to) = (c.ends[w].node, c.ends[1 - w].node);
        c.ways[w].arrive_due = false;
        if c.ways[w].hole {
            c.ways[w].wire.clear();
            return;
        }
        let until = self.cut_until[from][to].max(c.ways[w].stalled_until);
        let down = !self.nodes[to].powered;
        if until > self.t || down {
            // Sent again and again by the kernel, until it gets through.
            c.ways[w].arrive_due = true;
            let wait = until.saturating_sub(self.t) + self.dice.between(1, 200) * MS;
            return self.after(wait, What::Arrive(conn, w));
        }
        let t = self.t;
        let c = self.conns.get_mut(&conn).expect("just seen");
        let mut answered = false;
        while c.ways[w].wire.front().is_some_and(|(at, _)| *at <= t) {
            let (_, piece) = c.ways[w].wire.pop_front().expect("just seen");
            if c.ends[1 - w].closed {
                // Nobody is there any more: a reset goes back.
                answered = true;
                continue;
            }
            match piece {
                Piece::Data(bytes) => c.ways[w].recv.extend_from_slice(&bytes),
                Piece::Fin => c.ways[w].fin = true,
            }
        }
        let next = c.ways[w].wire.front().map(|(at, _)| *at);
        c.ways[w].arrive_due = next.is_some();
        if let Some(next) = next {
            self.at(next, What::Arrive(conn, w));
        }
        if answered {
            self.send_piece(conn, 1 - w, MS / 10, Piece::Fin);
        }
        let wait = self.dice.below(30 * US);
        self.read_soon(conn, 1 - w, wait);
    }

    pub fn on_read(&mut self, conn: u64, end: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let e = c.ends[end].clone();
        c.ends[end].read_due = false;
        if e.closed {
            return;
        }
        let is_pulse = matches!(e.seat, Seat::PulseIn(_) | Seat::PulseOut);
        if is_pulse {
            // The pulse thread needs no Keeper.
            if self.nodes[e.node].process_of(e.generation).is_none() {
                return;
            }
            let until = self.nodes[e.node].paused_until;
            if until > self.t {
                let wait = until - self.t + self.dice.below(2 * MS);
                return self.read_soon(conn, end, wait);
            }
        } else if !self.may_run(e.node, e.generation, || What::Read(conn, end)) {
            if let Some(c) = self.conns.get_mut(&conn) {
                c.ends[end].read_due = true;
            }
            return;
        }
        loop {
            let Some(c) = self.conns.get_mut(&conn).filter(|c| !c.ends[end].closed) else { return };
            let Some(frame) = c.take_frame(end) else { break };
            self.write_soon(conn, 1 - end);
            self.take_frame(conn, end, frame);
            if self.failure.is_some() {
                return;
            }
            if self.dice.chance(250) {
                // Others get a turn between two frames.
                let wait = self.dice.between(US, 300 * US);
                return self.read_soon(conn, end, wait);
            }
        }
        if self.conns.get(&conn).is_some_and(|c| !c.ways[1 - end].recv.is_empty()) {
            self.coverage.hit("network: part of a frame arrived");
        }
        if self.conns.get(&conn).is_some_and(|c| c.ways[1 - end].fin && !c.ends[end].closed) {
            self.read_end(conn, end);
        }
    }

    fn take_frame(&mut self, conn: u64, end: usize, frame: Bytes) {
        let e = self.conns[&conn].ends[end].clone();
        let n = e.node;
        match e.seat {
            Seat::Link(link) => self.keeper_event(n, Event::LinkFrame { link, frame }),
            Seat::Fresh => match wire::opening(&frame) {
                Ok(Opening::Link) => {
                    let (nonce, token) = (self.dice.nonce(), self.dice.token());
                    let link = self
                        .call(n, |keeper, now, fx| keeper.link_accepted(now, nonce, token, fx))
                        .expect("it may run");
                    let p = self.nodes[n].process.as_mut().expect("it may run");
                    p.links.insert(link, LinkSeat::On(conn, end));
                    self.conns.get_mut(&conn).expect("just seen").ends[end].seat = Seat::Link(link);
                    self.write_soon(conn, end);
                }
                Ok(Opening::Pulse(token)) => {
                    let p = self.nodes[n].process.as_ref().expect("it may run");
                    if p.pulse.lock().opened(token) {
                        self.conns.get_mut(&conn).expect("just seen").ends[end].seat = Seat::PulseIn(token);
                    } else {
                        self.close(conn, end);
                    }
                }
                Err(_) => self.close(conn, end),
            },
            Seat::PulseIn(token) => {
                let now = self.nodes[n].clock.now(self.t);
                let p = self.nodes[n].process.as_ref().expect("it reads");
                let done = p.pulse.lock().echoed(now, token, &frame);
                if done.is_err() {
                    self.close(conn, end);
                }
                self.check_pulses();
            }
            Seat::PulseOut => {
                let now = self.nodes[n].clock.now(self.t);
                let p = self.nodes[n].process.as_ref().expect("it reads");
                let heard = p.pulse.lock().heard(now, &frame);
                match heard {
                    Ok(Some(echo)) => self.echo(conn, end, echo),
                    Ok(None) => {
                        self.coverage.hit("beat not answered");
                        if self.setup.lie == Lie::EchoWhileFrozen
                            && let Ok(Frame::Beat(beat)) = wire::decode(&frame)
                        {
                            let p = self.nodes[n].process.as_ref().expect("it reads");
                            let (copy, promise_ms) = (p.keeper.me().copy, 500);
                            let (epoch, sent_at) = (beat.epoch, beat.sent_at);
                            let echo = wire::Echo { epoch, copy, sent_at, promise_ms, wall: None };
                            self.echo(conn, end, wire::echo(&echo));
                        }
                    }
                    Err(_) => self.close(conn, end),
                }
                self.check_pulses();
            }
        }
    }

    fn echo(&mut self, conn: u64, end: usize, echo: Bytes) {
        let n = self.conns[&conn].ends[end].node;
        if let Ok(Frame::Echo(e)) = wire::decode(&echo.slice(4..)) {
            self.saw_ack(n, e.epoch, "echoed a beat");
        }
        self.put(conn, end, echo);
    }

    /// An end has read everything, and the other side has closed.
    fn read_end(&mut self, conn: u64, end: usize) {
        let e = self.conns[&conn].ends[end].clone();
        self.close(conn, end);
        match e.seat {
            Seat::Link(link) => {
                let p = self.nodes[e.node].process_of(e.generation).expect("it reads");
                if p.links.remove(&link).is_some() {
                    self.trace(|| format!("n{} link {link} has ended", e.node));
                    self.keeper_event(
                        e.node,
                        Event::LinkDown { link, reason: "connection closed by the other side".to_string() },
                    );
                }
            }
            Seat::PulseOut => self.pulse_redial(e.node, e.generation, conn),
            Seat::PulseIn(_) | Seat::Fresh => {}
        }
    }

    /// Closes one end; the other side learns of it behind the bytes that were written.
    pub fn close(&mut self, conn: u64, end: usize) {
        let wait = self.delay();
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if std::mem::replace(&mut c.ends[end].closed, true) {
            return;
        }
        let seat = c.ends[end].seat;
        let (node, generation) = (c.ends[end].node, c.ends[end].generation);
        c.ways[1 - end].recv.clear();
        if c.ends.iter().all(|e| e.closed) {
            self.conns.remove(&conn);
        } else {
            self.send_piece(conn, end, wait, Piece::Fin);
        }
        if seat == Seat::PulseOut {
            self.pulse_redial(node, generation, conn);
        }
    }

    pub fn hang_up(&mut self, n: usize, link: LinkId) {
        let p = self.nodes[n].process.as_mut().expect("it acts");
        match p.links.remove(&link) {
            Some(LinkSeat::On(conn, end)) => {
                if self.conns.get(&conn).is_some_and(|c| !c.ends[end].closed) {
                    self.poll(conn, end, link);
                }
                self.close(conn, end);
            }
            Some(LinkSeat::Dialling) | None => {}
        }
    }

    /// A process died: its connections end, told or not.
    pub fn end_connections(&mut self, n: usize, generation: u64, told: bool) {
        let mine: Vec<(u64, usize)> = self
            .conns
            .iter()
            .flat_map(|(id, c)| {
                (0..2).filter(|e| (c.ends[*e].node, c.ends[*e].generation) == (n, generation)).map(|e| (*id, e))
            })
            .collect();
        for (conn, end) in mine {
            if told {
                self.lose_tail(conn, end);
                self.close(conn, end);
            } else if let Some(c) = self.conns.get_mut(&conn) {
                c.ends[end].closed = true;
                if self.dice.chance(500) {
                    c.ways[end].hole = true;
                }
                if c.ends.iter().all(|e| e.closed) {
                    self.conns.remove(&conn);
                }
            }
        }
    }

    /// Part of what is on its way from an end may never arrive.
    pub fn lose_tail(&mut self, conn: u64, end: usize) {
        if !self.dice.chance(500) {
            return;
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let way = &mut c.ways[end];
        let pieces = way.wire.len() as u64;
        let keep = self.dice.below(pieces + 1) as usize;
        for (_, piece) in way.wire.drain(keep..) {
            if let Piece::Data(bytes) = piece {
                way.unread -= bytes.len();
            }
        }
        if let Some((_, Piece::Data(last))) = way.wire.back_mut() {
            let len = last.len();
            let keep = self.dice.below(len as u64 + 1) as usize;
            self.coverage.hit("network: cut inside a piece");
            last.truncate(keep);
            way.unread -= len - keep;
        }
    }

    /// A connection breaks: each side learns of it, or not.
    pub fn break_connection(&mut self, conn: u64) {
        for end in 0..2 {
            self.lose_tail(conn, end);
        }
        let told = self.dice.pick(&[[true, true], [true, false], [false, true], [false, false]]);
        if told[0] != told[1] {
            self.coverage.hit("network: half-open connection");
        }
        let wait = self.delay();
        for (end, told) in told.into_iter().enumerate() {
            if told {
                self.send_piece(conn, end, wait, Piece::Fin);
            } else if let Some(c) = self.conns.get_mut(&conn) {
                c.ways[end].hole = true;
            }
        }
    }

    // Pulses.

    pub fn pulse_to(&mut self, n: usize, wish: Option<(String, u128)>) {
        let number = self.number();
        let p = self.nodes[n].process.as_mut().expect("it acts");
        let generation = p.generation;
        let wish = wish.map(|(addr, token)| PulseWish { addr, token, number, conn: None });
        let is_wished = wish.is_some();
        let former = std::mem::replace(&mut p.pulse_wish, wish);
        if let Some(conn) = former.and_then(|w| w.conn) {
            self.close(conn, 0);
        }
        if is_wished {
            let wait = self.dial_time();
            self.after(wait, What::PulseDial(n, generation, number));
        }
    }

    pub fn on_pulse_dial(&mut self, n: usize, generation: u64, number: u64) {
        let until = self.nodes[n].paused_until;
        let t = self.t;
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        if until > t {
            return self.at(until, What::PulseDial(n, generation, number));
        }
        let Some(wish) = p.pulse_wish.clone().filter(|w| w.number == number && w.conn.is_none()) else { return };
        match self.connect(n, generation, Seat::PulseOut, &wish.addr) {
            Ok(conn) => {
                let p = self.nodes[n].process_of(generation).expect("just seen");
                p.pulse_wish.as_mut().expect("just seen").conn = Some(conn);
                self.put(conn, 0, wire::pulse_hello(wish.token));
            }
            Err(_) => {
                let wait = self.dice.between(20, 300) * MS;
                self.after(wait, What::PulseDial(n, generation, number));
            }
        }
    }

    fn pulse_redial(&mut self, n: usize, generation: u64, conn: u64) {
        let wait = self.dice.between(20, 100) * MS;
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        let Some(wish) = p.pulse_wish.as_mut().filter(|w| w.conn == Some(conn)) else { return };
        wish.conn = None;
        let number = wish.number;
        self.after(wait, What::PulseDial(n, generation, number));
    }

    pub fn on_pulse_beat(&mut self, n: usize, generation: u64) {
        let until = self.nodes[n].paused_until;
        let (t, now) = (self.t, self.nodes[n].clock.now(self.t));
        let Some(p) = self.nodes[n].process_of(generation) else { return };
        if until > t {
            return self.at(until, What::PulseBeat(n, generation));
        }
        let (beat, period) = {
            let mut pulse = p.pulse.lock();
            (pulse.beat(now), pulse.heartbeat_ms())
        };
        if let Some(beat) = beat {
            let conns: Vec<(u64, usize)> = self
                .conns
                .iter()
                .filter(|(_, c)| {
                    let e = &c.ends[1];
                    (e.node, e.generation) == (n, generation) && matches!(e.seat, Seat::PulseIn(_)) && !e.closed
                })
                .filter(|(_, c)| c.ways[1].unread < PULSE_WINDOW)
                .map(|(id, _)| (*id, 1))
                .collect();
            for (conn, end) in conns {
                let Seat::PulseIn(token) = self.conns[&conn].ends[end].seat else { continue };
                if self.nodes[n].process.as_ref().is_some_and(|p| p.pulse.lock().opened(token)) {
                    self.put(conn, end, beat.clone());
                } else {
                    self.close(conn, end);
                }
            }
        }
        let wait = period.max(1) * MS + self.dice.below(MS);
        self.after(wait, What::PulseBeat(n, generation));
    }

    fn saw_ack(&mut self, n: usize, epoch: datakeeper::base::ids::Epoch, what: &str) {
        let frozen = self.nodes[n].keeper().is_some_and(|k| k.pending_change().is_some_and(|(_, leads)| leads));
        if let Err(text) = self.checks.saw_ack(n, epoch, frozen, what) {
            self.fail(text);
        }
    }

    fn check_pulses(&mut self) {
        let view = crate::checks::View { t: self.t, nodes: &self.nodes, model: &self.service.model };
        if let Err(text) = self.checks.after_pulse(&view) {
            self.fail(text);
        }
    }
}
