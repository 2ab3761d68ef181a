//! How a run begins: nodes that see each other decide on a first roster (design 4.2).
//!
//! A founding is proposed under a fresh id. Every member of its roster binds itself to it or refuses; then the roster
//! decides by a [`Contest`] of round 0 whether it is `found` (every bind in hand) or comes to nothing. Only that decision
//! frees who is bound. So two foundings that come about share no node, whoever crashes.

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::FOUNDINGS_MAX;
use crate::chain::check_founding;
use crate::contest::{Contest, Start, Turn};
use crate::core::{Core, Held};
use crate::ids::{Ballot, Hash, NodeId, Time};
use crate::machine::{Event, Persist, RecoveredBallot, RecoveredFounding};
use crate::message::{Ask, Message, Phase};
use crate::record::{Bind, Committed, Founding, Kind, Record, Refusal};
use crate::reject::Reject;
use crate::roster::{Member, Roster};
use crate::rule::Rule;
use crate::timing::{BIND_MS, FOUNDING_STEP_MS, RETRY_MS, STABLE_MS};

/// One founding that this node is on the proposed roster of.
#[derive(Debug)]
struct Attempted {
    founding: Founding,
    roster: Roster,
    contest: Contest,
    bind: Option<Bind>,
    refusal: Option<Refusal>,
    binds: BTreeMap<NodeId, Bind>,
    refusals: BTreeMap<NodeId, Refusal>,
    /// When this node was elected and began to wait for binds.
    waiting_since: Option<Time>,
    repeat_at: Time,
    decided: Option<Committed>,
}

#[derive(Debug, Default)]
pub(crate) struct Foundings {
    known: BTreeMap<Hash, Attempted>,
    /// The nodes that could found, and since when they are the same.
    view: BTreeSet<NodeId>,
    view_since: Time,
    /// A random part of this node's waiting time, drawn with the view.
    jitter_ms: u64,
}

impl Foundings {
    pub(crate) fn restored(core: &mut Core, found: Vec<RecoveredFounding>, ballots: &[RecoveredBallot]) -> Self {
        let mut foundings = Self { view_since: core.now, ..Self::default() };
        // Should there be too many, those that bind this node come first, and those that came to nothing last.
        let mut found = found;
        found.sort_by_key(|f| match &f.decided {
            None if f.bind.is_some() => 0,
            Some(c) if !is_abort(&c.record) => 0,
            None => 1,
            Some(_) => 2,
        });
        for f in found.into_iter().take(FOUNDINGS_MAX) {
            let id = f.founding.id();
            let ballot = ballots.iter().find(|b| b.genesis == id).cloned();
            let mut attempted = Attempted::begin(core, f.founding, Start::AfterRestart(ballot));
            attempted.binds.extend(f.bind.map(|b| (b.node, b)));
            attempted.refusals.extend(f.refusal.map(|r| (r.node, r)));
            (attempted.bind, attempted.refusal, attempted.decided) = (f.bind, f.refusal, f.decided);
            foundings.known.insert(id, attempted);
        }
        foundings
    }

    /// The genesis of the founding that came about with this node, if one has. After a crash between the decision and the
    /// chain's first write, this is where the chain is.
    pub(crate) fn founded(&self) -> Option<&Committed> {
        let came_about = |a: &Attempted| a.bind.is_some() && a.decided.as_ref().is_some_and(|c| !is_abort(&c.record));
        self.known.values().find(|a| came_about(a)).and_then(|a| a.decided.as_ref())
    }

    /// The founding that this node is bound to and that is not decided.
    pub(crate) fn bound(&self) -> Option<Hash> {
        self.known.iter().find(|(_, a)| a.bind.is_some() && a.decided.is_none()).map(|(id, _)| *id)
    }

    pub(crate) fn is_known(&self, id: Hash) -> bool {
        self.known.contains_key(&id)
    }

    /// The members whose word on a founding is not known here.
    pub(crate) fn silent_on(&self, id: Hash) -> Vec<String> {
        let Some(a) = self.known.get(&id) else { return Vec::new() };
        let said = |m: &&Member| a.binds.contains_key(&m.node) || a.refusals.contains_key(&m.node);
        a.founding.members.iter().filter(|m| !said(m)).map(|m| m.name.clone()).collect()
    }

