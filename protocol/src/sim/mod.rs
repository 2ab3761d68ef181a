//! A world in virtual time for many machines: a network that delays, loses, repeats and partitions, disks that take their
//! time, fail and fill up, trainers that are fast or slow, nodes that lie, crashes at any moment. After every event it
//! checks what must always hold ([`invariants`]).
//!
//! Everything follows from one seed. A violation says which law, when, and the seed.

mod disk;
pub mod explore;
mod hostile;
mod invariants;
mod rng;
mod world;

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod findings;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod scenarios;

pub use hostile::Hostility;
pub use invariants::Violation;
pub use rng::Rng;
pub use world::{Sim, SimOptions};
