//! Clients, and the connection tasks that serve them.
//!
//! A client has one request under way, of one or several commands. Its reply counts when it arrives, which is after the node let it
//! leave; a connection that ends with a reply outstanding leaves the outcome unknown. What each client did and saw is the history
//! that the checks judge.

use std::collections::VecDeque;

use datakeeper::base::ids::ConnId;
use datakeeper::cluster::role::Role;
use datakeeper::keeper::{Next, Work};
use datakeeper::resp::{Batch, Output};

use crate::clock::{MS, US};
use crate::linearizable::{Answer, Call, Op};
use crate::setup::Lie;
use crate::world::{What, World};

/// One command of a request.
#[derive(Clone, Debug)]
pub struct Command {
    pub args: Vec<Vec<u8>>,
    /// What it is in the history: several for MSET, one per queued command for EXEC, none for what is not judged.
    pub ops: Vec<usize>,
}

impl Command {
    /// A command that is not judged.
    fn unjudged(words: &[&[u8]]) -> Command {
        Command { args: words.iter().map(|w| w.to_vec()).collect(), ops: Vec::new() }
    }

    fn is(&self, name: &str) -> bool {
        self.args[0] == name.as_bytes()
    }
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its connection.
    conn: Option<u64>,
    /// Where it will connect; none: anywhere.
    target: Option<usize>,
    /// Number of the request that is under way.
    serial: u64,
    busy: bool,
    /// Reads only, wherever it is connected.
    reader: bool,
    /// Writes keys that are not judged one by one, so that there is something to copy.
    filler: bool,
    /// Keys it still has to fill before anything else.
    to_fill: usize,
    values: u64,
    /// It watches [`WATCHED`].
    watches: bool,
    /// What it read there since, to be counted up in a transaction.
    counted: Option<i64>,
}

/// A connection between a client and a node.
#[derive(Debug)]
pub struct ClientConn {
    pub client: usize,
    pub node: usize,
    pub generation: u64,
    /// The node knows of it.
    known: bool,
    requests: VecDeque<Vec<Command>>,
    running: Option<(Batch, Vec<Command>, usize)>,
    waiting: bool,
    /// Replies that have not left, each with the number it is held under.
    held: VecDeque<(Option<u64>, Vec<u8>)>,
    released: u64,
    close_after: bool,
    /// The node closed it.
    server_closed: bool,
    /// The client closed it.
    client_closed: bool,
    reply_at: u64,
    /// Client's side: reply bytes that are not yet a whole reply, and the commands that wait for one.
    unread: Vec<u8>,
    expected: VecDeque<Command>,
}

/// A reply in RESP2, as far as these clients need it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resp {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Resp>),
    /// An EXEC that executed nothing because a watched key had changed.
    NullArray,
}

impl Resp {
    /// What it means to an operation.
    fn answer(&self) -> Answer {
        match self {
            Resp::Simple(_) => Answer::Done,
            Resp::Integer(i) => Answer::Number(*i),
            Resp::Bulk(value) => Answer::Value(value.clone()),
            Resp::Error(_) | Resp::NullArray => Answer::Refused,
            Resp::Array(_) => unreachable!("only EXEC has one"),
        }
    }
}

/// Takes one reply off the front; `None` if it is not whole.
fn take_reply(bytes: &mut Vec<u8>) -> Option<Resp> {
    let mut rest = &bytes[..];
    let reply = parse_reply(&mut rest)?;
    bytes.drain(..bytes.len() - rest.len());
    Some(reply)
}

fn parse_reply(rest: &mut &[u8]) -> Option<Resp> {
    let line_end = rest.windows(2).position(|w| w == b"\r\n")?;
    let (kind, line) = (rest[0], String::from_utf8_lossy(&rest[1..line_end]).to_string());
    *rest = &rest[line_end + 2..];
    let len = || line.parse::<usize>().expect("a length");
    Some(match kind {
        b'+' => Resp::Simple(line),
        b'-' => Resp::Error(line),
        b':' => Resp::Integer(line.parse().expect("a number")),
        b'$' if line == "-1" => Resp::Bulk(None),
        b'$' => {
            let body = rest.get(..len() + 2)?[..len()].to_vec();
            *rest = &rest[len() + 2..];
            Resp::Bulk(Some(body))
        }
        b'*' if line == "-1" => Resp::NullArray,
        b'*' => Resp::Array((0..len()).map(|_| parse_reply(rest)).collect::<Option<_>>()?),
        other => panic!("a reply begins with {other}"),
    })
}

