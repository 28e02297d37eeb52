//! Requests by chance: most of them as they should be, some with a wrong word, one too few or one too many.
//!
//! The shapes of a command are words:
//! ```text
//!   key value          kinds of arguments, see `kind`           AND            a word as it is
//!   a/b                one of them                              a:b            one after the other
//!   ?a                 or not                                   *a   +a        none or some, one or some
//! ```
//! Times are far away, and each relative one differs from all others: which of two was later must not hang on a millisecond.

use std::collections::BTreeMap;

use datakeeper::base::jitter::Jitter;

/// What a command's requests look like; the more shapes say a thing, the more often it happens.
const SHAPES: &[(&str, &[&str])] = &[
    ("append", &["key value"]),
    ("bitcount", &["key ?index:index:?BYTE/BIT"]),
    (
        "bitfield",
        &[
            "key *GET:field:offset/SET:field:offset:int/INCRBY:field:offset:int/OVERFLOW:WRAP/OVERFLOW:SAT/OVERFLOW:FAIL",
        ],
    ),
    ("bitfield_ro", &["key *GET:field:offset", "key *GET:field:offset/OVERFLOW:SAT/SET:field:offset:int"]),
    ("bitop", &["AND/OR/XOR key +key", "NOT key key"]),
    ("bitpos", &["key bit ?index:?index:?BYTE/BIT"]),
    ("copy", &["key key ?REPLACE ?DB:0"]),
    ("dbsize", &[""]),
    ("decr", &["number"]),
    ("decrby", &["number int"]),
    ("del", &["+key"]),
    ("dump", &["key"]),
    ("echo", &["value"]),
    ("exists", &["+key"]),
    ("expire", &["key seconds ?NX/XX/GT/LT", "key seconds"]),
    ("expireat", &["key unix-seconds ?NX/XX/GT/LT", "key unix-seconds", "key past"]),
    ("expiretime", &["key"]),
    ("flushall", &["?ASYNC/SYNC/NOW", "NOW", "SYNC:SYNC", "int"]),
    ("flushdb", &["?ASYNC/SYNC/NOW", "NOW", "ASYNC:SYNC", "int"]),
    ("get", &["key"]),
    ("getbit", &["key offset"]),
    ("getdel", &["key"]),
    ("getex", &["key ?EX:seconds/PX:milliseconds/EXAT:unix-seconds/PXAT:unix-milliseconds/PERSIST", "key"]),
    ("getrange", &["key index index"]),
    ("getset", &["key value"]),
    ("incr", &["number"]),
    ("incrby", &["number int"]),
    ("incrbyfloat", &["number float"]),
    ("keys", &["pattern"]),
    ("lcs", &["key key ?IDX/LEN ?MINMATCHLEN:int ?WITHMATCHLEN"]),
    ("mget", &["+key"]),
    ("mset", &["+key:value"]),
    ("msetnx", &["+key:value"]),
    ("object|encoding", &["key"]),
    ("object|freq", &["key"]),
    ("object|idletime", &["key"]),
    ("object|refcount", &["key"]),
    ("persist", &["key"]),
    ("pexpire", &["key milliseconds ?NX/XX/GT/LT", "key milliseconds"]),
    ("pexpireat", &["key unix-milliseconds ?NX/XX/GT/LT", "key unix-milliseconds", "key past"]),
    ("pexpiretime", &["key"]),
    ("ping", &["?value"]),
    ("psetex", &["key milliseconds value"]),
    ("pttl", &["key"]),
    ("randomkey", &[""]),
    ("rename", &["key key"]),
    ("renamenx", &["key key"]),
    ("scan", &["0 COUNT 1000000 ?MATCH:pattern ?TYPE:type", "int ?MATCH:pattern ?COUNT:int ?TYPE:type"]),
    (
        "restore",
        &[
            "key 0 payload REPLACE",
            "key 0 payload ?REPLACE",
            "key milliseconds payload REPLACE",
            "key unix-milliseconds payload REPLACE:ABSTTL",
            "key past payload REPLACE:ABSTTL",
            "key 0 payload REPLACE ?IDLETIME:int ?FREQ:int",
        ],
    ),
    (
        "set",
        &[
            "key value",
            "number int",
            "number float",
            "key value ?NX/XX ?GET ?EX:seconds/PX:milliseconds/EXAT:unix-seconds/PXAT:unix-milliseconds/KEEPTTL",
        ],
    ),
    ("setbit", &["key offset bit"]),
    ("setex", &["key seconds value"]),
    ("setnx", &["key value"]),
    ("setrange", &["key offset value"]),
    ("strlen", &["key"]),
    ("substr", &["key index index"]),
    ("touch", &["+key"]),
    ("ttl", &["key"]),
    ("type", &["key"]),
    ("unlink", &["+key"]),
];

