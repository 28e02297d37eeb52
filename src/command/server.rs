//! Commands about the server, most of which need nothing but the clock and the store.

use crate::command::context::{Ctx, Done};
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::number::{Decimal, integer};
use crate::command::spec::Flag::{Admin, AllowBusy, Fast, Loading, NoMulti, Noscript, Readonly, Stale};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::command::{CommandError, SessionCommand};
use crate::resp::Args;

/// Version of Redis whose commands and words this is built to; clients choose features by it.
pub const REDIS_VERSION: &str = "7.2.4";

const NONDETERMINISTIC: &[&str] = &["nondeterministic_output"];
const OF_ALL_SHARDS: &[&str] = &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("echo", 2, echo).args("message").flags(&[Loading, Stale, Fast]).doc(
        Group::Connection,
        "1.0.0",
        "Returns the given string.",
    ),
    CommandSpec::data("time", 1, time).flags(&[Loading, Stale, Fast]).tips(NONDETERMINISTIC).doc(
        Group::Server,
        "2.6.0",
        "Returns the wall clock of the node: Unix seconds, and microseconds in them.",
    ),
    CommandSpec::session("shutdown", -1, SessionCommand::Shutdown)
        .args("[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]")
        .flags(&[Admin, Noscript, Loading, Stale, NoMulti, AllowBusy])
        .doc(Group::Server, "1.0.0", "Hands the leadership over and ends the process, as SIGTERM does."),
    CommandSpec::data("lolwut", -1, lolwut).args("[VERSION version]").flags(&[Readonly, Fast]).doc(
        Group::Server,
        "5.0.0",
        "Returns a drawing, and the version.",
    ),
    CommandSpec::container("memory", MEMORY).doc(Group::Server, "4.0.0", "A container for commands about memory."),
];

const MEMORY: &[CommandSpec] = &[
    CommandSpec::session("memory|doctor", 2, SessionCommand::MemoryDoctor).tips(OF_ALL_SHARDS).doc(
        Group::Server,
        "4.0.0",
        "Returns what looks wrong with the memory of this node.",
    ),
    CommandSpec::session("memory|stats", 2, SessionCommand::MemoryStats).tips(OF_ALL_SHARDS).doc(
        Group::Server,
        "4.0.0",
        "Returns where the memory of this node is.",
    ),
    CommandSpec::data("memory|usage", -3, memory_usage)
        .args("key [SAMPLES count]")
        .flags(&[Readonly])
        .keys(Keys::of_sub(KeyUse::Inspect))
        .doc(Group::Server, "4.0.0", "Returns the bytes that a key and its value occupy."),
    CommandSpec::data("memory|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "4.0.0",
        "Returns the subcommands of MEMORY.",
    ),
];

fn echo(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    match args.shared(1) {
        Some(bytes) => ctx.reply.shared(bytes),
        None => ctx.reply.bulk(args.get(1)),
    }
    Ok(Done::Done)
}

/// A keep, with as many lights as somebody left burning.
fn lolwut(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    if args.len() > 2 && args.get(1).eq_ignore_ascii_case(b"VERSION") {
        integer(args.get(2))?;
    }
    let mut window = || if ctx.chance.below(2) == 0 { '.' } else { '#' };
    let windows = [window(), window(), window(), window(), window(), window()];
    let [a, b, c, d, e, f] = windows;
    let text = format!(
        "   _   _         _   _\n\
         \x20 | |_| |   |>  | |_| |\n\
         \x20 |  {a}  |_ _|_ _|  {b}  |\n\
         \x20 |     |_|_|_|_|     |\n\
         \x20 |  {c}    {d}   {e}    {f}  |\n\
         \x20 |_______|/^\\|_______|\n\n\
         DataKeeper ver. {}, Redis ver. {REDIS_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    );
    ctx.reply.verbatim("txt", text.as_bytes());
    Ok(Done::Done)
}

fn time(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    let ms = ctx.clock.0;
    ctx.reply.array(2);
    ctx.reply.bulk(Decimal::unsigned(ms / 1_000).as_bytes());
    ctx.reply.bulk(Decimal::unsigned(ms % 1_000 * 1_000).as_bytes());
    Ok(Done::Done)
}

fn memory_usage(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    match args.len() {
        3 => {}
        // Every value is one piece: there is nothing to sample.
        5 if args.get(3).eq_ignore_ascii_case(b"SAMPLES") => {
            if integer(args.get(4))? < 0 {
                return Err(CommandError::Syntax);
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    let key = args.get(2);
    let hash = ctx.hash_first(key);
    match ctx.peek(hash, key, |entry| entry.memory()) {
        Some(bytes) => ctx.reply.integer(bytes as i64),
        None => ctx.reply.null(),
    }
    Ok(Done::Done)
}
