//! The cluster as clients are told of it: one shard with all slots, its leader, its replicas.
//!
//! CLUSTER, ROLE and INFO all describe this view, so that they agree with each other. The leader stays the last one that
//! `/state` named until there is a new one; whether it is confirmed is said beside it. Names of nodes and of the cluster
//! become the 40 hex digits that clients expect by a hash, so that they are the same on every node and after every restart.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::base::clock::{Boot, Now};
use crate::base::ids::{Epoch, NodeId, Offset};
use crate::cluster::registration::Registration;
use crate::cluster::role::Role;
use crate::cluster::state::Member;
use crate::cluster::version::NEWEST;
use crate::keeper::Keeper;

/// One node of the view.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Its name.
    pub name: NodeId,
    /// The name that clients know, 40 hex digits.
    pub id: String,
    /// Host and port for clients, as advertised; an IPv6 address without brackets.
    pub host: String,
    /// See `host`.
    pub port: u16,
    /// Host and port where it is a Sentinel alone, if it is that anywhere.
    pub sentinel: Option<(String, u16)>,
    /// Port of the replication links.
    pub bus_port: u16,
    /// This node.
    pub me: bool,
    /// Named as leader by `/state`.
    pub leader: bool,
    /// Alive as far as the directory knows.
    pub live: bool,
    /// Serves reads, as leader or as a replica that holds everything acknowledged.
    pub serves: bool,
    /// Last entry that it is known to hold.
    pub offset: Offset,
    /// When the leader or follower was last heard, if it is linked to this node.
    pub heard: Option<Boot>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Every registered node and this one, by name.
    pub nodes: Vec<Seen>,
    /// Epoch of `/state`; 0 if none is known.
    pub epoch: Epoch,
    /// Whether the leader is known to lead now.
    pub confirmed: bool,
}

impl Seen {
    /// Where it is a Sentinel: at a port of its own, or at that of its clients.
    pub fn at_sentinel(&self) -> (&str, u16) {
        self.sentinel.as_ref().map_or((&self.host, self.port), |(host, port)| (host, *port))
    }
}

impl View {
    /// The leader, or the last one.
    pub fn leader(&self) -> Option<&Seen> {
        self.nodes.iter().find(|node| node.leader)
    }

    /// All but the leader.
    pub fn replicas(&self) -> impl Iterator<Item = &Seen> {
        self.nodes.iter().filter(|node| !node.leader)
    }
}

impl Keeper {
    /// Whether this node leads, serves, and can prove it: only then does it call itself master.
    pub(in crate::keeper) fn is_sure_leader(&self, now: Now) -> bool {
        self.role == Role::Leader && self.holds_lease(now)
    }

    /// Whether the data is not there (yet). Who is just becoming leader, or handing over, has it: a client that is told otherwise stays away for a
    /// second, and commands wait for less.
    pub(super) fn is_loading(&self) -> bool {
        match self.role {
            Role::Leader | Role::Leading | Role::Resigning => false,
            Role::Starting | Role::SteppingDown => true,
            Role::Joining | Role::Syncing | Role::Replica | Role::Candidate | Role::Halted => !self.follower_may_read(),
        }
    }

    /// The cluster as it is now.
    pub(super) fn view(&self, now: Now) -> View {
        let me = Registration {
            id: self.me.id.clone(),
            copy: self.me.copy,
            client_addr: self.config.client_addr.clone(),
            repl_addr: self.config.repl_addr.clone(),
            sentinel_addr: self.config.sentinel_addr.clone(),
            rank: self.config.rank,
            dataset: None,
            empty: true,
            version: String::new(),
            speaks: NEWEST,
            started_ms: 0,
            run: None,
            host: None,
            ended: false,
            gone: Vec::new(),
        };
        let others = self.nodes.iter().filter(|n| n.registration.id != me.id);
        let mut nodes: Vec<Seen> = others
            .map(|n| self.seen(&n.registration, n.live == Some(n.registration.copy)))
            .chain([self.seen(&me, true)])
            .collect();
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        View {
            nodes,
            epoch: self.known.as_ref().map_or(Epoch(0), |k| k.state.epoch),
            confirmed: self.is_sure_leader(now) || self.leader_is_confirmed(now),
        }
    }

    fn seen(&self, r: &Registration, live: bool) -> Seen {
        let member = Member { id: r.id.clone(), copy: r.copy };
        let state = self.known.as_ref().map(|k| &k.state);
        let me = r.id == self.me.id;
        let leader = state.is_some_and(|s| s.leader.id == r.id);
        // A leader that restarted is alive, but its copy does not lead.
        let live = live && (me || !leader || state.is_some_and(|s| s.leader == member));
        let in_sync = state.is_some_and(|s| s.names(&member));
        let follower = self.leading.as_ref().and_then(|l| l.followers.get(&r.copy));
        let followed = self.following.as_ref().filter(|f| f.accepted && f.leader == member);
        let offset = match follower {
            _ if me => {
                if self.role.leads() {
                    self.log.end()
                } else {
                    self.applied
                }
            }
            Some(f) => f.matched,
            None if in_sync => self.acked,
            None => Offset::ZERO,
        };
        let (host, port) = host_and_port(&r.client_addr);
        Seen {
            name: r.id.clone(),
            id: self.node_hex_id(&r.id),
            host: host.to_string(),
            port,
            sentinel: r.sentinel_addr.as_deref().map(host_and_port).map(|(host, port)| (host.to_string(), port)),
            bus_port: host_and_port(&r.repl_addr).1,
            me,
            leader,
            live,
            serves: live && in_sync && !(me && self.is_loading()),
            offset,
            heard: follower.filter(|f| f.link.is_some()).map(|f| f.heard).or(followed.map(|f| f.heard)),
        }
    }

    /// What clients know a node by.
    pub(super) fn node_hex_id(&self, node: &NodeId) -> String {
        hex_id("node", &[&self.config.cluster, node.as_str()])
    }

    /// What clients know the one shard by.
    pub(super) fn shard_hex_id(&self) -> String {
        hex_id("shard", &[&self.config.cluster])
    }
}

/// 40 hex digits that stand for something with a name of its own; `kind` keeps namespaces apart.
pub(super) fn hex_id(kind: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new_with_prefix(b"datakeeper");
    for part in [kind].iter().chain(parts) {
        hash.update([0]);
        hash.update(part.as_bytes());
    }
    hash.finalize()[..20].iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes any text");
        hex
    })
}

/// Splits an advertised address at its last colon. Clients are told an IPv6 address without brackets, as Redis does.
pub(in crate::keeper) fn host_and_port(addr: &str) -> (&str, u16) {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_splits_at_the_last_colon_and_loses_brackets() {
        for (addr, want) in [
            ("127.0.0.1:6379", ("127.0.0.1", 6379)),
            ("[::1]:7000", ("::1", 7000)),
            ("::1:7000", ("::1", 7000)),
            ("kv-1.example.org:1", ("kv-1.example.org", 1)),
            ("nohost", ("nohost", 0)),
        ] {
            assert_eq!(host_and_port(addr), want, "{addr}");
        }
    }

    #[test]
    fn ids_are_forty_digits_and_differ_by_kind_and_by_every_part() {
        let id = hex_id("node", &["c", "n1"]);
        assert!(id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert_eq!(id, hex_id("node", &["c", "n1"]));
        for other in [hex_id("node", &["c", "n2"]), hex_id("shard", &["c", "n1"]), hex_id("node", &["cn", "1"])] {
            assert_ne!(id, other);
        }
    }
}
