//! The one source of chance of a run: everything that happens follows from its seed.

use datakeeper::base::jitter::Jitter;

/// A seeded generator with the draws that a simulation needs.
#[derive(Clone, Debug)]
pub struct Dice(Jitter);

impl Dice {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(Jitter::new(seed))
    }

    /// 64 fresh bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A number in `low..=high`, each order of magnitude as likely as the next.
    pub fn log_between(&mut self, low: u64, high: u64) -> u64 {
        let (a, b) = ((low.max(1) as f64).ln(), (high.max(1) as f64).ln());
        let share = self.below(1 << 32) as f64 / (1u64 << 32) as f64;
        ((a + (b - a) * share).exp() as u64).clamp(low, high)
    }

    /// True in `per_mille` of a thousand draws.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    /// 16 fresh bytes.
    pub fn nonce(&mut self) -> [u8; 16] {
        self.0.next_u128().to_be_bytes()
    }

    /// 128 fresh bits.
    pub fn token(&mut self) -> u128 {
        self.0.next_u128()
    }
}
