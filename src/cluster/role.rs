//! The states of a node (PROTOCOL section 3).

use std::fmt;

/// What a node is at this moment; decides what it serves.
///
/// ```text
///            /state absent, bootstrap allowed
///   starting ────────────────────────────────► leading ──► leader ──► stepping down
///      │                                          ▲  barrier held,        │ prefix: same copy
///      ▼                                          │  leases                ▼ else: new copy
///   joining ──► syncing ──► replica ──► candidate ┘                     joining
///      ▲   hello     expand    │  ▲  promise over    │ lost
///      └───────────────────────┘  └──────────────────┘            halted: from anywhere, only an operator leaves it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// No session yet, or `/state` not read yet.
    Starting,
    /// Looking for the leader named in `/state`.
    Joining,
    /// Following as a learner: outside the in-sync set.
    Syncing,
    /// Following inside the in-sync set.
    Replica,
    /// Frozen: a compare-and-set to lead is being prepared or not resolved yet.
    Candidate,
    /// Won, but the barrier is not held yet.
    Leading,
    /// Serving reads under lease, and writes.
    Leader,
    /// Handing over: serves nothing, still processes acks.
    Resigning,
    /// Deposed: dropping clients, finding out whether the copy can be kept.
    SteppingDown,
    /// Stopped for an operator.
    Halted,
}

impl Role {
    /// The word for logs, INFO and `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Joining => "joining",
            Role::Syncing => "syncing",
            Role::Replica => "replica",
            Role::Candidate => "candidate",
            Role::Leading => "leading",
            Role::Leader => "leader",
            Role::Resigning => "resigning",
            Role::SteppingDown => "stepping-down",
            Role::Halted => "halted",
        }
    }

    /// Whether this node holds the leadership of its epoch, ready or not.
    #[must_use]
    pub fn leads(self) -> bool {
        matches!(self, Role::Leading | Role::Leader | Role::Resigning)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
