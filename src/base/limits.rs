//! Every bound in one place, with what happens when it is reached.

use super::ids::Offset;

/// Longest bulk string a client may send, in bytes (512 MiB, as in Redis). Beyond: protocol error, connection closed.
pub const BULK_BYTES_MAX: usize = 512 << 20;
/// Longest value that commands may build, in bytes. Beyond: `-ERR string exceeds maximum allowed size (proto-max-bulk-len)`.
pub const VALUE_BYTES_MAX: usize = BULK_BYTES_MAX;
/// Most arguments in one command. Beyond: protocol error, connection closed.
pub const ARGS_MAX: usize = 1 << 20;
/// Most bytes of arguments in one command, so that an entry stays transferable. Beyond: protocol error, connection closed.
pub const COMMAND_BYTES_MAX: usize = 1 << 30;
/// Longest inline command, in bytes. Beyond: protocol error, connection closed.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// The same three before AUTH succeeded, when a password is set.
pub const BULK_BYTES_MAX_BEFORE_AUTH: usize = 16 << 10;
/// Most arguments before AUTH.
pub const ARGS_MAX_BEFORE_AUTH: usize = 10;
/// A bulk at or above this many bytes is read into a buffer of its own, which its entry, the log and replies then share.
pub const BIG_BULK_BYTES: usize = 64 << 10;
/// An argument of at least so many bytes is copied once when it becomes a value, and entry and log share the copy. Below, each has its own: a shared
/// one takes a block of the log to itself.
pub const OWN_VALUE_BYTES: usize = 8 << 10;
/// Commands whose buckets are touched ahead of execution, per group (PERFORMANCE: 32 beats 8).
pub const PREFETCH_GROUP: usize = 32;
/// Bytes read from a client per wake.
pub const READ_BYTES_PER_WAKE: usize = 64 << 10;
/// Most arguments of all commands of a transaction together, so that EXEC holds the lock for a second or so: more than a million of SET, since that is
/// what libraries make of a pipeline. Beyond: an error, and EXEC executes nothing.
pub const TRANSACTION_ARGS_MAX: usize = 4 * ARGS_MAX;
/// Most bytes of these arguments, and of the effects that EXEC has when it begins its next command. Beyond: an error, at the
/// latter in place of that command.
pub const TRANSACTION_BYTES_MAX: usize = COMMAND_BYTES_MAX;
/// Most keys that one connection may watch. Beyond: an error.
pub const WATCHED_KEYS_MAX: usize = 64 << 10;
/// Payload of one replication frame at most, in bytes; longer messages go in parts. A link on which no frame is completed within
/// two promise periods counts as dead unless pulses are heard, so this over that time is the slowest link that works (64 KiB/s with the defaults).
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// Header allowance on top of a frame's payload: what the length-delimited reader accepts at most.
pub const FRAME_HEADER_BYTES_MAX: usize = 256;
/// A message that arrives in parts: at most this many bytes altogether. Beyond: the link is closed.
pub const MESSAGE_BYTES_MAX: usize = TRANSACTION_BYTES_MAX + VALUE_BYTES_MAX + (64 << 20);
/// Bytes put on one link per turn of its writer, so that the lock is held briefly.
pub const LINK_BYTES_PER_TURN: usize = 1 << 20;
/// A link on which nothing comes for so long is closed although the pulses of the other side are heard, ms. Beside that, a node whose lock is held is
/// not deaf: its pulses go on for as long. The kernel, too, gives a connection up by then.
pub const LINK_SILENT_MS: u64 = 5_000;
/// Whoever opened a link has this long to say hello, ms. Then the link is closed.
pub const HELLO_MS: u64 = 5_000;
/// Open links on which no hello was said yet. Beyond: the one that waits longest is closed for the newest.
pub const STRANGERS_MAX: usize = 64;
/// Highest offset that a peer may speak of; no log gets there. Beyond: the link is closed.
pub const OFFSET_MAX: Offset = Offset(1 << 62);
/// Epochs remembered in the epoch table; a peer that is further behind resyncs fully.
pub const EPOCHS_MAX: usize = 1_000;
/// How long a command waits for an election, a lease or an acknowledgement before a definite error or a close, in ms.
pub const HOLD_MS: u64 = 1_000;
/// Client connections of one node at most, and fewer if the process may not open so many files. Beyond: `-ERR max number of clients reached`,
/// and the connection is closed.
pub const CLIENTS_MAX: usize = 10_000;
/// With room for fewer clients than this a node does not start.
pub const CLIENTS_MIN: usize = 32;
/// Open files that clients leave to a node: its listeners and threads, links and pulses, ZooKeeper, operators, and clients that are turned away.
pub const FILES_KEPT: usize = 100;
/// Connections to the operators' address. Beyond: the oldest is closed for the newest.
pub const OPERATORS_MAX: usize = 16;
/// Log that a node keeps which has never had company, in bytes: whoever joins it gets a full copy. So little of it is in the processor's cache
/// when it is written again.
pub const LONE_BACKLOG_BYTES: usize = 1 << 20;
/// Reply bytes that may wait for one client that reads before the node stops reading its commands.
pub const OUTPUT_BYTES_PAUSE: usize = 1 << 20;
/// A client for whom so much waits and who takes nothing of it for this long, ms, does not read: what it sends is read and executed all the same, and
/// replies pile up.
pub const STALLED_MS: u64 = 20;
/// Reply bytes that may pile up for one client unless CONFIG SET `client-output-buffer-limit` says otherwise. Beyond: it is closed.
pub const PILE_BYTES_MAX: u64 = 2 << 30;
/// The same for all clients together (`maxmemory-clients`). Beyond: the one with most is closed.
pub const PILES_BYTES_MAX: u64 = 4 << 30;
/// In steps of this the Keeper is told how much waits for a client.
pub const PILE_STEP_BYTES: usize = 256 << 10;
/// Bytes of the log that wait for whoever reads it. Beyond: lines are dropped, counted and told.
pub const LOG_BYTES_MAX: usize = 1 << 20;
/// Commands that the slow log may be told to keep.
pub const SLOWLOG_LEN_MAX: usize = 1 << 20;
/// Arguments of a command that the slow log keeps: Redis's `SLOWLOG_ENTRY_MAX_ARGC`. The last says how many more there were.
pub const SLOW_ARGS_MAX: usize = 32;
/// Bytes of an argument that it keeps: Redis's `SLOWLOG_ENTRY_MAX_STRING`.
pub const SLOW_ARG_BYTES_MAX: usize = 128;
/// Bytes of an argument that MONITOR shows.
pub const MONITORED_ARG_BYTES_MAX: usize = 64 << 10;
/// Published bytes that may wait for one subscriber before it is closed: Redis's `client-output-buffer-limit pubsub 32mb 8mb 60`.
pub const PUSHED_BYTES_MAX: usize = 32 << 20;
/// The same, if so many wait for [`PUSHED_SLOW_MS`].
pub const PUSHED_BYTES_SLOW: usize = 8 << 20;
/// See [`PUSHED_BYTES_SLOW`].
pub const PUSHED_SLOW_MS: u64 = 60_000;
/// Channels and patterns that one connection may listen to. Beyond: an error.
pub const SUBSCRIPTIONS_MAX: usize = 64 << 10;
/// Bytes of their names. Beyond: an error.
pub const SUBSCRIPTION_BYTES_MAX: usize = 64 << 20;
/// Published bytes that may wait for one link, or for the acknowledgement of what was written before. A message that finds more waiting is
/// dropped and counted.
pub const PUBLISHED_BYTES_MAX: usize = 16 << 20;
/// Of [`LINK_BYTES_PER_TURN`], what published messages take at most: they never stand in the log's way.
pub const PUBLISHED_BYTES_PER_TURN: usize = LINK_BYTES_PER_TURN / 4;

