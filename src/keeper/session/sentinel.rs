//! SENTINEL: every node answers as a Sentinel that watches one master, the leader, under the name of the cluster.
//!
//! The answers are the cluster's view (`view`), in the fields that client libraries parse; what a Sentinel counts and a node does not is 0. Two nodes may
//! disagree for a moment, as Sentinels do; clients ask ROLE at the address that they got.
//!
//! What changes is published at each node, to this node's connections alone, in the words of `sentinel.c` of Redis 7.2: `+switch-master`, `+slave`,
//! `+slave-reconf-done`, `+sentinel`, `+sdown`, `-sdown`, `+odown`. Whoever subscribes to such a channel by its name gets it; by a pattern, only a connection that
//! has used SENTINEL, or whose pattern begins with a sign, or that began with `PSUBSCRIBE *`: any other `PSUBSCRIBE *` hears what the application publishes and
//! nothing else.
//!
//! A node may have a port of its own for that (`sentinel.listen`), for clients that want a Sentinel to be one. Who connects there meets a Sentinel: ROLE, INFO and HELLO say so, what a
//! Sentinel of Redis 7.2 does not know is an unknown command, and what applications publish is not heard. The port is registered, and named by SENTINEL SENTINELS.
//!
//! Not here: votes; there are no elections among Sentinels, for the nodes elect their leader themselves.

use std::collections::BTreeMap;

use crate::base::clock::Now;
use crate::base::ids::NodeId;
use crate::base::limits::HANDOVER_MS;
use crate::command::{CommandSpec, SessionCommand};
use crate::keeper::handover::NotNow;
use crate::keeper::{Effects, Keeper};
use crate::resp::{Args, Reply};

use super::view::{Seen, View};
use super::{Answer, Flow, Session};

/// What PUBLISH is answered by a Sentinel.
pub(super) const NO_PUBLISH: &str = "ERR Only HELLO messages are accepted by Sentinel instances.";

/// What a client may ask a Sentinel: the commands that `sentinel.c` of Redis 7.2 keeps, without those that this node does not have or that would end it.
const ASKED: &[&str] = &[
    "auth",
    "client",
    "command",
    "hello",
    "info",
    "ping",
    "psubscribe",
    "publish",
    "punsubscribe",
    "quit",
    "role",
    "sentinel",
    "subscribe",
    "unsubscribe",
];

/// Whether a client does no more than to introduce itself by this command.
pub(super) fn introduces(command: SessionCommand) -> bool {
    use SessionCommand::{
        Auth, ClientCapa, ClientGetName, ClientId, ClientInfo, ClientNoEvict, ClientNoTouch, ClientSetInfo,
        ClientSetName, Hello, Ping, Select,
    };
    matches!(
        command,
        Auth | ClientCapa
            | ClientGetName
            | ClientId
            | ClientInfo
            | ClientNoEvict
            | ClientNoTouch
            | ClientSetInfo
            | ClientSetName
            | Hello
            | Ping
            | Select
    )
}

impl Session {
    /// Whether a Sentinel knows this command.
    pub fn asks_sentinel(&self, spec: &CommandSpec) -> bool {
        ASKED.contains(&spec.name.split('|').next().unwrap_or_default())
    }
}

const NO_SUCH_MASTER: &str = "ERR No such master with that name";

/// What was last told about the cluster.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Told {
    /// The leader, and where it was.
    leader: Option<(NodeId, String, u16)>,
    /// Every node, and whether it was alive.
    nodes: BTreeMap<NodeId, bool>,
}

