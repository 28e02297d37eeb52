//! Expiry: when keys end.
//!
//! A key is gone at or after its expiry, a time in ms on the clock for expiry (`base/clock.rs`). Commands with relative times are
//! made absolute here, once, so that a replica never computes one. What a client says as a Unix time is meant by a clock that is right, as the leader's wall
//! clock should be: it is what is left until then that counts, and so it is told again. An expiry that has passed already deletes at once.

use std::cmp::Ordering;

use crate::base::clock::Wall;
use crate::command::CommandError;
use crate::command::context::{Ctx, Done};
use crate::command::number::integer;
use crate::command::spec::Flag::{Fast, Readonly, Write};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};
use crate::resp::Args;
use crate::store::{Event, Mutation};

const NONDETERMINISTIC: &[&str] = &["nondeterministic_output"];

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::data("ttl", 2, ttl)
        .args("key")
        .flags(&[Readonly, Fast])
        .keys(Keys::one(KeyUse::Read))
        .tips(NONDETERMINISTIC)
        .doc(Group::Generic, "1.0.0", "Returns the time to live of a key in seconds."),
    CommandSpec::data("pttl", 2, pttl)
        .args("key")
        .flags(&[Readonly, Fast])
        .keys(Keys::one(KeyUse::Read))
        .tips(NONDETERMINISTIC)
        .doc(Group::Generic, "2.6.0", "Returns the time to live of a key in milliseconds."),
    CommandSpec::data("expiretime", 2, expiretime)
        .args("key")
        .flags(&[Readonly, Fast])
        .keys(Keys::one(KeyUse::Read))
        .doc(Group::Generic, "7.0.0", "Returns the expiry of a key as a Unix time in seconds."),
    CommandSpec::data("pexpiretime", 2, pexpiretime)
        .args("key")
        .flags(&[Readonly, Fast])
        .keys(Keys::one(KeyUse::Read))
        .doc(Group::Generic, "7.0.0", "Returns the expiry of a key as a Unix time in milliseconds."),
    CommandSpec::data("expire", -3, expire)
        .args("key seconds [NX | XX | GT | LT]")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Change))
        .doc(Group::Generic, "1.0.0", "Sets the expiry of a key in seconds from now."),
    CommandSpec::data("pexpire", -3, pexpire)
        .args("key milliseconds [NX | XX | GT | LT]")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Change))
        .doc(Group::Generic, "2.6.0", "Sets the expiry of a key in milliseconds from now."),
    CommandSpec::data("expireat", -3, expireat)
        .args("key unix-seconds [NX | XX | GT | LT]")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Change))
        .doc(Group::Generic, "1.2.0", "Sets the expiry of a key to a Unix time in seconds."),
    CommandSpec::data("pexpireat", -3, pexpireat)
        .args("key unix-milliseconds [NX | XX | GT | LT]")
        .flags(&[Write, Fast])
        .keys(Keys::one(KeyUse::Change))
        .doc(Group::Generic, "2.6.0", "Sets the expiry of a key to a Unix time in milliseconds."),
    CommandSpec::data("persist", 2, persist).args("key").flags(&[Write, Fast]).keys(Keys::one(KeyUse::Change)).doc(
        Group::Generic,
        "2.2.0",
        "Removes the expiry of a key.",
    ),
];

/// An expiry that must be positive, as SET, SETEX and GETEX want it: `text` units after `base`.
///
/// # Errors
/// Not an integer; not positive; beyond 63 bits in ms (for the command `name`).
pub(super) fn positive(text: &[u8], unit_ms: i64, base: Wall, name: &'static str) -> Result<Wall, CommandError> {
    let number = integer(text)?;
    let after = if number > 0 { absolute(number, unit_ms, base) } else { None };
    // `after` is positive because both terms are.
    after.map(|ms| Wall(ms as u64)).ok_or(CommandError::InvalidExpiry(name))
}

/// `number` units after `base`, in ms.
fn absolute(number: i64, unit_ms: i64, base: Wall) -> Option<i64> {
    number.checked_mul(unit_ms)?.checked_add(i64::try_from(base.0).ok()?)
}

fn ttl(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let now = ctx.clock;
    show(ctx, args, |expiry| rounded_seconds(expiry.0 - now.0))
}

