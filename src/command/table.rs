//! The table: all rows, and the way from the words of a request to one of them.
//!
//! [`find`] costs a few nanoseconds: the first eight letters, folded to lower case by one OR, are a machine word that both
//! indexes a constant table with linear probing and is compared as such. For letters the fold is exact: `L` and `l` are the
//! only bytes that become `l`; a test keeps other characters out of command names.

use crate::command::spec::CommandSpec;
use crate::command::{
    CommandError, bits, debug, diagnose, dump, expiry, generic, introspect, keyspace, lcs, pubsub, sentinel, server,
    session, string, transaction,
};
use crate::resp::Args;

/// The families in the order in which COMMAND lists them.
const FAMILIES: &[&[CommandSpec]] = &[
    string::ROWS,
    lcs::ROWS,
    bits::ROWS,
    generic::ROWS,
    expiry::ROWS,
    dump::ROWS,
    keyspace::ROWS,
    server::ROWS,
    diagnose::ROWS,
    debug::ROWS,
    introspect::ROWS,
    session::ROWS,
    transaction::ROWS,
    pubsub::ROWS,
    sentinel::ROWS,
];

/// Every command; subcommands are in their container's row.
pub fn all() -> impl Iterator<Item = &'static CommandSpec> + Clone {
    TABLE.iter()
}

/// Commands and subcommands: [`CommandSpec::row`] is below.
pub const ROW_COUNT: usize = COMMANDS + SUBCOMMANDS;

const COMMANDS: usize = count(false);
const SUBCOMMANDS: usize = count(true);

const fn count(subs: bool) -> usize {
    let (mut family, mut count) = (0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            count += if subs { FAMILIES[family][row].subs.len() } else { 1 };
            row += 1;
        }
        family += 1;
    }
    count
}

/// The rows with their numbers.
static TABLE: [CommandSpec; COMMANDS] = {
    let mut table = [FAMILIES[0][0]; COMMANDS];
    let (mut family, mut at, mut subs) = (0, 0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            let spec = FAMILIES[family][row];
            table[at] = spec.numbered(at);
            table[at].subs = SUBS.split_at(subs).1.split_at(spec.subs.len()).0;
            subs += spec.subs.len();
            at += 1;
            row += 1;
        }
        family += 1;
    }
    table
};

/// The rows of subcommands with their numbers, those of one container side by side.
static SUBS: [CommandSpec; SUBCOMMANDS] = {
    let mut table = [FAMILIES[0][0]; SUBCOMMANDS];
    let (mut family, mut at) = (0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            let subs = FAMILIES[family][row].subs;
            let mut sub = 0;
            while sub < subs.len() {
                table[at] = subs[sub].numbered(COMMANDS + at);
                at += 1;
                sub += 1;
            }
            row += 1;
        }
        family += 1;
    }
    table
};

/// The command of that name, in any letter case.
#[inline]
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    let word = fold(name);
    let mut at = bucket(word, name.len());
    while let Some(slot) = &INDEX[at] {
        if slot.word == word && slot.len == name.len() && tail_matches(slot.spec.name.as_bytes(), name) {
            return Some(slot.spec);
        }
        at = (at + 1) % INDEX_LEN;
    }
    None
}

