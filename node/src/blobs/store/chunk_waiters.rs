//! Who waits for more of a blob, and for how long there is hope: as long as somebody fetches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use paceline_protocol::Hash;
use tokio::sync::watch;

use super::BlobStore;

/// The blobs that are being fetched, with those who wait for more of each.
#[derive(Debug, Default)]
pub(super) struct ChunkWaiters(BTreeMap<Hash, Waited>);

#[derive(Debug)]
struct Waited {
    fetches: usize,
    changed: watch::Sender<()>,
}

impl ChunkWaiters {
    /// Wakes those who wait for more of a blob.
    pub(super) fn tell(&self, id: Hash) {
        if let Some(waited) = self.0.get(&id) {
            waited.changed.send_replace(());
        }
    }

    pub(super) fn watch(&self, id: Hash) -> Option<ChunkSignal> {
        self.0.get(&id).map(|waited| ChunkSignal(waited.changed.subscribe()))
    }
}

/// Wakes up when a blob has grown.
#[derive(Debug)]
pub struct ChunkSignal(watch::Receiver<()>);

impl ChunkSignal {
    /// Waits for a change since this was asked for; comes also when the fetch has ended.
    pub async fn changed(&mut self) {
        let _ = self.0.changed().await;
    }
}

/// A fetch that is under way. It ends when this is dropped.
#[derive(Debug)]
pub struct FetchGuard {
    store: Arc<BlobStore>,
    id: Hash,
}

impl FetchGuard {
    pub(super) fn begin(store: Arc<BlobStore>, id: Hash) -> Self {
        let fresh = || Waited { fetches: 0, changed: watch::Sender::new(()) };
        store.state().waiters.0.entry(id).or_insert_with(fresh).fetches += 1;
        Self { store, id }
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(waited) = state.waiters.0.get_mut(&self.id) {
            waited.fetches -= 1;
            if waited.fetches == 0 {
                // Those who wait wake up, for nothing more will come.
                state.waiters.0.remove(&self.id);
            }
        }
    }
}
