//! What must be on disk before something leaves, and what a node finds there when it starts.
//!
//! The rules of the store, which the shell and the simulator keep alike:
//!
//! * Items are written in the order given. A write that fails ends the process: after the restart all is as on disk.
//! * Each chain and founding has one **promise**, the highest ballot that this node voted or accepted in or saw decided
//!   ([`Persist::promises`]). It is written with the item, it only grows, and nothing deletes it.
//! * A record is written behind its predecessor, or the write fails. It takes the votes and accepts of its round away.
//! * A chain whose last record is a yield is not the node's any more; it is kept and found under `given_up`.
//! * A record 0 makes its chain the node's, also where it had another: that one is kept aside. So is the one that a node is
//!   moved away from ([`Persist::Switched`]); the one that it is moved to goes on where its records end, if there are any.

use serde::{Deserialize, Serialize};

use crate::base::ids::{Ballot, Hash};
use crate::base::roster::Roster;
use crate::base::signed::Signed;
use crate::record::{AbortProof, Bind, Committed, Contribution, Evidence, Founding, Kind, Proposal, Vote};

/// Names one `Persist` effect, so that its confirmation finds its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistId(pub u64);

/// What must be on disk before something leaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Persist {
    /// This node binds itself to a founding.
    Bound {
        /// What was proposed.
        founding: Signed<Founding>,
        /// The bind.
        bind: Signed<Bind>,
    },
    /// A founding that this node is bound to comes to nothing.
    Aborted {
        /// The founding.
        founding: Hash,
        /// The proof, for members that still wait.
        proof: AbortProof,
    },
    /// This node's vote; replaces the one before in that round.
    Vote {
        /// Chain or founding.
        chain: Hash,
        /// The vote.
        vote: Signed<Vote>,
    },
    /// What this node accepts, or proposes; replaces the one before in that round.
    Accepted {
        /// Chain or founding.
        chain: Hash,
        /// The proposal.
        proposal: Proposal,
    },
    /// The next record of the chain; a genesis begins one, and ends the founding that led to it.
    Committed {
        /// The chain.
        chain: Hash,
        /// The record and its proof.
        committed: Committed,
        /// What this node measured.
        stats: LocalStats,
    },
    /// This node's own contribution, whose update is on disk.
    Contribution {
        /// The chain.
        chain: Hash,
        /// The contribution.
        contribution: Signed<Contribution>,
    },
    /// Proof that somebody lied.
    Evidence(Evidence),
    /// A second, different commit of a round that this chain has decided.
    SecondCommit(Committed),
    /// This node lets go of a chain that it only followed.
    LetGo {
        /// The chain.
        chain: Hash,
    },
    /// Its owner moves the node to another chain of its run; written while the node does not run.
    Switched {
        /// The other chain.
        to: Hash,
    },
    /// What this node promised in a chain is lost: it never votes there again.
    Forgotten {
        /// The chain.
        chain: Hash,
    },
    /// The node wants to come off the roster.
    Leaving,
    /// The node came off the roster for good, at its own wish.
    Left,
}

impl Persist {
    /// The promises that are written with the item: for such a chain or founding, nothing at or below the ballot is promised
    /// again.
    pub fn promises(&self) -> Vec<(Hash, Ballot)> {
        match self {
            Persist::Vote { chain, vote } => vec![(*chain, vote.vouched().ballot)],
            Persist::Accepted { chain, proposal } => vec![(*chain, proposal.proposed.vouched().ballot)],
            Persist::Committed { chain, committed, .. } => {
                let founding = match &committed.record.kind {
                    Kind::Genesis { founding, .. } => Some((founding.id(), Ballot::end_of_round(0))),
                    Kind::Forced(forced) => Some((forced.id(), Ballot::end_of_round(0))),
                    Kind::Abort | Kind::Train | Kind::Empty | Kind::Closing | Kind::Yield { .. } => None,
                };
                let decided = (*chain, Ballot::end_of_round(committed.record.round));
                founding.into_iter().chain([decided]).collect()
            }
            Persist::Aborted { founding, .. } => vec![(*founding, Ballot::end_of_round(0))],
            Persist::Bound { .. }
            | Persist::Contribution { .. }
            | Persist::Evidence(_)
            | Persist::SecondCommit(_)
            | Persist::LetGo { .. }
            | Persist::Switched { .. }
            | Persist::Forgotten { .. }
            | Persist::Leaving
            | Persist::Left => Vec::new(),
        }
    }
}