/// Keys of registers, counters, lists, and keys that expire.
pub const REGISTERS: [&str; 2] = ["r0", "r1"];
pub const COUNTER: &str = "c0";
pub const LIST: &str = "a0";
pub const EXPIRING: &str = "x0";
/// Registers that are only written together, with one value, by transactions: whoever sees them differ saw half of one.
pub const PAIR: [&str; 2] = ["p0", "p1"];
/// A counter that is read, watched, and set in a transaction.
pub const WATCHED: &str = "w0";

/// A transaction of these commands; `ops`: what each of them is in the history.
fn transaction(commands: &[Vec<&[u8]>], ops: &[usize]) -> Vec<Command> {
    let exec = Command { ops: ops.to_vec(), ..Command::unjudged(&[b"EXEC"]) };
    let queued = commands.iter().map(|words| Command::unjudged(words));
    [Command::unjudged(&[b"MULTI"])].into_iter().chain(queued).chain([exec]).collect()
}

impl World {
    pub fn make_clients(&mut self) {
        let n = self.setup.clients;
        for i in 0..n + 2 {
            let filler = i == n;
            self.clients.push(Client {
                conn: None,
                target: None,
                serial: 0,
                busy: false,
                reader: i == n + 1,
                filler,
                to_fill: if filler { self.setup.fill } else { 0 },
                values: 0,
                watches: false,
                counted: None,
            });
            let wait = self.dice.between(50, 400) * MS;
            self.after(wait, What::ClientTurn(i));
        }
    }

    fn client_delay(&mut self) -> u64 {
        30 * US + self.dice.below(200 * US)
    }

    pub fn on_client_turn(&mut self, c: usize) {
        if self.clients[c].busy || !self.working {
            return;
        }
        if self.clients[c].conn.is_none() {
            let n = self.clients[c].target.take().unwrap_or_else(|| self.dice.below(self.nodes.len() as u64) as usize);
            let Some(p) = &self.nodes[n].process else {
                let wait = self.dice.between(1, 80) * MS;
                return self.after(wait, What::ClientTurn(c));
            };
            let generation = p.generation;
            let id = self.number();
            self.client_conns.insert(
                id,
                ClientConn {
                    client: c,
                    node: n,
                    generation,
                    known: false,
                    requests: VecDeque::new(),
                    running: None,
                    waiting: false,
                    held: VecDeque::new(),
                    released: 0,
                    close_after: false,
                    server_closed: false,
                    client_closed: false,
                    reply_at: 0,
                    unread: Vec::new(),
                    expected: VecDeque::new(),
                },
            );
            self.clients[c].conn = Some(id);
        }
        let commands = self.compose(c);
        self.send_request(c, commands);
    }

    /// Sends commands on the client's connection.
    fn send_request(&mut self, c: usize, commands: Vec<Command>) {
        let wait = self.client_delay();
        let id = self.clients[c].conn.expect("a turn connects first");
        let cc = self.client_conns.get_mut(&id).expect("the client holds it");
        cc.expected.extend(commands.iter().cloned());
        cc.requests.push_back(commands);
        self.after(wait, What::ServerInput(id));
        if self.clients.iter().any(|client| client.busy) {
            self.coverage.hit("client: requests overlap");
        }
        let client = &mut self.clients[c];
        client.busy = true;
        client.serial += 1;
        let serial = client.serial;
        let patience = self.dice.between(1_200, 4_000) * MS;
        self.after(patience, What::ClientTimeout(c, serial));
    }

    fn op(&mut self, client: usize, key: &str, call: Call) -> usize {
        let op = Op {
            client,
            key: key.as_bytes().to_vec(),
            call,
            invoked: self.step,
            returned: u64::MAX,
            answer: Answer::Unknown,
        };
        self.ops.push(op);
        self.ops.len() - 1
    }

    fn value(&mut self, c: usize) -> Vec<u8> {
        self.clients[c].values += 1;
        let mut value = format!("{c}.{}", self.clients[c].values).into_bytes();
        if self.setup.big_values && self.clients[c].to_fill == 0 && self.dice.chance(100) {
            let len = self.dice.pick(&[5_000, 66_000, 300_000]);
            value.push(b'-');
            value.resize(len, b'x');
        } else if self.dice.chance(100) {
            value.push(b'-');
            value.resize(60, b'x');
        }
        value
    }

