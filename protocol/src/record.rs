//! Records: what a round leaves. They form a hash chain that anybody can check offline.

use serde::{Deserialize, Serialize};

use crate::bounds::SILENT_MAX;
use crate::codec;
use crate::ids::{Ballot, BlobRef, Hash, Identity, NodeId, RunId, Signature};
use crate::roster::{Member, Part, Roster};
use crate::rule::Rule;
use crate::sign::{Scope, Statement};

/// How well a model does on a node's held-out data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Images classified rightly.
    pub correct: u64,
    /// Images in all.
    pub total: u64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

impl Evaluation {
    /// Whether the numbers can be what they claim to be.
    pub fn is_plausible(&self) -> bool {
        self.correct <= self.total && self.total <= crate::bounds::SAMPLES_MAX && self.loss.is_finite()
    }
}

/// What a participant adds to a round: the reference of its update, its sample count and its metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The participant.
    pub node: NodeId,
    /// Samples trained on: the weight in the average.
    pub samples: u64,
    /// The delta: raw little-endian f32.
    pub update: BlobRef,
    /// Mean training loss over the last epoch, in nats.
    pub train_loss: f64,
    /// Evaluation and training, in milliseconds.
    pub train_ms: u64,
    /// The round's starting model on the participant's held-out data; `None` if it has none.
    pub evaluation: Option<Evaluation>,
    /// The participant's signature over genesis, round, parent and all of the above. Not over the attempt: a
    /// contribution outlives its coordinator.
    pub signature: Signature,
}

/// The signed part of a contribution.
type ContributionContent = (NodeId, u64, BlobRef, f64, u64, Option<Evaluation>);

impl Contribution {
    fn content(&self) -> ContributionContent {
        (self.node, self.samples, self.update, self.train_loss, self.train_ms, self.evaluation)
    }

    /// Signs a contribution for `round`. What `self.signature` held before does not matter.
    pub fn signed(mut self, me: &Identity, scope: &Scope, round: u64) -> Self {
        self.signature = scope.sign(me, Statement::Contribution, Ballot { round, attempt: 0 }, &self.content());
        self
    }

    /// Whether the participant signed this for `round` in this scope.
    pub fn verifies(&self, scope: &Scope, round: u64) -> bool {
        let ballot = Ballot { round, attempt: 0 };
        scope.verifies(self.node, Statement::Contribution, ballot, &self.content(), &self.signature)
    }
}

/// An evaluation that came without an update, for the closing record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignedEvaluation {
    /// Who evaluated.
    pub node: NodeId,
    /// The last model on its held-out data.
    pub evaluation: Evaluation,
    /// Over genesis, round, parent, node and evaluation.
    pub signature: Signature,
}

impl SignedEvaluation {
    /// Signs an evaluation for the closing record of `round`.
    pub fn new(me: &Identity, scope: &Scope, round: u64, evaluation: Evaluation) -> Self {
        let node = me.node_id();
        let ballot = Ballot { round, attempt: 0 };
        let signature = scope.sign(me, Statement::Evaluation, ballot, &(node, evaluation));
        Self { node, evaluation, signature }
    }

    /// Whether its node signed it.
    pub fn verifies(&self, scope: &Scope, round: u64) -> bool {
        let ballot = Ballot { round, attempt: 0 };
        scope.verifies(self.node, Statement::Evaluation, ballot, &(self.node, self.evaluation), &self.signature)
    }
}

/// A vote for a candidate in a ballot. It leaves its node only after it was persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who votes.
    pub voter: NodeId,
    /// In which ballot.
    pub ballot: Ballot,
    /// For whom.
    pub candidate: NodeId,
    /// What the voter has accepted in this round: the ballot and the record's hash.
    pub accepted: Option<(Ballot, Hash)>,
    /// The members that the voter has not heard of for so long that they should be evicted.
    pub silent: Vec<NodeId>,
    /// Over scope, ballot and all of the above.
    pub signature: Signature,
}

impl Vote {
    /// A signed vote.
    pub fn new(
        me: &Identity,
        scope: &Scope,
        ballot: Ballot,
        candidate: NodeId,
        accepted: Option<(Ballot, Hash)>,
        silent: Vec<NodeId>,
    ) -> Self {
        let content = (me.node_id(), candidate, accepted, &silent);
        let signature = scope.sign(me, Statement::Vote, ballot, &content);
        Self { voter: me.node_id(), ballot, candidate, accepted, silent, signature }
    }

