//! CONFIG GET: this node's parameters under the names that Redis clients ask for, and under those of our own file.
//!
//! What Redis can do and this server does not is answered with the value that says so (`save` is empty, `appendonly` is `no`).
//! Passwords and secrets are never shown. Not here: CONFIG SET; settings shared by the cluster are changed for all nodes at once.

use std::collections::BTreeMap;

use crate::base::limits::{BULK_BYTES_MAX, CLIENTS_MAX};
use crate::cluster::config::TotalLoss;
use crate::cluster::state::MinInSync;
use crate::command::glob_matches;
use crate::keeper::{Acks, Keeper, ReadMode};
use crate::resp::{Args, Reply};

use super::{Answer, Flow};

/// Parameters of Redis that never change here.
const FIXED: &[(&str, &str)] = &[
    ("appendonly", "no"),
    ("cluster-enabled", "yes"),
    ("cluster-require-full-coverage", "yes"),
    ("databases", "1"),
    ("latency-monitor-threshold", "0"),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", ""),
    ("replica-read-only", "yes"),
    ("replica-serve-stale-data", "yes"),
    ("save", ""),
    ("slave-read-only", "yes"),
    ("slave-serve-stale-data", "yes"),
    ("slowlog-log-slower-than", "-1"),
    ("slowlog-max-len", "0"),
    ("timeout", "0"),
];

impl Keeper {
    pub(super) fn config_get(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let patterns: Vec<Vec<u8>> = args.tail(2).iter().map(<[u8]>::to_ascii_lowercase).collect();
        let mut found = self.parameters();
        found.retain(|name, _| patterns.iter().any(|pattern| glob_matches(pattern, name.as_bytes())));
        reply.map(found.len());
        for (name, value) in found {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        Ok(Flow::Done)
    }

    fn parameters(&self) -> BTreeMap<&str, String> {
        let (config, shared) = (&self.config, &self.shared);
        let mut all: BTreeMap<&str, String> = FIXED.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
        all.extend([
            ("maxclients", CLIENTS_MAX.to_string()),
            ("maxmemory", config.max_memory.to_string()),
            ("proto-max-bulk-len", BULK_BYTES_MAX.to_string()),
            ("repl-backlog-size", config.backlog_bytes.to_string()),
            ("node_name", config.node.to_string()),
            ("cluster", config.cluster.clone()),
            ("advertise", config.client_addr.clone()),
            ("replication.advertise", config.repl_addr.clone()),
            ("replication.acks", acks(config.acks).to_string()),
            ("replication.read_mode", read_mode(config.read_mode).to_string()),
            ("replication.min_in_sync", min_in_sync(shared.min_in_sync)),
            ("replication.heartbeat_ms", shared.heartbeat_ms.to_string()),
            ("replication.suspect_ms", shared.suspect_ms.to_string()),
            ("replication.lease_ms", shared.lease_ms.to_string()),
            ("replication.promise_ms", shared.promise_ms.to_string()),
            ("replication.backlog_bytes", config.backlog_bytes.to_string()),
            ("total_loss", total_loss(shared.total_loss).to_string()),
        ]);
        all.extend(config.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())));
        all
    }
}

/// As the configuration spells it.
pub(super) fn acks(acks: Acks) -> &'static str {
    match acks {
        Acks::InSync => "in_sync",
        Acks::Leader => "leader",
    }
}

/// As the configuration spells it.
pub(super) fn read_mode(mode: ReadMode) -> &'static str {
    match mode {
        ReadMode::Lease => "lease",
        ReadMode::Confirm => "confirm",
        ReadMode::Local => "local",
    }
}

/// As the configuration spells it.
pub(super) fn min_in_sync(min: MinInSync) -> String {
    match min {
        MinInSync::Auto => "auto".to_string(),
        MinInSync::Count(n) => n.to_string(),
    }
}

fn total_loss(policy: TotalLoss) -> &'static str {
    match policy {
        TotalLoss::StartEmpty => "start_empty",
        TotalLoss::Halt => "halt",
    }
}
