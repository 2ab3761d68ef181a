//! Every bound on what comes from outside, each with its reason. Over a bound: a typed refusal, a counter, a log line,
//! and no allocation.

/// Version of the protocol: part of every protocol name, topic and signature.
pub const PROTOCOL_VERSION: u32 = 5;

/// Members of a roster. With samples and deltas bounded below, sums of updates stay within 2^62.
pub const ROSTER_MAX: usize = 4096;

/// Samples that one contribution may claim (2^20): keeps the exact sums within 2^62.
pub const SAMPLES_MAX: u64 = 1 << 20;

/// Bytes of a model or an update: 4 GiB, a model of a billion parameters.
pub const BLOB_BYTES_MAX: u64 = 4 << 30;

/// Bytes of a chunk. Large enough that a request's cost is small beside it, small enough that a lost one is cheap to
/// fetch again and that both ends may hold a few in memory.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// Bytes of a manifest: 32 a chunk for the largest blob, and a header.
pub const MANIFEST_BYTES_MAX: usize = 32 * (BLOB_BYTES_MAX / CHUNK_BYTES) as usize + 64;

/// Bytes of a gossiped message. libp2p's limit is 64 KiB; larger messages are asked for directly after a beat.
pub const GOSSIP_BYTES_MAX: usize = 48 << 10;

/// Bytes of a message sent directly: a proposal or a commit of the largest roster.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Records sent in one answer to a node that catches up; it asks again for more.
pub const RECORDS_PER_ANSWER_MAX: usize = 64;

/// Bytes of a run file, as text or in canonical form.
pub const RUN_FILE_BYTES_MAX: usize = 64 << 10;

/// Rounds of a run: the records of all of them are held in memory.
pub const ROUNDS_MAX: u64 = 100_000;

/// Rounds that a chain may claim to continue, those without an update included: so many steps of a schedule cost a
/// millisecond.
pub const CONTINUED_ROUNDS_MAX: u64 = 1 << 20;

/// Bytes of a node's or a run's name.
pub const NAME_BYTES_MAX: usize = 64;

/// Addresses that a node announces of itself.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes of one announced address.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Proofs of foundings that came to nothing, kept for members that still wait for them. A founding is begun once all its
/// members said that they would, so one comes to nothing only when somebody dies in the middle of it.
pub const ABORTED_FOUNDINGS_MAX: usize = 1024;

/// Join and leave requests that wait for a record.
pub const REQUESTS_MAX: usize = 256;

/// Silent members that a vote names. The others follow with the next records; each carries a quorum's votes.
pub const SILENT_MAX: usize = 8;

/// Rounds after which a join or leave request is void.
pub const REQUEST_ROUNDS: u64 = 3;

/// Attempts above the highest that a node voted in or saw elected, which it votes for.
pub const ATTEMPT_WINDOW: u32 = 8;

/// Things that heartbeats name and that were asked for lately. What they name changes a few times in an attempt; a peer that
/// makes names up fills nothing.
pub const ASKED_MAX: usize = 64;

/// Chains that nobody could prove and that are passed over for a while; more than a few mean that somebody makes them up.
pub const PASSED_OVER_MAX: usize = 16;

/// Members that a node asks at a time to take it onto the roster: any of them may coordinate next.
pub const JOIN_ASKED_MAX: usize = 64;

/// Vote requests whose answers are remembered: the candidates' step follows their 95th percentile.
pub const VOTE_TIMES_MAX: usize = 32;

/// Second commits that are kept: each is proof enough that somebody lied.
pub const SECOND_COMMITS_MAX: usize = 16;

/// Signatures that are remembered as checked: those of a round of the largest roster, several times over. A hash each.
pub const VERIFIED_MAX: usize = 1 << 16;

/// Members below which one record adds one member at most: a stranger with several identities should not have half of a
/// small roster at once.
pub const SMALL_ROSTER: usize = 8;

/// Nodes that want to come and are shown, and of which it is remembered why they may not.
pub const NEWCOMERS_MAX: usize = 64;

/// Peers that one regular presence goes to, taken in turn: what a node says of itself does not grow with the roster.
pub const PRESENCE_PEERS: usize = 8;

/// Bytes that a proposal leaves free below `MESSAGE_BYTES_MAX`, for its envelope and for the votes of a later ballot, which
/// may name more silent members than those of the ballot that made the record.
pub const PROPOSAL_SLACK_BYTES: usize = MESSAGE_BYTES_MAX / 4;

/// Bytes of records that a node gives a peer in a second. Who catches up on a long chain is served at the speed of a disk,
/// who only wants to keep a node busy gets no more.
pub const SERVED_BYTES_PER_S: u64 = 16 << 20;

/// Questions about small things that a node answers a peer in a second.
pub const ANSWERS_PER_S: u64 = 32;

/// Metrics of an evaluation: of as many members as a record has room for.
pub const METRICS_MAX: usize = 8;

/// Bytes of a metric's name.
pub const METRIC_NAME_BYTES_MAX: usize = 32;

/// Bytes of the words in which a participant says why its training failed: a line for people, of as many members as a record
/// has room for.
pub const FAILURE_BYTES_MAX: usize = 256;

/// Rounds in a row in which training failed everywhere, after which a run stops: once may be an accident, and each costs
/// everybody a training.
pub const FAILED_ROUNDS_MAX: u32 = 3;
