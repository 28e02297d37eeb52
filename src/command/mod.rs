//! Floor 2: what each command means, one row per command.
//!
//! ```text
//! request ── resolve ──► CommandSpec ──┬─ Exec::Data(f)     f(&mut Ctx, &Args): reads the store, emits mutations, writes the reply
//!                        (table.rs)    ├─ Exec::Session(c)  the keeper executes it: it needs a connection, a role, a clock of its own
//!                                      └─ Exec::Container   only its subcommands can be executed
//! ```
//!
//! Dispatch, arity check, COMMAND and its subcommands, HELP, key positions and the flags that admission asks for all derive
//! from the row, and a family of commands is one file: adding a command touches that file and its transcript under
//! `tests/scripts/commands`. Nothing here knows connections, roles or time: the clock comes in with [`Ctx`].

mod bits;
mod context;
mod debug;
mod diagnose;
mod dump;
mod error;
mod expiry;
mod float;
mod generic;
mod glob;
mod introspect;
mod keyspace;
mod lcs;
mod number;
mod pubsub;
mod sentinel;
mod server;
mod session;
mod spec;
mod string;
mod table;
mod transaction;

pub use context::{Ctx, Done, Lookups, SliceState};
pub use error::CommandError;
pub use glob::glob_matches;
pub use number::{Decimal, integer};
pub use server::REDIS_VERSION;
pub use session::SessionCommand;
pub use spec::{Categories, Category, CommandSpec, DataFn, Exec, Flag, Flags, Group, KeyUse, Keys, Work};
pub use table::{KeyIter, ROW_COUNT, all, find, find_spec, keys_of, resolve, slot};