    /// Whether it can be what an honest voter says: accepted in an earlier ballot of the round, few silent, in order.
    pub fn is_plausible(&self) -> bool {
        let earlier =
            self.accepted.is_none_or(|(b, _)| b.round == self.ballot.round && b.attempt < self.ballot.attempt);
        earlier && self.silent.len() <= SILENT_MAX && self.silent.is_sorted_by(|a, b| a < b)
    }

    /// Whether its voter signed it in this scope.
    pub fn verifies(&self, scope: &Scope) -> bool {
        let content = (self.voter, self.candidate, self.accepted, &self.silent);
        scope.verifies(self.voter, Statement::Vote, self.ballot, &content, &self.signature)
    }
}

/// A member's word that it holds the proposal and its model on disk, and accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// Who accepts.
    pub acceptor: NodeId,
    /// In which ballot.
    pub ballot: Ballot,
    /// The coordinator of that ballot.
    pub coordinator: NodeId,
    /// The record's hash.
    pub value: Hash,
    /// Over scope, ballot and all of the above.
    pub signature: Signature,
}

impl Accept {
    /// A signed accept.
    pub fn new(me: &Identity, scope: &Scope, ballot: Ballot, coordinator: NodeId, value: Hash) -> Self {
        let acceptor = me.node_id();
        let signature = scope.sign(me, Statement::Accept, ballot, &(acceptor, coordinator, value));
        Self { acceptor, ballot, coordinator, value, signature }
    }

    /// Whether its acceptor signed it in this scope.
    pub fn verifies(&self, scope: &Scope) -> bool {
        let content = (self.acceptor, self.coordinator, self.value);
        scope.verifies(self.acceptor, Statement::Accept, self.ballot, &content, &self.signature)
    }
}

/// A node's wish to come onto the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Who, under which name, with which part.
    pub member: Member,
    /// The round that it was made for; void after `REQUEST_ROUNDS`.
    pub round: u64,
    /// Over genesis, round and member.
    pub signature: Signature,
}

/// A member's wish to come off the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Who.
    pub node: NodeId,
    /// The round that it was made for; void after `REQUEST_ROUNDS`.
    pub round: u64,
    /// Over genesis, round and node.
    pub signature: Signature,
}

/// Requests outlive their round, so their scope names no parent.
fn request_scope(run: RunId, genesis: Hash) -> Scope {
    Scope { run, genesis, parent: Hash::ZERO }
}

impl JoinRequest {
    /// A signed request.
    pub fn new(me: &Identity, run: RunId, genesis: Hash, round: u64, name: String, part: Option<Part>) -> Self {
        let member = Member { node: me.node_id(), name, part };
        let ballot = Ballot { round, attempt: 0 };
        let signature = request_scope(run, genesis).sign(me, Statement::Join, ballot, &member);
        Self { member, round, signature }
    }

    /// Whether the joining node signed it.
    pub fn verifies(&self, run: RunId, genesis: Hash) -> bool {
        let ballot = Ballot { round: self.round, attempt: 0 };
        let scope = request_scope(run, genesis);
        scope.verifies(self.member.node, Statement::Join, ballot, &self.member, &self.signature)
    }
}

impl LeaveRequest {
    /// A signed request.
    pub fn new(me: &Identity, run: RunId, genesis: Hash, round: u64) -> Self {
        let node = me.node_id();
        let ballot = Ballot { round, attempt: 0 };
        let signature = request_scope(run, genesis).sign(me, Statement::Leave, ballot, &node);
        Self { node, round, signature }
    }

    /// Whether the leaving node signed it.
    pub fn verifies(&self, run: RunId, genesis: Hash) -> bool {
        let ballot = Ballot { round: self.round, attempt: 0 };
        request_scope(run, genesis).verifies(self.node, Statement::Leave, ballot, &self.node, &self.signature)
    }
}

