//! Commands that are refused because there are none: told once for each and the library that sends it, and counted.
//!
//! Some libraries pass over "unknown command": a document is never stored, a lock never given back, and nobody hears of it. So the log says once
//! for each command and library that this happens, and INFO and `/metrics` say how often. A command is named if Redis 8 or Valkey 9 knows it, and is `other`
//! if nobody does: what clients make up must not fill the log. The same holds for SELECT of another database than 0: who passes over that goes
//! on in this one.
//!
//! Not here: unknown subcommands, which libraries use to find out what a server can do.

use std::collections::BTreeMap;

use super::{Effects, Keeper, Notice};

/// Pairs that are told apart; what comes beyond is counted together.
const PAIRS_MAX: usize = 128;
/// Letters of a library's name that are kept.
const LIBRARY_MAX: usize = 40;
/// What is not told apart.
const OTHER: &str = "other";

/// What Redis 8 and Valkey 9 know and this program does not, in order. Those of Redis's modules have a point in their name and are known by what stands
/// before it ([`FAMILIES`]).
const ELSEWHERE: &[&str] = &[
    "acl",
    "bgrewriteaof",
    "bgsave",
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "clusterscan",
    "commandlog",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "fcall",
    "fcall_ro",
    "function",
    "geoadd",
    "geodist",
    "geohash",
    "geopos",
    "georadius",
    "georadius_ro",
    "georadiusbymember",
    "georadiusbymember_ro",
    "geosearch",
    "geosearchstore",
    "hdel",
    "hexists",
    "hexpire",
    "hexpireat",
    "hexpiretime",
    "hget",
    "hgetall",
    "hgetdel",
    "hgetex",
    "hincrby",
    "hincrbyfloat",
    "hkeys",
    "hlen",
    "hmget",
    "hmset",
    "hotkeys",
    "hpersist",
    "hpexpire",
    "hpexpireat",
    "hpexpiretime",
    "hpttl",
    "hrandfield",
    "hscan",
    "hset",
    "hsetex",
    "hsetnx",
    "hstrlen",
    "httl",
    "hvals",
    "lastsave",
    "lindex",
    "linsert",
    "llen",
    "lmove",
    "lmpop",
    "lpop",
    "lpos",
    "lpush",
    "lpushx",
    "lrange",
    "lrem",
    "lset",
    "ltrim",
    "migrate",
    "msetex",
    "pfadd",
    "pfcount",
    "pfdebug",
    "pfmerge",
    "pfselftest",
    "psync",
    "replconf",
    "restore-asking",
    "rpop",
    "rpoplpush",
    "rpush",
    "rpushx",
    "sadd",
    "save",
    "scard",
    "script",
    "sdiff",
    "sdiffstore",
    "sinter",
    "sintercard",
    "sinterstore",
    "sismember",
    "smembers",
    "smismember",
    "smove",
    "sort",
    "sort_ro",
    "spop",
    "srandmember",
    "srem",
    "sscan",
    "sunion",
    "sunionstore",
    "sync",
    "vadd",
    "vcard",
    "vdim",
    "vemb",
    "vgetattr",
    "vinfo",
    "vismember",
    "vlinks",
    "vrandmember",
    "vrange",
    "vrem",
    "vsetattr",
    "vsim",
    "waitaof",
    "xack",
    "xackdel",
    "xadd",
    "xautoclaim",
    "xcfgset",
    "xclaim",
    "xdel",
    "xdelex",
    "xgroup",
    "xinfo",
    "xlen",
    "xpending",
    "xrange",
    "xread",
    "xreadgroup",
    "xrevrange",
    "xsetid",
    "xtrim",
    "zadd",
    "zcard",
    "zcount",
    "zdiff",
    "zdiffstore",
    "zincrby",
    "zinter",
    "zintercard",
    "zinterstore",
    "zlexcount",
    "zmpop",
    "zmscore",
    "zpopmax",
    "zpopmin",
    "zrandmember",
    "zrange",
    "zrangebylex",
    "zrangebyscore",
    "zrangestore",
    "zrank",
    "zrem",
    "zremrangebylex",
    "zremrangebyrank",
    "zremrangebyscore",
    "zrevrange",
    "zrevrangebylex",
    "zrevrangebyscore",
    "zrevrank",
    "zscan",
    "zscore",
    "zunion",
    "zunionstore",
];

/// Families of commands of modules, as they are shown.
const FAMILIES: &[&str] = &["bf.*", "cf.*", "cms.*", "ft.*", "json.*", "tdigest.*", "topk.*", "ts.*"];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// How often, by what and by whom. Invariant: at most [`PAIRS_MAX`], and one for all others.
    counts: BTreeMap<(&'static str, String), u64>,
}

