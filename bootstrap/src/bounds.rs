//! Bounds on finding and meeting others, beside those of `paceline_protocol::bounds`.

use std::time::Duration;

use paceline_protocol::bounds::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, ROSTER_MAX};

/// Connections to one peer: two nodes that dial each other at once have two, a redial beside a dying one a third.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 4;

/// Connections in all: a full roster, and some who ask the way.
pub const CONNECTIONS_MAX: u32 = ROSTER_MAX as u32 + 128;

/// Connections whose handshake is not over, in each direction. Handshakes cost memory and CPU before it is known whom.
pub const CONNECTIONS_PENDING_MAX: u32 = 256;

/// Dials of our own at a time: enough that a dead address holds nobody up, few enough to be polite to the network.
pub const DIALS_MAX: usize = 32;

/// Of these, dials to peers that were never connected: whoever introduces nodes that don't exist takes no more.
pub const STRANGER_DIALS_MAX: usize = DIALS_MAX / 2;

/// Peers whose addresses are remembered.
pub const CONTACTS_MAX: usize = ROSTER_MAX;

/// First wait after a failed dial; it doubles with each failure.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(200);

/// Longest wait between two dials to one peer: who comes back is found this soon.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Failed dials after which a peer that never answered is forgotten, about 3 minutes.
pub const FAILURES_UNTIL_FORGOTTEN: u32 = 20;

/// How long an immediate redial may take before a peer counts as gone. A dead process refuses at once; only a dead machine
/// lets it run out.
pub const REDIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that ends sooner was not wanted by the other end, rather than broken.
pub const LASTING_CONNECTION: Duration = Duration::from_millis(500);

/// How long a connection may stay without saying what it is.
pub const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a peer of another run may stay connected to ask the way.
pub const STRANGER_STAY: Duration = Duration::from_secs(15);

/// How long a peer that turned out to be of another run is not dialled.
pub const STRANGER_REST: Duration = Duration::from_secs(300);

/// How long a peer that broke the rules is refused, and how long an address is remembered for it. Long for an attacker, short
/// for a mistake.
pub const TURNED_AWAY_REST: Duration = Duration::from_secs(60);

/// Peers that are remembered for it.
pub const TURNED_AWAY_MAX: usize = ROSTER_MAX;

/// Peers of one address that are turned away, until only those whom this node knew before may come in from there. Fewer may
/// be one bad process behind the address of many good ones.
pub const OFFENDERS_UNTIL_CLOSED: usize = 8;

/// Connections from one address, beside those of peers that are known: fifty processes behind it, each with two, and some.
pub const CONNECTIONS_PER_HOST_MAX: usize = 128;

/// Connections from one address whose handshake is not over: fifty processes that start at once.
pub const PENDING_PER_HOST_MAX: usize = 64;

/// Connections that one address may begin at once, and the time in which it earns another: fifty processes twice, then 5 a
/// second. Each costs a handshake, before it is known whose it is.
pub const ARRIVALS_BURST: u32 = 128;
/// See [`ARRIVALS_BURST`].
pub const ARRIVAL_EARNED_EVERY: Duration = Duration::from_millis(200);

/// How many of these a connection counts for, from an address that is open only for those who were known before: 1 a second.
pub const ARRIVAL_WEIGHT_IF_CLOSED: u32 = 5;

/// Addresses of which something is remembered.
pub const HOSTS_MAX: usize = 2 * CONNECTIONS_MAX as usize;

/// How often a node introduces itself again.
pub const INTRODUCE_INTERVAL: Duration = Duration::from_secs(30);

/// How long an introduction lasts: four intervals, so that a lost one or two don't matter.
pub const RECORD_LIFE: Duration = Duration::from_secs(120);

/// Runs that are introduced to each other at one node.
pub const RUNS_MAX: usize = 64;

/// Records of one run that are kept to tell others.
pub const RECORDS_PER_RUN_MAX: usize = 1024;

/// Records in one answer.
pub const RECORDS_PER_ANSWER_MAX: usize = 64;

