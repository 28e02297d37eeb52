//! Each node's two clocks, which run apart from true time and from each other's.

use datakeeper::base::clock::{Boot, Now, Wall};

/// One millisecond of true time.
pub const MS: u64 = 1_000_000;
/// One microsecond of true time.
pub const US: u64 = 1_000;
const WALL_BASE_MS: i64 = 1_700_000_000_000;

/// The clocks of one machine.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Reading of the boot clock at true time 0.
    pub boot_offset: u64,
    /// How much faster than true time it runs, in parts per million.
    pub rate_ppm: i64,
    /// How far the wall clock is off, ms.
    pub wall_offset_ms: i64,
}

impl Clock {
    /// The boot clock at true time `t`, ns.
    pub fn boot(&self, t: u64) -> Boot {
        let drift = t as i128 * i128::from(self.rate_ppm) / 1_000_000;
        Boot((i128::from(self.boot_offset) + t as i128 + drift) as u64)
    }

    /// Both clocks at true time `t`.
    pub fn now(&self, t: u64) -> Now {
        Now { boot: self.boot(t), wall: Wall((WALL_BASE_MS + self.wall_offset_ms + (t / MS) as i64) as u64) }
    }

    /// First true time at which the boot clock reads `boot` or more.
    pub fn time_of(&self, boot: Boot) -> u64 {
        let ahead = i128::from(boot.0) - i128::from(self.boot_offset);
        if ahead <= 0 {
            return 0;
        }
        let guess = ahead * 1_000_000 / (1_000_000 + i128::from(self.rate_ppm));
        let mut t = (guess - 2).max(0).min(i128::from(u64::MAX / 4)) as u64;
        while t < u64::MAX / 4 && self.boot(t) < boot {
            t += 1;
        }
        t
    }
}
