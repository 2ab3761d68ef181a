//! The machine of one node: all of agreement, driven from outside.
//!
//! ```text
//! machine.handle(now, input); while let Some(effect) = machine.poll_effect() { … }; wait until machine.deadline()
//! ```
//!
//! Give it one input, drain the effects, give it the next. It is a function of its inputs: the same ones in the same
//! order, with the same seed, give the same effects.
//!
//! The way of a node: gather and found ([`crate::founding`]) or join a chain that is there ([`membership`]); then round
//! after round ([`crate::round`]), each decided by a [`crate::contest`]; whoever is behind catches up ([`catch_up`]).

mod catch_up;
mod io;
mod membership;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use io::*;

use crate::chain::{Chain, Rules};
use crate::contest::Start;
use crate::core::{Core, Fault};
use crate::founding::Foundings;
use crate::ids::{Hash, Identity, NodeId, Time};
use crate::message::{Ask, Message};
use crate::record::{Committed, Contribution};
use crate::reject::Reject;
use crate::requests::Requests;
use crate::roster::Part;
use crate::round::Round;
use crate::timing::CLOSING_MS;

use catch_up::CatchUp;
use membership::Membership;

/// What makes a node of a run.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the run file fixes.
    pub rules: Rules,
    /// The node's key.
    pub identity: Identity,
    /// What people call it.
    pub name: String,
    /// Its part of a shared data set.
    pub part: Option<Part>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    core: Core,
    foundings: Foundings,
    chain: Option<Chain>,
    /// The chain that was given up for this one.
    aside: Option<Chain>,
    /// The round being decided; `None` without a chain and at its end.
    round: Option<Round>,
    requests: Requests,
    /// Votes and accepts found on disk, until their round begins.
    promised: Vec<RecoveredBallot>,
    membership: Membership,
    catch_up: CatchUp,
    /// Messages of the next round that came before this one's commit: one a peer.
    early: BTreeMap<NodeId, Message>,
    /// When this node saw the last commit, if it did.
    committed_at: Option<Time>,
    /// When the last round with contributions was seen: from then on the end is waited for.
    end_began: Option<Time>,
    finished: bool,
}

impl Machine {
    /// A node that starts, with what it found on its disk. `seed` must be fresh at every start: nothing secret hangs on
    /// it, but two nodes with one seed would wait alike.
    pub fn new(config: Config, seed: [u8; 32], now: Time, recovered: Recovered) -> Self {
        let Config { rules, identity, name, part } = config;
        let mut blobs: BTreeSet<Hash> = recovered.blobs.iter().copied().collect();
        blobs.insert(rules.initial_model.id);
        let mut core = Core::new(rules, identity, name, part, seed, now, blobs);
        let foundings = Foundings::restored(&mut core, recovered.foundings, &recovered.ballots);
        let mut machine = Self {
            core,
            foundings,
            chain: None,
            aside: None,
            round: None,
            requests: Requests::default(),
            promised: recovered.ballots,
            membership: Membership::new(recovered.left),
            catch_up: CatchUp::default(),
            early: BTreeMap::new(),
            committed_at: None,
            end_began: None,
            finished: false,
        };
        machine.aside = machine.restored_chain(recovered.aside);
        machine.chain = machine.restored_chain(recovered.chain);
        if let Some(chain) = &machine.chain {
            machine.end_began = chain.is_trained().then_some(now);
            machine.membership.was_member = chain.roster().contains(machine.core.me);
        }
        if let Some(chain) = &machine.chain {
            let round = chain.next_round();
            let contribution = recovered.contribution.filter(|(r, _)| *r == round).map(|(_, c)| c);
            for evidence in recovered.evidence {
                machine.requests.add_evidence(&mut machine.core, chain, evidence, false);
            }
            machine.begin_round(contribution, Start::AfterRestart(None));
        }
        if machine.chain.is_none()
            && let Some(genesis) = machine.foundings.founded().cloned()
            && machine.aside.as_ref().is_none_or(|aside| aside.genesis() != genesis.record.hash())
        {
            machine.begin_chain(genesis);
        }
        machine.settle();
        machine
    }