    /// Models that must stay on disk for undecided foundings.
    pub(crate) fn models(&self) -> impl Iterator<Item = Hash> + '_ {
        self.known.values().filter(|a| a.decided.is_none()).flat_map(|a| a.contest.models())
    }

    pub(crate) fn deadline(&self, core: &Core, in_chain: bool) -> Option<Time> {
        let contests = self.known.values().filter(|a| a.decided.is_none()).map(Attempted::deadline).min();
        let proposal = (!in_chain && self.bound().is_none()).then(|| self.proposes_at(core)).flatten();
        contests.into_iter().chain(proposal).min()
    }

    /// Looks again at who could found a run together, and proposes when it is this node's turn.
    pub(crate) fn tick(&mut self, core: &mut Core, in_chain: bool) {
        for attempted in self.known.values_mut().filter(|a| a.decided.is_none()) {
            attempted.tick(core);
        }
        if in_chain || self.bound().is_some() {
            self.view.clear();
            return;
        }
        let view = view(core);
        if view != self.view {
            (self.view, self.view_since) = (view, core.now);
            self.jitter_ms = core.draw_below(FOUNDING_STEP_MS);
        }
        if self.proposes_at(core).is_some_and(|at| core.now >= at) {
            self.propose(core);
        }
    }

    /// When this node proposes a founding, if the view stays as it is: the smallest id first, the others step in after a
    /// growing wait. `None` while too few nodes are there.
    fn proposes_at(&self, core: &Core) -> Option<Time> {
        let rank = self.view.iter().position(|n| *n == core.me)? as u64;
        let wait_ms = if rank == 0 { 0 } else { rank * FOUNDING_STEP_MS + self.jitter_ms };
        (self.view.len() >= core.rules.min_nodes).then(|| self.view_since.plus_ms(STABLE_MS + wait_ms))
    }

    fn propose(&mut self, core: &mut Core) {
        // Should nobody answer, the next try waits anew.
        self.view_since = core.now;
        let mut members: Vec<Member> = Vec::new();
        for node in &self.view {
            let member = match core.peers.get(*node).and_then(|p| p.presence.as_ref()) {
                _ if *node == core.me => Member { node: core.me, name: core.name.clone(), part: core.part },
                Some(presence) => Member { node: *node, name: presence.name.clone(), part: presence.part },
                None => continue,
            };
            // Of two that hold the same part, the first is founded with; the other may not even join.
            let fits = member.part.is_none_or(|p| p.is_valid() && members.iter().all(|m| m.part != Some(p)));
            if fits {
                members.push(member);
            }
        }
        if members.len() < core.rules.min_nodes || members.iter().all(|m| m.node != core.me) {
            return;
        }
        let nonce = core.draw();
        let founding =
            Founding { run: core.rules.run, proposer: core.me, nonce, members, model: core.rules.initial_model };
        if check_founding(&core.rules, &founding).is_err() {
            return;
        }
        core.emit(Event::FoundingBegun { id: founding.id(), members: founding.members.len() });
        core.send_to_all(&founding.roster(), &Message::Founding(founding.clone()));
        self.take_part(core, founding, None);
    }

    /// A founding is proposed: this node binds itself, or refuses.
    pub(crate) fn on_founding(&mut self, core: &mut Core, from: NodeId, founding: Founding, chain: Option<Hash>) {
        if let Err(reject) = check_founding(&core.rules, &founding) {
            return core.reject(from, reject);
        }
        if founding.members.iter().all(|m| m.node != core.me) {
            return core.reject(from, Reject::Stranger);
        }
        if self.is_known(founding.id()) {
            return;
        }
        self.take_part(core, founding, chain);
    }

    fn take_part(&mut self, core: &mut Core, founding: Founding, chain: Option<Hash>) {
        if self.known.len() >= FOUNDINGS_MAX {
            // Proofs of what came to nothing are the first to go.
            let stale = self.known.iter().find(|(_, a)| a.decided.as_ref().is_some_and(|c| is_abort(&c.record)));
            let Some(id) = stale.map(|(id, _)| *id) else { return core.reject(founding.proposer, Reject::TooMany) };
            self.known.remove(&id);
        }
        let id = founding.id();
        let scope = founding.scope();
        let members = founding.roster();
        let proposed_by_member = members.contains(founding.proposer);
        let free = proposed_by_member
            && chain.is_none()
            && self.bound().is_none()
            && founding.model == core.rules.initial_model;
        core.persist(Persist::Founding(founding.clone()));
        let mut attempted = Attempted::begin(core, founding, Start::Fresh);
        let (message, item) = if free {
            let bind = Bind::new(&core.identity, &scope);
            attempted.bind = Some(bind);
            (Message::Bind { founding: id, bind }, Persist::Bind { founding: id, bind })
        } else {
            let refusal = Refusal::new(&core.identity, &scope, chain);
            attempted.refusal = Some(refusal);
            (Message::Refusal { founding: id, refusal }, Persist::Refusal { founding: id, refusal })
        };
        let all = members.nodes().map(|n| Held::Send(n, message.clone())).collect();
        core.persist_then(item, all);
        self.known.insert(id, attempted);
    }

    /// Takes a message of a founding.
    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, id: Hash, message: Message) {
        let Some(attempted) = self.known.get_mut(&id) else {
            // Somebody works on a founding that this node has not heard of: ask what it is.
            if !matches!(message, Message::Ask(_) | Message::Committed { .. }) {
                core.send(from, Message::Ask(Ask::Founding { id }));
            }
            return;
        };
        if let Some(decided) = &attempted.decided {
            // Who knows a decision shows it.
            if attempted.roster.contains(from) && !matches!(message, Message::Committed { .. }) {
                core.send(from, Message::Committed { genesis: id, committed: decided.clone() });
            }
            return;
        }
        attempted.receive(core, from, id, message);
    }

    /// A peer's connection is lost.
    pub(crate) fn peer_down(&mut self, core: &mut Core, peer: NodeId) {
        for attempted in self.known.values_mut().filter(|a| a.decided.is_none()) {
            attempted.contest.peer_down(core, peer);
        }
    }

    /// A blob is here, or can't be had: the initial model of a founding that this node would not bind itself to.
    pub(crate) fn fetched(&mut self, core: &mut Core, blob: Hash) {
        self.known.values_mut().filter(|a| a.decided.is_none()).for_each(|a| a.contest.fetched(core, blob));
    }

    /// See [`Foundings::fetched`].
    pub(crate) fn fetch_failed(&mut self, core: &mut Core, blob: Hash) {
        self.known.values_mut().filter(|a| a.decided.is_none()).for_each(|a| a.contest.fetch_failed(core, blob, None));
    }

    /// Takes the decisions that were reached. A genesis begins the chain.
    pub(crate) fn take_decided(&mut self, core: &mut Core) -> Option<Committed> {
        let mut genesis = None;
        for (id, attempted) in &mut self.known {
            let Some(committed) = attempted.drive(core, *id) else { continue };
            core.persist(Persist::Decided { founding: *id, committed: committed.clone() });
            if is_abort(&committed.record) {
                core.emit(Event::FoundingAborted { id: *id });
            } else if attempted.bind.is_some() {
                genesis = Some(committed.clone());
            }
            attempted.decided = Some(committed);
        }
        genesis
    }
}

