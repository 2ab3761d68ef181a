//! The giving side: answers what peers ask about blobs.

use std::time::Duration;

use paceline_protocol::bounds::MANIFEST_BYTES_MAX;

use super::store::BlobStore;
use crate::net::{BlobAnswer, BlobRequest};

/// How long an asker is held for a chunk that is on its way here. It then goes elsewhere.
const WAIT_FOR_CHUNK: Duration = Duration::from_millis(500);

/// Answers a request with what is here. A chunk of a blob that is just being fetched is waited for a little: so a model
/// spreads from node to node while its origin sends it about once.
pub async fn serve(store: &BlobStore, request: BlobRequest) -> BlobAnswer {
    match request {
        BlobRequest::Manifest { blob } => match store.manifest(blob).map(|m| m.encode()) {
            Some(bytes) if bytes.len() <= MANIFEST_BYTES_MAX => BlobAnswer::Manifest(bytes),
            _ => BlobAnswer::Unknown,
        },
        BlobRequest::Chunk { blob, index } => {
            let wait = async {
                loop {
                    if let Some(bytes) = store.chunk(blob, index) {
                        return BlobAnswer::Chunk(bytes);
                    }
                    let Some((_, mut grown)) = store.partial(blob) else { return BlobAnswer::Unknown };
                    // Between the look and the subscription the chunk may have come; nothing else wakes this up.
                    if let Some(bytes) = store.chunk(blob, index) {
                        return BlobAnswer::Chunk(bytes);
                    }
                    let _ = grown.changed().await;
                }
            };
            match tokio::time::timeout(WAIT_FOR_CHUNK, wait).await {
                Ok(answer) => answer,
                Err(_) => store.partial(blob).map_or(BlobAnswer::Unknown, |(have, _)| BlobAnswer::Lacks { have }),
            }
        }
    }
}
