//! Blobs: models and updates, on disk and between nodes, in chunks that are each checked
//! (docs/protocol.md, section 13).
//!
//! [`BlobStore`] keeps them, [`fetch`] gets one from several holders at once, [`serve`] gives out what is here.

mod fetch;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod manifest;
mod offline;
mod serve;
mod store;

pub use fetch::{Ask, FetchError, Fetched, SilentPeers, fetch};
pub use manifest::Manifest;
pub use offline::BlobFolder;
pub use serve::serve;
pub use store::{BlobError, BlobStore, ChunkSignal, FetchGuard};