    /// The records on disk were checked before they were written; that they follow on each other is checked here, and
    /// what does not is fetched again from others.
    fn restored_chain(&self, records: Vec<Committed>) -> Option<Chain> {
        let mut records = records.into_iter();
        let mut chain = Chain::begin(self.core.rules.clone(), records.next()?).ok()?;
        for record in records {
            if chain.append_stored(record).is_err() {
                break;
            }
        }
        Some(chain)
    }

    /// The next effect to carry out.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.core.poll_effect()
    }

    /// When `Input::Tick` is due, if nothing else comes before.
    pub fn deadline(&self) -> Option<Time> {
        let round = self.round.as_ref().map(|r| r.deadline(&self.core));
        let founding = self.foundings.deadline(&self.core, self.chain.is_some());
        let end = self.end_began.filter(|_| !self.finished).map(|at| at.plus_ms(CLOSING_MS));
        [Some(self.membership.deadline()), round, founding, end].into_iter().flatten().min()
    }

    /// The chain, once there is one.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.core.me
    }

    #[cfg(test)]
    pub(crate) fn break_on_purpose(&mut self, fault: Fault) {
        self.core.faults.insert(fault);
    }

    /// Takes one input. `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.core.now = self.core.now.max(now);
        match input {
            Input::Received { from, message } => self.receive(from, message),
            Input::PeerUp(peer) => self.peer_up(peer),
            Input::PeerDown(peer) => self.peer_down(peer),
            Input::Persisted(id) => self.core.persisted(id),
            Input::PersistFailed(id) => {
                self.core.persist_failed(id);
                if let Some(round) = &mut self.round {
                    round.contest.give_up(&mut self.core, "the disk fails");
                }
            }
            Input::Fetched { blob } => self.fetched(blob),
            Input::FetchFailed { blob, failure } => self.fetch_failed(blob, failure),
            Input::Trained { round, parent, outcome } => {
                if let (Some(chain), Some(current)) = (&self.chain, &mut self.round)
                    && (chain.next_round(), chain.head_hash()) == (round, parent)
                {
                    current.trained(&mut self.core, chain, outcome);
                }
            }
            Input::Evaluated { round, evaluation } => {
                if let (Some(chain), Some(current)) = (&self.chain, &mut self.round)
                    && chain.next_round() == round
                {
                    current.evaluated(&mut self.core, chain, evaluation);
                }
            }
            Input::Folded { ballot, node, result } => {
                if let (Some(chain), Some(round)) = (&self.chain, &mut self.round) {
                    round.folded(&mut self.core, chain, ballot, node, result);
                }
            }
            Input::Aggregated { ballot, result } => {
                if let (Some(chain), Some(round)) = (&self.chain, &mut self.round) {
                    round.aggregated(&mut self.core, chain, &mut self.requests, ballot, result);
                }
            }
            Input::Command(Command::Leave) => self.wish_to_leave(),
            Input::Tick => {}
        }
        self.settle();
    }

    /// Does what is due, until nothing is: timers, messages to itself, decisions.
    fn settle(&mut self) {
        self.foundings.tick(&mut self.core, self.chain.is_some());
        if let Some(round) = &mut self.round {
            round.tick(&mut self.core);
        }
        loop {
            self.drive_foundings();
            self.drive_round();
            match self.core.take_loopback() {
                Some(message) => self.receive(self.core.me, message),
                None => break,
            }
        }
        self.membership_tick();
        self.end_if_due();
    }

    fn drive_foundings(&mut self) {
        let Some(genesis) = self.foundings.take_decided(&mut self.core) else { return };
        if self.chain.is_none() {
            self.begin_chain(genesis);
        }
    }

    /// The first record of a chain is known and proven: this node is in it from now on.
    fn begin_chain(&mut self, genesis: Committed) {
        let chain = match Chain::begin(self.core.rules.clone(), genesis.clone()) {
            Ok(chain) => chain,
            Err(reject) => return self.core.reject(genesis.record.coordinator, reject),
        };
        let (hash, members) = (chain.genesis(), chain.roster().len());
        self.core.persist(Persist::Committed { genesis: hash, committed: genesis, figures: Figures::default() });
        self.core.emit(Event::Founded { genesis: hash, members });
        self.committed_at = chain.roster().contains(self.core.me).then_some(self.core.now);
        self.membership.was_member = chain.roster().contains(self.core.me);
        self.chain = Some(chain);
        self.begin_round(None, Start::Fresh);
    }

    fn begin_round(&mut self, contribution: Option<Contribution>, start: Start) {
        let Some(chain) = &self.chain else { return };
        self.round = None;
        // Promises outlive records: a chain that was found shorter than what this node has voted in grows again.
        let (genesis, round) = (chain.genesis(), chain.next_round());
        let promised = self.promised.iter().position(|b| (b.genesis, b.round) == (genesis, round));
        let start = promised.map_or(start, |at| Start::AfterRestart(Some(self.promised.swap_remove(at))));
        if !chain.is_closed() && chain.yielded_to().is_none() {
            self.round = Some(Round::begin(&mut self.core, chain, contribution, start));
        }
        self.keep_blobs();
        for (from, message) in std::mem::take(&mut self.early) {
            self.receive(from, message);
        }
    }

    fn drive_round(&mut self) {
        let yields_to = self.yields_to();
        let (Some(chain), Some(round)) = (&self.chain, &mut self.round) else { return };
        let decided = round.drive(&mut self.core, chain, &mut self.requests, yields_to);
        if let Some(committed) = decided
            && let Err(reject) = self.commit(committed)
        {
            // Members accepted what this node's own rules refuse: two versions of the program, most likely.
            self.core.reject(self.core.me, reject);
        }
    }

    /// The next record, with its proof: from this node's own ballot, from gossip, or from a peer while catching up.
    /// Whether it was taken.
    fn commit(&mut self, committed: Committed) -> Result<(), Reject> {
        let Some(chain) = &mut self.chain else { return Err(Reject::OtherChain) };
        if self.core.is_broken(Fault::CommitOnTooFew) {
            chain.append_stored(committed.clone())?;
        } else {
            chain.append(committed.clone())?;
        }
        if let Some(round) = &mut self.round {
            round.contest.witness_committed(&committed);
            round.end(&mut self.core);
        }
        let now = self.core.now;
        let duration_ms = self.committed_at.map(|at| now.since_ms(at));
        let overhead_ms = duration_ms.zip(committed.record.train_ms_max()).map(|(d, t)| d.saturating_sub(t));
        self.committed_at = Some(now);
        let figures = Figures { duration_ms, overhead_ms, ..Figures::default() };
        let (value, record) = (chain.head_hash(), &committed.record);
        self.core.emit(Event::Committed { round: record.round, value, model: record.model });
        if chain.is_trained() && self.end_began.is_none() || chain.is_closed() {
            self.end_began = Some(now);
        }
        let genesis = chain.genesis();
        self.requests.expire(chain);
        self.core.persist(Persist::Committed { genesis, committed, figures });
        self.membership_changed();
        self.begin_round(None, Start::Fresh);
        self.follow_yield();
        Ok(())
    }

    /// Tells which blobs are still of use: the models of the head and of undecided rounds, updates of the open round.
    /// Everything else may go when the shell wants the room.
    fn keep_blobs(&mut self) {
        let mut blobs: BTreeSet<Hash> = self.foundings.models().collect();
        blobs.insert(self.core.rules.initial_model.id);
        if let Some(chain) = &self.chain {
            blobs.insert(chain.head().model.id);
        }
        if let Some(round) = &self.round {
            blobs.extend(round.blobs());
        }
        self.core.cancel_fetches_but(&blobs);
        self.core.keep(blobs);
    }

    fn receive(&mut self, from: NodeId, message: Message) {
        let round = self.chain.as_ref().map_or(0, Chain::next_round);
        self.core.peers.heard(from, self.core.now, round);
        let Some(genesis) = genesis_of(&message) else {
            match message {
                Message::Presence(presence) => self.on_presence(from, presence),
                Message::Founding(founding) => {
                    let chain = self.chain.as_ref().map(Chain::genesis);
                    self.foundings.on_founding(&mut self.core, from, founding, chain);
                }
                _ => {}
            }
            return;
        };
        match &self.chain {
            Some(chain) if chain.genesis() == genesis => self.receive_in_chain(from, message),
            // A founding of which this node knows, or one that it is told of.
            _ if self.foundings.is_known(genesis) || is_of_founding(&message) => {
                self.foundings.receive(&mut self.core, from, genesis, message);
            }
            _ => self.receive_of_other_chain(from, genesis, message),
        }
    }

    fn receive_in_chain(&mut self, from: NodeId, message: Message) {
        let Some(chain) = &self.chain else { return };
        let here = chain.next_round();
        match message {
            Message::Committed { committed, .. } => self.on_committed(from, committed),
            Message::Records { records, .. } => self.on_records(from, records),
            Message::Ask(Ask::Records { from: first, .. }) => self.send_records(from, first),
            Message::Join { request, .. } => self.on_join(from, request),
            Message::JoinRefused { reject, .. } => self.membership.refused(reject),
            Message::Leave { request, .. } => {
                if let Err(reject) = self.requests.add_leave(chain, request) {
                    self.core.reject(from, reject);
                }
            }
            Message::Evidence { evidence, .. } => {
                self.requests.add_evidence(&mut self.core, chain, evidence, false);
            }
            message => match round_of(&message) {
                Some(round) if round > here => {
                    // The commit of this round is on its way, or was lost.
                    if round == here + 1 && chain.roster().contains(from) {
                        self.early.insert(from, message);
                    }
                    self.catch_up(from, round);
                }
                Some(round) if round < here => self.help(from, round),
                _ => {
                    if let Some(round) = &mut self.round {
                        round.receive(&mut self.core, chain, from, message);
                    }
                }
            },
        }
    }

    fn on_committed(&mut self, from: NodeId, committed: Committed) {
        let Some(chain) = &self.chain else { return };
        let (here, round) = (chain.next_round(), committed.record.round);
        if round > here {
            self.catch_up(from, round);
        } else if round == here
            && let Err(reject) = self.commit(committed)
        {
            self.core.reject(from, reject);
        }
    }

    fn fetched(&mut self, blob: Hash) {
        self.core.fetched(blob);
        if let Some(round) = &mut self.round {
            round.contest.fetched(&mut self.core, blob);
            round.update_fetched(&mut self.core, blob);
        }
        self.foundings.fetched(&mut self.core, blob);
    }

    fn fetch_failed(&mut self, blob: Hash, failure: FetchFailure) {
        self.core.fetch_failed(blob);
        if let (Some(chain), Some(round)) = (&self.chain, &mut self.round) {
            round.fetch_failed(&mut self.core, chain, blob, failure);
        }
        self.foundings.fetch_failed(&mut self.core, blob);
    }

    fn peer_up(&mut self, peer: NodeId) {
        let round = self.chain.as_ref().map_or(0, Chain::next_round);
        self.core.peers.set_connected(peer, true, self.core.now, round);
        let presence = Message::Presence(self.presence());
        self.core.send(peer, presence);
    }

    fn peer_down(&mut self, peer: NodeId) {
        let round = self.chain.as_ref().map_or(0, Chain::next_round);
        self.core.peers.set_connected(peer, false, self.core.now, round);
        if let Some(round) = &mut self.round {
            round.contest.peer_down(&mut self.core, peer);
        }
        self.foundings.peer_down(&mut self.core, peer);
    }

    /// After the last round a node serves until all that it can reach hold the end too, but not for ever.
    fn end_if_due(&mut self) {
        let (Some(chain), Some(began), false) = (&self.chain, self.end_began, self.finished) else { return };
        let holds_end = |node: NodeId| {
            let peer = self.core.peers.get(node);
            !self.core.peers.is_connected(node) || peer.is_some_and(|p| p.presence.as_ref().is_some_and(|s| s.finished))
        };
        let all = chain.is_closed() && chain.roster().nodes().filter(|n| *n != self.core.me).all(holds_end);
        if all || self.core.now.since_ms(began) >= CLOSING_MS {
            self.finished = true;
            self.core.emit(Event::Finished);
        }
    }
}

