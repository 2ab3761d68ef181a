//! The machine of one node: all of agreement, driven from outside.
//!
//! ```text
//! machine.handle(now, input); while let Some(effect) = machine.poll_effect() { … }; wait until machine.deadline()
//! ```
//!
//! Give it one input, drain the effects, give it the next. It is a function of its inputs: the same ones in the same
//! order, with the same seed, give the same effects.
//!
//! The way of a node is its `Standing`: it gathers and founds ([`crate::founding`]) or follows a chain that lives
//! (`sync::sighting`), is a member of it round after round ([`crate::round`]), and serves others when it is over.

mod chain;
mod members;
mod reason;
mod standing;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::base::ids::{Hash, Identity, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::Part;
use crate::base::signed::Verifier;
use crate::chain::{Chain, RunParams};
use crate::context::{self, Context};
use crate::founding::{self, Foundings};
use crate::io::{Command, Effect, FetchFailure, Input, PersistId, Recovered};
use crate::membership::Presences;
use crate::membership::message::Message as Membership;
use crate::message::{Body, Message};
use crate::record::Committed;
use crate::sync::sighting::Sightings;

use standing::{End, InChain, Standing};

/// What makes a node of a run.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the run file fixes.
    pub params: RunParams,
    /// The node's key.
    pub identity: Identity,
    /// What people call it.
    pub name: String,
    /// Its part of a shared data set.
    pub part: Option<Part>,
    /// The only chain that it may enter, by its genesis. Such a node founds nothing.
    pub pinned: Option<Hash>,
    /// Whether it wants to go on with a run that it finds stopped.
    pub resumes: bool,
    /// Remembers which signatures hold. Machines in one process may share it.
    pub verifier: Verifier,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Machine {
    ctx: Context,
    standing: Standing,
    foundings: Foundings,
    sightings: Sightings,
    presences: Presences,
    /// Chains in which this node lost what it promised.
    forgotten: BTreeSet<Hash>,
    /// The record that begins a chain of this node's own, on its way to the disk.
    going_alone: Option<(PersistId, Committed)>,
    /// Whether somebody at this node wants it off the roster.
    wants_to_leave: bool,
    /// Whether it wants to go on with a run that it finds stopped when it starts.
    resumes: bool,
    /// The round for which this node last asked for what it lacks, and whether it then had the last model.
    pursued: Option<(u64, bool)>,
}

impl Machine {
    /// A node that starts, with what it found on its disk. `seed` must be fresh at every start: nothing secret hangs on
    /// it, but two nodes with one seed would wait alike, and the consents to foundings are drawn from it.
    pub fn new(config: Config, seed: [u8; 32], now: Time, recovered: Recovered) -> Self {
        let Config { params, identity, name, part, pinned, resumes, verifier } = config;
        let mut blobs: BTreeSet<Hash> = recovered.blobs.iter().copied().collect();
        blobs.insert(params.initial_model.id);
        let promises = recovered.promises.iter().copied().collect();
        let parts = context::Parts { params, identity, name, part, verifier, seed, now, blobs, promises };
        let mut ctx = Context::new(parts);
        let foundings = Foundings::restored(&mut ctx, recovered.foundings, &recovered.ballots);
        let mut machine = Self {
            ctx,
            standing: Standing::Gathering,
            foundings,
            sightings: Sightings::new(recovered.given_up, recovered.kept_aside, pinned),
            presences: Presences::default(),
            forgotten: recovered.forgotten.into_iter().collect(),
            going_alone: None,
            wants_to_leave: recovered.leaving,
            resumes,
            pursued: None,
        };
        if let Some(chain) = machine.restored_chain(recovered.chain) {
            machine.foundings.clear();
            let mut in_chain = InChain::new(chain, now);
            in_chain.written = Some(in_chain.chain.next_round() - 1);
            in_chain.promised = recovered.ballots;
            in_chain.has_forgotten = machine.forgotten.contains(&in_chain.chain.genesis());
            recovered.evidence.into_iter().for_each(|e| in_chain.pending.restore_evidence(&in_chain.chain, e));
            machine.resume(in_chain, recovered.contribution);
        }
        if recovered.left {
            machine.leave_for_good();
        }
        machine.settle();
        machine
    }

    /// The next effect to carry out.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.ctx.poll_effect()
    }

    /// When `Input::Tick` is due, if nothing else comes before.
    pub fn deadline(&self) -> Option<Time> {
        let round = self.standing.round().map(|r| r.deadline(&self.ctx));
        let founding = match self.standing {
            Standing::Gathering => self.foundings.deadline(&self.ctx, self.may_found()),
            Standing::Following(_) | Standing::Member(..) | Standing::Over(..) => None,
        };
        let questions = self.standing.in_chain().and_then(|c| c.questions.deadline());
        let waits =
            [Some(self.presences.deadline()), round, founding, questions, self.sightings.deadline(), self.end_due()];
        waits.into_iter().flatten().min()
    }

