//! How a chain begins: what is proposed, who binds itself to it, and the proof that it comes to nothing.

use serde::{Deserialize, Serialize};

use super::Committed;
use crate::base::codec;
use crate::base::ids::{BlobRef, Hash, RunId};
use crate::base::roster::{Member, Roster};
use crate::base::signed::{Scope, Signed, Statement, StatementKind};

/// A member of a proposed roster, with the word that it gave when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Founder {
    /// Who.
    pub member: Member,
    /// A hash that this member drew for this proposer when it said that it would take part. It binds itself to a founding
    /// with its own consent in it alone, so nobody is bound to what was never asked, or was asked in an earlier life.
    pub consent: Hash,
}

/// A proposed roster and the initial model, signed by the proposer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The run.
    pub run: RunId,
    /// The proposed roster, ascending.
    pub founders: Vec<Founder>,
    /// The initial model, which every node makes for itself.
    pub model: BlobRef,
}

impl Statement for Founding {
    const KIND: StatementKind = StatementKind::Founding;
}

impl Founding {
    /// The scope that a founding is signed in: there is no chain yet.
    pub fn proposal_scope(run: RunId) -> Scope {
        Scope { run, chain: Hash::ZERO, parent: Hash::ZERO }
    }

    /// The proposed roster.
    pub fn roster(&self) -> Roster {
        Roster::new(self.founders.iter().map(|f| f.member.clone()).collect())
    }
}

impl Signed<Founding> {
    /// The id: a hash of proposer and content, so that nobody can be shown two rosters under one id.
    pub fn id(&self) -> Hash {
        Hash::of_parts("paceline founding", &[self.by().as_bytes(), &codec::encode(self.vouched())])
    }

    /// The scope of everything signed in this founding.
    pub fn scope(&self) -> Scope {
        founding_scope(self.vouched().run, self.id())
    }
}

/// The scope of everything signed in the founding `id`.
pub fn founding_scope(run: RunId, id: Hash) -> Scope {
    Scope { run, chain: id, parent: id }
}

/// A member takes part in no other founding before this one is decided. Its scope names the founding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The consent that the founding carries of this member.
    pub consent: Hash,
}

impl Statement for Bind {
    const KIND: StatementKind = StatementKind::Bind;
}

/// A member does not take part in a founding, for good. One is proof that the founding comes to nothing: it needs every
/// bind, and who refuses never binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The chain that it is in, if that is why.
    pub chain: Option<Hash>,
}

impl Statement for Refusal {
    const KIND: StatementKind = StatementKind::Refusal;
}

/// Why a founding comes to nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AbortProof {
    /// A listed member refused it.
    Refused(Signed<Refusal>),
    /// The proposed roster decided so.
    Decided(Committed),
}

/// A member goes on alone with a run whose majority is gone for good: nobody else was asked, so whoever enters the chain
/// that begins with this does so at its owner's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// The chain that it leaves behind.
    pub chain: Hash,
    /// The last record that it has of that.
    pub head: Hash,
    /// The round of that record, with those of chains that were continued before.
    pub round: u64,
    /// Records with contributions up to there.
    pub trained: u64,
    /// The model after them.
    pub model: BlobRef,
    /// The member itself: the whole roster.
    pub member: Member,
    /// Drawn, so that a member that does this twice behind one record begins two chains.
    pub nonce: Hash,
}

impl Statement for Forced {
    const KIND: StatementKind = StatementKind::Forced;
}

impl Signed<Forced> {
    /// What stands for the founding's id: a hash of signer and content.
    pub fn id(&self) -> Hash {
        Hash::of_parts("paceline forced", &[self.by().as_bytes(), &codec::encode(self.vouched())])
    }

    /// The scope of the accept that begins the chain.
    pub fn scope(&self, run: RunId) -> Scope {
        Scope { run, chain: self.id(), parent: self.vouched().head }
    }
}

/// A member of a chain says, for a chain that would yield to it, that it lives. Its scope names its own chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// The genesis of the chain that would yield.
    pub yielding: Hash,
}

impl Statement for Alive {
    const KIND: StatementKind = StatementKind::Alive;
}
