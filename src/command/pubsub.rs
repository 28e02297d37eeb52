//! Publish and subscribe: the rows. The keeper executes them.
//!
//! A shard channel stands where other commands have a key, so that cluster clients find the node; with one shard, each node does.

use crate::command::SessionCommand as Run;
use crate::command::introspect::{HELP_FLAGS, help};
use crate::command::spec::Flag::{self, Fast, Loading, MayReplicate, Noscript, Pubsub, Stale};
use crate::command::spec::{CommandSpec, Group, KeyUse, Keys};

pub(super) const ROWS: &[CommandSpec] = &[
    CommandSpec::session("subscribe", -2, Run::Subscribe).args("channel [channel ...]").flags(LISTEN).doc(
        Group::Pubsub,
        "2.0.0",
        "Listens to what is published to channels.",
    ),
    CommandSpec::session("unsubscribe", -1, Run::Unsubscribe).args("[channel [channel ...]]").flags(LISTEN).doc(
        Group::Pubsub,
        "2.0.0",
        "Stops listening to channels, or to all.",
    ),
    CommandSpec::session("psubscribe", -2, Run::PSubscribe).args("pattern [pattern ...]").flags(LISTEN).doc(
        Group::Pubsub,
        "2.0.0",
        "Listens to what is published to channels that match patterns.",
    ),
    CommandSpec::session("punsubscribe", -1, Run::PUnsubscribe).args("[pattern [pattern ...]]").flags(LISTEN).doc(
        Group::Pubsub,
        "2.0.0",
        "Stops listening to patterns, or to all.",
    ),
    CommandSpec::session("ssubscribe", -2, Run::SSubscribe)
        .args("shardchannel [shardchannel ...]")
        .flags(LISTEN)
        .keys(Keys::all(1, KeyUse::NotKey))
        .doc(Group::Pubsub, "7.0.0", "Listens to what is published to shard channels."),
    CommandSpec::session("sunsubscribe", -1, Run::SUnsubscribe)
        .args("[shardchannel [shardchannel ...]]")
        .flags(LISTEN)
        .keys(Keys::all(1, KeyUse::NotKey))
        .doc(Group::Pubsub, "7.0.0", "Stops listening to shard channels, or to all."),
    CommandSpec::session("publish", 3, Run::Publish).args("channel message").flags(SPEAK).doc(
        Group::Pubsub,
        "2.0.0",
        "Sends a message to all who listen to a channel, at every node.",
    ),
    CommandSpec::session("spublish", 3, Run::SPublish)
        .args("shardchannel message")
        .flags(SPEAK)
        .keys(Keys::one(KeyUse::NotKey))
        .doc(Group::Pubsub, "7.0.0", "Sends a message to all who listen to a shard channel, at every node."),
    CommandSpec::container("pubsub", PUBSUB).doc(
        Group::Pubsub,
        "2.8.0",
        "A container for commands about channels and who listens.",
    ),
];

const LISTEN: &[Flag] = &[Pubsub, Noscript, Loading, Stale];
const SPEAK: &[Flag] = &[Pubsub, Loading, Stale, Fast, MayReplicate];
const ASK: &[Flag] = &[Pubsub, Loading, Stale];

const PUBSUB: &[CommandSpec] = &[
    CommandSpec::session("pubsub|channels", -2, Run::PubsubChannels).args("[pattern]").flags(ASK).doc(
        Group::Pubsub,
        "2.8.0",
        "Returns the channels that somebody listens to at this node.",
    ),
    CommandSpec::session("pubsub|numpat", 2, Run::PubsubNumPat).flags(ASK).doc(
        Group::Pubsub,
        "2.8.0",
        "Returns the number of patterns that somebody listens to at this node.",
    ),
    CommandSpec::session("pubsub|numsub", -2, Run::PubsubNumSub).args("[channel [channel ...]]").flags(ASK).doc(
        Group::Pubsub,
        "2.8.0",
        "Returns how many listen to each of these channels at this node.",
    ),
    CommandSpec::session("pubsub|shardchannels", -2, Run::PubsubShardChannels).args("[pattern]").flags(ASK).doc(
        Group::Pubsub,
        "7.0.0",
        "Returns the shard channels that somebody listens to at this node.",
    ),
    CommandSpec::session("pubsub|shardnumsub", -2, Run::PubsubShardNumSub)
        .args("[shardchannel [shardchannel ...]]")
        .flags(ASK)
        .doc(Group::Pubsub, "7.0.0", "Returns how many listen to each of these shard channels at this node."),
    CommandSpec::data("pubsub|help", 2, help).flags(HELP_FLAGS).doc(
        Group::Pubsub,
        "6.2.0",
        "Returns the subcommands of PUBSUB.",
    ),
];
