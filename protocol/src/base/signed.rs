//! What a signature covers, and the type whose content is had through verification alone.
//!
//! A signature covers version, run, chain, parent, kind, signer and content (which names its ballot or round), so that it
//! can be taken for nothing else, in no other chain, and by no other version. [`Signed`] keeps its content to itself: [`Signed::open`] checks the
//! signature first. What a member signs is a [`Statement`]; a field that is added to one is signed with it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::bounds::{PROTOCOL_VERSION, VERIFIED_MAX};
use super::codec;
use super::ids::{Hash, Identity, NodeId, RunId, Signature};
use super::reject::Reject;

/// Where a statement holds. In a founding its id stands for chain and parent; what outlives its round names no parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// The run.
    pub run: RunId,
    /// The chain, by its genesis, or the founding.
    pub chain: Hash,
    /// Hash of the record before the round.
    pub parent: Hash,
}

/// The kinds of statement, so that the bytes of one are never those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementKind {
    /// A founding, by its proposer.
    Founding,
    /// A member takes part in no other founding before this one is decided.
    Bind,
    /// A member does not take part in a founding, for good.
    Refusal,
    /// A vote for a candidate.
    Vote,
    /// A coordinator proposes a record.
    Proposed,
    /// A member holds a proposal on disk and accepts it.
    Accept,
    /// A coordinator's plan for a round.
    Plan,
    /// A participant's update.
    Contribution,
    /// A member's evaluation of the last model.
    Evaluation,
    /// A node wants to come onto the roster.
    Join,
    /// A member wants to come off it.
    Leave,
    /// A participant's training failed.
    Failure,
    /// A member wants to go on with a run that stopped.
    Resume,
    /// A member's chain lives, told to a chain that would yield to it.
    Alive,
    /// A member goes on alone with a run whose majority is gone.
    Forced,
}

/// What a node signs. What is made in a ballot or a round names it.
pub trait Statement: Serialize {
    /// Keeps statements of one kind apart from those of all others.
    const KIND: StatementKind;
}

/// A statement with its signer and signature. The content is had by [`Signed::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signed<T> {
    by: NodeId,
    content: T,
    signature: Signature,
}

fn signed_bytes<T: Statement>(scope: &Scope, by: NodeId, content: &T) -> Vec<u8> {
    codec::encode(&("paceline", PROTOCOL_VERSION, scope, T::KIND, by, content))
}

impl<T: Statement> Signed<T> {
    /// Signs `content` where `scope` says.
    pub fn new(me: &Identity, scope: &Scope, content: T) -> Self {
        let by = me.node_id();
        let signature = me.sign(&signed_bytes(scope, by, &content));
        Self { by, content, signature }
    }

    /// Who is said to have signed it; whether that is so shows when it is opened.
    pub fn by(&self) -> NodeId {
        self.by
    }

    /// The content, if its signature holds in `scope`.
    ///
    /// # Errors
    /// [`Reject::BadSignature`].
    pub fn open(&self, scope: &Scope, verifier: &Verifier) -> Result<&T, Reject> {
        match verifier.verifies(self.by, &signed_bytes(scope, self.by, &self.content), &self.signature) {
            true => Ok(&self.content),
            false => Err(Reject::BadSignature),
        }
    }

    /// The same signature under another's name: a forgery.
    #[cfg(test)]
    pub(crate) fn in_the_name_of(self, by: NodeId) -> Self {
        Self { by, ..self }
    }

    /// The content of a statement in a record that a quorum accepted and the chain holds, or that this node signed or
    /// checked itself before it wrote it down.
    pub(crate) fn vouched(&self) -> &T {
        &self.content
    }
}

/// Checks signatures, each once: those that hold are remembered under a hash of all that was checked, so that it changes
/// no result. Bounded by `VERIFIED_MAX`; clones share one memory.
#[derive(Clone, Default)]
pub struct Verifier(Arc<Mutex<Memory>>);

/// Nothing of what it remembers, which changes no result.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

/// Two generations: when the young one is full, the old one is forgotten.
#[derive(Debug, Default)]
struct Memory {
    young: BTreeSet<Hash>,
    old: BTreeSet<Hash>,
}

impl Verifier {
    /// Whether `signer` signed `bytes`.
    fn verifies(&self, signer: NodeId, bytes: &[u8], signature: &Signature) -> bool {
        let key = Hash::of_parts("paceline verified", &[signer.as_bytes(), bytes, &signature.to_bytes()]);
        // A lock that a panic poisoned guards a set that is whole all the same.
        let known = {
            let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            memory.young.contains(&key) || memory.old.contains(&key)
        };
        if known {
            return true;
        }
        let holds = signer.verifies(bytes, signature);
        if holds {
            let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if memory.young.len() >= VERIFIED_MAX / 2 {
                memory.old = std::mem::take(&mut memory.young);
            }
            memory.young.insert(key);
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
    struct Word(u8);

    impl Statement for Word {
        const KIND: StatementKind = StatementKind::Join;
    }

    fn scope(chain: &[u8]) -> Scope {
        Scope { run: Hash::of(b"run"), chain: Hash::of(chain), parent: Hash::ZERO }
    }

    #[test]
    fn a_statement_opens_in_its_own_scope_alone() {
        let (me, verifier) = (Identity::from_secret(&[1; 32]), Verifier::default());
        let signed = Signed::new(&me, &scope(b"here"), Word(3));
        assert_eq!(signed.open(&scope(b"here"), &verifier), Ok(&Word(3)));
        assert_eq!(signed.open(&scope(b"there"), &verifier), Err(Reject::BadSignature));
    }

    #[test]
    fn a_changed_content_or_signer_does_not_open() {
        let (me, verifier) = (Identity::from_secret(&[1; 32]), Verifier::default());
        let signed = Signed::new(&me, &scope(b"here"), Word(3));
        let other = Identity::from_secret(&[2; 32]).node_id();
        assert!(Signed { content: Word(4), ..signed }.open(&scope(b"here"), &verifier).is_err());
        assert!(Signed { by: other, ..signed }.open(&scope(b"here"), &verifier).is_err());
        assert!(signed.open(&scope(b"here"), &verifier).is_ok());
    }

    #[test]
    fn remembered_signatures_are_bounded() {
        let verifier = Verifier::default();
        let mut memory = verifier.0.lock().expect("nobody else has it");
        memory.young = (0..VERIFIED_MAX as u64 / 2).map(|i| Hash::of(&i.to_le_bytes())).collect();
        drop(memory);
        let me = Identity::from_secret(&[1; 32]);
        Signed::new(&me, &scope(b"here"), Word(3)).open(&scope(b"here"), &verifier).expect("it holds");
        let memory = verifier.0.lock().expect("nobody else has it");
        assert_eq!((memory.young.len(), memory.old.len()), (1, VERIFIED_MAX / 2));
    }
}
