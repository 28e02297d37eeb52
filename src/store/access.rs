//! Access clocks: when a key was last used, or how often, in three bytes of its entry.
//!
//! ```text
//! recency     seconds of this node's clock, 24 bits of them: after 194 days a key looks new again
//! frequency   minute of the last access, 16 bits │ counter, 8 bits
//! ```
//! The counter is probabilistic: it grows with the logarithm of the accesses and loses one for each period without any, so that eight bits
//! tell a million accesses from ten. Both are Redis's (`evict.c`), with its parameters, so that OBJECT IDLETIME and FREQ mean the same.
//!
//! Accesses are a node's own. None is in the log: a replica's clocks know what was read there, and the writes that it applied.

use super::KeyHash;
use crate::base::clock::Boot;
use crate::base::jitter::Jitter;

/// When a key was used, or how often. Which of the two it is follows from what is tracked; after a change it is taken for the other,
/// as in Redis, until the key is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock(pub [u8; 3]);

impl Clock {
    fn new(bits: u32) -> Clock {
        let [a, b, c, _] = bits.to_le_bytes();
        Clock([a, b, c])
    }

    fn bits(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }
}

/// What access clocks tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// When a key was last used.
    Recency,
    /// How often it was used.
    Frequency {
        /// How many accesses a step of the counter stands for: Redis's `lfu-log-factor`.
        log_factor: u32,
        /// After how many minutes the counter loses one; 0 for never: Redis's `lfu-decay-time`.
        decay_minutes: u32,
    },
}

/// Counter of a new key, so that it has time to show what it is worth.
const COUNTER_INITIAL: u32 = 5;
const COUNTER_MAX: u32 = 255;

/// What is tracked, and the time.
#[derive(Debug)]
pub(super) struct Access {
    tracking: Tracking,
    /// What is used now leaves no trace.
    quiet: bool,
    now_s: u32,
    /// The clock that a use leaves as it is: that of a key used this second. None, if uses are counted, or leave no trace.
    unmoved: u32,
    chance: Jitter,
    /// The key whose access was counted last: the write that follows a command's own read is no second access.
    counted: Option<KeyHash>,
}

impl Access {
    pub(super) fn new(seed: u64) -> Access {
        Access {
            tracking: Tracking::Recency,
            quiet: false,
            now_s: 0,
            unmoved: 0,
            chance: Jitter::new(seed),
            counted: None,
        }
    }

    pub(super) fn track(&mut self, tracking: Tracking) {
        self.tracking = tracking;
        self.settle();
    }

    pub(super) fn tell_time(&mut self, now: Boot) {
        self.now_s = (now.0 / 1_000_000_000) as u32;
        self.counted = None;
        self.settle();
    }

    pub(super) fn be_quiet(&mut self, quiet: bool) -> bool {
        let before = std::mem::replace(&mut self.quiet, quiet);
        self.settle();
        before
    }

    fn settle(&mut self) {
        let recency = self.tracking == Tracking::Recency && !self.quiet;
        self.unmoved = if recency { self.stamp().bits() } else { u32::MAX };
    }

    /// What a key has under `Recency` that is used now.
    fn stamp(&self) -> Clock {
        Clock::new(self.now_s)
    }

    #[inline]
    fn is_unmoved(&self, clock: Clock) -> bool {
        clock.bits() == self.unmoved
    }

    /// The clock of a new key.
    #[inline]
    pub(super) fn fresh(&self) -> Clock {
        match self.tracking {
            Tracking::Recency => self.stamp(),
            Tracking::Frequency { .. } => self.frequency(COUNTER_INITIAL),
        }
    }

    /// The clock of a key that is read.
    #[inline]
    pub(super) fn after_read(&mut self, h: KeyHash, clock: Clock) -> Clock {
        if self.is_unmoved(clock) { clock } else { self.read(h, clock) }
    }

    /// The clock of a key that is written.
    #[inline]
    pub(super) fn after_write(&mut self, h: KeyHash, clock: Clock) -> Clock {
        if self.is_unmoved(clock) { clock } else { self.written(h, clock) }
    }

    fn read(&mut self, h: KeyHash, clock: Clock) -> Clock {
        match self.tracking {
            _ if self.quiet => clock,
            Tracking::Recency => self.stamp(),
            Tracking::Frequency { .. } => {
                self.counted = Some(h);
                self.count(clock)
            }
        }
    }

    fn written(&mut self, h: KeyHash, clock: Clock) -> Clock {
        match self.tracking {
            _ if self.quiet => clock,
            Tracking::Recency => self.stamp(),
            Tracking::Frequency { .. } if self.counted.take() == Some(h) => clock,
            Tracking::Frequency { .. } => self.count(clock),
        }
    }

