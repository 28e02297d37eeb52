//! Connections that listen, and what they may hear: subscribers, caching clients, readers after a position.
//!
//! A message is delivered at most once, and those of one sender in their order. A caching client may hold a value that is not the node's any more
//! only until it is told so, or loses its connection: at rest, what it holds is what the node holds. Who asked for a position reads nothing older.
//! There is no network between these and their node: what a node lets leave has arrived.

use std::collections::{BTreeMap, VecDeque};

use datakeeper::base::ids::ConnId;
use datakeeper::keeper::{Next, Work};
use datakeeper::resp::{Batch, Output};

use crate::clients::REGISTERS;
use crate::clock::{MS, US};
use crate::world::{What, World};

const CHANNEL: &str = "news";

/// What a listener is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Publishes.
    Publisher,
    /// Is subscribed.
    Subscriber,
    /// Reads, keeps what it has read, and is told when that is no more.
    Cache,
    /// Reads what is at least as new as a position.
    After,
}

const KINDS: [Kind; 7] =
    [Kind::Publisher, Kind::Publisher, Kind::Subscriber, Kind::Subscriber, Kind::Cache, Kind::Cache, Kind::After];

/// One of them, and its connection.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    conn: Option<Conn>,
}

#[derive(Debug)]
struct Conn {
    id: u64,
    node: usize,
    generation: u64,
    /// What has not left yet, each with the number it is held under.
    held: VecDeque<(Option<u64>, Vec<u8>)>,
    released: u64,
    /// Keys whose values the next replies are; none: a reply that says nothing.
    asked: VecDeque<Option<&'static str>>,
    cached: BTreeMap<String, Option<Vec<u8>>>,
    /// The latest number of each sender.
    heard: BTreeMap<u64, u64>,
    published: u64,
}

/// A value of RESP3, as far as these need it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Push(Vec<Value>),
    Text(Vec<u8>),
    Error(String),
    Null,
    Other,
}

fn parse(rest: &mut &[u8]) -> Option<Value> {
    let end = rest.windows(2).position(|w| w == b"\r\n")?;
    let (kind, line) = (rest[0], String::from_utf8_lossy(&rest[1..end]).into_owned());
    *rest = &rest[end + 2..];
    let count = |times: usize| line.parse::<usize>().expect("a length") * times;
    let mut many = |times: usize| (0..count(times)).map(|_| parse(rest)).collect::<Option<Vec<Value>>>();
    Some(match kind {
        b'>' => Value::Push(many(1)?),
        b'*' | b'~' => {
            let items = many(1)?;
            if let [Value::Text(_), ..] = &items[..] { Value::Push(items) } else { Value::Other }
        }
        b'%' => {
            many(2)?;
            Value::Other
        }
        b'$' if line == "-1" => Value::Null,
        b'$' => {
            let text = rest.get(..count(1))?.to_vec();
            *rest = &rest[text.len() + 2..];
            Value::Text(text)
        }
        b'_' => Value::Null,
        b'-' => Value::Error(line),
        _ => Value::Other,
    })
}

fn brief(value: &Value) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(&text[..text.len().min(20)]).into_owned(),
        Value::Push(parts) => parts.iter().map(brief).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

impl World {
    pub fn make_listeners(&mut self) {
        if !self.setup.listeners {
            return;
        }
        for (i, kind) in KINDS.into_iter().enumerate() {
            self.listeners.push(Listener { kind, conn: None });
            let wait = self.dice.between(100, 600) * MS;
            self.after(wait, What::ListenerTurn(i));
        }
    }

    /// A listener connects, or does what it is there for.
    pub fn on_listener_turn(&mut self, i: usize) {
        if !self.working {
            return;
        }
        let wait = self.dice.log_between(2 * MS, 60 * MS);
        self.after(wait, What::ListenerTurn(i));
        let kind = self.listeners[i].kind;
        match &self.listeners[i].conn {
            None => self.open(i),
            Some(conn) if self.nodes[conn.node].process_of(conn.generation).is_none() => self.listeners[i].conn = None,
            Some(conn) if !self.is_awake(conn.node) => {}
            Some(_) if self.dice.chance(20) => self.shut(i),
            Some(conn) => match kind {
                Kind::Publisher => {
                    let message = format!("{}.{}", conn.id, conn.published + 1);
                    self.listeners[i].conn.as_mut().expect("just seen").published += 1;
                    self.say(i, &[&["PUBLISH", CHANNEL, &message]], None);
                }
                Kind::Subscriber => {}
                Kind::Cache => {
                    let key = self.dice.pick(&REGISTERS);
                    self.say(i, &[&["GET", key]], Some(key));
                }
                Kind::After => self.read_after(i),
            },
        }
    }

