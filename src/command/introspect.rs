//! COMMAND: the table as clients see it, HELP of the containers, and MODULE, of which there are none.
//!
//! Cluster clients route by this reply: positions of the keys, `readonly` and `movablekeys`, tips. Each entry has the ten elements
//! of Redis 7. COMMAND DOCS has summary, version, group and subcommands; argument trees and complexity are deliberately absent.

use crate::command::CommandError;
use crate::command::context::{Ctx, Done};
use crate::command::glob::glob_matches;
use crate::command::spec::Flag::{Admin, Loading, Noscript, Stale};
use crate::command::spec::{Category, CommandSpec, Flag, Group, KeyUse, Keys};
use crate::command::table::{all, find, find_spec, keys_of};
use crate::resp::{Args, Reply};

const UNORDERED: &[&str] = &["nondeterministic_output_order"];

/// Flags of every HELP.
pub(super) const HELP_FLAGS: &[Flag] = &[Loading, Stale];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("command", -1, command)
        .args("[subcommand [argument ...]]")
        .flags(&[Loading, Stale])
        .tips(UNORDERED)
        .subs(COMMAND)
        .doc(Group::Server, "2.8.13", "Returns details of all commands.")
        .acl(&[Category::Connection]),
    CommandSpec::container("module", MODULE).doc(Group::Server, "4.0.0", "A container for commands about modules."),
];

const MODULE: &[CommandSpec] = &[
    CommandSpec::data("module|list", 2, module_list).flags(&[Admin, Noscript]).tips(UNORDERED).doc(
        Group::Server,
        "4.0.0",
        "Returns the modules that are loaded: none.",
    ),
    CommandSpec::data("module|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "5.0.0",
        "Returns the subcommands of MODULE.",
    ),
];

const COMMAND: &[CommandSpec] = &[
    row("command|count", 2, command_count, "2.8.13", "Returns the number of commands."),
    row("command|docs", -2, command_docs, "7.0.0", "Returns documentation of some commands, or of all.")
        .args("[command-name ...]")
        .tips(UNORDERED),
    row("command|getkeys", -3, command_getkeys, "2.8.13", "Returns the keys of a complete command.")
        .args("command [argument ...]"),
    row(
        "command|getkeysandflags",
        -3,
        command_getkeysandflags,
        "7.0.0",
        "Returns the keys of a complete command and what is done with them.",
    )
    .args("command [argument ...]"),
    row("command|info", -2, command_info, "2.8.13", "Returns details of some commands, or of all.")
        .args("[command-name ...]")
        .tips(UNORDERED),
    row(
        "command|list",
        -2,
        command_list,
        "7.0.0",
        "Returns the names of all commands, or of those that pass a filter.",
    )
    .args("[FILTERBY MODULE module | ACLCAT category | PATTERN pattern]")
    .tips(UNORDERED),
    row("command|help", 2, help, "5.0.0", "Returns the subcommands of COMMAND."),
];

const fn row(
    name: &'static str,
    arity: i8,
    exec: super::spec::DataFn,
    since: &'static str,
    summary: &'static str,
) -> CommandSpec {
    let row = CommandSpec::data(name, arity, exec).flags(HELP_FLAGS);
    row.doc(Group::Server, since, summary).acl(&[Category::Connection])
}

/// There are no modules.
fn module_list(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.array(0);
    Ok(Done::Done)
}

fn command(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.array(all().count());
    all().for_each(|spec| write_details(&mut ctx.reply, spec));
    Ok(Done::Done)
}

fn command_count(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.integer(all().count() as i64);
    Ok(Done::Done)
}

fn command_info(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    if args.len() == 2 {
        return command(ctx, args);
    }
    ctx.reply.array(args.len() - 2);
    for name in args.iter().skip(2) {
        match by_full_name(name) {
            Some(spec) => write_details(&mut ctx.reply, spec),
            None => ctx.reply.null(),
        }
    }
    Ok(Done::Done)
}

fn command_docs(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    if args.len() == 2 {
        ctx.reply.map(all().count());
        all().for_each(|spec| write_docs(&mut ctx.reply, spec));
        return Ok(Done::Done);
    }
    let known = args.iter().skip(2).filter_map(by_full_name);
    ctx.reply.map(known.clone().count());
    known.for_each(|spec| write_docs(&mut ctx.reply, spec));
    Ok(Done::Done)
}

fn command_getkeys(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (spec, request) = quoted_request(args)?;
    ctx.reply.array(keys_of(spec, &request).count());
    keys_of(spec, &request).for_each(|key| ctx.reply.bulk(key));
    Ok(Done::Done)
}

fn command_getkeysandflags(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (spec, request) = quoted_request(args)?;
    ctx.reply.array(keys_of(spec, &request).count());
    for (i, key) in keys_of(spec, &request).enumerate() {
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        write_set(&mut ctx.reply, spec.usage_of(i, &request).flags().iter().copied());
    }
    Ok(Done::Done)
}

