//! The fetches under way: a task each.

use std::collections::BTreeMap;
use std::sync::Arc;

use paceline_protocol::io::{FetchFailure, Input, Purpose};
use paceline_protocol::{BlobRef, Hash, NodeId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::blobs::{BlobStore, FetchError, SilentPeers, fetch};
use crate::learn::reject_of;
use crate::net::Network;
use paceline_model::StateFormat;

use super::node_state::NodeState;

/// Fetches that move bytes at a time; the others wait for their turn.
const FETCHES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Fetches {
    me: NodeId,
    network: Network,
    blobs: Arc<BlobStore>,
    state: StateFormat,
    inputs: mpsc::Sender<Input>,
    node_state: Arc<NodeState>,
    silent: SilentPeers,
    turns: Arc<Semaphore>,
    tasks: BTreeMap<Hash, AbortHandle>,
}

impl Fetches {
    pub(super) fn new(
        me: NodeId,
        network: Network,
        blobs: Arc<BlobStore>,
        state: StateFormat,
        inputs: mpsc::Sender<Input>,
        node_state: Arc<NodeState>,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(FETCHES_MAX));
        let silent = SilentPeers::default();
        Self { me, network, blobs, state, inputs, node_state, silent, turns, tasks: BTreeMap::new() }
    }

    pub(super) fn begin(&mut self, blob: BlobRef, purpose: Purpose, origin: NodeId, others: Vec<NodeId>) {
        // It stays on disk, whole or in part, until the machine knows how it ended.
        self.blobs.pin(blob.id);
        let (network, store, inputs) = (self.network.clone(), self.blobs.clone(), self.inputs.clone());
        let (me, state, turns, node_state) = (self.me, self.state, self.turns.clone(), self.node_state.clone());
        let silent = self.silent.clone();
        let task = tokio::spawn(async move {
            let _turn = turns.acquire().await;
            let durable = purpose == Purpose::Model;
            let (report, result) =
                fetch(&store, (&network, &silent), (me, origin, &others), blob, durable, |_| {}).await;
            for (liar, reject) in &report.liars {
                tracing::warn!(peer = %liar, "served a bad chunk: {reject}");
                node_state.count_refusal(*reject);
            }
            let checked = match result {
                Ok(()) if purpose == Purpose::Model => check(&store, blob.id, state).await,
                Ok(()) => Ok(()),
                Err(error) => {
                    match error {
                        FetchError::Disk(_) => tracing::warn!("{error}"),
                        _ => tracing::debug!("{error}"),
                    }
                    Err(failure_of(&error))
                }
            };
            let input = match checked {
                Ok(()) => Input::Fetched { blob: blob.id },
                Err(failure) => Input::FetchFailed { blob: blob.id, failure },
            };
            let _ = inputs.send(input).await;
        });
        self.tasks.insert(blob.id, task.abort_handle());
    }

    /// The machine has heard how a fetch ended.
    pub(super) fn ended(&mut self, blob: Hash) {
        if self.tasks.remove(&blob).is_some() {
            self.blobs.unpin(blob);
        }
    }

    pub(super) fn cancel(&mut self, blob: Hash) {
        if let Some(task) = self.tasks.remove(&blob) {
            task.abort();
            self.blobs.unpin(blob);
        }
    }

    pub(super) fn stop(&self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

fn failure_of(error: &FetchError) -> FetchFailure {
    match error {
        FetchError::Unreachable(_) => FetchFailure::Unreachable,
        FetchError::WrongHash(_) => FetchFailure::Invalid(paceline_protocol::Reject::WrongHash),
        FetchError::Disk(_) => FetchFailure::Disk,
    }
}

/// Whether a fetched blob is a model of the run.
async fn check(store: &Arc<BlobStore>, id: Hash, state: StateFormat) -> Result<(), FetchFailure> {
    let store = store.clone();
    let check = move || match store.read(id) {
        Ok(bytes) => state.check(&bytes).map_err(|e| FetchFailure::Invalid(reject_of(&e))),
        Err(_) => Err(FetchFailure::Disk),
    };
    tokio::task::spawn_blocking(check).await.unwrap_or(Err(FetchFailure::Disk))
}