    /// Whether that node's Keeper can be called now.
    fn is_awake(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.process.is_some() && node.paused_until.max(node.busy_until) <= self.t
    }

    fn open(&mut self, i: usize) {
        let n = self.dice.below(self.nodes.len() as u64) as usize;
        if !self.is_awake(n) {
            return;
        }
        let (id, kind) = (self.number(), self.listeners[i].kind);
        let generation = self.nodes[n].process.as_ref().expect("it is awake").generation;
        let taken =
            self.call(n, |k, now, _| k.client_connected(now, ConnId(id), format!("l:{id}"), format!("client-{n}:1")));
        if taken != Some(true) {
            return;
        }
        self.listeners[i].conn = Some(Conn {
            id,
            node: n,
            generation,
            held: VecDeque::new(),
            released: 0,
            asked: VecDeque::new(),
            cached: BTreeMap::new(),
            heard: BTreeMap::new(),
            published: 0,
        });
        match kind {
            Kind::Publisher | Kind::After => {}
            Kind::Subscriber => self.say(i, &[&["HELLO", "3"], &["SUBSCRIBE", CHANNEL]], None),
            Kind::Cache => self.say(i, &[&["HELLO", "3"], &["CLIENT", "TRACKING", "ON"]], None),
        }
    }

    /// It closes its connection, and knows nothing any more.
    fn shut(&mut self, i: usize) {
        if let Some(conn) = self.listeners[i].conn.take() {
            self.after(US, What::ListenerGone(conn.node, conn.generation, conn.id));
        }
    }

    pub fn on_listener_gone(&mut self, n: usize, generation: u64, id: u64) {
        if self.may_run(n, generation, || What::ListenerGone(n, generation, id)) {
            self.call(n, |k, _, _| k.client_gone(ConnId(id)));
        }
    }

    /// A node has closed this connection: whoever was there notices.
    pub fn listener_closed(&mut self, id: u64) {
        if let Some(i) = self.listener(id) {
            self.shut(i);
        }
    }

    /// A node has closed all connections.
    pub fn listeners_closed(&mut self, n: usize) {
        for i in 0..self.listeners.len() {
            if self.listeners[i].conn.as_ref().is_some_and(|conn| conn.node == n) {
                self.shut(i);
            }
        }
    }

    fn listener(&self, id: u64) -> Option<usize> {
        self.listeners.iter().position(|l| l.conn.as_ref().is_some_and(|conn| conn.id == id))
    }

    /// Executes commands on its connection; who would have to wait goes away instead. Returns the reply, if none of it is held.
    fn execute_for(&mut self, i: usize, commands: &[&[&str]]) -> Option<(Option<u64>, Vec<u8>)> {
        let conn = self.listeners[i].conn.as_ref()?;
        let (id, n) = (conn.id, conn.node);
        let mut batch = Batch::new();
        for words in commands {
            batch.push_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        }
        let (mut out, mut fx) = (Output::new(), Vec::new());
        let executed = self.call(n, |k, now, effects| {
            let work = Work { conn: ConnId(id), batch: &batch, input: b"", from: 0, touch: None };
            let executed = k.execute(now, work, &mut out, effects);
            std::mem::swap(effects, &mut fx);
            executed
        })?;
        let all = executed.next == Next::Done && executed.commands == batch.len();
        // Its own effects come after its reply.
        let reply = (executed.seq, out.to_vec());
        if let Some(conn) = self.listeners[i].conn.as_mut().filter(|conn| conn.id == id) {
            conn.held.push_back(reply.clone());
        }
        self.carry_out(n, fx);
        if !all {
            self.shut(i);
            return None;
        }
        Some(reply)
    }

    fn say(&mut self, i: usize, commands: &[&[&str]], key: Option<&'static str>) {
        let Some(conn) = &mut self.listeners[i].conn else { return };
        let id = conn.id;
        conn.asked.extend(commands.iter().map(|_| key));
        if self.execute_for(i, commands).is_some() {
            self.listen(id);
        }
    }

    /// What was acknowledged by now has to be seen by a read that asks for it, at any node.
    fn read_after(&mut self, i: usize) {
        if self.checks.has_given_up() {
            return;
        }
        let end = self.checks.history.end();
        let Some(epoch) = self.checks.history.epoch_of(end) else { return };
        let position = format!("0:{epoch}:{end}");
        let n = self.listeners[i].conn.as_ref().expect("it is connected").node;
        let key = self.dice.pick(&REGISTERS);
        let reply = self.execute_for(i, &[&["DATAKEEPER", "AFTER", &position], &["GET", key]]);
        if let Some((_, bytes)) = reply
            && let mut rest = &bytes[..]
            && let (Some(first), Some(second)) = (parse(&mut rest), parse(&mut rest))
            && !matches!(first, Value::Error(_))
            && !matches!(second, Value::Error(_))
        {
            self.coverage.hit("listener: read after a position");
            let applied = self.nodes[n].keeper().map(|k| k.applied());
            if applied.is_some_and(|applied| applied < end) {
                self.fail(format!("after: n{n} answered at {applied:?} who had asked for {end}"));
            }
        }
        if let Some(conn) = &mut self.listeners[i].conn {
            conn.held.clear();
        }
    }

