//! The load: one thread, many connections, requests made beforehand and replies counted, not read.
//!
//! Closed loop: every connection sends its next pipeline when the last one is answered; a latency is that of a pipeline. Open loop: requests are due at fixed
//! instants, whatever was answered, and a latency counts from the instant at which the request was due, so that a server that stalls is
//! charged for everybody who would have come meanwhile.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use datakeeper::base::jitter::Jitter;
use datakeeper::resp::ReplyScan;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const READ_BYTES: usize = 256 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Set,
    Get,
    /// One SET to nine GETs.
    Mix,
    /// MGET of ten keys.
    Mget,
    Incr,
    /// SET, and one WAIT for two replicas behind each pipeline.
    SetWait,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Set => "SET",
            Kind::Get => "GET",
            Kind::Mix => "1:9",
            Kind::Mget => "MGET 10",
            Kind::Incr => "INCR",
            Kind::SetWait => "SET + WAIT 2",
        }
    }
}

/// One load: what, on which keys, how deep.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub kind: Kind,
    /// Requests per pipeline.
    pub depth: usize,
    /// Keys are drawn from 0 up to this number.
    pub keys: u64,
    pub value_bytes: usize,
    /// Of a thousand values nine have 1 to 16 KiB and one has 64 KiB to 1 MiB, all others `value_bytes`.
    pub mixed: bool,
    /// When what is set expires: ms since 1970.
    pub until: Option<u64>,
}

impl Work {
    pub fn new(kind: Kind, depth: usize, keys: u64, value_bytes: usize) -> Work {
        Work { kind, depth, keys, value_bytes, mixed: false, until: None }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub operations: u64,
    pub elapsed: Duration,
    pub latencies: Histogram,
}

impl Outcome {
    /// p50, p99 and p99.9 in µs; NaN without latencies.
    pub fn shares_us(&self) -> [f64; 3] {
        let none = self.latencies.max == 0;
        [0.5, 0.99, 0.999].map(|share| if none { f64::NAN } else { self.latencies.at(share) as f64 / 1e3 })
    }
}

/// Latencies in ns, to within 2 %.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; 64 * 64], max: 0 }
    }
}

impl Histogram {
    /// Values below 64 have a place each; above, each power of two has 64.
    fn place(ns: u64) -> usize {
        let shift = (u64::BITS - (ns | 1).leading_zeros()).saturating_sub(7);
        (shift as usize * 64) + (ns >> shift) as usize
    }

    pub fn add(&mut self, ns: u64) {
        self.counts[Histogram::place(ns).min(64 * 64 - 1)] += 1;
        self.max = self.max.max(ns);
    }

    /// The value that this share of all does not exceed.
    pub fn at(&self, share: f64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        let mut left = (all as f64 * share).ceil() as u64;
        for (place, count) in self.counts.iter().enumerate() {
            if *count >= left {
                let shift = (place / 64).saturating_sub(1);
                return ((place - shift * 64) as u64 + 1) << shift;
            }
            left -= count;
        }
        self.max
    }
}

struct Conn {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    scan: ReplyScan,
    /// Replies that are still to come of the present pipeline.
    left: usize,
    began: Instant,
    /// Open loop: when each unanswered request was due.
    due: VecDeque<Instant>,
}

/// The error that counts as a reply like others: a server at the limit of its memory.
const REFUSAL: &[u8] = b"-OOM";

/// Connections to one server.
pub struct Load {
    poll: Poll,
    conns: Vec<Conn>,
    jitter: Jitter,
    values: Vec<u8>,
    scratch: Vec<u8>,
}

fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write!(out, "${}\r\n", bytes.len()).expect("a vector takes bytes");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A key of 16 bytes.
fn push_key(out: &mut Vec<u8>, prefix: &[u8; 4], number: u64) {
    let mut key = *b"key:000000000000";
    key[..4].copy_from_slice(prefix);
    let mut n = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    push_bulk(out, &key);
}

