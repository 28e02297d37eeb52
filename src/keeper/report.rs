//! What operators are told: counters, and the cluster as this node sees it.

use std::collections::BTreeMap;

use crate::base::clock::{Boot, Now};
use crate::base::ids::{Epoch, NodeId};
use crate::base::limits::CLOCK_FAR_MS;
use crate::cluster::registration::NodeRead;
use crate::cluster::role::Role;
use crate::cluster::state::Member;
use crate::cluster::status::{CoordinatorStatus, NodeStatus, Status, SyncProgress};

use super::Keeper;
use super::leading::{Follower, apart};

/// Counters since the start, or since CONFIG RESETSTAT.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    /// Start of the process.
    pub since: Boot,
    /// Most memory that the store has taken since then; not counted anew.
    pub memory_peak: usize,
    /// Clients that connected.
    pub connections: u64,
    /// Clients turned away because there were too many.
    pub rejected: u64,
    /// Bytes that came from clients.
    pub bytes_in: u64,
    /// Bytes for clients, counted when they are handed to the connection.
    pub bytes_out: u64,
    /// Commands executed.
    pub commands: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// Commands answered with MOVED.
    pub redirects: u64,
    /// Commands passed on to the leader, and exchanges with it of which the outcome is not known.
    pub forwarded: u64,
    /// See `forwarded`.
    pub forwarded_unknown: u64,
    /// Keys deleted because their time had come.
    pub expired_keys: u64,
    /// Keys that reading commands looked for and found.
    pub hits: u64,
    /// Keys that they did not find.
    pub misses: u64,
    /// Keys deleted because memory was short.
    pub evicted_keys: u64,
    /// Entries applied as a follower.
    pub entries_applied: u64,
    /// Full resyncs begun as a follower.
    pub full_resyncs: u64,
    /// Full resyncs begun as leader.
    pub full_syncs_served: u64,
    /// Followers that could go on from what they had.
    pub partial_syncs: u64,
    /// Followers that asked to, and could not.
    pub partial_syncs_refused: u64,
    /// Bytes put on links as leader.
    pub link_bytes: u64,
    /// Messages that did not get to another node: its link had too much to carry, or there was none.
    pub published_dropped: u64,
    /// Clients closed because they did not read what was published.
    pub overrun_closed: u64,
    /// `errors` by the first word of their text. All texts are ours, so there are few.
    by_code: BTreeMap<Box<str>, u64>,
    /// When the counters of [`Rates`] were last looked at, and what they were.
    sampled: (Boot, Rates),
    rates: Rates,
}

/// Commands and bytes: counted, or per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub commands: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What load balancers and supervisors ask for. The shell keeps a copy outside of the lock, so that no hold of it delays the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// What the node is.
    pub role: Role,
    /// The latest epoch that it saw confirmed.
    pub epoch: Epoch,
    /// Whether it is in the in-sync set, as far as it remembers, and serves. An election, an absent coordination service, or a set below
    /// `min_in_sync` do not change that; halting and leaving do.
    pub ready: bool,
    /// As a follower: an instant at whose time everything acknowledged is in the store.
    pub fresh_at: Boot,
}

impl Face {
    /// That of a node that has only just started.
    pub const NEW: Face = Face { role: Role::Starting, epoch: Epoch(0), ready: false, fresh_at: Boot(0) };

    /// Whether this is the ready leader.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.ready && self.role == Role::Leader
    }

    /// Whether this is a replica in sync whose data are at most so old.
    #[must_use]
    pub fn follows(&self, now: Boot, max_lag_ms: Option<u64>) -> bool {
        // A candidate was a replica a moment ago, and answers reads as one.
        let replica = self.ready && matches!(self.role, Role::Replica | Role::Candidate);
        replica && max_lag_ms.is_none_or(|max| now.ms_since(self.fresh_at) <= max)
    }
}

/// Rates are those of the last full second.
const SAMPLE_MS: u64 = 1_000;

impl Stats {
    pub fn new(now: Now) -> Stats {
        Stats {
            since: now.boot,
            memory_peak: 0,
            connections: 0,
            rejected: 0,
            bytes_in: 0,
            bytes_out: 0,
            commands: 0,
            errors: 0,
            redirects: 0,
            forwarded: 0,
            forwarded_unknown: 0,
            expired_keys: 0,
            hits: 0,
            misses: 0,
            evicted_keys: 0,
            entries_applied: 0,
            full_resyncs: 0,
            full_syncs_served: 0,
            partial_syncs: 0,
            partial_syncs_refused: 0,
            link_bytes: 0,
            published_dropped: 0,
            overrun_closed: 0,
            by_code: BTreeMap::new(),
            sampled: (now.boot, Rates::default()),
            rates: Rates::default(),
        }
    }