    /// Seconds since the access that left this clock, if that is tracked.
    pub(super) fn idle_s(&self, clock: Clock) -> Option<u32> {
        let idle = self.now_s.wrapping_sub(clock.bits()) & 0xff_ffff;
        matches!(self.tracking, Tracking::Recency).then_some(idle)
    }

    /// The counter as it is now, if that is tracked.
    pub(super) fn counter(&self, clock: Clock) -> Option<u32> {
        let Tracking::Frequency { decay_minutes, .. } = self.tracking else { return None };
        let (counter, since) = (clock.bits() & COUNTER_MAX, clock.bits() >> 8);
        let minutes = self.minute().wrapping_sub(since) & 0xffff;
        Some(counter.saturating_sub(minutes.checked_div(decay_minutes).unwrap_or(0)))
    }

    /// The clock of a key that was used so many seconds ago, or that has this counter, if that is tracked.
    pub(super) fn restored(&self, idle_s: Option<u64>, counter: Option<u8>) -> Option<Clock> {
        match self.tracking {
            Tracking::Recency => idle_s.map(|idle_s| Clock::new(self.now_s.wrapping_sub(idle_s as u32))),
            Tracking::Frequency { .. } => counter.map(|counter| self.frequency(u32::from(counter))),
        }
    }

    fn count(&mut self, clock: Clock) -> Clock {
        let Tracking::Frequency { log_factor, .. } = self.tracking else { return clock };
        let counter = self.counter(clock).unwrap_or(0);
        let beyond = counter.saturating_sub(COUNTER_INITIAL);
        let rises = self.chance.below(u64::from(beyond) * u64::from(log_factor) + 1) == 0;
        self.frequency((counter + u32::from(rises)).min(COUNTER_MAX))
    }

    fn frequency(&self, counter: u32) -> Clock {
        Clock::new(self.minute() << 8 | counter)
    }

    fn minute(&self) -> u32 {
        (self.now_s / 60) & 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: KeyHash = KeyHash(7);

    fn at(access: &mut Access, seconds: u64) {
        access.tell_time(Boot(seconds * 1_000_000_000));
    }

    #[test]
    fn idle_time_is_counted_from_the_last_access_and_across_the_end_of_the_clock() {
        let mut access = Access::new(1);
        at(&mut access, (1 << 24) - 10);
        let clock = access.fresh();
        at(&mut access, (1 << 24) + 20);
        assert_eq!((access.idle_s(clock), access.counter(clock)), (Some(30), None));
        let clock = access.after_read(H, clock);
        assert_eq!(access.idle_s(clock), Some(0));
        at(&mut access, (1 << 24) + 25);
        access.be_quiet(true);
        assert_eq!(access.idle_s(access.restored(Some(99), None).unwrap()), Some(99));
        assert_eq!(access.after_read(H, clock), clock, "quietly");
        assert_eq!(access.after_write(H, clock), clock, "quietly");
    }

    #[test]
    fn counter_tells_how_often_in_steps_that_grow_and_sinks_with_time() {
        let mut access = Access::new(1);
        access.track(Tracking::Frequency { log_factor: 10, decay_minutes: 1 });
        at(&mut access, 600);
        let mut clock = access.fresh();
        let mut counters = Vec::new();
        for n in 1..=100_000 {
            clock = access.after_read(H, clock);
            if [100, 1_000, 100_000].contains(&n) {
                counters.push(access.counter(clock).unwrap());
            }
        }
        // Redis's manual gives 10, 18 and 142 for a factor of 10.
        let near = |counter: u32, wanted: u32| counter.abs_diff(wanted) * 4 <= wanted;
        assert!(near(counters[0], 10) && near(counters[1], 18) && near(counters[2], 142), "{counters:?}");
        at(&mut access, 600 + 30 * 60);
        assert_eq!(access.counter(clock), Some(counters[2] - 30));
        at(&mut access, 600 + 500 * 60);
        assert_eq!((access.counter(clock), access.idle_s(clock)), (Some(0), None));
        access.track(Tracking::Frequency { log_factor: 10, decay_minutes: 0 });
        assert_eq!(access.counter(clock), Some(counters[2]), "nothing sinks");
    }

    #[test]
    fn read_and_write_of_one_command_are_one_access() {
        let mut access = Access::new(1);
        access.track(Tracking::Frequency { log_factor: 0, decay_minutes: 0 });
        let clock = access.fresh();
        let clock = access.after_read(H, clock);
        let clock = access.after_write(H, clock);
        assert_eq!(access.counter(clock), Some(6));
        let clock = access.after_write(H, clock);
        let clock = access.after_write(KeyHash(8), clock);
        assert_eq!(access.counter(clock), Some(8));
        assert_eq!(access.restored(None, Some(200)).and_then(|clock| access.counter(clock)), Some(200));
        assert_eq!(access.restored(Some(5), None), None);
    }
}
