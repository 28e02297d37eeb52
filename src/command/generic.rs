//! Commands on keys of any type.

use bytes::Bytes;

use crate::base::clock::Wall;
use crate::command::CommandError;
use crate::command::context::{Ctx, Done, kept_value};
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::number::{self, integer};
use crate::command::spec::Flag::{DenyOom, Fast, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::resp::Args;
use crate::store::{Entry, Event, KeyHash, Mutation, Store, Value, ValueRef};

const SUMMED: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("del", -2, del)
        .args("key [key ...]")
        .flags(&[Write])
        .quick()
        .keys(Keys::all(1, KeyUse::Remove))
        .tips(SUMMED)
        .doc(Group::Generic, "1.0.0", "Deletes one or more keys."),
    CommandSpec::data("unlink", -2, del)
        .args("key [key ...]")
        .flags(&[Write, Fast])
        .keys(Keys::all(1, KeyUse::Remove))
        .tips(SUMMED)
        .doc(Group::Generic, "4.0.0", "Deletes one or more keys; the same as DEL here."),
    CommandSpec::data("exists", -2, exists)
        .args("key [key ...]")
        .flags(&[Readonly, Fast])
        .keys(Keys::all(1, KeyUse::Inspect))
        .tips(SUMMED)
        .doc(Group::Generic, "1.0.0", "Returns how many of the keys exist; a key named twice counts twice."),
    CommandSpec::data("touch", -2, touch)
        .args("key [key ...]")
        .flags(&[Readonly, Fast])
        .keys(Keys::all(1, KeyUse::Inspect))
        .tips(SUMMED)
        .doc(Group::Generic, "3.2.1", "Lets keys count as used; returns how many of them exist."),
    CommandSpec::data("rename", 3, rename)
        .args("key new-key")
        .flags(&[Write])
        .moves()
        .keys(Keys::two(KeyUse::Take, KeyUse::Overwrite))
        .doc(Group::Generic, "1.0.0", "Renames a key, over whatever had the new name."),
    CommandSpec::data("renamenx", 3, renamenx)
        .args("key new-key")
        .flags(&[Write, Fast])
        .moves()
        .keys(Keys::two(KeyUse::Take, KeyUse::Insert))
        .doc(Group::Generic, "1.0.0", "Renames a key only if no key has the new name."),
    CommandSpec::data("copy", -3, copy)
        .args("source destination [DB 0] [REPLACE]")
        .flags(&[Write, DenyOom])
        .moves()
        .keys(Keys::two(KeyUse::Read, KeyUse::Overwrite))
        .doc(Group::Generic, "6.2.0", "Copies a value with its expiry to another key."),
    CommandSpec::data("type", 2, type_of).args("key").flags(&[Readonly, Fast]).keys(Keys::one(KeyUse::Inspect)).doc(
        Group::Generic,
        "1.0.0",
        "Returns the type of the value of a key.",
    ),
    CommandSpec::container("object", OBJECT).doc(
        Group::Generic,
        "2.2.3",
        "A container for commands that look into a value.",
    ),
];

const OBJECT: &[CommandSpec] = &[
    CommandSpec::data("object|encoding", 3, object_encoding)
        .args("key")
        .flags(&[Readonly])
        .keys(Keys::of_sub(KeyUse::Inspect))
        .tips(&["nondeterministic_output"])
        .doc(Group::Generic, "2.2.3", "Returns the name that Redis would give to the encoding of a value."),
    CommandSpec::data("object|freq", 3, object_freq)
        .args("key")
        .flags(&[Readonly])
        .keys(Keys::of_sub(KeyUse::Inspect))
        .tips(&["nondeterministic_output"])
        .doc(Group::Generic, "4.0.0", "Returns a logarithmic count of the uses of a key; with an LFU policy only."),
    CommandSpec::data("object|idletime", 3, object_idletime)
        .args("key")
        .flags(&[Readonly])
        .keys(Keys::of_sub(KeyUse::Inspect))
        .tips(&["nondeterministic_output"])
        .doc(Group::Generic, "2.2.3", "Returns for how many seconds a key was not used; with any other policy."),
    CommandSpec::data("object|refcount", 3, object_refcount)
        .args("key")
        .flags(&[Readonly])
        .keys(Keys::of_sub(KeyUse::Inspect))
        .tips(&["nondeterministic_output"])
        .doc(Group::Generic, "2.2.3", "Returns 1 if the key exists: values are not shared between keys."),
    CommandSpec::data("object|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Generic,
        "6.2.0",
        "Returns the subcommands of OBJECT.",
    ),
];

fn del(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let mut deleted = 0;
    ctx.for_keys(args, 1, |ctx, _, hash, key| {
        if ctx.exists(hash, key) {
            ctx.delete(hash, key, Event::Del);
            deleted += 1;
        }
        true
    });
    ctx.reply.integer(deleted);
    Ok(Done::Done)
}

fn exists(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let mut found = 0;
    ctx.for_keys(args, 1, |ctx, _, hash, key| {
        found += i64::from(ctx.exists(hash, key));
        true
    });
    ctx.reply.integer(found);
    Ok(Done::Done)
}

fn touch(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let mut found = 0;
    // Also for who asked that what is read does not count (CLIENT NO-TOUCH).
    let quiet = ctx.store.be_quiet(false);
    ctx.for_keys(args, 1, |ctx, _, hash, key| {
        found += i64::from(ctx.read(hash, key, |_, _| ()).is_some());
        true
    });
    ctx.store.be_quiet(quiet);
    ctx.reply.integer(found);
    Ok(Done::Done)
}