/// The command or subcommand that the request names, with its number of arguments checked.
///
/// # Errors
/// Unknown command, unknown subcommand, wrong number of arguments, in Redis's words. `args` must not be empty.
#[inline]
pub fn resolve(args: &Args<'_>) -> Result<&'static CommandSpec, CommandError> {
    let spec = find_spec(args)?;
    if spec.accepts(args.len()) { Ok(spec) } else { Err(CommandError::WrongArity(spec.name)) }
}

/// What the first words of the request name; the number of its arguments is not checked.
///
/// # Errors
/// Unknown command, unknown subcommand. `args` must not be empty.
pub fn find_spec(args: &Args<'_>) -> Result<&'static CommandSpec, CommandError> {
    let Some(spec) = find(args.get(0)) else {
        return Err(CommandError::unknown_command(args.get(0), args.iter().skip(1)));
    };
    if spec.subs.is_empty() || args.len() == 1 {
        return Ok(spec);
    }
    let sub = args.get(1);
    spec.sub(sub).ok_or_else(|| CommandError::unknown_subcommand(args.get(0), sub))
}

/// The keys among the arguments of a request that `resolve` accepted.
#[must_use]
pub fn keys_of<'a>(spec: &CommandSpec, args: &Args<'a>) -> KeyIter<'a> {
    let (keys, args) = (spec.keys, *args);
    if keys.first == 0 {
        return KeyIter { args, at: 0, end: 0, step: 1 };
    }
    let end = match usize::try_from(keys.last) {
        Ok(last) => args.len().min(last + 1),
        Err(_) => (args.len() + 1).saturating_sub(usize::from(keys.last.unsigned_abs())),
    };
    KeyIter { args, at: keys.first.into(), end, step: keys.step.into() }
}

/// The keys of one request, in the order of its arguments.
#[derive(Clone)]
pub struct KeyIter<'a> {
    args: Args<'a>,
    at: usize,
    /// Behind the last key.
    end: usize,
    step: usize,
}

impl<'a> Iterator for KeyIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let key = self.args.get(self.at);
        self.at += self.step;
        Some(key)
    }
}

/// The cluster slot of a key, 0 to 16383: CRC16 of the key, or of its first non-empty `{tag}`.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    redis_protocol::redis_keyslot(key)
}

/// Slots of the index: a power of two, at least twice the number of commands.
const INDEX_LEN: usize = 256;

#[derive(Clone, Copy)]
struct Slot {
    word: u64,
    len: usize,
    spec: &'static CommandSpec,
}

static INDEX: [Option<Slot>; INDEX_LEN] = {
    assert!(COMMANDS * 2 <= INDEX_LEN, "a fuller index would probe too long");
    let mut index = [None; INDEX_LEN];
    let mut row = 0;
    while row < COMMANDS {
        let name = TABLE[row].name;
        let word = fold(name.as_bytes());
        let mut at = bucket(word, name.len());
        while index[at].is_some() {
            at = (at + 1) % INDEX_LEN;
        }
        index[at] = Some(Slot { word, len: name.len(), spec: &TABLE[row] });
        row += 1;
    }
    index
};

/// The first eight bytes in lower case, the first byte lowest; what a shorter name lacks is blank. Overlapping reads in place of a
/// loop: its length would be mispredicted whenever two commands alternate.
#[inline]
const fn fold(name: &[u8]) -> u64 {
    const BLANKS: u64 = u64::from_ne_bytes([b' '; 8]);
    let word = match name {
        [] => 0,
        [a, b, c, d, e, f, g, h, ..] => u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        [a, b, c, d, ..] => {
            let shift = name.len() - 4;
            let last = [name[shift], name[shift + 1], name[shift + 2], name[shift + 3]];
            u32::from_le_bytes([*a, *b, *c, *d]) as u64 | (u32::from_le_bytes(last) as u64) << (8 * shift)
        }
        [first, ..] => {
            let (middle, last) = (name.len() / 2, name.len() - 1);
            *first as u64 | (name[middle] as u64) << (8 * middle) | (name[last] as u64) << (8 * last)
        }
    };
    word | BLANKS
}

