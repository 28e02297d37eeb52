//! DATAKEEPER HANDOVER, FAILOVER and CLUSTER FAILOVER: asking for a handover. All of them answer when it has begun; where it went is
//! for ROLE or DATAKEEPER STATUS to say.
//!
//! Nothing here can lose a write, so there is no way to force: FORCE and TAKEOVER are refused. Redis waits without an end for the
//! replica unless TIMEOUT says otherwise; here the leader gives a handover up after [`HANDOVER_MS`], because clients wait meanwhile.

use std::borrow::Cow;

use crate::base::clock::Now;
use crate::base::ids::NodeId;
use crate::base::limits::HANDOVER_MS;
use crate::command::{CommandError, integer};
use crate::keeper::handover::NotNow;
use crate::keeper::{Effect, Effects, Keeper, Notice};
use crate::replication::wire::Wish;
use crate::resp::{Args, Reply};

use super::{Answer, Flow};

/// Longest FAILOVER TIMEOUT: commands are held no longer, so a handover that takes longer would be noticed as an error, ms.
const TIMEOUT_MS_MAX: u64 = crate::base::limits::HOLD_MS;

/// What FAILOVER was told.
#[derive(Default)]
struct Failover {
    /// `host:port`.
    to: Option<String>,
    timeout_ms: Option<u64>,
    abort: bool,
    force: bool,
}

impl Failover {
    fn parse(args: &Args<'_>) -> Result<Failover, Cow<'static, str>> {
        let mut options = Failover::default();
        let number = |at| integer(args.get(at)).map_err(|error| error.text().into_owned());
        let mut i = 1;
        while i < args.len() {
            let word = args.get(i);
            let left = args.len() - i - 1;
            if word.eq_ignore_ascii_case(b"abort") && args.len() == 2 {
                options.abort = true;
            } else if word.eq_ignore_ascii_case(b"timeout") && left >= 1 && options.timeout_ms.is_none() {
                let ms = u64::try_from(number(i + 1)?).ok().filter(|ms| *ms > 0);
                options.timeout_ms = Some(ms.ok_or("ERR FAILOVER timeout must be greater than 0")?);
                i += 1;
            } else if word.eq_ignore_ascii_case(b"to") && left >= 2 && options.to.is_none() {
                options.to = Some(format!("{}:{}", String::from_utf8_lossy(args.get(i + 1)), number(i + 2)?));
                i += 2;
            } else if word.eq_ignore_ascii_case(b"force") && !options.force {
                options.force = true;
            } else {
                return syntax();
            }
            i += 1;
        }
        Ok(options)
    }
}

fn syntax<T>() -> Result<T, Cow<'static, str>> {
    Err(CommandError::Syntax.text().into_owned().into())
}

const CANNOT_SAVE: &str =
    "ERR SHUTDOWN SAVE is not possible: everything is in memory alone, and what the other nodes hold stays";
const NONE_UNDER_WAY: &str = "ERR No shutdown in progress.";
const NO_WAY_BACK: &str = "ERR this node is leaving, which cannot be taken back";

impl Keeper {
    /// SHUTDOWN: the process ends as with SIGTERM, or (NOW) at once. Nothing is answered but an error.
    pub(super) fn shutdown(&mut self, args: &Args<'_>, fx: &mut Effects) -> Answer {
        let has = |word: &[u8]| args.iter().skip(1).filter(|arg| arg.eq_ignore_ascii_case(word)).count();
        let [save, nosave, now, force, abort] = [&b"save"[..], b"nosave", b"now", b"force", b"abort"].map(has);
        let known = save + nosave + now + force + abort == args.len() - 1;
        if !known || save > 0 && nosave > 0 || abort > 0 && args.len() > 2 {
            return Err(CommandError::Syntax.to_string().into());
        }
        match () {
            () if abort > 0 && !self.leaving => Err(NONE_UNDER_WAY.into()),
            () if abort > 0 => Err(NO_WAY_BACK.into()),
            () if save > 0 => Err(CANNOT_SAVE.into()),
            () => {
                fx.extend([Notice::info("SHUTDOWN was asked for"), Effect::Shutdown { now: now > 0 }]);
                Ok(Flow::Close)
            }
        }
    }

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

    /// FAILOVER, at the leader. Refusals in the order and the words of redis-server 7.0, which refuses it in cluster mode.
    pub(super) fn failover(&mut self, now: Now, args: &Args<'_>, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        let options = Failover::parse(args)?;
        if options.abort {
            return match self.failover_state() {
                "no-failover" => Err("ERR No failover in progress.".into()),
                _ if self.abort_handover("FAILOVER ABORT", fx) => {
                    reply.ok();
                    Ok(Flow::Done)
                }
                _ => Err("ERR FAILOVER can no longer be aborted: the leader has resigned.".into()),
            };
        }
        if self.failover_state() != "no-failover" {
            return Err("ERR FAILOVER already in progress.".into());
        }
        if self.leading.is_none() {
            return Err("ERR FAILOVER is not valid when server is a replica.".into());
        }
        if options.force {
            return Err(match (options.timeout_ms, &options.to) {
                (Some(_), Some(_)) => "ERR FAILOVER with FORCE could lose writes and is not supported.",
                _ => "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
            }
            .into());
        }
        let target = match &options.to {
            None => None,
            Some(addr) => {
                let others = self.nodes.iter().map(|n| &n.registration).filter(|r| r.id != self.me.id);
                let node = others.into_iter().find(|r| r.client_addr == *addr);
                Some(node.ok_or("ERR FAILOVER target HOST and PORT is not a replica.")?.id.clone())
            }
        };
        let within = options.timeout_ms.unwrap_or(HANDOVER_MS).min(TIMEOUT_MS_MAX);
        self.begin_handover(now, target.as_ref(), within, fx).map_err(|why| match why {
            NotNow::Nobody => "ERR FAILOVER requires connected replicas.".into(),
            NotNow::Unfit(_) => "ERR FAILOVER target replica is not online.".into(),
            why => format!("ERR {why}"),
        })?;
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
        self.ask_to_lead(fx)?;
        reply.ok();
        Ok(Flow::Done)
    }

    /// REPLICAOF: with NO ONE this node shall lead, which Sentinels of others ask for; who follows whom is no client's business.
    pub(super) fn replica_of(&mut self, args: &Args<'_>, reply: &mut Reply<'_>, fx: &mut Effects) -> Answer {
        if !(args.get(1).eq_ignore_ascii_case(b"no") && args.get(2).eq_ignore_ascii_case(b"one")) {
            return Err("ERR REPLICAOF host port is refused: nodes follow the leader that ZooKeeper names; \
                to move the leadership, use FAILOVER or DATAKEEPER HANDOVER, and to copy data from elsewhere, datakeeper import"
                .into());
        }
        if self.leading.is_none() {
            self.ask_to_lead(fx)?;
        }
        reply.ok();
        Ok(Flow::Done)
    }

    /// Asks the leader to hand over to this replica.
    pub(super) fn ask_to_lead(&mut self, fx: &mut Effects) -> Result<(), Cow<'static, str>> {
        if !self.coordinator_up {
            return Err("ERR this node has no contact to the coordination service".into());
        }
        if !self.known.as_ref().is_some_and(|k| k.state.names(&self.me)) {
            return Err("ERR this replica is not in sync".into());
        }
        if !self.ask_leader(Wish::Lead, fx) {
            return Err("ERR Master is down or failed, please use CLUSTER FAILOVER later".into());
        }
        Ok(())
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
