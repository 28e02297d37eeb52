//! Commands about a connection, a role or the cluster: their rows. The keeper executes them.

use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::keyspace::{COUNTKEYSINSLOT, GETKEYSINSLOT};
use crate::command::spec::Category::{self, Connection, Dangerous};
use crate::command::spec::Flag::{
    self, Admin, AllowBusy, Blocking, Fast, Loading, NoAsyncLoading, NoAuth, NoMulti, Noscript, Stale,
};
use crate::command::spec::{CommandSpec, Group};

/// What the keeper executes. Arguments are checked in number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    AdminAdopt,
    AdminForget,
    AdminLowerPeak,
    AdminRaiseVersion,
    AdminReset,
    AdminSetConfig,
    Asking,
    Auth,
    ClientCapa,
    ClientCaching,
    ClientGetName,
    ClientGetRedir,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    ClientTracking,
    ClientTrackingInfo,
    ClientUnblock,
    ClientUnpause,
    ClusterFailover,
    ClusterInfo,
    ClusterKeySlot,
    ClusterLinks,
    ClusterMyId,
    ClusterMyShardId,
    ClusterNodes,
    /// CLUSTER REPLICAS and CLUSTER SLAVES.
    ClusterReplicas,
    ClusterShards,
    ClusterSlots,
    ConfigGet,
    ConfigResetStat,
    ConfigRewrite,
    ConfigSet,
    DataKeeperAfter,
    DataKeeperHandover,
    DataKeeperHolders,
    DataKeeperPosition,
    DataKeeperStatus,
    DebugSetActiveExpire,
    DebugSleep,
    Discard,
    Exec,
    Failover,
    Hello,
    Info,
    LatencyDoctor,
    LatencyGraph,
    LatencyHistogram,
    LatencyHistory,
    LatencyLatest,
    LatencyReset,
    MemoryDoctor,
    MemoryStats,
    Monitor,
    Multi,
    PSubscribe,
    PUnsubscribe,
    Ping,
    Publish,
    PubsubChannels,
    PubsubNumPat,
    PubsubNumSub,
    PubsubShardChannels,
    PubsubShardNumSub,
    Quit,
    Readonly,
    Readwrite,
    Reset,
    ReplicaOf,
    Role,
    SPublish,
    SSubscribe,
    SUnsubscribe,
    Select,
    SentinelCkQuorum,
    SentinelFailover,
    SentinelGetMasterAddr,
    SentinelIsMasterDown,
    SentinelMaster,
    SentinelMasters,
    SentinelMyId,
    /// SENTINEL REPLICAS and SENTINEL SLAVES.
    SentinelReplicas,
    SentinelSentinels,
    Shutdown,
    SlowlogGet,
    SlowlogLen,
    SlowlogReset,
    Subscribe,
    Unsubscribe,
    Unwatch,
    Wait,
    Watch,
}

impl SessionCommand {
    /// Whether it is answered by messages, one for each name, as if they had been published.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        use SessionCommand::{PSubscribe, PUnsubscribe, SSubscribe, SUnsubscribe, Subscribe, Unsubscribe};
        matches!(self, Subscribe | Unsubscribe | PSubscribe | PUnsubscribe | SSubscribe | SUnsubscribe)
    }
}

