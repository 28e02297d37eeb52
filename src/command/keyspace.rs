//! Commands over all keys: SCAN, KEYS, the keys of a slot, RANDOMKEY, DBSIZE, FLUSHALL.
//!
//! What looks at many keys runs in slices, so that the lock is never held long: first the keys are collected, then the reply,
//! whose head needs their number, is written, both a few thousand keys at a time.
//! ```text
//!   Collect ──(cursor at the end, or enough seen)──► Reply: head once, then keys ──(all written)──► done
//! ```
//! KEYS is therefore no snapshot: a key that is created or deleted between two slices may be in the reply or not, as in SCAN;
//! one that stays is in it, once. Expired keys are hidden everywhere, and left to active expiry.

use std::collections::VecDeque;

use crate::command::context::{Ctx, Done, Sliced};
use crate::command::glob::glob_matches;
use crate::command::number::{Decimal, integer};
use crate::command::spec::Category::{Dangerous, Keyspace};
use crate::command::spec::Flag::{Fast, Readonly, Stale, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::{CommandError, slot};
use crate::resp::{Args, Reply};
use crate::store::{Entry, Mutation};

const ALL_SHARDS_SUMMED: &[&str] = &["request_policy:all_shards", "response_policy:agg_sum"];
const ALL_SHARDS_SUCCEEDED: &[&str] = &["request_policy:all_shards", "response_policy:all_succeeded"];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("dbsize", 1, dbsize)
        .flags(&[Readonly, Fast])
        .tips(ALL_SHARDS_SUMMED)
        .doc(Group::Server, "1.0.0", "Returns the number of keys, expired ones that are not deleted yet included.")
        .acl(&[Keyspace]),
    CommandSpec::data("scan", -2, scan)
        .args("cursor [MATCH pattern] [COUNT count] [TYPE type]")
        .flags(&[Readonly])
        .sliced()
        .tips(&["nondeterministic_output", "request_policy:special"])
        .doc(Group::Generic, "2.8.0", "Returns the next cursor and some of the keys; begins and ends with cursor 0."),
    CommandSpec::data("keys", 2, keys)
        .args("pattern")
        .flags(&[Readonly])
        .sliced()
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .doc(Group::Generic, "1.0.0", "Returns all keys that match a pattern.")
        .acl(&[Keyspace, Dangerous]),
    CommandSpec::data("randomkey", 1, randomkey)
        .flags(&[Readonly])
        .tips(&["request_policy:all_shards", "response_policy:special", "nondeterministic_output"])
        .doc(Group::Generic, "1.0.0", "Returns one of the keys by chance."),
    CommandSpec::data("swapdb", 3, one_database)
        .args("index1 index2")
        .flags(&[Write, Fast])
        .doc(Group::Server, "4.0.0", "Is refused: there is one database.")
        .acl(&[Keyspace, Dangerous]),
    CommandSpec::data("move", 3, one_database)
        .args("key db")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Update))
        .doc(Group::Generic, "1.0.0", "Is refused: there is one database."),
    CommandSpec::data("flushall", -1, flush)
        .args("[ASYNC | SYNC]")
        .flags(&[Write])
        .tips(ALL_SHARDS_SUCCEEDED)
        .doc(Group::Server, "1.0.0", "Deletes all keys.")
        .acl(&[Keyspace, Dangerous]),
    CommandSpec::data("flushdb", -1, flush)
        .args("[ASYNC | SYNC]")
        .flags(&[Write])
        .tips(ALL_SHARDS_SUCCEEDED)
        .doc(Group::Server, "1.0.0", "Deletes all keys: there is one database.")
        .acl(&[Keyspace, Dangerous]),
];

/// CLUSTER COUNTKEYSINSLOT, for the container's row. `readonly`, unlike in Redis: what it saw must be acknowledged like any read.
pub(super) const COUNTKEYSINSLOT: CommandSpec = CommandSpec::data("cluster|countkeysinslot", 3, count_keys_in_slot)
    .args("slot")
    .flags(&[Readonly, Stale])
    .sliced()
    .doc(Group::Cluster, "3.0.0", "Returns the number of keys in a slot.");

/// CLUSTER GETKEYSINSLOT, for the container's row.
pub(super) const GETKEYSINSLOT: CommandSpec = CommandSpec::data("cluster|getkeysinslot", 4, get_keys_in_slot)
    .args("slot count")
    .flags(&[Readonly, Stale])
    .sliced()
    .tips(&["nondeterministic_output"])
    .doc(Group::Cluster, "3.0.0", "Returns some of the keys in a slot.");

