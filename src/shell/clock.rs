//! The two clocks, read from the operating system: the only place that does.
//!
//! `CLOCK_BOOTTIME` counts the time a machine was suspended, so a lease cannot outlive a suspend; std's `Instant`
//! (`CLOCK_MONOTONIC`) does not, hence the system call. Both clocks are answered by the vDSO, about 20 ns each.
#![allow(unsafe_code)]

use crate::base::clock::{Boot, Now, Wall};

/// Both clocks at this moment.
#[must_use]
pub fn now() -> Now {
    Now { boot: boot(), wall: wall() }
}

/// The boot clock alone.
#[must_use]
pub fn boot() -> Boot {
    let at = read(libc::CLOCK_BOOTTIME);
    Boot(at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64)
}

/// The Unix clock alone. A clock set before 1970 reads as 0.
#[must_use]
pub fn wall() -> Wall {
    let at = read(libc::CLOCK_REALTIME);
    Wall((at.tv_sec.max(0) as u64) * 1_000 + at.tv_nsec as u64 / 1_000_000)
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid, exclusive place for one timespec for the length of the call, which only writes there.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut at) };
    assert_eq!(answer, 0, "this system has no clock {clock}: leases would be blind");
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_moves_forward_and_wall_clock_is_the_unix_clock() {
        let first = boot();
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(boot() >= first);
        assert!(wall().0.abs_diff(unix) < 10_000, "wall {} against {unix}", wall().0);
    }
}
