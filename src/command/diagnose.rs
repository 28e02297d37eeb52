//! Commands that look at what the node does: the rows of SLOWLOG, LATENCY and MONITOR. The keeper executes them.

use crate::command::SessionCommand as Run;
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::spec::Flag::{self, Admin, Loading, Noscript, Stale};
use crate::command::spec::{CommandSpec, Group};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::container("slowlog", SLOWLOG).doc(
        Group::Server,
        "2.2.12",
        "A container for commands about slow commands.",
    ),
    CommandSpec::container("latency", LATENCY).doc(
        Group::Server,
        "2.8.13",
        "A container for commands about how long commands take.",
    ),
    CommandSpec::session("monitor", 1, Run::Monitor).flags(TIMES).doc(
        Group::Server,
        "1.0.0",
        "Shows this connection every command that the node executes.",
    ),
];

const SLOW: &[Flag] = &[Admin, Loading, Stale];
const TIMES: &[Flag] = &[Admin, Noscript, Loading, Stale];
const OF_ALL_NODES: &[&str] = &["request_policy:all_nodes", "nondeterministic_output"];
const SPECIAL: &[&str] = &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"];

const SLOWLOG: &[CommandSpec] = &[
    CommandSpec::session("slowlog|get", -2, Run::SlowlogGet).args("[count]").flags(SLOW).tips(OF_ALL_NODES).doc(
        Group::Server,
        "2.2.12",
        "Returns the latest slow commands of this node.",
    ),
    CommandSpec::session("slowlog|len", 2, Run::SlowlogLen)
        .flags(SLOW)
        .tips(&["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"])
        .doc(Group::Server, "2.2.12", "Returns how many slow commands are kept."),
    CommandSpec::session("slowlog|reset", 2, Run::SlowlogReset)
        .flags(SLOW)
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .doc(Group::Server, "2.2.12", "Forgets the slow commands."),
    CommandSpec::data("slowlog|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "6.2.0",
        "Returns the subcommands of SLOWLOG.",
    ),
];

const LATENCY: &[CommandSpec] = &[
    CommandSpec::session("latency|doctor", 2, Run::LatencyDoctor).flags(TIMES).tips(SPECIAL).doc(
        Group::Server,
        "2.8.13",
        "Returns what the spikes of latency look like, in words.",
    ),
    CommandSpec::session("latency|graph", 3, Run::LatencyGraph).args("event").flags(TIMES).tips(SPECIAL).doc(
        Group::Server,
        "2.8.13",
        "Returns a drawing of the spikes of an event.",
    ),
    CommandSpec::session("latency|histogram", -2, Run::LatencyHistogram)
        .args("[command [command ...]]")
        .flags(TIMES)
        .tips(SPECIAL)
        .doc(Group::Server, "7.0.0", "Returns how long commands took, as cumulative counts."),
    CommandSpec::session("latency|history", 3, Run::LatencyHistory).args("event").flags(TIMES).tips(SPECIAL).doc(
        Group::Server,
        "2.8.13",
        "Returns the spikes of an event.",
    ),
    CommandSpec::session("latency|latest", 2, Run::LatencyLatest).flags(TIMES).tips(SPECIAL).doc(
        Group::Server,
        "2.8.13",
        "Returns the latest spike of each event.",
    ),
    CommandSpec::session("latency|reset", -2, Run::LatencyReset)
        .args("[event [event ...]]")
        .flags(TIMES)
        .tips(&["request_policy:all_nodes", "response_policy:agg_sum"])
        .doc(Group::Server, "2.8.13", "Forgets the spikes of some events, or of all."),
    CommandSpec::data("latency|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "2.8.13",
        "Returns the subcommands of LATENCY.",
    ),
];
