//! The ground that everything else stands on: identities and hashes, bytes, signatures, bounds, waiting times, refusals.

pub mod aggregation;
pub mod bounds;
pub mod codec;
pub mod ids;
#[cfg(test)]
pub(crate) mod plant;
pub mod reject;
pub mod roster;
pub mod signed;
#[cfg(test)]
pub(crate) mod table;
pub mod timing;