/// Bytes of a signed peer record: its addresses, key, signature and framing.
pub const RECORD_BYTES_MAX: usize = ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 8) + 512;

/// Bytes of a request to introduce.
pub const REQUEST_BYTES_MAX: usize = RECORD_BYTES_MAX + 256;

/// Bytes of an answer: the records, or a run file.
pub const ANSWER_BYTES_MAX: usize = RECORDS_PER_ANSWER_MAX * (RECORD_BYTES_MAX + 8) + 256;

/// Requests to introduce that a peer may make at once, and the time in which it earns another.
pub const REQUESTS_BURST: u32 = 16;

/// See [`REQUESTS_BURST`].
pub const REQUEST_EARNED_EVERY: Duration = Duration::from_millis(500);

/// Exchanges in flight on one connection.
pub const EXCHANGE_STREAMS_MAX: usize = 8;

/// Time for one exchange, both ways.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection stays: a training step may take minutes.
pub const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// Silence after which a QUIC connection is over, in milliseconds. Nothing tells of a process that was killed, as the kernel
/// does for TCP. Three lost keep-alives are needed for a false alarm, which a redial then mends.
pub const QUIC_SILENCE_MAX_MS: u32 = 5_000;

/// How often a QUIC connection shows that it lives.
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(1_250);

/// How often a peer is pinged, so that each hears the other at least so often.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long an answer to a ping may take, on connections that are not listened to; a machine that trains on all cores is
/// slow to answer.
pub const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// More than one ping was missed: should a new connection come up now, it replaces those that are there.
pub const QUIET: Duration = Duration::from_secs(3);

/// A peer that was not heard for so long is dialled anew, beside the connections that are there. After a cable was out TCP
/// waits about as long again before it tries. Long for a busy machine.
pub const SILENCE: Duration = Duration::from_secs(5);

/// A peer that was not heard for so long, and didn't answer the dials meanwhile, is not connected any more.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a dial to a node that was connected before may take until another one is begun beside it: its first packet may
/// have gone while the cable was out, and the next comes late. Seven are under way at most, as the transport gives up each
/// after 10 s, so that `DIALS_MAX` nodes have fewer than `CONNECTIONS_PENDING_MAX`.
pub const DIAL_PATIENCE: Duration = Duration::from_millis(1_500);

/// Longest wait between two dials to a node that was connected until a moment ago, and how long that moment is.
pub const LOST_BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// See [`LOST_BACK_OFF_MAX`].
pub const LOST_LATELY: Duration = Duration::from_secs(300);

/// When so much time has passed between two looks, this process did not run, or hardly: what it did not hear says nothing.
pub const STALL: Duration = Duration::from_secs(1);

/// How long a node looks for its twin where its own identity was said to be.
pub const TWIN_TIMEOUT: Duration = Duration::from_secs(8);

/// How often it looks, for as long as it is said to be there: old words of its own cost it nothing.
pub const TWIN_EVERY: Duration = Duration::from_secs(10);

/// Addresses at which it looks at once: those of some twins.
pub const TWIN_ADDRESSES_MAX: usize = 4 * ADDRESSES_MAX;

/// Bytes of a signature.
pub const SIGNATURE_BYTES_MAX: usize = 128;

/// How long the end of a connection may take. Enough to say the last words; a machine that is gone never hears them.
pub const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Addresses in a ticket: more make it unwieldy.
pub const TICKET_ADDRESSES_MAX: usize = 8;

/// Characters of a ticket: eight of the longest addresses in base58.
pub const TICKET_CHARS_MAX: usize = 4096;

/// Bytes that a relayed connection may carry, each way: a run's updates for some rounds.
pub const RELAY_CIRCUIT_BYTES_MAX: u64 = 1 << 30;

/// How long a relayed connection lasts.
pub const RELAY_CIRCUIT_DURATION_MAX: Duration = Duration::from_secs(3600);

/// Nodes that one bootstrap relays for.
pub const RELAY_RESERVATIONS_MAX: usize = 256;

/// Relayed connections through one bootstrap.
pub const RELAY_CIRCUITS_MAX: usize = 256;
