//! One round of a chain: train, collect, aggregate, propose. The [`Contest`] inside decides; this is what it is about.
//!
//! A member trains when a coordinator has opened the round and offers its update to whoever coordinates, once for each
//! ballot, the same update always. A coordinator fetches what is offered, has it checked and folded into the exact sum,
//! and proposes the record when it has waited long enough.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::Chain;
use crate::contest::{Contest, Start, Turn};
use crate::core::Core;
use crate::ids::{Ballot, BlobRef, Hash, NodeId, Signature, Time};
use crate::machine::{Effect, Event, FetchFailure, Persist, Purpose, TrainedUpdate};
use crate::message::{Activity, Message, Opening, Phase};
use crate::record::{Committed, Contribution, Evaluation, Kind, Record, SignedEvaluation};
use crate::reject::Reject;
use crate::requests::Requests;
use crate::timing::{CLOSING_MS, RETRY_MS, STRAGGLER_MS_MIN};

/// This node's own part in the round.
#[derive(Debug)]
enum Work {
    /// Nothing was asked of it yet.
    Waiting,
    /// The trainer is at it.
    Training,
    /// The update is on disk.
    Trained(Contribution),
    /// Training failed, and why: the round goes on without this node.
    Failed(String),
    /// The trainer evaluates the last model.
    Evaluating,
    /// The evaluation for the closing record.
    Evaluated(SignedEvaluation),
}

#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) contest: Contest,
    work: Work,
    /// When this node last offered its work, and the ballot whose coordinator has answered for good.
    offered: Option<Time>,
    answered: Option<Ballot>,
    collection: Option<Collection>,
}

/// What a coordinator has of its round.
#[derive(Debug)]
struct Collection {
    ballot: Ballot,
    began: Time,
    ends: Time,
    closing: bool,
    participants: Vec<NodeId>,
    /// Updates that the round needs.
    needed: usize,
    /// When that many were in.
    enough: Option<Time>,
    intakes: BTreeMap<NodeId, (Contribution, Intake)>,
    evaluations: BTreeMap<NodeId, SignedEvaluation>,
    aggregating: bool,
}

/// How far an offered update has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Fetching,
    Folding,
    In,
    Refused(Reject),
}

impl Round {
    pub(crate) fn begin(core: &mut Core, chain: &Chain, contribution: Option<Contribution>, start: Start) -> Self {
        let (roster, model) = (chain.roster().clone(), chain.head().model);
        core.peers.watch(&roster, core.me, core.now, chain.next_round());
        let contest = Contest::begin(core, chain.scope(), chain.next_round(), roster, model, start);
        let work = contribution.map_or(Work::Waiting, Work::Trained);
        Self { contest, work, offered: None, answered: None, collection: None }
    }

    pub(crate) fn deadline(&self, core: &Core) -> Time {
        let mut deadline = self.contest.deadline();
        if self.has_to_offer(core) {
            deadline = deadline.min(self.offered.map_or(core.now, |at| at.plus_ms(RETRY_MS)));
        }
        if let Some(collection) = &self.collection
            && !collection.aggregating
        {
            let next_gone = core.peers.next_gone(&collection.awaited(), core.now);
            deadline = [Some(collection.ends), collection.patience_ends(), next_gone]
                .into_iter()
                .flatten()
                .filter(|t| *t > core.now)
                .fold(deadline, Time::min);
        }
        deadline
    }

    /// What this node does, as it tells the others.
    pub(crate) fn activity(&self, core: &Core, chain: &Chain) -> Activity {
        let leading = self.contest.is_leading();
        match &self.work {
            Work::Training | Work::Evaluating => Activity::Training,
            _ if leading && self.contest.phase() != Some(Phase::Collecting) => Activity::Coordinating,
            _ if core.is_fetching(chain.head().model.id) => Activity::Fetching,
            Work::Trained(_) if self.has_to_offer(core) => Activity::Uploading,
            Work::Trained(_) | Work::Evaluated(_) => Activity::Done,
            Work::Waiting => Activity::Idle,
            Work::Failed(_) => Activity::Failed,
        }
    }

