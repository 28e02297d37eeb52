//! DATAKEEPER POSITION, AFTER and HOLDERS: positions in the history as tokens that clients carry from one node to another.
//!
//! A token is `group:epoch:offset`, as in `0:7:1202`. Offsets grow with every write, whoever leads, and the epoch grows when a cluster starts over empty: so
//! the position of a write is a fencing token, too. Compare epochs, then offsets, as numbers.
//!
//! A client gives the position of its write (or that of its reads) to a connection to another node by AFTER. That only notes it: the reads that follow
//! wait until this node has applied it, up to [`crate::base::limits::HOLD_MS`], and are then sent to the leader. A leader shows everything anyway.
//! A pipeline of AFTER and GET therefore costs one round trip. HOLDERS is what WAIT asks for a position: a leader alone knows it.
//!
//! Not here: positions of groups other than 0, of which there are none yet.

use crate::base::ids::{Epoch, Offset, Position};
use crate::command::CommandError;
use crate::keeper::Keeper;
use crate::resp::{Args, Reply};

use super::{Answer, Flow, Session};

/// The only group.
const GROUP: u64 = 0;
const NOT_A_POSITION: &str = "ERR that is not a position, as in 0:7:1202";
const NO_SUCH_GROUP: &str = "ERR there is no such group";

/// The position that a token stands for.
pub(in crate::keeper) fn parse(token: &[u8]) -> Result<Position, &'static str> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| plain)
    };
    let text = std::str::from_utf8(token).map_err(|_| NOT_A_POSITION)?;
    let mut numbers = text.split(':').map(number);
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten(), numbers.next()) {
        (Some(GROUP), Some(epoch), Some(offset), None) => Ok(Position { epoch: Epoch(epoch), offset: Offset(offset) }),
        (Some(_), Some(_), Some(_), None) => Err(NO_SUCH_GROUP),
        _ => Err(NOT_A_POSITION),
    }
}

impl Keeper {
    /// DATAKEEPER POSITION. The reply waits until what it names is acknowledged: whoever calls sees to that.
    pub(super) fn position(&self, session: &Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let write = match args.len() {
            2 => true,
            3 if args.get(2).eq_ignore_ascii_case(b"write") => true,
            3 if args.get(2).eq_ignore_ascii_case(b"read") => false,
            _ => return Err(CommandError::Syntax.text()),
        };
        // Within EXEC, the effects so far are part of the entry to come.
        let to_come = !self.scratch.is_empty();
        let Position { epoch, offset } = match (write, &self.leading) {
            (_, Some(leading)) if to_come => Position { epoch: leading.epoch, offset: self.log.end().next() },
            (true, _) => session.written_last(),
            (false, Some(_)) => self.log.last(),
            (false, None) => self.shown().max(session.read_after),
        };
        if write && offset == Offset::ZERO {
            reply.null();
            return Ok(Flow::Done);
        }
        reply.bulk(format!("{GROUP}:{epoch}:{offset}").as_bytes());
        Ok(Flow::Done)
    }

    /// DATAKEEPER HOLDERS, at a leader.
    pub(super) fn holders_command(&self, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let position = parse(args.get(2))?;
        if self.leading.is_none() {
            return Err("ERR the leader alone knows who holds a position".into());
        }
        reply.integer(self.holding(position));
        Ok(Flow::Done)
    }

    /// DATAKEEPER AFTER.
    pub(super) fn read_after(&self, session: &mut Session, args: &Args<'_>, reply: &mut Reply<'_>) -> Answer {
        let position = parse(args.get(2))?;
        session.note_seen(Some(position));
        reply.ok();
        Ok(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_three_numbers_of_a_group_that_exists() {
        assert_eq!(parse(b"0:7:1202"), Ok(Position { epoch: Epoch(7), offset: Offset(1202) }));
        assert_eq!(parse(b"1:7:1202"), Err(NO_SUCH_GROUP));
        for token in [&b""[..], b"0:7", b"0:7:1202:1", b"0:+7:1", b"0:7:", b"0:7:99999999999999999999", b"\xff"] {
            assert_eq!(parse(token), Err(NOT_A_POSITION), "{}", token.escape_ascii());
        }
    }
}
