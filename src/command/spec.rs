//! The row: everything that is known of a command before it runs.
//!
//! The words (flags, categories, groups, tips, key specifications) are those of Redis 7.2, because COMMAND hands them to
//! clients that route by them. Rows are built by `const` methods, so that the table costs nothing at start and a row reads
//! in four lines. Argument trees of COMMAND DOCS are deliberately absent: `args` is one line of text.

use crate::command::{CommandError, Ctx, Done, SessionCommand};
use crate::resp::Args;

/// What executes a data command. It may read the store and emit mutations through [`Ctx`].
///
/// # Errors
/// An error has written no reply, and has emitted nothing but the deletion of expired keys that it met.
pub type DataFn = fn(&mut Ctx<'_, '_>, &Args<'_>) -> Result<Done, CommandError>;

/// One command: its name, its rules and what executes it.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// Lower case; a subcommand's is `container|sub`.
    pub name: &'static str,
    /// Number of arguments, the name included (for a subcommand both words); `-n` means at least `n`. Never 0.
    pub arity: i8,
    /// The arguments after the name as a manual shows them; empty if there are none.
    pub args: &'static str,
    /// What admission, redirects and clients must know.
    pub flags: Flags,
    /// Categories beyond those that follow from the flags.
    pub acl: Categories,
    /// Which arguments are keys.
    pub keys: Keys,
    /// What a request does with its key, if that depends on its arguments ([`KeyUse::UpdateBySome`]).
    pub usage_by: Option<fn(&Args<'_>) -> KeyUse>,
    /// Whether one call may be too long for one hold of the lock.
    pub work: Work,
    /// Chapter of the manual.
    pub group: Group,
    /// First Redis version with it; for our own commands the first DataKeeper version.
    pub since: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Redis's hints for clients and proxies: `request_policy:…`, `nondeterministic_output`, ….
    pub tips: &'static [&'static str],
    /// What executes it.
    pub exec: Exec,
    /// Subcommands of a container, else empty.
    pub subs: &'static [CommandSpec],
    /// Number of the row, for whoever keeps something per command; the table counts them.
    pub row: u16,
    /// Whether a call with few arguments takes so little time that its neighbours' time tells it: flag `fast`, or `quick` in the row.
    pub quick: bool,
    /// It moves values from key to key.
    pub moves: bool,
}

/// Who executes a command.
#[derive(Clone, Copy, Debug)]
pub enum Exec {
    /// A function of the store.
    Data(DataFn),
    /// The keeper, because it needs a connection, a role or the log.
    Session(SessionCommand),
    /// Nobody: a subcommand must be given.
    Container,
}

/// How the work of one call grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bounded by what the client sent and by the reply.
    Constant,
    /// Grows with the keyspace: `exec` returns [`Done::More`] after each slice and is called again with the same arguments.
    Sliced,
}

/// A property of a command, named as COMMAND names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    Write,
    Readonly,
    /// May grow the store: refused when memory is full.
    DenyOom,
    Admin,
    Pubsub,
    Noscript,
    Blocking,
    /// Served while the data is not there yet.
    Loading,
    /// Served although the data may be old or the leader unknown.
    Stale,
    SkipMonitor,
    SkipSlowlog,
    Asking,
    Fast,
    /// Served before AUTH.
    NoAuth,
    MayReplicate,
    NoMandatoryKeys,
    NoAsyncLoading,
    NoMulti,
    MovableKeys,
    AllowBusy,
}

impl Flag {
    /// All, in the order in which COMMAND shows them.
    pub const ALL: [Flag; 20] = [
        Flag::Write,
        Flag::Readonly,
        Flag::DenyOom,
        Flag::Admin,
        Flag::Pubsub,
        Flag::Noscript,
        Flag::Blocking,
        Flag::Loading,
        Flag::Stale,
        Flag::SkipMonitor,
        Flag::SkipSlowlog,
        Flag::Asking,
        Flag::Fast,
        Flag::NoAuth,
        Flag::MayReplicate,
        Flag::NoMandatoryKeys,
        Flag::NoAsyncLoading,
        Flag::NoMulti,
        Flag::MovableKeys,
        Flag::AllowBusy,
    ];

