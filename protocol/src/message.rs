//! The envelope of everything that nodes say to each other. Small things, and metadata of large ones; weights travel as
//! blobs.
//!
//! A [`Message`] names the chain that it belongs to (its genesis, or the founding or invitation that comes before there is
//! one), and its body names the part of the protocol that owns it. Each part owns its messages, in a file beside its code;
//! it takes them in one `match` without a wildcard, so that one which nobody handles does not compile.

use serde::{Deserialize, Serialize};

use crate::base::bounds::MESSAGE_BYTES_MAX;
use crate::base::codec::{self, CodecError};
use crate::base::ids::{Ballot, Hash};
use crate::founding::message as founding;
use crate::membership::message as membership;
use crate::paxos::message as paxos;
use crate::round::message as round;
use crate::sync::message as sync;

/// What one node says to another, or to all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The chain, by its genesis; the founding or the invitation in [`Body::Founding`] and in a founding's
    /// [`Body::Paxos`]; zero in the presence of a node that is in no chain.
    pub chain: Hash,
    /// What is said.
    pub body: Body,
}

/// The parts of the protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// How a chain begins.
    Founding(founding::Message),
    /// One decision: the record of a round, or the outcome of a founding.
    Paxos {
        /// The ballot that it is about.
        ballot: Ballot,
        /// What is said.
        message: paxos::Message,
    },
    /// Updates and evaluations, between a participant and the coordinator.
    Round {
        /// The ballot of the coordinator.
        ballot: Ballot,
        /// What is said.
        message: round::Message,
    },
    /// Who is there, who comes and who goes.
    Membership(membership::Message),
    /// Records, for whoever lacks them.
    Sync(sync::Message),
}

impl Message {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads bytes from a peer. Their length is bounded; what they say is judged by the machine.
    ///
    /// # Errors
    /// The bytes are too many, or no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<Self, MESSAGE_BYTES_MAX>(bytes)
    }

    /// A message of a founding.
    pub(crate) fn founding(id: Hash, message: founding::Message) -> Self {
        Self { chain: id, body: Body::Founding(message) }
    }

    /// A message of a decision.
    pub(crate) fn paxos(chain: Hash, ballot: Ballot, message: paxos::Message) -> Self {
        Self { chain, body: Body::Paxos { ballot, message } }
    }

    /// A message of a round's work.
    pub(crate) fn round(chain: Hash, ballot: Ballot, message: round::Message) -> Self {
        Self { chain, body: Body::Round { ballot, message } }
    }

    /// A message about membership.
    pub(crate) fn membership(chain: Hash, message: membership::Message) -> Self {
        Self { chain, body: Body::Membership(message) }
    }

    /// A message about records.
    pub(crate) fn sync(chain: Hash, message: sync::Message) -> Self {
        Self { chain, body: Body::Sync(message) }
    }
}