    /// Why this node brings no update.
    pub(crate) fn failure(&self) -> Option<&str> {
        match &self.work {
            Work::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// For the coordinator: whose updates are in.
    pub(crate) fn is_in(&self, node: NodeId) -> bool {
        self.collection.as_ref().is_some_and(|c| c.intakes.get(&node).is_some_and(|(_, i)| *i == Intake::In))
    }

    /// Blobs that this round still needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Hash> {
        let mut blobs: BTreeSet<Hash> = self.contest.models().collect();
        if let Work::Trained(contribution) = &self.work {
            blobs.insert(contribution.update.id);
        }
        let intakes = self.collection.iter().flat_map(|c| c.intakes.values());
        blobs.extend(intakes.map(|(contribution, _)| contribution.update.id));
        blobs
    }

    pub(crate) fn receive(&mut self, core: &mut Core, chain: &Chain, from: NodeId, message: Message) {
        match message {
            Message::Offer { ballot, contribution, .. } => self.on_offer(core, chain, from, ballot, contribution),
            Message::OfferAnswer { ballot, update, result, .. } => {
                self.on_offer_answer(core, from, ballot, update, result)
            }
            Message::Evaluated { ballot, evaluation, .. } => self.on_evaluation(core, chain, from, ballot, evaluation),
            other => self.contest.receive(core, from, other, &|record| chain.check(record)),
        }
    }

    pub(crate) fn tick(&mut self, core: &mut Core) {
        self.contest.tick(core);
    }

    /// Does what is due after any input. Returns the decided record.
    pub(crate) fn drive(
        &mut self,
        core: &mut Core,
        chain: &Chain,
        requests: &mut Requests,
        yields_to: Option<Hash>,
    ) -> Option<Committed> {
        while let Some(turn) = self.contest.take_turn() {
            match turn {
                Turn::Elected => self.open(core, chain, requests),
                Turn::Following => {
                    self.offered = None;
                    self.answered = None;
                }
                Turn::Decided(committed) => {
                    core.broadcast(Message::Committed { genesis: chain.genesis(), committed: (*committed).clone() });
                    return Some(*committed);
                }
                Turn::Lie(evidence) => requests.add_evidence(core, chain, *evidence, true),
            }
        }
        if self.collection.as_ref().is_some_and(|c| !self.leads(c.ballot)) {
            self.collection = None;
        }
        self.work_if_due(core, chain);
        self.offer_if_due(core, chain);
        self.yield_if_due(core, chain, yields_to);
        self.finish_if_due(core, chain, requests);
        None
    }

    fn leads(&self, ballot: Ballot) -> bool {
        self.contest.is_leading() && self.contest.ballot() == ballot
    }

    /// The coordinator's plan: who trains and for how long.
    fn open(&mut self, core: &mut Core, chain: &Chain, requests: &mut Requests) {
        let ballot = self.contest.ballot();
        let closing = chain.is_trained();
        // Nodes end `CLOSING_MS` after the last round: the closing record must be there before.
        let length_ms = if closing { CLOSING_MS / 2 } else { chain.rules().round_timeout_ms };
        let wanted = chain.rules().participants_of(chain.roster().len());
        let participants = if closing { Vec::new() } else { self.choose(core, chain, wanted, 0) };
        requests.expire(chain);
        self.answered = None;
        self.offered = None;
        self.collection = Some(Collection {
            ballot,
            began: core.now,
            ends: core.now.plus_ms(length_ms),
            closing,
            needed: chain.rules().min_updates_of(wanted),
            enough: None,
            participants: participants.clone(),
            intakes: BTreeMap::new(),
            evaluations: BTreeMap::new(),
            aggregating: false,
        });
        self.contest.open(core, Opening { closing, participants, remaining_ms: length_ms });
    }

    /// The first of the order that everybody can compute, and after them as many as it takes to have `wanted` that can
    /// bring an update; never fewer than before.
    fn choose(&self, core: &Core, chain: &Chain, wanted: usize, before: usize) -> Vec<NodeId> {
        let order = chain.roster().trainees(chain.head().model.id, chain.next_round());
        let able = order.iter().filter(|n| self.can_deliver(core, chain, **n)).count();
        let (mut end, mut live) = (0, 0);
        while end < order.len() && (end < wanted.max(before) || live < wanted.min(able)) {
            live += usize::from(self.can_deliver(core, chain, order[end]));
            end += 1;
        }
        order[..end].to_vec()
    }

    /// Whether an update can come from a node: it is there, and its training has not failed. One that failed, started again
    /// and offers an update after all may still be called failed by an older presence: the offer counts.
    fn can_deliver(&self, core: &Core, chain: &Chain, node: NodeId) -> bool {
        if node == core.me {
            return self.failure().is_none();
        }
        let has_offered = self.collection.as_ref().is_some_and(|c| c.intakes.contains_key(&node));
        let has_failed = || core.peers.has_failed(node, chain.genesis(), chain.next_round());
        !core.peers.is_gone(node, core.now) && (has_offered || !has_failed())
    }

    /// Begins to train, or to evaluate for the closing record, once a coordinator asks for it and the model is here.
    fn work_if_due(&mut self, core: &mut Core, chain: &Chain) {
        let Some(opening) = self.contest.opened().and_then(|o| o.opening.clone()) else { return };
        let asked = chain.roster().contains(core.me) && (opening.closing || opening.participants.contains(&core.me));
        if !asked || !matches!(self.work, Work::Waiting) {
            return;
        }
        // A plan that the chain does not call for is not followed.
        let due = opening.closing == chain.is_trained()
            && (opening.closing || chain.check_participants(&opening.participants).is_ok());
        if !due {
            return;
        }
        let (round, model) = (chain.next_round(), chain.head().model);
        if !core.blobs.contains(&model.id) {
            let origin = self.contest.opened().map_or(core.me, |o| o.coordinator);
            return core.fetch(model, Purpose::Model, origin, chain.roster());
        }
        if opening.closing {
            self.work = Work::Evaluating;
            return core.effect(Effect::Evaluate { round, model });
        }
        let Some(member) = chain.roster().get(core.me) else { return };
        self.work = Work::Training;
        let (node_key, last_update) = (member.key(), chain.last_update_of(core.me));
        core.effect(Effect::Train { round, parent: chain.head_hash(), model, node_key, last_update });
    }

    /// The trainer has ended.
    pub(crate) fn trained(&mut self, core: &mut Core, chain: &Chain, outcome: Result<TrainedUpdate, String>) {
        if !matches!(self.work, Work::Training) {
            return;
        }
        let round = chain.next_round();
        match outcome {
            Ok(trained) => {
                let contribution = Contribution {
                    node: core.me,
                    samples: trained.samples,
                    update: trained.update,
                    train_loss: trained.train_loss,
                    train_ms: trained.train_ms,
                    evaluation: trained.evaluation,
                    signature: Signature::from_bytes(&[0; 64]),
                };
                let contribution = contribution.signed(&core.identity, &chain.scope(), round);
                core.blobs.insert(contribution.update.id);
                let genesis = chain.genesis();
                core.persist(Persist::Contribution { genesis, round, contribution: contribution.clone() });
                self.work = Work::Trained(contribution);
            }
            Err(why) => {
                core.emit(Event::TrainingFailed { round, why: why.clone() });
                self.work = Work::Failed(why);
            }
        }
    }

    /// The evaluation for the closing record has ended. A node without held-out data says so with an empty one.
    pub(crate) fn evaluated(&mut self, core: &mut Core, chain: &Chain, evaluation: Option<Evaluation>) {
        if matches!(self.work, Work::Evaluating) {
            let evaluation = evaluation.unwrap_or(Evaluation { correct: 0, total: 0, loss: 0.0 });
            let signed = SignedEvaluation::new(&core.identity, &chain.scope(), chain.next_round(), evaluation);
            self.work = Work::Evaluated(signed);
        }
    }

    /// Whether there is an update or evaluation that the present coordinator has not answered for.
    fn has_to_offer(&self, core: &Core) -> bool {
        let ready = matches!(self.work, Work::Trained(_) | Work::Evaluated(_));
        let Some(opened) = self.contest.opened() else { return false };
        let Some(opening) = &opened.opening else { return false };
        let asked = opening.closing || opening.participants.contains(&core.me);
        ready && asked && self.answered != Some(opened.ballot)
    }

    fn offer_if_due(&mut self, core: &mut Core, chain: &Chain) {
        let recently = self.offered.is_some_and(|at| core.now.since_ms(at) < RETRY_MS);
        if recently || !self.has_to_offer(core) {
            return;
        }
        let Some((ballot, coordinator)) = self.contest.opened().map(|o| (o.ballot, o.coordinator)) else { return };
        let genesis = chain.genesis();
        self.offered = Some(core.now);
        match &self.work {
            Work::Trained(c) => core.send(coordinator, Message::Offer { genesis, ballot, contribution: c.clone() }),
            Work::Evaluated(e) => core.send(coordinator, Message::Evaluated { genesis, ballot, evaluation: e.clone() }),
            _ => {}
        }
    }

    fn on_offer_answer(
        &mut self,
        core: &mut Core,
        from: NodeId,
        ballot: Ballot,
        update: Hash,
        result: Result<(), Reject>,
    ) {
        let by_coordinator = self.contest.opened().is_some_and(|o| o.coordinator == from && o.ballot == ballot);
        let ours = matches!(&self.work, Work::Trained(c) if c.update.id == update);
        // Not collecting (any more) is no answer for good: a coordinator may be about to open.
        if by_coordinator && ours && result != Err(Reject::NotCollecting) {
            self.answered = Some(ballot);
            if let Err(reject) = result {
                core.reject(from, reject);
            }
        }
    }

    /// A participant says that its update is ready.
    fn on_offer(&mut self, core: &mut Core, chain: &Chain, from: NodeId, ballot: Ballot, contribution: Contribution) {
        let update = contribution.update;
        let genesis = chain.genesis();
        let answer = |result| Message::OfferAnswer { genesis, ballot, update: update.id, result };
        let refuse = |core: &mut Core, reject| {
            core.reject(from, reject);
            core.send(from, answer(Err(reject)));
        };
        if !self.leads(ballot) {
            return refuse(
                core,
                if ballot < self.contest.ballot() { Reject::StaleBallot } else { Reject::NotCollecting },
            );
        }
        let Some(collection) = self.collection.as_mut().filter(|c| !c.closing) else {
            return refuse(core, Reject::NotCollecting);
        };
        match collection.intakes.get(&from) {
            Some((before, intake)) if before.update == update => {
                return match intake {
                    Intake::In => core.send(from, answer(Ok(()))),
                    Intake::Refused(reject) => core.send(from, answer(Err(*reject))),
                    Intake::Fetching | Intake::Folding => {}
                };
            }
            Some(_) => return refuse(core, Reject::Twice),
            None => {}
        }
        if collection.aggregating {
            return core.send(from, answer(Err(Reject::NotCollecting)));
        }
        if contribution.node != from {
            return refuse(core, Reject::BadSignature);
        }
        if let Err(reject) = chain.check_contribution(&contribution, &collection.participants) {
            return refuse(core, reject);
        }
        collection.intakes.insert(from, (contribution, Intake::Fetching));
        if core.blobs.contains(&update.id) {
            self.update_fetched(core, update.id);
        } else {
            core.fetch(update, Purpose::Update, from, chain.roster());
        }
    }

    /// An offered update is here: it is checked and folded.
    pub(crate) fn update_fetched(&mut self, core: &mut Core, blob: Hash) {
        // What comes while the average is made is not in it.
        let Some(collection) = self.collection.as_mut().filter(|c| !c.aggregating) else { return };
        for (node, (contribution, intake)) in &mut collection.intakes {
            if contribution.update.id == blob && *intake == Intake::Fetching {
                *intake = Intake::Folding;
                let (update, samples) = (contribution.update, contribution.samples);
                core.effect(Effect::Fold { ballot: collection.ballot, node: *node, update, samples });
            }
        }
    }

    pub(crate) fn fetch_failed(&mut self, core: &mut Core, chain: &Chain, blob: Hash, failure: FetchFailure) {
        if let Some(collection) = &mut self.collection {
            let concerned: Vec<NodeId> = collection
                .intakes
                .iter()
                .filter(|(_, (c, intake))| c.update.id == blob && *intake == Intake::Fetching)
                .map(|(node, _)| *node)
                .collect();
            for node in concerned {
                match failure {
                    FetchFailure::Invalid(reject) => self.settle(core, chain, node, Err(reject)),
                    // The participant offers again, if it lives.
                    FetchFailure::Unreachable | FetchFailure::Disk => {
                        self.collection.as_mut().map(|c| c.intakes.remove(&node));
                    }
                }
            }
        }
        let invalid = match failure {
            FetchFailure::Invalid(reject) => Some(reject),
            _ => None,
        };
        self.contest.fetch_failed(core, blob, invalid);
    }

    /// A fold has ended.
    pub(crate) fn folded(
        &mut self,
        core: &mut Core,
        chain: &Chain,
        ballot: Ballot,
        node: NodeId,
        result: Result<(), Reject>,
    ) {
        if self.collection.as_ref().is_some_and(|c| c.ballot == ballot) {
            match result {
                // Trouble of this node's own is not the participant's fault: it offers again.
                Err(Reject::ModelMissing | Reject::TooMany) => {
                    self.collection.as_mut().map(|c| c.intakes.remove(&node));
                }
                result => self.settle(core, chain, node, result),
            }
        }
    }

    /// An offered update is in, or refused for good.
    fn settle(&mut self, core: &mut Core, chain: &Chain, node: NodeId, result: Result<(), Reject>) {
        let Some(collection) = &mut self.collection else { return };
        let Some((contribution, intake)) = collection.intakes.get_mut(&node) else { return };
        let (ballot, update, genesis) = (collection.ballot, contribution.update.id, chain.genesis());
        *intake = match result {
            Ok(()) => Intake::In,
            Err(reject) => Intake::Refused(reject),
        };
        match result {
            Ok(()) => core.emit(Event::UpdateIn { ballot, node }),
            Err(reject) => core.reject(node, reject),
        }
        if collection.enough.is_none() && collection.count_in() >= collection.needed {
            collection.enough = Some(core.now);
        }
        core.send(node, Message::OfferAnswer { genesis, ballot, update, result });
    }

    fn on_evaluation(
        &mut self,
        core: &mut Core,
        chain: &Chain,
        from: NodeId,
        ballot: Ballot,
        signed: SignedEvaluation,
    ) {
        if !self.leads(ballot) {
            return core.reject(from, Reject::StaleBallot);
        }
        let Some(collection) = self.collection.as_mut().filter(|c| c.closing) else {
            return core.reject(from, Reject::NotCollecting);
        };
        if signed.node != from || !chain.roster().contains(from) {
            return core.reject(from, Reject::Stranger);
        }
        if !signed.evaluation.is_plausible() {
            return core.reject(from, Reject::BadMetrics);
        }
        if !signed.verifies(&chain.scope(), chain.next_round()) {
            return core.reject(from, Reject::BadSignature);
        }
        collection.evaluations.entry(from).or_insert(signed);
    }

    /// A chain without a round of its own gives way to a stronger one that was seen.
    fn yield_if_due(&mut self, core: &mut Core, chain: &Chain, yields_to: Option<Hash>) {
        if let Some(to) = yields_to
            && self.collection.as_ref().is_some_and(|c| !c.aggregating)
        {
            let record = self.record(core, chain, Kind::Yield { to }, chain.head().model, None);
            self.proposed(core, record);
        }
    }

    /// Ends the collection when nobody is missing, when those missing were waited for long enough, or when time is up.
    fn finish_if_due(&mut self, core: &mut Core, chain: &Chain, requests: &mut Requests) {
        let now = core.now;
        let Some(collection) = self.collection.as_ref().filter(|c| !c.aggregating) else { return };
        if collection.intakes.values().any(|(_, intake)| *intake == Intake::Folding) {
            return;
        }
        if collection.closing {
            let is_there = |node: &NodeId| *node == core.me || !core.peers.is_gone(*node, now);
            let missing = chain.roster().nodes().any(|n| is_there(&n) && !collection.evaluations.contains_key(&n));
            if !missing || now >= collection.ends {
                let record = self.record(core, chain, Kind::Closing, chain.head().model, Some(requests));
                self.proposed(core, record);
            }
            return;
        }
        let all_in = !collection.awaited().into_iter().any(|node| self.can_deliver(core, chain, node));
        let out_of_patience = collection.patience_ends().is_some_and(|at| now >= at);
        if collection.enough.is_some() && (all_in || out_of_patience || now >= collection.ends) {
            return self.aggregate(core, chain);
        }
        if now >= collection.ends {
            let record = self.record(core, chain, Kind::Empty, chain.head().model, Some(requests));
            return self.proposed(core, record);
        }
        self.extend(core, chain);
    }

    /// Lets the next in the order step in for participants that are gone or whose training failed.
    fn extend(&mut self, core: &mut Core, chain: &Chain) {
        let Some(collection) = &self.collection else { return };
        let wanted = chain.rules().participants_of(chain.roster().len());
        let (before, ends) = (collection.participants.len(), collection.ends);
        let participants = self.choose(core, chain, wanted, before);
        if participants.len() > before {
            if let Some(collection) = &mut self.collection {
                collection.participants.clone_from(&participants);
            }
            let remaining_ms = ends.since_ms(core.now);
            self.contest.open(core, Opening { closing: false, participants, remaining_ms });
        }
    }

    fn aggregate(&mut self, core: &mut Core, chain: &Chain) {
        let Some(collection) = &mut self.collection else { return };
        collection.aggregating = true;
        let updates = collection.contributions().map(|c| (c.node, c.update, c.samples)).collect();
        self.contest.aggregating();
        let (ballot, parent_model) = (collection.ballot, chain.head().model);
        let roster_samples = chain.samples_of_roster(collection.contributions());
        core.effect(Effect::Aggregate { ballot, parent_model, updates, roster_samples });
    }

    /// The new model is on disk, or could not be made.
    pub(crate) fn aggregated(
        &mut self,
        core: &mut Core,
        chain: &Chain,
        requests: &mut Requests,
        ballot: Ballot,
        result: Result<BlobRef, String>,
    ) {
        if !self.collection.as_ref().is_some_and(|c| c.ballot == ballot && c.aggregating) || !self.leads(ballot) {
            return;
        }
        match result {
            Ok(model) => {
                core.blobs.insert(model.id);
                let record = self.record(core, chain, Kind::Train, model, Some(requests));
                self.contest.propose(core, record);
            }
            Err(_) => self.contest.give_up(core, "the average could not be made"),
        }
    }

    fn proposed(&mut self, core: &mut Core, record: Record) {
        if let Some(collection) = &mut self.collection {
            collection.aggregating = true;
        }
        self.contest.propose(core, record);
    }

    /// The record of this round, with the roster changes that are due if `requests` are given.
    fn record(&self, core: &Core, chain: &Chain, kind: Kind, model: BlobRef, requests: Option<&Requests>) -> Record {
        let collection = self.collection.as_ref();
        let trains = matches!(kind, Kind::Train | Kind::Empty);
        let contributions = match kind {
            Kind::Train => collection.map(|c| c.contributions().cloned().collect()).unwrap_or_default(),
            _ => Vec::new(),
        };
        let evaluations = match kind {
            Kind::Closing => collection.map(|c| c.evaluations.values().cloned().collect()).unwrap_or_default(),
            _ => Vec::new(),
        };
        let votes = self.contest.opened().map(|o| o.votes.as_slice()).unwrap_or_default();
        let changes = requests.map(|r| r.due(core, chain, votes)).unwrap_or_default();
        Record {
            kind,
            round: chain.next_round(),
            attempt: self.contest.ballot().attempt,
            coordinator: core.me,
            parent: chain.head_hash(),
            model,
            participants: collection.filter(|_| trains).map(|c| c.participants.clone()).unwrap_or_default(),
            contributions,
            evaluations,
            rule: chain.rules().rule,
            joined: changes.joined,
            left: changes.left,
            evicted: changes.evicted,
            open_ms: collection.map_or(0, |c| core.now.since_ms(c.began)),
        }
    }

    /// The round is over for this node.
    pub(crate) fn end(&self, core: &mut Core) {
        if matches!(self.work, Work::Training | Work::Evaluating) {
            core.effect(Effect::StopTraining);
        }
    }
}

impl Collection {
    fn count_in(&self) -> usize {
        self.intakes.values().filter(|(_, intake)| *intake == Intake::In).count()
    }

    /// The updates that are in, by node id.
    fn contributions(&self) -> impl Iterator<Item = &Contribution> {
        self.intakes.values().filter(|(_, intake)| *intake == Intake::In).map(|(contribution, _)| contribution)
    }

    /// The participants whose updates are neither in nor refused.
    fn awaited(&self) -> Vec<NodeId> {
        let settled = |n: &NodeId| {
            self.intakes.get(n).is_some_and(|(_, intake)| matches!(intake, Intake::In | Intake::Refused(_)))
        };
        self.participants.iter().filter(|n| !settled(n)).copied().collect()
    }

    /// With enough updates in hand the others get as long again as it took to get these.
    fn patience_ends(&self) -> Option<Time> {
        self.enough.map(|at| at.plus_ms(at.since_ms(self.began).max(STRAGGLER_MS_MIN)))
    }
}