    /// What a client does next.
    fn compose(&mut self, c: usize) -> Vec<Command> {
        if self.clients[c].filler {
            return vec![self.fill(c)];
        }
        if self.dice.chance(150) {
            return self.compose_transaction(c);
        }
        let many = if self.dice.chance(200) { self.dice.between(2, 5) } else { 1 };
        (0..many).map(|_| self.compose_one(c)).collect()
    }

    fn fill(&mut self, c: usize) -> Command {
        let mut args = vec![b"MSET".to_vec()];
        let left = self.clients[c].to_fill;
        let many = if left > 0 { 100 } else { self.dice.between(1, 3) };
        for i in 0..many {
            let key =
                if left > 0 { (left as u64).saturating_sub(i) } else { self.dice.below(self.setup.fill as u64 + 20) };
            args.push(format!("f{key}").into_bytes());
            args.push(self.value(c));
        }
        if left == 0 && self.dice.chance(200) {
            let key = self.dice.below(self.setup.fill as u64 + 20);
            let (from, to) = (format!("f{key}").into_bytes(), format!("f{}", key / 2).into_bytes());
            args = match key % 3 {
                0 => vec![b"DEL".to_vec(), from],
                1 => vec![b"RENAME".to_vec(), from, to],
                _ => vec![b"COPY".to_vec(), from, to, b"REPLACE".to_vec()],
            };
        } else if left == 0 && self.dice.chance(200) {
            let key = self.dice.below(self.setup.fill as u64 + 20);
            let ms = self.dice.between(5, 3_000);
            args = vec![
                b"SET".to_vec(),
                format!("f{key}").into_bytes(),
                self.value(c),
                b"PX".to_vec(),
                ms.to_string().into_bytes(),
            ];
        }
        Command { args, ops: Vec::new() }
    }

    /// A transaction that writes or reads the pair, or the first half of one that counts a watched key up.
    fn compose_transaction(&mut self, c: usize) -> Vec<Command> {
        if self.clients[c].reader || self.dice.chance(300) {
            self.coverage.hit("client: transaction that reads");
            let ops = PAIR.map(|key| self.op(c, key, Call::Get));
            return transaction(&PAIR.map(|key| vec![&b"GET"[..], key.as_bytes()]), &ops);
        }
        if self.dice.chance(300) {
            (self.clients[c].watches, self.clients[c].counted) = (false, None);
            let op = self.op(c, WATCHED, Call::Get);
            let watch = Command::unjudged(&[b"WATCH", WATCHED.as_bytes()]);
            return vec![watch, Command { ops: vec![op], ..Command::unjudged(&[b"GET", WATCHED.as_bytes()]) }];
        }
        self.coverage.hit("client: transaction that writes");
        let value = self.value(c);
        let mut ops: Vec<usize> = PAIR.iter().map(|key| self.op(c, key, Call::Set(value.clone()))).collect();
        ops.push(self.op(c, COUNTER, Call::Incr));
        let [one, two] = PAIR.map(|key| vec![&b"SET"[..], key.as_bytes(), &value]);
        transaction(&[one, two, vec![b"INCR", COUNTER.as_bytes()]], &ops)
    }

    /// The second half: what was read, and one more.
    fn count_up(&mut self, c: usize, counted: i64) {
        let op = self.op(c, WATCHED, Call::Incr);
        let next = (counted + 1).to_string();
        let set = vec![&b"SET"[..], WATCHED.as_bytes(), next.as_bytes()];
        self.clients[c].counted = Some(counted);
        self.send_request(c, transaction(&[set], &[op]));
    }