    /// The word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Flag::Write => "write",
            Flag::Readonly => "readonly",
            Flag::DenyOom => "denyoom",
            Flag::Admin => "admin",
            Flag::Pubsub => "pubsub",
            Flag::Noscript => "noscript",
            Flag::Blocking => "blocking",
            Flag::Loading => "loading",
            Flag::Stale => "stale",
            Flag::SkipMonitor => "skip_monitor",
            Flag::SkipSlowlog => "skip_slowlog",
            Flag::Asking => "asking",
            Flag::Fast => "fast",
            Flag::NoAuth => "no_auth",
            Flag::MayReplicate => "may_replicate",
            Flag::NoMandatoryKeys => "no_mandatory_keys",
            Flag::NoAsyncLoading => "no_async_loading",
            Flag::NoMulti => "no_multi",
            Flag::MovableKeys => "movablekeys",
            Flag::AllowBusy => "allow_busy",
        }
    }
}

/// A set of [`Flag`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The set of these.
    #[must_use]
    pub const fn of(list: &[Flag]) -> Flags {
        let mut bits = 0;
        let mut i = 0;
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        Flags(bits)
    }

    /// Whether the flag is in the set.
    #[must_use]
    pub const fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// The flags in the order of [`Flag::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Flag> + Clone {
        Flag::ALL.into_iter().filter(move |&flag| self.has(flag))
    }
}

/// A category of access control lists, named as COMMAND names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Category {
    Keyspace,
    Read,
    Write,
    String,
    Bitmap,
    Pubsub,
    Admin,
    Fast,
    Slow,
    Blocking,
    Dangerous,
    Connection,
    Transaction,
}

impl Category {
    /// All, in the order in which COMMAND shows them.
    pub const ALL: [Category; 13] = [
        Category::Keyspace,
        Category::Read,
        Category::Write,
        Category::String,
        Category::Bitmap,
        Category::Pubsub,
        Category::Admin,
        Category::Fast,
        Category::Slow,
        Category::Blocking,
        Category::Dangerous,
        Category::Connection,
        Category::Transaction,
    ];

    /// The word on the wire, with its `@`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Category::Keyspace => "@keyspace",
            Category::Read => "@read",
            Category::Write => "@write",
            Category::String => "@string",
            Category::Bitmap => "@bitmap",
            Category::Pubsub => "@pubsub",
            Category::Admin => "@admin",
            Category::Fast => "@fast",
            Category::Slow => "@slow",
            Category::Blocking => "@blocking",
            Category::Dangerous => "@dangerous",
            Category::Connection => "@connection",
            Category::Transaction => "@transaction",
        }
    }
}

/// A set of [`Category`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(u32);

impl Categories {
    /// The set of these.
    #[must_use]
    pub const fn of(list: &[Category]) -> Categories {
        let mut set = Categories(0);
        let mut i = 0;
        while i < list.len() {
            set = set.with(list[i]);
            i += 1;
        }
        set
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, category: Category) -> Categories {
        Categories(self.0 | 1 << category as u32)
    }

    /// Whether the category is in the set.
    #[must_use]
    pub const fn has(self, category: Category) -> bool {
        self.0 & (1 << category as u32) != 0
    }

    /// The categories in the order of [`Category::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Category> + Clone {
        Category::ALL.into_iter().filter(move |&category| self.has(category))
    }
}

/// Chapter of the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Generic,
    String,
    Bitmap,
    Connection,
    Server,
    Cluster,
    Transactions,
    Pubsub,
    Sentinel,
}

impl Group {
    /// The word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Transactions => "transactions",
            Group::Pubsub => "pubsub",
            Group::Sentinel => "sentinel",
        }
    }
}

/// Which arguments are keys, in Redis's first, last, step; all 0 if none. A negative `last` counts from the end (-1 is the last).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Index of the first key; 0 means that there are no keys.
    pub first: u8,
    /// Index of the last key.
    pub last: i8,
    /// Distance between keys.
    pub step: u8,
    /// What is done with the first.
    pub usage: KeyUse,
    /// What is done with the others.
    pub others: KeyUse,
}