/// Two signatures that no honest node gives: proof of a lie, with the record of the round before as its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Two votes for different candidates, or with different contents, in one ballot.
    Votes {
        /// Parent of the round in question.
        parent: Hash,
        /// The two.
        votes: Box<(Vote, Vote)>,
    },
    /// Two accepts of different records in one ballot.
    Accepts {
        /// Parent of the round in question.
        parent: Hash,
        /// The two.
        accepts: (Accept, Accept),
    },
}

impl Evidence {
    /// The liar, if the two signatures hold and contradict each other.
    pub fn liar(&self, run: RunId, genesis: Hash) -> Option<NodeId> {
        match self {
            Evidence::Votes { parent, votes } => {
                let scope = Scope { run, genesis, parent: *parent };
                let (a, b) = &**votes;
                let contradict = a.voter == b.voter && a.ballot == b.ballot && a != b;
                (contradict && a.verifies(&scope) && b.verifies(&scope)).then_some(a.voter)
            }
            Evidence::Accepts { parent, accepts: (a, b) } => {
                let scope = Scope { run, genesis, parent: *parent };
                let contradict = a.acceptor == b.acceptor && a.ballot == b.ballot && a.value != b.value;
                (contradict && a.verifies(&scope) && b.verifies(&scope)).then_some(a.acceptor)
            }
        }
    }
}

/// Why a member is taken off against its will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Eviction {
    /// A quorum's votes of this round named it silent.
    Silent {
        /// The member.
        node: NodeId,
        /// The votes.
        votes: Vec<Vote>,
    },
    /// It signed two answers for one ballot.
    Liar {
        /// The member.
        node: NodeId,
        /// Its two signatures.
        evidence: Evidence,
    },
}

impl Eviction {
    /// The member that goes.
    pub fn node(&self) -> NodeId {
        match self {
            Eviction::Silent { node, .. } | Eviction::Liar { node, .. } => *node,
        }
    }
}

/// A founding: the proposed roster and the initial model under a fresh id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The run.
    pub run: RunId,
    /// Who proposes it.
    pub proposer: NodeId,
    /// What makes the id fresh.
    pub nonce: Hash,
    /// The proposed roster, ascending.
    pub members: Vec<Member>,
    /// The initial model, which every node makes for itself.
    pub model: BlobRef,
}

impl Founding {
    /// The id: a hash of all of it, so that nobody can be shown two rosters under one id.
    pub fn id(&self) -> Hash {
        Hash::of_parts("paceline founding", &[&codec::encode(self)])
    }

    /// The proposed roster.
    pub fn roster(&self) -> Roster {
        Roster::new(self.members.clone())
    }

    /// The scope of everything signed in this founding.
    pub fn scope(&self) -> Scope {
        let id = self.id();
        Scope { run: self.run, genesis: id, parent: id }
    }
}

/// A member's promise to a founding: it takes part in no other before this one is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Who binds itself.
    pub node: NodeId,
    /// Over the founding's scope.
    pub signature: Signature,
}

/// A member's refusal to bind itself to a founding, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who refuses.
    pub node: NodeId,
    /// The chain that it is in, if that is why.
    pub chain: Option<Hash>,
    /// Over the founding's scope.
    pub signature: Signature,
}

const FOUNDING_BALLOT: Ballot = Ballot { round: 0, attempt: 0 };

impl Bind {
    /// A signed bind.
    pub fn new(me: &Identity, scope: &Scope) -> Self {
        let node = me.node_id();
        Self { node, signature: scope.sign(me, Statement::Bind, FOUNDING_BALLOT, &node) }
    }

    /// Whether the node signed it.
    pub fn verifies(&self, scope: &Scope) -> bool {
        scope.verifies(self.node, Statement::Bind, FOUNDING_BALLOT, &self.node, &self.signature)
    }
}

impl Refusal {
    /// A signed refusal.
    pub fn new(me: &Identity, scope: &Scope, chain: Option<Hash>) -> Self {
        let node = me.node_id();
        Self { node, chain, signature: scope.sign(me, Statement::Refusal, FOUNDING_BALLOT, &(node, chain)) }
    }