const _: () = assert!(BIG_BULK_BYTES <= FRAME_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX >= BULK_BYTES_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX > COMMAND_BYTES_MAX && MESSAGE_BYTES_MAX < u32::MAX as usize);
/// A member whose connection closed has this long to return before it is taken out of the in-sync set, ms.
pub const RETURN_MS: u64 = 20;
/// A member whose oldest unacknowledged entry was sent this long ago is slow and is taken out, ms.
pub const SLOW_MS: u64 = 1_000;
/// A member that lags by more than this behind another one for [`SLOW_MS`] is outrun by the load and is taken out; before, the load is held
/// back for it, see [`UNACKED_BYTES_MAX`].
pub const OUTRUN_BYTES: usize = UNACKED_BYTES_MAX / 2;
/// An entry of this size and more may take long to travel: who waits for it is not outrun.
pub const LONG_WAY_BYTES: usize = 8 << 20;
/// Added to the promise before a leader that lost most of its members takes them all out (the bigger side wins the race), ms.
pub const MOST_LOST_EXTRA_MS: u64 = 200;
/// Candidates stand this far apart, by rank, ms.
pub const RANK_STEP_MS: u64 = 40;
/// A learner that lags by more bytes than this is not taken in.
pub const LEARNER_LAG_BYTES: usize = 1 << 20;
/// How long a learner that is about to be taken in may hold acknowledgements back, ms.
pub const ADMIT_MS: u64 = 100;
/// Pause after a learner could not be taken in within [`ADMIT_MS`], before the next attempt, ms.
pub const ADMIT_PAUSE_MS: u64 = 1_000;
/// A node that the load has outrun is filled again after this long, ms; doubles each time until it is in sync, up to
/// [`REFILL_MS_MAX`]: a load that is too much for it is not made worse by its attempts.
pub const REFILL_MS: u64 = 1_000;
/// Longest pause between two such attempts, ms.
pub const REFILL_MS_MAX: u64 = 60_000;
/// A node that was told to end and holds the only copy of a cluster that had more waits so long for somebody to be filled, ms: the node that was
/// restarted just before.
pub const LAST_COPY_MS: u64 = 2_000;
/// A wall clock that is farther than this from another one is wrong, or one of the two is, ms: it is told, and the node is the last to be handed the
/// leadership.
pub const CLOCK_FAR_MS: u64 = 1_000;
/// Below this the clock for expiry and the wall clock count as the same, ms, so that what EXPIREAT was given is what EXPIRETIME tells.
pub const CLOCK_NEAR_MS: u64 = 20;
/// How long a leader that hands over waits for everything to be acknowledged before it gives that up and goes on, ms.
pub const HANDOVER_MS: u64 = 500;
/// A leader that handed over because its process ends closes idle clients; least and most time until then, ms. Elsewhere those who go on
/// asking the old leader are closed after the least.
pub const CLOSE_IDLE_MS: (u64, u64) = (1_000, 5_000);
/// Unacknowledged log beyond this many bytes makes the leader hold further commands, so that its memory stays bounded.
pub const UNACKED_BYTES_MAX: usize = 64 << 20;
/// Bytes of log applied in one hold of the lock.
pub const APPLY_BYTES_PER_TURN: usize = 1 << 20;