#[inline]
const fn bucket(word: u64, len: usize) -> usize {
    (word.wrapping_add(len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % INDEX_LEN
}

/// What the word does not hold of two names of equal length.
#[inline]
fn tail_matches(name: &[u8], other: &[u8]) -> bool {
    name.len() <= 8 || name[8..].eq_ignore_ascii_case(&other[8..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::command::spec::{Exec, Flag, KeyUse, Keys, Work};

    fn rows() -> impl Iterator<Item = &'static CommandSpec> {
        all().flat_map(|spec| std::iter::once(spec).chain(spec.subs))
    }

    #[test]
    fn find_knows_each_command_in_any_letter_case() {
        for spec in all() {
            let upper = spec.name.to_ascii_uppercase();
            let mixed: String =
                spec.name.char_indices().map(|(i, c)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
            for name in [spec.name, &upper, &mixed] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(spec.name), "{name}");
            }
            assert!(find(&spec.name.as_bytes()[1..]).is_none_or(|found| found.name != spec.name));
            assert!(find(format!("{}x", spec.name).as_bytes()).is_none_or(|found| found.name != spec.name));
        }
        for name in ["", "client|id", "nonsense", "getgetgetgetget", "\x07\x05\x14"] {
            assert!(find(name.as_bytes()).is_none(), "{name:?} was found");
        }
    }

    #[test]
    fn each_row_has_a_number_of_its_own() {
        let numbers: BTreeSet<u16> = rows().map(|spec| spec.row).collect();
        assert_eq!(numbers, (0..ROW_COUNT as u16).collect());
        for spec in all() {
            assert!(spec.subs.iter().all(|sub| sub.name.starts_with(spec.name)), "{} has another's", spec.name);
            assert_eq!(find(spec.name.as_bytes()).map(|found| found.row), Some(spec.row));
        }
    }

    #[test]
    fn rows_are_well_formed() {
        let mut names = BTreeSet::new();
        for spec in rows() {
            let name = spec.name;
            assert!(names.insert(name), "{name} has two rows");
            assert!(!spec.since.is_empty() && !spec.summary.is_empty(), "{name} is undocumented");
            assert!(spec.summary.ends_with('.'), "{name}: the summary is a sentence");
            assert_eq!(
                spec.args.is_empty(),
                spec.arity == 1 || (spec.arity == 2 && name.contains('|')),
                "{name}: arity and args"
            );
            let (write, readonly) = (spec.flags.has(Flag::Write), spec.flags.has(Flag::Readonly));
            assert!(!(write && readonly), "{name} writes or not");
            assert!(write || !spec.flags.has(Flag::DenyOom), "{name} cannot grow the store without writing");
            let keyed = write || readonly || name == "watch" || spec.keys.usage == KeyUse::NotKey;
            assert!(keyed || spec.keys == Keys::NONE, "{name} has keys but neither reads nor writes");
            assert!(spec.work == Work::Constant || !write, "{name}: a sliced command only reads");
            assert_eq!(matches!(spec.exec, Exec::Container), spec.subs.iter().len() > 0 && spec.arity == -2, "{name}");
        }
    }

    #[test]
    fn names_are_lower_case_below_their_container() {
        for spec in all() {
            let (folded, tail) = spec.name.as_bytes().split_at(spec.name.len().min(8));
            assert!(folded.iter().all(u8::is_ascii_lowercase), "{}: find() folds letters only", spec.name);
            assert!(tail.iter().all(|b| b.is_ascii_lowercase() || *b == b'_'), "{}", spec.name);
            for sub in spec.subs {
                let own = sub.name.strip_prefix(spec.name).and_then(|rest| rest.strip_prefix('|'));
                assert_eq!(own, Some(sub.own_name()), "{} is not in {}", sub.name, spec.name);
                assert!(sub.own_name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", sub.name);
                assert!(sub.subs.is_empty(), "{} would need another level", sub.name);
            }
        }
    }

    #[test]
    fn key_positions_fit_the_arity() {
        for spec in rows().filter(|spec| spec.keys != Keys::NONE) {
            let (keys, least) = (spec.keys, i32::from(spec.arity.abs()));
            let last = if keys.last < 0 { least + i32::from(keys.last) } else { i32::from(keys.last) };
            let first = i32::from(keys.first);
            // SUNSUBSCRIBE alone may be given none.
            let given = (first <= last && last < least) || spec.name == "sunsubscribe";
            assert!(keys.step > 0 && given, "{}: {keys:?} of {least} arguments", spec.name);
            let behind_a_word = spec.name.contains('|') || spec.name == "bitop";
            assert_eq!(first, if behind_a_word { 2 } else { 1 }, "{}", spec.name);
        }
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b""), 0);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{}{bar}"), 8363, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"{"), slot(b"{"), "an open brace at the end is part of the key");
    }
}
