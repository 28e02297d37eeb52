//! What clients ask a Sentinel: the rows. Each node answers for its own cluster, whose name is that of the master; the keeper executes them.
//!
//! Not here: what would change what a Sentinel watches (MONITOR, SET, REMOVE, RESET, FLUSHCONFIG); membership is the nodes' own.

use crate::command::SessionCommand as Run;
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::spec::Flag::{self, Admin, Loading, Stale};
use crate::command::spec::{CommandSpec, Group};

pub(super) const ROWS: &[CommandSpec] = &[CommandSpec::container("sentinel", SENTINEL).doc(
    Group::Sentinel,
    "2.8.4",
    "A container for what clients ask a Sentinel.",
)];

/// Who may ask where the leader is may ask while nothing else is answered.
const ASK: &[Flag] = &[Loading, Stale];

const SENTINEL: &[CommandSpec] = &[
    CommandSpec::session("sentinel|ckquorum", 3, Run::SentinelCkQuorum).args("master-name").flags(ASK).doc(
        Group::Sentinel,
        "2.8.4",
        "Says whether the leader could be replaced if it went.",
    ),
    CommandSpec::session("sentinel|failover", 3, Run::SentinelFailover)
        .args("master-name")
        .flags(&[Admin, Loading, Stale])
        .doc(Group::Sentinel, "2.8.4", "Hands the leadership over to a replica."),
    CommandSpec::session("sentinel|get-master-addr-by-name", 3, Run::SentinelGetMasterAddr)
        .args("master-name")
        .flags(ASK)
        .doc(Group::Sentinel, "2.8.4", "Returns the address of the leader."),
    CommandSpec::session("sentinel|is-master-down-by-addr", 6, Run::SentinelIsMasterDown)
        .args("ip port current-epoch runid")
        .flags(ASK)
        .doc(Group::Sentinel, "2.8.4", "Says whether the leader is down as this node sees it; votes for nobody."),
    CommandSpec::session("sentinel|master", 3, Run::SentinelMaster).args("master-name").flags(ASK).doc(
        Group::Sentinel,
        "2.8.4",
        "Describes the leader.",
    ),
    CommandSpec::session("sentinel|masters", 2, Run::SentinelMasters).flags(ASK).doc(
        Group::Sentinel,
        "2.8.4",
        "Describes the leaders: there is one.",
    ),
    CommandSpec::session("sentinel|myid", 2, Run::SentinelMyId).flags(ASK).doc(
        Group::Sentinel,
        "6.2.0",
        "Returns the id of this node.",
    ),
    CommandSpec::session("sentinel|replicas", 3, Run::SentinelReplicas).args("master-name").flags(ASK).doc(
        Group::Sentinel,
        "5.0.0",
        "Describes the replicas.",
    ),
    CommandSpec::session("sentinel|sentinels", 3, Run::SentinelSentinels).args("master-name").flags(ASK).doc(
        Group::Sentinel,
        "2.8.4",
        "Describes the other nodes as Sentinels, for each answers as one.",
    ),
    CommandSpec::session("sentinel|slaves", 3, Run::SentinelReplicas).args("master-name").flags(ASK).doc(
        Group::Sentinel,
        "2.8.4",
        "Describes the replicas: the old name of SENTINEL REPLICAS.",
    ),
    CommandSpec::data("sentinel|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Sentinel,
        "6.2.0",
        "Returns the subcommands of SENTINEL.",
    ),
];
