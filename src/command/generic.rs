//! Commands on keys of any type.

use crate::command::CommandError;
use crate::command::context::{Ctx, Done};
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::number;
use crate::command::spec::Flag::{Fast, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::resp::Args;
use crate::store::{Event, Value};

const SUMMED: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("del", -2, del)
        .args("key [key ...]")
        .flags(&[Write])
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
    CommandSpec::data("touch", -2, exists)
        .args("key [key ...]")
        .flags(&[Readonly, Fast])
        .keys(Keys::all(1, KeyUse::Inspect))
        .tips(SUMMED)
        .doc(Group::Generic, "3.2.1", "Returns how many of the keys exist; their time of last access is not kept."),
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

fn type_of(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let name = ctx.read(hash, key, |entry, _| entry.value().type_name());
    ctx.reply.simple(name.unwrap_or("none"));
    Ok(Done::Done)
}

/// Longest value that Redis keeps in one allocation with its object.
const EMBSTR_BYTES_MAX: usize = 44;

fn object_encoding(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let key = args.get(2);
    let hash = ctx.hash_first(key);
    let encoding = ctx.read(hash, key, |entry, _| {
        let bytes = match entry.value() {
            Value::Bytes(bytes) => bytes,
            Value::Shared(bytes) => bytes,
        };
        match () {
            () if number::parse(bytes).is_some() => "int",
            () if bytes.len() <= EMBSTR_BYTES_MAX => "embstr",
            () => "raw",
        }
    });
    match encoding {
        Some(encoding) => ctx.reply.bulk(encoding.as_bytes()),
        None => ctx.reply.null(),
    }
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