impl Load {
    /// So many connections to these servers in turn.
    pub fn connect(addrs: &[SocketAddr], connections: usize) -> io::Result<Load> {
        let poll = Poll::new()?;
        let mut conns = Vec::new();
        for i in 0..connections {
            let stream = std::net::TcpStream::connect(addrs[i % addrs.len()])?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)?;
            conns.push(Conn {
                stream,
                out: Vec::new(),
                sent: 0,
                input: Vec::new(),
                scan: ReplyScan::default(),
                left: 0,
                began: Instant::now(),
                due: VecDeque::new(),
            });
        }
        Ok(Load { poll, conns, jitter: Jitter::new(7), values: vec![b'v'; 1 << 20], scratch: vec![0; READ_BYTES] })
    }

    /// Puts one request out; the key is drawn unless one is given.
    fn request(&mut self, i: usize, work: Work, key: Option<u64>) {
        let mut kind = work.kind;
        if kind == Kind::Mix {
            kind = if self.jitter.below(10) == 0 { Kind::Set } else { Kind::Get };
        }
        let key = key.unwrap_or_else(|| self.jitter.below(work.keys));
        let value_bytes = if work.mixed { self.mixed(work.value_bytes) } else { work.value_bytes };
        let out = &mut self.conns[i].out;
        match kind {
            Kind::Set | Kind::SetWait => {
                let words = if work.until.is_some() { 5 } else { 3 };
                write!(out, "*{words}\r\n$3\r\nSET\r\n").expect("a vector takes bytes");
                push_key(out, b"key:", key);
                push_bulk(out, &self.values[..value_bytes]);
                if let Some(until) = work.until {
                    push_bulk(out, b"PXAT");
                    push_bulk(out, until.to_string().as_bytes());
                }
            }
            Kind::Get | Kind::Mix => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                push_key(out, b"key:", key);
            }
            Kind::Mget => {
                out.extend_from_slice(b"*11\r\n$4\r\nMGET\r\n");
                push_key(out, b"key:", key);
                for _ in 1..10 {
                    let key = self.jitter.below(work.keys);
                    push_key(&mut self.conns[i].out, b"key:", key);
                }
            }
            Kind::Incr => {
                out.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n");
                push_key(out, b"ctr:", key);
            }
        }
    }

    /// Bytes of one of the mixed values.
    fn mixed(&mut self, most: usize) -> usize {
        match self.jitter.below(1_000) {
            0 => 64 << 10 << self.jitter.below(5),
            1..10 => 1 << 10 << self.jitter.below(5),
            _ => most,
        }
    }

    /// Puts a pipeline out; with `from`, of these keys in order.
    fn pipeline(&mut self, i: usize, work: Work, count: usize, from: Option<u64>) -> io::Result<()> {
        self.conns[i].out.clear();
        for n in 0..count {
            self.request(i, work, from.map(|from| from + n as u64));
        }
        let wait = work.kind == Kind::SetWait;
        let conn = &mut self.conns[i];
        if wait {
            conn.out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$4\r\n5000\r\n");
        }
        (conn.sent, conn.left, conn.began) = (0, count + usize::from(wait), Instant::now());
        conn.flush()
    }

    /// Closed loop for that long.
    pub fn closed(&mut self, work: Work, time: Duration) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let begin = Instant::now();
        for i in 0..self.conns.len() {
            self.pipeline(i, work, work.depth, None)?;
        }
        let mut open = self.conns.len();
        self.until(begin + Duration::from_secs(60), |load, i| {
            let now = Instant::now();
            outcome.latencies.add((now - load.conns[i].began).as_nanos() as u64);
            outcome.operations += work.depth as u64;
            if now - begin < time {
                load.pipeline(i, work, work.depth, None)?;
            } else {
                open -= 1;
            }
            Ok(open == 0)
        })?;
        outcome.elapsed = begin.elapsed();
        Ok(outcome)
    }

    /// Sets each key from `from` to `upto` once, over all connections; the latencies are of pipelines.
    pub fn fill(&mut self, work: Work, from: u64, upto: u64) -> io::Result<Outcome> {
        let mut outcome = Outcome { operations: upto - from, ..Outcome::default() };
        let begin = Instant::now();
        let mut next = from;
        let mut open = 0;
        let mut go_on = |load: &mut Load, i: usize| {
            let count = (upto - next).min(work.depth as u64);
            if count > 0 {
                load.pipeline(i, work, count as usize, Some(next))?;
                next += count;
            }
            io::Result::Ok(count > 0)
        };
        for i in 0..self.conns.len() {
            open += usize::from(go_on(self, i)?);
        }
        if open == 0 {
            return Ok(outcome);
        }
        self.until(begin + Duration::from_secs(3_600), |load, i| {
            outcome.latencies.add(load.conns[i].began.elapsed().as_nanos() as u64);
            open -= usize::from(!go_on(load, i)?);
            Ok(open == 0)
        })?;
        outcome.elapsed = begin.elapsed();
        Ok(outcome)
    }

    /// Open loop: so many single requests per second, for that long.
    pub fn open(&mut self, work: Work, per_second: f64, time: Duration) -> io::Result<Outcome> {
        let begin = Instant::now();
        self.open_while(work, per_second, || begin.elapsed() < time)
    }

    /// Open loop for as long as there is something to wait for.
    pub fn open_while(
        &mut self,
        work: Work,
        per_second: f64,
        mut goes_on: impl FnMut() -> bool,
    ) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let gap = Duration::from_secs_f64(1.0 / per_second);
        let begin = Instant::now();
        let mut due = begin;
        let mut turn = 0;
        let mut events = Events::with_capacity(1024);
        let mut end = None;
        for conn in &mut self.conns {
            conn.out.clear();
            conn.sent = 0;
        }
        while end.is_none() || self.conns.iter().any(|conn| !conn.due.is_empty()) {
            let now = Instant::now();
            if end.is_none() && !goes_on() {
                end = Some(now);
            }
            if end.is_some_and(|end| now > end + Duration::from_secs(30)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            while end.is_none() && due <= now {
                let i = turn % self.conns.len();
                turn += 1;
                if self.conns[i].sent == self.conns[i].out.len() {
                    self.conns[i].out.clear();
                    self.conns[i].sent = 0;
                }
                self.request(i, work, None);
                self.conns[i].due.push_back(due);
                due += gap;
                self.conns[i].flush()?;
            }
            self.poll.poll(&mut events, Some(Duration::ZERO))?;
            for event in &events {
                let i = event.token().0;
                self.conns[i].flush()?;
                for _ in 0..self.conns[i].take_in(&mut self.scratch)? {
                    let due = self.conns[i].due.pop_front().expect("a reply to a request");
                    outcome.latencies.add(due.elapsed().as_nanos() as u64);
                    outcome.operations += 1;
                }
            }
        }
        outcome.elapsed = begin.elapsed();
        Ok(outcome)
    }

    /// Calls `done` for each connection whose pipeline is answered, until it says that all is done.
    fn until(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&mut Load, usize) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in &events {
                let i = event.token().0;
                self.conns[i].flush()?;
                if self.conns[i].left == 0 {
                    continue;
                }
                let replies = self.conns[i].take_in(&mut self.scratch)?;
                self.conns[i].left = self.conns[i].left.checked_sub(replies).expect("a reply to a request");
                if replies > 0 && self.conns[i].left == 0 && done(self, i)? {
                    return Ok(());
                }
            }
        }
    }
}

impl Conn {
    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is; how many replies have ended in it.
    fn take_in(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let mut replies = 0;
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    replies += self.count(&scratch[..read])?;
                    if read < scratch.len() {
                        return Ok(replies);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(replies),
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts the replies that end in these bytes; what is left over is kept.
    fn count(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let kept = !self.input.is_empty();
        if kept {
            self.input.extend_from_slice(bytes);
        }
        let all: &[u8] = if kept { &self.input } else { bytes };
        let (mut at, mut replies) = (0, 0);
        while at < all.len() {
            if all[at] == b'-' && !all[at..].iter().zip(REFUSAL).all(|(a, b)| a == b) {
                return Err(io::Error::other(all[at..all.len().min(at + 200)].escape_ascii().to_string()));
            }
            match self.scan.advance(&all[at..]).map_err(io::Error::other)? {
                Some(len) => (at, replies) = (at + len, replies + 1),
                None => break,
            }
        }
        if kept {
            self.input.drain(..at);
        } else {
            self.input.extend_from_slice(&bytes[at..]);
        }
        Ok(replies)
    }
}
