//! Agreement among the nodes of one run: who is in, who coordinates, and which model a round committed.
//!
//! The crate is pure. It holds no clock, no thread, no socket, no file and no randomness of its own: time and seed come
//! in through [`machine::Machine::handle`], and what should happen leaves as [`machine::Effect`]s. The simulator in
//! [`sim`] and the real node drive the very same machine.
//!
//! Read in this order: [`ids`], [`record`], [`message`], [`contest`] (one Paxos decision), [`machine`] (the way of a
//! round).

#![forbid(unsafe_code)]

pub mod bounds;
pub mod codec;
pub mod ids;
pub mod runfile;

pub use ids::{Ballot, BlobRef, Hash, Identity, NodeId, Signature, Time};
