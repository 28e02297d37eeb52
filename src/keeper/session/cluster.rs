//! CLUSTER: what cluster clients read to find the leader and the replicas.
//!
//! One shard holds all slots. A node that knows no `/state` says that no slot is served. Not here: everything that would
//! change a cluster (MEET, ADDSLOTS, SETSLOT); COUNTKEYSINSLOT and GETKEYSINSLOT, which need only the store.

use std::fmt::Write;

use crate::base::clock::Now;
use crate::command::slot;
use crate::keeper::Keeper;
use crate::resp::{Args, Reply};

use super::view::{Seen, View};
use super::{Answer, Flow, Session};

/// Number of hash slots.
const SLOTS: i64 = 16_384;

pub(super) fn key_slot(args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    reply.integer(i64::from(slot(args.get(2))));
    Ok(Flow::Done)
}

/// There is no cluster bus: replication links are reported by INFO.
pub(super) fn links(reply: &mut Reply<'_>) -> Answer {
    reply.array(0);
    Ok(Flow::Done)
}

impl Keeper {
    pub(super) fn cluster_my_id(&self, reply: &mut Reply<'_>) -> Answer {
        reply.bulk(self.node_hex_id(&self.me.id).as_bytes());
        Ok(Flow::Done)
    }

    pub(super) fn cluster_my_shard_id(&self, reply: &mut Reply<'_>) -> Answer {
        reply.bulk(self.shard_hex_id().as_bytes());
        Ok(Flow::Done)
    }

    /// The leader first, then the replicas that serve reads.
    pub(super) fn cluster_slots(&self, now: Now, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        session.knows_slots = true;
        let view = self.view(now);
        let Some(leader) = view.leader() else {
            reply.array(0);
            return Ok(Flow::Done);
        };
        let replicas: Vec<&Seen> = view.replicas().filter(|node| node.serves).collect();
        reply.array(1);
        reply.array(3 + replicas.len());
        reply.integer(0);
        reply.integer(SLOTS - 1);
        for node in [leader].into_iter().chain(replicas) {
            reply.array(4);
            reply.bulk(node.host.as_bytes());
            reply.integer(i64::from(node.port));
            reply.bulk(node.id.as_bytes());
            reply.map(0);
        }
        Ok(Flow::Done)
    }

    pub(super) fn cluster_shards(&self, now: Now, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        session.knows_slots = true;
        let view = self.view(now);
        let Some(leader) = view.leader() else {
            reply.array(0);
            return Ok(Flow::Done);
        };
        reply.array(1);
        reply.map(2);
        reply.bulk(b"slots");
        reply.array(2);
        reply.integer(0);
        reply.integer(SLOTS - 1);
        reply.bulk(b"nodes");
        reply.array(view.nodes.len());
        for node in [leader].into_iter().chain(view.replicas()) {
            let health = match node {
                Seen { live: false, .. } => "fail",
                Seen { serves: false, leader: false, .. } => "loading",
                _ => "online",
            };
            let text = |reply: &mut Reply<'_>, key: &str, value: &str| {
                reply.bulk(key.as_bytes());
                reply.bulk(value.as_bytes());
            };
            reply.map(7);
            text(reply, "id", &node.id);
            reply.bulk(b"port");
            reply.integer(i64::from(node.port));
            text(reply, "ip", &node.host);
            text(reply, "endpoint", &node.host);
            text(reply, "role", if node.leader { "master" } else { "replica" });
            reply.bulk(b"replication-offset");
            reply.integer(node.offset.0 as i64);
            text(reply, "health", health);
        }
        Ok(Flow::Done)
    }

    pub(super) fn cluster_nodes(&self, now: Now, session: &mut Session, reply: &mut Reply<'_>) -> Answer {
        session.knows_slots = true;
        let view = self.view(now);
        let mut text = String::new();
        for node in &view.nodes {
            text.push_str(&line(&view, node, now));
            if node.leader {
                write!(text, " 0-{}", SLOTS - 1).expect("a String takes any text");
            }
            text.push('\n');
        }
        reply.verbatim("txt", text.as_bytes());
        Ok(Flow::Done)
    }

    /// CLUSTER REPLICAS and CLUSTER SLAVES.
    pub(super) fn cluster_replicas(&self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let view = self.view(now);
        let id = args.get(2);
        let Some(node) = view.nodes.iter().find(|node| node.id.as_bytes().eq_ignore_ascii_case(id)) else {
            return Err(format!("ERR Unknown node {}", id[..id.len().min(64)].escape_ascii()).into());
        };
        if !node.leader {
            return Err("ERR The specified node is not a master".into());
        }
        reply.array(view.replicas().count());
        for replica in view.replicas() {
            reply.bulk(line(&view, replica, now).as_bytes());
        }
        Ok(Flow::Done)
    }

    pub(super) fn cluster_info(&self, now: Now, reply: &mut Reply<'_>) -> Answer {
        let view = self.view(now);
        let assigned = if view.leader().is_some() { SLOTS } else { 0 };
        let (ok, fail) = if view.confirmed { (assigned, 0) } else { (0, assigned) };
        let text = format!(
            "cluster_state:{}\r\n\
             cluster_slots_assigned:{assigned}\r\n\
             cluster_slots_ok:{ok}\r\n\
             cluster_slots_pfail:0\r\n\
             cluster_slots_fail:{fail}\r\n\
             cluster_known_nodes:{}\r\n\
             cluster_size:{}\r\n\
             cluster_current_epoch:{}\r\n\
             cluster_my_epoch:{}\r\n",
            if view.confirmed { "ok" } else { "fail" },
            view.nodes.len(),
            i32::from(assigned > 0),
            self.highest,
            view.epoch,
        );
        reply.verbatim("txt", text.as_bytes());
        Ok(Flow::Done)
    }
}

/// What CLUSTER NODES says of a node, without its slots.
fn line(view: &View, node: &Seen, now: Now) -> String {
    let mut flags = Vec::with_capacity(3);
    if node.me {
        flags.push("myself");
    }
    flags.push(if node.leader { "master" } else { "slave" });
    if !node.live {
        flags.push("fail");
    } else if node.leader && !node.me && !view.confirmed {
        flags.push("fail?");
    }
    let master = view.leader().filter(|_| !node.leader).map_or("-", |leader| leader.id.as_str());
    let heard_ms = node.heard.map_or(0, |heard| now.wall.0.saturating_sub(now.boot.ms_since(heard)));
    let link = if node.live { "connected" } else { "disconnected" };
    format!(
        "{} {}:{}@{} {} {master} 0 {heard_ms} {} {link}",
        node.id,
        node.host,
        node.port,
        node.bus_port,
        flags.join(","),
        view.epoch,
    )
}