/// The chain or founding that a message belongs to.
fn genesis_of(message: &Message) -> Option<Hash> {
    match message {
        Message::Presence(_) | Message::Founding(_) => None,
        Message::Bind { founding, .. } | Message::Refusal { founding, .. } => Some(*founding),
        Message::Ask(Ask::Founding { id }) => Some(*id),
        Message::Ask(Ask::Opened { genesis, .. } | Ask::Proposal { genesis, .. } | Ask::Records { genesis, .. }) => {
            Some(*genesis)
        }
        Message::Opened(m) => Some(m.genesis),
        Message::Beat(m) => Some(m.genesis),
        Message::Proposal(m) => Some(m.genesis),
        Message::Canvass { genesis, .. }
        | Message::WouldVote { genesis, .. }
        | Message::VoteRequest { genesis, .. }
        | Message::Vote { genesis, .. }
        | Message::VoteRefused { genesis, .. }
        | Message::BeatHeard { genesis, .. }
        | Message::GaveUp { genesis, .. }
        | Message::Offer { genesis, .. }
        | Message::OfferAnswer { genesis, .. }
        | Message::Evaluated { genesis, .. }
        | Message::Accept { genesis, .. }
        | Message::ProposalRefused { genesis, .. }
        | Message::Committed { genesis, .. }
        | Message::Records { genesis, .. }
        | Message::Join { genesis, .. }
        | Message::JoinRefused { genesis, .. }
        | Message::Leave { genesis, .. }
        | Message::Evidence { genesis, .. } => Some(*genesis),
    }
}

