//! DATAKEEPER HANDOVER, FAILOVER and CLUSTER FAILOVER: asking for a handover. All of them answer when it has begun; where it went is
//! for ROLE or DATAKEEPER STATUS to say.
//!
//! Nothing here can lose a write, so there is no way to force: FORCE and TAKEOVER are refused.

use crate::base::clock::Now;
use crate::base::ids::NodeId;
use crate::base::limits::HANDOVER_MS;
use crate::command::{CommandError, integer};
use crate::keeper::{Effects, Keeper};
use crate::replication::wire::Wish;
use crate::resp::{Args, Reply};

use super::{Answer, Flow};

/// Longest FAILOVER TIMEOUT: commands are held no longer, so a handover that takes longer would be noticed as an error, ms.
const TIMEOUT_MS_MAX: u64 = crate::base::limits::HOLD_MS;

fn syntax<T>() -> Result<T, std::borrow::Cow<'static, str>> {
    Err(CommandError::Syntax.text().into_owned().into())
}

impl Keeper {
    /// DATAKEEPER HANDOVER [TO node], at the leader.
    pub(super) fn handover_command(
        &mut self,
        now: Now,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
        fx: &mut Effects,
    ) -> Answer {
        let target: Option<NodeId> = match args.len() {
            2 => None,
            4 if args.get(2).eq_ignore_ascii_case(b"to") => {
                let name = std::str::from_utf8(args.get(3)).unwrap_or_default();
                Some(name.parse().map_err(|_| "ERR that is not a node's name")?)
            }
            _ => return syntax(),
        };
        if self.leading.is_none() {
            let Some(leader) = self.known_leader() else { return Err("ERR no leader is known".into()) };
            let addr = self.leader_client_addr().unwrap_or("an unknown address");
            return Err(format!("ERR this node does not lead: ask {} at {addr}", leader.id).into());
        }
        self.begin_handover(now, target.as_ref(), HANDOVER_MS, fx).map_err(|why| format!("ERR {why}"))?;
        reply.ok();
        Ok(Flow::Done)
    }

    /// FAILOVER, at the leader.
    pub(super) fn failover(&mut self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        let (mut to, mut timeout, mut abort, mut force) = (None, None, false, false);
        let mut i = 1;
        while i < args.len() {
            let word = args.get(i);
            let left = args.len() - i - 1;
            if word.eq_ignore_ascii_case(b"abort") && !abort {
                abort = true;
            } else if word.eq_ignore_ascii_case(b"timeout") && left >= 1 && timeout.is_none() {
                let ms = integer(args.get(i + 1)).map_err(|error| error.text().into_owned())?;
                if ms <= 0 {
                    return Err("ERR FAILOVER timeout must be greater than 0".into());
                }
                timeout = Some(ms as u64);
                i += 1;
            } else if word.eq_ignore_ascii_case(b"to") && left >= 2 && to.is_none() {
                let port = integer(args.get(i + 2)).map_err(|error| error.text().into_owned())?;
                to = Some((String::from_utf8_lossy(args.get(i + 1)).into_owned(), port));
                i += 2;
            } else if word.eq_ignore_ascii_case(b"force") && to.is_some() && !force {
                force = true;
            } else {
                return syntax();
            }
            i += 1;
        }
        if abort {
            if args.len() > 2 {
                return syntax();
            }
            if !self.abort_handover("FAILOVER ABORT", fx) {
                return Err("ERR No failover in progress.".into());
            }
            reply.ok();
            return Ok(Flow::Done);
        }
        if self.leading.is_none() {
            return Err("ERR FAILOVER is not valid when server is a replica.".into());
        }
        if self.failover_state() != "no-failover" {
            return Err("ERR FAILOVER already in progress.".into());
        }
        if force {
            return Err("ERR FAILOVER with FORCE could lose writes and is not supported.".into());
        }
        let target = match to {
            None => None,
            Some((host, port)) => {
                let addr = format!("{host}:{port}");
                let node = self.nodes.iter().find(|n| n.registration.client_addr == addr);
                Some(node.ok_or("ERR FAILOVER target HOST and PORT is not a replica.")?.registration.id.clone())
            }
        };
        let within = timeout.unwrap_or(HANDOVER_MS).min(TIMEOUT_MS_MAX);
        self.begin_handover(now, target.as_ref(), within, fx).map_err(|why| format!("ERR {why}"))?;
        reply.ok();
        Ok(Flow::Done)
    }

    /// CLUSTER FAILOVER, at the replica that shall lead.
    pub(super) fn cluster_failover(&mut self, args: &Args<'_>, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        match args.len() {
            2 => {}
            3 if args.get(2).eq_ignore_ascii_case(b"force") || args.get(2).eq_ignore_ascii_case(b"takeover") => {
                return Err("ERR FORCE and TAKEOVER could lose writes and are not supported: \
                    a lost leader is replaced without them"
                    .into());
            }
            _ => return syntax(),
        }
        if self.leading.is_some() {
            return Err("ERR You should send CLUSTER FAILOVER to a replica".into());
        }
        if !self.known.as_ref().is_some_and(|k| k.state.names(&self.me)) {
            return Err("ERR this replica is not in sync".into());
        }
        if !self.ask_leader(Wish::Lead, fx) {
            return Err("ERR Master is down or failed, please use CLUSTER FAILOVER later".into());
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// INFO's `master_failover_state`, in Redis's words.
    pub(super) fn failover_state(&self) -> &'static str {
        match self.leading.as_ref().and_then(|l| l.handover.as_ref()) {
            None => "no-failover",
            Some(handover) if handover.sent.is_none() => "waiting-for-sync",
            Some(_) => "failover-in-progress",
        }
    }
}
