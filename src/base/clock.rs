//! The two clocks, as values that come in with each event, and the one that is made of both.
//!
//! [`Boot`] is `CLOCK_BOOTTIME` (it counts suspend) and serves leases, promises and every timer; [`Wall`] is Unix time. The machine's wall clock may
//! be wrong, and may be set: keys expire by [`Steady`]. Nothing below the shell can read either by itself.

use std::fmt;

/// `CLOCK_BOOTTIME` of this process's machine, in nanoseconds. Never compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

impl Boot {
    /// The instant that many milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Boot {
        Boot(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Whole milliseconds from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Boot) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Unix time in milliseconds. A key's expiry is one of these: the key is gone at or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One reading of both clocks, taken by the shell after the event it accompanies had arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For leases, promises and timers.
    pub boot: Boot,
    /// What a person's watch shows, or should; keys expire by another clock, see [`Steady`].
    pub wall: Wall,
}

/// A clock that neither jumps nor stands still: it goes by elapsed boot time, and is led towards the wall clock by at most a tenth of that. So a time to
/// live that it measures is right within a tenth, whatever is done to the wall clock; and it never runs back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steady {
    /// What it shows, in nanoseconds since 1970; enough until 2554.
    ns: u64,
    /// When it showed that.
    at: Boot,
}

const NS_PER_MS: u64 = 1_000_000;
/// Of elapsed time, the part by which it is led at most: one tenth.
const LED_BY: u64 = 10;

impl Steady {
    /// A clock that shows `wall` at `at`.
    #[must_use]
    pub fn starting(wall: Wall, at: Boot) -> Steady {
        Steady { ns: wall.0.saturating_mul(NS_PER_MS), at }
    }

    /// Goes on to `now`, and shows what it is then.
    #[inline]
    pub fn go_on(&mut self, now: Now) -> Wall {
        let elapsed = now.boot.0.saturating_sub(self.at.0);
        if elapsed > 0 {
            self.at = now.boot;
            self.ns = self.ns.saturating_add(elapsed);
            let (shown, most) = (self.ns / NS_PER_MS, elapsed / LED_BY);
            // Within the same millisecond there is nothing to lead.
            if now.wall.0 > shown {
                let behind = (now.wall.0 - shown).saturating_mul(NS_PER_MS);
                self.ns = self.ns.saturating_add(behind.min(most));
            } else {
                let ahead = (shown - now.wall.0).saturating_mul(NS_PER_MS);
                self.ns -= ahead.min(most);
            }
        }
        Wall(self.ns / NS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(boot_ms: u64, wall_ms: u64) -> Now {
        Now { boot: Boot(boot_ms * NS_PER_MS), wall: Wall(wall_ms) }
    }

    #[test]
    fn a_steady_clock_follows_a_right_one_to_the_millisecond() {
        let mut clock = Steady::starting(Wall(5_000), Boot(0));
        for ms in 1..10_000 {
            assert_eq!(clock.go_on(now(ms, 5_000 + ms)), Wall(5_000 + ms));
        }
    }

    #[test]
    fn a_steady_clock_measures_right_within_a_tenth_wherever_the_wall_clock_is_set() {
        const HOUR: i64 = 3_600_000;
        let start = 100 * HOUR;
        for step in [HOUR, -HOUR, 700, -700, 30 * HOUR, -99 * HOUR] {
            let mut clock = Steady::starting(Wall(start as u64), Boot(0));
            let mut shown = start;
            for tick in 1..1_000_i64 {
                let ms = tick * 7;
                let after = clock.go_on(now(ms as u64, (start + ms + step) as u64)).0 as i64;
                assert!(after > shown, "it never stands still");
                let (passed, wanted) = (after - start, ms + step);
                assert!(passed >= ms * 9 / 10 - 1 && passed <= ms * 11 / 10 + 1, "{ms} ms, {passed} by the clock");
                // It never goes past what it is led to, either.
                assert!(
                    if step > 0 { passed <= wanted } else { passed >= wanted },
                    "{ms} ms, {passed}, led to {wanted}"
                );
                shown = after;
            }
            if step.abs() == 700 {
                assert_eq!(clock.go_on(now(7_000, (start + 7_000 + step) as u64)), Wall((start + 7_000 + step) as u64));
            }
        }
        assert_eq!(Steady::starting(Wall(u64::MAX), Boot(0)).go_on(now(5, 0)).0, u64::MAX / NS_PER_MS);
    }
}
