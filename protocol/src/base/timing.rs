//! Every waiting time of the protocol, in milliseconds, with what it is for.

/// A coordinator says this often that it lives.
pub const HEARTBEAT_MS: u64 = 250;

/// How often the coordinator tells in a heartbeat what the participants do.
pub const PROGRESS_MS: u64 = 4 * HEARTBEAT_MS;

/// What one peer asks for is served this much ahead of its rate.
pub const SERVED_AHEAD_MS: u64 = 1_000;

/// Without a heartbeat for so long, an attempt is over for a member; without answers from a quorum for so long, for its
/// coordinator. Six heartbeats: a busy machine may lose a few.
pub const SILENCE_MS: u64 = 1_500;

/// The candidates stand this far apart at least, so that two rarely compete.
pub const STEP_MS_MIN: u64 = 100;

/// And at most: beyond it, slow votes are no reason to wait longer.
pub const STEP_MS_MAX: u64 = 2_000;

/// Whose disk failed does not stand for coordinator for so long, unless it takes a blob before: the model of the next round
/// is such a try.
pub const DISK_REST_MS: u64 = 30_000;

/// An election without result is given up after this time, doubled with each failure.
pub const ELECTION_MS: u64 = 1_000;

/// The longest election: `ELECTION_MS` doubled this many times.
pub const ELECTION_DOUBLINGS_MAX: u32 = 4;

/// Requests for votes, offers and joins are repeated after this time: the transport may lose them.
pub const RETRY_MS: u64 = 400;

/// An attempt whose coordinator lives but whose record does not commit is over this long after the round's timeout;
/// doubled with each coordinator that was seen elected in the round.
pub const STUCK_MS: u64 = 60_000;

/// `STUCK_MS` is doubled so often at most, to about an hour.
pub const STUCK_DOUBLINGS_MAX: u32 = 6;

/// A participant whose connection is lost is waited for this long before the round goes on without it.
pub const GONE_GRACE_MS: u64 = 1_000;

/// With enough updates in hand, the collection goes on for the time that it took to get them, and at least so long.
pub const STRAGGLER_MS_MIN: u64 = 1_000;

/// How often a node shows that it is there.
pub const PRESENCE_MS: u64 = 2_000;

/// A wait that lasts so long is named to people who ask for the status.
pub const NAMED_MS: u64 = 2_000;

/// A connected peer of which nothing was heard for so long is shown as silent: two of the pings that everybody sends every
/// two seconds are missing.
pub const HUSH_MS: u64 = 4_000;

/// A member that was not connected for so long, and for `SILENT_ROUNDS`, may be evicted.
pub const SILENT_MS: u64 = 60_000;

/// See `SILENT_MS`.
pub const SILENT_ROUNDS: u64 = 3;

/// The nodes that could found a run must be the same ones for so long before the first proposes.
pub const STABLE_MS: u64 = 1_500;

/// The second node in order proposes a founding so much later, the third twice that, each plus a random part of it.
pub const FOUNDING_STEP_MS: u64 = 2_000;

/// Who is asked whether it would take part in a founding has this long to answer; its consent holds twice as long.
pub const CONSENT_MS: u64 = 2_000;

/// A founding without all binds after this time is aborted.
pub const BIND_MS: u64 = 5_000;

/// Who refused a founding, was silent or failed is left out of this node's next ones for so long, doubled each time.
pub const LEFT_OUT_MS: u64 = 5_000;

/// `LEFT_OUT_MS` is doubled so often at most, to about an hour.
pub const LEFT_OUT_DOUBLINGS_MAX: u32 = 10;

/// How long a gathering node waits for the proof of a chain that a peer shows before it founds without it; a chain that
/// was not proven in that time is looked at again after ten times as long.
pub const SIGHTING_MS: u64 = 5_000;

/// A node that only follows a chain lets go of it when no quorum of its roster was in sight for so long.
pub const LET_GO_MS: u64 = 20_000;

/// A node that wants to join is heard of for so long before a record takes it in.
pub const JOIN_HEARD_MS: u64 = 3_000;

/// A coordinator looks for the accepted proposal and its model for so long before it gives up.
pub const RECOVER_MS: u64 = 10_000;

/// Evaluations for the closing record are collected for so long; and after the end of the run a node serves so long for
/// members that don't hold it yet.
pub const CLOSING_MS: u64 = 30_000;