fn is_abort(record: &Record) -> bool {
    matches!(record.kind, Kind::Abort { .. })
}

/// This node and those connected ones that are in no chain and bound to no founding.
fn view(core: &Core) -> BTreeSet<NodeId> {
    let free = |p: &crate::peers::Peer| {
        p.connected && p.presence.as_ref().is_some_and(|s| s.genesis.is_none() && s.founding.is_none())
    };
    core.peers.iter().filter(|(_, p)| free(p)).map(|(n, _)| n).chain([core.me]).collect()
}

impl Attempted {
    fn begin(core: &mut Core, founding: Founding, start: Start) -> Self {
        let roster = founding.roster();
        core.peers.watch(&roster, core.me, core.now, 0);
        let contest = Contest::begin(core, founding.scope(), 0, roster.clone(), founding.model, start);
        Self {
            founding,
            roster,
            contest,
            bind: None,
            refusal: None,
            binds: BTreeMap::new(),
            refusals: BTreeMap::new(),
            waiting_since: None,
            repeat_at: core.now.plus_ms(RETRY_MS),
            decided: None,
        }
    }

    fn deadline(&self) -> Time {
        let patience = self.waiting_since.filter(|_| self.contest.is_leading()).map(|at| at.plus_ms(BIND_MS));
        patience.into_iter().chain([self.contest.deadline(), self.repeat_at]).min().unwrap_or_default()
    }

    fn tick(&mut self, core: &mut Core) {
        self.contest.tick(core);
        if core.now >= self.repeat_at {
            self.repeat_at = core.now.plus_ms(2 * RETRY_MS);
            self.repeat(core);
        }
    }

    /// Tells those whose word is missing about the founding, and this node's own word to them. The word is on disk by
    /// now, or the repetition waits: a first sending that never came means a disk that failed.
    fn repeat(&self, core: &mut Core) {
        let id = self.founding.id();
        let said = |n: &NodeId| self.binds.contains_key(n) || self.refusals.contains_key(n);
        let me = core.me;
        let own_word_known = said(&me);
        for node in self.roster.nodes().filter(|n| *n != me && !said(n)) {
            core.send(node, Message::Founding(self.founding.clone()));
            if own_word_known {
                self.own_word(id).into_iter().for_each(|m| core.send(node, m));
            }
        }
    }

    fn own_word(&self, id: Hash) -> Option<Message> {
        let bind = self.bind.map(|bind| Message::Bind { founding: id, bind });
        bind.or(self.refusal.map(|refusal| Message::Refusal { founding: id, refusal }))
    }

