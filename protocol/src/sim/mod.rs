//! A world in virtual time for many machines: a network that delays, loses and partitions, disks that take their time,
//! trainers that are fast or slow, crashes at any moment. After every event it checks what must always hold ([`laws`]).
//!
//! Everything follows from one seed. A violation says which law, when, and the seed.

mod disk;
mod laws;
mod world;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::ids::{Hash, NodeId, Signature};

pub use laws::Violation;
pub use world::{Sim, SimOptions};

thread_local! {
    /// Signatures that were found to hold.
    static CHECKED: RefCell<BTreeSet<Hash>> = const { RefCell::new(BTreeSet::new()) };
}

/// Fifty simulated nodes check the same signature fifty times; in one process, once is enough. It changes no result:
/// only signatures that hold are remembered, under a hash of all that was checked.
pub(crate) fn checked_once(node: &NodeId, bytes: &[u8], signature: &Signature, check: impl FnOnce() -> bool) -> bool {
    let key = Hash::of_parts("checked signature", &[node.as_bytes(), bytes, &signature.to_bytes()]);
    if CHECKED.with_borrow(|checked| checked.contains(&key)) {
        return true;
    }
    let holds = check();
    if holds {
        CHECKED.with_borrow_mut(|checked| checked.insert(key));
    }
    holds
}

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
