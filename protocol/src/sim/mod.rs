//! A world in virtual time for many machines: a network that delays, loses and partitions, disks that take their time,
//! trainers that are fast or slow, crashes at any moment. After every event it checks what must always hold ([`laws`]).
//!
//! Everything follows from one seed. A violation says which law, when, and the seed.

mod disk;
mod laws;
mod world;

#[cfg(test)]
mod tests;

pub use laws::Violation;
pub use world::{Sim, SimOptions};

/// Small deterministic random numbers (SplitMix64, Steele et al. 2014): a simulation is no place for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }
}