use SessionCommand as Run;

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::session("ping", -1, Run::Ping)
        .args("[message]")
        .flags(&[Fast])
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .doc(Group::Connection, "1.0.0", "Returns PONG, or the given string."),
    CommandSpec::session("hello", -1, Run::Hello)
        .args("[protocol-version [AUTH username password] [SETNAME client-name]]")
        .flags(HANDSHAKE)
        .doc(
            Group::Connection,
            "6.0.0",
            "Changes the protocol, authenticates and names the connection, describes the server.",
        ),
    CommandSpec::session("auth", -2, Run::Auth).args("[username] password").flags(HANDSHAKE).doc(
        Group::Connection,
        "1.0.0",
        "Authenticates the connection.",
    ),
    CommandSpec::session("select", 2, Run::Select).args("index").flags(&[Loading, Stale, Fast]).doc(
        Group::Connection,
        "1.0.0",
        "Selects a database: 0 is the only one.",
    ),
    CommandSpec::session("quit", -1, Run::Quit).args("[ignored ...]").flags(HANDSHAKE).doc(
        Group::Connection,
        "1.0.0",
        "Closes the connection after the replies that are due.",
    ),
    CommandSpec::session("reset", 1, Run::Reset).flags(HANDSHAKE).doc(
        Group::Connection,
        "6.2.0",
        "Makes the connection as if it were new.",
    ),
    CommandSpec::container("client", CLIENT).doc(
        Group::Connection,
        "2.4.0",
        "A container for commands about connections.",
    ),
    CommandSpec::container("config", CONFIG).doc(Group::Server, "2.0.0", "A container for commands about parameters."),
    CommandSpec::session("info", -1, Run::Info)
        .args("[section ...]")
        .flags(&[Loading, Stale])
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .doc(Group::Server, "1.0.0", "Returns the state of the server as text.")
        .acl(&[Dangerous]),
    CommandSpec::session("failover", -1, Run::Failover)
        .args("[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]")
        .flags(&[Admin, Noscript, Stale, NoMulti])
        .doc(Group::Server, "6.2.0", "Hands the leadership over to a replica."),
    CommandSpec::session("replicaof", 3, Run::ReplicaOf).args("NO ONE").flags(REPLICA_OF).doc(
        Group::Server,
        "5.0.0",
        "With NO ONE, asks the leader to hand over to this node; with a host and a port it is refused.",
    ),
    CommandSpec::session("slaveof", 3, Run::ReplicaOf).args("NO ONE").flags(REPLICA_OF).doc(
        Group::Server,
        "1.0.0",
        "The old name of REPLICAOF.",
    ),
    CommandSpec::session("role", 1, Run::Role)
        .flags(&[Noscript, Loading, Stale, Fast])
        .doc(Group::Server, "2.8.12", "Returns the role of the node in replication.")
        .acl(&[Category::Admin, Dangerous]),
    CommandSpec::session("wait", 3, Run::Wait)
        .args("replicas timeout-ms")
        .flags(&[Blocking])
        .tips(&["request_policy:all_shards", "response_policy:agg_min"])
        .doc(Group::Generic, "3.0.0", "Waits until replicas have confirmed the writes of this connection.")
        .acl(&[Connection]),
    CommandSpec::session("readonly", 1, Run::Readonly)
        .flags(&[Loading, Stale, Fast])
        .doc(Group::Cluster, "3.0.0", "Allows this connection to read from a replica.")
        .acl(&[Connection]),
    CommandSpec::session("readwrite", 1, Run::Readwrite)
        .flags(&[Loading, Stale, Fast])
        .doc(Group::Cluster, "3.0.0", "Takes READONLY back.")
        .acl(&[Connection]),
    CommandSpec::session("asking", 1, Run::Asking)
        .flags(&[Fast])
        .doc(Group::Cluster, "3.0.0", "Accepted from clients that follow an ASK, which we never send.")
        .acl(&[Connection]),
    CommandSpec::container("cluster", CLUSTER).doc(
        Group::Cluster,
        "3.0.0",
        "A container for commands about the cluster.",
    ),
    CommandSpec::container("datakeeper", DATAKEEPER).doc(
        Group::Server,
        "0.1.0",
        "A container for commands of DataKeeper alone.",
    ),
];

/// Flags of what may come before everything else.
const HANDSHAKE: &[Flag] = &[Noscript, Loading, Stale, Fast, NoAuth, AllowBusy];
const CONNECTION: &[Flag] = &[Noscript, Loading, Stale];
const OPERATOR: &[Flag] = &[Admin, Noscript, Loading, Stale];
/// What may change the role of this node, or waits for that: between two commands, never within a transaction.
const ROLES: &[Flag] = &[Admin, Noscript, Loading, Stale, NoMulti];
/// What an external Sentinel sends inside MULTI.
const REPLICA_OF: &[Flag] = &[Admin, NoAsyncLoading, Noscript, Stale];
const ALL_NODES: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];
const NONDETERMINISTIC: &[&str] = &["nondeterministic_output"];

