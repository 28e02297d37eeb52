//! Floor 0: the words everything above is written in.
//!
//! Plain values only: identifiers, the two clocks as parameters, the limits, the seeded generator, the rules that a
//! test build can leave out.
//! Nothing here reads a clock, draws randomness or knows what is built on top of it.

pub mod clock;
pub mod ids;
pub mod jitter;
pub mod limits;
pub mod rules;
pub mod segments;