    /// Begins to count anew.
    pub fn reset(&mut self, now: Now) {
        *self = Stats { since: self.since, memory_peak: self.memory_peak, ..Stats::new(now) };
    }

    /// A command is answered with this error. Redirects are counted on their own.
    pub fn error(&mut self, text: &str) {
        self.errors += 1;
        let code = text.split(' ').next().unwrap_or_default();
        match self.by_code.get_mut(code) {
            Some(count) => *count += 1,
            None => _ = self.by_code.insert(code.into(), 1),
        }
    }

    /// Errors by their code.
    pub fn errors_by_code(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_code.iter().map(|(code, count)| (&**code, *count))
    }

    /// Takes new samples: of the memory, and of the rates when the last one is old enough.
    pub fn sample(&mut self, now: Now, memory: usize) {
        self.memory_peak = self.memory_peak.max(memory);
        let (at, before) = self.sampled;
        let ms = now.boot.ms_since(at);
        if ms >= SAMPLE_MS {
            let count = Rates { commands: self.commands, bytes_in: self.bytes_in, bytes_out: self.bytes_out };
            let rate = |now: u64, before: u64| (now - before) * 1_000 / ms;
            self.rates = Rates {
                commands: rate(count.commands, before.commands),
                bytes_in: rate(count.bytes_in, before.bytes_in),
                bytes_out: rate(count.bytes_out, before.bytes_out),
            };
            self.sampled = (now.boot, count);
        }
    }

    /// What there was per second, lately.
    pub fn rates(&self) -> Rates {
        self.rates
    }
}

