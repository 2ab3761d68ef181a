//! A world in virtual time for many machines: a network that delays, loses, repeats and partitions, disks that take their
//! time, fail and fill up, trainers that are fast, slow or stuck, clocks that drift and jump, nodes that lie, crashes at
//! any moment. After every event it checks what must always hold (`invariants`).
//!
//! Everything follows from one seed. A test writes its own story with the deeds of a [`Sim`]; chaos draws one: a [`Plan`] is
//! an explicit list of faults, [`live`] lets it happen, and [`shrink()`] takes away what a failure does not need.

mod ask;
mod chaos;
mod clock;
mod deeds;
mod disk;
pub mod explore;
pub mod fuzz;
mod hostile;
mod invariants;
mod plan;
mod rng;
mod shrink;
mod tally;
mod trap;
mod wires;
mod world;

#[cfg(test)]
mod findings;
#[cfg(test)]
mod last_resort;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod scenarios;

pub use chaos::{COMMIT_IN_BAD_WEATHER_MS, COMMIT_MS, Failure, Life, live};
pub use hostile::Hostility;
pub use invariants::Violation;
pub use plan::{Fault, LASTING, Liars, Plan, Planned, Range};
pub use rng::Rng;
pub use shrink::{Shrunk, shrink};
pub use tally::Tally;
pub use trap::{Blow, Moment, Trap};
pub use wires::{Block, BlockId};
pub use world::{Health, Network, Sim, SimOptions, Trainer};