/// Commands that are drawn less often than others: they leave nothing to look at.
const SELDOM: &[&str] = &["flushall", "flushdb"];
/// How much less.
const SELDOM_FACTOR: u64 = 10;

/// Words that are wrong in most places.
const JUNK: &[&[u8]] = &[
    b"",
    b"x",
    b"-1",
    b"1.5",
    b"1e3",
    b" 1",
    b"1 ",
    b"+1",
    b"01",
    b"-0",
    b"0x10",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"18446744073709551616",
    b"536870912",
    b"4294967296",
    b"NaN",
    b"inf",
    b"NX",
    b"GET",
    b"\r\n",
    b"\xff\xfe",
    b"a word that is longer than the others, to be quoted in an error or not",
];

/// The payload of an empty string, as Redis 7.0 writes it.
const EMPTY: &[u8] = b"\x00\x00\x0a\x00]\x9b\\@\x0f\x7f\xa2\xda";
/// Payloads to choose from.
const PAYLOADS_MAX: usize = 200;

/// Keys: short and long, text and not.
const KEYS: u64 = 40;
/// Keys that hold numbers more often than not.
const NUMBERS: u64 = 8;
/// The first of the times that lie far ahead (2100), in seconds.
pub const FAR_SECONDS: u64 = 4_102_444_800;
/// Relative times are at least this many units, so that nothing ends while the test looks.
const RELATIVE_MIN: i64 = 100_000;
/// They are multiples of this.
const RELATIVE_STEP: i64 = 50;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The command that it was made for; what is sent may be none.
    pub command: &'static str,
    pub words: Vec<Vec<u8>>,
}

impl Request {
    /// A command without arguments.
    #[must_use]
    pub fn bare(command: &'static str) -> Request {
        Request { command, words: vec![command.as_bytes().to_vec()] }
    }

    /// The word in small letters.
    #[must_use]
    pub fn word(&self, i: usize) -> Vec<u8> {
        self.words.get(i).map_or(Vec::new(), |word| word.to_ascii_lowercase())
    }

    /// As it would be typed.
    #[must_use]
    pub fn shown(&self) -> String {
        let shown = |word: &Vec<u8>| match word.len() {
            0..200 => format!("\"{}\"", word.escape_ascii()),
            len => format!("\"{}…\" ({len} bytes)", word[..100].escape_ascii()),
        };
        self.words.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    /// The word as a number.
    fn number(&self, i: usize) -> Option<i64> {
        std::str::from_utf8(self.words.get(i)?).ok()?.parse().ok()
    }

    /// Whether it gives a key a relative time that [`Requests::relative`] has not drawn: it may end while the test looks, or meet itself.
    fn is_fleeting(&self) -> bool {
        let chance = |i: usize| {
            self.number(i).is_some_and(|n| n > 0 && n < 1 << 60 && (n < RELATIVE_MIN || n % RELATIVE_STEP != 0))
        };
        match &self.word(0)[..] {
            b"expire" | b"pexpire" | b"setex" | b"psetex" => chance(2),
            b"restore" => chance(2) && !(4..self.words.len()).any(|i| self.word(i) == b"absttl"),
            b"set" | b"getex" => {
                (2..self.words.len()).any(|i| matches!(&self.word(i)[..], b"ex" | b"px") && chance(i + 1))
            }
            _ => false,
        }
    }

    /// Whether it may make a value of many MiB.
    fn is_huge(&self) -> bool {
        let end = match &self.word(0)[..] {
            b"setrange" => 1 << 29,
            b"setbit" | b"bitfield" => 1 << 32,
            _ => return false,
        };
        (1..self.words.len()).filter_map(|i| self.number(i)).any(|n| (1 << 20..end).contains(&n))
    }
}

/// Draws requests.
pub struct Requests {
    chance: Jitter,
    /// Relative times given so far.
    times: i64,
    /// What DUMP returned on either side.
    payloads: Vec<Vec<u8>>,
}

impl Requests {
    /// The requests that belong to a seed.
    #[must_use]
    pub fn new(seed: u64) -> Requests {
        Requests { chance: Jitter::new(seed), times: 0, payloads: vec![EMPTY.to_vec()] }
    }