impl Keys {
    /// No keys.
    pub const NONE: Keys = Keys { first: 0, last: 0, step: 0, usage: KeyUse::Inspect, others: KeyUse::Inspect };

    /// One key, the first argument.
    #[must_use]
    pub const fn one(usage: KeyUse) -> Keys {
        Keys { first: 1, last: 1, step: 1, usage, others: usage }
    }

    /// One key, the first argument of a subcommand.
    #[must_use]
    pub const fn of_sub(usage: KeyUse) -> Keys {
        Keys { first: 2, last: 2, step: 1, usage, others: usage }
    }

    /// Every argument, or every `step`-th from the first.
    #[must_use]
    pub const fn all(step: u8, usage: KeyUse) -> Keys {
        Keys { first: 1, last: -1, step, usage, others: usage }
    }

    /// Two keys, the first two arguments.
    #[must_use]
    pub const fn two(usage: KeyUse, others: KeyUse) -> Keys {
        Keys { first: 1, last: 2, step: 1, usage, others }
    }
}

/// What a command does with its keys: Redis's key specification flags, by their usual combinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Looks at the key, not at its value.
    Inspect,
    /// Returns the value or a part of it.
    Read,
    /// Changes the value or its expiry without returning it.
    Change,
    /// Returns and changes the value.
    Update,
    /// Like `Update`, depending on the arguments.
    UpdateBySome,
    /// Adds to the value.
    Append,
    /// Writes a value where none was.
    Insert,
    /// Writes a value over whatever was there.
    Overwrite,
    /// Deletes.
    Remove,
    /// Returns and deletes.
    Take,
    /// It is none, but a shard channel, which has a slot as keys have.
    NotKey,
}

impl KeyUse {
    /// The words of the key specification.
    #[must_use]
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            KeyUse::Inspect => &["RO"],
            KeyUse::Read => &["RO", "access"],
            KeyUse::Change => &["RW", "update"],
            KeyUse::Update => &["RW", "access", "update"],
            KeyUse::UpdateBySome => &["RW", "access", "update", "variable_flags"],
            KeyUse::Append => &["RW", "insert"],
            KeyUse::Insert => &["OW", "insert"],
            KeyUse::Overwrite => &["OW", "update"],
            KeyUse::Remove => &["RM", "delete"],
            KeyUse::Take => &["RW", "access", "delete"],
            KeyUse::NotKey => &["not_key"],
        }
    }
}

impl CommandSpec {
    const fn new(name: &'static str, arity: i8, exec: Exec) -> CommandSpec {
        assert!(arity != 0);
        CommandSpec {
            name,
            arity,
            args: "",
            flags: Flags::of(&[]),
            acl: Categories::of(&[]),
            keys: Keys::NONE,
            usage_by: None,
            work: Work::Constant,
            group: Group::Generic,
            since: "",
            summary: "",
            tips: &[],
            exec,
            subs: &[],
            row: 0,
            quick: false,
            moves: false,
        }
    }

    /// The row as the table has it.
    pub(super) const fn numbered(mut self, row: usize) -> CommandSpec {
        self.row = row as u16;
        self.quick = (self.quick || self.flags.has(Flag::Fast)) && matches!(self.work, Work::Constant);
        self
    }

    /// Begins the row of a data command.
    pub(super) const fn data(name: &'static str, arity: i8, exec: DataFn) -> CommandSpec {
        CommandSpec::new(name, arity, Exec::Data(exec))
    }

    /// Begins the row of a session command.
    pub(super) const fn session(name: &'static str, arity: i8, command: SessionCommand) -> CommandSpec {
        CommandSpec::new(name, arity, Exec::Session(command))
    }

    /// Begins the row of a container.
    pub(super) const fn container(name: &'static str, subs: &'static [CommandSpec]) -> CommandSpec {
        CommandSpec::new(name, -2, Exec::Container).args("subcommand [argument ...]").subs(subs)
    }

    pub(super) const fn args(mut self, args: &'static str) -> CommandSpec {
        self.args = args;
        self
    }