    /// The chain, once there is one.
    pub fn chain(&self) -> Option<&Chain> {
        self.standing.chain()
    }

    /// Whether a node is a member of this node's chain, or of one that it was moved away from and may be led back to.
    pub fn is_of_interest(&self, node: NodeId) -> bool {
        self.chain().is_some_and(|chain| chain.roster().contains(node)) || self.sightings.is_member_aside(node)
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.ctx.me
    }

    /// Takes one input. `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.ctx.now = self.ctx.now.max(now);
        self.ctx.begin_input(matches!(input, Input::Gossiped { .. }));
        match input {
            Input::Received { from, message } | Input::Gossiped { from, message } => self.receive(from, message),
            Input::PeerUp(peer) => self.peer_up(peer),
            Input::PeerDown(peer) => self.peer_down(peer),
            Input::Persisted(id) => self.persisted(id),
            Input::Fetched { blob } => self.fetched(blob),
            Input::FetchFailed { blob, failure } => self.fetch_failed(blob, failure),
            Input::Trained { round, parent, outcome } => {
                if let Standing::Member(c, current) = &mut self.standing
                    && (c.chain.next_round(), c.chain.head_hash()) == (round, parent)
                {
                    current.trained(&mut self.ctx, &c.chain, outcome);
                }
            }
            Input::Progress { percent } => {
                if let Standing::Member(_, round) = &mut self.standing {
                    round.progressed(percent);
                }
            }
            Input::Evaluated { round, evaluation } => {
                if let Standing::Member(c, current) = &mut self.standing
                    && c.chain.next_round() == round
                {
                    current.evaluated(&mut self.ctx, &c.chain, evaluation);
                }
            }
            Input::Folded { ballot, node, result } => {
                if let Standing::Member(c, round) = &mut self.standing {
                    round.folded(&mut self.ctx, &c.chain, ballot, node, result);
                }
            }
            Input::Aggregated { ballot, result } => {
                if let Standing::Member(c, round) = &mut self.standing {
                    round.aggregated(&mut self.ctx, &c.chain, &mut c.pending, ballot, result);
                }
            }
            Input::Command(Command::Leave) => self.wish_to_leave(),
            Input::Command(Command::Resume) => {
                if let Standing::Member(c, round) = &mut self.standing {
                    round.wish_to_resume(&mut self.ctx, &c.chain);
                }
            }
            Input::Command(Command::DropRoster) => self.go_on_alone(),
            Input::Command(command @ (Command::Pause | Command::Unpause)) => {
                self.ctx.is_paused = command == Command::Pause;
                if let Standing::Member(_, round) = &mut self.standing {
                    round.pause_if_told(&mut self.ctx);
                }
            }
            Input::Tick => {}
        }
        self.settle();
    }

    /// Does what is due, until nothing is: timers, messages to itself, decisions.
    fn settle(&mut self) {
        self.tick_gathering();
        if let Standing::Member(_, round) = &mut self.standing {
            round.tick(&mut self.ctx);
        }
        loop {
            self.drive_foundings();
            self.drive_round();
            match self.ctx.take_loopback() {
                Some(message) => self.receive(self.ctx.me, message),
                None => break,
            }
        }
        self.tick_members();
        self.end_if_due();
    }

    /// Whether this node is free to found: it is in no chain, and none is in sight that lives or may prove that it does.
    fn may_found(&self) -> bool {
        let is_free = matches!(self.standing, Standing::Gathering) && !self.wants_to_leave;
        is_free && !self.sightings.holds_back(&self.ctx)
    }

    fn tick_gathering(&mut self) {
        if !matches!(self.standing, Standing::Gathering) {
            return;
        }
        if self.foundings.bound().is_none() {
            self.sightings.look(&mut self.ctx, None);
            if let Some(chain) = self.sightings.take_followed(&self.ctx) {
                return self.follow(chain);
            }
        }
        let free = self.may_found();
        self.foundings.tick(&mut self.ctx, free);
    }

    fn drive_foundings(&mut self) {
        if !matches!(self.standing, Standing::Gathering) {
            return;
        }
        if let Some((genesis, lies)) = self.foundings.take_decided(&mut self.ctx) {
            self.found(genesis, lies);
        }
    }

    fn receive(&mut self, from: NodeId, message: Message) {
        let Message { chain, body } = message;
        match body {
            Body::Membership(Membership::Presence(presence)) => self.on_presence(from, chain, presence),
            body if is_of_founding(&body) && self.sightings.was_founded_by(chain) => {
                self.sightings.show_genesis(&mut self.ctx, from, chain);
            }
            Body::Founding(word) => self.on_founding(from, chain, word),
            Body::Paxos { ballot, message } if ballot.round == 0 => {
                let standing = for_foundings(&self.standing, false);
                self.foundings.receive_paxos(&mut self.ctx, from, (chain, ballot), message, standing);
            }
            body if self.chain().is_some_and(|own| own.genesis() == chain) => self.receive_in_chain(from, body),
            body => self.receive_of_other_chain(from, chain, body),
        }
    }

    fn on_founding(&mut self, from: NodeId, id: Hash, word: founding::message::Message) {
        use founding::message::Message as Word;
        if let Some(c) = self.standing.in_chain_mut().filter(|c| c.chain.founding() == id) {
            match word {
                Word::Refusal(refusal) => {
                    let known = members::bind_and_refusal(&c.chain, refusal);
                    if let Some(evidence) = known {
                        let added = c.pending.add_evidence(&mut self.ctx, &c.chain, evidence);
                        self.note(from, added);
                    }
                    return;
                }
                Word::Decided(committed) => return self.on_old_commit(from, committed),
                _ => {}
            }
        }
        let free = self.may_found();
        let standing = for_foundings(&self.standing, free);
        self.foundings.receive(&mut self.ctx, from, id, word, standing);
    }

    fn persisted(&mut self, id: PersistId) {
        self.ctx.persisted(id);
        if let Some((_, first)) = self.going_alone.take_if(|(write, _)| *write == id) {
            self.begin_alone(first, id);
        }
        let Some(c) = self.standing.in_chain_mut() else { return };
        if c.last_write == Some(id) {
            c.written = Some(c.chain.next_round() - 1);
            self.clear_blobs();
        }
    }

    fn fetched(&mut self, blob: Hash) {
        self.ctx.fetched(blob);
        if let Standing::Member(_, round) = &mut self.standing {
            round.paxos.fetched(&mut self.ctx, blob);
            round.update_fetched(&mut self.ctx, blob);
        }
    }

    fn fetch_failed(&mut self, blob: Hash, failure: FetchFailure) {
        self.ctx.fetch_failed(blob, failure);
        if let Standing::Member(c, round) = &mut self.standing {
            round.fetch_failed(&mut self.ctx, &c.chain, blob, failure);
        }
    }

    fn next_round(&self) -> u64 {
        self.chain().map_or(0, Chain::next_round)
    }

    fn peer_up(&mut self, peer: NodeId) {
        let round = self.next_round();
        self.ctx.peers.set_connected(peer, true, self.ctx.now, round);
        let stand = self.stand();
        self.presences.tell(&mut self.ctx, peer, stand);
    }

    fn peer_down(&mut self, peer: NodeId) {
        let round = self.next_round();
        self.ctx.peers.set_connected(peer, false, self.ctx.now, round);
        self.sightings.peer_down(peer);
        if let Some(c) = self.standing.in_chain_mut() {
            c.questions.forget(peer);
            c.pending.peer_down(peer);
            c.refused.remove(&peer);
        }
        if let Standing::Member(_, round) = &mut self.standing {
            round.paxos.peer_down(&mut self.ctx, peer);
        }
        self.foundings.peer_down(&mut self.ctx, peer);
    }

    /// Notes what is wrong with what a peer said.
    fn note(&mut self, from: NodeId, result: Result<(), Reject>) {
        if let Err(reject) = result {
            self.ctx.reject(from, reject);
        }
    }

    fn leave_for_good(&mut self) {
        self.standing = match std::mem::replace(&mut self.standing, Standing::Gathering) {
            Standing::Gathering => Standing::Over(None, End::Left),
            Standing::Following(c) | Standing::Member(c, _) => Standing::Over(Some(c), End::Left),
            Standing::Over(c, _) => Standing::Over(c, End::Left),
        };
    }
}

/// Whether a message names a founding: it belongs to one, or to its decision.
fn is_of_founding(body: &Body) -> bool {
    match body {
        Body::Founding(_) => true,
        Body::Paxos { ballot, .. } => ballot.round == 0,
        Body::Round { .. } | Body::Membership(_) | Body::Sync(_) => false,
    }
}

/// What foundings need to know of where this node stands.
fn for_foundings(standing: &Standing, free: bool) -> founding::Standing<'_> {
    match standing.chain() {
        Some(chain) => founding::Standing::InChain(&chain.records()[0]),
        None if free => founding::Standing::Free,
        None => founding::Standing::Busy,
    }
}