    /// Commands that are drawn.
    pub fn commands() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|(command, _)| *command)
    }

    /// Takes a payload to be restored in later requests.
    pub fn keep_payload(&mut self, payload: &[u8]) {
        if self.payloads.len() < PAYLOADS_MAX {
            self.payloads.push(payload.to_vec());
        } else {
            let at = self.below(PAYLOADS_MAX as u64) as usize;
            self.payloads[at] = payload.to_vec();
        }
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.chance.below(bound)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }

    /// The next request.
    pub fn draw(&mut self) -> Request {
        loop {
            let (command, shapes) = SHAPES[self.below(SHAPES.len() as u64) as usize];
            if SELDOM.contains(&command) && self.below(SELDOM_FACTOR) > 0 {
                continue;
            }
            let mut words: Vec<Vec<u8>> = command.split('|').map(|word| self.case(word)).collect();
            let shape = self.pick(shapes);
            for item in shape.split(' ').filter(|item| !item.is_empty()) {
                self.item(item, &mut words);
            }
            if self.below(12) == 0 {
                self.spoil(&mut words);
            }
            let request = Request { command, words };
            if !request.is_fleeting() && !request.is_huge() {
                return request;
            }
        }
    }

    /// WATCH of some keys, and a request behind it that may change one of them.
    pub fn draw_watch(&mut self) -> [Request; 2] {
        let mut words = vec![b"WATCH".to_vec()];
        self.item("+key", &mut words);
        loop {
            let next = self.draw();
            // Up to 7.0 these count as changes when they change nothing.
            if !["setbit", "bitfield"].contains(&next.command) {
                return [Request { command: "watch", words }, next];
            }
        }
    }

    /// Every key that may exist.
    #[must_use]
    pub fn all_keys() -> Vec<Vec<u8>> {
        (0..KEYS).map(key).chain((0..NUMBERS).map(number_key)).collect()
    }

    /// Makes one thing of a request different.
    fn spoil(&mut self, words: &mut Vec<Vec<u8>>) {
        let at = self.below(words.len() as u64) as usize;
        match self.below(8) {
            0 => {
                words.pop();
            }
            1 => words.push(self.pick(JUNK).to_vec()),
            2 => words.insert(at + 1, self.pick(JUNK).to_vec()),
            3 if at > 0 => {
                words.remove(at);
            }
            4 if at > 1 => words.swap(at, at - 1),
            5 if self.below(20) == 0 => words[0].push(b'x'),
            _ if at > 0 => words[at] = self.pick(JUNK).to_vec(),
            _ => {}
        }
        if words.is_empty() {
            words.push(b"get".to_vec());
        }
    }

    /// A word in small letters, capitals, or both.
    fn case(&mut self, word: &str) -> Vec<u8> {
        match self.below(8) {
            0..5 => word.to_ascii_uppercase().into_bytes(),
            5 | 6 => word.to_ascii_lowercase().into_bytes(),
            _ => {
                let flip = |(i, byte): (usize, u8)| if i % 2 == 0 { byte.to_ascii_uppercase() } else { byte };
                word.to_ascii_lowercase().bytes().enumerate().map(flip).collect()
            }
        }
    }

    fn item(&mut self, item: &str, words: &mut Vec<Vec<u8>>) {
        let (times, item) = match item.as_bytes()[0] {
            b'?' => (self.below(2), &item[1..]),
            b'*' => (self.below(4), &item[1..]),
            b'+' => (1 + self.below(4), &item[1..]),
            _ => (1, item),
        };
        for _ in 0..times {
            // A colon binds tighter than a slash, but for what is optional behind it: `a:?b/c`.
            if let Some((head, tail)) = item.split_once(":?") {
                self.item(head, words);
                self.item(&format!("?{tail}"), words);
                continue;
            }
            let choices: Vec<&str> = item.split('/').collect();
            for kind in self.pick(&choices).split(':') {
                let word = self.kind(kind);
                words.push(word);
            }
        }
    }

    /// An argument of that kind.
    fn kind(&mut self, kind: &str) -> Vec<u8> {
        let text = |number: i64| number.to_string().into_bytes();
        match kind {
            "key" if self.below(8) == 0 => self.kind("number"),
            "key" => key(self.below(KEYS)),
            "number" if self.below(8) == 0 => self.kind("key"),
            "number" => number_key(self.below(NUMBERS)),
            "value" => self.value(),
            "bit" => text(self.below(2) as i64),
            "int" => match self.below(12) {
                0 => self
                    .pick(&[&b"9223372036854775807"[..], b"-9223372036854775808", b"2147483647", b"4294967295"])
                    .to_vec(),
                1 => text(self.below(1 << 40) as i64 - (1 << 39)),
                _ => text(self.below(200) as i64 - 60),
            },
            "float" => self.float(),
            "index" => text(self.below(120) as i64 - 60),
            "offset" => match self.below(20) {
                0 => text(self.below(40_000) as i64),
                1 => format!("#{}", self.below(40)).into_bytes(),
                _ => text(self.below(300) as i64),
            },
            "field" => format!("{}{}", self.pick(&["u", "i"]), 1 + self.below(65)).into_bytes(),
            "seconds" => text(self.relative()),
            "milliseconds" => text(self.relative() * 1_000),
            "unix-seconds" => text((FAR_SECONDS + self.below(1_000)) as i64),
            "unix-milliseconds" => text((FAR_SECONDS * 1_000 + self.below(1_000_000)) as i64),
            "past" => text(self.below(1_500_000_000) as i64 - 1_000),
            "payload" => {
                let at = self.below(self.payloads.len() as u64) as usize;
                let mut payload = self.payloads[at].clone();
                if self.below(12) == 0 {
                    let at = self.below(payload.len() as u64) as usize;
                    payload[at] ^= 1 << self.below(8);
                }
                payload
            }
            "type" => self.pick(&[&b"string"[..], b"STRING", b"hash", b"list", b"nonsense"]).to_vec(),
            "pattern" => self.pick(PATTERNS).to_vec(),
            literal => {
                assert!(!literal.bytes().any(|byte| byte.is_ascii_lowercase()), "there is no kind {literal}");
                self.case(literal)
            }
        }
    }

    /// A time to come that no other request has: a walk over 2^20 steps that meets each once.
    fn relative(&mut self) -> i64 {
        self.times += 1;
        RELATIVE_MIN + self.times * 0x9e37_79b1 % (1 << 20) * RELATIVE_STEP
    }

    fn float(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => self
                .pick(&[&b"1e17"[..], b"-1e-17", b"5.0e3", b"0x1p3", b"inf", b"-inf", b"nan", b"1e5000", b".5"])
                .to_vec(),
            1 => format!("{}e{}", self.below(1_000), self.below(40) as i64 - 20).into_bytes(),
            2 => text_of(self.below(1_000) as i64 - 500),
            _ => {
                let (whole, part) = (self.below(2_000) as i64 - 1_000, self.below(100_000));
                format!("{whole}.{part:0width$}", width = 1 + self.below(5) as usize).into_bytes()
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.below(400) {
            0 => 70_000,
            1..4 => 4_090 + self.below(12),
            4..40 => 18 + self.below(30),
            _ => self.below(24),
        };
        match self.below(8) {
            0 => text_of(self.below(100_000) as i64 - 50_000),
            1 => self.float(),
            2 => vec![self.below(256) as u8; len as usize],
            3 => (0..len).map(|_| self.below(256) as u8).collect(),
            _ => (0..len).map(|_| b'a' + self.below(4) as u8).collect(),
        }
    }
}

