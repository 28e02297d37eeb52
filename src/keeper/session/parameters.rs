//! The table behind CONFIG: every parameter under Redis's name and under that of our own file, how it is read and how it is set.
//!
//! What Redis can do and this server does not is a row, too, with the value that says so (`save` is empty, `appendonly` is `no`): setting it
//! to that is answered OK, setting it to anything else is refused. Passwords and secrets have no row.
//!
//! A new parameter that CONFIG SET changes is a field of [`Settings`], a key of config.yml and a row here.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use crate::base::limits::{BULK_BYTES_MAX, PUSHED_BYTES_MAX, PUSHED_BYTES_SLOW, PUSHED_SLOW_MS, SLOWLOG_LEN_MAX};
use crate::cluster::config::TotalLoss;
use crate::cluster::state::MinInSync;
use crate::command::integer;
use crate::keeper::{Acks, Keeper, KeyEvents, LogLevel, OutputLimit, ReadMode, SWEEP_MS, Settings};
use crate::store::Eviction;

/// Why a value is refused, as CONFIG SET's error ends.
pub(super) type Wrong = Cow<'static, str>;

/// One parameter.
pub(super) struct Parameter {
    /// Redis's name; ours where Redis has none, which then is the path in config.yml.
    pub name: &'static str,
    /// Its path in config.yml, if that is another.
    pub key: Option<&'static str>,
    /// Its value, as CONFIG GET shows it and CONFIG SET takes it.
    pub get: fn(&Keeper) -> String,
    /// What CONFIG SET does.
    pub set: Set,
}

/// What CONFIG SET does with a parameter.
#[derive(Clone, Copy)]
pub(super) enum Set {
    /// Changes it; CONFIG REWRITE writes it.
    Now(fn(&mut Settings, &str) -> Result<(), Wrong>),
    /// Takes the value that it has, and refuses any other: this is why.
    Fixed(&'static str),
    /// Refuses: it is read at the start.
    AtStart,
    /// Refuses: one value for the whole cluster.
    Shared,
}

impl Parameter {
    const fn new(name: &'static str, get: fn(&Keeper) -> String, set: Set) -> Parameter {
        Parameter { name, key: None, get, set }
    }

    const fn key(self, key: &'static str) -> Parameter {
        Parameter { key: Some(key), ..self }
    }

    /// Its path in config.yml, if it may stand there.
    pub(super) fn path(&self) -> &'static str {
        self.key.unwrap_or(self.name)
    }

    /// Whether it is called that, in any case.
    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.name.as_bytes())
            || self.key.is_some_and(|k| name.eq_ignore_ascii_case(k.as_bytes()))
    }
}

const WRONG_LETTER: &str = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
const NO_FILES: &str = "nothing is written to files here";
const NO_TIMEOUT: &str = "idle clients are not closed here";
const MOVED: &str = "replicas redirect writes, and serve no data that is not theirs for certain";

use Set::{AtStart, Fixed, Now, Shared};