const CLIENT: &[CommandSpec] = &[
    CommandSpec::session("client|capa", -3, Run::ClientCapa).args("capability [capability ...]").flags(CONNECTION).doc(
        Group::Connection,
        "8.0.0",
        "Says what the client can do: with REDIRECT, it is told the leader in Valkey's words.",
    ),
    CommandSpec::session("client|caching", 3, Run::ClientCaching).args("YES | NO").flags(CONNECTION).doc(
        Group::Connection,
        "6.0.0",
        "Says whether the keys of the next command are tracked.",
    ),
    CommandSpec::session("client|getname", 2, Run::ClientGetName).flags(CONNECTION).doc(
        Group::Connection,
        "2.6.9",
        "Returns the name of the connection.",
    ),
    CommandSpec::session("client|getredir", 2, Run::ClientGetRedir).flags(CONNECTION).doc(
        Group::Connection,
        "6.0.0",
        "Returns the number of the connection that is told in place of this one what became invalid.",
    ),
    CommandSpec::session("client|id", 2, Run::ClientId).flags(CONNECTION).doc(
        Group::Connection,
        "5.0.0",
        "Returns the number of the connection, unique in this process.",
    ),
    CommandSpec::session("client|info", 2, Run::ClientInfo).flags(CONNECTION).tips(NONDETERMINISTIC).doc(
        Group::Connection,
        "6.2.0",
        "Returns what CLIENT LIST says of this connection.",
    ),
    CommandSpec::session("client|kill", -3, Run::ClientKill)
        .args("address | [ID id] [TYPE type] [USER user] [ADDR address] [LADDR address] [SKIPME YES | NO]")
        .flags(OPERATOR)
        .doc(Group::Connection, "2.4.0", "Closes connections."),
    CommandSpec::session("client|list", -2, Run::ClientList)
        .args("[TYPE NORMAL | MASTER | REPLICA | PUBSUB] [ID id [id ...]]")
        .flags(OPERATOR)
        .tips(NONDETERMINISTIC)
        .doc(Group::Connection, "2.4.0", "Lists the open connections."),
    CommandSpec::session("client|no-evict", 3, Run::ClientNoEvict).args("ON | OFF").flags(OPERATOR).doc(
        Group::Connection,
        "7.0.0",
        "Exempts the connection from eviction.",
    ),
    CommandSpec::session("client|no-touch", 3, Run::ClientNoTouch).args("ON | OFF").flags(CONNECTION).doc(
        Group::Connection,
        "7.2.0",
        "Lets the connection's commands leave the keys' time of access alone.",
    ),
    CommandSpec::session("client|pause", -3, Run::ClientPause).args("milliseconds [WRITE | ALL]").flags(OPERATOR).doc(
        Group::Connection,
        "3.0.0",
        "Holds the commands of all connections for a while, or what writes.",
    ),
    CommandSpec::session("client|reply", 3, Run::ClientReply)
        .args("ON | OFF | SKIP")
        .flags(&[Noscript, Loading, Stale, NoMulti])
        .doc(Group::Connection, "3.2.0", "Says whether the connection gets replies."),
    CommandSpec::session("client|setinfo", 4, Run::ClientSetInfo)
        .args("LIB-NAME name | LIB-VER version")
        .flags(CONNECTION)
        .tips(ALL_NODES)
        .doc(Group::Connection, "7.2.0", "Sets the name or version of the client's library."),
    CommandSpec::session("client|setname", 3, Run::ClientSetName).args("name").flags(CONNECTION).tips(ALL_NODES).doc(
        Group::Connection,
        "2.6.9",
        "Sets the name of the connection.",
    ),
    CommandSpec::session("client|tracking", -3, Run::ClientTracking)
        .args("ON | OFF [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]")
        .flags(CONNECTION)
        .doc(Group::Connection, "6.0.0", "Tells this connection which of the keys that it has read became invalid."),
    CommandSpec::session("client|trackinginfo", 2, Run::ClientTrackingInfo).flags(CONNECTION).doc(
        Group::Connection,
        "6.2.0",
        "Returns how keys are tracked for the connection.",
    ),
    CommandSpec::session("client|unblock", -3, Run::ClientUnblock)
        .args("client-id [TIMEOUT | ERROR]")
        .flags(OPERATOR)
        .doc(Group::Connection, "5.0.0", "Ends the WAIT of another connection."),
    CommandSpec::session("client|unpause", 2, Run::ClientUnpause).flags(OPERATOR).doc(
        Group::Connection,
        "6.2.0",
        "Ends CLIENT PAUSE.",
    ),
    CommandSpec::data("client|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Connection,
        "5.0.0",
        "Returns the subcommands of CLIENT.",
    ),
];

