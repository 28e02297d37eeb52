//! Strings: the values of this store.
//!
//! Every effect is absolute: INCR logs the sum, APPEND where the bytes go, SET … EX when the key ends. SET … IFEQ and DELIFEQ are
//! Valkey's compare-and-set. Not here: LCS (lcs), bits (bits).

use crate::base::clock::Wall;
use crate::base::limits::VALUE_BYTES_MAX;
use crate::command::context::{Ctx, Done, reply_value, value_of};
use crate::command::float::LongDouble;
use crate::command::number::{Decimal, integer};
use crate::command::spec::Flag::{DenyOom, Fast, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::{CommandError, expiry};
use crate::resp::{Args, Reply};
use crate::store::{Entry, Event, KeyHash, Mutation, Value, ValueRef};

const MULTI_SHARD: &str = "request_policy:multi_shard";

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("get", 2, get).args("key").flags(&[Readonly, Fast]).keys(Keys::one(KeyUse::Read)).doc(
        Group::String,
        "1.0.0",
        "Returns the string value of a key.",
    ),
    CommandSpec::data("set", -3, set)
        .args("key value [NX | XX | IFEQ value] [GET] [EX s | PX ms | EXAT unix-s | PXAT unix-ms | KEEPTTL]")
        .flags(&[Write, DenyOom])
        .quick()
        .key_by(set_usage)
        .doc(
            Group::String,
            "1.0.0",
            "Sets the string value of a key, ignoring its type; creates the key if it is absent.",
        ),
    CommandSpec::data("setnx", 3, setnx)
        .args("key value")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Insert))
        .doc(Group::String, "1.0.0", "Sets the string value of a key only if the key does not exist."),
    CommandSpec::data("setex", 4, setex)
        .args("key seconds value")
        .flags(&[Write, DenyOom])
        .quick()
        .keys(Keys::one(KeyUse::Overwrite))
        .doc(Group::String, "2.0.0", "Sets the string value and the expiry in seconds of a key."),
    CommandSpec::data("psetex", 4, psetex)
        .args("key milliseconds value")
        .flags(&[Write, DenyOom])
        .quick()
        .keys(Keys::one(KeyUse::Overwrite))
        .doc(Group::String, "2.6.0", "Sets the string value and the expiry in milliseconds of a key."),
    CommandSpec::data("getset", 3, getset)
        .args("key value")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::String, "1.0.0", "Returns the old string value of a key after setting a new one."),
    CommandSpec::data("getdel", 2, getdel).args("key").flags(&[Write, Fast]).keys(Keys::one(KeyUse::Take)).doc(
        Group::String,
        "6.2.0",
        "Returns the string value of a key after deleting the key.",
    ),
    CommandSpec::data("delifeq", 3, delifeq).args("key value").flags(&[Write, Fast]).keys(Keys::one(KeyUse::Take)).doc(
        Group::String,
        "9.0.0",
        "Deletes a key if it holds that string value (Valkey's command).",
    ),
    CommandSpec::data("getex", -2, getex)
        .args("key [EX s | PX ms | EXAT unix-s | PXAT unix-ms | PERSIST]")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::String, "6.2.0", "Returns the string value of a key after setting its expiry."),
    CommandSpec::data("mget", -2, mget)
        .args("key [key ...]")
        .flags(&[Readonly, Fast])
        .keys(Keys::all(1, KeyUse::Read))
        .tips(&[MULTI_SHARD])
        .doc(Group::String, "1.0.0", "Returns the string values of one or more keys."),
    CommandSpec::data("mset", -3, mset)
        .args("key value [key value ...]")
        .flags(&[Write, DenyOom])
        .quick()
        .keys(Keys::all(2, KeyUse::Overwrite))
        .tips(&[MULTI_SHARD, "response_policy:all_succeeded"])
        .doc(Group::String, "1.0.1", "Sets the string values of one or more keys, all or none."),
    CommandSpec::data("msetnx", -3, msetnx)
        .args("key value [key value ...]")
        .flags(&[Write, DenyOom])
        .keys(Keys::all(2, KeyUse::Insert))
        .tips(&[MULTI_SHARD, "response_policy:agg_min"])
        .doc(Group::String, "1.0.1", "Sets the string values of one or more keys only if none of the keys exists."),
    CommandSpec::data("strlen", 2, strlen).args("key").flags(&[Readonly, Fast]).keys(Keys::one(KeyUse::Inspect)).doc(
        Group::String,
        "2.2.0",
        "Returns the length of a string value.",
    ),
    CommandSpec::data("append", 3, append)
        .args("key value")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Append))
        .doc(Group::String, "2.0.0", "Appends to the string value of a key; creates the key if it is absent."),
    CommandSpec::data("getrange", 4, getrange)
        .args("key start end")
        .flags(&[Readonly])
        .keys(Keys::one(KeyUse::Read))
        .doc(Group::String, "2.4.0", "Returns a part of the string value of a key."),
    CommandSpec::data("substr", 4, getrange)
        .args("key start end")
        .flags(&[Readonly])
        .keys(Keys::one(KeyUse::Read))
        .doc(Group::String, "1.0.0", "Returns a part of the string value of a key: the old name of GETRANGE."),
    CommandSpec::data("setrange", 4, setrange)
        .args("key offset value")
        .flags(&[Write, DenyOom])
        .keys(Keys::one(KeyUse::Change))
        .doc(
            Group::String,
            "2.2.0",
            "Overwrites a part of the string value of a key; creates the key if it is absent.",
        ),
    CommandSpec::data("incr", 2, incr).args("key").flags(&[Write, DenyOom, Fast]).keys(Keys::one(KeyUse::Update)).doc(
        Group::String,
        "1.0.0",
        "Increments the integer value of a key by one; an absent key counts as 0.",
    ),
    CommandSpec::data("decr", 2, decr).args("key").flags(&[Write, DenyOom, Fast]).keys(Keys::one(KeyUse::Update)).doc(
        Group::String,
        "1.0.0",
        "Decrements the integer value of a key by one; an absent key counts as 0.",
    ),
    CommandSpec::data("incrby", 3, incrby)
        .args("key increment")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::String, "1.0.0", "Increments the integer value of a key; an absent key counts as 0."),
    CommandSpec::data("decrby", 3, decrby)
        .args("key decrement")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::String, "1.0.0", "Decrements the integer value of a key; an absent key counts as 0."),
    CommandSpec::data("incrbyfloat", 3, incrbyfloat)
        .args("key increment")
        .flags(&[Write, DenyOom, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::String, "2.6.0", "Increments the floating point value of a key; an absent key counts as 0."),
];

