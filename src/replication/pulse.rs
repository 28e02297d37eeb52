//! Heartbeats, promises and leases (rule R9), behind a lock of their own.
//!
//! A leader sends a [`Beat`] each `heartbeat_ms`; a member in its epoch promises not to stand until its own clock reads
//! `promise_ms` after the receipt, and echoes the beat's clock; the leader then holds a lease from that member until *its* clock
//! reads min(`lease_ms`, 0.8 × the member's promise) after the sending. Leases are matters of time: a closed connection ends none. A
//! frozen candidate neither promises nor echoes (R4). Appends and acks carry the same fields and count as well. After Gray and
//! Cheriton, "Leases" (SOSP 1989); every clock here is `CLOCK_BOOTTIME`.
//!
//! The thread that sends and answers takes only this lock, never the Keeper's: a long command must not depose a healthy leader.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use super::wire::{self, Beat, Echo, Frame, WireError};
use crate::base::clock::{Boot, Now};
use crate::base::ids::{CopyId, Epoch};
use crate::base::rules::{LeftOut, Rule};

/// The pulse of one node, shared between its Keeper and its pulse thread.
pub type PulseCell = Mutex<Pulse>;

/// What a member last let the leader know.
#[derive(Clone, Copy, Debug)]
struct Sign {
    /// Largest clock of ours that it has echoed in this epoch.
    echoed: Boot,
    /// Its promise, ms.
    promise_ms: u32,
    /// When we last heard it.
    heard: Boot,
    /// By how much its wall clock is ahead of ours, ms, within half of [`ROUND_MS_MAX`]; none before it was told.
    clock_ahead_ms: Option<i64>,
}

/// A round that took longer than this tells nothing about how wall clocks differ, ms.
const ROUND_MS_MAX: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Neither leads nor follows.
    Idle,
    /// Leads this epoch.
    Leading(Epoch),
    /// Follows this epoch.
    Following(Epoch),
    /// Stands, or stood and does not know how it ended: neither grants nor echoes.
    Frozen,
}

/// See the module.
#[derive(Debug)]
pub struct Pulse {
    copy: CopyId,
    mode: Mode,
    heartbeat_ms: u64,
    lease_ms: u64,
    promise_ms: u64,
    /// Leader: pulse connections that may be opened, and whose they are.
    tokens: BTreeMap<u128, CopyId>,
    /// Leader: per member, in this epoch.
    signs: BTreeMap<CopyId, Sign>,
    /// Member: no candidacy before this.
    promised: Boot,
    /// Member: when it last heard the leader that it follows, on whatever connection.
    heard: Boot,
    /// Member: how long it promised when it last heard the leader, ms. What it says of its promise is this, whatever the period is by now.
    granted_ms: u64,
    /// By how much the leader's wall clock is ahead of the clock for expiry, ms: at the leader as its Keeper says, at a member as last heard.
    wall_ahead_ms: i64,
    rules: LeftOut,
}

impl Default for Pulse {
    /// A pulse at rest, before its Keeper has told it what it is.
    fn default() -> Pulse {
        Pulse::new(CopyId(0), 50, 400, 500)
    }
}

impl Pulse {
    /// A pulse at rest.
    #[must_use]
    pub fn new(copy: CopyId, heartbeat_ms: u64, lease_ms: u64, promise_ms: u64) -> Pulse {
        Pulse {
            copy,
            mode: Mode::Idle,
            heartbeat_ms,
            lease_ms,
            promise_ms,
            tokens: BTreeMap::new(),
            signs: BTreeMap::new(),
            promised: Boot(0),
            heard: Boot(0),
            granted_ms: 0,
            wall_ahead_ms: 0,
            rules: LeftOut::default(),
        }
    }

    /// New periods, ms.
    pub fn set_periods(&mut self, heartbeat_ms: u64, lease_ms: u64, promise_ms: u64) {
        (self.heartbeat_ms, self.lease_ms, self.promise_ms) = (heartbeat_ms, lease_ms, promise_ms);
    }

    /// Which rule a test build leaves out.
    pub fn leave_out(&mut self, rules: LeftOut) {
        self.rules = rules;
    }

