//! DEBUG, as far as it harms nobody: what the store holds, as digests and as one value is held; SLEEP and SET-ACTIVE-EXPIRE are the keeper's.
//!
//! Whatever the clock says, a digest is of what the store holds, so leader and replica have the same at the same position of the log. DIGEST
//! walks the keys in slices: of a store that is written to meanwhile, it is that of no single moment. Not here, and refused: what
//! crashes, restarts, reloads or fills the server.

use std::fmt::Write;

use sha2::{Digest as _, Sha256};

use crate::command::context::{Ctx, Done, Sliced};
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::spec::Category::{self, Dangerous};
use crate::command::spec::Flag::{self, Admin, Loading, Noscript, Stale};
use crate::command::spec::{CommandSpec, Group};
use crate::command::{CommandError, SessionCommand as Run, dump, generic};
use crate::resp::Args;
use crate::store::Entry;

pub(super) const ROWS: &[CommandSpec] = &[CommandSpec::container("debug", DEBUG).flags(FLAGS).doc(
    Group::Server,
    "1.0.0",
    "A container for commands for tests.",
)];

const FLAGS: &[Flag] = &[Admin, Noscript, Loading, Stale];
const ACL: &[Category] = &[Category::Admin, Dangerous];

const DEBUG: &[CommandSpec] = &[
    CommandSpec::data("debug|digest", 2, digest).flags(FLAGS).sliced().doc(
        Group::Server,
        "1.0.0",
        "Returns a digest of all keys with their values and expiries.",
    ),
    CommandSpec::data("debug|digest-value", -2, digest_value).args("[key [key ...]]").flags(FLAGS).doc(
        Group::Server,
        "5.0.0",
        "Returns a digest of each of these keys.",
    ),
    CommandSpec::data("debug|object", 3, object).args("key").flags(FLAGS).doc(
        Group::Server,
        "1.0.0",
        "Returns how a value is held.",
    ),
    CommandSpec::session("debug|set-active-expire", 3, Run::DebugSetActiveExpire)
        .args("0 | 1")
        .flags(FLAGS)
        .doc(Group::Server, "1.0.0", "Says whether this node deletes expired keys that nobody asks for.")
        .acl(ACL),
    CommandSpec::session("debug|sleep", 3, Run::DebugSleep).args("seconds").flags(FLAGS).doc(
        Group::Server,
        "1.0.0",
        "Answers after that time; only this connection waits.",
    ),
    CommandSpec::data("debug|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "1.0.0",
        "Returns the subcommands of DEBUG.",
    ),
];

/// Keys of one slice.
const KEYS_PER_SLICE: usize = 1_000;

/// A digest of keys: the sum, without carry, of the digest of each, so that their order makes no difference.
#[derive(Clone, Copy, Debug, Default)]
struct Sum([u8; 20]);

impl Sum {
    fn add(&mut self, entry: &Entry<'_>) {
        let mut hash = Sha256::new();
        let value = generic::bytes_of(entry.value());
        for part in [entry.key(), value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        if let Some(expiry) = entry.expiry() {
            hash.update(expiry.0.to_le_bytes());
        }
        self.0.iter_mut().zip(hash.finalize()).for_each(|(sum, byte)| *sum ^= byte);
    }

    fn hex(self) -> String {
        self.0.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes any text");
            hex
        })
    }
}

/// DEBUG DIGEST on its way.
#[derive(Debug, Default)]
pub(super) struct Digest {
    cursor: u64,
    sum: Sum,
}

fn digest(ctx: &mut Ctx<'_, '_>, _: &Args<'_>) -> Result<Done, CommandError> {
    let mut under_way = match ctx.slice.under_way.take() {
        Some(Sliced::Digest(digest)) => digest,
        _ => Digest::default(),
    };
    let Digest { cursor, sum } = &mut under_way;
    *cursor = ctx.store.scan(*cursor, KEYS_PER_SLICE, &mut |entry| sum.add(&entry));
    if *cursor != 0 {
        ctx.slice.under_way = Some(Sliced::Digest(under_way));
        return Ok(Done::More);
    }
    ctx.reply.simple(&sum.hex());
    Ok(Done::Done)
}

fn digest_value(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    ctx.reply.array(args.len() - 2);
    for key in args.iter().skip(2) {
        let mut sum = Sum::default();
        if let Some(entry) = ctx.store.get(ctx.store.hash(key), key) {
            sum.add(&entry);
        }
        ctx.reply.simple(&sum.hex());
    }
    Ok(Done::Done)
}

fn object(ctx: &mut Ctx<'_, '_>, args: &Args<'_>) -> Result<Done, CommandError> {
    let key = args.get(2);
    let hash = ctx.store.hash(key);
    let told = ctx.peek(hash, key, |entry| {
        let value = entry.value();
        (generic::encoding(value), dump::serialized_length(generic::bytes_of(value)))
    });
    let (encoding, serialized) = told.ok_or(CommandError::NoSuchKey)?;
    let idle_s = ctx.store.get(hash, key).and_then(|entry| ctx.store.idle_s(entry)).unwrap_or(0);
    ctx.reply.simple(&format!(
        "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{serialized} lru:0 lru_seconds_idle:{idle_s}"
    ));
    Ok(Done::Done)
}
