//! The parts of DEBUG that need a connection or the node: SLEEP and SET-ACTIVE-EXPIRE; the others are in `command/debug`.
//!
//! Redis sleeps with everything it has. Here the lock is the node's lease on life (who holds it for long is taken for dead), so a sleep is a
//! wait of the connection that asked for it. Within a transaction nothing waits.

use crate::base::clock::Now;
use crate::command::{CommandError, integer};
use crate::keeper::Keeper;
use crate::resp::{Args, Reply};

use super::{Answer, Flow, Session, in_range};

pub(super) fn sleep(now: Now, session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
    let seconds = std::str::from_utf8(args.get(2)).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| *seconds >= 0.0).ok_or_else(|| CommandError::NotFloat.to_string())?;
    // What is beyond the range of the type becomes its end, and is refused.
    let ms = in_range(now, (seconds * 1_000.0) as i64)?;
    let until = *session.wait_until.get_or_insert(now.boot.plus_ms(ms));
    if now.boot < until {
        return Ok(Flow::Block { until });
    }
    reply.ok();
    Ok(Flow::Done)
}

impl Keeper {
    /// What is expired is hidden all the same, and deleted when somebody asks for it.
    pub(super) fn set_active_expire(&mut self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        self.expires_actively = integer(args.get(2)).map_err(|error| error.to_string())? != 0;
        reply.ok();
        Ok(Flow::Done)
    }
}
