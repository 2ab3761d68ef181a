//! A node in its chain: how it enters one, follows it from record to record, and comes out of it.

use super::Machine;
use super::standing::{End, InChain, Standing};
use crate::base::bounds::SECOND_COMMITS_MAX;
use crate::base::ids::{Ballot, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::{CLOSING_MS, LET_GO_MS, RETRY_MS};
use crate::chain::{Chain, check_accepts};
use crate::io::{Event, KeptAside, LocalStats, Persist, PersistId};
use crate::membership::message::Activity;
use crate::message::{Body, Message};
use crate::paxos::Start;
use crate::paxos::message::Message as Paxos;
use crate::record::{
    Accept, Alive, Committed, Contribution, Evidence, Forced, Founding, Kind, Lie, Record, request_scope,
};
use crate::round::Round;
use crate::sync::message::Message as Sync;
use crate::sync::send_records;
use crate::sync::sighting::is_founder;

impl Machine {
    /// The records on disk were checked before they were written; that they follow on each other is checked here, and
    /// what does not is fetched again from others.
    pub(super) fn restored_chain(&self, records: Vec<Committed>) -> Option<Chain> {
        let mut records = records.into_iter();
        let mut chain = Chain::begin(self.ctx.params.clone(), records.next()?, self.ctx.verifier.clone()).ok()?;
        for record in records {
            if chain.append_stored(record).is_err() {
                break;
            }
        }
        (!self.sightings.is_given_up(chain.genesis())).then_some(chain)
    }

    /// The founding came about: this node is in its chain from now on.
    pub(super) fn found(&mut self, genesis: Committed, lies: Vec<Evidence>) {
        let chain = match Chain::begin(self.ctx.params.clone(), genesis.clone(), self.ctx.verifier.clone()) {
            Ok(chain) => chain,
            // Members accepted what this node's own rules refuse: two versions of the program, most likely.
            Err(reject) => return self.ctx.reject(genesis.record.coordinator, reject),
        };
        self.foundings.clear();
        let (hash, members) = (chain.genesis(), chain.roster().len());
        let mut in_chain = InChain::new(chain, self.ctx.now);
        in_chain.last_write = Some(self.write_record(hash, genesis, LocalStats::default()));
        in_chain.committed_at = Some(self.ctx.now);
        self.ctx.emit(Event::Founded { genesis: hash, members });
        for lie in lies {
            let added = in_chain.pending.add_evidence(&mut self.ctx, &in_chain.chain, lie);
            self.note(self.ctx.me, added);
        }
        self.enter(in_chain, None, Start::Fresh);
    }

    /// The majority of the roster is gone for good, says this node's owner: the node begins a chain of its own behind its last
    /// record whose model is here too, and leaves the old one on its disk. Others come to it at their owners' wish. Nothing
    /// happens before no quorum was in sight for `LET_GO_MS`, or where neither the last model nor the one before is here.
    pub(super) fn go_on_alone(&mut self) {
        let is_lost = self.quorum_lost_ms().is_some_and(|ms| ms >= LET_GO_MS);
        let Standing::Member(c, _) = &self.standing else { return };
        let written = c.chain.records().iter().map(|c| &c.record).filter(|r| c.written.is_some_and(|w| r.round <= w));
        let last = written.rev().take(2).find(|record| self.ctx.blobs.contains(&record.model.id));
        let member = c.chain.roster().get(self.ctx.me).cloned();
        let (Some(last), Some(member), true, None) = (last, member, is_lost, &self.going_alone) else {
            return;
        };
        let (run, me, old) = (self.ctx.params.run, self.ctx.me, c.chain.genesis());
        let (before, trained) = c.chain.progress_at(last.round);
        let (head, model, nonce) = (last.hash(), last.model, self.ctx.draw());
        let content = Forced { chain: old, head, round: before, trained, model, member, nonce };
        let forced = Signed::new(&self.ctx.identity, &Founding::proposal_scope(run), content);
        let (scope, ballot) = (forced.scope(run), Ballot::of_round(0));
        let record = Record::plain(Kind::Forced(forced), ballot, me, head, model);
        let accept = Accept { ballot, coordinator: me, value: record.hash() };
        let accepts = vec![Signed::new(&self.ctx.identity, &scope, accept)];
        let (genesis, committed) = (record.hash(), Committed { record, accepts });
        let write = self.write_record(genesis, committed.clone(), LocalStats::default());
        self.going_alone = Some((write, committed));
    }

    /// The record that begins a chain of this node's own is on disk: it is in that from now on.
    pub(super) fn begin_alone(&mut self, first: Committed, write: PersistId) {
        let begun = Chain::begin(self.ctx.params.clone(), first, self.ctx.verifier.clone());
        let Ok(chain) = begun else { return };
        // The old chain may have gone on meanwhile, to its end even.
        let (old, round) = match std::mem::replace(&mut self.standing, Standing::Gathering) {
            Standing::Member(old, round) => (old, Some(round)),
            Standing::Following(old) | Standing::Over(Some(old), End::Finished { .. }) => (old, None),
            other => return self.standing = other,
        };
        let mut aside = KeptAside::of(old.chain.records(), &[]);
        if let Some(round) = round {
            // What was accepted may be decided: should its owner lead this node back, the others may need it.
            aside.iter_mut().for_each(|aside| aside.models.extend(round.paxos.models()));
            round.end(&mut self.ctx);
        }
        aside.into_iter().for_each(|aside| self.sightings.keep_aside(aside));
        self.wants_to_leave = false;
        let (genesis, round) = (chain.genesis(), chain.training_round() - 1);
        let mut in_chain = InChain::new(chain, self.ctx.now);
        in_chain.last_write = Some(write);
        in_chain.committed_at = Some(self.ctx.now);
        self.ctx.emit(Event::GoesOnAlone { genesis, round });
        self.enter(in_chain, None, Start::Fresh);
    }

    /// A chain was shown, proven and is alive: this node follows it from now on.
    pub(super) fn follow(&mut self, chain: Chain) {
        self.foundings.clear();
        self.sightings.look_away();
        let genesis = chain.genesis();
        let mut in_chain = InChain::new(chain, self.ctx.now);
        // On its roster and without a promise in it: this node's memory is lost, and it must not vote. A founder that was led
        // to abort the founding remembers that, and never was in the chain.
        let is_member = in_chain.chain.roster().contains(self.ctx.me);
        let is_absent_founder = is_founder(&in_chain.chain, &self.ctx);
        if is_member && self.ctx.promise(genesis).is_none() && !is_absent_founder {
            self.forget(genesis);
        }
        in_chain.has_forgotten = self.forgotten.contains(&genesis);
        for committed in in_chain.chain.records().to_vec() {
            in_chain.last_write = Some(self.write_record(genesis, committed, LocalStats::default()));
        }
        self.ctx.emit(Event::Following { genesis });
        self.enter(in_chain, None, Start::AfterRestart(None));
    }

    /// This node's promises in a chain are lost, which a restart must not forget: by then the records have brought others.
    fn forget(&mut self, chain: Hash) {
        if self.forgotten.insert(chain) {
            self.ctx.persist(Persist::Forgotten { chain });
        }
    }

    /// The node has started and found itself in a chain.
    pub(super) fn resume(&mut self, in_chain: InChain, contribution: Option<Signed<Contribution>>) {
        self.enter(in_chain, contribution, Start::AfterRestart(None));
    }

    fn write_record(&mut self, chain: Hash, committed: Committed, stats: LocalStats) -> PersistId {
        self.ctx.persist(Persist::Committed { chain, committed, stats })
    }

    /// Takes the standing that the chain's last record gives this node, and begins the next round.
    fn enter(&mut self, mut c: InChain, contribution: Option<Signed<Contribution>>, start: Start) {
        let (genesis, round) = (c.chain.genesis(), c.chain.next_round());
        self.ctx.peers.watch(Some(genesis), c.chain.roster(), self.ctx.me, self.ctx.now, round);
        if let Some(to) = c.chain.yielded_to() {
            // This chain gave itself up: it is remembered, and the node gathers anew.
            self.sightings.give_up(&c.chain);
            self.ctx.peers.watch(None, &Default::default(), self.ctx.me, self.ctx.now, 0);
            self.ctx.emit(Event::Yielded { from: genesis, to });
            self.standing = Standing::Gathering;
            return;
        }
        if c.chain.is_closed() {
            self.standing = Standing::Over(Some(Box::new(c)), End::Finished { told: false });
        } else if c.has_forgotten || !c.chain.roster().contains(self.ctx.me) {
            self.standing = Standing::Following(Box::new(c));
        } else {
            // A chain that was found shorter on disk than what this node has voted in grows again.
            let found = c.promised.iter().position(|b| (b.chain, b.round) == (genesis, round));
            let start = found.map_or(start, |at| Start::AfterRestart(Some(c.promised.swap_remove(at))));
            let mut next = Round::begin(&mut self.ctx, &c.chain, contribution, start);
            // Of a later stop its people shall hear.
            if std::mem::take(&mut self.resumes) {
                next.wish_to_resume(&mut self.ctx, &c.chain);
            }
            self.standing = Standing::Member(Box::new(c), Box::new(next));
        }
        if let Some(chain) = self.standing.chain()
            && chain.next_round() > 1
        {
            // Only a chain without a round of its own gives way to another.
            self.sightings.look_away();
        }
        self.cancel_stale_fetches();
        let early = self.standing.in_chain_mut().map(|c| std::mem::take(&mut c.next_round_inbox)).unwrap_or_default();
        early.into_iter().for_each(|(from, message)| self.receive(from, message));
    }

    pub(super) fn drive_round(&mut self) {
        let Standing::Member(c, round) = &mut self.standing else { return };
        if c.chain.next_round() == 1 {
            self.sightings.look(&mut self.ctx, Some(c.chain.genesis()));
        }
        let yields_to = self.sightings.yields_to(&mut self.ctx, &c.chain);
        let driven = round.drive(&mut self.ctx, &c.chain, &mut c.pending, yields_to);
        let genesis = c.chain.genesis();
        if let Some((other, coordinator)) = driven.unshown {
            self.sightings.look_at(&mut self.ctx, other, coordinator);
        }
        if let Some(committed) = driven.decided {
            self.ctx.broadcast(Message::sync(genesis, Sync::Committed(committed.clone())));
            if let Err(reject) = self.commit(committed) {
                // Members accepted what this node's own rules refuse: two versions of the program, most likely.
                self.ctx.reject(self.ctx.me, reject);
            }
        }
    }

    /// The next record, with its proof: from this node's own ballot, from gossip, or from a peer while catching up.
    pub(super) fn commit(&mut self, committed: Committed) -> Result<(), Reject> {
        let Some(c) = self.standing.in_chain_mut() else { return Err(Reject::OtherChain) };
        #[cfg(test)]
        let unproven = [crate::base::plant::Fault::CommitOnTooFew, crate::base::plant::Fault::RecordsWithoutProof];
        #[cfg(test)]
        if unproven.into_iter().any(crate::base::plant::is_planted) {
            c.chain.append_stored(committed.clone())?;
            return self.committed(committed);
        }
        // An accept of this node's own that it knows nothing of: its home is a copy from earlier, or has a twin.
        let (genesis, record) = (c.chain.genesis(), &committed.record);
        let accepted = Ballot { round: record.round, attempt: record.attempt };
        let is_news = committed.accepts.iter().any(|accept| accept.by() == self.ctx.me)
            && self.ctx.promise(genesis).is_none_or(|promise| promise < accepted);
        c.chain.append(committed.clone())?;
        c.has_forgotten |= is_news;
        if is_news {
            self.forget(genesis);
        }
        self.committed(committed)
    }

    /// A record was appended: it is written down, and the next round begins.
    fn committed(&mut self, committed: Committed) -> Result<(), Reject> {
        let standing = std::mem::replace(&mut self.standing, Standing::Gathering);
        let (mut c, round, end) = match standing {
            Standing::Member(c, round) => (c, Some(round), None),
            Standing::Following(c) => (c, None, None),
            Standing::Over(Some(c), end) => (c, None, Some(end)),
            Standing::Gathering | Standing::Over(None, _) => return Err(Reject::OtherChain),
        };
        let was_member = round.is_some();
        if let Some(mut round) = round {
            round.paxos.witness_committed(&committed);
            round.end(&mut self.ctx);
            for lie in round.paxos.take_lies() {
                let added = c.pending.add_evidence(&mut self.ctx, &c.chain, lie);
                self.note(self.ctx.me, added);
            }
        }
        self.ctx.relay();
        self.ctx.peers.trust(committed.record.coordinator);
        let now = self.ctx.now;
        let duration_ms = c.committed_at.map(|at| now.since_ms(at));
        let overhead_ms = duration_ms.zip(committed.record.train_ms_max()).map(|(d, t)| d.saturating_sub(t));
        c.committed_at = Some(now);
        let (genesis, value, model) = (c.chain.genesis(), c.chain.head_hash(), committed.record.model);
        self.ctx.emit(Event::Committed { genesis, round: committed.record.round, value, model });
        if !c.chain.is_trained() && !c.chain.is_halted() {
            (c.end_began, c.halt_told) = (None, false);
        } else if c.end_began.is_none() || c.chain.is_closed() {
            c.end_began = Some(now);
        }
        c.pending.expire(&c.chain);
        let stats = LocalStats { duration_ms, overhead_ms, ..LocalStats::default() };
        c.last_write = Some(self.write_record(genesis, committed, stats));
        let is_member = c.chain.roster().contains(self.ctx.me);
        match (was_member, is_member) {
            (false, true) if end.is_none() && !c.has_forgotten => {
                c.join_refused = None;
                self.ctx.emit(Event::Joined { round: c.chain.next_round() });
            }
            (true, false) if !self.wants_to_leave => self.ctx.emit(Event::Evicted),
            _ => {}
        }
        match end {
            Some(end) => self.standing = Standing::Over(Some(c), end),
            None => self.enter(*c, None, Start::Fresh),
        }
        Ok(())
    }

    /// Fetches of blobs that nobody needs any more are stopped.
    fn cancel_stale_fetches(&mut self) {
        let wanted = self.needed_blobs();
        self.ctx.cancel_fetches_but(&wanted);
    }

    fn needed_blobs(&self) -> std::collections::BTreeSet<Hash> {
        let mut blobs = std::collections::BTreeSet::from([self.ctx.params.initial_model.id]);
        blobs.extend(self.sightings.models_aside());
        if let Some(c) = self.standing.in_chain() {
            // Should the disk lose the last record, this node is back at the one before.
            blobs.extend(c.chain.records().iter().rev().take(2).map(|c| c.record.model.id));
            blobs.extend(c.written_model());
        }
        blobs.extend(self.standing.round().into_iter().flat_map(Round::blobs));
        blobs
    }

    /// Tells which blobs are still of use: the models of the last records and of undecided rounds, updates of the open
    /// round. Everything else may go. Called when the record that makes others needless is on disk, never before.
    pub(super) fn clear_blobs(&mut self) {
        let blobs = self.needed_blobs();
        self.ctx.keep(blobs);
    }

    /// A message of the chain that this node is in.
    pub(super) fn receive_in_chain(&mut self, from: NodeId, body: Body) {
        match body {
            Body::Sync(message) => self.on_sync(from, message),
            Body::Membership(message) => self.on_membership(from, message),
            Body::Paxos { ballot, message } => {
                if self.is_of_this_round(from, ballot.round, || Body::Paxos { ballot, message: message.clone() })
                    && let Standing::Member(c, round) = &mut self.standing
                {
                    let (chain, sightings) = (&c.chain, &self.sightings);
                    round.paxos.receive(&mut self.ctx, from, ballot, message, &|record, is_first| {
                        chain.check(record)?;
                        if is_first { sightings.vouch_for(record) } else { Ok(()) }
                    });
                }
            }
            Body::Round { ballot, message } => {
                if self.is_of_this_round(from, ballot.round, || Body::Round { ballot, message: message.clone() })
                    && let Standing::Member(c, round) = &mut self.standing
                {
                    round.receive(&mut self.ctx, &c.chain, from, ballot, message);
                }
            }
            // The founding of this chain goes by its own id.
            Body::Founding(_) => self.ctx.reject(from, Reject::WrongKind),
        }
    }

    /// Whether a message is of the round that is being decided here. One of the next round waits for this round's commit,
    /// one of a later round shows that this node is behind, one of an earlier that its sender is.
    fn is_of_this_round(&mut self, from: NodeId, round: u64, body: impl FnOnce() -> Body) -> bool {
        let Some(c) = self.standing.in_chain_mut() else { return false };
        let here = c.chain.next_round();
        if round > here {
            if round == here + 1 && c.chain.roster().contains(from) {
                let body = body();
                // Large ones come again: heartbeats name them.
                if !is_large(&body) {
                    c.next_round_inbox.insert(from, Message { chain: c.chain.genesis(), body });
                }
            }
            self.catch_up(from);
        } else if round < here {
            self.help(from, round);
        }
        round == here
    }

    fn on_sync(&mut self, from: NodeId, message: Sync) {
        let Some(c) = self.standing.in_chain_mut() else { return };
        match message {
            Sync::Committed(committed) => {
                let (here, round) = (c.chain.next_round(), committed.record.round);
                if round > here {
                    self.catch_up(from);
                } else if round == here {
                    let taken = self.commit(committed);
                    self.note(from, taken);
                } else {
                    self.on_old_commit(from, committed);
                }
            }
            Sync::Query { from: first } => send_records(&mut self.ctx, &c.chain, from, first),
            Sync::Records(records) => self.on_records(from, records),
            Sync::QueryAlive { yielding } => {
                let is_member = c.chain.roster().contains(self.ctx.me);
                if is_member && self.ctx.peers.may_answer(from, self.ctx.now) {
                    let genesis = c.chain.genesis();
                    let scope = request_scope(self.ctx.params.run, genesis);
                    let word = Signed::new(&self.ctx.identity, &scope, Alive { yielding });
                    self.ctx.send(from, Message::sync(genesis, Sync::Alive(word)));
                }
            }
            Sync::Alive(_) => self.ctx.reject(from, Reject::Unasked),
        }
    }

    /// A round that is decided here was decided: the same, or, where somebody lied, another.
    pub(super) fn on_old_commit(&mut self, from: NodeId, committed: Committed) {
        let Some(c) = self.standing.in_chain_mut() else { return };
        let round = committed.record.round;
        let Some(scope) = c.chain.scope_of(round) else { return };
        let index = usize::try_from(round).unwrap_or(usize::MAX);
        let Some(own) = c.chain.records().get(index).cloned() else { return };
        let (ours, theirs) = (own.record.hash(), committed.record.hash());
        if ours == theirs {
            return;
        }
        if let Err(reject) = check_accepts(&committed, &scope, &c.chain.roster_of(round), &self.ctx.verifier) {
            return self.ctx.reject(from, reject);
        }
        if c.second_commits.len() >= SECOND_COMMITS_MAX || !c.second_commits.insert(theirs) {
            return;
        }
        let other = |node: NodeId| committed.accepts.iter().find(|a| a.by() == node).copied();
        let both: Vec<_> = own.accepts.iter().filter_map(|a| Some((*a, other(a.by())?))).collect();
        let suspects = both.iter().map(|(a, _)| a.by()).collect();
        self.ctx.emit(Event::SecondCommit { round, ours, theirs, suspects });
        self.ctx.persist(Persist::SecondCommit(committed.clone()));
        for (a, b) in both {
            let evidence = Evidence { chain: scope.chain, parent: scope.parent, lie: Lie::Accepts([a, b]) };
            // Accepts of two ballots are no lie in themselves: those of one are.
            if c.chain.liar(&evidence).is_ok() {
                let added = c.pending.add_evidence(&mut self.ctx, &c.chain, evidence);
                if let Err(reject) = added {
                    self.ctx.reject(from, reject);
                }
            }
        }
    }

    /// A peer shows a round beyond this node's: asks it, or another that shows one, for the records between.
    pub(super) fn catch_up(&mut self, from: NodeId) {
        let Some(c) = self.standing.in_chain_mut() else { return };
        let (genesis, here) = (c.chain.genesis(), c.chain.next_round());
        let is_ahead = |p: &crate::peers::Peer| {
            p.chain() == Some(genesis) && p.presence.as_ref().is_some_and(|(_, p)| p.round > here)
        };
        let ahead = self.ctx.peers.connected().filter(|(_, p)| is_ahead(p)).map(|(node, _)| node);
        let candidates: Vec<NodeId> = ahead.chain([from]).filter(|n| *n != self.ctx.me).collect();
        if let Some(peer) = c.questions.pick(self.ctx.now, candidates.into_iter()) {
            self.ctx.send(peer, Message::sync(genesis, Sync::Query { from: here }));
        }
    }

    /// A member works on a round that is decided: shows it what it lacks.
    fn help(&mut self, peer: NodeId, round: u64) {
        let now = self.ctx.now;
        let Some(c) = self.standing.in_chain_mut() else { return };
        let recently = c.helped.get(&peer).is_some_and(|at| now.since_ms(*at) < RETRY_MS);
        if !recently && c.chain.roster().contains(peer) {
            c.helped.retain(|_, at| now.since_ms(*at) < RETRY_MS);
            c.helped.insert(peer, now);
            send_records(&mut self.ctx, &c.chain, peer, round);
        }
    }

    fn on_records(&mut self, from: NodeId, records: Vec<Committed>) {
        if records.len() > crate::base::bounds::RECORDS_PER_ANSWER_MAX {
            return self.ctx.reject(from, Reject::OverBound);
        }
        let Some(c) = self.standing.in_chain_mut() else { return };
        c.questions.answered(from);
        let genesis = c.chain.genesis();
        // When rounds were committed that others had before, this node does not know.
        let is_behind = records.len() > 1;
        c.committed_at = c.committed_at.filter(|_| !is_behind);
        let mut progress = false;
        for committed in records {
            // A yield among them is the last, and this node is in the chain no more.
            let here = self.chain().filter(|own| own.genesis() == genesis).map(Chain::next_round);
            if here != Some(committed.record.round) {
                continue;
            }
            if let Err(reject) = self.commit(committed) {
                return self.ctx.reject(from, reject);
            }
            if let Some(c) = self.standing.in_chain_mut().filter(|_| is_behind) {
                c.committed_at = None;
            }
            progress = true;
        }
        // There may be more. A peer that has none says nothing, and presences tell.
        let next = self.next_round();
        let ahead = self.ctx.peers.presence(from).is_some_and(|(chain, p)| *chain == genesis && p.round > next);
        if progress && ahead {
            self.catch_up(from);
        }
    }

    /// Another chain that was founded as this one was is a second decision of that founding.
    fn compare_foundings(&mut self, from: NodeId, genesis: Hash) {
        if let (Some(own), Some(other)) = (self.chain(), self.sightings.chain(genesis))
            && own.founding() == other.founding()
        {
            let second = other.records()[0].clone();
            self.on_old_commit(from, second);
        }
    }

    /// A message of a chain that this node is not in.
    pub(super) fn receive_of_other_chain(&mut self, from: NodeId, genesis: Hash, body: Body) {
        match body {
            // An answer to records would be answered in turn, for ever.
            Body::Sync(Sync::Records(_) | Sync::Committed(_)) if self.sightings.is_given_up(genesis) => {}
            _ if self.sightings.is_given_up(genesis) => self.sightings.show_yield(&mut self.ctx, from, genesis),
            Body::Sync(Sync::Records(records)) => {
                let taken = self.sightings.on_records(&mut self.ctx, from, genesis, records);
                self.note(from, taken);
                self.compare_foundings(from, genesis);
            }
            Body::Sync(Sync::Query { from: first }) => {
                if let Some(chain) = self.sightings.chain(genesis) {
                    send_records(&mut self.ctx, chain, from, first);
                }
            }
            Body::Sync(Sync::Alive(word)) => {
                let Some(own) = self.chain().map(Chain::genesis) else { return };
                let taken = self.sightings.on_alive(&self.ctx, genesis, word, own);
                self.note(from, taken);
            }
            Body::Sync(Sync::Committed(_) | Sync::QueryAlive { .. })
            | Body::Paxos { .. }
            | Body::Round { .. }
            | Body::Membership(_)
            | Body::Founding(_) => {
                if self.chain().is_some() {
                    self.ctx.reject(from, Reject::OtherChain);
                }
            }
        }
    }

    /// Whether a quorum of the roster is in sight, this node included if it is on it: members that show this chain, and do not
    /// only follow it, as one does that lost its promises.
    fn sees_quorum(&self) -> bool {
        let Some(chain) = self.chain() else { return false };
        let votes = |n: &NodeId| {
            let peer = self.ctx.peers.get(*n).filter(|p| p.chain() == Some(chain.genesis()));
            let activity = peer.and_then(|p| p.presence.as_ref()).map(|(_, p)| p.activity);
            *n == self.ctx.me || activity.is_some_and(|a| a != Activity::Joining)
        };
        chain.roster().nodes().filter(votes).count() >= chain.roster().quorum()
    }

    /// For how long no quorum of the roster has been in sight, in milliseconds; `None` while one is, and in no chain.
    pub(super) fn quorum_lost_ms(&self) -> Option<u64> {
        let since = self.standing.in_chain()?.alive_at;
        (!self.sees_quorum()).then(|| self.ctx.now.since_ms(since))
    }

    pub(super) fn note_quorum(&mut self) {
        let (now, sees_quorum) = (self.ctx.now, self.sees_quorum());
        if let Some(c) = self.standing.in_chain_mut().filter(|_| sees_quorum) {
            c.alive_at = now;
        }
    }

    /// Who only follows a chain lets go of it when no quorum of it was in sight for long: it is dead as far as this node can
    /// tell. A member never does, and neither does a node that entered it at its owner's wish.
    pub(super) fn let_go_if_dead(&mut self) {
        let is_lost = self.quorum_lost_ms().is_some_and(|ms| ms >= LET_GO_MS);
        let Standing::Following(c) = &self.standing else { return };
        let is_meant = self.sightings.pinned().is_some() || c.chain.forced().is_some();
        if is_lost && !is_meant && !self.wants_to_leave {
            let genesis = c.chain.genesis();
            self.ctx.persist(Persist::LetGo { chain: genesis });
            self.ctx.emit(Event::LetGo { genesis });
            self.ctx.peers.watch(None, &Default::default(), self.ctx.me, self.ctx.now, 0);
            self.standing = Standing::Gathering;
        }
    }

    /// When the end of the run, or its stop, is not waited for any longer. A model that is on its way takes as long as it
    /// takes.
    pub(super) fn end_due(&self) -> Option<Time> {
        let c = self.standing.in_chain()?;
        let is_told = match &self.standing {
            Standing::Over(_, End::Finished { told: true } | End::Left) => true,
            Standing::Member(c, round) if c.chain.is_halted() => c.halt_told || !round.is_halted(),
            // It is no end for who wants to join: the run may be resumed.
            Standing::Following(c) if c.chain.is_halted() => true,
            Standing::Gathering | Standing::Following(_) | Standing::Member(..) | Standing::Over(..) => false,
        };
        let waits = !is_told && !self.ctx.is_fetching(c.chain.head().model.id);
        c.end_began.filter(|_| waits).map(|at| at.plus_ms(CLOSING_MS))
    }

    /// After the last round a node serves until all that it can reach hold the end too, but not for ever; and so it does
    /// before it tells that the run has stopped.
    pub(super) fn end_if_due(&mut self) {
        let Some(due) = self.end_due() else { return };
        let Some(c) = self.standing.in_chain() else { return };
        let (genesis, complete) = (c.chain.genesis(), c.holds_head(&self.ctx));
        // Members, and those who only came for the model: whoever shows the chain.
        let lacks_end = |p: &crate::peers::Peer| {
            p.chain() == Some(genesis) && p.presence.as_ref().is_some_and(|(_, presence)| !presence.at_rest)
        };
        let at_rest = (c.chain.is_closed() || c.chain.is_halted()) && complete;
        let all = at_rest && !self.ctx.peers.connected().any(|(_, p)| lacks_end(p));
        if !all && self.ctx.now < due {
            return;
        }
        if let Standing::Member(c, _) = &mut self.standing
            && c.chain.is_halted()
        {
            c.halt_told = true;
            let (round, why) = (c.chain.head().round, failures_of(&c.chain));
            return self.ctx.emit(Event::Halted { round, why });
        }
        self.ctx.emit(Event::Finished { complete });
        self.standing = match std::mem::replace(&mut self.standing, Standing::Gathering) {
            Standing::Member(c, round) => {
                round.end(&mut self.ctx);
                Standing::Over(Some(c), End::Finished { told: true })
            }
            Standing::Following(c) | Standing::Over(Some(c), _) => {
                Standing::Over(Some(c), End::Finished { told: true })
            }
            other => other,
        };
    }
}

/// Whose training failed in the last round in which all did, and why. Many fail alike: each reason once.
pub(super) fn failures_of(chain: &Chain) -> String {
    let last = chain.records().iter().rev().map(|c| &c.record).find(|record| !record.failures.is_empty());
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for (node, why) in last.into_iter().flat_map(|record| record.failures()) {
        let name = chain.roster().get(node).map_or_else(|| node.short(), |member| member.name.clone());
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    let lines: Vec<String> = reasons.into_iter().map(|(why, names)| format!("{}: {why}", names.join(", "))).collect();
    lines.join("; ")
}

/// Whether a message may be as large as the roster.
fn is_large(body: &Body) -> bool {
    matches!(body, Body::Paxos { message: Paxos::RoundOpened(_) | Paxos::Proposal(_), .. })
}