/// All of them but those that the shell and the roof add ([`crate::keeper::KeeperConfig::parameters`]).
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::new(
        "maxmemory",
        |k| k.settings().max_memory.to_string(),
        Now(|settings, value| {
            settings.max_memory = memory(value, 0..=MAX_MEMORY_MAX)?;
            Ok(())
        }),
    )
    .key("memory.max_bytes"),
    Parameter::new(
        "maxmemory-policy",
        |k| k.settings().eviction.as_str().into(),
        Now(|settings, value| {
            settings.eviction = word(value, Eviction::WORDS)?;
            Ok(())
        }),
    )
    .key("memory.eviction"),
    Parameter::new(
        "maxmemory-samples",
        |k| k.settings().eviction_samples.to_string(),
        Now(|settings, value| {
            settings.eviction_samples = number(value, 1..=EVICTION_SAMPLES_MAX as i64)? as usize;
            Ok(())
        }),
    )
    .key("memory.eviction_samples"),
    Parameter::new(
        "lfu-log-factor",
        |k| k.settings().lfu_log_factor.to_string(),
        Now(|settings, value| {
            settings.lfu_log_factor = number(value, 0..=i64::from(i32::MAX))? as u32;
            Ok(())
        }),
    )
    .key("memory.lfu_log_factor"),
    Parameter::new(
        "lfu-decay-time",
        |k| k.settings().lfu_decay_minutes.to_string(),
        Now(|settings, value| {
            settings.lfu_decay_minutes = number(value, 0..=i64::from(i32::MAX))? as u32;
            Ok(())
        }),
    )
    .key("memory.lfu_decay_minutes"),
    Parameter::new("appendonly", |_| "no".into(), Fixed(NO_FILES)),
    Parameter::new("save", |_| String::new(), Fixed(NO_FILES)),
    Parameter::new("timeout", |_| "0".into(), Fixed(NO_TIMEOUT)),
    Parameter::new("hz", |_| (1_000 / SWEEP_MS).to_string(), Fixed("upkeep has one pace here")),
    Parameter::new(
        "maxmemory-clients",
        |k| k.settings().max_clients_memory.to_string(),
        Now(|settings, value| {
            settings.max_clients_memory = memory(value, 0..=MAX_MEMORY_MAX)?;
            Ok(())
        }),
    )
    .key("memory.clients_max_bytes"),
    Parameter::new(
        "client-output-buffer-limit",
        |k| k.settings().output_limit.to_string(),
        Now(|settings, value| {
            settings.output_limit = settings.output_limit.changed(value)?;
            Ok(())
        }),
    )
    .key("memory.client_output_buffer_limit"),
    Parameter::new("protected-mode", |_| "no".into(), Fixed("who may connect is up to listen and password here")),
    Parameter::new(
        "latency-monitor-threshold",
        |k| k.settings().latency_threshold_ms.to_string(),
        Now(|settings, value| {
            settings.latency_threshold_ms = number(value, 0..=i64::MAX)?.unsigned_abs();
            Ok(())
        }),
    )
    .key("latency.threshold_ms"),
    Parameter::new(
        "notify-keyspace-events",
        |k| k.settings().key_events.to_string(),
        Now(|settings, value| {
            settings.key_events = KeyEvents::parse(value).ok_or(WRONG_LETTER)?;
            Ok(())
        }),
    )
    .key("notify.keyspace_events"),
    Parameter::new(
        "tracking-table-max-keys",
        |k| k.settings().tracking_keys_max.to_string(),
        Now(|settings, value| {
            settings.tracking_keys_max = number(value, 0..=i64::MAX)?.unsigned_abs();
            Ok(())
        }),
    )
    .key("tracking.max_keys"),
    Parameter::new(
        "slowlog-log-slower-than",
        |k| k.settings().slower_than_us.to_string(),
        Now(|settings, value| {
            settings.slower_than_us = number(value, -1..=i64::MAX)?;
            Ok(())
        }),
    )
    .key("slowlog.slower_than_us"),
    Parameter::new(
        "slowlog-max-len",
        |k| k.settings().slowlog_max_len.to_string(),
        Now(|settings, value| {
            settings.slowlog_max_len = number(value, 0..=SLOWLOG_LEN_MAX as i64)? as usize;
            Ok(())
        }),
    )
    .key("slowlog.max_len"),
    Parameter::new(
        "loglevel",
        |k| k.settings().log_level.as_str().into(),
        Now(|settings, value| {
            settings.log_level = log_level(value)?;
            Ok(())
        }),
    )
    .key("log.level"),
    Parameter::new("replica-read-only", |_| "yes".into(), Fixed(MOVED)),
    Parameter::new("replica-serve-stale-data", |_| "yes".into(), Fixed(MOVED)),
    Parameter::new("slave-read-only", |_| "yes".into(), Fixed(MOVED)),
    Parameter::new("slave-serve-stale-data", |_| "yes".into(), Fixed(MOVED)),
    Parameter::new("cluster-require-full-coverage", |_| "yes".into(), Fixed("one group has all slots")),
    Parameter::new("cluster-enabled", |_| "yes".into(), AtStart),
    Parameter::new("databases", |_| "1".into(), AtStart),
    Parameter::new("maxclients", |k| k.config.clients_max.to_string(), AtStart),
    Parameter::new("proto-max-bulk-len", |_| BULK_BYTES_MAX.to_string(), AtStart),
    Parameter::new("repl-backlog-size", |k| k.config.backlog_bytes.to_string(), AtStart)
        .key("replication.backlog_bytes"),
    Parameter::new("node_name", |k| k.config.node.to_string(), AtStart),
    Parameter::new("cluster", |k| k.config.cluster.clone(), AtStart),
    Parameter::new("advertise", |k| k.config.client_addr.clone(), AtStart),
    Parameter::new("replication.advertise", |k| k.config.repl_addr.clone(), AtStart),
    Parameter::new("replication.acks", |k| acks(k.config.acks).into(), AtStart),
    Parameter::new("replication.read_mode", |k| read_mode(k.config.read_mode).into(), AtStart),
    Parameter::new("replication.min_in_sync", |k| min_in_sync(k.shared.min_in_sync), Shared),
    Parameter::new("replication.heartbeat_ms", |k| k.shared.heartbeat_ms.to_string(), Shared),
    Parameter::new("replication.suspect_ms", |k| k.shared.suspect_ms.to_string(), Shared),
    Parameter::new("replication.lease_ms", |k| k.shared.lease_ms.to_string(), Shared),
    Parameter::new("replication.promise_ms", |k| k.shared.promise_ms.to_string(), Shared),
    Parameter::new("total_loss", |k| total_loss(k.shared.total_loss).into(), Shared),
];