/// The bytes of a string value: where the types to come are refused.
#[inline]
pub(super) fn string(value: Value<'_>) -> Result<&[u8], CommandError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Shared(bytes) => Ok(bytes),
    }
}

/// Replies with the string value of the key, or null; whether there was one, with its expiry.
#[inline]
fn reply_string(ctx: &mut Ctx<'_, '_>, hash: KeyHash, key: &[u8]) -> Result<Option<Option<Wall>>, CommandError> {
    let shown = |entry: Entry<'_>, reply: &mut Reply<'_>| {
        string(entry.value())?;
        reply_value(reply, entry.value());
        Ok(entry.expiry())
    };
    let found = ctx.read(hash, key, shown).transpose()?;
    if found.is_none() {
        ctx.reply.null();
    }
    Ok(found)
}

fn get(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    reply_string(ctx, hash, key)?;
    Ok(Done::Done)
}

/// SET reads with GET, and with IFEQ, whose reply tells of the value; else it overwrites. As in Redis, GET anywhere behind the value counts.
fn set_usage(args: &Args<'_>) -> KeyUse {
    let reads = |word: &[u8]| word.eq_ignore_ascii_case(b"GET") || word.eq_ignore_ascii_case(b"IFEQ");
    if args.iter().skip(3).any(reads) { KeyUse::Update } else { KeyUse::Overwrite }
}

fn set(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    if args.len() == 3 {
        ctx.put(hash, key, value_of(args, 2), None, Event::Set);
        ctx.reply.ok();
        return Ok(Done::Done);
    }
    let options = Options::parse(args, 3, Accepts::Set)?;
    let expiry = options.ttl.expiry(ctx, args, "set")?;
    let held = if options.get { reply_string(ctx, hash, key)? } else { ctx.read(hash, key, |entry, _| entry.expiry()) };
    let wanted = match options.only {
        Only::IfEqual(arg) => equals(ctx, hash, key, args.get(arg))?,
        Only::Always => true,
        Only::IfAbsent => held.is_none(),
        Only::IfPresent => held.is_some(),
    };
    if wanted {
        let (expiry, event) = match options.ttl {
            Ttl::Keep => (held.flatten(), Event::Set),
            _ if expiry.is_some() => (expiry, Event::SetWithExpiry),
            _ => (None, Event::Set),
        };
        put_until(ctx, hash, key, value_of(args, 2), expiry, event, held.is_some());
    }
    match (options.get, wanted) {
        (true, _) => {}
        (false, true) => ctx.reply.ok(),
        (false, false) => ctx.reply.null(),
    }
    Ok(Done::Done)
}

