//! The two clocks, as values that come in with each event.
//!
//! [`Boot`] is `CLOCK_BOOTTIME` (it counts suspend) and serves leases, promises and every timer; [`Wall`] is the Unix clock
//! and serves expiry only. Nothing below the shell can read either by itself.

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
    /// For expiry.
    pub wall: Wall,
}