/// Paths in config.yml of what CONFIG SET changes.
pub fn paths_set_now() -> impl Iterator<Item = &'static str> {
    PARAMETERS.iter().filter(|p| matches!(p.set, Now(_))).map(Parameter::path)
}

/// Largest limit of memory, in bytes, as config.yml has it.
pub const MAX_MEMORY_MAX: u64 = 1 << 50;

/// Most keys that are looked at for each one that goes, as config.yml has it.
pub const EVICTION_SAMPLES_MAX: u64 = 64;

/// A number within a range.
pub(super) fn number(value: &str, range: RangeInclusive<i64>) -> Result<i64, Wrong> {
    let number = integer(value.as_bytes()).map_err(|_| "argument couldn't be parsed into an integer")?;
    if range.contains(&number) { Ok(number) } else { Err(out_of(range.start(), range.end())) }
}

/// Bytes within a range, plain or with a unit of Redis: `k` and `kb` are 1000 and 1024, and so on; a fraction is none.
pub(super) fn memory(value: &str, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    const WRONG: &str = "argument must be a memory value";
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err(WRONG.into()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or(WRONG)?;
    if range.contains(&bytes) { Ok(bytes) } else { Err(out_of(range.start(), range.end())) }
}

/// One of several words, in any case.
pub(super) fn word<T: Copy>(value: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let offered = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        format!("argument(s) must be one of the following: {offered}").into()
    })
}

/// In our words or in Redis's.
fn log_level(value: &str) -> Result<LogLevel, Wrong> {
    const OF_REDIS: &[(&str, LogLevel)] =
        &[("verbose", LogLevel::Debug), ("notice", LogLevel::Info), ("warning", LogLevel::Warn)];
    word(value, OF_REDIS).or_else(|_| word(value, LogLevel::WORDS))
}

fn out_of(first: impl std::fmt::Display, last: impl std::fmt::Display) -> Wrong {
    format!("argument must be between {first} and {last} inclusive").into()
}

/// The classes as Redis spells them: at once, or beyond so much for so many seconds. A replica that does not keep up leaves the in-sync set.
const FIXED_CLASSES: &[(&str, [u64; 3])] = &[
    ("slave", [0, 0, 0]),
    ("replica", [0, 0, 0]),
    ("pubsub", [PUSHED_BYTES_MAX as u64, PUSHED_BYTES_SLOW as u64, PUSHED_SLOW_MS / 1_000]),
];