    fn compose_one(&mut self, c: usize) -> Command {
        let words = |w: &[&[u8]]| w.iter().map(|w| w.to_vec()).collect::<Vec<_>>();
        let keys = [REGISTERS[0], REGISTERS[0], REGISTERS[1], COUNTER, LIST, EXPIRING];
        let key = self.dice.pick(&keys);
        if self.clients[c].reader || self.dice.chance(350) {
            let op = self.op(c, key, Call::Get);
            return Command { args: words(&[b"GET", key.as_bytes()]), ops: vec![op] };
        }
        if self.setup.flushes && self.dice.chance(8) {
            let ops = [REGISTERS[0], REGISTERS[1], EXPIRING, PAIR[0], PAIR[1]].map(|key| self.op(c, key, Call::Flush));
            return Command { args: words(&[b"FLUSHALL"]), ops: ops.to_vec() };
        }
        match key {
            COUNTER => {
                let op = self.op(c, key, Call::Incr);
                Command { args: words(&[b"INCR", key.as_bytes()]), ops: vec![op] }
            }
            LIST => {
                let mut token = self.value(c);
                token.truncate(12);
                token.push(b';');
                let op = self.op(c, key, Call::Append(token.clone()));
                Command { args: words(&[b"APPEND", key.as_bytes(), &token]), ops: vec![op] }
            }
            EXPIRING => {
                let value = self.value(c);
                let ms = self.dice.log_between(5, 3_000).to_string();
                self.coverage.hit("client: write that expires");
                let op = self.op(c, key, Call::SetPx(value.clone()));
                Command { args: words(&[b"SET", key.as_bytes(), &value, b"PX", ms.as_bytes()]), ops: vec![op] }
            }
            _ if self.dice.chance(150) => {
                let op = self.op(c, key, Call::Del);
                Command { args: words(&[b"DEL", key.as_bytes()]), ops: vec![op] }
            }
            _ if self.dice.chance(200) => {
                let (a, b) = (self.value(c), self.value(c));
                self.coverage.hit("client: write of several keys");
                let ops = vec![
                    self.op(c, REGISTERS[0], Call::Set(a.clone())),
                    self.op(c, REGISTERS[1], Call::Set(b.clone())),
                ];
                Command { args: words(&[b"MSET", REGISTERS[0].as_bytes(), &a, REGISTERS[1].as_bytes(), &b]), ops }
            }
            _ => {
                let value = self.value(c);
                let op = self.op(c, key, Call::Set(value.clone()));
                Command { args: words(&[b"SET", key.as_bytes(), &value]), ops: vec![op] }
            }
        }
    }

    // The node's side.

    pub fn on_server_input(&mut self, id: u64) {
        let Some(cc) = self.client_conns.get(&id) else { return };
        let (n, generation) = (cc.node, cc.generation);
        if cc.server_closed || !self.may_run(n, generation, || What::ServerInput(id)) {
            return;
        }
        let cc = self.client_conns.get_mut(&id).expect("just seen");
        if !std::mem::replace(&mut cc.known, true) {
            let taken = self
                .call(n, |k, now, _| k.client_connected(now, ConnId(id), format!("c:{id}"), format!("client-{n}:1")));
            if taken != Some(true) {
                return self.close_client(id);
            }
        }
        self.serve(id);
    }

    pub fn on_server_resume(&mut self, id: u64) {
        let Some(cc) = self.client_conns.get(&id) else { return };
        let (n, generation) = (cc.node, cc.generation);
        if !cc.waiting || !self.may_run(n, generation, || What::ServerResume(id)) {
            return;
        }
        self.client_conns.get_mut(&id).expect("just seen").waiting = false;
        self.serve(id);
    }

    /// Executes what has come in on a connection, until it waits.
    fn serve(&mut self, id: u64) {
        loop {
            let Some(cc) =
                self.client_conns.get_mut(&id).filter(|cc| !cc.waiting && !cc.close_after && !cc.server_closed)
            else {
                return;
            };
            let n = cc.node;
            let (batch, commands, from) = match cc.running.take() {
                Some(running) => running,
                None => {
                    let Some(commands) = cc.requests.pop_front() else { return };
                    let mut batch = Batch::new();
                    for command in &commands {
                        let args: Vec<&[u8]> = command.args.iter().map(Vec::as_slice).collect();
                        batch.push_command(&args);
                    }
                    (batch, commands, 0)
                }
            };
            let mut out = Output::new();
            let before = self.nodes[n].keeper().map(|k| (k.role(), k.applied(), k.expiry_clock()));
            let (role, applied, clock) = before.expect("it may run");
            // Replies go behind the connection's earlier ones before any effect of the call is carried out.
            let mut done = None;
            let mut reply = Vec::new();
            let mut fx = Vec::new();
            self.call(n, |k, now, effects| {
                let executed = k.execute(
                    now,
                    Work { conn: ConnId(id), batch: &batch, input: b"", from, touch: None },
                    &mut out,
                    effects,
                );
                reply = out.to_vec();
                std::mem::swap(effects, &mut fx);
                done = Some(executed);
            });
            let executed = done.expect("it may run");
            if self.failure.is_some() {
                return;
            }
            self.judge_reads(n, role, applied, clock, &commands[from..from + executed.commands], reply.clone());
            let lie = self.setup.lie == Lie::ReleaseAtOnce;
            let Some(cc) = self.client_conns.get_mut(&id) else { return };
            cc.held.push_back((executed.seq.filter(|_| !lie), reply));
            if executed.seq.is_some() {
                self.coverage.hit("replies held");
            }
            let from = from + executed.commands;
            match executed.next {
                Next::Done => assert_eq!(from, batch.len(), "a batch is done when all of it was executed"),
                Next::Wait => {
                    self.coverage.hit("command waited");
                    let cc = self.client_conns.get_mut(&id).expect("just seen");
                    cc.waiting = true;
                    cc.running = Some((batch, commands, from));
                }
                Next::Again => {
                    self.client_conns.get_mut(&id).expect("just seen").running = Some((batch, commands, from))
                }
                Next::Forward => unreachable!("nodes here redirect"),
                Next::CloseAfter => self.client_conns.get_mut(&id).expect("just seen").close_after = true,
            }
            self.carry_out(n, fx);
            self.flush(id);
        }
    }

