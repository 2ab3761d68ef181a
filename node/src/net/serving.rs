//! Blob requests of peers on their way to an answer.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::request_response::ResponseChannel;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::bounds::{ANSWER_TIMEOUT, SERVED_MAX, SERVED_PER_PEER_MAX};
use super::wire::BlobAnswer;

/// An answer that is ready, and where it goes.
pub(super) struct Served {
    pub(super) peer: PeerId,
    pub(super) channel: ResponseChannel<BlobAnswer>,
    pub(super) answer: BlobAnswer,
}

/// Requests that are being answered.
#[derive(Default)]
pub(super) struct Serving {
    answers: FuturesUnordered<BoxFuture<'static, Served>>,
    per_peer: BTreeMap<PeerId, usize>,
}

impl Serving {
    /// Whether there is room for one more request.
    pub(super) fn has_room(&self) -> bool {
        self.answers.len() < SERVED_MAX
    }

    /// Whether this peer may have one more.
    pub(super) fn has_room_for(&self, peer: &PeerId) -> bool {
        self.per_peer.get(peer).is_none_or(|count| *count < SERVED_PER_PEER_MAX)
    }

    /// Waits for the owner's answer to a peer's request.
    pub(super) fn push(
        &mut self,
        peer: PeerId,
        channel: ResponseChannel<BlobAnswer>,
        answer: oneshot::Receiver<BlobAnswer>,
    ) {
        *self.per_peer.entry(peer).or_default() += 1;
        self.answers.push(Box::pin(async move {
            let answer = timeout(ANSWER_TIMEOUT, answer).await.ok().and_then(Result::ok).unwrap_or(BlobAnswer::Busy);
            Served { peer, channel, answer }
        }));
    }

    /// The next answer that is ready; waits forever if nothing was asked.
    pub(super) async fn next(&mut self) -> Served {
        let Some(served) = self.answers.next().await else { return std::future::pending().await };
        if let Some(count) = self.per_peer.get_mut(&served.peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&served.peer);
            }
        }
        served
    }
}