impl OutputLimit {
    /// What comes of it by these words: classes, each with its three numbers.
    ///
    /// # Errors
    /// Why they are refused, in Redis's words where it has some.
    pub fn changed(self, words: &str) -> Result<OutputLimit, Cow<'static, str>> {
        let words: Vec<&str> = words.split_ascii_whitespace().collect();
        if words.is_empty() || !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        let mut limit = self;
        for class in words.chunks(4) {
            let numbers =
                [memory(class[1], 0..=u64::MAX).ok(), memory(class[2], 0..=u64::MAX).ok(), class[3].parse().ok()];
            let [Some(hard), Some(soft), Some(soft_s)] = numbers else {
                return Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".into());
            };
            let name = class[0].to_ascii_lowercase();
            match FIXED_CLASSES.iter().find(|(class, _)| *class == name) {
                _ if name == "normal" => limit = OutputLimit { hard, soft, soft_s },
                Some((_, fixed)) if *fixed == [hard, soft, soft_s] => {}
                Some((_, [hard, soft, soft_s])) => {
                    return Err(
                        format!("the limits of {name} are {hard} {soft} {soft_s} here; normal can be set").into()
                    );
                }
                None => return Err("Invalid client class specified in buffer limit configuration.".into()),
            }
        }
        Ok(limit)
    }
}

impl std::fmt::Display for OutputLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OutputLimit { hard, soft, soft_s } = self;
        write!(f, "normal {hard} {soft} {soft_s} slave 0 0 0 pubsub {PUSHED_BYTES_MAX} {PUSHED_BYTES_SLOW} ")?;
        write!(f, "{}", PUSHED_SLOW_MS / 1_000)
    }
}

/// As the configuration spells it.
pub(super) fn acks(acks: Acks) -> &'static str {
    match acks {
        Acks::InSync => "in_sync",
        Acks::Leader => "leader",
    }
}

/// As the configuration spells it.
pub(super) fn read_mode(mode: ReadMode) -> &'static str {
    match mode {
        ReadMode::Lease => "lease",
        ReadMode::Confirm => "confirm",
        ReadMode::Local => "local",
    }
}

/// As the configuration spells it.
pub(super) fn min_in_sync(min: MinInSync) -> String {
    match min {
        MinInSync::Auto => "auto".to_string(),
        MinInSync::Count(n) => n.to_string(),
    }
}

fn total_loss(policy: TotalLoss) -> &'static str {
    match policy {
        TotalLoss::StartEmpty => "start_empty",
        TotalLoss::Proven => "proven",
        TotalLoss::Other => "other",
        TotalLoss::Halt => "halt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_parameters_have_the_same_name() {
        let mut names: Vec<&str> = PARAMETERS.iter().flat_map(|p| [Some(p.name), p.key]).flatten().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn bytes_have_the_units_of_redis() {
        for (text, bytes) in
            [("0", 0), ("17b", 17), ("1k", 1_000), ("1KB", 1_024), ("100mb", 100 << 20), ("2Gb", 2 << 30)]
        {
            assert_eq!(memory(text, 0..=u64::MAX), Ok(bytes), "{text}");
        }
        for text in ["", "mb", "-1", "1.5gb", "1 gb", "1tb", "99999999999999999999"] {
            assert_eq!(memory(text, 0..=u64::MAX), Err("argument must be a memory value".into()), "{text}");
        }
        assert_eq!(memory("3", 0..=2), Err("argument must be between 0 and 2 inclusive".into()));
    }

    #[test]
    fn limits_of_output_are_read_as_redis_writes_them() {
        let limit = OutputLimit { hard: 1, soft: 2, soft_s: 3 };
        assert_eq!(limit.changed(&limit.to_string()), Ok(limit));
        assert_eq!(
            limit.changed("NORMAL 1mb 512kb 10"),
            Ok(OutputLimit { hard: 1 << 20, soft: 512 << 10, soft_s: 10 })
        );
        assert_eq!(limit.changed("replica 0 0 0 normal 0 0 0"), Ok(OutputLimit { hard: 0, soft: 0, soft_s: 0 }));
        for wrong in
            ["", "normal 1 2", "normal x 0 0", "normal 0 0 -1", "master 0 0 0", "pubsub 0 0 0", "normal 1 1 1 x"]
        {
            assert!(limit.changed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_words_say_what_would_do() {
        assert_eq!(number("-1", -1..=5), Ok(-1));
        assert_eq!(number("6", -1..=5), Err("argument must be between -1 and 5 inclusive".into()));
        assert_eq!(number("x", -1..=5), Err("argument couldn't be parsed into an integer".into()));
        let words = &[("one", 1), ("two", 2)];
        assert_eq!(word("TWO", words), Ok(2));
        assert_eq!(word("", words), Err("argument(s) must be one of the following: one, two".into()));
    }
}