    /// What a follower answers is its applied, and so acknowledged, prefix: judged at once.
    fn judge_reads(
        &mut self,
        n: usize,
        role: Role,
        applied: datakeeper::base::ids::Offset,
        clock: datakeeper::base::clock::Wall,
        commands: &[Command],
        mut reply: Vec<u8>,
    ) {
        for command in commands {
            let Some(answer) = take_reply(&mut reply) else { return };
            if matches!(answer, Resp::Error(_)) || role == Role::Leader {
                continue;
            }
            let reads = match answer {
                Resp::Array(answers) => answers,
                Resp::Simple(text) if text == "QUEUED" || command.is("MULTI") => continue,
                one => vec![one],
            };
            self.coverage.hit("read answered by a replica");
            if self.setup.max_staleness_ms > 0 {
                // By how much a frame may be late without a node knowing it, and by how much clocks differ.
                let slack = self.setup.latency + self.setup.jitter + self.setup.queue + 5 * MS;
                let limit = self.setup.max_staleness_ms * MS * 101 / 100 + slack;
                self.coverage.hit("read bounded in age");
                let must = self.end_at(self.t.saturating_sub(limit));
                if applied < must {
                    return self.fail(format!(
                        "staleness: n{n} answered at {applied}, {must} is older than {} ms",
                        limit / MS
                    ));
                }
            }
            for (op, read) in command.ops.iter().zip(reads) {
                let Resp::Bulk(got) = read else {
                    return self
                        .fail(format!("n{n}, {role}, executed {:?}", String::from_utf8_lossy(&command.args[0])));
                };
                self.ops[*op].answer = Answer::ByReplica;
                if let Err(text) = self.checks.replica_read(n, applied, clock, &self.ops[*op].key, got) {
                    self.fail(text);
                }
            }
        }
    }

    pub fn release(&mut self, _n: usize, id: u64, seq: u64) {
        if let Some(cc) = self.client_conns.get_mut(&id) {
            cc.released = cc.released.max(seq);
            self.flush(id);
        }
    }

    /// Lets replies leave that need not wait, in order.
    fn flush(&mut self, id: u64) {
        let wait = self.client_delay();
        let t = self.t;
        let Some(cc) = self.client_conns.get_mut(&id) else { return };
        let mut bytes = Vec::new();
        while let Some((seq, _)) = cc.held.front()
            && seq.is_none_or(|s| s <= cc.released)
        {
            bytes.extend(cc.held.pop_front().expect("just seen").1);
        }
        let over = cc.close_after && cc.held.is_empty();
        if !bytes.is_empty() {
            cc.reply_at = cc.reply_at.max(t + wait);
            let at = cc.reply_at;
            self.at(at, What::ReplyArrives(id, bytes));
        }
        if over {
            self.close_client(id);
        }
    }

