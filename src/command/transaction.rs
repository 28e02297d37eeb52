//! Transactions: the rows of MULTI and its kin. The keeper executes them.

use crate::command::SessionCommand as Run;
use crate::command::spec::Flag::{self, AllowBusy, Fast, Loading, Noscript, SkipSlowlog, Stale};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::session("multi", 1, Run::Multi).flags(AT_ONCE).doc(
        Group::Transactions,
        "1.2.0",
        "Begins a transaction: what follows is queued.",
    ),
    CommandSpec::session("exec", 1, Run::Exec).flags(&[Noscript, Loading, Stale, SkipSlowlog]).doc(
        Group::Transactions,
        "1.2.0",
        "Executes all commands of the transaction, or none.",
    ),
    CommandSpec::session("discard", 1, Run::Discard).flags(AT_ONCE).doc(
        Group::Transactions,
        "2.0.0",
        "Forgets the transaction.",
    ),
    CommandSpec::session("watch", -2, Run::Watch)
        .args("key [key ...]")
        .flags(AT_ONCE)
        .keys(Keys::all(1, KeyUse::Inspect))
        .doc(Group::Transactions, "2.2.0", "Lets the next EXEC execute nothing if a key changes before."),
    CommandSpec::session("unwatch", 1, Run::Unwatch).flags(AT_ONCE).doc(
        Group::Transactions,
        "2.2.0",
        "Forgets the watched keys.",
    ),
];

const AT_ONCE: &[Flag] = &[Noscript, Loading, Stale, Fast, AllowBusy];