    /// Whether the node signed it.
    pub fn verifies(&self, scope: &Scope) -> bool {
        scope.verifies(self.node, Statement::Refusal, FOUNDING_BALLOT, &(self.node, self.chain), &self.signature)
    }
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Record 0: the run begins with this roster and model; every member's bind is the proof.
    Genesis {
        /// What was proposed.
        founding: Founding,
        /// One for each member, in the order of the roster.
        binds: Vec<Bind>,
    },
    /// The decision that a founding comes to nothing.
    Abort {
        /// Its id.
        founding: Hash,
    },
    /// A round with contributions.
    Train,
    /// A round without enough contributions: the same model, roster changes alone.
    Empty,
    /// After the last round: the evaluations of the final model.
    Closing,
    /// This chain, without a round of its own yet, gives itself up for another.
    Yield {
        /// The genesis of the other.
        to: Hash,
    },
}

impl Kind {
    /// One word, as the command line prints it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Genesis { .. } => "genesis",
            Kind::Abort { .. } => "abort",
            Kind::Train => "train",
            Kind::Empty => "empty",
            Kind::Closing => "closing",
            Kind::Yield { .. } => "yield",
        }
    }
}

/// What a committed round leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// The round, which is also the record's place in the chain.
    pub round: u64,
    /// The attempt that made it. It may be committed by a later one.
    pub attempt: u32,
    /// The coordinator that made it.
    pub coordinator: NodeId,
    /// Hash of the record before; of the founding in round 0.
    pub parent: Hash,
    /// The model after this round.
    pub model: BlobRef,
    /// Who was chosen to train, those who stepped in included, in the order of `Roster::trainees`.
    pub participants: Vec<NodeId>,
    /// The updates that were averaged, by node id.
    pub contributions: Vec<Contribution>,
    /// For a closing record: the evaluations of the final model, by node id.
    pub evaluations: Vec<SignedEvaluation>,
    /// How the updates became the model.
    pub rule: Rule,
    /// Who comes onto the roster with the next round.
    pub joined: Vec<JoinRequest>,
    /// Who leaves it.
    pub left: Vec<LeaveRequest>,
    /// Who is taken off it.
    pub evicted: Vec<Eviction>,
    /// From open to proposal, in milliseconds of the coordinator's clock.
    pub open_ms: u64,
}

impl Record {
    /// The hash that the next record and every accept name.
    pub fn hash(&self) -> Hash {
        Hash::of_parts("paceline record", &[&codec::encode(self)])
    }

    /// The roster of the next round, given this round's.
    pub fn roster_after(&self, roster: &Roster) -> Roster {
        if let Kind::Genesis { founding, .. } = &self.kind {
            return founding.roster();
        }
        let mut next = roster.clone();
        self.left.iter().for_each(|l| next.remove(l.node));
        self.evicted.iter().for_each(|e| next.remove(e.node()));
        self.joined.iter().for_each(|j| next.insert(j.member.clone()));
        next
    }

    /// How the model *before* this round did, over all nodes that said: (correct, total).
    pub fn evaluation_of_parent(&self) -> Option<(u64, u64)> {
        let of_contributions = self.contributions.iter().filter_map(|c| c.evaluation);
        let of_closing = self.evaluations.iter().map(|e| e.evaluation);
        let (correct, total) =
            of_contributions.chain(of_closing).fold((0, 0), |(c, t), e| (c + e.correct, t + e.total));
        (total > 0).then_some((correct, total))
    }

    /// Mean training loss over the contributions, weighted by samples.
    pub fn train_loss(&self) -> Option<f64> {
        let samples: u64 = self.contributions.iter().map(|c| c.samples).sum();
        let sum: f64 = self.contributions.iter().map(|c| c.train_loss * c.samples as f64).sum();
        (samples > 0).then(|| sum / samples as f64)
    }

    /// The slowest participant's evaluation and training, in milliseconds.
    pub fn train_ms_max(&self) -> Option<u64> {
        self.contributions.iter().map(|c| c.train_ms).max()
    }
}

/// A record with the accepts that prove its commit. They stand beside it: proposed again under a later ballot, it stays
/// the same record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// What was decided.
    pub record: Record,
    /// Accepts of one ballot by a quorum of the roster, by node id.
    pub accepts: Vec<Accept>,
}

impl Committed {
    /// The ballot that committed it, and that ballot's coordinator.
    pub fn committed_in(&self) -> Option<(Ballot, NodeId)> {
        self.accepts.first().map(|a| (a.ballot, a.coordinator))
    }
}