    /// The node closes a client's connection: what has not left is dropped.
    pub fn close_client(&mut self, id: u64) {
        let wait = self.client_delay();
        let t = self.t;
        let Some(cc) = self.client_conns.get_mut(&id) else { return };
        if std::mem::replace(&mut cc.server_closed, true) {
            return;
        }
        let (n, generation) = (cc.node, cc.generation);
        cc.held.clear();
        cc.requests.clear();
        cc.running = None;
        cc.reply_at = cc.reply_at.max(t + wait);
        let at = cc.reply_at;
        self.at(at, What::ConnEnds(id));
        if self.nodes[n].process_of(generation).is_some() {
            self.after(US, What::ServerGone(id));
        }
    }

    pub fn on_server_gone(&mut self, id: u64) {
        let Some(cc) = self.client_conns.get(&id) else { return };
        let (n, generation) = (cc.node, cc.generation);
        if !self.may_run(n, generation, || What::ServerGone(id)) {
            return;
        }
        self.call(n, |k, _, _| k.client_gone(ConnId(id)));
        let cc = self.client_conns.get_mut(&id).expect("just seen");
        cc.server_closed = true;
        if cc.client_closed {
            self.client_conns.remove(&id);
        }
    }

    /// A process died with its clients' connections.
    pub fn end_client_connections(&mut self, n: usize, generation: u64, told: bool) {
        let all: Vec<u64> = self
            .client_conns
            .iter()
            .filter(|(_, cc)| (cc.node, cc.generation) == (n, generation))
            .map(|(id, _)| *id)
            .collect();
        for id in all {
            if told {
                self.close_client(id);
            } else if let Some(cc) = self.client_conns.get_mut(&id) {
                cc.server_closed = true;
            }
        }
    }

    // The client's side.

    pub fn on_reply(&mut self, id: u64, bytes: &[u8]) {
        let Some(cc) = self.client_conns.get_mut(&id).filter(|cc| !cc.client_closed) else { return };
        let c = cc.client;
        cc.unread.extend_from_slice(bytes);
        let mut redirect = None;
        loop {
            let cc = self.client_conns.get_mut(&id).expect("just seen");
            let Some(reply) = take_reply(&mut cc.unread) else { break };
            let Some(command) = cc.expected.pop_front() else { return self.fail("a reply that nobody waits for") };
            if let Resp::Error(text) = &reply {
                let word = text.split(' ').next().unwrap_or_default().to_string();
                self.coverage.hit(&format!("reply: {word}"));
                match word.as_str() {
                    "MOVED" => redirect = text.split(' ').nth(2).map(str::to_string),
                    "EXECABORT" if command.is("EXEC") => {}
                    "ERR" if command.is("RENAME") && text.ends_with("no such key") => {}
                    "CLUSTERDOWN" | "LOADING" | "TRYAGAIN" | "NOREPLICAS" => {}
                    "OOM" if self.setup.max_memory > 0 => {}
                    _ => return self.fail(format!("{:?} is answered with {text}", command.args)),
                }
            }
            if !matches!(reply, Resp::Error(_)) {
                self.coverage.hit("reply: answer");
                let client = &mut self.clients[c];
                if client.filler {
                    client.to_fill = client.to_fill.saturating_sub(100);
                }
            } else if self.dice.chance(300) && redirect.is_none() {
                redirect = Some("elsewhere".to_string());
            }
            if let Err(text) = self.take_answers(c, &command, reply) {
                return self.fail(text);
            }
        }
        if !self.client_conns[&id].expected.is_empty() {
            return;
        }
        self.clients[c].busy = false;
        let counted = self.clients[c].counted.take().filter(|_| std::mem::take(&mut self.clients[c].watches));
        if let Some(counted) = counted.filter(|_| redirect.is_none()) {
            return self.count_up(c, counted);
        }
        if let Some(addr) = redirect.filter(|_| !self.clients[c].reader) {
            self.clients[c].target = addr.trim_start_matches("client-").trim_end_matches(":1").parse().ok();
            self.leave(id);
        } else if self.clients[c].reader && self.dice.chance(30) {
            self.leave(id);
        }
        let wait = self.dice.log_between(MS, self.setup.think);
        let wait = if self.clients[c].to_fill > 0 { MS } else { wait };
        self.after(wait, What::ClientTurn(c));
    }

