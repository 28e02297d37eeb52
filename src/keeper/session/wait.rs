//! WAIT: how many replicas hold what this connection wrote.
//!
//! With `acks: in_sync` an answered write is held by the whole in-sync set anyway; WAIT counts the replicas outside it, too, and
//! with `acks: leader` it is the only way to know. A blocked WAIT is executed again whenever a replica acknowledges something.
//!
//! A node that passes writes on (`keeper/forward`) asks the leader how many hold the position of the client's last write, which came with the reply to
//! that write: first at once, then every [`ASK_AGAIN_MS`] until enough do or the time is over. So nothing waits at the leader, and no connection to it
//! is taken meanwhile.

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, Position};
use crate::command::{CommandError, integer};
use crate::keeper::Keeper;
use crate::resp::{Args, Reply};

use super::clients::Unblock;
use super::{Answer, Flow, Session, timeout_ms};

const ON_A_REPLICA: &str = "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica \
    is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.";
const DEPOSED: &str = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";

/// How often the leader is asked for a client that waits at another node, ms.
const ASK_AGAIN_MS: u64 = 20;

/// What a WAIT knows whose client is at a node that passes writes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::keeper) enum Holders {
    /// Nothing.
    #[default]
    Unasked,
    /// The question is on its way.
    Asked,
    /// What the leader answered; none if it was lost.
    Told(Option<i64>),
}

impl Keeper {
    pub(super) fn wait(
        &mut self,
        now: Now,
        conn: ConnId,
        session: &mut Session,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Answer {
        self.blocked.remove(&conn);
        let (unblocked, told) = (session.unblocked.take(), std::mem::take(&mut session.holders));
        if unblocked == Some(Unblock::Error) {
            return Err("UNBLOCKED client unblocked via CLIENT UNBLOCK".into());
        }
        let elsewhere = self.leading.is_none() && !session.executing_transaction && self.passes_on(session);
        if self.leading.is_none() && !elsewhere {
            return Err(if session.wait_until.is_some() { DEPOSED } else { ON_A_REPLICA }.into());
        }
        let wanted = integer(args.get(1)).map_err(|_| CommandError::NotInteger.to_string())?;
        let until = match timeout_ms(now, args.get(2))? {
            0 => Boot(u64::MAX),
            ms => now.boot.plus_ms(ms),
        };
        let mut until = *session.wait_until.get_or_insert(until);
        if unblocked.is_some() {
            // As if its time were over: it is told how many there are.
            until = now.boot;
            session.wait_until = Some(until);
        }
        let holding = match told {
            _ if !elsewhere => self.holding(session.written_last()),
            Holders::Told(told) => told.ok_or(DEPOSED)?,
            Holders::Unasked | Holders::Asked if self.leader_is_confirmed(now) => return Ok(Flow::Ask),
            Holders::Unasked | Holders::Asked if now.boot >= until => return Err(DEPOSED.into()),
            Holders::Unasked | Holders::Asked => return Ok(Flow::Block { until }),
        };
        if holding >= wanted || now.boot >= until {
            reply.integer(holding);
            return Ok(Flow::Done);
        }
        Ok(Flow::Block { until: if elsewhere { until.min(now.boot.plus_ms(ASK_AGAIN_MS)) } else { until } })
    }

    /// Replicas that are connected and hold everything up to this position; none hold what is lost.
    pub(super) fn holding(&self, position: Position) -> i64 {
        let followers = self.leading.iter().flat_map(|leading| leading.followers.values());
        let holders = followers.filter(|f| f.link.is_some() && f.whole && f.matched >= position.offset);
        if self.is_lost(position) { 0 } else { holders.count() as i64 }
    }
}
