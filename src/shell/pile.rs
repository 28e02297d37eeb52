//! Whether a client takes what waits for it.
//!
//! ```text
//!   little waits ──► much waits: held back ──► took nothing for STALLED_MS: it does not read ──► replies pile up
//!        ▲                 ▲                                                                          │
//!        └── all is sent ──┴──────────────────────────── it takes something ◄─────────────────────────┘
//! ```
//! A client that reads while it sends is held back by not reading its commands, as TCP means it. One that sends everything and reads then would wait for
//! ever: it is not read because it does not read. Redis lets replies pile up for either. Here they do for the second alone, who takes nothing for
//! a while; a slow reader is not closed for being slow.
//!
//! A connection has a pile only while much waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::base::limits::{PILE_STEP_BYTES, STALLED_MS};

/// What waits for one client, when it is much.
#[derive(Default)]
pub(super) struct Pile {
    /// Bytes that the Keeper was told of last.
    told: usize,
    stall: Stall,
}

/// What the client does meanwhile.
#[derive(Default)]
enum Stall {
    /// It has just taken something.
    #[default]
    Moves,
    /// It has taken nothing since.
    Doubted(Pin<Box<Sleep>>),
    /// It does not read.
    Stands,
}

impl Pile {
    /// The client has taken something.
    pub(super) fn moved(&mut self) {
        self.stall = Stall::Moves;
    }

    /// Whether the client was found not to read.
    pub(super) fn stands(&self) -> bool {
        matches!(self.stall, Stall::Stands)
    }

    /// The same, to be called while the socket takes nothing; wakes the task once it is so.
    pub(super) fn poll_stands(&mut self, cx: &mut Context<'_>) -> bool {
        if let Stall::Moves = self.stall {
            self.stall = Stall::Doubted(Box::pin(sleep(Duration::from_millis(STALLED_MS))));
        }
        if let Stall::Doubted(until) = &mut self.stall
            && let Poll::Ready(()) = until.as_mut().poll(cx)
        {
            self.stall = Stall::Stands;
        }
        self.stands()
    }

    /// Whether the Keeper is to be told that `unsent` bytes wait: a step more than it was told, or an eighth less.
    pub(super) fn tells(&mut self, unsent: usize) -> bool {
        let more = unsent >= self.told + PILE_STEP_BYTES;
        let less = unsent + PILE_STEP_BYTES.max(self.told / 8) <= self.told || unsent == 0 && self.told > 0;
        if more || less {
            self.told = unsent;
        }
        more || less
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeper_is_told_of_steps_and_of_the_end() {
        let mut pile = Pile::default();
        let step = PILE_STEP_BYTES;
        let told: Vec<bool> = [step - 1, step, 2 * step - 1, 100 * step, 90 * step, 80 * step, 1, 0, 0]
            .map(|bytes| pile.tells(bytes))
            .into();
        assert_eq!(told, [false, true, false, true, false, true, true, true, false]);
    }

    #[tokio::test]
    async fn who_takes_nothing_for_a_while_does_not_read_until_he_does() {
        let mut pile = Pile::default();
        assert!(!pile.stands());
        std::future::poll_fn(|cx| if pile.poll_stands(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(pile.stands());
        pile.moved();
        assert!(!pile.stands());
    }
}