fn rename(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    move_key(ctx, args, true)?;
    ctx.reply.ok();
    Ok(Done::Done)
}

fn renamenx(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let moved = move_key(ctx, args, false)?;
    ctx.reply.integer(i64::from(moved));
    Ok(Done::Done)
}

/// Gives a key another name, over what has it if `over`; whether it did.
fn move_key(ctx: &mut Ctx<'_, '_>, args: &Args<'_>, over: bool) -> Result<bool, CommandError> {
    let ((hash, key), new_key) = (ctx.first(args), args.get(2));
    let source = taken(ctx, hash, key).ok_or(CommandError::NoSuchKey)?;
    let new_hash = ctx.store.hash(new_key);
    if key == new_key || (!over && ctx.exists(new_hash, new_key)) {
        return Ok(false);
    }
    match source {
        Source::Hand => {
            ctx.emit_hashed(hash, &Mutation::Lift { key, event: Event::RenameFrom });
            ctx.emit_hashed(new_hash, &Mutation::Lay { key: new_key, event: Event::RenameTo });
        }
        Source::Value(value, expiry) => {
            ctx.delete(hash, key, Event::RenameFrom);
            ctx.put(new_hash, new_key, ValueRef::Shared(value), expiry, Event::RenameTo);
        }
    }
    Ok(true)
}

fn copy(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let mut replace = false;
    let mut i = 3;
    while i < args.len() {
        let word = args.get(i);
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"DB") && i + 1 < args.len() {
            i += 1;
            let index = i32::try_from(integer(args.get(i))?).map_err(|_| CommandError::NotIn32Bits)?;
            if index != 0 {
                return Err(CommandError::InvalidDatabase);
            }
        } else {
            return Err(CommandError::Syntax);
        }
        i += 1;
    }
    let ((hash, key), new_key) = (ctx.first(args), args.get(2));
    if key == new_key {
        return Err(CommandError::SameObject);
    }
    let source = taken(ctx, hash, key);
    let new_hash = ctx.store.hash(new_key);
    let source = source.filter(|_| !ctx.exists(new_hash, new_key) || replace);
    let copied = source.is_some();
    match source {
        Some(Source::Hand) => {
            ctx.emit_hashed(hash, &Mutation::Hold { key });
            ctx.emit_hashed(new_hash, &Mutation::Lay { key: new_key, event: Event::CopyTo });
        }
        Some(Source::Value(value, expiry)) => {
            ctx.put(new_hash, new_key, ValueRef::Shared(value), expiry, Event::CopyTo);
        }
        None => {}
    }
    ctx.reply.integer(i64::from(copied));
    Ok(Done::Done)
}

/// How a value goes to another key.
enum Source {
    /// By name, through the store's hand: followers are sent no value.
    Hand,
    /// Value and expiry are written again. A big value is shared.
    Value(Bytes, Option<Wall>),
}

/// What is to go to another key, if the key is there.
fn taken(ctx: &mut Ctx<'_, '_>, hash: KeyHash, key: &[u8]) -> Option<Source> {
    let hand = ctx.hand;
    ctx.read(hash, key, |entry, _| match hand {
        true => Source::Hand,
        false => Source::Value(kept_value(entry.value()), entry.expiry()),
    })
}

fn type_of(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let name = ctx.peek(hash, key, |entry| entry.value().type_name());
    ctx.reply.simple(name.unwrap_or("none"));
    Ok(Done::Done)
}

/// The name that Redis would give to how a value is held.
pub(super) fn encoding(value: Value<'_>) -> &'static str {
    let bytes = bytes_of(value);
    match () {
        () if number::parse(bytes).is_some() => "int",
        () if bytes.len() <= EMBSTR_BYTES_MAX => "embstr",
        () => "raw",
    }
}

/// The bytes of a value, however it is held.
pub(super) fn bytes_of(value: Value<'_>) -> &[u8] {
    match value {
        Value::Bytes(bytes) => bytes,
        Value::Shared(bytes) => bytes,
    }
}

/// Longest value that Redis keeps in one allocation with its object.
const EMBSTR_BYTES_MAX: usize = 44;

fn object_encoding(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let key = args.get(2);
    let hash = ctx.hash_first(key);
    let encoding = ctx.peek(hash, key, |entry| encoding(entry.value()));
    match encoding {
        Some(encoding) => ctx.reply.bulk(encoding.as_bytes()),
        None => ctx.reply.null(),
    }
    Ok(Done::Done)
}

fn object_freq(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    object_use(ctx, args, Store::frequency, CommandError::NoFrequency)
}

fn object_idletime(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    object_use(ctx, args, Store::idle_s, CommandError::NoIdleTime)
}

/// Replies with what the access clock of a key tells, or with `error` if it tells something else.
fn object_use(
    ctx: &mut Ctx<'_, '_>,
    args: &Args<'_>,
    told: fn(&Store, Entry<'_>) -> Option<u32>,
    error: CommandError,
) -> Result<Done, CommandError> {
    let key = args.get(2);
    let hash = ctx.hash_first(key);
    if !ctx.exists(hash, key) {
        ctx.reply.null();
        return Ok(Done::Done);
    }
    let told = ctx.store.get(hash, key).and_then(|entry| told(ctx.store, entry)).ok_or(error)?;
    ctx.reply.integer(i64::from(told));
    Ok(Done::Done)
}

fn object_refcount(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let key = args.get(2);
    let hash = ctx.hash_first(key);
    if ctx.exists(hash, key) {
        ctx.reply.integer(1)
    } else {
        ctx.reply.null()
    }
    Ok(Done::Done)
}