const CONFIG: &[CommandSpec] = &[
    CommandSpec::session("config|get", -3, Run::ConfigGet).args("parameter [parameter ...]").flags(OPERATOR).doc(
        Group::Server,
        "2.0.0",
        "Returns the parameters that match a pattern.",
    ),
    CommandSpec::session("config|resetstat", 2, Run::ConfigResetStat).flags(OPERATOR).tips(ALL_NODES).doc(
        Group::Server,
        "2.0.0",
        "Lets INFO's counters begin anew.",
    ),
    CommandSpec::session("config|rewrite", 2, Run::ConfigRewrite).flags(OPERATOR).tips(ALL_NODES).doc(
        Group::Server,
        "2.8.0",
        "Writes what CONFIG SET changed into the configuration file.",
    ),
    CommandSpec::session("config|set", -4, Run::ConfigSet)
        .args("parameter value [parameter value ...]")
        .flags(OPERATOR)
        .tips(ALL_NODES)
        .doc(Group::Server, "2.0.0", "Changes parameters while the node runs."),
    CommandSpec::data("config|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "5.0.0",
        "Returns the subcommands of CONFIG.",
    ),
];

const CLUSTER: &[CommandSpec] =
    &[
        COUNTKEYSINSLOT,
        GETKEYSINSLOT,
        CommandSpec::session("cluster|failover", -2, Run::ClusterFailover)
            .args("[FORCE | TAKEOVER]")
            .flags(&[Admin, Stale, NoAsyncLoading])
            .doc(Group::Cluster, "3.0.0", "Asks the leader to hand over to this replica."),
        CommandSpec::session("cluster|info", 2, Run::ClusterInfo).flags(&[Stale]).tips(NONDETERMINISTIC).doc(
            Group::Cluster,
            "3.0.0",
            "Returns the state of the cluster as text.",
        ),
        CommandSpec::session("cluster|keyslot", 3, Run::ClusterKeySlot).args("key").flags(&[Stale]).doc(
            Group::Cluster,
            "3.0.0",
            "Returns the slot of a key.",
        ),
        CommandSpec::session("cluster|links", 2, Run::ClusterLinks).flags(&[Stale]).tips(NONDETERMINISTIC).doc(
            Group::Cluster,
            "7.0.0",
            "Lists the links to other nodes.",
        ),
        CommandSpec::session("cluster|myid", 2, Run::ClusterMyId).flags(&[Stale]).doc(
            Group::Cluster,
            "3.0.0",
            "Returns the id of this node.",
        ),
        CommandSpec::session("cluster|myshardid", 2, Run::ClusterMyShardId).flags(&[Stale]).tips(NONDETERMINISTIC).doc(
            Group::Cluster,
            "7.2.0",
            "Returns the id of the shard of this node.",
        ),
        CommandSpec::session("cluster|nodes", 2, Run::ClusterNodes).flags(&[Stale]).tips(NONDETERMINISTIC).doc(
            Group::Cluster,
            "3.0.0",
            "Returns the nodes of the cluster as text.",
        ),
        CommandSpec::session("cluster|replicas", 3, Run::ClusterReplicas)
            .args("node-id")
            .flags(&[Admin, Stale])
            .tips(NONDETERMINISTIC)
            .doc(Group::Cluster, "5.0.0", "Lists the replicas of a leader."),
        CommandSpec::session("cluster|shards", 2, Run::ClusterShards)
            .flags(&[Loading, Stale])
            .tips(NONDETERMINISTIC)
            .doc(Group::Cluster, "7.0.0", "Returns the shards with their slots and nodes."),
        CommandSpec::session("cluster|slaves", 3, Run::ClusterReplicas)
            .args("node-id")
            .flags(&[Admin, Stale])
            .tips(NONDETERMINISTIC)
            .doc(Group::Cluster, "3.0.0", "Lists the replicas of a leader: the old name of CLUSTER REPLICAS."),
        CommandSpec::session("cluster|slots", 2, Run::ClusterSlots)
            .flags(&[Loading, Stale])
            .tips(NONDETERMINISTIC)
            .doc(Group::Cluster, "3.0.0", "Returns the slots with the nodes that serve them."),
        CommandSpec::data("cluster|help", 2, help).flags(HELP_FLAGS).doc(
            Group::Cluster,
            "5.0.0",
            "Returns the subcommands of CLUSTER.",
        ),
    ];