    /// A node lets replies leave up to this number.
    pub fn listener_released(&mut self, id: u64, seq: u64) {
        if let Some(i) = self.listener(id) {
            let conn = self.listeners[i].conn.as_mut().expect("just found");
            conn.released = conn.released.max(seq);
            self.listen(id);
        }
    }

    /// A node has messages for this connection.
    pub fn listener_pushed(&mut self, id: u64, bytes: Vec<u8>) {
        if let Some(i) = self.listener(id) {
            self.listeners[i].conn.as_mut().expect("just found").held.push_back((None, bytes));
            self.listen(id);
        }
    }

    /// Takes in what has left the node, in order.
    fn listen(&mut self, id: u64) {
        let Some(i) = self.listener(id) else { return };
        loop {
            let conn = self.listeners[i].conn.as_mut().expect("found by its connection");
            let released = conn.released;
            let free = |held: &mut (Option<u64>, Vec<u8>)| held.0.is_none_or(|seq| seq <= released);
            let Some((_, bytes)) = conn.held.pop_front_if(free) else { return };
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let Some(value) = parse(&mut rest) else { return self.fail("a listener hears half a value") };
                if let Err(text) = self.hear(i, value) {
                    return self.fail(text);
                }
            }
            if self.listener(id).is_none() {
                return;
            }
        }
    }

    fn hear(&mut self, i: usize, value: Value) -> Result<(), String> {
        let Some(conn) = &self.listeners[i].conn else { return Ok(()) };
        let (id, n) = (conn.id, conn.node);
        if self.listeners[i].kind == Kind::Cache {
            let asked = conn.asked.front().copied().flatten().unwrap_or("nothing");
            self.trace(|| format!("listener {id} at n{n}, which has asked for {asked}, hears {}", brief(&value)));
        }
        let Some(conn) = &mut self.listeners[i].conn else { return Ok(()) };
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        match value {
            Value::Push(parts) if text(&parts[0]) == "message" => {
                let message = text(&parts[2]);
                let (sender, number) = message.split_once('.').ok_or("a message that nobody sent")?;
                let (sender, number): (u64, u64) = (sender.parse().expect("ours"), number.parse().expect("ours"));
                let before = conn.heard.insert(sender, number).unwrap_or(0);
                self.coverage.hit("listener: message heard");
                if number <= before {
                    return Err(format!("messages: {number} of {sender} was heard after {before}"));
                }
            }
            Value::Push(parts) if text(&parts[0]) == "invalidate" => {
                self.coverage.hit("listener: told that a key changed");
                match &parts[1] {
                    Value::Push(keys) => keys.iter().for_each(|key| drop(conn.cached.remove(&text(key)))),
                    _ => conn.cached.clear(),
                }
            }
            // What SUBSCRIBE is answered with, one for each channel.
            Value::Push(parts) if text(&parts[0]) == "subscribe" => drop(conn.asked.pop_front()),
            reply => {
                if let Some(Some(key)) = conn.asked.pop_front() {
                    let value = match reply {
                        Value::Text(value) => Some(Some(value)),
                        Value::Null => Some(None),
                        _ => None,
                    };
                    if let Some(value) = value {
                        conn.cached.insert(key.to_string(), value);
                    }
                }
            }
        }
        Ok(())
    }

    /// At rest, no caching client holds anything that its node does not.
    ///
    /// # Errors
    /// One does.
    pub fn check_caches(&mut self) -> Result<(), String> {
        for listener in self.listeners.iter().filter(|l| l.kind == Kind::Cache) {
            let Some(conn) = listener.conn.as_ref().filter(|conn| conn.held.is_empty()) else { continue };
            let process = self.nodes[conn.node].process.as_ref().filter(|p| p.generation == conn.generation);
            let Some(store) = process.map(|p| p.keeper.store()) else { continue };
            for (key, value) in &conn.cached {
                self.coverage.hit("listener: cached value compared");
                let is = store
                    .get(store.hash(key.as_bytes()), key.as_bytes())
                    .map(|entry| entry.value().as_slice().to_vec());
                if is != *value {
                    let brief = |v: &Option<Vec<u8>>| v.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
                    return Err(format!(
                        "tracking: a client of n{} holds {:?} for {key}, the node {:?}, and nobody told it",
                        conn.node,
                        brief(value),
                        brief(&is)
                    ));
                }
            }
        }
        Ok(())
    }
}
