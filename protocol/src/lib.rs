//! Agreement among the nodes of one run: who is in, who coordinates, and which model a round committed.
//!
//! The crate is pure. It holds no clock, no thread, no socket, no file and no randomness of its own: time and seed come
//! in through [`machine::Machine::handle`], and what should happen leaves as [`machine::Effect`]s. The simulator in
//! [`sim`] and the real node drive the very same machine.
//!
//! Read in this order: [`ids`], [`record`], [`message`], `contest` (one decision), `round`, [`machine`].

#![forbid(unsafe_code)]

pub mod bounds;
pub mod chain;
pub mod codec;
mod contest;
mod core;
mod founding;
pub mod ids;
pub mod machine;
pub mod message;
mod peers;
pub mod record;
pub mod reject;
mod requests;
pub mod roster;
mod round;
pub mod rule;
pub mod runfile;
pub mod sign;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod timing;

pub use ids::{Ballot, BlobRef, Hash, Identity, NodeId, RunId, Signature, Time};
pub use reject::Reject;