/// The request that follows COMMAND GETKEYS, which must have keys.
fn quoted_request<'a>(args: &Args<'a>) -> Result<(&'static CommandSpec, Args<'a>), CommandError> {
    let request = args.tail(2);
    let spec = find_spec(&request).map_err(|_| CommandError::InvalidCommand)?;
    if spec.keys == Keys::NONE || spec.keys.usage == KeyUse::NotKey {
        return Err(CommandError::NoKeys);
    }
    if !spec.accepts(request.len()) {
        return Err(CommandError::InvalidArgumentCount);
    }
    Ok((spec, request))
}

fn command_list(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let words: Vec<&[u8]> = args.iter().skip(2).collect();
    let passes: Box<dyn Fn(&CommandSpec) -> bool + '_> = match words[..] {
        [] => Box::new(|_| true),
        [by, kind, what] if by.eq_ignore_ascii_case(b"FILTERBY") => match kind.to_ascii_uppercase().as_slice() {
            b"PATTERN" => {
                let pattern = what.to_ascii_lowercase();
                Box::new(move |spec| glob_matches(&pattern, spec.name.as_bytes()))
            }
            b"ACLCAT" => Box::new(move |spec| {
                spec.categories().iter().any(|category| category.name().as_bytes()[1..].eq_ignore_ascii_case(what))
            }),
            // There are no modules.
            b"MODULE" => Box::new(|_| false),
            _ => return Err(CommandError::Syntax),
        },
        _ => return Err(CommandError::Syntax),
    };
    let with_subs = all().flat_map(|spec| std::iter::once(spec).chain(spec.subs));
    let names: Vec<&str> = with_subs.filter(|spec| passes(spec)).map(|spec| spec.name).collect();
    ctx.reply.array(names.len());
    names.iter().for_each(|name| ctx.reply.bulk(name.as_bytes()));
    Ok(Done::Done)
}

/// HELP of any container: its subcommands with their arguments and summaries.
pub(super) fn help(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let container = find(args.get(0)).ok_or(CommandError::InvalidCommand)?;
    let upper = container.name.to_ascii_uppercase();
    ctx.reply.array(1 + 2 * container.subs.len());
    ctx.reply.simple(&format!("{upper} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for sub in container.subs {
        let line = format!("{} {}", sub.own_name().to_ascii_uppercase(), sub.args);
        ctx.reply.simple(line.trim_end());
        ctx.reply.simple(&format!("    {}", sub.summary));
    }
    Ok(Done::Done)
}

/// The command or subcommand of a name as COMMAND writes it: `get`, `client|id`.
fn by_full_name(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|&byte| byte == b'|') {
        Some(bar) => find(&name[..bar])?.sub(&name[bar + 1..]),
        None => find(name),
    }
}

/// The ten elements of one command.
fn write_details(reply: &mut Reply<'_>, spec: &CommandSpec) {
    let Keys { first, last, step, usage, others } = spec.keys;
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(spec.arity.into());
    write_set(reply, spec.flags.iter().map(Flag::name));
    reply.integer(first.into());
    reply.integer(last.into());
    reply.integer(step.into());
    write_set(reply, spec.categories().iter().map(Category::name));
    reply.set(spec.tips.len());
    spec.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    if spec.keys == Keys::NONE {
        reply.set(0);
    } else {
        // A last key given by its distance from the first, or from the end.
        let last = if last < 0 { i64::from(last) } else { i64::from(last) - i64::from(first) };
        if usage == others {
            reply.set(1);
            write_keys(reply, usage, first.into(), last, step.into());
        } else {
            reply.set(2);
            write_keys(reply, usage, first.into(), 0, step.into());
            let last = if last < 0 { last } else { last - i64::from(step) };
            write_keys(reply, others, i64::from(first) + i64::from(step), last, step.into());
        }
    }
    // Redis sends no subcommands as an empty set, and some as an array.
    if spec.subs.is_empty() {
        reply.set(0)
    } else {
        reply.array(spec.subs.len())
    }
    spec.subs.iter().for_each(|sub| write_details(reply, sub));
}

/// One key specification.
fn write_keys(reply: &mut Reply<'_>, usage: KeyUse, first: i64, last: i64, step: i64) {
    reply.map(3);
    reply.bulk(b"flags");
    write_set(reply, usage.flags().iter().copied());
    reply.bulk(b"begin_search");
    write_search(reply, "index", &[("index", first)]);
    reply.bulk(b"find_keys");
    write_search(reply, "range", &[("lastkey", last), ("keystep", step), ("limit", 0)]);
}

/// One half of a key specification.
fn write_search(reply: &mut Reply<'_>, kind: &str, spec: &[(&str, i64)]) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(spec.len());
    for &(name, number) in spec {
        reply.bulk(name.as_bytes());
        reply.integer(number);
    }
}

/// A set of words as simple strings, which is how Redis sends flags and categories.
fn write_set<'n>(reply: &mut Reply<'_>, words: impl Iterator<Item = &'n str> + Clone) {
    reply.set(words.clone().count());
    words.for_each(|word| reply.simple(word));
}

/// Name and documentation of one command.
fn write_docs(reply: &mut Reply<'_>, spec: &CommandSpec) {
    reply.bulk(spec.name.as_bytes());
    reply.map(3 + usize::from(!spec.subs.is_empty()));
    for (name, text) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group.name())] {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !spec.subs.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(spec.subs.len());
        spec.subs.iter().for_each(|sub| write_docs(reply, sub));
    }
}