/// What a node measures of a round for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LocalStats {
    /// From the commit before to this one, in milliseconds; `None` if this node did not see both.
    pub duration_ms: Option<u64>,
    /// `duration_ms` less the longest `train_ms` among the contributions.
    pub overhead_ms: Option<u64>,
    /// Bytes sent since the commit before; filled in by the shell.
    pub bytes_sent: u64,
    /// Bytes received since the commit before; filled in by the shell.
    pub bytes_received: u64,
}

/// What a node found on its disk when it started.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovered {
    /// The promise of each chain and founding.
    pub promises: Vec<(Hash, Ballot)>,
    /// Chains in which it lost what it promised.
    pub forgotten: Vec<Hash>,
    /// The chain that the node is in or follows, genesis first; empty if there is none.
    pub chain: Vec<Committed>,
    /// Chains that the node was moved away from.
    pub kept_aside: Vec<KeptAside>,
    /// The chain that its owner moved it to, until it has entered it.
    pub switched: Option<Hash>,
    /// Chains that gave themselves up: genesis and yield of each.
    pub given_up: Vec<[Committed; 2]>,
    /// Foundings that the node is bound to, and those of which it has the proof that they came to nothing.
    pub foundings: Vec<RecoveredFounding>,
    /// Votes and accepted proposals, of the chain's open round and of foundings.
    pub ballots: Vec<RecoveredBallot>,
    /// This node's contribution to the open round.
    pub contribution: Option<Signed<Contribution>>,
    /// Proofs of lies.
    pub evidence: Vec<Evidence>,
    /// Whether this node wants to come off the roster.
    pub leaving: bool,
    /// Whether it came off the roster for good.
    pub left: bool,
    /// The blobs that are complete on disk.
    pub blobs: Vec<Hash>,
}

/// A chain that a node was moved away from. Its records stay on disk, with the models that it would need there.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptAside {
    /// Its record 0.
    pub genesis: Committed,
    /// Who decides in it, as far as its records are here.
    pub roster: Roster,
    /// The models of its last two records, and of what was accepted in its open round.
    pub models: Vec<Hash>,
}

impl KeptAside {
    /// A chain of these records, with the votes and accepts that are on disk.
    pub fn of(records: &[Committed], ballots: &[RecoveredBallot]) -> Option<Self> {
        let genesis = records.first()?.clone();
        let name = genesis.record.hash();
        let roster = records.iter().fold(Roster::default(), |roster, c| c.record.roster_after(&roster));
        let last = records.iter().rev().take(2).map(|c| c.record.model.id);
        let accepted = ballots.iter().filter(|b| b.chain == name).filter_map(|b| b.accepted.as_ref());
        Some(Self { genesis, roster, models: last.chain(accepted.map(|a| a.record.model.id)).collect() })
    }
}

/// A founding on disk.
#[derive(Debug, Clone, PartialEq)]
pub enum RecoveredFounding {
    /// The node is bound to it.
    Bound {
        /// What was proposed.
        founding: Signed<Founding>,
        /// The bind.
        bind: Signed<Bind>,
    },
    /// It came to nothing.
    Aborted {
        /// Its id.
        founding: Hash,
        /// The proof.
        proof: AbortProof,
    },
}

/// What a node voted and accepted in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveredBallot {
    /// Chain or founding.
    pub chain: Hash,
    /// The round.
    pub round: u64,
    /// The vote.
    pub vote: Option<Signed<Vote>>,
    /// The accepted proposal.
    pub accepted: Option<Proposal>,
}
