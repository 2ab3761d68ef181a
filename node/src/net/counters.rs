//! What the network counts. Payload bytes, not those of encryption and framing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start. Read them at any time.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Bytes of direct messages sent.
    pub direct_sent: Counter,
    /// Bytes of direct messages received.
    pub direct_received: Counter,
    /// Bytes of own gossip published, once each, however many peers it went to.
    pub gossip_sent: Counter,
    /// Bytes of gossip received, once each.
    pub gossip_received: Counter,
    /// Bytes of manifests and chunks served.
    pub blobs_sent: Counter,
    /// Bytes of manifests and chunks fetched.
    pub blobs_received: Counter,
    /// Requests refused because a peer asked too much at once, or over a bound.
    pub refused: Counter,
    /// Messages that were begun and not ended in time.
    pub stalled: Counter,
    /// Peers that broke the rules so often that they were disconnected, and are refused for a while.
    pub turned_away: Counter,
    /// Connections that were not let in: such a peer's, or too many of one address.
    pub not_let_in: Counter,
    /// Requests and answers that broke a protocol.
    pub malformed: Counter,
    /// Messages dropped because a queue was full or too old, in either direction.
    pub dropped: Counter,
    /// Direct batches that were sent and not acknowledged.
    pub unacknowledged: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// What was counted so far.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl NetCounters {
    /// Payload bytes sent, over all protocols.
    pub fn bytes_sent(&self) -> u64 {
        [&self.direct_sent, &self.gossip_sent, &self.blobs_sent].map(Counter::read).iter().sum()
    }

    /// Payload bytes received, over all protocols.
    pub fn bytes_received(&self) -> u64 {
        [&self.direct_received, &self.gossip_received, &self.blobs_received].map(Counter::read).iter().sum()
    }
}
