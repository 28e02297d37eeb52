//! Faults that a test asks for by name: what is stopped, lost, late or asleep in a [`World`], and what is on its way there.
//!
//! ```text
//!   stop(0, 1) … let_through(0, 1)   what n0 sends to n1 waits, as TCP would have it, then arrives in order
//!   take(0, 1), arrive(parcel)       the test decides what arrives, and when
//!   lose_link(0, 1, &[0])            their connections are over; each side is told, or not
//!   stand_still(0) … wake(0)         the process stands still; what was sent to it is read when it runs on
//!   unserve(0) … serve(0)            the coordination service answers n0 late
//!   lands(0)                         the request in front takes effect, and n0 does not hear so
//!   expire(0), kill(0), haunt(…)     sessions that end; what a dead process had asked for takes effect
//! ```

use std::collections::VecDeque;

use datakeeper::cluster::coordinator::{CoordEvent, CoordRequest, StateRead};
use datakeeper::cluster::state::{ClusterState, Why};
use datakeeper::keeper::Event;
use datakeeper::replication::wire::{self, Frame};
use datakeeper::shell::coordination::model::{Client, Fate};

use super::world::{Parcel, Request, What, World};

impl World {
    /// What `from` sends to `to` waits from here on.
    pub fn stop(&mut self, from: usize, to: usize) {
        self.stopped.insert((from, to));
    }

    /// The same once so many more parcels have passed: frames, ends of links, beats and echoes.
    pub fn stop_after(&mut self, from: usize, to: usize, parcels: usize) {
        self.passing.insert((from, to), parcels);
    }

    /// What waits arrives in order, and so does what follows.
    pub fn let_through(&mut self, from: usize, to: usize) {
        self.stopped.remove(&(from, to));
        self.passing.remove(&(from, to));
        self.flush();
        self.settle();
    }