impl Keeper {
    /// Keys in the store, and the bytes that they and their tables take; for metrics.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.store.len(), self.used_memory())
    }

    /// So many bytes came from clients, and so many go to them.
    pub fn count_bytes(&mut self, bytes_in: u64, bytes_out: u64) {
        self.stats.bytes_in += bytes_in;
        self.stats.bytes_out += bytes_out;
    }

    /// What load balancers ask for.
    #[must_use]
    pub fn face(&self) -> Face {
        Face { role: self.role, epoch: self.highest, ready: self.is_ready, fresh_at: self.fresh_at }
    }

    /// The same, if it has changed since the last call.
    pub fn changed_face(&mut self) -> Option<Face> {
        let face = self.face();
        (face != self.face_told).then(|| {
            self.face_told = face;
            face
        })
    }

    /// See [`Face::ready`]. A copy in the set serves once all that it was given is acknowledged.
    pub(super) fn settle_readiness(&mut self) {
        let in_sync = match self.role {
            Role::Leading | Role::Leader | Role::Resigning => true,
            Role::Replica | Role::Candidate => {
                self.follower_may_read() && self.known.as_ref().is_some_and(|k| k.state.names(&self.me))
            }
            Role::Starting | Role::Joining | Role::Syncing | Role::SteppingDown | Role::Halted => false,
        };
        self.is_ready = in_sync && !self.leaving && !self.stopping;
    }

    /// The cluster as this node sees it, from memory alone.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let state = self.known.as_ref().map(|k| &k.state);
        let mut warnings = Vec::new();
        if let Some(reason) = self.halted() {
            warnings.push(format!("halted: {reason}"));
        }
        if let Some(holder) = &self.name_holder {
            warnings
                .push(format!("this node's name is registered by another process, whose session has to end: {holder}"));
        }
        warnings.extend(self.unreadable.iter().map(|what| format!("the directory is not whole: {what}")));
        warnings.extend(self.wait_for_loss());
        warnings.extend(self.config_fault.clone());
        warnings.extend(self.hindrance.iter().map(|reason| format!("hindered: {reason}")));
        if !self.coordinator_up {
            warnings.push("no contact to the coordination service".to_string());
        }
        if let Some(s) = state.filter(|s| !s.may_commit()) {
            let (have, want) = (s.in_sync.len(), s.min_required());
            warnings.push(format!("writes are refused: {have} of {want} members in sync"));
        }
        let live = self.nodes.iter().filter(|n| n.live.is_some()).map(|n| n.registration.speaks);
        if let (Some(s), Some(all)) = (state, live.min())
            && all > s.cluster_version
        {
            warnings.push(format!(
                "every node knows cluster version {all}, and {} is in use: `datakeeper admin raise-version --confirm {}` at the leader is due",
                s.cluster_version, self.config.cluster
            ));
        }
        let far = |ms: i64| ms.unsigned_abs() > CLOCK_FAR_MS;
        if far(self.wall_ahead_ms) {
            let apart = apart(self.wall_ahead_ms);
            warnings.push(format!(
                "the leader's wall clock is {apart} the clock by which keys expire: look at the clocks of all nodes"
            ));
        }
        for f in self.leading.iter().flat_map(|l| &l.followers) {
            if let Some(ms) = self.pulse.lock().clock_ahead_ms(*f.0).filter(|ms| far(*ms)) {
                warnings.push(format!("the wall clock of {} is {} that of this node", f.1.node, apart(ms)));
            }
        }
        if self.config.acks == super::Acks::Leader {
            warnings.push("acks: leader, a failover may lose acknowledged writes".to_string());
        }
        Status {
            cluster: self.config.cluster.clone(),
            node: self.me.id.clone(),
            role: self.role.to_string(),
            dataset: self.dataset,
            epoch: self.highest,
            leader: self.reported_leader(now),
            nodes: self.nodes.iter().map(|n| self.node_status(now, n)).collect(),
            cluster_version: state.map_or(0, |s| s.cluster_version),
            min_in_sync: state.map_or(self.shared.min_in_sync, |s| s.min_in_sync),
            min_in_sync_effective: state.map_or(1, |s| s.min_required() as u32),
            peak_in_sync: state.map_or(0, |s| s.peak_in_sync),
            resets: state.map_or(0, |s| s.resets),
            coordinator: CoordinatorStatus { connected: self.coordinator_up },
            wall_clock_ahead_ms: self.wall_ahead_ms,
            warnings,
        }
    }

    /// The leader, if this node is it or has heard it lately.
    pub(super) fn reported_leader(&self, now: Now) -> Option<NodeId> {
        if self.role == Role::Leader {
            return Some(self.me.id.clone());
        }
        self.known_leader().filter(|_| self.leader_is_confirmed(now)).map(|l| l.id.clone())
    }

    /// How far the full resync of this node is.
    pub(super) fn resync_progress(&self, now: Now) -> Option<SyncProgress> {
        self.intake.as_ref().map(|i| SyncProgress {
            bytes: i.bytes,
            keys: i.keys,
            percent: i.next().map_or(100, |next| ((u128::from(next) * 100) >> 64) as u8),
            bytes_per_s: per_second(i.bytes, i.began, now),
        })
    }

    /// How far the full resync of a follower is.
    pub(super) fn fill_progress(&self, now: Now, f: &Follower) -> Option<SyncProgress> {
        let share = (f.chunk_keys * 100).checked_div(self.store.len() as u64).unwrap_or(100).min(100);
        f.chunks_since.filter(|_| !f.whole).map(|since| SyncProgress {
            bytes: f.chunk_bytes,
            keys: f.chunk_keys,
            percent: share as u8,
            bytes_per_s: per_second(f.chunk_bytes, since, now),
        })
    }

    fn node_status(&self, now: Now, node: &NodeRead) -> NodeStatus {
        let r = &node.registration;
        let member = Member { id: r.id.clone(), copy: r.copy };
        let state = self.known.as_ref().map(|k| &k.state);
        let mut status = NodeStatus {
            id: r.id.clone(),
            role: None,
            client_addr: r.client_addr.clone(),
            repl_addr: r.repl_addr.clone(),
            version: Some((r.version.clone(), r.speaks)),
            in_sync: state.is_some_and(|s| s.names(&member)),
            live: node.live == Some(r.copy),
            end: None,
            applied: None,
            acked: None,
            lag_entries: None,
            lag_ms: None,
            sync_progress: None,
        };
        if r.id == self.me.id {
            status.role = Some(self.role.to_string());
            status.end = Some(self.log.end());
            status.applied = Some(self.applied);
            status.acked = Some(self.acked);
            status.sync_progress = self.resync_progress(now);
        } else if let Some(f) = self.leading.as_ref().and_then(|l| l.followers.get(&r.copy)) {
            status.role = Some(if status.in_sync { Role::Replica } else { Role::Syncing }.to_string());
            status.applied = Some(f.applied);
            status.acked = Some(f.matched);
            status.lag_entries = Some(self.log.end().0.saturating_sub(f.matched.0));
            status.lag_ms = Some(f.marks.front().map_or(0, |(_, sent)| now.boot.ms_since(*sent)));
            status.sync_progress = self.fill_progress(now, f);
        } else if self.known_leader() == Some(&member) && self.leader_is_confirmed(now) {
            status.role = Some(Role::Leader.to_string());
            status.acked = Some(self.acked);
        }
        status
    }
}

fn per_second(bytes: u64, since: Boot, now: Now) -> u64 {
    bytes * 1_000 / now.boot.ms_since(since).max(1)
}
