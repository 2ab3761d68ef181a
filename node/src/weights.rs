//! Weights that a run begins with and that this node lacks: they are fetched from whoever has them, before the node takes part
//! in anything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use paceline_protocol::{BlobRef, NodeId};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::blobs::{BlobStore, FetchError, SilentPeers, fetch};
use crate::driver::NodeState;
use crate::net::{NetEvent, Network};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What is looked for, and where.
pub(crate) struct Search<'a> {
    pub(crate) network: &'a Network,
    pub(crate) blobs: &'a Arc<BlobStore>,
    pub(crate) node_state: &'a NodeState,
    pub(crate) me: NodeId,
    pub(crate) blob: BlobRef,
}

impl Search<'_> {
    /// Asks every peer in turn until the weights are on disk. Gives what the network told meanwhile and the driver must know:
    /// who is connected, and where this node listens. Messages are passed over; what matters in them is said again.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) async fn fetch(&self, events: &mut mpsc::Receiver<NetEvent>) -> anyhow::Result<Vec<NetEvent>> {
        let (mut heard, mut connected) = (Vec::new(), BTreeSet::new());
        let (mut pause, silent) = (tokio::time::interval(PAUSE), SilentPeers::default());
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell(0, connected.len());
        tracing::info!("the run begins with given weights, {}: looks for a node that has them", self.blob.id.short());
        for turn in 0.. {
            let peers: Vec<NodeId> = connected.iter().copied().collect();
            if !peers.is_empty() {
                let (origin, others) = (peers[turn % peers.len()], &peers);
                let told = |bytes| self.tell(bytes, others.len());
                let asked = (self.me, origin, others.as_slice());
                let fetching = fetch(self.blobs, (self.network, &silent), asked, self.blob, true, told);
                tokio::pin!(fetching);
                let (report, result) = loop {
                    tokio::select! {
                        done = &mut fetching => break done,
                        Some(event) = events.recv() => self.on(event, &mut connected, &mut heard),
                    }
                };
                for (liar, reject) in &report.liars {
                    tracing::warn!(peer = %liar, "served a bad chunk: {reject}");
                    self.node_state.count_refusal(*reject);
                }
                match result {
                    Ok(()) => break,
                    Err(FetchError::Disk(error)) => return Err(error.into()),
                    Err(error) => tracing::debug!("{error}"),
                }
            }
            loop {
                tokio::select! {
                    _ = pause.tick() => break,
                    Some(event) = events.recv() => self.on(event, &mut connected, &mut heard),
                }
            }
        }
        tracing::info!("the weights are here");
        self.node_state.wait_for(None);
        heard.extend(connected.into_iter().map(NetEvent::PeerUp));
        Ok(heard)
    }

    fn tell(&self, bytes: u64, peers: usize) {
        let (id, len) = (self.blob.id.short(), self.blob.len);
        let why = match (bytes, peers) {
            (0, 0) => format!("waits for the weights {id} that the run begins with, and is connected to nobody yet"),
            (0, _) => format!(
                "waits for the weights {id} that the run begins with: none of {peers} nodes has them; one must be started with \
                 `paceline join --model`"
            ),
            _ => format!("fetches the weights {id} that the run begins with: {bytes} of {len} bytes"),
        };
        self.node_state.wait_for(Some(why));
    }

    fn on(&self, event: NetEvent, connected: &mut BTreeSet<NodeId>, heard: &mut Vec<NetEvent>) {
        match event {
            NetEvent::PeerUp(peer) => drop(connected.insert(peer)),
            NetEvent::PeerDown(peer) => drop(connected.remove(&peer)),
            // Others may have it.
            NetEvent::Gossip { receipt, .. } => self.network.judge(receipt, false),
            NetEvent::Listening(_) | NetEvent::Twin { .. } => heard.push(event),
            // Without an answer it is heard as too busy.
            NetEvent::Message { .. } | NetEvent::BlobRequested { .. } | NetEvent::Malformed { .. } => {}
        }
    }
}