    /// Period of beats, ms.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u64 {
        self.heartbeat_ms
    }

    /// The copy was given up for a new one: nothing said by the old one counts.
    pub fn set_copy(&mut self, copy: CopyId) {
        self.copy = copy;
        self.mode = Mode::Idle;
    }

    /// Starts leading: no lease is held yet, whatever was echoed before.
    pub fn lead(&mut self, epoch: Epoch) {
        self.mode = Mode::Leading(epoch);
        self.signs.clear();
        self.tokens.clear();
    }

    /// Starts following a new epoch, with a full promise (R11: whoever hears of a new epoch waits a full period).
    pub fn follow(&mut self, now: Now, epoch: Epoch) {
        if self.mode != Mode::Following(epoch) {
            self.mode = Mode::Following(epoch);
            self.heard = now.boot;
            self.promised = self.promised.max(now.boot.plus_ms(self.promise_ms));
        }
    }

    /// R4: from here on nothing is promised and nothing echoed.
    pub fn freeze(&mut self) {
        self.mode = Mode::Frozen;
    }

    /// Neither leads nor follows; a promise given stays given.
    pub fn rest(&mut self) {
        self.mode = Mode::Idle;
    }

    /// Member: nobody counts on the promise any more. The leader of this epoch reads without leases, and is gone; or a test build
    /// leaves out waiting for its end.
    pub fn void_promise(&mut self, now: Now) {
        self.promised = self.promised.min(now.boot);
    }

    /// When the last promise ends.
    #[must_use]
    pub fn promised(&self) -> Boot {
        self.promised
    }

    /// Member: a frame of the leader of `epoch` arrived. Returns whether it is promised and may be answered.
    pub fn grant(&mut self, now: Now, epoch: Epoch) -> bool {
        if self.mode != Mode::Following(epoch) {
            return false;
        }
        self.promised = self.promised.max(now.boot.plus_ms(self.promise_ms));
        self.heard = now.boot;
        self.granted_ms = self.promise_ms;
        true
    }

    /// Member: when it last heard the leader that it follows, or began to follow it.
    #[must_use]
    pub fn leader_heard_at(&self) -> Boot {
        self.heard
    }

    /// What a member puts into acks and echoes as its promise, ms.
    #[must_use]
    pub fn promise_ms(&self) -> u32 {
        let today = self.rules.leaves_out(Rule::PromiseAsGranted);
        let promise = if today { self.promise_ms } else { self.granted_ms };
        promise.min(u64::from(u32::MAX)) as u32
    }

    /// Leader: lets the holder of `token` open a pulse connection for that copy.
    pub fn expect(&mut self, token: u128, copy: CopyId) {
        self.tokens.retain(|_, c| *c != copy);
        self.tokens.insert(token, copy);
    }

    /// Leader: that member is not heard. Its pulse connection is void, lest beats that do arrive there keep renewing a promise that is of no
    /// use here.
    pub fn forget(&mut self, copy: CopyId) {
        self.tokens.retain(|_, c| *c != copy);
    }

    /// Leader: a member's echo or ack arrived.
    pub fn sign(&mut self, now: Now, epoch: Epoch, copy: CopyId, sent_at: u64, promise_ms: u32) {
        if self.mode != Mode::Leading(epoch) || sent_at > now.boot.0 {
            return;
        }
        let sign = self.signs.entry(copy).or_insert(Sign {
            echoed: Boot(0),
            promise_ms,
            heard: now.boot,
            clock_ahead_ms: None,
        });
        sign.heard = now.boot;
        if sent_at >= sign.echoed.0 || self.rules.leaves_out(Rule::LeaseFromSending) {
            sign.echoed = if self.rules.leaves_out(Rule::LeaseFromSending) { now.boot } else { Boot(sent_at) };
            sign.promise_ms = promise_ms;
        }
    }

    /// Leader: until when that member's lease lasts.
    #[must_use]
    pub fn lease_until(&self, copy: CopyId) -> Boot {
        match self.signs.get(&copy) {
            Some(s) if self.rules.leaves_out(Rule::LeaseShorterThanPromise) && s.echoed > Boot(0) => {
                s.echoed.plus_ms(u64::from(s.promise_ms) * 3 / 2)
            }
            Some(s) if s.echoed > Boot(0) => s.echoed.plus_ms(self.lease_ms.min(u64::from(s.promise_ms) * 8 / 10)),
            _ => Boot(0),
        }
    }

    /// Leader: the latest clock of ours that this member has echoed in this epoch. It was unfrozen and followed us at some time
    /// after that.
    #[must_use]
    pub fn echoed_at(&self, copy: CopyId) -> Boot {
        self.signs.get(&copy).map_or(Boot(0), |s| s.echoed)
    }

    /// Leader: when that member was last heard in this epoch.
    #[must_use]
    pub fn heard_at(&self, copy: CopyId) -> Option<Boot> {
        self.signs.get(&copy).map(|s| s.heard)
    }

    /// Leader: by how much that member's wall clock is ahead of ours, ms, if it has told.
    #[must_use]
    pub fn clock_ahead_ms(&self, copy: CopyId) -> Option<i64> {
        self.signs.get(&copy)?.clock_ahead_ms
    }

    /// Leader: by how much its wall clock is ahead of the clock for expiry, ms, to be told to members.
    pub fn set_wall_ahead_ms(&mut self, ms: i64) {
        self.wall_ahead_ms = ms;
    }

    /// Member: the same, as the leader told it last.
    #[must_use]
    pub fn wall_ahead_ms(&self) -> i64 {
        self.wall_ahead_ms
    }

    /// Leader: the beat to send on every pulse connection now, with its length prefix; none when not leading.
    pub fn beat(&mut self, now: Now) -> Option<Bytes> {
        match self.mode {
            Mode::Leading(epoch) => {
                let wall = Some((now.wall, self.wall_ahead_ms));
                Some(wire::beat(&Beat { epoch, sent_at: now.boot.0, wall }))
            }
            _ => None,
        }
    }

    /// Leader: whether a pulse connection with this token is expected.
    #[must_use]
    pub fn opened(&self, token: u128) -> bool {
        self.tokens.contains_key(&token)
    }

    /// Leader: a frame came in on the pulse connection with this token.
    ///
    /// # Errors
    /// The frame is not an echo of the member that the token was given to.
    pub fn echoed(&mut self, now: Now, token: u128, frame: &[u8]) -> Result<(), WireError> {
        match (wire::decode(&Bytes::copy_from_slice(frame))?, self.tokens.get(&token)) {
            (Frame::Echo(e), Some(copy)) if *copy == e.copy => {
                self.sign(now, e.epoch, e.copy, e.sent_at, e.promise_ms);
                let round_ms = now.boot.ms_since(Boot(e.sent_at));
                if let (Some(sign), Some(wall), 0..=ROUND_MS_MAX) = (self.signs.get_mut(&e.copy), e.wall, round_ms) {
                    let then = wall.0.saturating_add(round_ms / 2);
                    sign.clock_ahead_ms = Some(then.cast_signed().saturating_sub(now.wall.0.cast_signed()));
                }
                Ok(())
            }
            _ => Err(WireError("not an echo of the member this pulse belongs to".to_string())),
        }
    }

    /// Member: a frame came in on its pulse connection to the leader. Returns the echo to send, if one may be sent.
    ///
    /// # Errors
    /// The frame is not a beat.
    pub fn heard(&mut self, now: Now, frame: &[u8]) -> Result<Option<Bytes>, WireError> {
        let Frame::Beat(b) = wire::decode(&Bytes::copy_from_slice(frame))? else {
            return Err(WireError("not a beat".to_string()));
        };
        let granted = self.grant(now, b.epoch);
        if let Some((_, ahead_ms)) = b.wall.filter(|_| granted) {
            self.wall_ahead_ms = ahead_ms;
        }
        let (promise_ms, wall) = (self.promise_ms(), Some(now.wall));
        let echo = Echo { epoch: b.epoch, copy: self.copy, sent_at: b.sent_at, promise_ms, wall };
        Ok(granted.then(|| wire::echo(&echo)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Wall;

    fn at(ms: u64) -> Now {
        Now { boot: Boot(ms * 1_000_000), wall: Wall(0) }
    }

    fn pair() -> (Pulse, Pulse) {
        let mut leader = Pulse::new(CopyId(1), 50, 400, 500);
        let mut member = Pulse::new(CopyId(2), 50, 400, 500);
        leader.lead(Epoch(3));
        leader.expect(77, CopyId(2));
        member.follow(at(0), Epoch(3));
        (leader, member)
    }

    fn strip(frame: &Bytes) -> &[u8] {
        &frame[4..]
    }

    #[test]
    fn lease_counts_from_the_sending_and_promise_from_the_receipt() {
        let (mut leader, mut member) = pair();
        let beat = leader.beat(at(1_000)).unwrap();
        let echo = member.heard(at(1_030), strip(&beat)).unwrap().unwrap();
        assert_eq!(member.promised(), at(1_530).boot);
        leader.echoed(at(1_390), 77, strip(&echo)).unwrap();
        assert_eq!(leader.lease_until(CopyId(2)), at(1_400).boot);
    }

    #[test]
    fn a_frozen_member_neither_promises_nor_echoes() {
        let (mut leader, mut member) = pair();
        member.freeze();
        let before = member.promised();
        let beat = leader.beat(at(1_000)).unwrap();
        assert_eq!(member.heard(at(1_001), strip(&beat)), Ok(None));
        assert_eq!(member.promised(), before);
    }

    #[test]
    fn a_promise_that_was_made_longer_counts_once_it_was_given() {
        let (mut leader, mut member) = pair();
        let beat = leader.beat(at(1_000)).unwrap();
        member.heard(at(1_001), strip(&beat)).unwrap();
        for pulse in [&mut leader, &mut member] {
            pulse.set_periods(200, 1_600, 2_000);
        }
        // An acknowledgement that was due anyway says what the member has promised so far.
        leader.sign(at(1_002), Epoch(3), CopyId(2), at(1_000).boot.0, member.promise_ms());
        assert_eq!(leader.lease_until(CopyId(2)), at(1_400).boot);
        assert!(leader.lease_until(CopyId(2)) <= member.promised());
        let beat = leader.beat(at(1_200)).unwrap();
        let echo = member.heard(at(1_201), strip(&beat)).unwrap().unwrap();
        leader.echoed(at(1_202), 77, strip(&echo)).unwrap();
        assert_eq!((leader.lease_until(CopyId(2)), member.promised()), (at(2_800).boot, at(3_201).boot));
    }

    #[test]
    fn a_wall_clock_that_differs_is_noticed_unless_the_round_took_long() {
        let (mut leader, mut member) = pair();
        let on = |ms, wall| Now { wall: Wall(wall), ..at(ms) };
        let beat = leader.beat(on(1_000, 50_000)).unwrap();
        let echo = member.heard(on(1_010, 3_650_010), strip(&beat)).unwrap().unwrap();
        leader.echoed(on(1_300, 50_300), 77, strip(&echo)).unwrap();
        assert_eq!(leader.clock_ahead_ms(CopyId(2)), None);
        leader.set_wall_ahead_ms(-7);
        let beat = leader.beat(on(1_500, 50_500)).unwrap();
        let echo = member.heard(on(1_510, 3_650_510), strip(&beat)).unwrap().unwrap();
        leader.echoed(on(1_520, 50_520), 77, strip(&echo)).unwrap();
        assert_eq!((leader.clock_ahead_ms(CopyId(2)), member.wall_ahead_ms()), (Some(3_600_000), -7));
    }

    #[test]
    fn another_epoch_is_never_granted_and_a_shorter_promise_shortens_the_lease() {
        let (mut leader, mut member) = pair();
        member.follow(at(900), Epoch(4));
        let beat = leader.beat(at(1_000)).unwrap();
        assert_eq!(member.heard(at(1_001), strip(&beat)), Ok(None));
        leader.sign(at(1_002), Epoch(3), CopyId(2), at(1_000).boot.0, 100);
        assert_eq!(leader.lease_until(CopyId(2)), at(1_080).boot);
        leader.lead(Epoch(5));
        assert_eq!(leader.lease_until(CopyId(2)), Boot(0));
    }

    #[test]
    fn a_pulse_with_a_foreign_token_or_a_clock_of_the_future_counts_nothing() {
        let (mut leader, _) = pair();
        let e = Echo { epoch: Epoch(3), copy: CopyId(2), sent_at: 5_000_000, promise_ms: 500, wall: None };
        let echo = wire::echo(&e);
        assert!(leader.echoed(at(10), 78, strip(&echo)).is_err());
        leader.echoed(at(4), 77, strip(&echo)).unwrap();
        assert_eq!(leader.lease_until(CopyId(2)), Boot(0));
    }
}