fn pttl(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let now = ctx.clock;
    show(ctx, args, |expiry| expiry.0 - now.0)
}

fn expiretime(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let ahead_ms = ctx.wall_ahead_ms;
    show(ctx, args, |expiry| rounded_seconds(expiry.0.saturating_add_signed(ahead_ms)))
}

fn pexpiretime(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let ahead_ms = ctx.wall_ahead_ms;
    show(ctx, args, |expiry| expiry.0.saturating_add_signed(ahead_ms))
}

fn rounded_seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1_000
}

/// Replies with what `f` makes of the expiry, -1 if the key has none, -2 if there is no key. `f` sees a time to come.
fn show(ctx: &mut Ctx<'_, '_>, args: &Args<'_>, f: impl FnOnce(Wall) -> u64) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let number = match ctx.peek(hash, key, |entry| entry.expiry()) {
        None => -2,
        Some(None) => -1,
        Some(Some(expiry)) => f(expiry) as i64,
    };
    ctx.reply.integer(number);
    Ok(Done::Done)
}

fn expire(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_expiry(ctx, args, 1_000, Some(ctx.clock), "expire")
}

fn pexpire(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_expiry(ctx, args, 1, Some(ctx.clock), "pexpire")
}

fn expireat(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_expiry(ctx, args, 1_000, None, "expireat")
}

fn pexpireat(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    set_expiry(ctx, args, 1, None, "pexpireat")
}

fn set_expiry(
    ctx: &mut Ctx<'_, '_>,
    args: &Args<'_>,
    unit_ms: i64,
    from: Option<Wall>,
    name: &'static str,
) -> Result<Done, CommandError> {
    let condition = Condition::parse(args)?;
    let number = integer(args.get(2))?;
    let ms = absolute(number, unit_ms, from.unwrap_or(Wall(0))).ok_or(CommandError::InvalidExpiry(name))?;
    // A time before 1970 is as much past as 1970 itself.
    let at = Wall(u64::try_from(ms).unwrap_or(0));
    let expiry = if from.is_some() || at == Wall(0) { at } else { ctx.expiry_at(at) };

    let (hash, key) = ctx.first(args);
    let held = ctx.read(hash, key, |entry, _| entry.expiry());
    let wanted = held.is_some_and(|held| condition.allows(held, expiry));
    if wanted && expiry <= ctx.clock {
        ctx.delete(hash, key, Event::Del);
    } else if wanted {
        ctx.emit_hashed(hash, &Mutation::SetExpiry { key, expiry: Some(expiry), event: Event::Expire });
    }
    ctx.reply.integer(i64::from(wanted));
    Ok(Done::Done)
}

fn persist(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let (hash, key) = ctx.first(args);
    let timed = ctx.read(hash, key, |entry, _| entry.expiry()).flatten().is_some();
    if timed {
        ctx.emit_hashed(hash, &Mutation::SetExpiry { key, expiry: None, event: Event::Persist });
    }
    ctx.reply.integer(i64::from(timed));
    Ok(Done::Done)
}

/// When EXPIRE and its kin take effect.
#[derive(Default)]
struct Condition {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Condition {
    fn parse(args: &Args<'_>) -> Result<Condition, CommandError> {
        let mut condition = Condition::default();
        for i in 3..args.len() {
            let word = args.get(i);
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            match () {
                () if is(b"NX") => condition.nx = true,
                () if is(b"XX") => condition.xx = true,
                () if is(b"GT") => condition.gt = true,
                () if is(b"LT") => condition.lt = true,
                () => return Err(CommandError::expire_option(word)),
            }
        }
        match condition {
            Condition { nx: true, xx, gt, lt } if xx || gt || lt => Err(CommandError::ExpireNxConflict),
            Condition { gt: true, lt: true, .. } => Err(CommandError::ExpireGtLtConflict),
            condition => Ok(condition),
        }
    }

    /// A key without an expiry ends later than any other.
    fn allows(&self, held: Option<Wall>, expiry: Wall) -> bool {
        let Some(held) = held else { return !self.xx && !self.gt };
        let beyond = match expiry.cmp(&held) {
            Ordering::Less => !self.gt,
            Ordering::Equal => !self.gt && !self.lt,
            Ordering::Greater => !self.lt,
        };
        beyond && !self.nx
    }
}