/// The round that a message belongs to, where that is not looked at elsewhere.
fn round_of(message: &Message) -> Option<u64> {
    match message {
        Message::Opened(m) => Some(m.ballot.round),
        Message::Beat(m) => Some(m.ballot.round),
        Message::Proposal(m) => Some(m.ballot.round),
        Message::Vote { vote, .. } => Some(vote.ballot.round),
        Message::Accept { accept, .. } => Some(accept.ballot.round),
        Message::Canvass { ballot, .. }
        | Message::WouldVote { ballot, .. }
        | Message::VoteRequest { ballot, .. }
        | Message::VoteRefused { ballot, .. }
        | Message::BeatHeard { ballot, .. }
        | Message::GaveUp { ballot, .. }
        | Message::Offer { ballot, .. }
        | Message::OfferAnswer { ballot, .. }
        | Message::Evaluated { ballot, .. }
        | Message::ProposalRefused { ballot, .. }
        | Message::Ask(Ask::Opened { ballot, .. }) => Some(ballot.round),
        _ => None,
    }
}

/// Whether a message can belong to nothing but a founding: its round is 0.
fn is_of_founding(message: &Message) -> bool {
    matches!(message, Message::Bind { .. } | Message::Refusal { .. } | Message::Ask(Ask::Founding { .. }))
        || round_of(message) == Some(0)
}