    fn receive(&mut self, core: &mut Core, from: NodeId, id: Hash, message: Message) {
        if !self.roster.contains(from) {
            return core.reject(from, Reject::Stranger);
        }
        let scope = self.founding.scope();
        match message {
            Message::Bind { bind, .. } => match bind.node == from && bind.verifies(&scope) {
                true => {
                    let fresh = self.binds.insert(from, bind).is_none();
                    // Its sender may have lost this node's word; a first one is answered once.
                    if fresh && from != core.me && self.binds.contains_key(&core.me) {
                        self.own_word(id).into_iter().for_each(|m| core.send(from, m));
                    }
                }
                false => core.reject(from, Reject::BadSignature),
            },
            Message::Refusal { refusal, .. } => match refusal.node == from && refusal.verifies(&scope) {
                true => {
                    self.refusals.insert(from, refusal);
                }
                false => core.reject(from, Reject::BadSignature),
            },
            Message::Ask(Ask::Founding { .. }) => {
                core.send(from, Message::Founding(self.founding.clone()));
                if self.binds.contains_key(&core.me) || self.refusals.contains_key(&core.me) {
                    self.own_word(id).into_iter().for_each(|m| core.send(from, m));
                }
            }
            Message::Committed { committed, .. } => self.on_committed(core, from, committed),
            other => {
                let founding = &self.founding;
                self.contest.receive(core, from, other, &|record| check_outcome(founding, record));
            }
        }
    }

    fn on_committed(&mut self, core: &mut Core, from: NodeId, committed: Committed) {
        let proven = check_outcome(&self.founding, &committed.record)
            .and_then(|()| crate::chain::check_accepts(&committed, &self.founding.scope(), &self.roster));
        match proven {
            Ok(()) => self.contest.decide(committed),
            Err(reject) => core.reject(from, reject),
        }
    }

    /// Does what is due. Returns the decision when there is one.
    fn drive(&mut self, core: &mut Core, id: Hash) -> Option<Committed> {
        if self.decided.is_some() {
            return None;
        }
        while let Some(turn) = self.contest.take_turn() {
            match turn {
                Turn::Elected => self.waiting_since = Some(core.now),
                Turn::Decided(committed) => {
                    let message = Message::Committed { genesis: id, committed: (*committed).clone() };
                    // The gossip's mesh may not be there yet, so that everybody is told directly.
                    if committed.committed_in().is_some_and(|(_, coordinator)| coordinator == core.me) {
                        core.send_to_all(&self.roster, &message);
                    }
                    return Some(*committed);
                }
                // There is no chain yet to evict a liar from; its votes can't make two decisions of one founding.
                Turn::Following | Turn::Lie(_) => {}
            }
        }
        self.propose_if_due(core, id);
        None
    }

    /// The coordinator proposes `found` with every bind in hand, `abort` after a refusal or when time is up.
    fn propose_if_due(&mut self, core: &mut Core, id: Hash) {
        let waits = self.contest.is_leading() && self.contest.phase() == Some(Phase::Collecting);
        let Some(since) = self.waiting_since.filter(|_| waits) else { return };
        let kind = if self.roster.nodes().all(|n| self.binds.contains_key(&n)) {
            let binds = self.binds.values().copied().collect();
            Kind::Genesis { founding: self.founding.clone(), binds }
        } else if !self.refusals.is_empty() || core.now.since_ms(since) >= BIND_MS {
            Kind::Abort { founding: id }
        } else {
            return;
        };
        self.waiting_since = None;
        let record = outcome(&self.founding, kind, self.contest.ballot(), core.me);
        self.contest.propose(core, record);
    }
}

fn outcome(founding: &Founding, kind: Kind, ballot: Ballot, coordinator: NodeId) -> Record {
    Record {
        kind,
        round: 0,
        attempt: ballot.attempt,
        coordinator,
        parent: founding.id(),
        model: founding.model,
        participants: Vec::new(),
        contributions: Vec::new(),
        evaluations: Vec::new(),
        rule: Rule::FedAvg,
        joined: Vec::new(),
        left: Vec::new(),
        evicted: Vec::new(),
        open_ms: 0,
    }
}

/// Whether a record may be the outcome of this founding.
fn check_outcome(founding: &Founding, record: &Record) -> Result<(), Reject> {
    let id = founding.id();
    let plain =
        outcome(founding, record.kind.clone(), Ballot { round: 0, attempt: record.attempt }, record.coordinator);
    if *record != plain {
        return Err(Reject::WrongKind);
    }
    match &record.kind {
        Kind::Abort { founding } if *founding == id => Ok(()),
        Kind::Genesis { founding: found, binds } if found == founding => {
            let scope = founding.scope();
            let all = binds.iter().map(|b| b.node).eq(founding.members.iter().map(|m| m.node));
            if all && binds.iter().all(|b| b.verifies(&scope)) { Ok(()) } else { Err(Reject::BadSignature) }
        }
        _ => Err(Reject::WrongKind),
    }
}
