//! WAIT: how many replicas hold what this connection wrote.
//!
//! With `acks: in_sync` an answered write is held by the whole in-sync set anyway; WAIT counts the replicas outside it, too, and
//! with `acks: leader` it is the only way to know. A blocked WAIT is executed again whenever a replica acknowledges something.

use crate::base::clock::{Boot, Now};
use crate::base::ids::{ConnId, Offset};
use crate::command::{CommandError, integer};
use crate::keeper::Keeper;
use crate::resp::{Args, Reply};

use super::clients::Unblock;
use super::{Answer, Flow, Session};

const ON_A_REPLICA: &str = "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica \
    is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.";
const DEPOSED: &str = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";

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
        let unblocked = session.unblocked.take();
        if unblocked == Some(Unblock::Error) {
            return Err("UNBLOCKED client unblocked via CLIENT UNBLOCK".into());
        }
        if self.leading.is_none() {
            return Err(if session.wait_until.is_some() { DEPOSED } else { ON_A_REPLICA }.into());
        }
        let wanted = integer(args.get(1)).map_err(|_| CommandError::NotInteger.to_string())?;
        let until = match integer(args.get(2)) {
            Ok(0) => Boot(u64::MAX),
            Ok(ms) => now.boot.plus_ms(u64::try_from(ms).map_err(|_| "ERR timeout is negative")?),
            Err(_) => return Err("ERR timeout is not an integer or out of range".into()),
        };
        let until = *session.wait_until.get_or_insert(until);
        let holding = self.holding(session.last_write);
        if holding >= wanted || now.boot >= until || unblocked.is_some() {
            reply.integer(holding);
            return Ok(Flow::Done);
        }
        Ok(Flow::Block { until })
    }

    /// Replicas that are connected and hold everything up to `offset`.
    fn holding(&self, offset: Offset) -> i64 {
        let followers = self.leading.iter().flat_map(|leading| leading.followers.values());
        followers.filter(|f| f.link.is_some() && f.whole && f.matched >= offset).count() as i64
    }
}