const PATTERNS: &[&[u8]] = &[
    b"*", b"k*", b"k?", b"*1*", b"[k]1", b"[^k]*", b"n[0-3]", b"k\\*", b"k[1", b"", b"**", b"?", b"[a-c]*", b"*\xff*",
];

fn text_of(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn key(i: u64) -> Vec<u8> {
    match i {
        0 => Vec::new(),
        1 => b"\xff\x00\xfe".to_vec(),
        2 => b"a\r\nb".to_vec(),
        3 => vec![b'k'; 300],
        4 => b"{tag}k".to_vec(),
        5 => b"k*".to_vec(),
        i => format!("k{i}").into_bytes(),
    }
}

fn number_key(i: u64) -> Vec<u8> {
    format!("n{i}").into_bytes()
}

#[test]
fn a_seed_gives_the_same_requests_and_another_one_others() {
    let drawn = |seed| {
        let mut requests = Requests::new(seed);
        (0..1_000).map(|_| requests.draw().shown()).collect::<Vec<_>>()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn relative_times_differ() {
    let mut requests = Requests::new(1);
    let mut seen = BTreeMap::new();
    for i in 0..1 << 20 {
        let time = requests.relative();
        assert!((RELATIVE_MIN..100_000_000).contains(&time) && time % RELATIVE_STEP == 0, "{time}");
        assert_eq!(seen.insert(time, i), None);
    }
}