/// Whether the key holds that string.
fn equals(ctx: &mut Ctx<'_, '_>, hash: KeyHash, key: &[u8], value: &[u8]) -> Result<bool, CommandError> {
    let equal = ctx.read(hash, key, |entry, _| string(entry.value()).map(|held| held == value));
    Ok(equal.transpose()?.unwrap_or(false))
}

/// Sets the key, or deletes what is there if the expiry has passed already.
fn put_until(
    ctx: &mut Ctx<'_, '_>,
    hash: KeyHash,
    key: &[u8],
    value: ValueRef<'_>,
    expiry: Option<Wall>,
    event: Event,
    exists: bool,
) {
    if expiry.is_none_or(|expiry| expiry > ctx.clock) {
        ctx.put(hash, key, value, expiry, event);
    } else if exists {
        ctx.delete(hash, key, Event::Del);
    }
}

fn setnx(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let absent = ctx.read(hash, key, |_, _| ()).is_none();
    if absent {
        ctx.put(hash, key, value_of(args, 2), None, Event::Set);
    }
    ctx.reply.integer(i64::from(absent));
    Ok(Done::Done)
}

fn setex(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_with_ttl(ctx, args, 1_000, "setex")
}

fn psetex(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_with_ttl(ctx, args, 1, "psetex")
}

fn set_with_ttl(
    ctx: &mut Ctx<'_, '_>,
    args: &Args<'_>,
    unit_ms: i64,
    name: &'static str,
) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let expiry = expiry::positive(args.get(2), unit_ms, ctx.clock, name)?;
    ctx.put(hash, key, value_of(args, 3), Some(expiry), Event::SetWithExpiry);
    ctx.reply.ok();
    Ok(Done::Done)
}

fn getset(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    reply_string(ctx, hash, key)?;
    ctx.put(hash, key, value_of(args, 2), None, Event::Set);
    Ok(Done::Done)
}

fn getdel(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    if reply_string(ctx, hash, key)?.is_some() {
        ctx.delete(hash, key, Event::Del);
    }
    Ok(Done::Done)
}

fn delifeq(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let equal = equals(ctx, hash, key, args.get(2))?;
    if equal {
        ctx.delete(hash, key, Event::Del);
    }
    ctx.reply.integer(i64::from(equal));
    Ok(Done::Done)
}

fn getex(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let ttl = Options::parse(args, 2, Accepts::GetEx)?.ttl;
    if !ctx.exists(hash, key) {
        // Redis looks at the number only once it has a key to set it on.
        ctx.reply.null();
        return Ok(Done::Done);
    }
    let expiry = ttl.expiry(ctx, args, "getex")?;
    let held = reply_string(ctx, hash, key)?.flatten();
    match (ttl, expiry) {
        (Ttl::Persist, _) if held.is_some() => {
            ctx.emit_hashed(hash, &Mutation::SetExpiry { key, expiry: None, event: Event::Persist });
        }
        (_, Some(at)) if at <= ctx.clock => ctx.delete(hash, key, Event::Del),
        (_, Some(_)) => ctx.emit_hashed(hash, &Mutation::SetExpiry { key, expiry, event: Event::Expire }),
        (_, None) => {}
    }
    Ok(Done::Done)
}

fn mget(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.array(args.len() - 1);
    ctx.for_keys(args, 1, |ctx, _, hash, key| {
        let shown = ctx.read(hash, key, |entry, reply| match string(entry.value()) {
            Ok(_) => reply_value(reply, entry.value()),
            Err(_) => reply.null(),
        });
        if shown.is_none() {
            ctx.reply.null();
        }
        true
    });
    Ok(Done::Done)
}

fn mset(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::WrongArity("mset"));
    }
    put_pairs(ctx, args);
    ctx.reply.ok();
    Ok(Done::Done)
}

fn msetnx(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::WrongArity("msetnx"));
    }
    let mut absent = true;
    ctx.for_keys(args, 2, |ctx, _, hash, key| {
        absent = ctx.read(hash, key, |_, _| ()).is_none();
        absent
    });
    if absent {
        put_pairs(ctx, args);
    }
    ctx.reply.integer(i64::from(absent));
    Ok(Done::Done)
}

