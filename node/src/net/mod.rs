//! The node's network: one task owns the libp2p swarm; a cheap handle drives it, and events come out of it.

mod wire;

pub use wire::{AskError, BITMAP_BYTES_MAX, BlobAnswer, BlobRequest};