const DATAKEEPER: &[CommandSpec] = &[
    CommandSpec::session("datakeeper|after", 3, Run::DataKeeperAfter)
        .args("position")
        .flags(&[Loading, Stale, Fast])
        .doc(Group::Server, "0.1.0", "Lets later reads of the connection wait until they show a position."),
    CommandSpec::session("datakeeper|holders", 3, Run::DataKeeperHolders)
        .args("position")
        .flags(&[Loading, Stale, Fast])
        .doc(Group::Server, "0.1.0", "Returns how many replicas hold the history up to a position."),
    CommandSpec::session("datakeeper|position", -2, Run::DataKeeperPosition)
        .args("[WRITE | READ]")
        .flags(&[Loading, Stale, Fast])
        .doc(
            Group::Server,
            "0.1.0",
            "Returns the position of the connection's last write, or the one up to which its reads show the history.",
        ),
    CommandSpec::session("datakeeper|handover", -2, Run::DataKeeperHandover).args("[TO node]").flags(ROLES).doc(
        Group::Server,
        "0.1.0",
        "Hands the leadership over to another member of the in-sync set.",
    ),
    CommandSpec::session("datakeeper|status", 2, Run::DataKeeperStatus).flags(&[Loading, Stale, Fast]).doc(
        Group::Server,
        "0.1.0",
        "Returns the cluster as this node sees it.",
    ),
    CommandSpec::session("datakeeper|reset", 4, Run::AdminReset).args("CONFIRM cluster").flags(ROLES).doc(
        Group::Server,
        "0.1.0",
        "Starts the cluster over empty at this node.",
    ),
    CommandSpec::session("datakeeper|adopt", 5, Run::AdminAdopt).args("node CONFIRM cluster").flags(ROLES).doc(
        Group::Server,
        "0.1.0",
        "Lets the cluster go on with what this node holds.",
    ),
    CommandSpec::session("datakeeper|forget", 5, Run::AdminForget).args("node CONFIRM cluster").flags(ROLES).doc(
        Group::Server,
        "0.1.0",
        "Waits no longer for what a lost node held.",
    ),
    CommandSpec::session("datakeeper|lower-peak", 5, Run::AdminLowerPeak)
        .args("size CONFIRM cluster")
        .flags(ROLES)
        .doc(Group::Server, "0.1.0", "Makes the cluster smaller for good."),
    CommandSpec::session("datakeeper|raise-version", 4, Run::AdminRaiseVersion)
        .args("CONFIRM cluster")
        .flags(ROLES)
        .doc(Group::Server, "0.1.0", "Lets the cluster use what the next version of the program knows."),
    CommandSpec::session("datakeeper|set-config", -6, Run::AdminSetConfig)
        .args("key value [key value ...] CONFIRM cluster")
        .flags(ROLES)
        .doc(Group::Server, "0.1.0", "Changes settings of the whole cluster."),
    CommandSpec::data("datakeeper|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Server,
        "0.1.0",
        "Returns the subcommands of DATAKEEPER.",
    ),
];