    pub(super) const fn flags(mut self, flags: &[Flag]) -> CommandSpec {
        self.flags = Flags::of(flags);
        self
    }

    pub(super) const fn keys(mut self, keys: Keys) -> CommandSpec {
        self.keys = keys;
        self
    }

    /// One key, the first argument, of which the other arguments say what is done with it.
    pub(super) const fn key_by(mut self, usage: fn(&Args<'_>) -> KeyUse) -> CommandSpec {
        (self.keys, self.usage_by) = (Keys::one(KeyUse::UpdateBySome), Some(usage));
        self
    }

    pub(super) const fn quick(mut self) -> CommandSpec {
        self.quick = true;
        self
    }

    pub(super) const fn moves(mut self) -> CommandSpec {
        self.moves = true;
        self
    }

    pub(super) const fn sliced(mut self) -> CommandSpec {
        self.work = Work::Sliced;
        self
    }

    pub(super) const fn tips(mut self, tips: &'static [&'static str]) -> CommandSpec {
        self.tips = tips;
        self
    }

    pub(super) const fn subs(mut self, subs: &'static [CommandSpec]) -> CommandSpec {
        self.subs = subs;
        self
    }

    /// Group, first version and summary; the group brings its category, unless the row is a container.
    pub(super) const fn doc(mut self, group: Group, since: &'static str, summary: &'static str) -> CommandSpec {
        (self.group, self.since, self.summary) = (group, since, summary);
        if !matches!(self.exec, Exec::Container) {
            self.acl = match group {
                Group::Generic => Categories::of(&[Category::Keyspace]),
                Group::String => Categories::of(&[Category::String]),
                Group::Bitmap => Categories::of(&[Category::Bitmap]),
                Group::Connection => Categories::of(&[Category::Connection]),
                Group::Transactions => Categories::of(&[Category::Transaction]),
                // That of PUBSUB follows from the flag.
                Group::Server | Group::Cluster | Group::Pubsub | Group::Sentinel => Categories::of(&[]),
            };
        }
        self
    }

    /// Replaces the categories that the group brought. After [`CommandSpec::doc`].
    pub(super) const fn acl(mut self, acl: &[Category]) -> CommandSpec {
        self.acl = Categories::of(acl);
        self
    }

    /// All its access control categories: its own and those that follow from its flags, as Redis derives them.
    #[must_use]
    pub fn categories(&self) -> Categories {
        let implied = [
            (Flag::Write, Category::Write),
            (Flag::Readonly, Category::Read),
            (Flag::Admin, Category::Admin),
            (Flag::Admin, Category::Dangerous),
            (Flag::Pubsub, Category::Pubsub),
            (Flag::Blocking, Category::Blocking),
        ];
        let pace = if self.flags.has(Flag::Fast) { Category::Fast } else { Category::Slow };
        let implied = implied.into_iter().filter(|&(flag, _)| self.flags.has(flag)).map(|(_, category)| category);
        implied.fold(self.acl.with(pace), Categories::with)
    }

    /// What a request does with its key number `i`, counted from 0.
    #[must_use]
    pub fn usage_of(&self, i: usize, args: &Args<'_>) -> KeyUse {
        match self.usage_by {
            Some(usage) => usage(args),
            None if i == 0 => self.keys.usage,
            None => self.keys.others,
        }
    }

    /// Whether it looks at keys, or changes them.
    #[must_use]
    pub fn is_on_keys(&self) -> bool {
        self.flags.has(Flag::Write) || self.flags.has(Flag::Readonly)
    }

    /// Whether that many arguments, the name included, may be given.
    #[must_use]
    pub fn accepts(&self, argc: usize) -> bool {
        let least = usize::from(self.arity.unsigned_abs());
        if self.arity > 0 { argc == least } else { argc >= least }
    }

    /// The last word of the name: `id` of `client|id`.
    #[must_use]
    pub fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, sub)| sub)
    }

    /// The subcommand of that name, in any letter case.
    #[must_use]
    pub fn sub(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subs.iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name))
    }
}
