//! The giving side: answers what peers ask about blobs.

use std::sync::Arc;
use std::time::Duration;

use paceline_protocol::Hash;
use paceline_protocol::bounds::MANIFEST_BYTES_MAX;

use super::fetch::SILENCE;
use super::store::BlobStore;
use crate::net::{BlobAnswer, BlobRequest};

/// How long an asker is held for a chunk that is on its way here. It then goes elsewhere. Shorter than what it takes for
/// silence.
const WAIT_FOR_CHUNK: Duration = Duration::from_millis(250);
const _: () = assert!(WAIT_FOR_CHUNK.as_millis() < SILENCE.as_millis());

/// Answers a request with what is here. A chunk of a blob that is just being fetched is waited for a little: so a model
/// spreads from node to node while its origin sends it about once.
pub async fn serve(store: &Arc<BlobStore>, request: BlobRequest) -> BlobAnswer {
    match request {
        BlobRequest::Manifest { blob } => match store.manifest(blob).map(|m| m.encode()) {
            Some(bytes) if bytes.len() <= MANIFEST_BYTES_MAX => BlobAnswer::Manifest(bytes),
            _ => BlobAnswer::Unknown,
        },
        BlobRequest::Chunk { blob, index } => {
            let answer = tokio::time::timeout(WAIT_FOR_CHUNK, wait_for_chunk(store, blob, index)).await;
            let lacks = || store.bitmap(blob).map_or(BlobAnswer::Unknown, |have| BlobAnswer::Lacks { have });
            answer.ok().flatten().map_or_else(lacks, BlobAnswer::Chunk)
        }
    }
}

/// A chunk that is here, or comes while the blob is being fetched.
async fn wait_for_chunk(store: &Arc<BlobStore>, blob: Hash, index: u32) -> Option<Vec<u8>> {
    loop {
        // Asked for before the look, so that no chunk slips in between.
        let signal = store.chunk_signal(blob);
        if store.has_chunk(blob, index) {
            let store = store.clone();
            return tokio::task::spawn_blocking(move || store.chunk(blob, index)).await.ok().flatten();
        }
        signal?.changed().await;
    }
}
