//! Manifests of any content, and a fetch from peers that answer what they like.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paceline_protocol::bounds::{BLOB_BYTES_MAX, CHUNK_BYTES};
use paceline_protocol::{Hash, NodeId};
use tokio::time::Instant;

use super::fetch::{Ask, SilentPeers};
use super::{BlobStore, Manifest};
use crate::net::{AskError, BITMAP_BYTES_MAX, BlobAnswer, BlobRequest};

/// A manifest, as a peer gives it or as it lies on disk: its bytes are its own, its ranges lie in the blob, one after the other,
/// and no chunk is longer than the bound.
pub fn manifest(bytes: &[u8]) {
    let Some(manifest) = Manifest::parse_named(bytes, Hash::of(bytes)) else { return };
    let blob = manifest.blob();
    assert_eq!(manifest.encode(), bytes, "two encodings of one manifest");
    assert!(blob.len <= BLOB_BYTES_MAX && Manifest::parse(bytes, blob).is_some());
    let mut end = 0;
    for index in 0..manifest.chunks() {
        let range = manifest.range(index).expect("there is such a chunk");
        assert!(range.start == end && range.end > range.start && range.end - range.start <= CHUNK_BYTES);
        end = range.end;
    }
    assert!(end == blob.len && manifest.range(manifest.chunks()).is_none() && !manifest.is_chunk(u32::MAX, bytes));
}

/// Three chunks, the last one short.
fn model() -> Vec<u8> {
    (0..2 * CHUNK_BYTES + 77).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
}

fn node(i: u8) -> NodeId {
    NodeId::from_public_key([i; 32])
}

/// Peers whose answers are drawn from bytes: each time one that is right, or one that is not.
struct Peers {
    manifest: Manifest,
    data: Vec<u8>,
    answers: Mutex<Vec<u8>>,
    /// Who gave what has the wrong hash.
    lied: Mutex<Vec<NodeId>>,
}

impl Peers {
    fn draw(&self) -> u8 {
        self.answers.lock().expect("no panic holds it").pop().unwrap_or(0)
    }

    fn right(&self, request: BlobRequest) -> BlobAnswer {
        match request {
            BlobRequest::Manifest { .. } => BlobAnswer::Manifest(self.manifest.encode()),
            BlobRequest::Chunk { index, .. } => match self.manifest.range(index) {
                Some(range) => BlobAnswer::Chunk(self.data[range.start as usize..range.end as usize].to_vec()),
                None => BlobAnswer::Unknown,
            },
        }
    }

    fn lie(&self, from: NodeId) {
        self.lied.lock().expect("no panic holds it").push(from);
    }
}

impl Ask for Peers {
    async fn ask(&self, to: NodeId, request: BlobRequest, timeout: Duration) -> Result<BlobAnswer, AskError> {
        let (choice, more) = (self.draw(), self.draw());
        let answer = match choice % 16 {
            0..=4 => self.right(request),
            5 => {
                self.lie(to);
                match self.right(request) {
                    BlobAnswer::Chunk(mut bytes) | BlobAnswer::Manifest(mut bytes) => {
                        let at = usize::from(more) % bytes.len();
                        bytes[at] ^= 1 + choice / 16;
                        if more & 1 == 0 { BlobAnswer::Chunk(bytes) } else { BlobAnswer::Manifest(bytes) }
                    }
                    other => other,
                }
            }
            6 => {
                self.lie(to);
                BlobAnswer::Chunk(vec![choice; usize::from(more)])
            }
            7 => {
                self.lie(to);
                BlobAnswer::Manifest(vec![choice; usize::from(more)])
            }
            8 => BlobAnswer::Unknown,
            9 => BlobAnswer::Lacks { have: vec![choice; (usize::from(more) << 4).min(BITMAP_BYTES_MAX)] },
            10 => BlobAnswer::Lacks { have: vec![more] },
            11 => BlobAnswer::Busy,
            12 => return Err(AskError::Broken("reset".into())),
            13 => return Err(AskError::Unreachable),
            14 => {
                tokio::time::sleep(Duration::from_millis(u64::from(more) * 8)).await;
                self.right(request)
            }
            _ => {
                // A thousand times as fast: tests wait for it.
                tokio::time::sleep(timeout / 1_000).await;
                return Err(AskError::Timeout);
            }
        };
        Ok(answer)
    }

    fn last_heard(&self, _: NodeId) -> Option<Instant> {
        None
    }
}

/// In a fuzz target time passes when nobody does anything.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    #[cfg(feature = "fuzz")]
    builder.start_paused(true);
    builder.enable_time().build().expect("a runtime")
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = runtime();
    static STORE: (tempfile::TempDir, Arc<BlobStore>) = {
        let folder = crate::fuzz::folder();
        let store = BlobStore::open(folder.path()).expect("an empty folder");
        (folder, Arc::new(store))
    };
}

/// A fetch from peers that answer as the bytes choose ends with the blob, whole and right, or with nothing of it; and who gave
/// no wrong bytes is not called a liar.
pub fn fetch(bytes: &[u8]) {
    let data = model();
    let manifest = Manifest::of(&data);
    let blob = manifest.blob();
    let answers = Mutex::new(bytes.iter().rev().copied().collect());
    let peers = Peers { manifest, data, answers, lied: Mutex::default() };
    let others = [node(1), node(2), node(3)];
    let store = STORE.with(|(_, store)| store.clone());
    let (report, result) = RUNTIME.with(|runtime| {
        let silent = SilentPeers::default();
        runtime.block_on(super::fetch(&store, (&peers, &silent), (node(9), node(1), &others), blob, false, |_| {}))
    });
    let lied = peers.lied.lock().expect("no panic holds it").clone();
    assert!(report.liars.iter().all(|(node, _)| lied.contains(node)), "{:?} of {lied:?}", report.liars);
    assert_eq!(store.is_whole(blob.id), result.is_ok());
    if result.is_ok() {
        assert!(store.read(blob.id).expect("it is whole") == peers.data, "a fetch that gives other bytes");
    }
    // What is fresh stays once more: the next fetch begins with nothing.
    (0..2).for_each(|_| store.retain(&BTreeSet::new()));
    assert!(store.manifest(blob.id).is_none());
}