    /// Puts a reply into the history.
    fn take_answers(&mut self, c: usize, command: &Command, reply: Resp) -> Result<(), String> {
        let answers: Vec<Answer> = match reply {
            Resp::Array(answers) if command.is("EXEC") => answers.iter().map(Resp::answer).collect(),
            Resp::Array(_) => return Err("an array in reply to a command that has none".into()),
            one => {
                if one == Resp::NullArray {
                    self.coverage.hit("reply: a watched key had changed");
                }
                vec![one.answer(); command.ops.len().max(1)]
            }
        };
        let client = &mut self.clients[c];
        if command.is("WATCH") {
            client.watches = answers[0] == Answer::Done;
        }
        for (op, answer) in command.ops.iter().zip(&answers) {
            let (step, op) = (self.step, &mut self.ops[*op]);
            let watched = op.key == WATCHED.as_bytes();
            match (&op.call, answer) {
                _ if op.answer == Answer::ByReplica => continue,
                (Call::Get, Answer::Value(value)) if watched && client.watches => {
                    let text = value.as_ref().map_or("0".into(), |v| String::from_utf8_lossy(v));
                    client.counted = Some(text.parse().expect("a number"));
                    op.answer = answer.clone();
                }
                (Call::Incr, Answer::Done) if watched => {
                    let counted = client.counted.take().expect("it was read");
                    self.coverage.hit("client: watched key counted up");
                    op.answer = Answer::Number(counted + 1);
                }
                _ => op.answer = answer.clone(),
            }
            op.returned = step;
        }
        let pair = command.is("EXEC") && command.ops.iter().all(|op| self.ops[*op].call == Call::Get);
        if pair && answers.windows(2).any(|two| two[0] != two[1]) {
            return Err(format!("transactions: a client saw half of one: {answers:?}"));
        }
        Ok(())
    }

    /// The client closes its connection.
    fn leave(&mut self, id: u64) {
        let wait = self.client_delay();
        let Some(cc) = self.client_conns.get_mut(&id) else { return };
        cc.client_closed = true;
        cc.expected.clear();
        let c = cc.client;
        let gone = self.nodes[cc.node].process_of(cc.generation).is_none();
        if gone {
            self.client_conns.remove(&id);
        } else {
            self.after(wait, What::ServerGone(id));
        }
        let client = &mut self.clients[c];
        (client.conn, client.watches, client.counted) = (None, false, None);
    }

    pub fn on_conn_ends(&mut self, id: u64) {
        let Some(cc) = self.client_conns.get(&id).filter(|cc| !cc.client_closed) else { return };
        let c = cc.client;
        if !cc.expected.is_empty() {
            self.coverage.hit("outcome unknown");
        }
        self.leave(id);
        self.clients[c].busy = false;
        let wait = self.dice.between(1, 20) * MS;
        self.after(wait, What::ClientTurn(c));
    }

    pub fn on_client_timeout(&mut self, c: usize, serial: u64) {
        let client = &self.clients[c];
        if !client.busy || client.serial != serial {
            return;
        }
        self.coverage.hit("client lost patience");
        let conn = client.conn;
        self.clients[c].busy = false;
        if let Some(id) = conn {
            self.leave(id);
        }
        self.after(MS, What::ClientTurn(c));
    }

    /// Every key is read once more, by one client, at the leader. Returns the operations.
    pub fn read_everything(&mut self, leader: usize) -> Vec<usize> {
        let c = 0;
        if let Some(id) = self.clients[c].conn {
            self.leave(id);
        }
        self.clients[c].target = Some(leader);
        let mut ops = Vec::new();
        let mut commands = Vec::new();
        for key in [REGISTERS[0], REGISTERS[1], COUNTER, LIST, EXPIRING, PAIR[0], PAIR[1], WATCHED] {
            let op = self.op(c, key, Call::Get);
            ops.push(op);
            commands.push(Command { args: vec![b"GET".to_vec(), key.as_bytes().to_vec()], ops: vec![op] });
        }
        self.clients[c].busy = false;
        self.connect_and_send(c, leader, commands);
        ops
    }

    fn connect_and_send(&mut self, c: usize, n: usize, commands: Vec<Command>) {
        let Some(p) = &self.nodes[n].process else { return };
        let generation = p.generation;
        let id = self.number();
        self.client_conns.insert(
            id,
            ClientConn {
                client: c,
                node: n,
                generation,
                known: false,
                requests: VecDeque::new(),
                running: None,
                waiting: false,
                held: VecDeque::new(),
                released: 0,
                close_after: false,
                server_closed: false,
                client_closed: false,
                reply_at: 0,
                unread: Vec::new(),
                expected: VecDeque::new(),
            },
        );
        self.clients[c].conn = Some(id);
        self.send_request(c, commands);
    }
}
