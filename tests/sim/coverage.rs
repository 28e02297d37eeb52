//! What a run has reached: a simulation that never comes to the hard places proves nothing.

use std::collections::BTreeMap;

/// What 200 seeds have to reach, beside every fault.
pub const REQUIRED: &[&str] = &[
    "acks: leader",
    "change lost",
    "client closed: nothing was acknowledged in time",
    "client lost patience",
    "client: requests overlap",
    "client: transaction that reads",
    "client: transaction that writes",
    "client: watched key counted up",
    "client: write of several keys",
    "client: write that expires",
    "clients closed",
    "command waited",
    "coordination: answer of a change lost",
    "coordination: back, all sessions expired",
    "coordination: end recorded",
    "coordination: late",
    "coordination: session expired",
    "coordination: session replaced",
    "coordination: stale read",
    "copy cannot be continued",
    "copy given up",
    "deaf link closed",
    "dial refused",
    "dial timed out",
    "leader stepped down",
    "learner waited for",
    "leave: left",
    "listener: cached value compared",
    "listener: message heard",
    "listener: read after a position",
    "listener: told that a key changed",
    "network: cut inside a piece",
    "network: half-open connection",
    "network: part of a frame arrived",
    "operator: SET-CONFIG begun",
    "outcome unknown",
    "read answered by a replica",
    "read bounded in age",
    "replies held",
    "reply: CLUSTERDOWN",
    "reply: EXECABORT",
    "reply: LOADING",
    "reply: MOVED",
    "reply: NOREPLICAS",
    "reply: TRYAGAIN",
    "reply: a watched key had changed",
    "resync: full begun",
    "resync: full complete",
    "resync: full interrupted",
    "resync: full overtaken by an election",
    "resync: partial with truncation",
    "resync: partial",
    "role: candidate -> joining",
    "role: candidate -> leader",
    "role: candidate -> leading",
    "role: candidate -> replica",
    "role: joining -> candidate",
    "role: joining -> replica",
    "role: joining -> syncing",
    "role: leader -> joining",
    "role: leader -> resigning",
    "role: leading -> leader",
    "role: replica -> candidate",
    "role: replica -> joining",
    "role: replica -> syncing",
    "role: resigning -> replica",
    "role: starting -> candidate",
    "role: starting -> joining",
    "role: syncing -> joining",
    "role: syncing -> replica",
    "set expanded",
    "set shrunk",
    "started over after total loss",
    "value went from key to key by name",
    "store of a follower compared",
    "writer waits for a slow reader",
];

/// What 2,000 seeds have to reach besides.
pub const REQUIRED_OF_MANY: &[&str] = &[
    "coordination: change of a dead process landed",
    "leave: kept for a copy that is filled",
    "operator: ADOPT",
    "operator: FORGET begun",
    "operator: RESET",
    "fallback copy stands",
    "role: leader -> replica",
    "role: leading -> joining",
    "role: syncing -> candidate",
];

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts several.
    pub fn add(&mut self, name: &str, n: u64) {
        match self.0.get_mut(name) {
            Some(count) => *count += n,
            None => drop(self.0.insert(name.to_string(), n)),
        }
    }

    /// Takes another run's counters in.
    pub fn merge(&mut self, other: &Coverage) {
        for (name, n) in &other.0 {
            self.add(name, *n);
        }
    }

    /// How often.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Those of `names` that were never reached.
    pub fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().filter(|n| self.of(n) == 0).copied().collect()
    }

    /// A table.
    pub fn report(&self) -> String {
        self.0.iter().map(|(name, n)| format!("{n:>10}  {name}\n")).collect()
    }
}
