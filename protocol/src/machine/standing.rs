//! Where a node stands in its run, and what it has where it stands.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::{Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::chain::Chain;
use crate::context::Context;
use crate::io::{PersistId, RecoveredBallot};
use crate::message::Message;
use crate::round::Round;
use crate::round::pending::PendingChanges;
use crate::sync::Questions;

/// Where a node stands.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// In no chain: it looks for others to found one, or for one to follow.
    Gathering,
    /// Follows a chain that it is not on the roster of.
    Following(Box<InChain>),
    /// On the roster.
    Member(Box<InChain>, Box<Round>),
    /// Nothing more to decide here: the run is over, or the node came off the roster for good. It serves others still.
    Over(Option<Box<InChain>>, End),
}

/// Why nothing more is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The run is over; `told` once whoever is waited for has its end.
    Finished { told: bool },
    /// The node came off the roster at its own wish.
    Left,
}

/// A chain, and what goes with being in it.
#[derive(Debug, Clone)]
pub(super) struct InChain {
    pub(super) chain: Chain,
    pub(super) pending: PendingChanges,
    /// Votes and accepts found on disk, until their round begins.
    pub(super) promised: Vec<RecoveredBallot>,
    pub(super) questions: Questions,
    /// When records were last sent to a member that works on an older round.
    pub(super) helped: BTreeMap<NodeId, Time>,
    /// Messages of the next round that came before this one's commit: one a member.
    pub(super) next_round_inbox: BTreeMap<NodeId, Message>,
    /// When this node saw the last commit, if it did.
    pub(super) committed_at: Option<Time>,
    /// The write of the last record, and the last record that is on disk.
    pub(super) last_write: Option<PersistId>,
    pub(super) written: Option<u64>,
    /// When the last round with contributions was seen, or the last before a stop: from then on the end is waited for.
    pub(super) end_began: Option<Time>,
    /// Whether the stop was told of.
    pub(super) halt_told: bool,
    /// When a quorum of the roster was last in sight.
    pub(super) alive_at: Time,
    /// Why the last request to join was refused.
    pub(super) join_refused: Option<Reject>,
    /// Why this member told nodes in sight that they may not come.
    pub(super) refused: BTreeMap<NodeId, Reject>,
    /// Whether this node is on the roster and its promises are lost: it follows, and never votes.
    pub(super) has_forgotten: bool,
    /// Second commits that were seen.
    pub(super) second_commits: BTreeSet<Hash>,
}

impl InChain {
    pub(super) fn new(chain: Chain, now: Time) -> Self {
        let end_began = (chain.is_trained() || chain.is_halted()).then_some(now);
        Self {
            chain,
            pending: PendingChanges::default(),
            promised: Vec::new(),
            questions: Questions::default(),
            helped: BTreeMap::new(),
            next_round_inbox: BTreeMap::new(),
            committed_at: None,
            last_write: None,
            written: None,
            end_began,
            halt_told: false,
            alive_at: now,
            join_refused: None,
            refused: BTreeMap::new(),
            has_forgotten: false,
            second_commits: BTreeSet::new(),
        }
    }

    /// Whether the last record and its model are on disk.
    pub(super) fn holds_head(&self, ctx: &Context) -> bool {
        self.written == Some(self.chain.head().round) && ctx.blobs.contains(&self.chain.head().model.id)
    }

    /// The model of the last record that is on disk.
    pub(super) fn written_model(&self) -> Option<Hash> {
        let index = usize::try_from(self.written?).ok()?;
        self.chain.records().get(index).map(|c| c.record.model.id)
    }
}

impl Standing {
    pub(super) fn in_chain(&self) -> Option<&InChain> {
        match self {
            Standing::Gathering => None,
            Standing::Following(in_chain) | Standing::Member(in_chain, _) => Some(in_chain),
            Standing::Over(in_chain, _) => in_chain.as_deref(),
        }
    }

    pub(super) fn in_chain_mut(&mut self) -> Option<&mut InChain> {
        match self {
            Standing::Gathering => None,
            Standing::Following(in_chain) | Standing::Member(in_chain, _) => Some(in_chain),
            Standing::Over(in_chain, _) => in_chain.as_deref_mut(),
        }
    }

    pub(super) fn chain(&self) -> Option<&Chain> {
        self.in_chain().map(|c| &c.chain)
    }

    pub(super) fn round(&self) -> Option<&Round> {
        match self {
            Standing::Member(_, round) => Some(round),
            Standing::Gathering | Standing::Following(_) | Standing::Over(..) => None,
        }
    }
}
