//! Agreement among the nodes of one run: who is in, who coordinates, and which model a round committed.
//!
//! The crate is pure. It holds no clock, no thread, no socket, no file and no randomness of its own: time and seed come
//! in through [`machine::Machine::handle`], and what should happen leaves as [`io::Effect`]s. The simulator in `sim` and
//! the real node drive the very same machine.
//!
//! It is a stack, and imports run downward only (`.ci/layers` proves it). Read it bottom-up:
//!
//! ```text
//! machine      one node: where it stands, routing, entering and leaving chains
//! sync         records for whoever lacks them; chains that this node is not in
//! membership   how a node shows where it stands
//! founding     how a chain begins              round   train, collect, aggregate, propose
//! paxos        one decision: acceptor, election, proposer, witness
//! context      what all of these share         peers   who is connected, and what they said
//! io           inputs, effects, what is written down, events, views
//! message      the envelope; each part above owns its messages in a file of its own
//! chain        what may follow a record
//! record       what is signed and kept
//! runfile      the run file and its canonical form
//! base         ids, bytes, signatures, rosters, bounds, waiting times, refusals
//! ```

#![forbid(unsafe_code)]

pub mod base;
pub mod chain;
mod context;
pub mod founding;
pub mod io;
pub mod machine;
pub mod membership;
pub mod message;
pub mod paxos;
mod peers;
pub mod record;
pub mod round;
pub mod runfile;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod sync;

pub use base::ids::{Ballot, BlobRef, Hash, Identity, NodeId, RunId, Signature, Time};
pub use base::reject::Reject;
pub use base::{bounds, codec, timing};