/// Keys looked at, or written to the reply, in one slice: well below 1 ms, also when every entry is a cache miss.
const KEYS_PER_SLICE: usize = 2_048;
/// Bytes of keys written to the reply in one slice, beside the first key.
const BYTES_PER_SLICE: usize = 1 << 20;
/// Keys that SCAN looks at unless COUNT says otherwise.
const SCAN_COUNT: usize = 10;
/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// A walk over the keyspace between two of its slices.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Where the store goes on; 0 at the beginning and at the end.
    cursor: u64,
    /// Keys asked of the store so far; more may have been seen, because it gives whole segments.
    asked: usize,
    /// Keys wanted so far.
    found: usize,
    /// Their names, if they are for the reply; one piece per slice, so that no allocation grows with the keyspace.
    pieces: VecDeque<Piece>,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Collect,
    Reply,
}

/// Some keys, one behind the other.
#[derive(Debug, Default)]
struct Piece {
    lengths: VecDeque<u32>,
    bytes: Vec<u8>,
    /// Bytes of those that were taken out.
    taken: usize,
}

/// What a walk is after.
struct Plan<F> {
    /// The cursor to begin with.
    from: u64,
    /// Keys to look at before it ends.
    count: usize,
    /// Keys to find before it ends.
    found_max: usize,
    /// Whether the keys found go into the reply, or only their number matters.
    collects: bool,
    wanted: F,
}