fn put_pairs(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) {
    ctx.for_keys(args, 2, |ctx, at, hash, key| {
        ctx.put(hash, key, value_of(args, at + 1), None, Event::Set);
        true
    });
}

fn strlen(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let len = length(ctx, hash, key)?.unwrap_or(0);
    ctx.reply.integer(len as i64);
    Ok(Done::Done)
}

/// Length of the string value of the key, if it exists.
fn length(ctx: &mut Ctx<'_, '_>, hash: KeyHash, key: &[u8]) -> Result<Option<usize>, CommandError> {
    ctx.read(hash, key, |entry, _| string(entry.value()).map(<[u8]>::len)).transpose()
}

fn append(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let bytes = args.get(2);
    let length_after = match length(ctx, hash, key)? {
        None => {
            ctx.put(hash, key, value_of(args, 2), None, Event::Append);
            bytes.len()
        }
        Some(at) if bytes.len() > VALUE_BYTES_MAX.saturating_sub(at) => return Err(CommandError::ValueTooLong),
        Some(at) => {
            splice(ctx, hash, key, at, bytes, at + bytes.len(), Event::Append);
            at + bytes.len()
        }
    };
    ctx.reply.integer(length_after as i64);
    Ok(Done::Done)
}

pub(super) fn splice(
    ctx: &mut Ctx<'_, '_>,
    hash: KeyHash,
    key: &[u8],
    at: usize,
    bytes: &[u8],
    length_after: usize,
    event: Event,
) {
    let (at, length_after) = (at as u64, length_after as u64);
    ctx.emit_hashed(hash, &Mutation::Splice { key, at, bytes, length_after, event });
}

fn setrange(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let (offset, bytes) = (integer(args.get(2))?, args.get(3));
    let at = usize::try_from(offset).map_err(|_| CommandError::OffsetOutOfRange)?;
    let held = length(ctx, hash, key)?.unwrap_or(0);
    let mut length_after = held;
    if !bytes.is_empty() {
        if bytes.len() > VALUE_BYTES_MAX.saturating_sub(at) {
            return Err(CommandError::ValueTooLong);
        }
        length_after = held.max(at + bytes.len());
        splice(ctx, hash, key, at, bytes, length_after, Event::SetRange);
    }
    ctx.reply.integer(length_after as i64);
    Ok(Done::Done)
}

fn getrange(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let (start, end) = (integer(args.get(2))?, integer(args.get(3))?);
    let shown = ctx.read(hash, key, |entry, reply| {
        let bytes = string(entry.value())?;
        let range = range_within(bytes.len(), start, end);
        match entry.value() {
            Value::Shared(whole) => reply.shared(&whole.slice(range)),
            Value::Bytes(_) => reply.bulk(&bytes[range]),
        }
        Ok(())
    });
    if shown.transpose()?.is_none() {
        ctx.reply.bulk(b"");
    }
    Ok(Done::Done)
}

/// The bytes that `start..=end` names in a value of `len` bytes; a negative number counts from the end.
fn range_within(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_start = |at: i64| {
        if at < 0 { len.saturating_sub(at.unsigned_abs() as usize) } else { len.min(at as usize) }
    };
    let (start, end) = (from_start(start), from_start(end).saturating_add(1).min(len));
    start.min(end)..end
}

fn incr(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    add(ctx, args, 1)
}

fn decr(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    add(ctx, args, -1)
}

fn incrby(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let increment = integer(args.get(2))?;
    add(ctx, args, increment)
}

fn decrby(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let decrement = integer(args.get(2))?;
    add(ctx, args, decrement.checked_neg().ok_or(CommandError::DecrementOverflow)?)
}

fn add(ctx: &mut Ctx<'_, '_>, args: &Args<'_>, increment: i64) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let held = ctx.read(hash, key, |entry, _| Ok((integer(string(entry.value())?)?, entry.expiry())));
    let (number, expiry) = held.transpose()?.unwrap_or((0, None));
    let sum = number.checked_add(increment).ok_or(CommandError::IncrementOverflow)?;
    ctx.put(hash, key, ValueRef::Slice(Decimal::new(sum).as_bytes()), expiry, Event::IncrBy);
    ctx.reply.integer(sum);
    Ok(Done::Done)
}

