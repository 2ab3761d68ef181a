//! What a signature covers: version, run, genesis, parent, ballot, kind and content (design 4.3), so that it can be
//! taken for nothing else, in no other chain, and by no other version.

use serde::Serialize;

use crate::bounds::PROTOCOL_VERSION;
use crate::codec;
use crate::ids::{Ballot, Hash, Identity, NodeId, RunId, Signature};

/// Where a signed statement holds. In round 0 the founding id stands for genesis and parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The run.
    pub run: RunId,
    /// The chain, or the founding.
    pub genesis: Hash,
    /// Hash of the record before the round.
    pub parent: Hash,
}

/// The kinds of statement that nodes sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Statement {
    Bind,
    Refusal,
    Vote,
    Accept,
    Contribution,
    Evaluation,
    Join,
    Leave,
}

impl Scope {
    fn bytes<T: Serialize>(&self, kind: Statement, ballot: Ballot, content: &T) -> Vec<u8> {
        codec::encode(&("paceline", PROTOCOL_VERSION, self.run, self.genesis, self.parent, ballot, kind, content))
    }

    pub(crate) fn sign<T: Serialize>(&self, me: &Identity, kind: Statement, ballot: Ballot, content: &T) -> Signature {
        me.sign(&self.bytes(kind, ballot, content))
    }

    pub(crate) fn verifies<T: Serialize>(
        &self,
        signer: NodeId,
        kind: Statement,
        ballot: Ballot,
        content: &T,
        signature: &Signature,
    ) -> bool {
        signer.verifies(&self.bytes(kind, ballot, content), signature)
    }
}
