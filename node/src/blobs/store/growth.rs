//! Who waits for more of a blob, and for how long there is hope: as long as somebody fetches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use paceline_protocol::Hash;
use tokio::sync::watch;

use super::BlobStore;

/// The blobs that are being fetched.
#[derive(Debug, Default)]
pub(super) struct Growth(BTreeMap<Hash, Fetched>);

#[derive(Debug)]
struct Fetched {
    fetches: usize,
    changed: watch::Sender<()>,
}

impl Growth {
    /// Wakes those who wait for more of a blob.
    pub(super) fn tell(&self, id: Hash) {
        if let Some(fetched) = self.0.get(&id) {
            fetched.changed.send_replace(());
        }
    }

    pub(super) fn watch(&self, id: Hash) -> Option<Grown> {
        self.0.get(&id).map(|fetched| Grown(fetched.changed.subscribe()))
    }
}

/// Wakes up when a blob has grown.
#[derive(Debug)]
pub struct Grown(watch::Receiver<()>);

impl Grown {
    /// Waits for a change since this was asked for; comes also when the fetch has ended.
    pub async fn changed(&mut self) {
        let _ = self.0.changed().await;
    }
}

/// A fetch that is under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Fetching {
    store: Arc<BlobStore>,
    id: Hash,
}

impl Fetching {
    pub(super) fn begin(store: Arc<BlobStore>, id: Hash) -> Self {
        let fresh = || Fetched { fetches: 0, changed: watch::Sender::new(()) };
        store.state().growth.0.entry(id).or_insert_with(fresh).fetches += 1;
        Self { store, id }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(fetched) = state.growth.0.get_mut(&self.id) {
            fetched.fetches -= 1;
            if fetched.fetches == 0 {
                // Those who wait wake up, for nothing more will come.
                state.growth.0.remove(&self.id);
            }
        }
    }
}
