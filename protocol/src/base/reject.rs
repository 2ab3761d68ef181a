//! Why a message from a peer is refused. Misbehaviour is a value, not an error: it is answered where an answer helps,
//! counted, shown, and costs nothing else.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A typed refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Error)]
pub enum Reject {
    /// The bytes are not a message.
    #[error("malformed message")]
    Malformed,
    /// More bytes, or more items, than a bound allows.
    #[error("over a bound")]
    OverBound,
    /// Another run, or another chain.
    #[error("another run or chain")]
    OtherChain,
    /// Not on the roster.
    #[error("not on the roster")]
    Stranger,
    /// A round that is over.
    #[error("stale round")]
    StaleRound,
    /// A round that this node has not reached.
    #[error("future round")]
    FutureRound,
    /// A ballot below one that this node voted or accepted in.
    #[error("stale ballot")]
    StaleBallot,
    /// A ballot too far above what this node has seen.
    #[error("ballot too far ahead")]
    BallotTooHigh,
    /// The present attempt is not over for this node.
    #[error("the present attempt goes on")]
    AttemptGoesOn,
    /// This node voted for another in the ballot.
    #[error("voted for another")]
    VotedForAnother,
    /// This node lacks a model that it would need, or lost one that it accepted.
    #[error("the model is missing here")]
    ModelMissing,
    /// The sender does not coordinate this ballot.
    #[error("not the coordinator of this ballot")]
    NotCoordinator,
    /// The receiver does not coordinate this ballot, or not in this phase.
    #[error("not collecting")]
    NotCollecting,
    /// A signature does not hold.
    #[error("bad signature")]
    BadSignature,
    /// Votes or accepts that are no quorum.
    #[error("no quorum")]
    NoQuorum,
    /// The record does not follow from the one before.
    #[error("wrong parent")]
    WrongParent,
    /// The proposal leaves out what the votes show as accepted.
    #[error("an accepted proposal was passed over")]
    AcceptedPassedOver,
    /// Not chosen to train in this round.
    #[error("not a participant")]
    NotParticipant,
    /// The participants do not follow from the order that everybody can compute.
    #[error("wrong participants")]
    WrongParticipants,
    /// Fewer updates than the run file asks for.
    #[error("too few updates")]
    TooFewUpdates,
    /// A second, different one where one is allowed.
    #[error("given twice")]
    Twice,
    /// Samples, losses or evaluations out of range.
    #[error("metrics out of range")]
    BadMetrics,
    /// A model or update of another length than the run's.
    #[error("wrong shape")]
    WrongShape,
    /// A NaN or an infinity among the weights.
    #[error("not finite")]
    NotFinite,
    /// A delta beyond the fixed-point range.
    #[error("out of range")]
    OutOfRange,
    /// Bytes that do not have the hash they were announced with.
    #[error("wrong hash")]
    WrongHash,
    /// A roster change that its rules forbid.
    #[error("roster change not allowed")]
    BadRosterChange,
    /// The part is held by another live node.
    #[error("the part is taken")]
    PartTaken,
    /// A join or leave request that has run out.
    #[error("request is void")]
    Void,
    /// The record would not fit a message.
    #[error("record too large for a message")]
    TooLarge,
    /// Another chain that a record names was not shown here, or is not alive.
    #[error("the other chain was not shown to be alive")]
    NotAlive,
    /// It was evicted for a lie.
    #[error("evicted for a lie")]
    Liar,
    /// An answer to what was not asked.
    #[error("not asked for")]
    Unasked,
    /// The initial model differs: another version, or a CPU that computes otherwise.
    #[error("another initial model")]
    OtherInitialModel,
    /// The kind of record is not due now.
    #[error("wrong kind of record")]
    WrongKind,
    /// Too many requests.
    #[error("too many requests")]
    TooMany,
}