impl Unknown {
    /// Counts one; whether this is the first of its command and library.
    fn count(&mut self, command: &'static str, library: &str) -> bool {
        let known = self.counts.get_mut(&(command, library.to_string()));
        if let Some(count) = known {
            *count += 1;
            return false;
        }
        let first = self.counts.len() < PAIRS_MAX;
        let pair = if first { (command, library.to_string()) } else { (OTHER, OTHER.to_string()) };
        *self.counts.entry(pair).or_default() += 1;
        first
    }

    /// Command, library and how often.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &str, u64)> {
        self.counts.iter().map(|((command, library), count)| (*command, library.as_str(), *count))
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Begins to count anew; what was told once is not told again.
    pub fn reset(&mut self) {
        self.counts.values_mut().for_each(|count| *count = 0);
    }
}

/// The command as it is shown.
fn shown(name: &[u8]) -> &'static str {
    let lower = name.to_ascii_lowercase();
    if let Ok(at) = ELSEWHERE.binary_search_by(|known| known.as_bytes().cmp(&lower)) {
        return ELSEWHERE[at];
    }
    let of_family = |family: &&&str| lower.starts_with(&family.as_bytes()[..family.len() - 1]);
    FAMILIES.iter().find(of_family).copied().unwrap_or(OTHER)
}

/// A library as it is shown: letters and digits, and what names of libraries have beside these.
fn library_of(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.()".contains(c) { c } else { '_' };
    name.chars().take(LIBRARY_MAX).map(plain).collect()
}

impl Keeper {
    /// Commands that are none: each with the library that sent it, and how often.
    #[must_use]
    pub fn unknown_commands(&self) -> Vec<(&'static str, String, u64)> {
        self.unknown.counts().map(|(command, library, count)| (command, library.to_string(), count)).collect()
    }

    /// A client sent `name`, which is no command, or SELECT of a database that is not there.
    pub(super) fn note_unknown(&mut self, name: &[u8], library: &str, fx: &mut Effects) {
        let select = name.eq_ignore_ascii_case(b"select");
        let command = if select { "select" } else { shown(name) };
        let library = library_of(library);
        if !self.unknown.count(command, &library) {
            return;
        }
        let who = match library.as_str() {
            "" => "a client that does not name its library".to_string(),
            library => library.to_string(),
        };
        let upper = command.to_ascii_uppercase();
        let what = match command {
            "select" => "SELECT of another database than 0, which is the only one: a client that passes over the error goes on in it".to_string(),
            OTHER => "a command that neither this node nor Redis 8 or Valkey 9 knows".to_string(),
            _ => format!("{upper}, which is not there: a client that passes over the error does less than it seems to"),
        };
        fx.push(Notice::warn(format!("{who} sends {what}; this is said once, and counted in INFO (unknown_commands)")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_others_are_in_order_and_none_of_ours() {
        assert!(ELSEWHERE.is_sorted_by(|a, b| a < b));
        for name in ELSEWHERE {
            assert!(crate::command::find(name.as_bytes()).is_none(), "{name} is there");
        }
        assert_eq!(shown(b"EvalSha"), "evalsha");
        assert_eq!(shown(b"JSON.SET"), "json.*");
        assert_eq!((shown(b"nonsense"), shown(b""), shown(b"ts")), (OTHER, OTHER, OTHER));
    }

    #[test]
    fn pairs_are_counted_up_to_a_bound_and_the_rest_together() {
        let mut unknown = Unknown::default();
        for i in 0..200 {
            assert_eq!(unknown.count("eval", &format!("library-{i}")), i < PAIRS_MAX);
            assert!(!unknown.count("eval", "library-0"));
        }
        assert_eq!(unknown.counts().count(), PAIRS_MAX + 1);
        assert_eq!(unknown.total(), 400);
        assert!(unknown.counts().any(|pair| pair == ("eval", "library-0", 201)));
        assert!(unknown.counts().any(|pair| pair == (OTHER, OTHER, 72)));
        unknown.reset();
        assert_eq!((unknown.total(), unknown.count("eval", "library-0")), (0, false));
    }

    #[test]
    fn names_of_libraries_are_short_and_plain() {
        assert_eq!(library_of("redis-py(x_v1.0)"), "redis-py(x_v1.0)");
        assert_eq!(library_of("a\"b,c=\u{e4}"), "a_b_c__");
        assert_eq!(library_of(&"x".repeat(100)).len(), LIBRARY_MAX);
    }
}