fn incrbyfloat(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let held = ctx.read(hash, key, |entry, _| {
        let number = LongDouble::parse(string(entry.value())?).ok_or(CommandError::NotFloat)?;
        Ok((number, entry.expiry()))
    });
    let (number, expiry) = held.transpose()?.unwrap_or((LongDouble::ZERO, None));
    let increment = LongDouble::parse(args.get(2)).ok_or(CommandError::NotFloat)?;
    let text = number.sum(increment).ok_or(CommandError::NotFinite)?.text();
    ctx.put(hash, key, ValueRef::Slice(text.as_bytes()), expiry, Event::IncrByFloat);
    ctx.reply.bulk(text.as_bytes());
    Ok(Done::Done)
}

/// Whose options are read: SET and GETEX share most of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepts {
    Set,
    GetEx,
}

/// When SET sets.
#[derive(Clone, Copy)]
enum Only {
    Always,
    IfAbsent,
    IfPresent,
    /// If the key holds the argument of that number.
    IfEqual(usize),
}

/// What becomes of the expiry. The number is parsed after all options were, as in Redis.
#[derive(Clone, Copy)]
enum Ttl {
    /// SET: none. GETEX: as it is.
    Unsaid,
    Keep,
    Persist,
    /// The argument at `arg`, in units of `unit_ms`, from now on or since 1970.
    At {
        arg: usize,
        unit_ms: i64,
        from_now: bool,
    },
}

impl Ttl {
    fn expiry(self, ctx: &Ctx<'_, '_>, args: &Args<'_>, name: &'static str) -> Result<Option<Wall>, CommandError> {
        match self {
            Ttl::Unsaid | Ttl::Keep | Ttl::Persist => Ok(None),
            Ttl::At { arg, unit_ms, from_now: true } => {
                expiry::positive(args.get(arg), unit_ms, ctx.clock, name).map(Some)
            }
            Ttl::At { arg, unit_ms, from_now: false } => {
                let unix = expiry::positive(args.get(arg), unit_ms, Wall(0), name)?;
                Ok(Some(ctx.expiry_at(unix)))
            }
        }
    }
}

struct Options {
    only: Only,
    get: bool,
    ttl: Ttl,
}

impl Options {
    fn parse(args: &Args<'_>, from: usize, accepts: Accepts) -> Result<Options, CommandError> {
        let mut options = Options { only: Only::Always, get: false, ttl: Ttl::Unsaid };
        let mut i = from;
        while i < args.len() {
            let word = args.get(i);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            let set = accepts == Accepts::Set;
            let more = i + 1 < args.len();
            let untimed = matches!(options.ttl, Ttl::Unsaid);
            if set && is(b"NX") && matches!(options.only, Only::Always | Only::IfAbsent) {
                options.only = Only::IfAbsent;
            } else if set && is(b"XX") && matches!(options.only, Only::Always | Only::IfPresent) {
                options.only = Only::IfPresent;
            } else if set && is(b"IFEQ") && more && matches!(options.only, Only::Always) {
                i += 1;
                options.only = Only::IfEqual(i);
            } else if set && is(b"GET") {
                options.get = true;
            } else if set && is(b"KEEPTTL") && (untimed || matches!(options.ttl, Ttl::Keep)) {
                options.ttl = Ttl::Keep;
            } else if !set && is(b"PERSIST") && (untimed || matches!(options.ttl, Ttl::Persist)) {
                options.ttl = Ttl::Persist;
            } else if let (Some((unit_ms, from_now)), true) = (ttl_form(word), more) {
                // The same form may be given again, and the last one counts; two forms exclude each other.
                let again =
                    matches!(options.ttl, Ttl::At { unit_ms: u, from_now: f, .. } if (u, f) == (unit_ms, from_now));
                if !untimed && !again {
                    return Err(CommandError::Syntax);
                }
                i += 1;
                options.ttl = Ttl::At { arg: i, unit_ms, from_now };
            } else {
                return Err(CommandError::Syntax);
            }
            i += 1;
        }
        Ok(options)
    }
}

/// Unit in ms of EX, PX, EXAT, PXAT, and whether it counts from now.
fn ttl_form(word: &[u8]) -> Option<(i64, bool)> {
    let forms: [(&[u8], i64, bool); 4] =
        [(b"EX", 1_000, true), (b"PX", 1, true), (b"EXAT", 1_000, false), (b"PXAT", 1, false)];
    let form = forms.into_iter().find(|(name, ..)| word.eq_ignore_ascii_case(name))?;
    Some((form.1, form.2))
}
