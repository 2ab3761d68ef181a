//! Every waiting time of the protocol, in milliseconds, with what it is for.

/// A coordinator says this often that it lives.
pub const BEAT_MS: u64 = 250;

/// Without a beat for so long, an attempt is over for a member; without answers from a quorum for so long, for its
/// coordinator. Six beats: a busy machine may lose a few.
pub const SILENCE_MS: u64 = 1_500;

/// The candidates stand this far apart at least, so that two rarely compete.
pub const STEP_MS_MIN: u64 = 100;

/// And at most: beyond it, slow votes are no reason to wait longer.
pub const STEP_MS_MAX: u64 = 2_000;

/// An election without result is given up after this time, doubled with each failure.
pub const ELECTION_MS: u64 = 1_000;

/// The longest election: `ELECTION_MS` doubled this many times.
pub const ELECTION_DOUBLINGS_MAX: u32 = 4;

/// Requests for votes, offers and joins are repeated after this time: the transport may lose them.
pub const RETRY_MS: u64 = 400;

/// An attempt whose coordinator lives but whose record does not commit is over this long after the round's timeout;
/// doubled with each attempt.
pub const STUCK_MS: u64 = 60_000;

/// `STUCK_MS` is doubled so often at most, to about an hour: attempts can grow by hearsay.
pub const STUCK_DOUBLINGS_MAX: u32 = 6;

/// A participant whose connection is lost is waited for this long before the round goes on without it.
pub const GONE_GRACE_MS: u64 = 1_000;

/// With enough updates in hand, the collection goes on for the time that it took to get them, and at least so long.
pub const STRAGGLER_MS_MIN: u64 = 1_000;

/// How often a node shows that it is there.
pub const PRESENCE_MS: u64 = 2_000;

/// A member without presence for so long, and for `SILENT_ROUNDS`, may be evicted.
pub const SILENT_MS: u64 = 60_000;

/// See `SILENT_MS`.
pub const SILENT_ROUNDS: u64 = 3;

/// The nodes that could found a run must be the same ones for so long before the first proposes.
pub const STABLE_MS: u64 = 1_500;

/// The second node in order proposes a founding so much later, the third twice that, each plus a random part of it.
pub const FOUNDING_STEP_MS: u64 = 2_000;

/// A founding without all binds after this time is aborted.
pub const BIND_MS: u64 = 5_000;

/// A coordinator looks for the accepted proposal and its model for so long before it gives up.
pub const RECOVER_MS: u64 = 10_000;

/// Evaluations for the closing record are collected for so long; and after the end of the run a node serves so long for
/// members that don't hold it yet.
pub const CLOSING_MS: u64 = 30_000;