    /// Nothing that this node and the others send each other arrives.
    pub fn isolate(&mut self, i: usize) {
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            self.stop(i, j);
            self.stop(j, i);
        }
    }

    /// The network is as it was.
    pub fn heal(&mut self) {
        self.stopped.clear();
        self.passing.clear();
        self.flush();
        self.settle();
    }

    /// Frames on links that wait on their way.
    pub fn frames(&self, from: usize, to: usize) -> Vec<Frame> {
        let waiting = self.on_the_way.get(&(from, to)).into_iter().flatten();
        waiting.filter_map(Parcel::frame).collect()
    }

    /// Takes what waits off its way: whether and when it arrives is the test's business.
    pub fn take(&mut self, from: usize, to: usize) -> Vec<Parcel> {
        self.on_the_way.remove(&(from, to)).unwrap_or_default().into()
    }

    /// Lets parcels that were taken off their way arrive now.
    pub fn arrive_all(&mut self, parcels: Vec<Parcel>) {
        for parcel in parcels {
            self.arrive(parcel);
        }
        self.settle();
    }

    /// The connections between two nodes break, and both notice.
    pub fn break_link(&mut self, a: usize, b: usize) {
        self.lose_link(a, b, &[a, b]);
    }

    /// They break with all that is on its way; who is told notices.
    pub fn lose_link(&mut self, leader: usize, follower: usize, told: &[usize]) {
        let links = &self.nodes[leader].as_ref().unwrap().links;
        let both: Vec<_> = links.iter().filter(|(_, far)| far.node == follower).map(|(l, far)| (*l, *far)).collect();
        assert!(!both.is_empty(), "no link between n{leader} and n{follower}");
        for (link, far) in both {
            for (from, to, at) in [(leader, follower, far.link), (follower, leader, link)] {
                let on_it = |p: &Parcel| matches!(p.what, What::Frame(l, _) | What::Down(l) if l == at);
                if let Some(queue) = self.on_the_way.get_mut(&(from, to)) {
                    queue.retain(|p| !on_it(p));
                }
                self.nodes[to].as_mut().unwrap().links.remove(&at);
            }
            for (node, at) in [(follower, far.link), (leader, link)] {
                if told.contains(&node) {
                    self.event(node, Event::LinkDown { link: at, reason: "broken".into() });
                }
            }
        }
        self.settle();
    }

    /// The process stands still.
    pub fn stand_still(&mut self, i: usize) {
        self.asleep.insert(i);
    }

    /// It runs on, and reads what came meanwhile.
    pub fn wake(&mut self, i: usize) {
        self.asleep.remove(&i);
        self.flush();
        self.settle();
    }

    /// The coordination service does not get to these nodes' requests, and tells them nothing.
    pub fn unserve(&mut self, nodes: &[usize]) {
        self.unserved.extend(nodes);
    }

    /// It does again.
    pub fn serve(&mut self, nodes: &[usize]) {
        self.unserved.retain(|i| !nodes.contains(i));
        self.settle();
    }

    /// One of them is told what it was not told yet, and still gets no answers.
    pub fn told_all(&mut self, i: usize) {
        for event in self.untold.remove(&i).unwrap_or_default() {
            self.event(i, Event::Coord(Box::new(event)));
        }
    }

    /// One of them is told what changed in the directory, and nothing else.
    pub fn told_of_nodes(&mut self, i: usize) {
        let untold = self.untold.remove(&i).unwrap_or_default();
        let (nodes, rest): (VecDeque<_>, VecDeque<_>) =
            untold.into_iter().partition(|event| matches!(event, CoordEvent::Nodes { .. }));
        self.untold.insert(i, rest);
        for event in nodes {
            self.event(i, Event::Coord(Box::new(event)));
        }
    }

    /// The request in front takes effect, and its answer is lost: it is asked again.
    pub fn lands(&mut self, i: usize) {
        let node = self.nodes[i].as_mut().unwrap();
        assert!(node.coordinator.front().is_some(), "n{i} asks for nothing");
        assert!(node.coordinator.step(&mut self.model, Fate::AnswerLost).is_empty());
        self.settle();
    }

    /// The session of that node is over, whether it knows or not.
    pub fn expire(&mut self, i: usize) {
        let session = self.nodes[i].as_ref().and_then(|n| n.coordinator.session()).expect("it had one");
        self.model.end_session(session);
        self.settle();
    }

    /// The request that a dead process had in flight takes effect.
    pub fn haunt(&mut self, dead: &Client) {
        let (session, request) = (dead.session().expect("it had one"), dead.front().expect("it asked for something"));
        self.model.apply(session, request);
        self.settle();
    }

    /// A node is told what `/state` was that many changes ago, as by a server that lags.
    pub fn tell_old_state(&mut self, i: usize, changes: usize) {
        let read = StateRead { confirmed: false, ..self.model.state_before(changes) };
        self.event(i, Event::Coord(Box::new(CoordEvent::State(read))));
        self.settle();
    }

    /// What a node asks of the coordination service next.
    pub fn asks(&self, i: usize) -> Option<&CoordRequest> {
        self.nodes[i].as_ref().and_then(|n| n.coordinator.front())
    }

    /// Why a node wants `/state` changed, if the request for it is what waits in front.
    pub fn wants(&self, i: usize) -> Option<Why> {
        match self.asks(i)? {
            CoordRequest::Cas { want, .. } | CoordRequest::Bootstrap { want, .. } => Some(want.change.why),
            _ => None,
        }
    }

    /// `/state`.
    pub fn state(&self) -> ClusterState {
        self.model.state().state.expect("it was created").0
    }

    /// The nodes in the in-sync set, in its order.
    pub fn set(&self) -> Vec<String> {
        self.state().in_sync.iter().map(|m| m.id.to_string()).collect()
    }

    /// Whether the in-sync set names the copy that this node holds now.
    pub fn names(&self, i: usize) -> bool {
        self.state().names(self.keeper(i).me())
    }

    /// Begins a write on a new connection.
    pub fn write(&mut self, i: usize, key: &str, value: &str) -> Request {
        let conn = self.connect(i);
        self.request(i, conn, &["SET", key, value])
    }

    /// Begins a read on a new connection.
    pub fn read(&mut self, i: usize, key: &str) -> Request {
        let conn = self.connect(i);
        self.request(i, conn, &["GET", key])
    }

    /// Whether the node closed the connection: what became of its request is not known.
    pub fn is_closed(&self, request: &Request) -> bool {
        self.nodes[request.node].as_ref().is_none_or(|n| n.closed.contains(&request.conn))
    }

    /// The value of a key, as a client reads it there.
    pub fn value(&mut self, i: usize, key: &str) -> Option<String> {
        let reply = self.ask(i, &["GET", key]);
        match reply.strip_prefix('$').and_then(|r| r.split_once("\r\n")) {
            Some(("-1", _)) => None,
            Some((_, value)) => Some(value.trim_end().to_string()),
            None => panic!("n{i} answers GET {key} with {reply}"),
        }
    }

    /// Whether a node's log was told something.
    pub fn told(&self, i: usize, text: &str) -> bool {
        self.nodes[i].as_ref().unwrap().notices.iter().any(|n| n.contains(text))
    }
}

impl Parcel {
    /// The frame in it, if it is one on a link.
    pub fn frame(&self) -> Option<Frame> {
        match &self.what {
            What::Frame(_, bytes) => Some(wire::decode(bytes).expect("a Keeper made it")),
            What::Down(_) | What::Beat(..) | What::Echo(..) => None,
        }
    }
}

impl Request {
    /// What was answered so far.
    pub fn reply(&self) -> String {
        String::from_utf8(self.out.to_vec()).unwrap()
    }
}