/// Does one slice of a walk; `head` begins the reply when all is collected.
fn walk(
    ctx: &mut Ctx<'_, '_>,
    plan: Plan<impl Fn(&Entry<'_>) -> bool>,
    head: impl FnOnce(&mut Reply<'_>, &Walk),
) -> Done {
    let mut walk = match ctx.slice.under_way.take() {
        Some(Sliced::Walk(walk)) => walk,
        _ => Walk { cursor: plan.from, ..Walk::default() },
    };
    let collects = matches!(walk.phase, Phase::Collect);
    let done = if collects && !walk.collect(ctx, &plan) {
        Done::More
    } else {
        if collects {
            head(&mut ctx.reply, &walk);
            walk.phase = Phase::Reply;
        }
        walk.write(ctx)
    };
    if done == Done::More {
        ctx.slice.under_way = Some(Sliced::Walk(walk));
    }
    done
}

impl Walk {
    /// Looks at some keys. Whether that were all.
    fn collect(&mut self, ctx: &Ctx<'_, '_>, plan: &Plan<impl Fn(&Entry<'_>) -> bool>) -> bool {
        let ask = KEYS_PER_SLICE.min(plan.count - self.asked);
        let (mut piece, mut found) = (Piece::default(), self.found);
        self.cursor = ctx.store.scan(self.cursor, ask, &mut |entry| {
            if found < plan.found_max && !entry.is_expired(ctx.clock) && (plan.wanted)(&entry) {
                found += 1;
                if plan.collects {
                    piece.push(entry.key());
                }
            }
        });
        (self.found, self.asked) = (found, self.asked + ask);
        if !piece.lengths.is_empty() {
            self.pieces.push_back(piece);
        }
        self.cursor == 0 || self.asked >= plan.count || self.found >= plan.found_max
    }

    /// Writes some of the keys to the reply.
    fn write(&mut self, ctx: &mut Ctx<'_, '_>) -> Done {
        let (mut keys, mut bytes) = (0, 0);
        while let Some(piece) = self.pieces.front_mut() {
            while let Some(key) = piece.pop() {
                ctx.reply.bulk(key);
                keys += 1;
                bytes += key.len();
                if keys >= KEYS_PER_SLICE || bytes >= BYTES_PER_SLICE {
                    return Done::More;
                }
            }
            self.pieces.pop_front();
        }
        Done::Done
    }
}

impl Piece {
    fn push(&mut self, key: &[u8]) {
        // No bulk, hence no key, is longer than 512 MiB.
        self.lengths.push_back(key.len() as u32);
        self.bytes.extend_from_slice(key);
    }

    fn pop(&mut self) -> Option<&[u8]> {
        let from = self.taken;
        self.taken += self.lengths.pop_front()? as usize;
        Some(&self.bytes[from..self.taken])
    }
}

fn scan(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let from = cursor(args.get(1)).ok_or(CommandError::InvalidCursor)?;
    let (mut pattern, mut type_name, mut count) = (None, None, SCAN_COUNT);
    let mut i = 2;
    while i < args.len() {
        let word = args.get(i);
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if i + 1 == args.len() {
            return Err(CommandError::Syntax);
        }
        let value = args.get(i + 1);
        match () {
            () if is(b"COUNT") => {
                count = usize::try_from(integer(value)?).ok().filter(|&n| n > 0).ok_or(CommandError::Syntax)?;
            }
            () if is(b"MATCH") => pattern = Some(value).filter(|&pattern| pattern != b"*"),
            () if is(b"TYPE") => type_name = Some(value),
            () => return Err(CommandError::Syntax),
        }
        i += 2;
    }
    let wanted = |entry: &Entry<'_>| {
        pattern.is_none_or(|pattern| glob_matches(pattern, entry.key()))
            && type_name.is_none_or(|name| entry.value().type_name().as_bytes().eq_ignore_ascii_case(name))
    };
    let plan = Plan { from, count, found_max: usize::MAX, collects: true, wanted };
    Ok(walk(ctx, plan, |reply, walk| {
        reply.array(2);
        reply.bulk(Decimal::unsigned(walk.cursor).as_bytes());
        reply.array(walk.found);
    }))
}

/// A cursor as C's `strtoul` reads it, which Redis leaves it to: signs are taken, a negative number counts from 2^64, nothing is 0.
fn cursor(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}

fn keys(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let pattern = args.get(1);
    let wanted = |entry: &Entry<'_>| pattern == b"*" || glob_matches(pattern, entry.key());
    let plan = Plan { from: 0, count: usize::MAX, found_max: usize::MAX, collects: true, wanted };
    Ok(walk(ctx, plan, |reply, walk| reply.array(walk.found)))
}

fn count_keys_in_slot(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let number = slot_number(integer(args.get(2))?).ok_or(CommandError::InvalidSlot)?;
    let wanted = |entry: &Entry<'_>| slot(entry.key()) == number;
    let plan = Plan { from: 0, count: usize::MAX, found_max: usize::MAX, collects: false, wanted };
    Ok(walk(ctx, plan, |reply, walk| reply.integer(walk.found as i64)))
}

fn get_keys_in_slot(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (number, found_max) = (integer(args.get(2))?, integer(args.get(3))?);
    let (Some(number), Ok(found_max)) = (slot_number(number), usize::try_from(found_max)) else {
        return Err(CommandError::InvalidSlotOrCount);
    };
    let wanted = |entry: &Entry<'_>| slot(entry.key()) == number;
    let plan = Plan { from: 0, count: usize::MAX, found_max, collects: true, wanted };
    Ok(walk(ctx, plan, |reply, walk| reply.array(walk.found)))
}

fn slot_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|&number| number < SLOTS)
}

/// Expired keys that RANDOMKEY meets before it says that there is none.
const EXPIRED_MAX: usize = 100;

fn randomkey(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    for _ in 0..EXPIRED_MAX {
        let chosen = ctx.store.choose(ctx.chance.next_u64(), ctx.chance.next_u64());
        let Some(key) = chosen.map(|entry| entry.key().to_vec()) else { break };
        let hash = ctx.store.hash(&key);
        if ctx.exists(hash, &key) {
            ctx.reply.bulk(&key);
            return Ok(Done::Done);
        }
    }
    ctx.reply.null();
    Ok(Done::Done)
}

fn dbsize(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.integer(ctx.store.len() as i64);
    Ok(Done::Done)
}

/// What needs a second database, in the words of a Redis cluster, which has one as well.
fn one_database(_: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    Err(CommandError::OneDatabase(if args.get(0).eq_ignore_ascii_case(b"move") { "MOVE" } else { "SWAPDB" }))
}

/// Both ways of flushing are one here: the tables are detached at once and freed in slices.
fn flush(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let known = |word: &[u8]| word.eq_ignore_ascii_case(b"ASYNC") || word.eq_ignore_ascii_case(b"SYNC");
    if args.len() > 2 || !args.iter().skip(1).all(known) {
        return Err(CommandError::Syntax);
    }
    ctx.emit(&Mutation::Clear);
    ctx.reply.ok();
    Ok(Done::Done)
}
