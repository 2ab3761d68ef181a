//! Bounds on the node's own protocols, beside those of `paceline_protocol::bounds` and `paceline_bootstrap::bounds`.

use std::time::Duration;

use paceline_protocol::bounds::{MESSAGE_BYTES_MAX, ROSTER_MAX};

/// Commands that wait for the network task: it takes each in microseconds.
pub(super) const COMMANDS_MAX: usize = 1024;

/// Events that wait for the owner beyond its own channel. Over it messages are dropped, which the protocol above repeats.
pub(super) const EVENTS_MAX: usize = 4096;

/// Bytes of messages in those events.
pub(super) const EVENTS_BYTES_MAX: usize = 64 << 20;

/// Messages that wait for one peer. More means that it is slow or gone; the oldest are the least worth.
pub(super) const OUTBOX_MESSAGES_MAX: usize = 512;

/// Bytes of messages that wait for one peer.
pub(super) const OUTBOX_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;

/// How long a message waits for its peer to be reached; after that the protocol above has sent another.
pub(super) const OUTBOX_AGE_MAX: Duration = Duration::from_secs(5);

/// Messages that go to a peer together.
pub(super) const BATCH_MESSAGES_MAX: usize = 64;

/// Bytes at which a batch is full; a single larger message goes alone.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// Bytes of a batch on the wire: the largest message, or many small ones, each with its length.
pub(super) const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 4 * BATCH_MESSAGES_MAX;

/// Batches on the way to one peer. The second goes out only when the first is late: order first, then progress.
pub(super) const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// When a batch is late: many round trips on a LAN, one or two across the world.
pub(super) const BATCH_LATE: Duration = Duration::from_millis(250);

/// Time for a batch and its acknowledgement.
pub(super) const DIRECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a batch to come, once it has begun. Shorter than [`DIRECT_TIMEOUT`], so that it is known whose it was.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(9);

/// Bytes of batches that are being read, or wait for the task, of all peers together.
pub(super) const READING_BYTES_MAX: usize = 64 << 20;

/// KiB of batches that may be coming on one connection: the largest, and small ones beside it. The rest waits, unread.
pub(super) const CONNECTION_KIB_MAX: usize = (BATCH_BYTES_MAX + (1 << 20)) / 1024;

/// Batches that may be coming on one connection: what a peer has in flight, twice.
pub(super) const CONNECTION_BATCHES_MAX: usize = 2 * BATCHES_IN_FLIGHT_MAX;

/// Streams of the direct protocol on one connection, both ways: what both ends may have on the way, and some that are closing.
pub(super) const DIRECT_STREAMS_MAX: usize = 4 * BATCHES_IN_FLIGHT_MAX;

/// Batches that a peer may send at once, and the time in which it earns another: 200 a second.
pub(super) const DIRECT_BURST: u32 = 256;
/// See [`DIRECT_BURST`].
pub(super) const DIRECT_EARNED_EVERY: Duration = Duration::from_millis(5);

/// Messages that a peer may send at once, and the time in which it earns another: 500 a second, many times what a round takes.
pub(super) const MESSAGES_BURST: u32 = 2048;
/// See [`MESSAGES_BURST`].
pub(super) const MESSAGE_EARNED_EVERY: Duration = Duration::from_millis(2);

/// KiB of messages that a peer may send at once, and the time in which it earns another: 16 MiB a second.
pub(super) const KIB_BURST: u32 = 64 << 10;
/// See [`KIB_BURST`].
pub(super) const BYTES_EARNED_EVERY: Duration = Duration::from_micros(61);

/// Gossip frames that a peer may send at once, and the time in which it earns another: 400 a second. A round of a tiny net
/// takes a dozen.
pub(super) const GOSSIP_BURST: u32 = 2048;
/// See [`GOSSIP_BURST`].
pub(super) const GOSSIP_EARNED_EVERY: Duration = Duration::from_micros(2_500);

/// Offences after which a peer is turned away, weighed by their kind, and the time in which one is forgiven.
pub(super) const OFFENCES_MAX: u32 = 64;
/// See [`OFFENCES_MAX`].
pub(super) const OFFENCE_FORGIVEN_EVERY: Duration = Duration::from_secs(1);

/// How long a peer that is gone is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_secs(60);

/// Peers that are remembered.
pub(super) const PEERS_MAX: usize = 2 * ROSTER_MAX;

/// Time for one chunk: 256 KiB at 70 kbit/s.
pub(super) const BLOB_TIMEOUT: Duration = Duration::from_secs(30);

/// How long this node may take to find an answer; after that it is busy.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Blob requests of this node that are on the way to one peer. Eight fill a fast LAN; the rest is for several blobs at once.
pub(super) const ASKS_PER_PEER_MAX: usize = 64;

/// Blob requests of one peer that are being answered: what an honest one may have on the way.
pub(super) const SERVED_PER_PEER_MAX: usize = ASKS_PER_PEER_MAX;

/// Blob requests that are being answered in all: 64 MiB of chunks.
pub(super) const SERVED_MAX: usize = 256;

/// Streams of the blob protocol on one connection: what both ends may have on the way, and some that are closing.
pub(super) const BLOB_STREAMS_MAX: usize = 2 * ASKS_PER_PEER_MAX + 32;

/// Blob requests that a peer may make at once, and the time in which it earns another: 4000 a second, 1 GB of chunks.
pub(super) const BLOB_BURST: u32 = 8192;
/// See [`BLOB_BURST`].
pub(super) const BLOB_EARNED_EVERY: Duration = Duration::from_micros(250);

/// Bytes of a gossip frame beside the message: signature, key, topic, control messages.
pub(super) const GOSSIP_OVERHEAD_BYTES: usize = 16 << 10;

/// Messages of one gossip frame: each travels alone, but for what a peer asked for.
pub(super) const GOSSIP_MESSAGES_MAX: usize = 64;

/// Gossip that waits for somebody to listen.
pub(super) const GOSSIP_WAITING_MAX: usize = 128;

/// How long gossip waits for somebody to listen.
pub(super) const GOSSIP_AGE_MAX: Duration = Duration::from_secs(5);

/// How often waits are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How long a start waits for its first address.
pub(super) const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