/// One of the maps in an answer: names and values.
type Fields = Vec<(&'static str, String)>;

impl Keeper {
    /// Executes one of the SENTINEL commands.
    pub(super) fn sentinel(
        &mut self,
        now: Now,
        command: SessionCommand,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
        fx: &mut Effects,
    ) -> Answer {
        use SessionCommand as Run;
        let view = self.view(now);
        let known = args.len() > 2 && args.get(2) == self.config.cluster.as_bytes();
        let leader = || view.leader().filter(|_| known).ok_or(NO_SUCH_MASTER);
        match command {
            Run::SentinelMyId => reply.bulk(self.node_hex_id(&self.me.id).as_bytes()),
            Run::SentinelGetMasterAddr => match leader() {
                Ok(leader) => {
                    reply.array(2);
                    reply.bulk(leader.host.as_bytes());
                    reply.bulk(leader.port.to_string().as_bytes());
                }
                Err(_) => reply.null_array(),
            },
            Run::SentinelMasters => {
                let all = view.leader();
                reply.array(all.iter().count());
                all.iter().for_each(|leader| write(reply, &self.as_master(now, &view, leader)));
            }
            Run::SentinelMaster => write(reply, &self.as_master(now, &view, leader()?)),
            Run::SentinelReplicas => {
                let leader = leader()?;
                reply.array(view.replicas().count());
                view.replicas().for_each(|node| write(reply, &self.as_replica(now, &view, leader, node)));
            }
            Run::SentinelSentinels => {
                leader()?;
                let others: Vec<&Seen> = view.nodes.iter().filter(|node| !node.me).collect();
                reply.array(others.len());
                others.iter().for_each(|node| write(reply, &self.as_sentinel(now, node)));
            }
            Run::SentinelCkQuorum => reply.simple(&self.check_quorum(&view, leader()?)?),
            Run::SentinelFailover => {
                leader()?;
                self.sentinel_failover(now, fx)?;
                reply.ok();
            }
            Run::SentinelIsMasterDown => {
                let is_leader = |node: &&Seen| {
                    node.host.as_bytes() == args.get(2) && node.port.to_string().as_bytes() == args.get(3)
                };
                let down = view.leader().filter(is_leader).is_some() && !view.confirmed;
                reply.array(3);
                reply.integer(i64::from(down));
                reply.bulk(b"*");
                reply.integer(0);
            }
            _ => unreachable!("no command of SENTINEL"),
        }
        Ok(Flow::Done)
    }

    /// ROLE at the Sentinel port: the masters that it watches.
    pub(super) fn sentinel_role(&self, reply: &mut Reply<'_>) -> Answer {
        reply.array(2);
        reply.bulk(b"sentinel");
        reply.array(1);
        reply.bulk(self.config.cluster.as_bytes());
        Ok(Flow::Done)
    }

    /// The node as every kind of answer begins.
    fn common(&self, now: Now, name: String, node: &Seen, flags: &[&str]) -> Fields {
        let heard_ms = node.heard.map_or(0, |heard| now.boot.ms_since(heard)).to_string();
        vec![
            ("name", name),
            ("ip", node.host.clone()),
            ("port", node.port.to_string()),
            ("runid", node.id.clone()),
            ("flags", flags.join(",")),
            ("link-pending-commands", "0".to_string()),
            ("link-refcount", "1".to_string()),
            ("last-ping-sent", "0".to_string()),
            ("last-ok-ping-reply", heard_ms.clone()),
            ("last-ping-reply", heard_ms),
            ("down-after-milliseconds", self.shared.suspect_ms.to_string()),
        ]
    }

    /// It is down as this node sees it while it is not confirmed; as all see it once the directory shows that it is gone.
    fn as_master(&self, now: Now, view: &View, leader: &Seen) -> Fields {
        let flags: &[&str] = match (view.confirmed, leader.live) {
            (true, _) => &["master"],
            (false, true) => &["master", "s_down"],
            (false, false) => &["master", "s_down", "o_down", "disconnected"],
        };
        let mut fields = self.common(now, self.config.cluster.clone(), leader, flags);
        fields.extend([
            ("info-refresh", "0".to_string()),
            ("role-reported", "master".to_string()),
            ("role-reported-time", "0".to_string()),
            ("config-epoch", view.epoch.to_string()),
            ("num-slaves", view.replicas().count().to_string()),
            ("num-other-sentinels", (view.nodes.len() - 1).to_string()),
            ("quorum", "1".to_string()),
            ("failover-timeout", self.shared.promise_ms.to_string()),
            ("parallel-syncs", "1".to_string()),
        ]);
        fields
    }

    fn as_replica(&self, now: Now, view: &View, leader: &Seen, node: &Seen) -> Fields {
        let flags: &[&str] = if node.live { &["slave"] } else { &["slave", "s_down", "disconnected"] };
        let linked = node.serves && view.confirmed;
        let mut fields = self.common(now, format!("{}:{}", node.host, node.port), node, flags);
        fields.extend([
            ("info-refresh", "0".to_string()),
            ("role-reported", "slave".to_string()),
            ("role-reported-time", "0".to_string()),
            ("master-link-down-time", "0".to_string()),
            ("master-link-status", if linked { "ok" } else { "err" }.to_string()),
            ("master-host", leader.host.clone()),
            ("master-port", leader.port.to_string()),
            ("slave-priority", "100".to_string()),
            ("slave-repl-offset", node.offset.to_string()),
            ("replica-announced", "1".to_string()),
        ]);
        fields
    }

    fn as_sentinel(&self, now: Now, node: &Seen) -> Fields {
        let flags: &[&str] = if node.live { &["sentinel"] } else { &["sentinel", "s_down", "disconnected"] };
        let (host, port) = node.at_sentinel();
        let there = Seen { host: host.to_string(), port, ..node.clone() };
        let mut fields = self.common(now, node.id.clone(), &there, flags);
        fields.extend([
            ("last-hello-message", "0".to_string()),
            ("voted-leader", "?".to_string()),
            ("voted-leader-epoch", "0".to_string()),
        ]);
        fields
    }

    /// Whether enough members would be left without the leader, and this node could tell `/state`.
    fn check_quorum(&self, view: &View, leader: &Seen) -> Result<String, String> {
        let usable = view.nodes.iter().filter(|node| node.live).count();
        let left = view.nodes.iter().filter(|node| node.serves && node.id != leader.id).count();
        let needed = self.known.as_ref().map_or(1, |k| k.state.min_required());
        if !self.coordinator_up {
            return Err(format!("NOQUORUM {usable} usable Sentinels. No contact to the coordination service"));
        }
        if left < needed.max(1) {
            return Err(format!(
                "NOQUORUM {usable} usable Sentinels. Not enough replicas in sync to replace the leader: {left} of {}",
                needed.max(1)
            ));
        }
        Ok(format!("OK {usable} usable Sentinels. Quorum and failover authorization can be reached"))
    }

    /// At the leader: to whoever can take over; at a replica: to this one.
    fn sentinel_failover(&mut self, now: Now, fx: &mut Effects) -> Result<(), std::borrow::Cow<'static, str>> {
        if self.leading.is_none() {
            return self.ask_to_lead(fx);
        }
        self.begin_handover(now, None, HANDOVER_MS, fx).map_err(|why| match why {
            NotNow::UnderWay => "INPROG Failover already in progress".into(),
            NotNow::Nobody | NotNow::Unfit(_) => "NOGOODSLAVE No suitable replica to promote".into(),
            NotNow::NotLeading | NotNow::NoContact | NotNow::Filling(_) => format!("ERR {why}").into(),
        })
    }

    /// Publishes what has changed since it was last called; to be called when the coordination service spoke.
    pub(in crate::keeper) fn tell_sentinel_clients(&mut self, now: Now, fx: &mut Effects) {
        let view = self.view(now);
        let Some(leader) = view.leader() else { return };
        let at = (leader.name.clone(), leader.host.clone(), leader.port);
        let nodes: BTreeMap<NodeId, bool> = view.nodes.iter().map(|node| (node.name.clone(), node.live)).collect();
        let before = std::mem::replace(&mut self.sentinel_told, Told { leader: Some(at.clone()), nodes });
        let Some((old_name, old_host, old_port)) = before.leader else { return };
        let cluster = &self.config.cluster;
        let (host, port) = (&leader.host, leader.port);
        let switched = (&old_name, &old_host, old_port) != (&at.0, &at.1, at.2);
        let described = |node: &Seen| match node.leader {
            true => format!("master {cluster} {host} {port}"),
            false => format!("slave {0}:{1} {0} {1} @ {cluster} {host} {port}", node.host, node.port),
        };
        let mut news: Vec<(&str, String)> = Vec::new();
        for node in &view.nodes {
            match before.nodes.get(&node.name) {
                None => {
                    let (id, (ip, p)) = (&node.id, node.at_sentinel());
                    news.push(("+slave", described(node)));
                    news.push(("+sentinel", format!("sentinel {id} {ip} {p} @ {cluster} {host} {port}")));
                }
                Some(true) if !node.live => {
                    news.push(("+sdown", described(node)));
                    if node.leader {
                        news.push(("+odown", format!("{} #quorum 1/1", described(node))));
                    }
                }
                Some(false) if node.live => news.push(("-sdown", described(node))),
                Some(_) => {}
            }
        }
        if switched {
            news.push(("+switch-master", format!("{cluster} {old_host} {old_port} {host} {port}")));
            for node in view.replicas() {
                news.push(("+slave", described(node)));
                if node.serves {
                    news.push(("+slave-reconf-done", described(node)));
                }
            }
        }
        for (channel, text) in news {
            self.announce_change(now, channel, &text, fx);
        }
    }
}

fn write(reply: &mut Reply<'_>, fields: &Fields) {
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}
